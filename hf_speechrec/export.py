"""A recogniser → a folder with an ONNX graph, in float32 or with weights of 8 bits."""

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
from .onnx_model import ONNX_FILE

INT8_LEAST = 10_000  # values of a weight that is worth 8 bits; what is smaller makes no file large


class _BidirectionalGRU(nn.Module):
    """
    `BidirectionalGRU` as ONNX has it: one operator for both directions, which knows the lengths of the rows.

    torch's exporter would give two operators with gathers around them, loses the dynamic number of frames in between
    (pytorch issue 191855), and has had the reset gate at the wrong place (issue 189225).
    """

    def __init__(self, layer: BidirectionalGRU):
        super().__init__()
        self.hidden_size = layer.forward_gru.hidden_size
        directions = (layer.forward_gru, layer.backward_gru)

        def stacked(kind: str) -> torch.Tensor:
            return torch.stack([_update_gate_first(getattr(gru, f"{kind}_l0").detach()) for gru in directions])

        self.register_buffer("weight", stacked("weight_ih"))  # (2, 3 * hidden, input)
        self.register_buffer("recurrence", stacked("weight_hh"))  # (2, 3 * hidden, hidden)
        self.register_buffer("bias", torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1))  # (2, 6 * hidden)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.ops.hf_speechrec.bidirectional_gru(inputs, lengths, self.weight, self.recurrence, self.bias)


def _update_gate_first(parameter: torch.Tensor) -> torch.Tensor:
    """torch has the gates in the order reset, update, new; ONNX update, reset, new."""
    reset, update, new = parameter.chunk(3)
    return torch.cat([update, reset, new])


@torch.library.custom_op("hf_speechrec::bidirectional_gru", mutates_args=())
def _bidirectional_gru(
    inputs: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor, recurrence: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    raise NotImplementedError("stands for an operator of ONNX, and is never run in torch")


@_bidirectional_gru.register_fake
def _(inputs, lengths, weight, recurrence, bias):  # noqa: ARG001  the operator's own signature
    return inputs.new_empty(*inputs.shape[:2], 2 * recurrence.shape[2])


class _Logits(nn.Module):
    """What is exported: features and mask → logits, whole utterances."""

    def __init__(self, model: ResNetBiGruForCTC):
        super().__init__()
        self.model = model

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_features, attention_mask, chunk_frames=0).logits


def export_onnx(model: str | PathLike, folder: str | PathLike, *, int8: bool = False) -> Path:
    """
    Write a recogniser as a folder that every command and `load_recognizer` take, but which runs in onnxruntime:
    `model.onnx`, config, feature extractor and tokenizer. The graph takes `input_features` (batch, frames, mels) and
    `attention_mask` (batch, frames) of any size and gives `logits` (batch, frames', vocab) of whole utterances.

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
        from onnxscript import opset20
    except ImportError as error:
        raise ModelError(f"export needs the extra onnx: pip install 'hf_speechrec[onnx]' ({error})") from None
    network, processor = load_model(model)
    if not isinstance(network, ResNetBiGruForCTC):
        raise ModelError(f"{model}: expected a {ResNetBiGruForCTC.__name__}, got a {type(network).__name__}")
    op: Any = opset20  # its types do not know what a tensor of the graph is
    size = network.config.hidden_size
    for layer in network.gru_layers:
        gru_layer = cast(Any, layer)
        gru_layer.gru = _BidirectionalGRU(gru_layer.gru)

    def onnx_gru(inputs, lengths, weight, recurrence, bias):
        frames_first = op.Transpose(inputs, perm=[1, 0, 2])
        states, _ = op.GRU(
            frames_first,
            weight,
            recurrence,
            bias,
            op.Cast(lengths, to=onnx.TensorProto.INT32),
            direction="bidirectional",
            hidden_size=size,
            linear_before_reset=1,  # as torch has it
        )
        # (frames, directions, batch, hidden) → (batch, frames, directions * hidden)
        return op.Reshape(op.Transpose(states, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))

    frames = 8 * network.config.time_reduction
    example = (torch.zeros(2, frames, network.config.num_mel_bins), torch.ones(2, frames, dtype=torch.long))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("frames")}
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            _Logits(network).eval(),
            example,
            dynamo=True,
            opset_version=20,
            input_names=["input_features", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_features": axes, "attention_mask": axes},
            custom_translation_table={torch.ops.hf_speechrec.bidirectional_gru.default: onnx_gru},
            verbose=False,
        )
    assert program is not None  # as it is with `dynamo`
    proto = program.model_proto
    if int8:
        _to_int8(proto)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, folder / ONNX_FILE)
    network.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


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
