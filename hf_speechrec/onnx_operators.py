"""Bidirectional recurrent layers as ONNX has them: what torch's exporter is told to write for a GRU and an LSTM."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .modeling_sequence import BidirectionalGRU

ONNX_INT32 = 6  # `onnx.TensorProto.INT32`, of a package that is an extra


class _Bidirectional(nn.Module):
    """
    A bidirectional layer as ONNX has it: one operator for both directions, which knows the lengths of the rows.

    torch's exporter would give two operators with gathers around them, loses the dynamic number of frames in between
    (pytorch issue 191855), and has had a GRU's reset gate at the wrong place (issue 189225).

    Args:
        directions: forward and backward: a module of torch's, and the ending of its parameters' names.
        gates: torch's gates in ONNX's order.
    """

    def __init__(self, directions: Sequence[tuple[nn.RNNBase, str]], gates: Sequence[int]):
        super().__init__()

        def stacked(kind: str) -> torch.Tensor:
            parameters = [getattr(rnn, f"{kind}_{ending}").detach() for rnn, ending in directions]
            return torch.stack([torch.cat([p.chunk(len(gates))[gate] for gate in gates]) for p in parameters])

        self.register_buffer("weight", stacked("weight_ih"))  # (2, gates * hidden, input)
        self.register_buffer("recurrence", stacked("weight_hh"))  # (2, gates * hidden, hidden)
        self.register_buffer("bias", torch.cat([stacked("bias_ih"), stacked("bias_hh")], dim=1))


class OnnxGRU(_Bidirectional):
    """A bidirectional GRU of ours whose forward direction goes on from a state, as one operator."""

    def __init__(self, layer: BidirectionalGRU):
        # torch: reset, update, new; ONNX: update, reset, new
        super().__init__([(layer.forward_gru, "l0"), (layer.backward_gru, "l0")], (1, 0, 2))

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(batch, frames, input), (batch,), forward state (1, batch, hidden) → (batch, frames, 2 * hidden)"""
        states = torch.cat([state, torch.zeros_like(state)])  # the backward direction starts anew
        weights = (self.weight, self.recurrence, self.bias)
        return torch.ops.hf_speechrec.bidirectional_gru(inputs, lengths, states, *weights)


class OnnxLSTM(_Bidirectional):
    """A layer of torch's bidirectional LSTM as one operator."""

    def __init__(self, lstm: nn.LSTM, layer: int):
        # torch: input, forget, cell, output; ONNX: input, output, forget, cell
        super().__init__([(lstm, f"l{layer}"), (lstm, f"l{layer}_reverse")], (0, 3, 1, 2))

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(batch, frames, input), (batch,) → (batch, frames, 2 * hidden)"""
        weights = (self.weight, self.recurrence, self.bias)
        return torch.ops.hf_speechrec.bidirectional_lstm(inputs, lengths, *weights)


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


@torch.library.custom_op("hf_speechrec::bidirectional_lstm", mutates_args=())
def _bidirectional_lstm(
    inputs: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor, recurrence: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    raise NotImplementedError("stands for an operator of ONNX, and is never run in torch")


@_bidirectional_gru.register_fake
def _(inputs, lengths, states, weight, recurrence, bias):  # noqa: ARG001  the operator's own signature
    return inputs.new_empty(*inputs.shape[:2], 2 * recurrence.shape[2])


@_bidirectional_lstm.register_fake
def _(inputs, lengths, weight, recurrence, bias):  # noqa: ARG001  the operator's own signature
    return inputs.new_empty(*inputs.shape[:2], 2 * recurrence.shape[2])


def _onnx_gru(inputs, lengths, states, weight, recurrence, bias):
    """`_bidirectional_gru` in ONNX's operators."""
    from onnxscript import opset20

    op: Any = opset20  # its types do not know what a tensor of the graph is
    size, lengths = recurrence.shape[2], op.Cast(lengths, to=ONNX_INT32)
    outputs, _ = op.GRU(
        op.Transpose(inputs, perm=[1, 0, 2]),  # frames first
        weight,
        recurrence,
        bias,
        lengths,
        states,
        direction="bidirectional",
        hidden_size=size,
        linear_before_reset=1,  # as torch has it
    )
    return _join_directions(op, outputs)


def _onnx_lstm(inputs, lengths, weight, recurrence, bias):
    """`_bidirectional_lstm` in ONNX's operators."""
    from onnxscript import opset20

    op: Any = opset20
    size, lengths = recurrence.shape[2], op.Cast(lengths, to=ONNX_INT32)
    inputs = op.Transpose(inputs, perm=[1, 0, 2])
    outputs, *_ = op.LSTM(inputs, weight, recurrence, bias, lengths, direction="bidirectional", hidden_size=size)
    return _join_directions(op, outputs)


def _join_directions(op: Any, outputs):
    """(frames, directions, batch, hidden) → (batch, frames, directions * hidden)"""
    return op.Reshape(op.Transpose(outputs, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


TRANSLATION: dict[Any, Any] = {  # for `torch.onnx.export(custom_translation_table=...)`
    torch.ops.hf_speechrec.bidirectional_gru.default: _onnx_gru,
    torch.ops.hf_speechrec.bidirectional_lstm.default: _onnx_lstm,
}

__all__ = ["TRANSLATION", "OnnxGRU", "OnnxLSTM"]
