"""The same logits and words in pieces as at once, whatever the pieces; a stream goes on past what it cannot use."""

import numpy as np
import pytest
import torch
import torchaudio
from conftest import RATE
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechrec import ResNetBiGruConfig, ResNetBiGruForCTC
from hf_speechrec.audio import read_audio
from hf_speechrec.loading import load_model
from hf_speechrec.streaming import StreamingRecognizer


@pytest.fixture(scope="module")
def an4_model():
    return load_model("an4")


def small(time_reduction: int) -> ResNetBiGruForCTC:
    torch.manual_seed(0)
    config = ResNetBiGruConfig(
        vocab_size=29,
        num_mel_bins=80,
        conv_channels=3,
        num_residual_blocks=2,
        hidden_size=12,
        num_hidden_layers=2,
        time_reduction=time_reduction,
    )
    return ResNetBiGruForCTC(config).eval()


@pytest.fixture(scope="module")
def small_models():
    return {reduction: small(reduction) for reduction in (1, 2, 4)}


def whole(model, processor, samples, chunk_frames, lookahead_frames) -> torch.Tensor:
    inputs = processor.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs, chunk_frames=chunk_frames, lookahead_frames=lookahead_frames).logits[0]


def in_pieces(recognizer, samples, sizes) -> torch.Tensor:
    logits, start = [], 0
    for size in sizes:
        logits.append(recognizer.logits(samples[start : start + size]))
        start += size
    return torch.cat([*logits, recognizer.logits(samples[start:], is_last=True)])


def words(recognizer, samples, size, rate=RATE) -> list[str]:
    updates = [recognizer.feed(samples[i : i + size], rate) for i in range(0, len(samples), size)]
    return [word.word for update in [*updates, recognizer.flush()] for word in update.words]


@settings(max_examples=40)
@given(
    length=st.integers(1, 24_000),
    sizes=st.lists(st.integers(0, 6000), max_size=12),
    chunk_frames=st.integers(1, 20),
    lookahead_frames=st.integers(0, 12),
    reduction=st.sampled_from([1, 2, 4]),
)
def test_logits_in_pieces_are_those_of_the_whole(
    small_models, processor, length, sizes, chunk_frames, lookahead_frames, reduction
):
    samples = 0.1 * np.random.default_rng(length).standard_normal(length).astype(np.float32)
    model = small_models[reduction]
    recognizer = StreamingRecognizer(model, processor, chunk_frames, lookahead_frames)
    expected = whole(model, processor, samples, chunk_frames, lookahead_frames)
    logits = in_pieces(recognizer, samples, sizes)
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("chunk_frames", "lookahead_frames"), [(12, 6), (8, 4), (3, 1)])
def test_speech_in_pieces_is_recognised_as_at_once(an4_model, speech, chunk_frames, lookahead_frames):
    model, processor = an4_model
    expected = whole(model, processor, speech, chunk_frames, lookahead_frames)
    recognizer = StreamingRecognizer(model, processor, chunk_frames, lookahead_frames)
    logits = in_pieces(recognizer, speech, [1, 0, 159, 160, 4001, 7])
    assert (logits - expected).abs().max() < 1e-4
    recognizer.reset()
    text = processor.tokenizer.decode(expected.argmax(-1))
    assert words(recognizer, speech, 1600) == text.split()


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
@pytest.mark.parametrize("size", [0.01, 0.25])
def test_other_rates_are_resampled_as_the_whole(an4_model, repository, rate, size):
    model, processor = an4_model
    samples = read_audio(repository / "demo" / "examples" / "an4-seven-digits.flac", rate)
    at_once = torchaudio.transforms.Resample(rate, RATE)(torch.from_numpy(samples)).numpy()
    recognizer = StreamingRecognizer(model, processor, 32, 16)
    logits = []
    step = int(size * rate)
    for start in range(0, len(samples), step):
        logits.append(recognizer.logits(samples[start : start + step], rate))
    logits.append(recognizer.logits(np.zeros(0), rate, is_last=True))
    torch.testing.assert_close(torch.cat(logits), whole(model, processor, at_once, 32, 16), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [44_100, 44_100.0, 48_000])
def test_other_rates_give_the_same_words(an4_model, repository, rate):
    path = repository / "demo" / "examples" / "an4-seven-digits.flac"
    recognizer = StreamingRecognizer(*an4_model)
    expected = words(recognizer, read_audio(path, RATE), 800)
    assert expected == ["THREE", "THREE", "ONE", "OH", "ONE", "EIGHT", "EIGHT"]
    recognizer.reset()
    assert words(recognizer, read_audio(path, int(rate)), 2205, rate) == expected


def test_committed_words_have_rising_times_and_never_change(an4_model, repository):
    model, processor = an4_model
    samples = read_audio(repository / "demo" / "examples" / "an4-seven-digits.flac", RATE)
    recognizer = StreamingRecognizer(model, processor, 32, 16, endpoint_seconds=0.4)
    committed, segments, partials = [], [], []
    for start in range(0, len(samples), 800):
        update = recognizer.feed(samples[start : start + 800])
        committed += update.words
        segments += update.segments
        partials.append(update.partial)
        assert all(word.end <= (start + 800) / RATE for word in update.words)  # nothing of the future
    update = recognizer.flush()
    committed += update.words
    segments += update.segments
    assert [word.word for word in committed] == ["THREE", "THREE", "ONE", "OH", "ONE", "EIGHT", "EIGHT"]
    assert [word for segment in segments for word in segment] == committed
    assert len(segments) == 2  # there is a pause after the third
    times = [time for word in committed for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(0.5 < word.confidence <= 1 for word in committed)
    assert any(partials)
    assert update.partial == ""


def test_silence_gives_no_segment(small_models, processor):
    recognizer = StreamingRecognizer(small_models[4], processor)
    recognizer._decoder.update(torch.nn.functional.one_hot(torch.zeros(100, dtype=torch.long), 29) * 9.0)
    assert recognizer.flush().segments == []


def frames(tokenizer, path: str) -> torch.Tensor:
    """Logits of a path, a character a frame (- is the blank)."""
    vocab = tokenizer.get_vocab() | {"-": tokenizer.pad_token_id}
    return torch.nn.functional.one_hot(torch.tensor([vocab[c] for c in path]), len(tokenizer)) * 20.0


def heard(decoder, logits: torch.Tensor) -> list[list]:
    """The segments of logits that come eight frames at a time."""
    updates = [decoder.update(logits[i : i + 8]) for i in range(0, len(logits), 8)]
    updates.append(decoder.update(logits[:0], is_last=True))
    return [segment for update in updates for segment in update.segments]


@pytest.mark.parametrize("silence", ["-", "|", "-|", "|--"])
def test_silence_ends_a_segment_whichever_class_it_has(small_models, processor, silence):
    decoder = StreamingRecognizer(small_models[4], processor, endpoint_seconds=0.8)._decoder
    update = decoder.update(frames(processor.tokenizer, "AB|-C" + (silence * 20)[:19]))
    assert update.segments == []
    update = decoder.update(frames(processor.tokenizer, (silence * 20)[19:20]))
    assert [[word.word for word in segment] for segment in update.segments] == [["AB", "C"]]


@pytest.mark.parametrize(("path", "longest"), [("AB|" * 4000, 60), ("AB" * 5000, 120)])
def test_a_segment_without_a_pause_ends_all_the_same(small_models, processor, path, longest):
    """After a minute with a word, after two within one; nothing is lost, and what is kept is bounded."""
    decoder = StreamingRecognizer(small_models[4], processor)._decoder
    kept = []

    class Watched:
        def update(self, *arguments, **options):
            update = decoder.update(*arguments, **options)
            kept.append(len(decoder.letters) + sum(len(word.characters) for word in decoder.segment))
            return update

    segments = heard(Watched(), frames(processor.tokenizer, path))
    assert "".join(word.word for segment in segments for word in segment) == path.replace("|", "")
    lengths = [segment[-1].end - segment[0].start for segment in segments]
    assert lengths[:-1] == pytest.approx([longest] * (len(lengths) - 1), abs=0.2)
    assert len(lengths) > 3
    assert max(kept) <= longest / 0.04 + 1


def test_a_letter_in_which_a_segment_ends_is_heard_once(small_models, processor):
    decoder = StreamingRecognizer(small_models[4], processor)._decoder
    segments = heard(decoder, frames(processor.tokenizer, "A" * 4000 + "B"))
    assert [[word.word for word in segment] for segment in segments] == [["A"], ["B"]]


def test_what_is_kept_does_not_grow(small_models, processor, monkeypatch):
    monkeypatch.setattr("hf_speechrec.streaming.LONGEST_SECONDS", 1.0)
    recognizer = StreamingRecognizer(small_models[4], processor, 8, 4)
    sizes = []
    for i in range(60):
        recognizer.feed(np.random.default_rng(i).standard_normal(8000).astype(np.float32) * 0.1, 48_000)
        kept = [recognizer._samples, recognizer._features, recognizer._encoded, recognizer._resampler.buffer]
        kept += [recognizer._decoder.letters, recognizer._decoder.segment]
        sizes.append(sum(len(part) for part in kept))
    assert max(sizes[30:]) <= max(sizes[:30])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunk_frames": 0}, "expected chunk_frames to be a whole number of at least 1, got 0"),
        ({"chunk_frames": 2.5}, r"expected chunk_frames to be a whole number of at least 1, got 2\.5"),
        ({"chunk_frames": 4, "lookahead_frames": -1}, "expected lookahead_frames to be .* at least 0, got -1"),
        ({"lookahead_frames": 4}, "expected chunk_frames beside lookahead_frames, got none"),
        ({"chunk_frames": 4, "latency": 0.64}, r"expected either chunk_frames or a latency, got both \(4 and 0\.64\)"),
        ({"latency": np.nan}, "expected latency to be a finite number of seconds above 0, got nan"),
        ({"latency": np.inf}, "expected latency to be a finite number of seconds above 0, got inf"),
        ({"latency": -1.0}, r"expected latency to be a finite number of seconds above 0, got -1\.0"),
        ({"latency": 0.1}, "expected a latency of at least 140 ms, got 100 ms"),
        ({"endpoint_seconds": 0}, "expected endpoint_seconds to be a finite number of seconds above 0, got 0"),
        ({"endpoint_seconds": np.nan}, "expected endpoint_seconds to be a finite number of seconds above 0, got nan"),
    ],
)
def test_arguments_that_mean_nothing_are_said(small_models, processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        StreamingRecognizer(small_models[4], processor, **arguments)


def test_latency_is_when_a_chunk_can_be_recognised(small_models, processor):
    recognizer = StreamingRecognizer(small_models[4], processor, 8, 4)
    samples = np.zeros(RATE, np.float32)
    needed = next(n for n in range(0, RATE, 160) if len(_fresh(recognizer).logits(samples[:n])))
    assert needed / RATE == pytest.approx(recognizer.latency, abs=0.011)


def _fresh(recognizer: StreamingRecognizer) -> StreamingRecognizer:
    recognizer.reset()
    return recognizer


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.full(100, np.nan, np.float32), RATE, "expected finite samples"),
        (np.zeros(100, np.int16), RATE, "expected float samples in about .-1, 1., got int16"),
        (np.full(100, np.inf, np.float32), RATE, "expected finite samples"),
        (np.zeros((2, 100), np.float32), RATE, r"expected mono samples of shape \(samples,\), got \(2, 100\)"),
        (np.zeros(100, np.float32), 8_000, "expected 16000 Hz as before, got 8000 Hz"),
        (np.zeros(100, np.float32), 0, "expected a sampling rate of 1000 to 768000 whole Hz, got 0"),
        (np.zeros(100, np.float32), -16_000, "expected a sampling rate of 1000 to 768000 whole Hz, got -16000"),
        (np.zeros(100, np.float32), 44_100.5, r"expected a sampling rate of 1000 to 768000 whole Hz, got 44100\.5"),
        (np.zeros(100, np.float32), np.nan, "expected a sampling rate of 1000 to 768000 whole Hz, got nan"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_the_stream_goes_on(an4_model, speech, samples, rate, message):
    model, processor = an4_model
    recognizer = StreamingRecognizer(model, processor, 8, 4)
    logits = [recognizer.logits(speech[:9000])]
    with pytest.raises(ValueError, match=message):
        recognizer.feed(samples, rate)
    logits.append(recognizer.logits(speech[9000:], is_last=True))
    assert (torch.cat(logits) - whole(model, processor, speech, 8, 4)).abs().max() < 1e-4


def test_after_the_end_only_a_reset_helps(an4_model, speech):
    recognizer = StreamingRecognizer(*an4_model)
    first = words(recognizer, speech, 4000)
    with pytest.raises(ValueError, match=r"flushed: call reset\(\)"):
        recognizer.feed(speech)
    assert recognizer.flush().words == []  # nothing is heard twice
    recognizer.reset()
    assert words(recognizer, speech, 1234) == first


def test_nothing_at_all_is_no_error(small_models, processor):
    recognizer = StreamingRecognizer(small_models[4], processor)
    assert recognizer.flush().words == []
