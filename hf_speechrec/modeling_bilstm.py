"""BiLSTM classifier: one label an utterance.

This file travels to the Hub beside the weights: it may import torch, transformers and numpy only.
"""

import re
import warnings
from os import PathLike
from typing import cast

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_bilstm import MAX_LAYERS, BiLstmConfig
from .modeling_sequence import lengths_from_mask, mask_from_lengths, reverse_by_length


class BiLstmForAudioClassification(PreTrainedModel):
    """Classifier of utterances: log-mel frames to one label. See [`BiLstmConfig`]."""

    config: BiLstmConfig
    config_class = BiLstmConfig
    base_model_prefix = "bilstm"
    main_input_name = "input_features"

    def __init__(self, config: BiLstmConfig):
        super().__init__(config)
        self.lstm = nn.LSTM(
            config.input_size,
            config.hidden_size,
            num_layers=config.num_hidden_layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(2 * config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """transformers' own leaves LSTMs alone."""
        if not isinstance(module, nn.LSTM):
            super()._init_weights(module)
            return
        for name, parameter in module.named_parameters():
            if "bias_hh" in name:
                init.zeros_(parameter)
            elif "bias_ih" in name:
                init.zeros_(parameter)
                # The gates of torch's LSTM are input, forget, cell, output: it should remember at first
                # (Jozefowicz et al., 2015, "An empirical exploration of recurrent network architectures").
                init.ones_(parameter.chunk(4)[1])
            else:
                for gate in parameter.chunk(4):
                    (init.xavier_uniform_ if "_ih_" in name else init.orthogonal_)(gate)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """
        Args:
            input_features: log-mel frames (batch, frames, mels).
            attention_mask: 1 for valid frames, 0 for padding (batch, frames); all are valid without it.
            labels: class of each utterance (batch,); -100 is left out of the loss.

        Returns:
            `logits` (batch, num_labels), and `loss` where labels are given: cross entropy.
        """
        lengths = lengths_from_mask(attention_mask, input_features)
        logits = self.fc(self.dropout(self.pool(self._recur(input_features, lengths), lengths)))
        loss = None if labels is None else self._cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _recur(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The LSTM over valid frames only: (batch, frames, input_size) → (batch, frames, 2 * hidden_size)."""
        lstm = self.lstm
        if inputs.device.type != "cpu":
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=inputs.shape[1])[0]
        # On a CPU a packed LSTM takes four times as long as a padded one: each direction by itself, the backward one
        # over rows that are turned round by their own length.
        state = inputs.new_zeros(1, len(inputs), lstm.hidden_size)
        for layer in range(lstm.num_layers):
            if layer > 0:
                inputs = nn.functional.dropout(inputs, lstm.dropout, self.training)
            directions = []
            for suffix in ("", "_reverse"):
                weights = [
                    getattr(lstm, f"{name}_l{layer}{suffix}")
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                ]
                frames = reverse_by_length(inputs, lengths) if suffix else inputs
                # In float32 under autocast, too: not every CPU has an LSTM of half precision.
                with torch.autocast("cpu", enabled=False):
                    states, _, _ = torch.lstm(
                        frames, (state, state), weights, True, 1, 0.0, self.training, False, True
                    )  # with biases, one layer, no dropout, …, one direction, batch first
                directions.append(reverse_by_length(states, lengths) if suffix else states)
            inputs = torch.cat(directions, dim=-1)
        return inputs

    def pool(self, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The frames of each utterance as one vector: (batch, frames, 2 * hidden_size) → (batch, 2 * hidden_size)."""
        padding = ~mask_from_lengths(lengths, states.shape[1])[..., None]
        if self.config.pooling == "mean":
            return states.masked_fill(padding, 0.0).sum(1) / lengths[:, None]
        if self.config.pooling == "max":
            return states.masked_fill(padding, -torch.inf).amax(1)
        forward, backward = states.chunk(2, dim=-1)
        not_last = torch.arange(states.shape[1], device=states.device) != lengths[:, None] - 1
        last = forward.masked_fill(not_last[..., None], 0.0).sum(1)  # indexing would fix the sizes of an exported graph
        return torch.cat([last, backward[:, 0]], dim=-1)

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = nn.functional.cross_entropy(
            logits.float(),
            labels,
            reduction="sum",
            label_smoothing=self.config.label_smoothing if self.training else 0.0,
        )
        return total / (labels >= 0).sum().clamp(min=1)  # a batch of nothing usable is no NaN

    @classmethod
    def from_state_dict_file(
        cls,
        path: str | PathLike,
        id2label: dict[int, str] | None = None,
        pooling: str = BiLstmConfig.pooling,
        **kwargs,
    ) -> "BiLstmForAudioClassification":
        """
        Read a `speech_recognition_model.pth`: the state dict of a module of `lstm` (a bidirectional `nn.LSTM`) and
        `fc` (an `nn.Linear` on both directions), as plain PyTorch writes it. All sizes are taken from the tensors.

        Args:
            path: the file.
            id2label: names of the classes.
            pooling: what the module did between `lstm` and `fc`: "mean", "max" or "last". The tensors do not tell; by
                default what [`BiLstmConfig`] does.
            **kwargs: further arguments of [`BiLstmConfig`].

        Raises:
            ValueError: for a file that is not a state dict, or one of another architecture (the tensor is named).
        """
        state = _read_state_dict(path)
        for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc.weight"):
            if name not in state:
                raise ValueError(f"{path}: expected a tensor {name}, got {', '.join(sorted(state)[:8]) or 'none'}")
            if state[name].ndim != 2 or not state[name].numel():
                raise ValueError(f"{path}: expected {name} to be a matrix, got the shape {tuple(state[name].shape)}")
        classes = state["fc.weight"].shape[0]
        if id2label is not None and len(id2label) != classes:
            raise ValueError(f"{path}: fc.weight has {classes} classes, expected as many names, got {len(id2label)}")
        layers = sum(bool(re.fullmatch(r"lstm\.weight_ih_l\d+", name)) for name in state)
        if layers > MAX_LAYERS:
            raise ValueError(f"{path}: expected at most {MAX_LAYERS} layers, got {layers}")
        id2label = id2label or {i: f"LABEL_{i}" for i in range(classes)}
        config = BiLstmConfig(
            input_size=state["lstm.weight_ih_l0"].shape[1],
            hidden_size=state["lstm.weight_hh_l0"].shape[1],
            num_hidden_layers=layers,
            id2label=id2label,
            label2id={name: i for i, name in id2label.items()},
            pooling=pooling,
            **kwargs,
        )
        with torch.device("meta"):  # no memory before the shapes are known to fit
            model = cls(config)
        expected = model.state_dict()
        for name in sorted(expected.keys() | state.keys()):
            if name not in state:
                raise ValueError(f"{path}: expected a tensor {name}, got none (of a bidirectional lstm and fc)")
            if name not in expected:
                raise ValueError(f"{path}: has a tensor {name}, which is no part of a bidirectional lstm and fc")
            if state[name].shape != expected[name].shape:
                raise ValueError(
                    f"{path}: expected {name} of shape {tuple(expected[name].shape)}, got {tuple(state[name].shape)}"
                )
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
        return model.eval()

    def save_state_dict_file(self, path: str | PathLike) -> None:
        """Write the weights as a plain PyTorch state dict of `lstm.*` and `fc.*`, for code without transformers."""
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in self.state_dict().items()}, path)


def _read_state_dict(path: str | PathLike) -> dict[str, torch.Tensor]:
    """Names and tensors of a file of torch's, without unpickling anything else. Raises `ValueError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind end torch's reader in an error of any kind
        # torch's own message recommends to load a pickle that it has just refused.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "a plain state dict is needed"
        raise ValueError(f"{path}: not a state dict that can be read safely ({reason})") from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise ValueError(f"{path}: expected a state dict (names and tensors), got {type(state).__name__}")
    for name, tensor in state.items():
        is_plain = tensor.layout == torch.strided and tensor.is_floating_point()
        # Strides can make a matrix of any size of a single number.
        if not is_plain or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: expected {name} to be a plain tensor of floats, got {tensor.dtype}")
    return state


__all__ = ["BiLstmForAudioClassification"]
