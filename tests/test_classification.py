"""Classification: clips to their labels, in order, whatever else is among them."""

import numpy as np
import pytest
import soundfile

from hf_speechrec.audio import read_audio
from hf_speechrec.classification import classify
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier


@pytest.fixture(scope="module")
def loaded(classifier):
    return load_classifier(classifier, "cpu")


@pytest.fixture(scope="module")
def clips(speech_commands):
    return read_labelled_corpus(speech_commands, "train")


def test_learnt_clips_get_their_labels_in_order(loaded, clips):
    results = list(classify(clips["path"], loaded, top_k=1, batch_size=4))
    assert [result.source for result in results] == list(clips["path"])
    assert [result.labels[0]["label"] for result in results] == list(clips["label"])
    assert {result.duration for result in results} == {1.0}


def test_probabilities_of_all_labels_are_sorted_and_sum_to_one(loaded, clips):
    (result,) = classify([clips[0]["path"]], loaded, top_k=None)
    scores = [item["score"] for item in result.labels]
    assert {item["label"] for item in result.labels} == {"_silence_", "no", "yes"}
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_bytes_rows_and_arrays_are_classified_as_the_file(loaded, clips):
    path = clips[-1]["path"]
    with open(path, "rb") as file:  # noqa: PTH123  bytes as a web server has them
        content = file.read()
    sources = [path, content, {"bytes": content, "path": None}, read_audio(path, 16_000)]
    scores = [next(classify([source], loaded)).labels[0] for source in sources]
    assert [item["label"] for item in scores] == [clips[-1]["label"]] * 4
    assert np.ptp([item["score"] for item in scores]) < 1e-6


def test_the_company_in_a_batch_does_not_matter(loaded, clips):
    long = np.concatenate([read_audio(path, 16_000) for path in clips["path"][:3]])
    alone = [next(classify([source], loaded, top_k=None)).labels for source in (clips[0]["path"], long)]
    together = [result.labels for result in classify([clips[0]["path"], long], loaded, top_k=None)]
    for one, other in zip(alone, together, strict=True):
        assert [item["label"] for item in one] == [item["label"] for item in other]
        np.testing.assert_allclose([i["score"] for i in one], [i["score"] for i in other], atol=1e-5)


def test_bad_files_are_reported_in_their_place_and_the_others_are_classified(loaded, clips, tmp_path):
    (tmp_path / "notes.wav").write_text("this is no audio")
    soundfile.write(tmp_path / "long.wav", np.zeros(8000 * 601), 8000)
    good = clips[0]["path"]
    results = list(classify([good, tmp_path / "notes.wav", tmp_path / "long.wav", good], loaded))
    assert [len(result.labels) for result in results] == [3, 0, 0, 3]
    assert "notes.wav" in results[1].error
    assert results[2].error == f"{tmp_path}/long.wav: expected at most 30 s, got more"
    assert [result.error for result in results[::3]] == [None, None]


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        (np.zeros(0, np.float32), "audio: expected at least one sample, the audio is empty"),
        (np.full(16_000, np.nan, np.float32), "audio: expected finite samples, got NaN or infinity"),
        (
            np.zeros((2, 16_000), np.float32),
            "audio: expected float samples of shape (samples,), got float32 (2, 16000)",
        ),
        (np.zeros(16_000, np.int16), "audio: expected float samples of shape (samples,), got int16 (16000,)"),
    ],
    ids=["empty", "NaN", "stereo", "integers"],
)
def test_a_bad_array_has_its_error_and_the_others_are_classified(loaded, clips, samples, error):
    good = read_audio(clips[0]["path"], 16_000)
    results = list(classify([good, samples, good], loaded))
    assert [result.error for result in results] == [None, error, None]
    assert [len(result.labels) for result in results] == [3, 0, 3]
    assert results[0].labels == results[2].labels


def test_nothing_but_bad_files_is_no_failure(loaded, tmp_path):
    (result,) = classify([tmp_path / "gone.wav"], loaded)
    assert "no such file" in result.error


@pytest.mark.parametrize(("threshold", "expected"), [(None, None), (0.0, True), (1.01, False)])
def test_an_answer_below_the_threshold_is_not_confident(classifier, clips, threshold, expected):
    loaded = load_classifier(classifier, "cpu")
    loaded.model.config.confidence_threshold = threshold
    (result,) = classify([clips[0]["path"]], loaded)
    assert result.is_confident is expected


@pytest.mark.parametrize(
    "samples", [np.zeros(1, np.float32), np.zeros(16_000, np.float32), np.ones(100, np.float32)], ids=str
)
def test_a_sample_and_silence_get_some_label(loaded, samples):
    (result,) = classify([samples], loaded, top_k=None)
    assert np.isfinite([item["score"] for item in result.labels]).all()


def test_the_bundled_model_hears_the_words_of_speakers_it_was_not_trained_on(speech_commands):
    clips = read_labelled_corpus(speech_commands, "test")
    answers = [result.labels[0]["label"] for result in classify(clips["path"], load_classifier(device="cpu"))]
    assert sum(said == heard for said, heard in zip(clips["label"], answers, strict=True)) >= 5  # of 6
