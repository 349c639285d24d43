"""Figures of a classifier: checked by hand on small examples, and on real clips."""

import numpy as np
import pytest
from small_runs import PNG

from hf_speechrec import BiLstmConfig
from hf_speechrec.classification import classify
from hf_speechrec.evaluation_classifier import (
    choose_threshold,
    classification_rates,
    evaluate_classifier,
    expected_calibration_error,
    format_classification_report,
    label_names,
    plot_confusion_matrix,
    softmax,
)
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier


def test_labels_come_in_the_order_of_their_ids(tmp_path):
    names = [f"label {i}" for i in range(12)]
    config = BiLstmConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    config.save_pretrained(tmp_path)
    assert label_names(BiLstmConfig.from_pretrained(tmp_path)) == names


def test_accuracy_and_macro_f1_by_hand():
    # Of a: precision 2/3, recall 2/2, F1 0.8. Of b: precision 1/1, recall 1/2, F1 2/3.
    rates = classification_rates(["a", "a", "b", "b"], ["a", "a", "a", "b"])
    assert rates == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2)}


def test_calibration_error_by_hand():
    # Four answers at 0.9 of which half are right, four at 0.5 of which half are right.
    confidences = np.array([0.9] * 4 + [0.5] * 4)
    is_right = np.array([True, False] * 4)
    assert expected_calibration_error(is_right, confidences) == pytest.approx(0.2)
    assert expected_calibration_error(np.array([True]), np.array([1.0])) == 0


def test_the_threshold_keeps_nineteen_of_twenty_right_answers():
    confidences = np.linspace(0.5, 0.99, 50)
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    labels = np.zeros(50, dtype=int)
    threshold = choose_threshold(labels, probabilities)
    assert (confidences >= threshold).mean() == pytest.approx(0.95, abs=0.02)
    wrong = np.array([[0.1, 0.9]] * 5)  # confident, but wrong: no word in the threshold
    assert choose_threshold(np.zeros(55, dtype=int), np.concatenate([probabilities, wrong])) == threshold
    assert choose_threshold(np.ones(50, dtype=int), probabilities) is None


def test_softmax_of_half_precision_logits_sums_to_one():
    probabilities = softmax(np.array([[1000.0, 999.0], [0.0, 0.0]], dtype=np.float16))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities[:, 0], [1 / (1 + np.exp(-1)), 0.5], atol=1e-5)


def test_a_report_of_real_clips_agrees_with_itself(classifier, speech_commands):
    report = evaluate_classifier(load_classifier(classifier, "cpu"), read_labelled_corpus(speech_commands, "train"))
    matrix = np.array(report["confusion_matrix"])
    assert report["labels"] == ["_silence_", "no", "yes"]
    assert report["accuracy"] == np.trace(matrix) / matrix.sum() == 1
    assert matrix.sum(axis=1).tolist() == [report["per_class"][name]["support"] for name in report["labels"]] == [3] * 3
    assert report["accuracy_interval"] == (1, 1)
    assert (report["utterances"], report["audio_seconds"], report["failed"]) == (9, 9.0, [])
    assert report["wrong_accepted"] is None  # nothing was wrong
    text = format_classification_report(report)
    assert "accuracy  100.00%" in text
    assert "yes" in text


def test_noise_and_volume_change_what_is_heard(classifier, speech_commands):
    loaded, corpus = load_classifier(classifier, "cpu"), read_labelled_corpus(speech_commands, "train")
    noisy = evaluate_classifier(loaded, corpus, noise_snr_db=-20.0)
    assert noisy["accuracy"] < 1
    assert evaluate_classifier(loaded, corpus, noise_snr_db=-20.0)["confusion_matrix"] == noisy["confusion_matrix"]
    quiet = evaluate_classifier(loaded, corpus, gain_db=-40.0)
    assert quiet["expected_calibration_error"] != noisy["expected_calibration_error"]


def test_unknown_labels_and_unreadable_files_are_named_and_not_counted(classifier, speech_commands):
    corpus, loaded = read_labelled_corpus(speech_commands, "train"), load_classifier(classifier, "cpu")
    rows = [dict(row) for row in corpus]
    rows[0]["label"] = "marvin"
    rows[1]["path"] = "gone.wav"
    report = evaluate_classifier(loaded, type(corpus).from_list(rows))
    assert (report["utterances"], report["accuracy"]) == (7, 1)
    assert (report["unknown_utterances"], report["unknown_labels"]) == (1, ["marvin"])
    assert report["unknown_rejected"] is None  # the model has no threshold
    assert report["failed"] == ["gone.wav: no such file"]
    text = format_classification_report(report)
    assert "\n1 clips of labels that the model lacks (marvin)\n" in text
    assert "1 recordings could not be used" in text
    with pytest.raises(ValueError, match=r"not one recording could be used \(the label 'marvin' is none of the"):
        evaluate_classifier(loaded, type(corpus).from_list(rows[:1]))


def test_the_share_of_unknown_words_below_the_threshold_is_counted(classifier, speech_commands):
    corpus, loaded = read_labelled_corpus(speech_commands, "train"), load_classifier(classifier, "cpu")
    _, middle, high = sorted(result.labels[0]["score"] for result in classify(corpus["path"][::4], loaded))
    loaded.model.config.confidence_threshold = (middle + high) / 2
    rows = [{**row, "label": row["label"] if i % 4 else "marvin"} for i, row in enumerate(corpus)]
    report = evaluate_classifier(loaded, type(corpus).from_list(rows))
    assert report["unknown_rejected"] == pytest.approx(2 / 3)
    assert (report["utterances"], report["accuracy"]) == (6, 1)
    assert np.array(report["confusion_matrix"]).sum() == 6
    assert "3 clips of labels that the model lacks (marvin): 66.7% of them below" in format_classification_report(
        report
    )
    assert evaluate_classifier(loaded, corpus)["unknown_rejected"] is None


def test_what_the_conditions_make_unusable_is_named(classifier, speech_commands):
    corpus = read_labelled_corpus(speech_commands, "train").filter(lambda row: row["label"] != "_silence_")
    with pytest.raises(ValueError, match=r"not one recording could be used \(.*opus: expected samples in about"):
        evaluate_classifier(load_classifier(classifier, "cpu"), corpus, gain_db=400.0)


def test_the_confusion_matrix_is_drawn(tmp_path):
    plot_confusion_matrix(np.eye(12, dtype=int), [f"label {i}" for i in range(12)], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
