"""hf_speechrec: train, publish, load and demo your own speech recogniser.

Importing the package registers its model families with transformers' Auto classes: `from_pretrained` and `pipeline`
then load them without `trust_remote_code`.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC

from .configuration_resnet_bigru import ResNetBiGruConfig
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .modeling_resnet_bigru import ResNetBiGruForCTC

__version__ = "0.1.0"

AutoConfig.register(ResNetBiGruConfig.model_type, ResNetBiGruConfig)
AutoFeatureExtractor.register(ResNetBiGruConfig, LogMelFeatureExtractor)
AutoModelForCTC.register(ResNetBiGruConfig, ResNetBiGruForCTC)

__all__ = ["LogMelFeatureExtractor", "ResNetBiGruConfig", "ResNetBiGruForCTC", "__version__"]
