"""hf_speechrec: train, publish, load and demo your own speech recogniser.

Importing the package registers its model families with transformers' Auto classes: `from_pretrained` and `pipeline`
then load them without `trust_remote_code`.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, AutoModelForCTC

from .configuration_bilstm import BiLstmConfig
from .configuration_resnet_bigru import ResNetBiGruConfig
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .modeling_bilstm import BiLstmForAudioClassification
from .modeling_resnet_bigru import ResNetBiGruForCTC

__version__ = "0.1.0"

for _config in (BiLstmConfig, ResNetBiGruConfig):
    AutoConfig.register(_config.model_type, _config)
    AutoFeatureExtractor.register(_config, LogMelFeatureExtractor)
AutoModelForAudioClassification.register(BiLstmConfig, BiLstmForAudioClassification)
AutoModelForCTC.register(ResNetBiGruConfig, ResNetBiGruForCTC)

__all__ = [
    "BiLstmConfig",
    "BiLstmForAudioClassification",
    "LogMelFeatureExtractor",
    "ResNetBiGruConfig",
    "ResNetBiGruForCTC",
    "__version__",
]
