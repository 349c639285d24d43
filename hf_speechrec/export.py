"""A recogniser → a folder with ONNX graphs, in float32 or with weights of 8 bits."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .loading import ModelError, load_model
from .modeling_resnet_bigru import ResNetBiGruForCTC
from .modeling_sequence import BidirectionalGRU
from .onnx_model import ENCODER_FILE, RECURRENCE_FILE
from .pronunciation import LEXICON, lexicon_of, write_lexicon

INT8_LEAST = 10_000  # values of a weight that is worth 8 bits; what is smaller makes no file large


class _BidirectionalGRU(nn.Module):
    """
    `BidirectionalGRU` as ONNX has it: one operator for both directions, which knows the lengths of the rows.

    torch's exporter would give two operators with gathers around them, loses the dynamic number of frames in between
    (pytorch issue 191855), and has had the reset gate at the wrong place (issue 189225).
    """

    def __init__(self, layer: BidirectionalGRU):
        super().__init__()
        directions = (layer.forward_gru, layer.backward_gru)

        def stacked(kind: str) -> torch.Tensor:
            return torch.stack([_update_gate_first(getattr(gru, f"{kind}_l0").detach()) for gru in directions])

        self.register_buffer("weight", stacked("weight_ih"))  # (2, 3 * hidden, input)
        self.register_buffer("recurrence", stacked("weight_hh"))  # (2, 3 * hidden, hidden)
        self.register_buffer("bias", torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1))  # (2, 6 * hidden)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(batch, frames, input), (batch,), forward state (1, batch, hidden) → (batch, frames, 2 * hidden)"""
        states = torch.cat([state, torch.zeros_like(state)])  # the backward direction starts anew
        weights = (self.weight, self.recurrence, self.bias)
        return torch.ops.hf_speechrec.bidirectional_gru(inputs, lengths, states, *weights)


def _update_gate_first(parameter: torch.Tensor) -> torch.Tensor:
    """torch has the gates in the order reset, update, new; ONNX update, reset, new."""
    reset, update, new = parameter.chunk(3)
    return torch.cat([update, reset, new])


@torch.library.custom_op("hf_speechrec::bidirectional_gru", mutates_args=())
def _bidirectional_gru(
    inputs: torch.Tensor,
    lengths: torch.Tensor,
    states: torch.Tensor,
    weight: torch.Tensor,
    recurrence: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    raise NotImplementedError("stands for an operator of ONNX, and is never run in torch")


@_bidirectional_gru.register_fake
def _(inputs, lengths, states, weight, recurrence, bias):  # noqa: ARG001  the operator's own signature
    return inputs.new_empty(*inputs.shape[:2], 2 * recurrence.shape[2])


class _Encoder(nn.Module):
    """(batch, frames, mels) and mask (batch, frames) → (batch, frames', hidden) and lengths (batch,)"""

    def __init__(self, model: ResNetBiGruForCTC):
        super().__init__()
        self.encoder = model.encoder

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor):
        return self.encoder(input_features, attention_mask.sum(-1))


class _Recurrence(nn.Module):
    """
    GRUs and classifier: (batch, frames', hidden), lengths (batch,), forward states (layers, batch, hidden) and the last
    frame of a chunk (1,) → logits (batch, frames', vocab) and the forward states at that frame.
    """

    def __init__(self, model: ResNetBiGruForCTC):
        super().__init__()
        self.model = model
        self.grus = nn.ModuleList(_BidirectionalGRU(cast(Any, layer).gru) for layer in model.gru_layers)

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor, states: torch.Tensor, last: torch.Tensor):
        size, after = states.shape[2], []
        for i, gru in enumerate(self.grus):
            layer = cast(Any, self.model.gru_layers[i])
            inputs = layer.activation(layer.layer_norm(hidden_states))
            hidden_states = gru(inputs, lengths, states[i : i + 1])
            after.append(hidden_states.index_select(1, last)[:, 0, :size])
        logits, phone_logits = self.model.classify(hidden_states, lengths)
        return (logits, torch.stack(after)) if phone_logits is None else (logits, torch.stack(after), phone_logits)


def export_onnx(model: str | PathLike, folder: str | PathLike, *, int8: bool = False) -> Path:
    """
    Write a recogniser as a folder that every command and `load_recognizer` take, but which runs in onnxruntime: config,
    feature extractor, tokenizer and two graphs of any batch and length, so that one set of weights serves whole
    utterances and streams. `encoder.onnx`: `input_features` (batch, frames, mels) and `attention_mask` (batch, frames)
    → `hidden_states` (batch, frames', hidden) and `lengths` (batch,). `recurrence.onnx`: those two, `states` (layers,
    batch, hidden; zeros at the beginning) and `last`, the number of the frame (1,) whose states the next chunk starts
    from → `logits` (batch, frames', vocab), `next_states`, and of a model with phones `phone_logits`.

    Args:
        model: a bundled model, a folder or an id on the Hub.
        folder: where to write.
        int8: weights of 8 bits, one scale a row, are a quarter of the size. The arithmetic stays float32:
            onnxruntime has no GRU of integers.

    Returns:
        The folder.

    Raises:
        ModelError: for what is not a ResNet + BiGRU recogniser, or without the extra `onnx`.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f"export needs the extra onnx: pip install 'hf_speechrec[onnx]' ({error})") from None
    network, processor = load_model(model)
    if not isinstance(network, ResNetBiGruForCTC):
        raise ModelError(f"{model}: expected a {ResNetBiGruForCTC.__name__}, got a {type(network).__name__}")
    config = network.config
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames")
    graphs = {
        ENCODER_FILE: _graph(
            _Encoder(network),
            {
                "input_features": (torch.zeros(2, 32, config.num_mel_bins), {0: batch, 1: frames}),
                "attention_mask": (torch.ones(2, 32, dtype=torch.long), {0: batch, 1: frames}),
            },
            ["hidden_states", "lengths"],
        ),
        RECURRENCE_FILE: _graph(
            _Recurrence(network),
            {
                "hidden_states": (torch.zeros(2, 8, config.hidden_size), {0: batch, 1: frames}),
                "lengths": (torch.tensor([8, 7]), {0: batch}),
                "states": (torch.zeros(config.num_hidden_layers, 2, config.hidden_size), {1: batch}),
                "last": (torch.tensor([3]), {}),
            },
            ["logits", "next_states", "phone_logits"][: 3 if config.phones else 2],
        ),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        if int8:
            _to_int8(graph)
        onnx.save(graph, folder / name)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if (lexicon := lexicon_of(network)) is not None:
        write_lexicon(lexicon, folder / LEXICON)
    return folder


def _graph(module: nn.Module, inputs: dict[str, tuple[torch.Tensor, dict]], outputs: list[str]):
    """An ONNX model of a module. `inputs`: for each of its arguments an example and its dynamic dimensions."""
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            opset_version=20,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes={name: axes for name, (_, axes) in inputs.items()},
            custom_translation_table={torch.ops.hf_speechrec.bidirectional_gru.default: _onnx_gru},
            verbose=False,
        )
    assert program is not None  # as it is with `dynamo`
    return program.model_proto


def _onnx_gru(inputs, lengths, states, weight, recurrence, bias):
    """`_bidirectional_gru` in ONNX's operators."""
    from onnx import TensorProto
    from onnxscript import opset20

    op: Any = opset20  # its types do not know what a tensor of the graph is
    frames_first = op.Transpose(inputs, perm=[1, 0, 2])
    lengths = op.Cast(lengths, to=TensorProto.INT32)
    outputs, _ = op.GRU(
        frames_first,
        weight,
        recurrence,
        bias,
        lengths,
        states,
        direction="bidirectional",
        hidden_size=recurrence.shape[2],
        linear_before_reset=1,  # as torch has it
    )
    # (frames, directions, batch, hidden) → (batch, frames, directions * hidden)
    return op.Reshape(op.Transpose(outputs, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


def _to_int8(proto) -> None:
    """Large weights of a graph → 8 bits and a scale for each of their last dimension's rows, in place."""
    from onnx import TensorProto, helper, numpy_helper

    graph, nodes = proto.graph, []
    for tensor in [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]:
        weight = numpy_helper.to_array(tensor)
        if weight.size < INT8_LEAST:
            continue
        rows = weight.reshape(-1, weight.shape[-1])
        scale = np.maximum(np.abs(rows).max(1), 1e-12).astype(np.float32) / 127
        narrow = np.round(rows / scale[:, None]).astype(np.int8)
        name = tensor.name
        parts = {"int8": narrow, "scale": scale, "shape": np.array(weight.shape, np.int64)}
        graph.initializer.remove(tensor)
        graph.initializer.extend(numpy_helper.from_array(part, f"{name}_{key}") for key, part in parts.items())
        nodes += [
            helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [f"{name}_rows"], axis=0),
            helper.make_node("Reshape", [f"{name}_rows", f"{name}_shape"], [name]),
        ]
    for node in reversed(nodes):
        graph.node.insert(0, node)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """torch's exporter speaks of torchvision, which nobody needs here, and of names that two inputs share."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


__all__ = ["export_onnx"]
