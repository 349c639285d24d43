"""Exported models in onnxruntime, with the face of transformers models."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_bilstm import BiLstmConfig
from .configuration_resnet_bigru import ResNetBiGruConfig
from .modeling_resnet_bigru import PhoneticCTCOutput

ENCODER_FILE = "encoder.onnx"
RECURRENCE_FILE = "recurrence.onnx"
CLASSIFIER_FILE = "classifier.onnx"


class _OnnxModel(PreTrainedModel):
    """What transformers' pipelines ask of a model."""

    main_input_name = "input_features"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32


class OnnxResNetBiGruForCTC(_OnnxModel):
    """
    What `export_onnx` has written, on the CPU. It runs on as many threads as torch does, and gives what
    `ResNetBiGruForCTC` gives, for whole utterances and for streams.

    Args:
        config: the exported model's.
        folder: with its two graphs.

    Raises:
        ValueError: for a file that onnxruntime cannot read, and without the extra `onnx`.
    """

    config: ResNetBiGruConfig
    config_class = ResNetBiGruConfig

    def __init__(self, config: ResNetBiGruConfig, folder: str | PathLike):
        super().__init__(config)
        self.name_or_path = str(folder)
        self._encoder = _session(Path(folder, ENCODER_FILE))
        self._recurrence = _session(Path(folder, RECURRENCE_FILE))

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> PhoneticCTCOutput | tuple:
        """Features (batch, frames, mels) and their mask (batch, frames) → as `ResNetBiGruForCTC`."""
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long)
        hidden_states, lengths = self._encode(input_features, attention_mask)
        states = np.stack([state[0] for state in self.initial_states(len(lengths))])
        logits, _, *phones = self._recur(hidden_states, lengths, states, hidden_states.shape[1] - 1)
        output = PhoneticCTCOutput(logits=logits, phone_logits=torch.from_numpy(phones[0]) if phones else None)
        return output.to_tuple() if return_dict is False else output

    def encoder(self, input_features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `ResNetBiGruForCTC.encoder`."""
        frames = torch.arange(input_features.shape[1])
        hidden_states, encoded_lengths = self._encode(input_features, (frames < lengths[:, None]).long())
        return torch.from_numpy(hidden_states), torch.from_numpy(encoded_lengths)

    def initial_states(self, batch_size: int) -> list[torch.Tensor]:
        """As `ResNetBiGruForCTC.initial_states`."""
        return [torch.zeros(1, batch_size, self.config.hidden_size) for _ in range(self.config.num_hidden_layers)]

    def recognize_window(
        self, window: torch.Tensor, chunk_frames: int, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `ResNetBiGruForCTC.recognize_window`."""
        chunk_frames = min(chunk_frames, window.shape[1])
        before = torch.cat(states).numpy()
        logits, after, *_ = self._recur(window.numpy(), np.array([window.shape[1]]), before, chunk_frames - 1)
        return logits[0, :chunk_frames], list(torch.from_numpy(after)[:, None])

    def _encode(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> list[np.ndarray]:
        inputs = {"input_features": input_features.numpy(), "attention_mask": attention_mask.numpy()}
        return self._encoder.run(None, inputs)

    def _recur(self, hidden_states: np.ndarray, lengths: np.ndarray, states: np.ndarray, last: int) -> tuple[Any, ...]:
        """Logits, the states of the last frame, and of a model with phones their logits."""
        inputs = {"hidden_states": hidden_states, "lengths": lengths, "states": states, "last": np.array([last])}
        logits, *others = self._recurrence.run(None, inputs)
        return torch.from_numpy(logits), *others


class OnnxBiLstmForAudioClassification(_OnnxModel):
    """
    What `export_onnx` has written of a classifier, on the CPU: what `BiLstmForAudioClassification` gives, in half the
    time for a single clip.

    Args:
        config: the exported model's.
        folder: with its graph.

    Raises:
        ValueError: for a file that onnxruntime cannot read, and without the extra `onnx`.
    """

    config: BiLstmConfig
    config_class = BiLstmConfig

    def __init__(self, config: BiLstmConfig, folder: str | PathLike):
        super().__init__(config)
        self.name_or_path = str(folder)
        self._classifier = _session(Path(folder, CLASSIFIER_FILE))

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Features (batch, frames, mels) and their mask (batch, frames) → as `BiLstmForAudioClassification`."""
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long)
        inputs = {"input_features": input_features.numpy(), "attention_mask": attention_mask.numpy()}
        logits = torch.from_numpy(self._classifier.run(None, inputs)[0])
        return (logits,) if return_dict is False else SequenceClassifierOutput(logits=logits)


def _session(path: Path):
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("to run it, install the extra onnx: pip install 'hf_speechrec[onnx]'") from None
    try:
        return onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own share no other base
        raise ValueError(f"{path}: expected an exported model ({error})") from None


def session_options():
    """onnxruntime's `SessionOptions` for an exported model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Weights of 8 bits become float32 once, on loading, and not again in every run.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


__all__ = ["OnnxBiLstmForAudioClassification", "OnnxResNetBiGruForCTC"]
