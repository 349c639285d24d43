"""The classifier's network: plain PyTorch's files, padding, loss, initialisation, saving, transformers' pipeline."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

from hf_speechrec import BiLstmConfig, BiLstmForAudioClassification, LogMelFeatureExtractor
from hf_speechrec.audio import read_audio

SAMPLING_RATE = 16_000
MELS, HIDDEN, CLASSES, FRAMES = 6, 5, 4, 23
POOLINGS = ["mean", "max", "last"]
NAMES = {0: "yes", 1: "no", 2: "stop", 3: "unknown"}
LENGTHS = torch.tensor([FRAMES, 1, 2, 3, 22, 5, 8, 13, 21, 4, 7, 11, 18, 6, 9, 10])
MASK = (torch.arange(FRAMES) < LENGTHS[:, None]).long()


class PlainClassifier(nn.Module):
    """What somebody writes without transformers: no masks, every frame is valid."""

    def __init__(self, pooling: str = "mean", layers: int = 2, hidden: int = HIDDEN):
        super().__init__()
        self.pooling = pooling
        self.lstm = nn.LSTM(MELS, hidden, num_layers=layers, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, CLASSES)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        states, (final, _) = self.lstm(features)
        if self.pooling == "mean":
            return self.fc(states.mean(1))
        if self.pooling == "max":
            return self.fc(states.max(1).values)
        return self.fc(torch.cat([final[-2], final[-1]], dim=-1))  # the last layer's two directions


def network(**changes) -> BiLstmForAudioClassification:
    """A small network, evaluating, whose logits differ enough to be compared."""
    sizes = {"input_size": MELS, "hidden_size": HIDDEN, "id2label": NAMES, "dropout": 0.0}
    model = BiLstmForAudioClassification(BiLstmConfig(**sizes | changes)).eval()
    with torch.no_grad():
        model.fc.weight.normal_()
    return model


def features() -> torch.Tensor:
    return torch.randn(len(LENGTHS), FRAMES, MELS)


def close(first: torch.Tensor, second: torch.Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(first, second, atol=atol, rtol=0)


# Plain PyTorch's code and files


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_plain_modules_file_gives_its_logits(tmp_path, pooling, layers):
    plain, path, inputs = (
        PlainClassifier(pooling, layers, hidden=7),
        tmp_path / "speech_recognition_model.pth",
        features(),
    )
    torch.save(plain.state_dict(), path)
    model = BiLstmForAudioClassification.from_state_dict_file(path, pooling=pooling)
    assert not model.training
    config = model.config
    sizes = (config.input_size, config.hidden_size, config.num_hidden_layers, config.num_labels)
    assert sizes == (MELS, 7, layers, CLASSES)
    assert config.pooling == pooling
    assert plain(inputs).std(0).max() > 1e-3  # so that the bound means something
    close(model(inputs).logits, plain(inputs))


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_plain_module_reads_the_file_that_is_saved(tmp_path, pooling, layers):
    model, plain, inputs = (
        network(pooling=pooling, num_hidden_layers=layers),
        PlainClassifier(pooling, layers),
        features(),
    )
    model.save_state_dict_file(tmp_path / "speech_recognition_model.pth")
    state = torch.load(tmp_path / "speech_recognition_model.pth", weights_only=True)
    assert type(state) is dict
    plain.load_state_dict(state, strict=True)
    close(model(inputs).logits, plain(inputs))


def test_names_and_further_settings_are_those_given(tmp_path):
    path = tmp_path / "model.pth"
    torch.save(PlainClassifier().state_dict(), path)
    read = BiLstmForAudioClassification.from_state_dict_file
    config = read(str(path), id2label=NAMES, dropout=0.4, confidence_threshold=0.6).config
    assert config.id2label == NAMES
    assert config.label2id == {"yes": 0, "no": 1, "stop": 2, "unknown": 3}
    assert (config.dropout, config.confidence_threshold, config.pooling) == (0.4, 0.6, BiLstmConfig().pooling)
    unnamed = read(path).config
    assert unnamed.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2", 3: "LABEL_3"}
    assert unnamed.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2, "LABEL_3": 3}


@torch.no_grad()
def test_what_a_model_of_the_default_pooling_saves_is_read_back_as_it_was(tmp_path):
    model, inputs = network(), features()
    model.save_state_dict_file(tmp_path / "model.pth")
    read = BiLstmForAudioClassification.from_state_dict_file(tmp_path / "model.pth")
    assert read(inputs).logits.equal(model(inputs).logits)


def refusal(path: Path, **kwargs) -> str:
    """What is said of a bad file: one line that begins with its path."""
    with pytest.raises(ValueError, match=r"expected|not a state dict|has a tensor") as error:
        BiLstmForAudioClassification.from_state_dict_file(path, **kwargs)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", ["pickle", "new pickle", "torch", "old torch", "in a state dict"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, kind):
    target, path = tmp_path / "written", tmp_path / "model.pth"
    trap = Trap(target)
    if "pickle" in kind:
        path.write_bytes(pickle.dumps(trap, protocol=5 if kind == "new pickle" else 2))
    else:
        content = PlainClassifier().state_dict() | {"lstm.weight_ih_l0": trap} if "state" in kind else trap
        torch.save(content, path, _use_new_zipfile_serialization=kind != "old torch")
    pickle.loads(pickle.dumps(trap))  # the trap does work
    target.unlink()
    assert refusal(path) == "not a state dict that can be read safely (a plain state dict is needed)"
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "lstm.weight_hh_l0",
            torch.zeros(1).expand(4 * 10**6, 10**6),
            "expected lstm.weight_hh_l0 to be a plain tensor",
        ),
        ("fc.weight", torch.zeros(1).expand(10**12, 10), "expected fc.weight to be a plain tensor"),
        ("fc.bias", torch.zeros(CLASSES, dtype=torch.complex64), "expected fc.bias to be a plain tensor"),
        ("fc.bias", torch.zeros(CLASSES).to_sparse(), "expected fc.bias to be a plain tensor"),
    ],
)
def test_a_tensor_that_is_larger_than_its_file_or_of_another_kind_is_refused(tmp_path, name, tensor, message):
    torch.save(PlainClassifier().state_dict() | {name: tensor}, tmp_path / "model.pth")
    assert (tmp_path / "model.pth").stat().st_size < 100_000
    assert refusal(tmp_path / "model.pth").startswith(message)


def test_more_layers_than_anybody_has_are_refused(tmp_path):
    state = PlainClassifier().state_dict()
    state |= {f"lstm.weight_ih_l{i}": torch.zeros(1) for i in range(2, 101)}
    torch.save(state, tmp_path / "model.pth")
    assert refusal(tmp_path / "model.pth") == "expected at most 100 layers, got 101"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 130\n",
        b"<!DOCTYPE html>\n<html></html>\n",
        b"hello\n",
        b"accuracy 0.97\n",  # each letter is an opcode of pickle: a for append, with nothing to append to
        b"epoch,loss\n1,0.5\n",
        b"...\n",
        b"Mo",
        b"PK\x03\x04 cut short",
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    assert refusal(tmp_path / "model.pth") == "not a state dict that can be read safely (a plain state dict is needed)"


def test_a_path_that_cannot_be_read_is_refused_with_the_systems_reason(tmp_path):
    reason = refusal(tmp_path / "missing.pth")
    assert reason == "not a state dict that can be read safely (No such file or directory)"
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([torch.zeros(2)], "list"),
        (torch.zeros(2), "Tensor"),
        ({"epoch": 3, "lstm.weight_ih_l0": torch.zeros(20, 6)}, "dict"),
        ({0: torch.zeros(2)}, "dict"),
    ],
)
def test_what_is_no_state_dict_is_refused_by_its_type(tmp_path, content, kind):
    torch.save(content, tmp_path / "model.pth")
    assert refusal(tmp_path / "model.pth") == f"expected a state dict (names and tensors), got {kind}"


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in PlainClassifier().state_dict().items() if not name.startswith(names)}


def of_another_network(recurrence: nn.Module, width: int) -> dict[str, torch.Tensor]:
    return nn.ModuleDict({"lstm": recurrence, "fc": nn.Linear(width, CLASSES)}).state_dict()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (dict, "expected a tensor lstm.weight_ih_l0, got none"),
        (lambda: without("fc"), "expected a tensor fc.weight, got lstm.bias_hh_l0, "),
        (lambda: without("lstm"), "expected a tensor lstm.weight_ih_l0, got fc.bias, fc.weight"),
        (lambda: without("fc.bias"), "expected a tensor fc.bias, got none"),
        (lambda: without("lstm.weight_hh_l1_reverse"), "expected a tensor lstm.weight_hh_l1_reverse, got none"),
        (
            lambda: of_another_network(nn.LSTM(MELS, HIDDEN), HIDDEN),
            "expected fc.weight of shape (4, 10), got (4, 5)",
        ),
        (
            lambda: of_another_network(nn.LSTM(MELS, HIDDEN), 2 * HIDDEN),
            "expected a tensor lstm.bias_hh_l0_reverse, got none (of a bidirectional lstm and fc)",
        ),
        (
            lambda: of_another_network(nn.GRU(MELS, HIDDEN, bidirectional=True), 2 * HIDDEN),
            "expected lstm.bias_hh_l0 of shape (20,), got (15,)",
        ),
        (
            lambda: of_another_network(nn.LSTM(MELS, HIDDEN, bidirectional=True, bias=False), 2 * HIDDEN),
            "expected a tensor lstm.bias_hh_l0, got none",
        ),
        (
            lambda: of_another_network(nn.LSTM(MELS, HIDDEN, bidirectional=True), 3 * HIDDEN),
            "expected fc.weight of shape (4, 10), got (4, 15)",
        ),
        (
            lambda: without() | {"fc.weight": torch.zeros(40)},
            "expected fc.weight to be a matrix, got the shape (40,)",
        ),
        (lambda: without() | {"norm.weight": torch.zeros(3)}, "has a tensor norm.weight, which is no part"),
        (lambda: without() | {"lstm.weight_ih_l0": torch.zeros(20, 0)}, "lstm.weight_ih_l0"),
        (lambda: without() | {"lstm.weight_hh_l0": torch.zeros(0, 0)}, "lstm.weight_hh_l0"),
    ],
)
def test_a_state_dict_of_another_network_is_refused_by_the_tensor(tmp_path, state, said):
    torch.save(state(), tmp_path / "model.pth")
    assert said in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize("names", [{}, {0: "yes"}, NAMES | {4: "go"}])
def test_names_of_another_number_than_the_classes_are_refused(tmp_path, names):
    torch.save(PlainClassifier().state_dict(), tmp_path / "model.pth")
    said = f"fc.weight has 4 classes, expected as many names, got {len(names)}"
    assert refusal(tmp_path / "model.pth", id2label=names) == said


# Padding


@torch.no_grad()
@pytest.mark.parametrize(("pooling", "layers"), list(itertools.product(POOLINGS, (1, 2))))
def test_sixteen_utterances_give_the_same_logits_alone_and_together(pooling, layers):
    model, inputs = network(pooling=pooling, num_hidden_layers=layers), features()
    together = model(inputs, MASK).logits
    assert together.shape == (16, CLASSES)
    assert together.std(0).min() > 1e-2  # so that the bound means something
    for row, length, logits in zip(inputs, LENGTHS, together, strict=True):
        close(model(row[None, :length]).logits[0], logits, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_in_padded_features_changes_nothing(pooling, garbage):
    model, inputs = network(pooling=pooling), features()
    logits = model(inputs, MASK).logits
    assert logits.isfinite().all()
    assert model(inputs.masked_fill(MASK[..., None] == 0, garbage), MASK).logits.equal(logits)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_in_padded_features_changes_no_gradient(pooling):
    model, inputs = network(pooling=pooling).train(), features()
    gradients = []
    for garbage in (0.0, 1e3):
        model.zero_grad()
        filled = inputs.masked_fill(MASK[..., None] == 0, garbage)
        model(filled, MASK, labels=torch.arange(16) % CLASSES).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert gradients[0].abs().max() > 1e-3
    close(*gradients)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_frames_without_a_mask_are_all_valid(dtype):
    model, inputs = network(), features()
    assert model(inputs).logits.equal(model(inputs, torch.ones(16, FRAMES, dtype=dtype)).logits)


# Loss


@torch.no_grad()
def test_loss_is_the_mean_cross_entropy_of_the_labelled_utterances():
    model, inputs, labels = network(), features(), torch.arange(16) % CLASSES
    output = model(inputs, MASK, labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    some = labels.masked_fill(torch.arange(16) % 3 == 0, -100)
    expected = nn.functional.cross_entropy(output.logits[some >= 0], labels[some >= 0])
    assert not torch.isclose(expected, output.loss)
    torch.testing.assert_close(model(inputs, MASK, labels=some).loss, expected)


def test_a_batch_without_a_label_costs_nothing_and_leaves_gradients_finite():
    model = network().train()
    loss = model(features(), MASK, labels=torch.full((16,), -100)).loss
    assert loss == 0
    loss.backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


@torch.no_grad()
def test_labels_are_smoothed_in_training_only():
    model, inputs, labels = network(label_smoothing=0.2), features(), torch.arange(16) % CLASSES
    labels[::4] = -100
    logits = model(inputs).logits
    sharp, smooth = (nn.functional.cross_entropy(logits, labels, label_smoothing=share) for share in (0.0, 0.2))
    assert not torch.isclose(sharp, smooth)
    torch.testing.assert_close(model(inputs, labels=labels).loss, sharp)
    torch.testing.assert_close(model.train()(inputs, labels=labels).loss, smooth)


@pytest.mark.parametrize(("pooling", "layers"), list(itertools.product(POOLINGS, (1, 2))))
def test_every_parameter_gets_a_gradient(pooling, layers):
    model = network(pooling=pooling, num_hidden_layers=layers).train()
    model(features(), MASK, labels=torch.arange(16) % CLASSES).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_loss_stays_in_float32_under_bfloat16_autocast():
    model, inputs, labels = network().train(), features(), torch.arange(16) % CLASSES
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs, MASK, labels=labels)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits.float(), labels))
    close(output.logits.float(), model(inputs, MASK).logits, atol=0.1)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_a_tuple_is_returned_on_request():
    model, inputs, labels = network(), features(), torch.arange(16) % CLASSES
    output = model(inputs, MASK, labels=labels)
    loss, logits = model(inputs, MASK, labels=labels, return_dict=False)
    assert loss.equal(output.loss)
    assert logits.equal(output.logits)
    (logits,) = model(inputs, MASK, return_dict=False)
    assert logits.equal(output.logits)
    assert model(inputs, MASK).loss is None


# Training and evaluation


@pytest.mark.parametrize("pooling", POOLINGS)
def test_without_dropout_training_and_evaluation_agree(pooling):
    model, inputs = network(pooling=pooling), features()
    with torch.no_grad():
        evaluated = model(inputs, MASK).logits
    close(model.train()(inputs, MASK).logits, evaluated)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layers", "before_classifier", "is_random"),
    [(1, True, True), (2, True, True), (2, False, True), (1, False, False)],
)
def test_dropout_acts_between_layers_and_before_the_classifier_in_training_only(layers, before_classifier, is_random):
    model, inputs = network(num_hidden_layers=layers, dropout=0.5), features()
    assert model(inputs).logits.equal(model(inputs).logits)
    if not before_classifier:
        model.dropout.p = 0.0
    model.train()
    assert model(inputs).logits.equal(model(inputs).logits) is not is_random


# Initialisation


def test_the_forget_gate_starts_open_and_recurrent_matrices_are_orthogonal_in_each_gate():
    lstm = BiLstmForAudioClassification(BiLstmConfig(input_size=40, hidden_size=24)).lstm
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        input_gate, forget_gate, cell, output_gate = getattr(lstm, f"bias_ih_{suffix}").chunk(4)
        assert (forget_gate == 1).all()
        assert all((bias == 0).all() for bias in (input_gate, cell, output_gate, getattr(lstm, f"bias_hh_{suffix}")))
        gates = getattr(lstm, f"weight_hh_{suffix}").chunk(4)
        for gate in gates:
            close(gate @ gate.T, torch.eye(24), atol=1e-5)
        assert not gates[0].equal(gates[1])
        for gate in getattr(lstm, f"weight_ih_{suffix}").chunk(4):
            assert gate.std().item() == pytest.approx((2 / sum(gate.shape)) ** 0.5, rel=0.1)


def test_no_buffer_is_held():
    """transformers fills buffers that are not saved with garbage on loading."""
    assert list(network().buffers()) == []


# Saving, loading, transformers' pipeline


@torch.no_grad()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_auto_classes_load_what_was_saved(tmp_path, pooling):
    model, inputs = network(pooling=pooling, num_hidden_layers=3, confidence_threshold=0.5), features()
    model.save_pretrained(tmp_path)
    LogMelFeatureExtractor(feature_size=MELS).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".py"} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BiLstmConfig)
    assert (config.pooling, config.id2label, config.confidence_threshold) == (pooling, NAMES, 0.5)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), LogMelFeatureExtractor)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert isinstance(loaded, BiLstmForAudioClassification)
    assert not loaded.training
    assert loaded(inputs, MASK).logits.equal(model(inputs, MASK).logits)


@pytest.fixture(scope="module")
def clips(fixtures) -> list[np.ndarray]:
    """Somebody saying a digit, four times."""
    paths = sorted((fixtures / "fsdd").rglob("*.wav"))[:4]
    assert len(paths) == 4
    return [read_audio(path, SAMPLING_RATE) for path in paths]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_pipeline_gives_the_probabilities_of_the_labels_best_first(clips, batch_size):
    model = network(input_size=40)
    extractor = LogMelFeatureExtractor(feature_size=40, feature_mean=[-4.0] * 40, feature_std=[3.0] * 40)
    classify = pipeline("audio-classification", model=model, feature_extractor=extractor)
    with torch.no_grad():
        batch = extractor(clips, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        expected = model(**batch).logits.softmax(-1)
    assert batch["attention_mask"].min() == 0  # the clips differ in length
    results = classify(clips, top_k=None, batch_size=batch_size)
    for result, probabilities in zip(results, expected, strict=True):
        scores = [entry["score"] for entry in result]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        found = {entry["label"]: entry["score"] for entry in result}
        assert found == pytest.approx({name: probabilities[i].item() for i, name in NAMES.items()}, abs=1e-5)
    (best, second) = classify(clips[0], top_k=2)
    assert [best["label"], second["label"]] == [entry["label"] for entry in results[0][:2]]
