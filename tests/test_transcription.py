"""Transcription: real recordings to their words, in order, whatever else is among them."""

import numpy as np
import pytest
import soundfile

from hf_speechrec.audio import AudioError, audio_files, read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.loading import ModelError, load_recognizer
from hf_speechrec.transcription import align_recording, transcribe

DIGITS = "THREE THREE ONE OH ONE EIGHT EIGHT"


@pytest.fixture(scope="module")
def recognizer():
    return load_recognizer("an4", "cpu")


@pytest.fixture
def digits(repository):
    return str(repository / "demo" / "examples" / "an4-seven-digits.flac")


def test_the_bundled_model_writes_what_is_said(recognizer, digits):
    (transcript,) = transcribe([digits], recognizer)
    assert transcript.text == DIGITS
    assert transcript.error is None
    assert transcript.duration == pytest.approx(soundfile.info(digits).duration, abs=1e-3)


def test_bytes_rows_and_arrays_give_the_text_of_the_file(recognizer, digits, repository):
    content = (repository / digits).read_bytes()
    sources = [content, {"bytes": content, "path": None}, {"bytes": None, "path": digits}, read_audio(digits, 16_000)]
    assert [transcript.text for transcript in transcribe(sources, recognizer)] == [DIGITS] * 4


def test_order_and_text_do_not_depend_on_the_batch(recognizer, an4):
    paths = read_corpus(an4, "test")["path"]
    alone = [next(transcribe([path], recognizer)).text for path in paths]
    together = list(transcribe(paths, recognizer, batch_size=4))
    assert [transcript.source for transcript in together] == list(paths)
    assert [transcript.text for transcript in together] == alone


def test_a_bad_file_is_reported_in_its_place_and_the_others_are_transcribed(recognizer, digits, tmp_path):
    (tmp_path / "notes.wav").write_text("this is no audio")
    transcripts = list(transcribe([digits, tmp_path / "notes.wav", tmp_path / "gone.wav", digits], recognizer))
    assert [transcript.text for transcript in transcripts] == [DIGITS, "", "", DIGITS]
    assert "notes.wav" in transcripts[1].error
    assert "no such file" in transcripts[2].error


def test_word_times_lie_in_order_within_the_recording(recognizer, digits):
    (transcript,) = transcribe([digits], recognizer, word_times=True)
    assert [word.word for word in transcript.words] == DIGITS.split()
    times = [time for word in transcript.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= transcript.duration + 0.04


def test_other_rates_and_channels_give_the_same_words(recognizer, digits, tmp_path):
    samples = read_audio(digits, 48_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples], axis=1), 48_000)
    soundfile.write(tmp_path / "eight.flac", np.tile(samples[:, None], 8), 48_000)
    texts = [t.text for t in transcribe([tmp_path / "stereo.wav", tmp_path / "eight.flac"], recognizer)]
    assert texts == [DIGITS, DIGITS]


def test_silence_and_a_single_sample_have_no_words(recognizer):
    silence = [np.zeros(16_000, dtype=np.float32), np.zeros(1, dtype=np.float32)]
    assert [transcript.text for transcript in transcribe(silence, recognizer)] == ["", ""]


def test_a_recording_longer_than_a_chunk_keeps_its_words(recognizer, digits):
    pause = np.zeros(8_000, dtype=np.float32)
    recording = np.concatenate([np.concatenate([read_audio(digits, 16_000), pause]) for _ in range(12)])
    assert len(recording) > 31 * 16_000
    (transcript,) = transcribe([recording], recognizer)
    assert transcript.text.split() == (DIGITS.split()) * 12


def test_a_long_file_gives_every_word_once_and_in_its_place(recognizer, digits, tmp_path):
    """Two and a half minutes, read and cut piece by piece: longer than a piece, and than a block of the file."""
    clip = read_audio(digits, 16_000)
    gap = 0.7
    pause = np.random.default_rng(0).standard_normal(round(gap * 16_000)).astype(np.float32) * 1e-4
    times = 50
    soundfile.write(tmp_path / "long.flac", np.tile(np.concatenate([clip, pause]), times), 16_000)
    heard = []
    (transcript,) = transcribe([tmp_path / "long.flac"], recognizer, word_times=True, progress=heard.append)
    period = len(clip) / 16_000 + gap
    assert transcript.text.split() == DIGITS.split() * times
    assert transcript.duration == pytest.approx(period * times, abs=1e-3)
    assert sum(heard) == pytest.approx(transcript.duration)
    assert len(heard) > 1
    first = [word.start for word in transcript.words[:7]]
    for i in range(times):
        starts = [word.start - i * period for word in transcript.words[7 * i : 7 * i + 7]]
        assert starts == pytest.approx(first, abs=0.09)


def test_a_file_longer_than_the_window_keeps_the_order_of_the_others(recognizer, digits, monkeypatch):
    monkeypatch.setattr("hf_speechrec.transcription.WINDOW_SECONDS", 20.0)
    clip = read_audio(digits, 16_000)
    pause = np.zeros(8_000, dtype=np.float32)
    long = np.concatenate([np.concatenate([clip, pause])] * 16)
    texts = [transcript.text.split() for transcript in transcribe([clip, clip, long, clip], recognizer)]
    assert texts == [DIGITS.split() * n for n in (1, 1, 16, 1)]


def test_what_was_read_before_a_fault_is_kept(recognizer, digits, tmp_path):
    clip = read_audio(digits, 16_000)
    samples = np.concatenate([np.concatenate([clip, np.zeros(8_000, np.float32)])] * 30)
    samples[-100] = np.nan
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    (transcript,) = transcribe([tmp_path / "x.wav"], recognizer)
    assert "expected finite samples" in transcript.error
    assert transcript.text.startswith(DIGITS)


def test_a_decoder_is_asked_for_the_text(recognizer, digits):
    (transcript,) = transcribe([digits], recognizer, decoder=lambda log_probs: f"{log_probs.shape[1]}")
    assert transcript.text == "29"


def test_a_known_text_is_aligned_in_its_own_spelling(recognizer, digits):
    text = "Three, three; one oh - one eight Eight!"
    transcript = align_recording(digits, text, recognizer)
    assert [word.word for word in transcript.words] == ["Three,", "three;", "one", "oh", "one", "eight", "Eight!"]
    (heard,) = transcribe([digits], recognizer, word_times=True)
    assert [(w.start, w.end) for w in transcript.words] == [(w.start, w.end) for w in heard.words]
    assert min(word.confidence for word in transcript.words) > 0.5


def test_numbers_of_a_known_text_stand_for_their_words(recognizer, digits):
    transcript = align_recording(digits, "3 3 1 oh 1 8 8", recognizer)
    assert [word.word for word in transcript.words] == ["3", "3", "1", "oh", "1", "8", "8"]
    assert "".join(c.character for c in transcript.words[0].characters) == "THREE"


def test_what_cannot_be_aligned_is_said(recognizer, digits, tmp_path):
    with pytest.raises(ValueError, match="expected a text with words"):
        align_recording(digits, " - ! ", recognizer)
    with pytest.raises(ValueError, match="cannot be aligned: expected at least"):
        align_recording(digits, "one two three four " * 40, recognizer)
    with pytest.raises(ValueError, match="the model does not know É"):
        align_recording(digits, "été", recognizer)
    with pytest.raises(AudioError, match="no such file"):
        align_recording(tmp_path / "gone.wav", "one", recognizer)


def test_folders_give_their_recordings_by_name(tmp_path, digits, repository):
    content = (repository / digits).read_bytes()
    for name in ("b.flac", "a.flac", "notes.txt"):
        (tmp_path / name).write_bytes(content)
    assert audio_files([tmp_path, "-"]) == [str(tmp_path / "a.flac"), str(tmp_path / "b.flac"), "-"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="expected recordings, found none"):
        audio_files([tmp_path / "empty"])


def test_what_is_no_model_is_one_clear_line(tmp_path, recognizer):
    with pytest.raises(ModelError, match=r"nonsense: no such folder, no bundled model \(.*an4.*\)"):
        load_recognizer("nonsense")
    with pytest.raises(ModelError, match="not a model that can be loaded"):
        load_recognizer(tmp_path)
    recognizer.model.save_pretrained(tmp_path)
    recognizer.tokenizer.save_pretrained(tmp_path)
    recognizer.feature_extractor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="not a model that can be loaded") as error:
        load_recognizer(tmp_path)
    assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(ModelError, match="not a model that can be loaded"):
        load_recognizer(tmp_path)
    with pytest.raises(ModelError, match="device nowhere"):
        load_recognizer("an4", "nowhere")
