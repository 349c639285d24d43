"""Log-mel features: their number, their values, and that neither a batch nor a cut nor a disk changes them."""

import numpy as np
import pytest
import torch
import torchaudio
from conftest import RATE
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, Wav2Vec2Processor

from hf_speechrec import LogMelFeatureExtractor
from hf_speechrec.audio import read_audio

EXTRACTOR = LogMelFeatureExtractor()


def features_of(samples, extractor: LogMelFeatureExtractor = EXTRACTOR) -> torch.Tensor:
    """(frames, mels) of one utterance."""
    return extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"][0]


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


# Shapes


@settings(max_examples=150)
@given(st.integers(1, 3_000), st.sampled_from([(160, 400, 512), (200, 400, 400), (128, 512, 512), (1, 25, 32)]))
def test_frames_are_the_hops_begun(num_samples, sizes):
    hop, window, n_fft = sizes
    extractor = LogMelFeatureExtractor(feature_size=8, hop_length=hop, win_length=window, n_fft=n_fft)
    batch = extractor(noise(num_samples), sampling_rate=RATE, return_tensors="pt")
    expected = -(-num_samples // hop)
    assert batch["input_features"].shape == (1, expected, 8)
    assert batch["attention_mask"].shape == (1, expected)
    assert batch["attention_mask"].all()
    assert torch.isfinite(batch["input_features"]).all()
    assert extractor.num_frames(num_samples) == expected
    assert extractor.num_frames(torch.tensor([num_samples])).tolist() == [expected]


def test_a_batch_is_padded_to_its_longest():
    batch = EXTRACTOR([noise(1600), noise(1), noise(801)], sampling_rate=RATE, return_tensors="pt")
    assert batch["input_features"].shape == (3, 10, 80)
    assert batch["attention_mask"].tolist() == [[1] * 10, [1] + [0] * 9, [1] * 6 + [0] * 4]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 8_000), min_size=2, max_size=6))
def test_who_shares_the_batch_changes_nothing(lengths):
    utterances = [noise(length, seed) for seed, length in enumerate(lengths)]
    batch = EXTRACTOR(utterances, sampling_rate=RATE, return_tensors="pt")
    for features, mask, utterance in zip(
        batch["input_features"], batch["attention_mask"].bool(), utterances, strict=True
    ):
        torch.testing.assert_close(features[mask], features_of(utterance), atol=1e-4, rtol=0)
        assert not features[~mask].any()


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_padded_frames_have_the_padding_value(value):
    extractor = LogMelFeatureExtractor(padding_value=value)
    batch = extractor([noise(1600), noise(160)], sampling_rate=RATE, return_tensors="pt")
    assert (batch["input_features"][1, 1:] == value).all()
    assert (batch["input_features"][1, 0] != value).all()


def test_kinds_of_input_give_the_same_features():
    samples = noise(2000)
    read_only = samples.copy()
    read_only.flags.writeable = False  # as a decoder's bytes are
    expected = features_of(samples)
    for same in (
        torch.from_numpy(samples),
        samples.astype(np.float64),
        samples.tolist(),
        read_only,
        samples[::-1].copy()[::-1],  # negative strides
        [samples],
        [samples.tolist()],
        (samples,),
        samples[None],
        torch.from_numpy(samples)[None],
    ):
        torch.testing.assert_close(features_of(same), expected)
    pair = EXTRACTOR(np.stack([samples, -samples]), sampling_rate=RATE, return_tensors="pt")["input_features"]
    torch.testing.assert_close(pair, torch.stack([expected, expected]))


@pytest.mark.parametrize("return_tensors", [None, "np"])
def test_numpy_arrays_without_torch(return_tensors):
    batch = EXTRACTOR([noise(1600), noise(800)], sampling_rate=RATE, return_tensors=return_tensors)
    assert isinstance(batch["input_features"], np.ndarray)
    np.testing.assert_array_equal(batch["attention_mask"].sum(-1), [10, 5])
    np.testing.assert_array_equal(batch["input_features"][0], features_of(noise(1600)).numpy())
    assert set(EXTRACTOR(noise(1600), sampling_rate=RATE, return_attention_mask=False)) == {"input_features"}


# Values


def kaldi_log_mel(samples: np.ndarray, window: np.ndarray, n_fft: int) -> np.ndarray:
    """The same figures by other means: a frame at a time in NumPy, and Kaldi's mel filters as torchaudio has them."""
    filters, _ = torchaudio.compliance.kaldi.get_mel_banks(80, n_fft, float(RATE), 20.0, RATE / 2, 100.0, -500.0, 1.0)
    frames = []
    for start in range(0, len(samples), 160):
        middle = start + 80
        frame = np.zeros(len(window))
        for i in range(len(window)):
            position = middle - len(window) // 2 + i
            if 0 <= position < len(samples):
                frame[i] = samples[position]
        power = np.abs(np.fft.rfft(frame * window, n_fft)) ** 2
        frames.append(np.log(np.maximum(filters.numpy() @ power[:-1], 1e-6)))
    return np.array(frames)


def test_log_mel_against_an_independent_computation(speech):
    samples = speech[: RATE // 2 + 7]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)  # Hann, periodic
    expected = kaldi_log_mel(samples, window, 512)
    found = features_of(samples).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_power_is_torchaudios(speech):
    spectrogram = torchaudio.transforms.Spectrogram(n_fft=512, win_length=400, hop_length=160, center=False)
    filters, _ = torchaudio.compliance.kaldi.get_mel_banks(80, 512, float(RATE), 20.0, RATE / 2, 100.0, -500.0, 1.0)
    # 176 samples: a frame's window is centred in 512, and the frame on its own 160.
    power = spectrogram(torch.nn.functional.pad(torch.from_numpy(speech), (176, 336)))
    expected = torch.log((filters @ power[:-1]).clamp(min=1e-6)).T
    found = features_of(speech)
    torch.testing.assert_close(found, expected[: len(found)], atol=1e-3, rtol=0)


def test_a_louder_tone_is_higher_in_its_own_bin_by_its_decibels():
    samples = 0.01 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    quiet, loud = features_of(samples)[50], features_of(10 * samples)[50]
    assert quiet.argmax() == loud.argmax()
    assert loud.max() - quiet.max() == pytest.approx(np.log(100), abs=1e-3)


def test_silence_is_the_floor():
    torch.testing.assert_close(features_of(np.zeros(1600)), torch.full((10, 80), float(np.log(1e-6))))


def test_features_are_normalised_by_the_stored_figures(speech):
    mean, std = np.linspace(-8, 2, 80), np.linspace(0.5, 4, 80)
    extractor = LogMelFeatureExtractor(feature_mean=mean.tolist(), feature_std=std.tolist())
    expected = (features_of(speech) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(features_of(speech, extractor), expected.float(), atol=1e-4, rtol=1e-4)


def test_normalising_by_the_figures_of_a_set_gives_it_mean_zero_and_deviation_one(an4_files):
    utterances = [read_audio(path, RATE) for path in an4_files[:4]]
    frames = torch.cat([features_of(utterance) for utterance in utterances])
    extractor = LogMelFeatureExtractor(feature_mean=frames.mean(0).tolist(), feature_std=frames.std(0).tolist())
    normalised = torch.cat([features_of(utterance, extractor) for utterance in utterances])
    torch.testing.assert_close(normalised.mean(0), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(0), torch.ones(80), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("first", "last"), [(0, 40), (7, 31), (60, 61), (50, 101)])
def test_a_chunk_cut_at_multiples_of_the_hop_has_the_same_inner_frames(speech, first, last):
    whole = features_of(speech)
    chunk = features_of(speech[first * 160 : last * 160])
    assert len(chunk) == last - first
    # The window reaches 120 samples beyond a frame's own hop: only the frames at a cut may differ.
    inner = slice(1 if first else 0, len(chunk) - 1)
    torch.testing.assert_close(chunk[inner], whole[first:last][inner], atol=1e-4, rtol=0)


# Storage


def test_saved_and_loaded_it_gives_equal_features(tmp_path, speech):
    mean, std = noise(80).tolist(), (1 + noise(80) ** 2).tolist()
    extractor = LogMelFeatureExtractor(hop_length=128, feature_mean=mean, feature_std=std, padding_value=0.5)
    expected = features_of(speech, extractor)  # once used it holds tensors, which must not be stored
    extractor.save_pretrained(tmp_path)
    for loaded in (LogMelFeatureExtractor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)):
        assert type(loaded) is LogMelFeatureExtractor
        assert torch.equal(features_of(speech, loaded), expected)
        assert loaded.to_dict() == extractor.to_dict()


def test_it_travels_in_a_processor(tmp_path, speech, tokenizer):
    extractor = LogMelFeatureExtractor(feature_mean=noise(80).tolist())
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    loaded = Wav2Vec2Processor.from_pretrained(tmp_path)
    found = loaded(speech, sampling_rate=RATE, return_tensors="pt")["input_features"][0]
    assert torch.equal(found, features_of(speech, extractor))
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()


# Bad input


def test_a_missing_or_wrong_sampling_rate_is_an_error():
    with pytest.raises(ValueError, match="pass sampling_rate=16000"):
        EXTRACTOR(noise(1600))
    with pytest.raises(ValueError, match="expects audio sampled at 16000 Hz, got 8000 Hz"):
        EXTRACTOR(noise(1600), sampling_rate=8000)
    with pytest.raises(ValueError, match="expects audio sampled at 8000 Hz, got 16000 Hz"):
        LogMelFeatureExtractor(sampling_rate=8000)(noise(1600), sampling_rate=RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_an_error(value):
    samples = noise(1600)
    samples[7] = value
    with pytest.raises(ValueError, match="expected finite samples, got NaN or infinity"):
        EXTRACTOR([noise(800), samples], sampling_rate=RATE)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (noise(0), "expected at least one sample, got an empty waveform"),
        ([], "expected at least one sample, got an empty waveform"),
        ([noise(800), noise(0)], "expected at least one sample, got an empty waveform"),
        ([np.stack([noise(800), noise(800)])], r"expected mono audio of shape \(samples,\), got \(2, 800\)"),
        (noise(1600).reshape(1, 2, 800), r"expected mono audio of shape \(samples,\), got \(1, 2, 800\)"),
    ],
)
def test_empty_and_two_channel_audio_is_an_error(samples, message):
    with pytest.raises(ValueError, match=message):
        EXTRACTOR(samples, sampling_rate=RATE)


def test_sizes_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="hop_length <= win_length <= n_fft, got 500, 400 and 512"):
        LogMelFeatureExtractor(hop_length=500)
    with pytest.raises(ValueError, match="hop_length <= win_length <= n_fft, got 160, 400 and 256"):
        LogMelFeatureExtractor(n_fft=256)
    for name in ("feature_mean", "feature_std"):
        with pytest.raises(ValueError, match=f"expected 80 values in {name}, one a mel bin, got 3"):
            LogMelFeatureExtractor(**{name: [1.0, 2.0, 3.0]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"feature_size": 0}, "expected feature_size to be a whole number from 1 to 1024, got 0"),
        ({"sampling_rate": 16_000.0}, "expected sampling_rate to be a whole number"),
        ({"sampling_rate": 7}, "expected sampling_rate to be a whole number from 1000 to 768000, got 7"),
        ({"win_length": 400.5}, "expected win_length to be a whole number"),
        ({"padding_value": float("nan")}, "expected a finite padding_value, got nan"),
        ({"hop_length": -160}, "expected hop_length to be a whole number"),
        ({"n_fft": 10**9}, "expected n_fft to be a whole number from 1 to 16384, got 1000000000"),
        ({"feature_mean": [float("nan")] * 80}, "expected finite values in feature_mean"),
        ({"feature_std": [0.0] * 80}, "expected values above 0 in feature_std, got 0.0"),
    ],
)
def test_sizes_and_figures_that_no_model_has_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LogMelFeatureExtractor(**values)
