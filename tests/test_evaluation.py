"""Error rates against hand-counted ones, their interval, and what is reported of a model."""

import math
import socket
from types import SimpleNamespace

import datasets
import evaluate
import jiwer
import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Processor

from hf_speechrec import LogMelFeatureExtractor, ResNetBiGruConfig, ResNetBiGruForCTC
from hf_speechrec.audio import read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.evaluation import (
    SpeechErrorRate,
    bootstrap_interval,
    confusions,
    error_rates,
    evaluate_recognizer,
    format_report,
    frame_predictions,
    trainer_metrics,
    utterance_errors,
)
from hf_speechrec.loading import load_recognizer
from hf_speechrec.text import TextNormalizer, build_tokenizer, encode

REFERENCES = ["THE CAT SAT", "ON THE MAT"]
PREDICTIONS = ["THE CAT", "ON A MAT NOW"]


@pytest.fixture
def without_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric has no business on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def model_folder(an4, tmp_path_factory):
    """A saved model with random weights whose classes are level, so that it writes a little of everything."""
    torch.manual_seed(0)
    corpus = read_corpus(an4, "train")
    extractor, tokenizer = LogMelFeatureExtractor(feature_size=40), build_tokenizer(corpus["text"])
    config = ResNetBiGruConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=40,
        conv_channels=4,
        num_residual_blocks=1,
        hidden_size=24,
        num_hidden_layers=1,
        text_normalizer=TextNormalizer().to_dict(),
    )
    model = ResNetBiGruForCTC(config).eval()
    waveforms = [read_audio(path, 16_000) for path in corpus["path"]]
    with torch.no_grad():
        for waveform in waveforms:
            features = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
            model.classifier[-1].bias -= model(**features).logits.mean((0, 1)) / len(waveforms)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recognizer(model_folder):
    return load_recognizer(model_folder, "cpu")


def direct_text(recognizer, path) -> str:
    """The most likely class of each frame, without any pipeline."""
    features = recognizer.feature_extractor(read_audio(path, 16_000), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return recognizer.tokenizer.decode(recognizer.model(**features).logits[0].argmax(-1))


# Rates


def test_error_rates_of_a_hand_counted_case():
    assert error_rates(REFERENCES, PREDICTIONS) == {
        "wer": 3 / 6,  # SAT is missing, THE became A, NOW is too much
        "cer": 11 / 21,  # " SAT", then two deleted and one substituted in THE, and " NOW"
        "substitutions": 1,
        "deletions": 1,
        "insertions": 1,
        "words": 6,
    }


def test_error_rates_of_equal_texts_are_zero():
    rates = error_rates(REFERENCES, REFERENCES)
    assert (rates["wer"], rates["cer"], rates["words"]) == (0, 0, 6)


def test_an_empty_prediction_deletes_every_word():
    rates = error_rates(["ONE TWO"], [""])
    assert (rates["wer"], rates["cer"], rates["deletions"]) == (1, 1, 2)


def test_insertions_can_exceed_the_references():
    assert error_rates(["ONE"], ["ONE TWO THREE FOUR"])["wer"] == 3


def test_words_said_into_silence_are_insertions():
    assert error_rates(["", "ONE"], ["TWO", "ONE"])["insertions"] == 1


@pytest.mark.parametrize("references", [[], [""], ["", "  "]])
def test_references_without_a_word_are_an_error(references):
    with pytest.raises(ValueError, match="references with at least one word"):
        error_rates(references, [""] * len(references))


def test_lists_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="got 1 and 2"):
        error_rates(["ONE", "TWO"], ["ONE"])


def test_utterance_errors_add_up_to_the_corpus():
    errors, words = utterance_errors(REFERENCES, PREDICTIONS)
    assert errors.tolist() == [1, 2]
    assert words.tolist() == [3, 3]
    errors, characters = utterance_errors(REFERENCES, PREDICTIONS, jiwer.process_characters)
    assert errors.tolist() == [4, 7]
    assert characters.tolist() == [11, 10]


@pytest.mark.usefixtures("without_network")
def test_the_metric_module_computes_the_same_without_a_network(tmp_path):
    metric = SpeechErrorRate(cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.EvaluationModule)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == error_rates(REFERENCES, PREDICTIONS)
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == error_rates(REFERENCES, PREDICTIONS)


# Interval


def test_interval_is_the_same_for_the_same_seed():
    errors, words = np.array([1, 0, 3, 0, 2, 0, 0, 1]), np.array([4, 5, 6, 3, 5, 4, 6, 7])
    assert bootstrap_interval(errors, words) == bootstrap_interval(errors, words, seed=0)
    assert bootstrap_interval(errors, words, seed=0) != bootstrap_interval(errors, words, seed=1)


def test_interval_covers_the_true_rate_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        words = rng.integers(3, 12, size=50)
        errors = rng.binomial(words, 0.2)
        low, high = bootstrap_interval(errors, words)
        assert low < errors.sum() / words.sum() < high
        covered += low <= 0.2 <= high
    assert 53 <= covered < 60


def test_interval_narrows_with_the_square_root_of_the_corpus():
    errors, words = np.array([1, 0, 3, 0, 2, 0, 0, 1]), np.full(8, 5)
    low, high = bootstrap_interval(errors, words)
    lower, higher = bootstrap_interval(np.tile(errors, 16), np.tile(words, 16))
    assert (high - low) / (higher - lower) == pytest.approx(4, rel=0.15)


def test_interval_of_a_corpus_without_errors_is_zero():
    assert bootstrap_interval(np.zeros(5, int), np.full(5, 3)) == (0, 0)


# Confusions


def test_confusions_are_counted_and_the_most_frequent_comes_first():
    references = ["FIVE NINE", "NINE ONE", "NINE", "ONE TWO"]
    predictions = ["NINE NINE", "FIVE ONE", "FIVE", "ONE TWO TOO"]
    assert confusions(references, predictions) == [("NINE", "FIVE", 2), ("FIVE", "NINE", 1), ("", "TOO", 1)]
    assert confusions(references, predictions, most=1) == [("NINE", "FIVE", 2)]


def test_a_deleted_word_is_confused_with_nothing():
    assert confusions(["A B C", "X Y"], ["C", "Y"]) == [("A", "", 1), ("B", "", 1), ("X", "", 1)]


def test_equal_texts_have_no_confusions():
    assert confusions(REFERENCES, REFERENCES) == []


# While training


def test_trainer_metrics_report_blanks_and_samples():
    tokenizer = build_tokenizer(["SEE"])  # <pad> | <unk> E S
    blank, space, e, s = 0, 1, 3, 4
    frames = np.full((7, 6), -100)
    frames[:, :5] = [s, e, blank, e, e]  # SEE
    frames[6, :4] = [s, space, space, e]  # S E, and one frame more that is padding
    frames[6, 4] = -100
    labels = np.full((7, 4), -100)
    labels[:, :3] = [s, e, e]
    lines = []
    metrics = trainer_metrics(SimpleNamespace(tokenizer=tokenizer), lines.append)(
        SimpleNamespace(predictions=frames, label_ids=labels)
    )
    assert metrics == {"wer": 2 / 7, "cer": 1 / 21, "blank_share": 6 / 34}
    assert lines[:1] == ["  said:  SEE\n  heard: SEE"]
    assert lines[-2:] == ["  said:  SEE\n  heard: S E", "  blank frames: 17.6%"]
    assert len(lines) == 5 + 1


def test_trainer_metrics_of_a_model_settled_on_blanks():
    tokenizer = build_tokenizer(["ONE TWO"])
    labels = np.array([tokenizer("ONE|TWO").input_ids, tokenizer("TWO|ONE").input_ids])
    metrics = trainer_metrics(SimpleNamespace(tokenizer=tokenizer), lambda _: None)(
        SimpleNamespace(predictions=np.zeros((2, 9), int), label_ids=labels)
    )
    assert metrics == {"wer": 1, "cer": 1, "blank_share": 1}


def test_a_character_that_the_vocabulary_lacks_is_one_error_of_one_word():
    tokenizer = build_tokenizer(["CAF NOIR"])
    labels = np.array([encode(tokenizer, "CAFÉ NOIR")])
    assert tokenizer.unk_token_id in labels
    frames = np.array([encode(tokenizer, "CAF NOIR")])
    lines = []
    metrics = trainer_metrics(SimpleNamespace(tokenizer=tokenizer), lines.append)(
        SimpleNamespace(predictions=frames, label_ids=labels)
    )
    expected = error_rates(["CAFÉ NOIR"], ["CAF NOIR"])
    assert (metrics["wer"], metrics["cer"]) == (expected["wer"], expected["cer"]) == (1 / 2, 1 / 9)
    assert lines[0] == "  said:  CAF\N{REPLACEMENT CHARACTER} NOIR\n  heard: CAF NOIR"


@torch.no_grad()
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_frame_predictions_are_the_best_classes_and_mark_padding(recognizer, an4_files, half):
    waveforms = [read_audio(path, 16_000) for path in an4_files[:4]]
    batch = recognizer.feature_extractor(waveforms, sampling_rate=16_000, return_tensors="pt")
    with torch.autocast("cpu", dtype=half, enabled=half is not None):
        logits = recognizer.model(**batch).logits
    logits = logits.float()  # as the Trainer hands them on
    frames = frame_predictions(logits, labels=None)
    lengths = -(-batch["attention_mask"].sum(-1) // 4)
    valid = torch.arange(frames.shape[1]) < lengths[:, None]
    assert not valid.all()
    assert frames[valid].equal(logits.argmax(-1)[valid])
    assert (frames[~valid] == -100).all()
    assert frame_predictions((logits, None), labels=None).equal(frames)


# A recogniser on a corpus


def test_report_agrees_with_direct_decoding(recognizer, an4):
    corpus = read_corpus(an4, "test")
    report = evaluate_recognizer(recognizer, corpus, batch_size=3)
    texts = [direct_text(recognizer, path) for path in corpus["path"]]
    assert any(texts)
    assert {name: report[name] for name in error_rates(["A"], ["A"])} == error_rates(list(corpus["text"]), texts)
    assert report["utterances"] == 8
    assert report["failed"] == []
    assert report["audio_seconds"] == pytest.approx(sum(corpus["duration"]), abs=0.01)
    assert report["real_time_factor"] > 0
    for rate in ("wer", "cer"):
        low, high = report[f"{rate}_interval"]
        assert low <= report[rate] <= high
    assert report["cer_interval"][0] < report["cer"] < report["cer_interval"][1]
    decoded = dict(zip(corpus["text"], texts, strict=True))
    assert len(report["worst"]) == 5
    assert all(decoded[item["reference"]] == item["prediction"] for item in report["worst"])
    said = dict(zip(corpus["path"], corpus["text"], strict=True))
    assert all(said[item["source"]] == item["reference"] for item in report["worst"])
    assert [item["errors"] for item in report["worst"]] == sorted(
        (item["errors"] for item in report["worst"]), reverse=True
    )


def test_references_are_scored_by_the_models_own_normaliser(recognizer, an4):
    corpus = read_corpus(an4, "test").select(range(3))
    shouted = corpus.map(lambda row: {"text": row["text"].lower() + "!"})
    same, expected = evaluate_recognizer(recognizer, shouted), evaluate_recognizer(recognizer, corpus)
    assert (same["wer"], same["cer"]) == (expected["wer"], expected["cer"])


def test_noise_is_the_same_in_every_run_and_changes_what_is_heard(recognizer, an4):
    corpus = read_corpus(an4, "test").select(range(4))
    noisy = evaluate_recognizer(recognizer, corpus, noise_snr_db=0)
    assert evaluate_recognizer(recognizer, corpus, noise_snr_db=0)["worst"] == noisy["worst"]
    assert evaluate_recognizer(recognizer, corpus)["worst"] != noisy["worst"]
    assert evaluate_recognizer(recognizer, corpus, gain_db=-20)["worst"] != noisy["worst"]


def test_files_that_cannot_be_read_are_left_out_and_named(recognizer, an4, tmp_path):
    corpus = read_corpus(an4, "test").select(range(3))
    broken = tmp_path / "broken.wav"
    broken.write_text("not audio")
    row = {"path": str(broken), "text": "NEVER", "duration": 1.0, "speaker": "x"}
    report = evaluate_recognizer(recognizer, datasets.Dataset.from_list([*corpus, row]))
    (reason,) = report["failed"]
    assert "broken.wav" in reason
    assert report["utterances"] == 3
    assert report["wer"] == evaluate_recognizer(recognizer, corpus)["wer"]
    with pytest.raises(ValueError, match=r"not one recording could be read .*broken\.wav"):
        evaluate_recognizer(recognizer, datasets.Dataset.from_list([row]))


def test_report_reads_as_a_table(recognizer, an4):
    report = evaluate_recognizer(recognizer, read_corpus(an4, "test"))
    report |= {"wer": 0.125, "wer_interval": (0.05, 0.2), "failed": ["x.wav: not audio"]}
    report |= {"cer": 0.0625, "cer_interval": (0.025, 0.1)}
    report |= {"confusions": [("NINE", "FIVE", 3), ("", "A", 1)]}
    text = format_report(report)
    assert "12.50%   (95 % interval 5.00% to 20.00%, 47 words, 8 utterances)" in text
    assert "CER     6.25%   (95 % interval 2.50% to 10.00%)" in text
    assert "3  NINE → FIVE" in text
    assert "1  (nothing) → A" in text
    assert "1 recordings could not be read:\n  x.wav: not audio" in text
    worst = report["worst"][0]
    assert f"said   {worst['reference']}\n  heard  {worst['prediction']}\n  in     {worst['source']}\n" in text


# evaluate's own evaluator


@pytest.fixture
def arrays(an4) -> datasets.Dataset:
    corpus = read_corpus(an4, "test").select(range(3))
    samples = [read_audio(path, 16_000) for path in corpus["path"]]
    return datasets.Dataset.from_dict({"audio": samples, "text": corpus["text"]}).with_format("numpy")


def test_evaluates_own_evaluator_takes_the_folder_of_a_model(recognizer, model_folder, arrays, an4, tmp_path):
    pytest.importorskip("scipy", reason="evaluate's evaluators need it: pip install evaluate[evaluator]")
    result = evaluate.evaluator("automatic-speech-recognition").compute(
        model_or_pipeline=str(model_folder),
        data=arrays,
        metric=SpeechErrorRate(cache_dir=str(tmp_path)),
        input_column="audio",
        label_column="text",
        device=-1,
    )
    corpus = read_corpus(an4, "test").select(range(3))
    expected = error_rates(list(corpus["text"]), [direct_text(recognizer, path) for path in corpus["path"]])
    assert {name: result[name] for name in expected} == expected
    assert result["samples_per_second"] > 0


def test_pipeline_and_metric_do_what_the_evaluator_does(recognizer, arrays, an4, tmp_path):
    results = recognizer([row["audio"] for row in arrays])
    metric = SpeechErrorRate(cache_dir=str(tmp_path))
    found = metric.compute(predictions=[result["text"] for result in results], references=list(arrays["text"]))
    corpus = read_corpus(an4, "test").select(range(3))
    assert found == error_rates(list(corpus["text"]), [direct_text(recognizer, path) for path in corpus["path"]])
    assert math.isfinite(found["wer"])
