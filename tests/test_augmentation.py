"""Augmentation: each change is the one that was asked for, within its limits, and follows the seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE

from hf_speechrec.augmentation import Augmentation, add_noise, coloured_noise

NOTHING = Augmentation(
    speeds=[1.0], gain_db=0.0, noise_probability=0.0, silence_probability=0.0, time_masks=0, mel_masks=0
)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def strongest_frequency(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * np.log10(np.sum(signal.astype(np.float64) ** 2) / np.sum(noise.astype(np.float64) ** 2))


def test_nothing_asked_is_nothing_done(speech):
    np.testing.assert_array_equal(NOTHING.waveform(speech, RATE), speech)
    features = torch.randn(50, 80)
    assert torch.equal(NOTHING.features(features), features)


# The waveform


@pytest.mark.parametrize("speed", [0.8, 0.9, 1.1, 2.0])
def test_speed_changes_length_and_pitch_by_its_factor(speed):
    changed = replace(NOTHING, speeds=[speed]).waveform(tone(1000), RATE)
    assert len(changed) == pytest.approx(RATE / speed, abs=1)
    assert strongest_frequency(changed) == pytest.approx(1000 * speed, abs=2)


def test_every_speed_is_drawn():
    augmentation = replace(NOTHING, speeds=[0.9, 1.0, 1.1])
    lengths = {len(augmentation.waveform(tone(440, 0.1), RATE)) for _ in range(40)}
    assert lengths == {1778, 1600, 1455}  # 1600 samples over 0.9, 1 and 1.1, rounded up


def test_gain_stays_in_its_range_and_fills_it(speech):
    augmentation = replace(NOTHING, gain_db=12.0)
    gains = []
    for _ in range(200):
        changed = augmentation.waveform(speech, RATE)
        gains.append(decibels(changed, speech))
        np.testing.assert_allclose(changed, speech * 10 ** (gains[-1] / 20), atol=1e-5)
    assert -12 <= min(gains) < -11
    assert 11 < max(gains) <= 12
    assert abs(np.mean(gains)) < 1.5


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_noise_reaches_the_ratio_that_was_asked_for(speech, snr):
    changed = replace(NOTHING, noise_probability=1.0, noise_snr_db=(snr, snr)).waveform(speech, RATE)
    assert changed.dtype == np.float32
    assert decibels(speech, changed - speech) == pytest.approx(snr, abs=0.05)


def test_ratios_are_drawn_from_their_range(speech):
    augmentation = replace(NOTHING, noise_probability=1.0, noise_snr_db=(5.0, 25.0))
    ratios = [decibels(speech, augmentation.waveform(speech, RATE) - speech) for _ in range(60)]
    assert 4.95 < min(ratios) < 8
    assert 22 < max(ratios) < 25.05


def test_the_share_of_noisy_utterances():
    augmentation = replace(NOTHING, noise_probability=0.3)
    samples = tone(440, 0.02)
    noisy = sum(not np.array_equal(augmentation.waveform(samples, RATE), samples) for _ in range(500))
    assert 110 < noisy < 190


def test_the_utterance_itself_is_not_changed(speech):
    before = speech.copy()
    Augmentation(noise_probability=1.0).waveform(speech, RATE)
    np.testing.assert_array_equal(speech, before)


def test_draws_follow_torchs_seed(speech):
    augmentation = Augmentation(noise_probability=1.0)
    features = torch.randn(100, 80)

    def draw(seed: int) -> tuple[np.ndarray, torch.Tensor]:
        torch.manual_seed(seed)
        return augmentation.waveform(speech, RATE), augmentation.features(features)

    (waveform, masked), (same_waveform, same_masked), (other_waveform, other_masked) = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(waveform, same_waveform)
    assert torch.equal(masked, same_masked)
    assert not np.array_equal(waveform, other_waveform)
    assert not torch.equal(masked, other_masked)


@pytest.mark.parametrize("samples", [np.zeros(RATE, np.float32), np.zeros(1, np.float32), np.full(1, 0.5, np.float32)])
def test_silence_and_a_single_sample_stay_finite(samples):
    augmentation = Augmentation(noise_probability=1.0)
    for _ in range(10):
        changed = augmentation.waveform(samples, RATE)
        assert len(changed) > 0
        assert np.isfinite(changed).all()


@pytest.mark.parametrize("speeds", [[], [1.0, 0.0], [-1.0]])
def test_speeds_must_be_above_zero(speeds):
    with pytest.raises(ValueError, match="expected speeds above 0, got"):
        Augmentation(speeds=speeds)


# A folder of noise


def noise_folder(folder: Path, **recordings: np.ndarray) -> str:
    for name, samples in recordings.items():
        (folder / name).mkdir()
        soundfile.write(folder / name / "noise.wav", samples, RATE, subtype="FLOAT")
    return str(folder)


def with_folder(folder: str) -> Augmentation:
    return replace(NOTHING, noise_probability=1.0, noise_snr_db=(10.0, 10.0), noise_folder=folder)


@pytest.mark.parametrize("seconds", [0.05, 1.0, 10.0], ids=["shorter", "as long", "longer"])
def test_noise_comes_from_the_folder(tmp_path, speech, seconds):
    noise = with_folder(noise_folder(tmp_path, hum=tone(3000, seconds))).waveform(speech, RATE) - speech
    assert strongest_frequency(noise) == pytest.approx(3000, abs=5)
    assert decibels(speech, noise) == pytest.approx(10, abs=0.05)


def test_every_recording_of_the_folder_is_drawn_and_from_any_place(tmp_path):
    rising = np.sin(np.cumsum(np.linspace(0.2, 1.2, RATE * 4))).astype(np.float32)
    augmentation = with_folder(noise_folder(tmp_path, low=tone(100), rising=rising))
    samples = tone(6000, 0.1)
    found = [strongest_frequency(augmentation.waveform(samples, RATE) - samples) for _ in range(40)]
    assert 5 < sum(frequency < 200 for frequency in found) < 35
    assert len({round(frequency, -2) for frequency in found if frequency > 200}) > 5


@pytest.mark.parametrize("content", ["silence", "a letter"])
def test_a_silent_or_unreadable_recording_is_replaced_by_made_noise(tmp_path, speech, content):
    noise_folder(tmp_path, bad=np.zeros(RATE))
    if content == "a letter":
        (tmp_path / "bad/noise.wav").write_text("Dear Sir")
    changed = with_folder(str(tmp_path)).waveform(speech, RATE)
    assert np.isfinite(changed).all()
    assert decibels(speech, changed - speech) == pytest.approx(10, abs=0.05)


@pytest.mark.parametrize("name", [".", "missing"])
def test_a_folder_without_recordings_is_an_error(tmp_path, name):
    (tmp_path / "notes.txt").write_text("no noise here")
    with pytest.raises(ValueError, match="expected a folder of noise recordings, found none"):
        Augmentation(noise_folder=str(tmp_path / name))


# Noise that is made


def test_a_warp_moves_a_peak_along_the_mels():
    features = torch.zeros(3, 40)
    features[:, 20] = 1.0
    augmentation = replace(NOTHING, mel_warp=0.2)
    peaks = {int(augmentation.features(features)[0].argmax()) for _ in range(80)}
    assert min(peaks) in (16, 17, 18)  # 20 / 1.2 is 16.7
    assert max(peaks) in (23, 24, 25)  # 20 / 0.8 is 25
    assert replace(NOTHING, mel_warp=0.0).features(features).equal(features)
    ramp = torch.arange(40.0).expand(2, 40)
    warped = augmentation.features(ramp)[0]
    torch.testing.assert_close(warped.diff()[:30], warped.diff()[:1].expand(30))  # evenly
    assert warped[0] == 0


def test_an_equalizer_bends_the_spectrum_smoothly_within_its_bounds():
    noise = coloured_noise(4 * RATE, 0.0)
    augmentation = replace(NOTHING, equalizer_db=12.0)
    bends = []
    for _ in range(20):
        changed = torch.from_numpy(augmentation.waveform(noise.numpy(), RATE))
        assert len(changed) == len(noise)
        gains = 20 * (torch.fft.rfft(changed).abs() / torch.fft.rfft(noise).abs()).log10()[10:-10]
        assert gains.abs().max() < 12.1
        assert gains.diff().abs().max() < 0.1  # smooth
        bends.append(float(gains.max() - gains.min()))
    assert max(bends) > 10
    assert len({round(bend, 3) for bend in bends}) == 20


def test_nothing_said_is_silence_or_quiet_noise():
    augmentation = Augmentation()
    levels = []
    for _ in range(60):
        samples = augmentation.empty(RATE, RATE)
        assert samples.shape == (RATE,)
        assert samples.dtype == np.float32
        levels.append(float(np.sqrt(np.square(samples).mean())))
    silent = sum(level == 0 for level in levels)
    assert 15 < silent < 45
    loud = [20 * np.log10(level) for level in levels if level]
    assert -81 < min(loud) < max(loud) < -29


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0], ids=["white", "pink", "brown"])
def test_the_slope_of_coloured_noise(exponent):
    noise = coloured_noise(2**17, exponent)
    power = np.abs(np.fft.rfft(noise.numpy().reshape(-1, 2048) * np.hanning(2048))) ** 2
    frequencies = np.fft.rfftfreq(2048, 1 / RATE)
    band = (frequencies > 100) & (frequencies < 7000)
    slope, _ = np.polyfit(np.log(frequencies[band]), np.log(power.mean(axis=0)[band]), 1)
    assert slope == pytest.approx(-exponent, abs=0.1)


@pytest.mark.parametrize("length", [1, 2, 7, 800, 16_001])
@pytest.mark.parametrize("exponent", [0.0, 1.3, 2.0])
def test_coloured_noise_has_its_length_and_unit_power(length, exponent):
    noise = coloured_noise(length, exponent)
    assert noise.shape == (length,)
    assert noise.square().mean() == pytest.approx(1, abs=1e-4)


def test_noise_for_measuring_is_white_repeatable_and_at_its_ratio(speech):
    noisy = add_noise(speech, 20.0, seed=3)
    assert noisy.dtype == np.float32
    assert decibels(speech, noisy - speech) == pytest.approx(20, abs=0.05)
    torch.manual_seed(99)  # nothing else that is random has a say
    np.testing.assert_array_equal(add_noise(speech, 20.0, seed=3), noisy)
    assert not np.array_equal(add_noise(speech, 20.0, seed=4), noisy)
    halves = np.array_split(np.abs(np.fft.rfft(noisy - speech)) ** 2, 2)
    assert halves[0].mean() == pytest.approx(halves[1].mean(), rel=0.1)


# SpecAugment


@pytest.mark.parametrize(("frames", "longest"), [(400, 30), (100, 15), (20, 3)])
def test_time_masks_are_whole_frames_within_their_limits(frames, longest):
    augmentation = replace(NOTHING, time_masks=2, time_mask_frames=30, time_mask_share=0.15)
    counts = []
    for _ in range(60):
        features = torch.randn(frames, 80)
        before = features.clone()
        masked = augmentation.features(features)
        zero = (masked == 0).all(dim=1)
        counts.append(int(zero.sum()))
        assert torch.equal(features, before)
        assert torch.equal(masked[~zero], features[~zero])
        runs = int(zero[0]) + int((zero[1:] & ~zero[:-1]).sum())
        assert runs <= 2
    assert longest / 2 < max(counts) <= 2 * longest


def test_mel_masks_are_whole_bins_within_their_limits():
    augmentation = replace(NOTHING, mel_masks=2, mel_mask_bins=15)
    counts = []
    for _ in range(60):
        features = torch.randn(50, 80)
        masked = augmentation.features(features)
        zero = (masked == 0).all(dim=0)
        counts.append(int(zero.sum()))
        assert torch.equal(masked[:, ~zero], features[:, ~zero])
        runs = int(zero[0]) + int((zero[1:] & ~zero[:-1]).sum())
        assert runs <= 2
    assert 15 < max(counts) <= 30


@pytest.mark.parametrize("frames", [1, 2, 6])
def test_an_utterance_too_short_for_a_time_mask_keeps_its_frames(frames):
    features = torch.randn(frames, 80)
    assert torch.equal(replace(NOTHING, time_masks=2).features(features), features)
