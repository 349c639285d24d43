"""A model → a folder with ONNX graphs, in float32 or with weights of 8 bits."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .hub import SEARCH_FILES, copy_files
from .loading import ModelError, load_model
from .modeling_bilstm import BiLstmForAudioClassification
from .modeling_resnet_bigru import ResNetBiGruForCTC
from .modeling_sequence import BidirectionalGRU
from .onnx_model import CLASSIFIER_FILE, ENCODER_FILE, RECURRENCE_FILE

BATCH, FRAMES = torch.export.Dim("batch"), torch.export.Dim("frames")
ONNX_INT32 = 6  # `onnx.TensorProto.INT32`, of a package that is an extra
INT8_LEAST = 10_000  # values of a weight that is worth 8 bits; what is smaller makes no file large


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


class _BidirectionalGRU(_Bidirectional):
    def __init__(self, layer: BidirectionalGRU):
        # torch: reset, update, new; ONNX: update, reset, new
        super().__init__([(layer.forward_gru, "l0"), (layer.backward_gru, "l0")], (1, 0, 2))

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(batch, frames, input), (batch,), forward state (1, batch, hidden) → (batch, frames, 2 * hidden)"""
        states = torch.cat([state, torch.zeros_like(state)])  # the backward direction starts anew
        weights = (self.weight, self.recurrence, self.bias)
        return torch.ops.hf_speechrec.bidirectional_gru(inputs, lengths, states, *weights)


class _BidirectionalLSTM(_Bidirectional):
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


class _Classifier(nn.Module):
    """(batch, frames, mels) and mask (batch, frames) → logits (batch, labels)"""

    def __init__(self, model: BiLstmForAudioClassification):
        super().__init__()
        self.model = model
        self.lstms = nn.ModuleList(_BidirectionalLSTM(model.lstm, layer) for layer in range(model.lstm.num_layers))

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        lengths, states = attention_mask.sum(-1), input_features
        for lstm in self.lstms:
            states = lstm(states, lengths)
        return self.model.fc(self.model.pool(states, lengths))


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
    Write a model as a folder that every command, `load_recognizer` and `load_classifier` take, but which runs in
    onnxruntime: config, feature extractor, a recogniser's tokenizer, lexicon and language model, and graphs of any
    batch and length.

    A classifier is one graph. `classifier.onnx`: `input_features` (batch, frames, mels) and `attention_mask` (batch,
    frames) → `logits` (batch, labels).

    A recogniser is two, so that one set of weights serves whole utterances and streams. `encoder.onnx`:
    `input_features` and `attention_mask` → `hidden_states` (batch, frames', hidden) and `lengths` (batch,).
    `recurrence.onnx`: those two, `states` (layers, batch, hidden; zeros at the beginning) and `last`, the number of the
    frame (1,) whose states the next chunk starts from → `logits` (batch, frames', vocab), `next_states`, and of a model
    with phones `phone_logits`.

    Args:
        model: a bundled model, a folder or an id on the Hub.
        folder: where to write.
        int8: weights of 8 bits, one scale a row, are a quarter of the size. The arithmetic stays float32:
            onnxruntime has no GRU of integers.

    Returns:
        The folder.

    Raises:
        ModelError: for what is no model of ours in torch, or without the extra `onnx`.
    """
    try:
        import onnx
    except ImportError as error:
        raise ModelError(f"export needs the extra onnx: pip install 'hf_speechrec[onnx]' ({error})") from None
    network, processor = load_model(model)
    if isinstance(network, ResNetBiGruForCTC):
        graphs = _recognizer_graphs(network)
    elif isinstance(network, BiLstmForAudioClassification):
        graphs = {CLASSIFIER_FILE: _graph(_Classifier(network), _features(network.config.input_size), ["logits"])}
    else:
        raise ModelError(
            f"{model}: expected a {ResNetBiGruForCTC.__name__} or a {BiLstmForAudioClassification.__name__}, got a "
            f"{type(network).__name__}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        if int8:
            _to_int8(graph)
        onnx.save(graph, folder / name)
    network.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    copy_files(Path(str(network.name_or_path)), folder, SEARCH_FILES)
    return folder


def _recognizer_graphs(network: ResNetBiGruForCTC) -> dict[str, Any]:
    config = network.config
    inputs = {
        "hidden_states": (torch.zeros(2, 8, config.hidden_size), {0: BATCH, 1: FRAMES}),
        "lengths": (torch.tensor([8, 7]), {0: BATCH}),
        "states": (torch.zeros(config.num_hidden_layers, 2, config.hidden_size), {1: BATCH}),
        "last": (torch.tensor([3]), {}),
    }
    outputs = ["logits", "next_states", "phone_logits"][: 3 if config.phones else 2]
    return {
        ENCODER_FILE: _graph(_Encoder(network), _features(config.num_mel_bins), ["hidden_states", "lengths"]),
        RECURRENCE_FILE: _graph(_Recurrence(network), inputs, outputs),
    }


def _features(mels: int) -> dict[str, tuple[torch.Tensor, dict]]:
    """What a graph takes whose inputs are features and their mask; see `_graph`."""
    return {
        "input_features": (torch.zeros(2, 32, mels), {0: BATCH, 1: FRAMES}),
        "attention_mask": (torch.ones(2, 32, dtype=torch.long), {0: BATCH, 1: FRAMES}),
    }


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
            custom_translation_table={
                torch.ops.hf_speechrec.bidirectional_gru.default: _onnx_gru,
                torch.ops.hf_speechrec.bidirectional_lstm.default: _onnx_lstm,
            },
            verbose=False,
        )
    assert program is not None  # as it is with `dynamo`
    return program.model_proto


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
