"""A speaker's mean: what it is of, and that microphone and volume are gone with it."""

import datasets
import numpy as np
import pytest
import soundfile
import torch
from small_runs import tiny_recipe, weights

from hf_speechrec import LogMelFeatureExtractor
from hf_speechrec.audio import read_audio
from hf_speechrec.classification import classify, for_one_speaker
from hf_speechrec.collator import AudioClassificationCollator
from hf_speechrec.evaluation_classifier import evaluate_classifier, format_classification_report
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier
from hf_speechrec.recipe import Recipe
from hf_speechrec.speaker_normalization import FrameSums, adapted_to_speaker, speaker_sums
from hf_speechrec.training import train
from hf_speechrec.training_classifier import _speaker_means

RATE = 8000
SIZES = {"sampling_rate": RATE, "hop_length": 160, "win_length": 240, "n_fft": 256, "feature_size": 20}


@pytest.fixture(scope="module")
def fsdd(fixtures):
    """Zero and one, two clips each, by three speakers."""
    return fixtures / "fsdd"


@pytest.fixture(scope="module")
def corpus(fsdd):
    return read_labelled_corpus(fsdd)


@pytest.fixture(scope="module")
def clips(corpus) -> list[np.ndarray]:
    """All of george's."""
    return [read_audio(row["path"], RATE) for row in corpus if row["speaker"] == "george"]


@pytest.fixture(scope="module")
def model(fsdd, tmp_path_factory):
    """Folder of a small model of speakers less their means, that has learnt the clips by heart."""
    torch.manual_seed(0)
    options = {"max_steps": 60, "learning_rate": 1e-2, "augmentation": None, "per_device_train_batch_size": 12}
    features = SIZES | {"normalize_by_speaker": True}
    folder = tmp_path_factory.mktemp("normalized")
    return train(
        tiny_recipe(fsdd, folder, task="classification", train_split=None, features=features, **options), device="cpu"
    )


@pytest.fixture(scope="module")
def loaded(model):
    return load_classifier(str(model), "cpu")


def frames(extractor, clip) -> torch.Tensor:
    return extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_features"][0]


def normalizing(**figures) -> LogMelFeatureExtractor:
    return LogMelFeatureExtractor(**SIZES, normalize_by_speaker=True, **figures)


def test_the_mean_is_of_loud_frames_alone(clips):
    plain, sums, without_pause = LogMelFeatureExtractor(**SIZES), FrameSums(), FrameSums()
    faint = 1e-4 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    paused = np.concatenate([clips[0], faint])
    sums.add(paused, plain)
    log_mel = frames(plain, paused).double()
    power = log_mel.logsumexp(-1)
    loud = log_mel[power >= power.max() - 3 * np.log(10)]  # 30 dB
    assert len(clips[0]) // 160 < len(loud) < len(log_mel) - 40
    torch.testing.assert_close(sums.mean, loud.mean(0))
    torch.testing.assert_close(sums.squares, loud.square().sum(0))
    without_pause.add(clips[0], plain)
    torch.testing.assert_close(without_pause.mean, sums.mean, rtol=0, atol=0.1)


def test_another_volume_and_microphone_are_gone_with_the_mean(clips):
    extractor = normalizing(feature_mean=[-3.0] * 20, feature_std=[2.0] * 20)
    filtered = [4 * np.convolve(clip, [1.0, -0.6])[: len(clip)].astype(np.float32) for clip in clips]
    here, there = adapted_to_speaker(extractor, clips), adapted_to_speaker(extractor, filtered)
    far = (frames(extractor, clips[0]) - frames(extractor, filtered[0])).abs().mean()
    near = (frames(here, clips[0]) - frames(there, filtered[0])).abs().mean()
    assert near < 0.1 * far
    louder = adapted_to_speaker(extractor, [8 * clip for clip in clips])
    is_heard = frames(here, clips[0]) > -2  # the floor of the logarithm stays where it is
    torch.testing.assert_close(
        frames(louder, 8 * clips[0])[is_heard], frames(here, clips[0])[is_heard], rtol=0, atol=0.02
    )


def test_an_adapted_extractor_is_another_one_and_can_be_saved(clips, tmp_path):
    extractor = normalizing(feature_mean=[-3.0] * 20, feature_std=[2.0] * 20)
    adapted = adapted_to_speaker(extractor, clips)
    assert extractor.feature_mean == [-3.0] * 20
    assert adapted.feature_std == extractor.feature_std
    adapted.save_pretrained(tmp_path)
    again = LogMelFeatureExtractor.from_pretrained(tmp_path)
    assert again.normalize_by_speaker
    torch.testing.assert_close(frames(again, clips[0]), frames(adapted, clips[0]))


def test_who_cannot_be_adapted_to_is_said(clips):
    with pytest.raises(ValueError, match=r"trained with features\.normalize_by_speaker; this one takes speakers as"):
        adapted_to_speaker(LogMelFeatureExtractor(**SIZES), clips)
    with pytest.raises(ValueError, match="expected at least one clip of the speaker, got none"):
        adapted_to_speaker(normalizing(), [])
    with pytest.raises(ValueError, match="expected normalize_by_speaker to be true or false, got 'yes'"):
        LogMelFeatureExtractor(normalize_by_speaker="yes")


def test_clips_that_cannot_be_read_are_left_out_of_the_sums(corpus, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    rows = [*corpus, {"path": str(broken), "speaker": "george"}]
    expected, sums = (speaker_sums(part, LogMelFeatureExtractor(**SIZES)) for part in (corpus, rows))
    assert sums.keys() == expected.keys() == {"george", "jackson", "theo"}
    assert {name: one.frames for name, one in sums.items()} == {name: one.frames for name, one in expected.items()}


def test_a_batch_is_less_each_speakers_own_mean_and_its_padding_stays(corpus):
    extractor = normalizing(feature_mean=[-3.0] * 20, feature_std=[2.0] * 20)
    means = {name: one.mean.float() for name, one in speaker_sums(corpus, extractor).items()}
    rows = [next(row for row in corpus if row["speaker"] == name) for name in ("george", "jackson", "theo")]
    rows.append({**rows[0], "speaker": "nobody"})
    label2id = {str(digit): digit for digit in range(10)}
    plain = AudioClassificationCollator(extractor, label2id)(rows)
    batch = AudioClassificationCollator(extractor, label2id, speaker_means=means)(rows)
    valid = plain["attention_mask"].bool()
    assert not valid.all()
    assert batch["input_features"][~valid].eq(0).all()
    for i, row in enumerate(rows):
        here, there = batch["input_features"][i][valid[i]], plain["input_features"][i][valid[i]]
        shift = (-3.0 - means[row["speaker"]]) / 2.0 if row["speaker"] in means else torch.zeros(20)
        torch.testing.assert_close(here, there + shift)


def test_training_hears_each_speaker_less_their_mean(model, loaded, corpus):
    extractor = loaded.feature_extractor
    sums = speaker_sums(corpus, extractor)
    mean = torch.stack([one.mean for one in sums.values()]).mean(0)
    torch.testing.assert_close(torch.tensor(extractor.feature_mean, dtype=torch.double), mean, rtol=0, atol=1e-3)
    report = evaluate_classifier(loaded, corpus)
    assert (report["accuracy"], report["normalized_speakers"]) == (1.0, 3)
    assert "less the mean of each of 3 speakers, over all their clips here" in format_classification_report(report)
    assert all(weight.isfinite().all() for weight in weights(model).values())


def test_an_evaluation_does_not_depend_on_how_loud_a_speaker_is(loaded, corpus):
    loud, quiet = (evaluate_classifier(loaded, corpus, gain_db=gain) for gain in (0, 6))
    assert quiet["accuracy"] == loud["accuracy"] == 1
    assert quiet["expected_calibration_error"] == pytest.approx(loud["expected_calibration_error"], abs=0.01)


def test_a_speaker_without_a_clip_that_is_short_enough_fails_alone(loaded, corpus, tmp_path):
    long = tmp_path / "long.wav"
    soundfile.write(long, np.zeros(31 * RATE), RATE)
    rows = [{key: row[key] for key in ("path", "label", "speaker")} for row in corpus]
    rows = datasets.Dataset.from_list([*rows, {"path": str(long), "label": "0", "speaker": "ann"}])
    report = evaluate_classifier(loaded, rows)
    assert (report["utterances"], report["accuracy"]) == (12, 1.0)
    assert len(report["failed"]) == 1
    assert "expected a command of at most 30 s, got 31.0 s" in report["failed"][0]


def test_clips_of_nobody_known_are_measured_as_they_are(loaded, corpus):
    rows = corpus.map(lambda row: {"speaker": None if row["speaker"] == "theo" else row["speaker"]})
    report = evaluate_classifier(loaded, rows)
    assert (report["utterances"], report["normalized_speakers"]) == (12, 2)


def test_one_speakers_clips_are_classified_less_their_mean(loaded, corpus, clips):
    theo = [row for row in corpus if row["speaker"] == "theo"]
    paths = [row["path"] for row in theo]
    adapted = for_one_speaker(loaded, [*paths, "no such file.wav"])
    answers = list(classify(paths, adapted, top_k=1))
    assert [answer.labels[0]["label"] for answer in answers] == [row["label"] for row in theo]
    assert adapted.feature_extractor.feature_mean != loaded.feature_extractor.feature_mean
    other = for_one_speaker(loaded, clips).feature_extractor
    assert other.feature_mean != adapted.feature_extractor.feature_mean


def test_what_has_no_mean_of_a_speaker_is_refused(corpus, tmp_path):
    features = SIZES | {"normalize_by_speaker": True}
    with pytest.raises(ValueError, match=r"features\.normalize_by_speaker is for classifiers"):
        Recipe("corpus", features=features)
    with pytest.raises(ValueError, match="expected a corpus that is no stream, a mean is of all clips"):
        Recipe("corpus", "classification", streaming=True, features=features)
    with pytest.raises(ValueError, match="expected a corpus that is no stream, a mean is of all clips"):
        _speaker_means(normalizing(), corpus.to_iterable_dataset(), None)
    table = tmp_path / "clips.csv"
    table.write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in corpus))
    with pytest.raises(ValueError, match="expected a corpus that says whose each clip is"):
        train(tiny_recipe(table, tmp_path / "run", task="classification", features=features), device="cpu")


def test_the_command_asks_whose_recordings_they_are(command, model, corpus):
    paths = [row["path"] for row in corpus if row["speaker"] == "jackson"]
    result = command("classify", *paths, "--model", model, "--one-speaker")
    assert result.exit_code == 0
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == ["0", "0", "1", "1"]
    assert "notice" not in result.stderr
    result = command("classify", *paths, "--model", model)
    assert "takes a speaker's mean away: --one-speaker makes fewer errors" in result.stderr
    result = command("classify", paths[0], "--one-speaker")
    assert result.exit_code == 1
    assert "this one takes speakers as they are" in result.stderr


def test_the_card_says_what_a_figure_took_away_and_how_to_do_it(command, model, fsdd):
    result = command("evaluate", model, fsdd, "--device", "cpu", "--update-card")
    assert result.exit_code == 0, result.output
    card = (model / "README.md").read_text()
    assert "| accuracy, fsdd, less each speaker's mean | 100.00% " in card
    assert "name: accuracy less each speaker's mean" in card
    assert f"hf-speechrec classify clips/ --model PATH/{model.name} --one-speaker" in card
