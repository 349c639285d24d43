"""The card: every figure with its command, nothing that was not measured, metadata that the Hub can read."""

import shutil

import pytest
from huggingface_hub import ModelCard

from hf_speechrec.evaluation_classifier import evaluate_classifier
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import CHECKPOINTS, load_classifier
from hf_speechrec.model_card import write_model_card

REPORT = {
    "wer": 0.0625,
    "cer": 0.025,
    "wer_interval": (0.05, 0.08),
    "words": 773,
    "real_time_factor": 0.0125,
    "hardware": "cpu, 2 threads, x86_64",
    "date": "2026-11-22",
    "gain_db": 0.0,
    "noise_snr_db": None,
    "command": "hf-speechrec evaluate an4 PATH --split test",
}
TEXTS = {
    "model_id": "user/name",
    "title": "A recogniser",
    "summary": "What it is.",
    "training_data": "What it heard.",
    "limits": "What it cannot do.",
    "training_command": "`hf-speechrec train`",
    "dataset": "AN4",
}


@pytest.fixture
def folder(tmp_path):
    shutil.copy(CHECKPOINTS / "an4" / "config.json", tmp_path)
    return tmp_path


def test_figures_stand_with_their_command_and_in_the_metadata(folder):
    noisy = REPORT | {"wer": 0.5, "noise_snr_db": 5.0}
    reports = {"test": REPORT, "test, noise at 5 dB": noisy}
    card = ModelCard.load(write_model_card(folder, reports=reports, license_id="apache-2.0", language="en", **TEXTS))
    assert "6.25% (95 % interval 5.00% to 8.00%)" in card.text
    assert "`hf-speechrec evaluate an4 PATH --split test`, 2026-11-22; 773 words" in card.text
    assert card.text.count("real-time factor") == 1
    assert "WER, test, noise at 5 dB | 50.00%" in card.text
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"wer": 6.25, "cer": 2.5}
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "automatic-speech-recognition"
    for text in TEXTS.values():
        assert text in card.text or text in str(card.data)


def test_what_was_not_measured_is_left_out(folder):
    card = ModelCard.load(write_model_card(folder, reports={}, **TEXTS))
    assert "Nothing has been measured yet" in card.text
    assert card.data.eval_results is None
    assert card.data.license is None
    assert "training.png" not in card.text
    assert "train_runtime" not in card.text


def test_the_bundled_model_has_its_card():
    card = ModelCard.load(CHECKPOINTS / "an4" / "README.md")
    (wer,) = [result.metric_value for result in card.data.eval_results if result.metric_type == "wer"]
    assert 0 < wer < 100
    assert "python benchmarks/an4.py" in card.text


def test_a_classifiers_card_has_its_accuracy_labels_and_command(classifier, speech_commands):
    report = evaluate_classifier(load_classifier(classifier, "cpu"), read_labelled_corpus(speech_commands, "train"))
    report["command"] = "hf-speechrec evaluate mine PATH"
    card = ModelCard.load(write_model_card(classifier, reports={"train": report}, **TEXTS))
    assert (
        "| accuracy, train | 100.00% (95 % interval 100.00% to 100.00%) | `hf-speechrec evaluate mine PATH`"
        in card.text
    )
    assert "Its labels: _silence_, no, yes." in card.text
    assert 'pipeline("audio-classification", model="user/name")' in card.text
    assert "BiLSTM classifier" in card.text
    assert card.data.pipeline_tag == "audio-classification"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"accuracy": 100.0, "f1": 100.0}
