"""Transcription: real recordings to their words, in order, whatever else is among them."""

import numpy as np
import pytest
import soundfile

from hf_speechrec.audio import AudioError, audio_files, read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.decoding import GreedyDecoder
from hf_speechrec.evaluation import utterance_errors
from hf_speechrec.loading import ModelError, load_recognizer
from hf_speechrec.pronunciation import lexicon_of
from hf_speechrec.segmentation import cut_at_silences
from hf_speechrec.transcription import align_recording, segment_log_probs, transcribe

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


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(16_000, np.nan, np.float32), "audio: expected finite samples, got NaN or infinity"),
        (np.zeros(0, np.float32), "expected at least one sample, the audio is empty"),
        (np.ones(16_000, np.int16), r"expected float samples of shape \(samples,\), got int16 \(16000,\)"),
        (np.zeros((2, 16_000)), r"expected float samples of shape \(samples,\), got float64 \(2, 16000\)"),
        (np.full(16_000, 1e7), "expected samples in about"),
    ],
)
def test_an_array_that_is_no_audio_is_reported_in_its_place(recognizer, digits, samples, message):
    bad, good = transcribe([samples, read_audio(digits, 16_000).astype(np.float64)], recognizer)
    assert (bad.text, good.text, good.error) == ("", DIGITS, None)
    with pytest.raises(AudioError, match=message):
        raise AudioError(bad.error)


@pytest.mark.parametrize("text", ["THREE " * 400, "THREE ÉTÉ ONE"])
def test_a_text_that_cannot_be_aligned_stands_and_the_other_files_come(recognizer, digits, repository, text):
    """A decoder may write more letters than there are frames, or letters that the model does not know."""
    other = repository / "demo" / "examples" / "an4-spelled-name.flac"
    frames = -(-soundfile.info(digits).frames // 640)
    sources = [other, digits]
    said = transcribe(sources, recognizer, word_times=True, decoder=lambda x: DIGITS if len(x) == frames else text)
    unaligned, aligned = said
    assert unaligned.text == text.strip()
    assert [word.word for word in unaligned.words] == text.split()
    assert {word.confidence for word in unaligned.words} == {0.0}
    times = [time for word in unaligned.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= unaligned.duration
    assert [word.word for word in aligned.words] == DIGITS.split()
    assert min(word.confidence for word in aligned.words) > 0.5


def test_words_found_by_sound_have_the_times_of_their_sounds(librispeech):
    recognizer = load_recognizer("librispeech-mini", "cpu")
    row = read_corpus(librispeech)[0]

    class Told:
        """Finds by sound what was said."""

        head, lexicon, phones = "phone_logits", lexicon_of(recognizer.model), recognizer.model.config.phones

        def __call__(self, log_probs):
            assert log_probs.shape[1] == 1 + len(self.phones)
            return row["text"]

    (transcript,) = transcribe([row["path"]], recognizer, word_times=True, decoder=Told())
    assert [word.word for word in transcript.words] == row["text"].split()
    for word in transcript.words:
        assert [c.character for c in word.characters] == Told.lexicon[word.word][0]
        assert 0 < word.confidence <= 1
    by_letters = align_recording(row["path"], row["text"], recognizer).words
    starts = [[word.start for word in words] for words in (transcript.words, by_letters)]
    assert starts[0] == pytest.approx(starts[1], abs=0.3)


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


def squeezed(samples: np.ndarray) -> np.ndarray:
    """Speech without its pauses: what is 35 dB under the loudest 20 ms is cut out."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    power = np.square(frames).mean(axis=1)
    return frames[power > power.max() * 10**-3.5].reshape(-1)


def test_a_cut_without_a_pause_neither_splits_nor_doubles_a_word(recognizer, an4, monkeypatch):
    """Words as of the recording in one piece, but for a letter or two that are heard otherwise."""
    rows = read_corpus(an4, "test")
    speech = np.concatenate([squeezed(read_audio(path, 16_000)) for path in rows["path"]])[: 29 * 16_000]
    (whole,) = transcribe([speech], recognizer)

    def errors(text: str) -> int:
        return int(utterance_errors([whole.text], [text])[0].sum())

    monkeypatch.setattr("hf_speechrec.segmentation.LONGEST_SECONDS", 3.0)
    segments = list(cut_at_silences([speech], 16_000, 640))
    assert sum(segment.goes_on for segment in segments) >= 5
    decoder = GreedyDecoder(recognizer.tokenizer)
    apart = " ".join(decoder(segment_log_probs([segment], recognizer)[0]) for segment in segments)
    (cut,) = transcribe([speech], recognizer, word_times=True)
    assert errors(cut.text) < errors(apart)
    assert len(cut.text.split()) == len(whole.text.split()) < len(apart.split())
    assert [word.word for word in cut.words] == cut.text.split()
    times = [time for word in cut.words for time in (word.start, word.end)]
    assert times == sorted(times)


@pytest.mark.parametrize(("window", "texts"), [(120.0, ["250"]), (2.0, None)])
def test_pieces_without_a_pause_between_are_read_as_one(recognizer, monkeypatch, window, texts):
    """As far as memory allows: twice the window."""
    monkeypatch.setattr("hf_speechrec.segmentation.LONGEST_SECONDS", 3.0)
    monkeypatch.setattr("hf_speechrec.transcription.WINDOW_SECONDS", window)
    noise = 0.1 * np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    heard = []
    (transcript,) = transcribe([noise], recognizer, decoder=lambda x: f"{len(x)}", progress=heard.append)
    assert sum(heard) == pytest.approx(10)
    frames = [int(text) for text in transcript.text.split()]
    assert sum(frames) == 250
    assert transcript.text.split() == texts or 2 <= len(frames) <= 3
    assert max(frames) * 0.04 <= 2 * window + 3


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
