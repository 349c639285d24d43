"""A bundled name, a folder or an id on the Hub → a model with what it needs, or one clear error."""

import logging
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, StrictDataclassError
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Processor,
    pipeline,
)

from .audio import first_line
from .configuration_bilstm import BiLstmConfig
from .configuration_resnet_bigru import ResNetBiGruConfig
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .modeling_bilstm import BiLstmForAudioClassification
from .modeling_resnet_bigru import ResNetBiGruForCTC
from .onnx_model import (
    CLASSIFIER_FILE,
    ENCODER_FILE,
    RECURRENCE_FILE,
    OnnxBiLstmForAudioClassification,
    OnnxModel,
    OnnxResNetBiGruForCTC,
)
from .text import TextNormalizer

logger = logging.getLogger(__name__)

CHECKPOINTS = Path(__file__).parent / "checkpoints"  # the bundled models, each an ordinary Hub folder
UNREAD = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*checkpoint-*"]
MAX_LABELS = 1_000_000  # transformers makes a name for each that a config claims, before anything can be checked
DEFAULT_RECOGNIZER = "librispeech-mini"
DEFAULT_CLASSIFIER = "speech-commands"
DEMO_RECOGNIZER = "an4"  # its words, which few recordings hold, are what anybody can say into a page
SAFE: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}  # neither pickles nor a folder's own code


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it, what was expected and what came."""


def load_model(model: str | PathLike, settings: dict[str, Any] | None = None) -> tuple[PreTrainedModel, Any]:
    """
    The network of a bundled model, a folder, or an id on the Hub, with its processor (recognisers) or feature
    extractor (classifiers). `settings` replace values of its config that change no weights, such as a dropout. Raises
    `ModelError`.
    """
    name = str(CHECKPOINTS / str(model)) if (CHECKPOINTS / str(model)).is_dir() else str(model)
    if not Path(name).is_dir() and not (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        bundled = ", ".join(sorted(path.name for path in CHECKPOINTS.glob("*") if path.is_dir()))
        raise ModelError(f"{model}: no such folder, no bundled model ({bundled}), and not an id on the Hub (user/name)")
    try:
        if not Path(name).is_dir():
            # Once, and from the cache where there is no network; without what would have to be unpickled.
            repo_id, name = name, snapshot_download(name, ignore_patterns=UNREAD)
            if not _has_weights(name):
                name = snapshot_download(repo_id, allow_patterns=[ENCODER_FILE, RECURRENCE_FILE, CLASSIFIER_FILE])
        return _load_folder(model, name, settings or {})
    except RepositoryNotFoundError as error:
        raise ModelError(f"{model}: not on the Hub, or private (`hf auth login`, or set HF_TOKEN)") from error
    except (LocalEntryNotFoundError, HTTPError) as error:
        raise ModelError(f"{model}: the Hub cannot be reached, and it is not in the cache") from error
    except StrictDataclassError as error:  # its first line does not say what is wrong, its cause does
        raise ModelError(f"{model}: not a model that can be loaded ({error.__cause__})") from error
    except Exception as error:  # what lies in a folder ends transformers in an error of any kind
        raise ModelError(f"{model}: not a model that can be loaded ({first_line(error)})") from error


def _load_folder(model: str | PathLike, folder: str, settings: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """Safetensors alone, and no code of its own: transformers would ask on a terminal whether to run it."""
    labels, _ = PreTrainedConfig.get_config_dict(folder)
    if int(labels.get("num_labels") or 0) > MAX_LABELS:
        raise ValueError(f"expected at most {MAX_LABELS} labels, got {labels['num_labels']}")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **settings)
    _warn_of_unknown_keys(model, config)
    network: PreTrainedModel
    if is_classifier(config):
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        _check_fit(config, extractor, folder)
        if Path(folder, CLASSIFIER_FILE).is_file() and not _has_weights(folder):
            return OnnxBiLstmForAudioClassification(config, folder), extractor
        network = AutoModelForAudioClassification.from_pretrained(folder, config=config, **SAFE)
        return network, extractor
    processor = Wav2Vec2Processor.from_pretrained(folder, trust_remote_code=False)
    _check_fit(config, processor.feature_extractor, folder, processor.tokenizer)
    if Path(folder, RECURRENCE_FILE).is_file() and not _has_weights(folder):
        return OnnxResNetBiGruForCTC(config, folder), processor
    network = AutoModelForCTC.from_pretrained(folder, config=config, **SAFE)
    return network, processor


def _check_fit(config, extractor, folder: str, tokenizer: Any = None) -> None:
    """
    Whether the parts of a folder with a model of ours belong together. transformers would give memory to whatever a
    config claims, draw at random what weights do not have, and the first recording would end in an error of torch's.
    """
    if not isinstance(config, ResNetBiGruConfig | BiLstmConfig):
        return
    if not isinstance(extractor, LogMelFeatureExtractor):
        raise ValueError(f"expected a LogMelFeatureExtractor, got a {type(extractor).__name__}")
    if isinstance(config, BiLstmConfig):
        sizes = {"input_size": extractor.feature_size}
    else:
        sizes = {"num_mel_bins": extractor.feature_size, "hop_length": extractor.hop_length}
        TextNormalizer(**(config.text_normalizer or {}))
        _check_tokens(config, tokenizer)
    for name, size in sizes.items():
        if getattr(config, name) != size:
            raise ValueError(f"expected {name} {size}, as the feature extractor has it, got {getattr(config, name)}")
    if _has_weights(folder):
        with torch.device("meta"):
            if isinstance(config, BiLstmConfig):
                _check_shapes(BiLstmForAudioClassification(config), folder)
            else:
                _check_shapes(ResNetBiGruForCTC(config), folder)


def _check_tokens(config: ResNetBiGruConfig, tokenizer: Any) -> None:
    for i in (*tokenizer.get_vocab().values(), tokenizer.word_delimiter_token_id):
        if not (isinstance(i, int) and 0 <= i < config.vocab_size):
            raise ValueError(f"expected tokens numbered 0 to {config.vocab_size - 1}, got {i!r}")
    if not isinstance(tokenizer.model_max_length, int | float):  # which only encoding would find out
        raise ValueError(f"expected model_max_length to be a number, got {tokenizer.model_max_length!r}")
    if tokenizer.pad_token_id != config.pad_token_id:
        raise ValueError(f"expected the blank {config.pad_token_id}, got the tokenizer's {tokenizer.pad_token_id}")


def _check_shapes(network: PreTrainedModel, folder: str) -> None:
    stored: dict[str, list[int]] = {}
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            stored |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118  no dict
    for name, tensor in network.state_dict().items():
        if stored.get(name) != list(tensor.shape):
            raise ValueError(f"expected weights {name} {list(tensor.shape)}, got {stored.get(name, 'none')}")


def _has_weights(folder: str) -> bool:
    return any(Path(folder).glob("*.safetensors"))


def _warn_of_unknown_keys(model: str | PathLike, config) -> None:
    """A key of a newer version, or a slip of the pen: transformers keeps it and says nothing."""
    known = type(config)().to_dict().keys() | {"auto_map", "id2label", "label2id", "num_labels", "dtype"}
    if unknown := sorted(config.to_dict().keys() - known):
        logger.warning("%s: its config has %s, which this version does not know", model, ", ".join(unknown))


def is_classifier(config) -> bool:
    """Whether a model gives one label an utterance, and not text."""
    names = config.architectures or []
    return config.model_type == BiLstmConfig.model_type or any(n.endswith("ForAudioClassification") for n in names)


def load_recognizer(model: str | PathLike = DEFAULT_RECOGNIZER, device: str | None = None):
    """
    A model as transformers' speech recognition pipeline.

    Args:
        model: the name of a bundled model ("an4"), a folder, or an id on the Hub.
        device: "cpu", "cuda" or "mps"; by default the best there is.

    Raises:
        ModelError: for a folder or id without a recogniser that can be loaded, or a device that is not there.
    """
    return _load_pipeline("automatic-speech-recognition", model, device)


def load_classifier(model: str | PathLike = DEFAULT_CLASSIFIER, device: str | None = None):
    """The same for a classifier: transformers' audio classification pipeline."""
    return _load_pipeline("audio-classification", model, device)


def load_pipeline(model: str | PathLike, device: str | None = None):
    """A recogniser or a classifier, whichever the model is."""
    return _load_pipeline(None, model, device)


def _load_pipeline(task: str | None, model: str | PathLike, device: str | None):
    network, processor = load_model(model)
    own = "audio-classification" if is_classifier(network.config) else "automatic-speech-recognition"
    if task not in (None, own):
        raise ModelError(f"{model}: expected a model for {task}, got one for {own}")
    parts: dict[str, Any] = {"feature_extractor": getattr(processor, "feature_extractor", processor)}
    if own == "automatic-speech-recognition":
        parts["tokenizer"] = processor.tokenizer
    if isinstance(network, OnnxModel):
        if device not in (None, "cpu"):
            raise ModelError(f"{model}: an exported model runs on the device cpu, got {device}")
        device = "cpu"
    try:
        return pipeline(own, model=network, device=device or best_device(), **parts)  # type: ignore[call-overload]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"device {device}: cannot be used here ({first_line(error)})") from None


def best_device() -> str:
    """ "cuda" or "mps" where there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
