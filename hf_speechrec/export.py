"""A model → a folder with ONNX graphs, in float32 or with weights of 8 bits."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
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
from .onnx_model import CLASSIFIER_FILE, ENCODER_FILE, RECURRENCE_FILE
from .onnx_operators import TRANSLATION, OnnxGRU, OnnxLSTM

BATCH, FRAMES = torch.export.Dim("batch"), torch.export.Dim("frames")
INT8_LEAST = 10_000  # values of a weight that is worth 8 bits; what is smaller makes no file large


class _Classifier(nn.Module):
    """(batch, frames, mels) and mask (batch, frames) → logits (batch, labels)"""

    def __init__(self, model: BiLstmForAudioClassification):
        super().__init__()
        self.model = model
        self.lstms = nn.ModuleList(OnnxLSTM(model.lstm, layer) for layer in range(model.lstm.num_layers))

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
        self.grus = nn.ModuleList(OnnxGRU(cast(Any, layer).gru) for layer in model.gru_layers)

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
        int8: weights of 8 bits, one scale a row, are a quarter of the size. A recogniser's arithmetic stays float32,
            since onnxruntime has no GRU of integers; a classifier's LSTM is computed in integers, in half the time.

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
        onnx.save(_to_int8(graph) if int8 else graph, folder / name)
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
    with torch.no_grad(), _quiet("torch.onnx"):
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            opset_version=20,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes={name: axes for name, (_, axes) in inputs.items()},
            custom_translation_table=TRANSLATION,
            verbose=False,
        )
    assert program is not None  # as it is with `dynamo`
    return program.model_proto


def _with_int8_lstms(proto):
    """
    LSTMs → onnxruntime's own, which multiplies weights and inputs of 8 bits; a graph without one stays as it is. Of the
    weights 7 bits are used: with 8 the sums of CPUs without VNNI saturate.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    if not any(node.op_type == "LSTM" for node in proto.graph.node):
        return proto
    del proto.graph.value_info[:]  # torch 2.11 writes shapes that the quantiser's own inference contradicts
    with tempfile.TemporaryDirectory() as folder, _quiet("root"):  # it recommends steps that torch's exporter has done
        quantize_dynamic(proto, Path(folder, CLASSIFIER_FILE), op_types_to_quantize=["LSTM"], reduce_range=True)
        return onnx.load(Path(folder, CLASSIFIER_FILE))


def _to_int8(proto):
    """
    A graph with 8 bits for large weights, and a scale for each of their last dimension's rows; LSTMs are computed so.
    """
    from onnx import TensorProto, helper, numpy_helper

    proto = _with_int8_lstms(proto)
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
    return proto


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """No warnings: torch's exporter speaks of torchvision, which nobody needs here, and of names that inputs share."""
    speaker = logging.getLogger(logger)
    level = speaker.level
    speaker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        speaker.setLevel(level)


__all__ = ["export_onnx"]
