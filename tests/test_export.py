"""ONNX: the same logits and text as torch, of any length and batch, in a folder that is a model like any other."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import Wav2Vec2Processor
from typer.testing import CliRunner

from hf_speechrec import (
    BiLstmConfig,
    BiLstmForAudioClassification,
    LogMelFeatureExtractor,
    ResNetBiGruConfig,
    ResNetBiGruForCTC,
)
from hf_speechrec.cli import app
from hf_speechrec.corpora import read_corpus
from hf_speechrec.export import export_onnx
from hf_speechrec.language_model import read_weights, read_words, write_weights
from hf_speechrec.loading import ModelError, load_model, load_recognizer
from hf_speechrec.onnx_model import OnnxBiLstmForAudioClassification, OnnxResNetBiGruForCTC, session_options
from hf_speechrec.pronunciation import lexicon_of, write_lexicon
from hf_speechrec.streaming import StreamingRecognizer
from hf_speechrec.transcription import transcribe

LENGTHS = [[1], [7], [160], [3, 8, 5], [401, 33, 400, 1]]  # feature frames of the rows of a batch


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_onnx("an4", tmp_path_factory.mktemp("exported") / "float32")


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    return export_onnx("an4", tmp_path_factory.mktemp("exported") / "int8", int8=True)


def features(lengths: list[int], mels: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(*mask.shape, mels) * mask[..., None], mask


@torch.no_grad()
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_logits_are_torchs_whatever_the_length_and_the_batch(exported, lengths):
    model, _ = load_model(exported)
    reference, _ = load_model("an4")
    inputs, mask = features(lengths)
    logits = model(inputs, mask).logits
    assert logits.shape == (len(lengths), -(-max(lengths) // 4), 29)
    torch.testing.assert_close(logits, reference(inputs, mask).logits, atol=1e-4, rtol=0)
    if min(lengths) == max(lengths):
        assert model(inputs).logits.equal(logits)


def small_recognizer(tokenizer, folder, **sizes) -> ResNetBiGruForCTC:
    """Saved into a folder, with its processor."""
    sizes = {"num_mel_bins": 20, "conv_channels": 4, "num_hidden_layers": 2, "hidden_size": 8} | sizes
    model = ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=len(tokenizer), **sizes)).eval()
    model.save_pretrained(folder)
    Wav2Vec2Processor(LogMelFeatureExtractor(feature_size=20), tokenizer).save_pretrained(folder)
    return model


def assert_same_outputs(model, reference, lengths: list[int]) -> None:
    inputs, mask = features(lengths, mels=20)
    outputs, expected = model(inputs, mask), reference(inputs, mask)
    assert outputs.keys() == expected.keys()
    for name in expected:
        assert expected[name].std() > 0.01
        torch.testing.assert_close(outputs[name], expected[name], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes",
    [
        {"time_reduction": 1, "frequency_reduction": 1, "share_block_layers": True, "num_residual_blocks": 1},
        {"time_reduction": 2, "num_hidden_layers": 1, "chunk_frames": 4},
        {"phones": ["A", "B"]},
    ],
    ids=["the write-up's", "half", "phones"],
)
def test_other_sizes_are_exported_too(sizes, tokenizer, tmp_path):
    reference = small_recognizer(tokenizer, tmp_path / "torch", **sizes)
    model, _ = load_model(export_onnx(tmp_path / "torch", tmp_path / "onnx"))
    assert_same_outputs(model, reference, [9, 14])


@torch.no_grad()
def test_a_model_in_chunks_stays_one_and_keeps_what_its_search_reads(tokenizer, tmp_path):
    chunks = {"chunk_frames": 3, "lookahead_frames": 2}
    reference = small_recognizer(tokenizer, tmp_path / "torch", phones=["AH", "HH"], **chunks)
    write_lexicon({"HUH": [["HH", "AH"]]}, tmp_path / "torch" / "lexicon.txt.gz")
    arpa = gzip.compress(b"\\data\\\nngram 1=2\n\n\\1-grams:\n-0.3\tHUH\n-0.3\t</s>\n\n\\end\\\n")
    (tmp_path / "torch" / "language_model.arpa.gz").write_bytes(arpa)
    write_weights(tmp_path / "torch" / "language_model.arpa.gz", 2.0, -1.0)
    (tmp_path / "torch" / "LEXICON-LICENSE").write_text("Keep this notice.")
    folder = export_onnx(tmp_path / "torch", tmp_path / "onnx")
    model, _ = load_model(folder)
    assert lexicon_of(model) == {"HUH": [["HH", "AH"]]}
    assert read_words(folder / "language_model.arpa.gz") == ["HUH"]
    assert read_weights(folder / "language_model.arpa.gz") == {"lm_weight": 2.0, "word_score": -1.0}
    assert (folder / "LEXICON-LICENSE").read_text() == "Keep this notice."

    inputs, mask = features([40], mels=20)
    whole = reference(inputs, mask, chunk_frames=0).logits
    assert (reference(inputs, mask).logits - whole).abs().max() > 1e-3  # or this test would show nothing
    for lengths in ([40], [12], [1], [41, 9, 29, 12]):  # ends within a chunk, at its end, before the look-ahead
        assert_same_outputs(model, reference, lengths)
    for network in (model, reference):
        network.config.lookahead_frames = 0
    assert_same_outputs(model, reference, [41, 9])
    for network in (model, reference):
        network.config.chunk_frames, network.config.lookahead_frames = 100, 7
    assert_same_outputs(model, reference, [41, 9])


def test_text_is_torchs(exported, an4):
    paths = read_corpus(an4, "test")["path"]
    expected = [transcript.text for transcript in transcribe(paths, load_recognizer("an4", "cpu"))]
    recognizer = load_recognizer(exported)
    assert isinstance(recognizer.model, OnnxResNetBiGruForCTC)
    assert sum(map(bool, expected)) == len(paths)
    assert [transcript.text for transcript in transcribe(paths, recognizer)] == expected


@torch.no_grad()
def test_int8_is_a_quarter_of_the_size_and_close(int8, exported):
    sizes = [sum(path.stat().st_size for path in folder.glob("*.onnx")) for folder in (int8, exported)]
    assert sizes[0] < 0.3 * sizes[1]
    inputs, mask = features([300])
    expected = load_model("an4")[0](inputs, mask).logits
    logits = load_model(int8)[0](inputs, mask).logits
    assert 0 < (logits - expected).norm() < 0.05 * expected.norm()


def test_int8_weights_are_widened_once_and_not_in_every_run(int8, tmp_path):
    """onnxruntime writes the graph that it runs."""
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(int8 / "recurrence.onnx").graph.node}
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(int8 / "recurrence.onnx", options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert "GRU" in operators
    assert "DequantizeLinear" not in operators


def test_the_commands_take_an_exported_model(tmp_path, an4_files):
    out = tmp_path / "exported"
    result = CliRunner().invoke(app, ["export", "an4", str(out), "--int8"])
    assert result.exit_code == 0, result.stderr
    assert f"{out}" in result.stdout
    names = {path.name for path in out.iterdir()}
    assert {"encoder.onnx", "recurrence.onnx", "config.json", "processor_config.json", "vocab.json"} <= names
    assert not any(name.endswith(".safetensors") for name in names)
    expected = CliRunner().invoke(app, ["transcribe", str(an4_files[0]), "--model", "an4"]).stdout
    result = CliRunner().invoke(app, ["transcribe", str(an4_files[0]), "--model", str(out), "--format", "json"])
    assert result.exit_code == 0, result.stderr
    transcript = json.loads(result.stdout)
    assert transcript["text"] == expected.strip() != ""
    assert [word["word"] for word in transcript["words"]] == transcript["text"].split()


def test_a_stream_has_torchs_logits_and_words(exported, speech):
    pieces = np.array_split(speech, 9)
    model, processor = load_model(exported)
    stream = StreamingRecognizer(model, processor, latency=0.64)
    reference = StreamingRecognizer(load_model("an4")[0], processor, latency=0.64)
    logits, expected = (
        torch.cat([s.logits(piece, is_last=i == len(pieces) - 1) for i, piece in enumerate(pieces)])
        for s in (stream, reference)
    )
    assert len(expected) == -(-len(speech) // 640)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    texts = []
    for s in (stream, reference):
        s.reset()
        texts.append([word.word for word in s.feed(speech).words + s.flush().words])
    assert texts[0] == texts[1] != []


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_a_classifier_is_one_graph_with_torchs_logits(pooling, tmp_path):
    labels = {0: "down", 1: "off", 2: "on"}
    config = BiLstmConfig(input_size=20, hidden_size=12, pooling=pooling, id2label=labels, confidence_threshold=0.4)
    reference = BiLstmForAudioClassification(config).eval()
    torch.nn.init.normal_(reference.fc.weight)  # as drawn anew it says next to nothing
    reference.save_pretrained(tmp_path / "torch")
    LogMelFeatureExtractor(feature_size=20).save_pretrained(tmp_path / "torch")
    model, _ = load_model(export_onnx(tmp_path / "torch", tmp_path / "onnx"))
    assert isinstance(model, OnnxBiLstmForAudioClassification)
    assert (model.config.id2label, model.config.confidence_threshold) == (labels, 0.4)
    for lengths in ([1], [50], [9, 14, 3]):
        inputs, mask = features(lengths, mels=20)
        expected = reference(inputs, mask).logits
        assert expected.std() > 0.01
        torch.testing.assert_close(model(inputs, mask).logits, expected, atol=1e-5, rtol=0)
    names = {"id2label": {"0": "down", "1": "off"}, "label2id": {"down": 0, "off": 1}}
    with pytest.raises(ModelError, match=r"classifier.onnx: expected logits \(any, 2\), .*, got \(any, 3\)"):
        load_model(changed_config(tmp_path / "onnx", tmp_path / "changed", **names))


def test_classify_takes_an_exported_classifier(tmp_path, speech_commands):
    out = str(tmp_path / "exported")
    result = CliRunner().invoke(app, ["export", "speech-commands", out, "--int8"])
    assert result.exit_code == 0, result.stderr
    clips = sorted(map(str, speech_commands.glob("yes/*.opus")))
    expected, result = (CliRunner().invoke(app, ["classify", *clips, *model]) for model in ([], ["--model", out]))
    assert result.exit_code == 0, result.stderr
    labels = [[line.split("\t")[1] for line in run.stdout.splitlines()] for run in (result, expected)]
    assert labels[0] == labels[1] != []


@torch.no_grad()
def test_a_classifier_with_int8_is_computed_in_integers_and_close(tmp_path):
    folder = export_onnx("speech-commands", tmp_path / "int8", int8=True)
    operators = [node.op_type for node in onnx.load(folder / "classifier.onnx").graph.node]
    assert (operators.count("DynamicQuantizeLSTM"), operators.count("LSTM")) == (2, 0)
    assert (folder / "classifier.onnx").stat().st_size < 1.4e6  # of 5.2 MB
    reference, model = load_model("speech-commands")[0], load_model(folder)[0]
    inputs, mask = features([50, 31, 8], mels=64)
    expected, logits = reference(inputs, mask).logits, model(inputs, mask).logits
    assert 0 < (logits - expected).norm() < 0.05 * expected.norm()
    for i, length in enumerate(mask.sum(-1)):  # padding and company change nothing
        alone = model(inputs[i : i + 1, :length], mask[i : i + 1, :length]).logits[0]
        assert alone.argmax() == logits[i].argmax()
        assert (alone - logits[i]).norm() < 0.05 * expected.norm()


def test_what_is_no_model_of_ours_in_torch_is_not_exported(exported, tmp_path):
    with pytest.raises(ModelError, match=r"expected a ResNetBiGruForCTC or a BiLstm.*, got a OnnxResNetBiGruForCTC"):
        export_onnx(exported, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_graph_is_a_clear_error(exported, tmp_path):
    for path in exported.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".onnx" else content)
    with pytest.raises(ModelError, match=r"encoder.onnx: expected an exported model"):
        load_model(tmp_path)


def test_a_graph_that_does_not_do_what_it_says_is_a_clear_error(tmp_path):
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [  # as many classes as there are frames
        helper.make_node("ReduceSum", ["attention_mask"], ["classes"], keepdims=0),
        helper.make_node("Reshape", ["classes", "one"], ["last"]),
        helper.make_node("Concat", ["rest", "last"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["input_features", "sizes"], ["logits"]),
    ]
    inputs = [("input_features", types.FLOAT, [None, None, 20]), ("attention_mask", types.INT64, [None, None])]
    constants = {"one": 1, "rest": -1}
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(*given) for given in inputs],
        [helper.make_tensor_value_info("logits", types.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.array([value]), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "classifier.onnx")
    classifier = OnnxBiLstmForAudioClassification(BiLstmConfig(input_size=20, num_labels=2), tmp_path)
    assert classifier(torch.ones(1, 2, 20)).logits.shape == (20, 2)
    with pytest.raises(
        ValueError, match=r"classifier.onnx: expected logits \(any, 2\), .* config has it, got \(20, 5\)"
    ):
        classifier(torch.ones(1, 5, 20))
    with pytest.raises(ValueError, match=r"classifier.onnx: expected an exported model \(.*cannot be reshaped"):
        classifier(torch.ones(1, 7, 20), torch.ones(1, 3, dtype=torch.long))


def test_an_exported_model_runs_on_the_cpu_also_where_there_is_a_gpu(exported, speech, monkeypatch):
    monkeypatch.setattr("hf_speechrec.loading.best_device", lambda: "cuda")
    recognizer = load_recognizer(exported)
    assert recognizer.device == recognizer.model.device == torch.device("cpu")
    assert recognizer(speech)["text"]
    with pytest.raises(ModelError, match="an exported model runs on the device cpu, got cuda"):
        load_recognizer(exported, "cuda")


def changed_config(exported, folder, **changes) -> Path:
    """A copy of an exported model, whose config claims something else."""
    shutil.copytree(exported, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vocab_size": 31}, r"recurrence.onnx: expected logits \(any, any, 31\), .*, got \(any, any, 29\)"),
        ({"phones": ["A"]}, r"recurrence.onnx: expected phone_logits \(any, any, 2\), .*, got none"),
        ({"hidden_size": 8}, r"encoder.onnx: expected hidden_states \(any, any, 8\), .*, got \(any, any, 256\)"),
        ({"num_hidden_layers": 9}, r"recurrence.onnx: expected states \(9, any, 256\), .*, got \(3, any, 256\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_graphs_of_another_size_than_the_config_are_refused(exported, tmp_path, changes, line):
    with pytest.raises(ModelError, match=line):
        load_model(changed_config(exported, tmp_path / "model", **changes))


def test_samples_and_features_are_not_changed(exported):
    model, _ = load_model(exported)
    inputs, mask = features([50])
    before = inputs.clone()
    model(inputs, mask)
    assert np.array_equal(inputs, before)
