"""Exported models in onnxruntime, with the face of transformers models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_bilstm import BiLstmConfig
from .configuration_resnet_bigru import ResNetBiGruConfig
from .modeling_resnet_bigru import BLANK_MARGIN, PhoneticCTCOutput

ENCODER_FILE = "encoder.onnx"
RECURRENCE_FILE = "recurrence.onnx"
CLASSIFIER_FILE = "classifier.onnx"

Shape = tuple[int | None, ...]  # None for a dimension of any size


class OnnxModel(PreTrainedModel):
    """What transformers' pipelines ask of a model, for exported ones; they run on the CPU."""

    main_input_name = "input_features"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @staticmethod
    def _inputs(input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> dict[str, np.ndarray]:
        """What a graph takes: features (batch, frames, mels) and their mask (batch, frames), all valid without one."""
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long)
        return {"input_features": input_features.numpy(), "attention_mask": attention_mask.numpy()}


class OnnxResNetBiGruForCTC(OnnxModel):
    """
    What `export_onnx` has written, on the CPU. It runs on as many threads as torch does, and gives what
    `ResNetBiGruForCTC` gives, for whole utterances, in chunks where its config asks for them, and for streams.

    Args:
        config: the exported model's.
        folder: with its two graphs.

    Raises:
        ValueError: for a file that onnxruntime cannot read or run, graphs that are not the config's, and without the
            extra `onnx`.
    """

    config: ResNetBiGruConfig
    config_class = ResNetBiGruConfig

    def __init__(self, config: ResNetBiGruConfig, folder: str | PathLike):
        super().__init__(config)
        self.name_or_path = str(folder)
        # Classes of each head, and which of them is the blank.
        self._heads = {"logits": (config.vocab_size, config.pad_token_id or 0)}
        if config.phones:
            self._heads["phone_logits"] = (1 + len(config.phones), 0)
        features: Shape = (None, None, config.num_mel_bins)
        hidden: Shape = (None, None, config.hidden_size)
        states: Shape = (config.num_hidden_layers, None, config.hidden_size)
        encoder: dict[str, Shape] = {"input_features": features, "hidden_states": hidden, "lengths": (None,)}
        recurrence: dict[str, Shape] = {"hidden_states": hidden, "states": states, "next_states": states}
        recurrence |= {name: (None, None, classes) for name, (classes, _) in self._heads.items()}
        self._encoder = _Graph(Path(folder, ENCODER_FILE), encoder)
        self._recurrence = _Graph(Path(folder, RECURRENCE_FILE), recurrence)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> PhoneticCTCOutput | tuple:
        """Features (batch, frames, mels) and their mask (batch, frames) → as `ResNetBiGruForCTC`."""
        hidden_states, lengths = self._encode(input_features, attention_mask)
        logits, *phone_logits = map(torch.from_numpy, self._recognize(hidden_states, lengths))
        output = PhoneticCTCOutput(logits=logits, phone_logits=phone_logits[0] if phone_logits else None)
        return output.to_tuple() if return_dict is False else output

    def _recognize(self, hidden_states: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """
        The encoder's output (batch, frames', hidden) and lengths (batch,) → logits (batch, frames', classes) of each
        head: of whole utterances, or chunk after chunk, each chunk of the rows that have not ended before it.
        """
        batch, frames = hidden_states.shape[:2]
        chunk_frames = self.config.chunk_frames or frames
        window_frames = chunk_frames + (self.config.lookahead_frames if self.config.chunk_frames else 0)
        heads = []
        for classes, blank in self._heads.values():
            heads.append(np.zeros((batch, frames, classes), np.float32))
            heads[-1][..., blank] = BLANK_MARGIN  # until a chunk says more
        states = np.stack([state[0] for state in self.initial_states(batch)])
        for start in range(0, int(lengths.max()), chunk_frames):
            end, rows = min(start + chunk_frames, frames), np.flatnonzero(lengths > start)
            window = hidden_states[rows, start : start + window_frames]
            window_lengths = (lengths[rows] - start).clip(max=window.shape[1])
            states[:, rows], *logits = self._recur(window, window_lengths, states[:, rows], end - start - 1)
            for head, outputs in zip(heads, logits, strict=True):
                head[rows, start:end] = outputs[:, : end - start]
        return heads

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
        after, logits, *_ = self._recur(window.numpy(), np.array([window.shape[1]]), before, chunk_frames - 1)
        return torch.from_numpy(logits[0, :chunk_frames]), list(torch.from_numpy(after)[:, None])

    def _encode(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> list[np.ndarray]:
        return self._encoder.run(["hidden_states", "lengths"], self._inputs(input_features, attention_mask))

    def _recur(self, hidden_states: np.ndarray, lengths: np.ndarray, states: np.ndarray, last: int) -> list[np.ndarray]:
        """The states of the last frame, and the logits of each head."""
        inputs = {"hidden_states": hidden_states, "lengths": lengths, "states": states, "last": np.array([last])}
        return self._recurrence.run(["next_states", *self._heads], inputs)


class OnnxBiLstmForAudioClassification(OnnxModel):
    """
    What `export_onnx` has written of a classifier, on the CPU: what `BiLstmForAudioClassification` gives, in half the
    time for a single clip.

    Args:
        config: the exported model's.
        folder: with its graph.

    Raises:
        ValueError: for a file that onnxruntime cannot read or run, a graph that is not the config's, and without the
            extra `onnx`.
    """

    config: BiLstmConfig
    config_class = BiLstmConfig

    def __init__(self, config: BiLstmConfig, folder: str | PathLike):
        super().__init__(config)
        self.name_or_path = str(folder)
        self._classifier = _Graph(
            Path(folder, CLASSIFIER_FILE),
            {"input_features": (None, None, config.input_size), "logits": (None, config.num_labels)},
        )

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Features (batch, frames, mels) and their mask (batch, frames) → as `BiLstmForAudioClassification`."""
        outputs = self._classifier.run(["logits"], self._inputs(input_features, attention_mask))
        logits = torch.from_numpy(outputs[0])
        return (logits,) if return_dict is False else SequenceClassifierOutput(logits=logits)


class _Graph:
    """A graph in onnxruntime, whose inputs and outputs have the shapes that the config wants of them."""

    def __init__(self, path: Path, shapes: dict[str, Shape]):
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("to run it, install the extra onnx: pip install 'hf_speechrec[onnx]'") from None
        self._path, self._shapes = path, shapes
        onnxruntime.disable_telemetry_events()  # what its users do is nobody else's business
        with self._errors_named():
            self._session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
        stored = {node.name: node.shape for node in [*self._session.get_inputs(), *self._session.get_outputs()]}
        for name in shapes:
            self._check(name, stored.get(name, ()))

    def run(self, outputs: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of those names. Raises `ValueError` where it cannot be run, or gives what it does not say."""
        with self._errors_named():
            arrays = self._session.run(outputs, inputs)
        for name, array in zip(outputs, arrays, strict=True):
            self._check(name, array.shape)
        return arrays

    def _check(self, name: str, got: Sequence[int | str | None]) -> None:
        wanted = self._shapes[name]
        if len(got) != len(wanted) or any(size not in (None, own) for size, own in zip(wanted, got, strict=True)):
            came = _written(got) if got else "none"
            raise ValueError(f"{self._path}: expected {name} {_written(wanted)}, as the config has it, got {came}")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's own share no other base
            reason = " ".join(str(error).split())
            raise ValueError(f"{self._path}: expected an exported model ({reason})") from None


def _written(shape: Sequence[int | str | None]) -> str:
    """A shape for people: (any, any, 29)."""
    return f"({', '.join(str(size) if isinstance(size, int) else 'any' for size in shape)})"


def session_options():
    """onnxruntime's `SessionOptions` for an exported model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Weights of 8 bits become float32 once, on loading, and not again in every run.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


__all__ = ["OnnxBiLstmForAudioClassification", "OnnxModel", "OnnxResNetBiGruForCTC"]
