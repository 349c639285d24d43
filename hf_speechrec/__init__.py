"""hf_speechrec: train, publish, load and demo your own speech recogniser.

Importing the package registers its model families with transformers' Auto classes: `from_pretrained` and `pipeline`
then load them without `trust_remote_code`, and `save_pretrained` writes the code that others need who do not have the
package.
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
# Written into the config's `auto_map`, with the classes' files beside the weights.
for _class in (BiLstmConfig, ResNetBiGruConfig, LogMelFeatureExtractor):
    _class.register_for_auto_class()
BiLstmForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
ResNetBiGruForCTC.register_for_auto_class("AutoModelForCTC")


def _push_to_hub(self, repo_id: str, **options) -> str:
    """transformers' own uploads weights and code; this one the whole repository. See `hf_speechrec.hub.push_model`."""
    from .hub import push_model

    return push_model(self, repo_id, **options)


# The files that travel cannot import the module themselves.
for _model_class in (BiLstmForAudioClassification, ResNetBiGruForCTC):
    setattr(_model_class, "push_to_hub", _push_to_hub)  # noqa: B010

__all__ = [
    "BiLstmConfig",
    "BiLstmForAudioClassification",
    "LogMelFeatureExtractor",
    "ResNetBiGruConfig",
    "ResNetBiGruForCTC",
    "__version__",
]
