"""Training classifiers: what they start from, what they leave, and that they learn."""

import json
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import PNG, TINY_CLASSIFIER, assert_same_weights, tiny_recipe, weights
from transformers import AutoModelForAudioClassification

from hf_speechrec import BiLstmConfig, BiLstmForAudioClassification
from hf_speechrec.classification import classify
from hf_speechrec.corpus_rows import CorpusError, split_held_out
from hf_speechrec.evaluation_classifier import choose_threshold
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier
from hf_speechrec.model_card import read_facts
from hf_speechrec.recipe import Recipe
from hf_speechrec.training import train
from hf_speechrec.training_classifier import _choose_and_plot, _trainer_metrics, replace_labels, with_known_labels


def recipe(corpus, folder, **changes):
    return tiny_recipe(corpus, folder, **{"task": "classification"} | changes)


def test_with_speakers_held_out_the_folder_has_threshold_matrix_and_results(speech_commands, tmp_path):
    changes = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "max_steps": 8}
    folder = train(recipe(speech_commands, tmp_path / "run", held_out=0.3, learning_rate=1e-2, **changes), device="cpu")
    results = json.loads((folder / "all_results.json").read_text())
    assert {"eval_accuracy", "eval_macro_f1", "train_utterances", "seed"} <= results.keys()
    for name in ("confusion_matrix.png", "training.png"):
        assert (folder / name).read_bytes().startswith(PNG)
    config = json.loads((folder / "config.json").read_text())
    assert set(config["label2id"]) == {"_silence_", "no", "yes"}
    state = json.loads((folder / "trainer_state.json").read_text())
    accuracies = [entry["eval_accuracy"] for entry in state["log_history"] if "eval_accuracy" in entry]
    assert state["best_metric"] == max(accuracies)


def test_the_confidence_threshold_is_that_of_the_answers_on_the_held_out_part(classifier, speech_commands, tmp_path):
    changes = {"model": {}, "features": {}, "learning_rate": 0.0, "max_steps": 1, "held_out": 0.3}
    folder = train(recipe(speech_commands, tmp_path, model_name_or_path=str(classifier), **changes), device="cpu")
    held = split_held_out(read(speech_commands), 0.3, seed=42)[1]  # transformers' default
    config = json.loads((folder / "config.json").read_text())
    answers = list(classify(held["path"], load_classifier(folder, "cpu"), top_k=None))
    assert [answer.labels[0]["label"] for answer in answers] == list(held["label"])  # learnt by heart
    scores = [{item["label"]: item["score"] for item in answer.labels} for answer in answers]
    probabilities = np.array([[score[name] for name in config["label2id"]] for score in scores])
    labels = np.array([config["label2id"][label] for label in held["label"]])
    assert config["confidence_threshold"] == pytest.approx(choose_threshold(labels, probabilities), abs=2e-4)


def test_a_bundled_model_keeps_its_name_where_a_folder_has_it_too(speech_commands, tmp_path, monkeypatch):
    (tmp_path / "speech-commands").mkdir()
    monkeypatch.chdir(tmp_path)
    start = {"model_name_or_path": "speech-commands", "model": {}, "features": {}}
    folder = train(recipe(speech_commands, tmp_path / "run", max_steps=1, **start), device="cpu")
    assert read_facts(folder)["training"]["started_from"] == "speech-commands"


def prediction(labels):
    """An evaluation of three clips, of which the first two are heard as class 0 and the third as class 1."""
    return SimpleNamespace(label_ids=np.array(labels), predictions=np.array([[3.0, 0.0], [2.0, 0.0], [0.0, 4.0]]))


def test_clips_that_could_not_be_read_do_not_count():
    assert _trainer_metrics(prediction([0, 0, -100])) == {"accuracy": 1, "macro_f1": 1}
    assert _trainer_metrics(prediction([0, 1, -100]))["accuracy"] == 0.5
    with pytest.raises(ValueError, match="expected held-out clips that can be read, none of 3 could be"):
        _trainer_metrics(prediction([-100] * 3))


@pytest.mark.parametrize(("labels", "threshold"), [([1, 1, 0], None), ([0, 1, -100], 0.9526)])  # e³ / (e³ + 1)
def test_without_a_right_answer_there_is_no_threshold_and_a_line_says_so(tmp_path, caplog, labels, threshold):
    config = BiLstmConfig(id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    trainer = SimpleNamespace(
        predict=lambda _: prediction(labels),
        model=SimpleNamespace(config=config),
        is_world_process_zero=lambda: True,
    )
    caplog.set_level(logging.INFO, logger="hf_speechrec")
    _choose_and_plot(trainer, None, tmp_path)
    assert config.confidence_threshold == threshold
    (message,) = caplog.messages
    assert message == (
        "No confidence threshold: not one answer on the held-out part is right"
        if threshold is None
        else "Confidence threshold, chosen on the held-out part: 0.953"
    )
    assert (tmp_path / "confusion_matrix.png").read_bytes().startswith(PNG)


def test_the_same_seed_gives_the_same_weights(speech_commands, tmp_path):
    folders = [train(recipe(speech_commands, tmp_path / name), device="cpu") for name in "ab"]
    assert_same_weights(*folders)
    other = train(recipe(speech_commands, tmp_path / "c", seed=7), device="cpu")
    assert not weights(other)["fc.weight"].equal(weights(folders[0])["fc.weight"])


def test_training_on_from_a_checkpoint_with_the_same_labels_keeps_its_weights(classifier, speech_commands, tmp_path):
    folder = train(
        recipe(speech_commands, tmp_path, model_name_or_path=str(classifier), model={}, features={}, learning_rate=0.0),
        device="cpu",
    )
    assert_same_weights(folder, classifier)


def test_other_labels_get_a_new_head_with_a_notice(classifier, speech_commands, tmp_path, caplog):
    rows = [(row["path"], {"_silence_": "quiet"}.get(row["label"], row["label"])) for row in read(speech_commands)]
    (tmp_path / "clips.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    changes = {"model": {}, "features": {}, "train_split": None, "learning_rate": 0.0}
    folder = train(
        recipe(tmp_path / "clips.csv", tmp_path / "run", model_name_or_path=str(classifier), **changes), device="cpu"
    )
    assert "The head is new: 3 labels, of which 2 keep the checkpoint's weights and 1 are initialised" in caplog.text
    model = AutoModelForAudioClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "no", 1: "quiet", 2: "yes"}
    old = weights(classifier)["fc.weight"]  # _silence_, no, yes
    assert weights(folder)["fc.weight"][0].equal(old[1])
    assert weights(folder)["fc.weight"][2].equal(old[2])
    assert not weights(folder)["fc.weight"][1].equal(old[0])
    assert weights(folder)["lstm.weight_hh_l0"].equal(weights(classifier)["lstm.weight_hh_l0"])


def test_training_starts_from_a_plain_pytorch_file(speech_commands, tmp_path, caplog):
    model = BiLstmForAudioClassification(BiLstmConfig(input_size=20, num_labels=7, **TINY_CLASSIFIER))
    model.save_state_dict_file(tmp_path / "speech_recognition_model.pth")
    changes = {"model_name_or_path": str(tmp_path / "speech_recognition_model.pth"), "learning_rate": 0.0}
    folder = train(recipe(speech_commands, tmp_path / "run", model={"pooling": "last"}, **changes), device="cpu")
    assert weights(folder)["lstm.weight_ih_l0"].equal(model.lstm.weight_ih_l0)
    assert json.loads((folder / "config.json").read_text())["pooling"] == "last"
    assert "The head is new: 3 labels" in caplog.text
    with pytest.raises(ValueError, match=r"takes 20 features a frame, the recipe's features\.feature_size is 30"):
        train(recipe(speech_commands, tmp_path, model={}, features={"feature_size": 30}, **changes), device="cpu")


def test_a_plain_file_with_as_many_classes_as_labels_keeps_its_head(speech_commands, tmp_path, caplog):
    file = tmp_path / "model.pth"
    model = BiLstmForAudioClassification(BiLstmConfig(input_size=20, num_labels=3, **TINY_CLASSIFIER))
    model.save_state_dict_file(file)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "dropout": 0.3, "pooling": "mean"}
    changes = {"model_name_or_path": str(file), "learning_rate": 0.0, "model": sizes}
    folder = train(recipe(speech_commands, tmp_path / "run", **changes), device="cpu")
    assert {
        name: weight for name, weight in weights(folder).items() if not weight.equal(model.state_dict()[name])
    } == {}
    config = AutoModelForAudioClassification.from_pretrained(folder).config
    assert (config.hidden_size, config.dropout, config.pooling) == (16, 0.3, "mean")
    assert config.id2label == {0: "_silence_", 1: "no", 2: "yes"}
    assert config.label2id == {"_silence_": 0, "no": 1, "yes": 2}
    assert f"{file}: its own hidden_size stand, the recipe's do not apply" in caplog.messages
    taken = "its classes have no names, and are taken in alphabetical order: 0 for '_silence_', 1 for 'no', 2 for 'yes'"
    assert f"{file}: {taken}" in caplog.messages
    assert "The head is new" not in caplog.text


def read(corpus):
    return read_labelled_corpus(corpus, "train")


def test_labels_that_were_not_trained_on_are_left_out_and_named(speech_commands, caplog):
    corpus = read(speech_commands)
    kept = with_known_labels(corpus, ["yes", "no"], "the held-out part")
    assert set(kept["label"]) == {"yes", "no"}
    assert "the held-out part: left out 3 of 9 rows" in caplog.text
    assert "'_silence_' is none of the model's 2" in caplog.text
    with pytest.raises(ValueError, match="not one row has a label of the model"):
        with_known_labels(corpus, ["up"], "the held-out part")


def test_one_label_alone_is_an_error(speech_commands, tmp_path):
    (tmp_path / "clips.csv").write_text("path,label\n" + "".join(f"{row['path']},x\n" for row in read(speech_commands)))
    with pytest.raises(ValueError, match="expected at least two labels to tell apart, got x"):
        train(recipe(tmp_path / "clips.csv", tmp_path / "run", train_split=None), device="cpu")


def test_excluded_speakers_are_neither_trained_on_nor_chosen_by(fixtures, tmp_path):
    changes = {"train_split": None, "exclude_speakers": ["george", "theo"], "augmentation": None}
    folder = train(recipe(fixtures / "fsdd", tmp_path, **changes), device="cpu")
    assert json.loads((folder / "all_results.json").read_text())["train_utterances"] == 4  # jackson's
    with pytest.raises(CorpusError, match="not one utterance of the wanted speakers"):
        train(recipe(fixtures / "fsdd", tmp_path, **changes | {"exclude_speakers": ["george", "theo", "jackson"]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocabulary": "char"}, "a vocabulary, a lexicon and a normalizer are for recognisers"),
        ({"normalizer": {"case": "upper"}}, "a vocabulary, a lexicon and a normalizer are for recognisers"),
        ({"model": {"conv_channels": 4}}, "the section model has no conv_channels"),
        ({"model": {"pooling": "median"}}, "expected pooling to be 'mean', 'max' or 'last', got 'median'"),
    ],
)
def test_what_no_classifier_has_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe(corpus="x", task="classification", **values)


def test_a_new_head_forgets_the_threshold_of_the_old():
    model = BiLstmForAudioClassification(BiLstmConfig(input_size=4, confidence_threshold=0.5, **TINY_CLASSIFIER))
    replace_labels(model, {0: "a", 1: "b", 2: "c"})
    assert model.config.confidence_threshold is None
    assert model.config.num_labels == 3
    assert model(torch.zeros(1, 5, 4)).logits.shape == (1, 3)


def test_the_plain_pytorch_loop_of_the_readme_learns(repository, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "optim.Adam" in block]
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 30
    file = tmp_path / "speech_recognition_model.pth"
    code = "import torch\ntorch.set_num_threads(1)\ntorch.manual_seed(0)\n" + code.replace(
        '"speech_recognition_model.pth"', repr(str(file))
    )
    reading = "model = BiLstmForAudioClassification.from_state_dict_file"
    assert code.count(reading) == 1
    code = code.replace(reading, f"trained = model\n{reading}")
    code += """
import json
model.eval()
with torch.no_grad():
    for batch in test_loader:
        assert model(**batch).logits.equal(trained(**batch).logits)
with torch.no_grad():
    learnt = sum((model(**batch).logits.argmax(-1) == batch["labels"]).sum().item() for batch in train_loader)
print(json.dumps([model.config.id2label, learnt, right]))"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False, timeout=240
    )
    assert result.returncode == 0, result.stderr
    names, learnt, right = json.loads(result.stdout.splitlines()[-1])
    assert names == {"0": "_silence_", "1": "no", "2": "yes"}
    assert learnt == 9  # chance is 3; the file is read back, so that this is also of what was saved
    assert f"accuracy on 6 clips: {right / 6:.0%}" in result.stdout  # nine clips teach too little to ask more of it
    assert set(torch.load(file, weights_only=True)) == set(
        BiLstmForAudioClassification(BiLstmConfig(num_labels=3)).state_dict()
    )
