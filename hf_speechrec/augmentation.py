"""Augmentation of training utterances: speed, volume and noise on the waveform, SpecAugment on the features."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torchaudio
from scipy.fft import next_fast_len

from .audio import SUFFIXES, AudioError, read_audio

EQUALIZER_KNOTS = 5  # points of a random frequency response, evenly spaced to the ear


@dataclass
class Augmentation:
    """
    What happens to a training utterance. Draws come from torch's global generator.

    Args:
        speeds: factors one of which is drawn; pitch follows (Ko et al., 2015, "Audio augmentation for speech
            recognition").
        gain_db: volume changes by a draw from [-gain_db, gain_db].
        equalizer_db: the spectrum is bent by a random smooth curve of up to so many dB either way, as by another
            microphone (the idea is that of Nam et al., 2022, "FilterAugment").
        shift_seconds: an utterance moves by a draw from [-shift_seconds, shift_seconds] within its length; what leaves
            it at one end is replaced by silence at the other. For clips of one word.
        silence_probability: share of utterances that get digital silence before and after them, without which a
            model may find letters in it.
        silence_seconds: the most of it on each side.
        noise_probability: share of utterances that get noise.
        noise_snr_db: range of the signal-to-noise ratio.
        noise_folder: recordings to draw noise from; without it noise of a random colour, white to brown, is made.
        empty_probability: share of utterances that are replaced by silence or quiet noise without a word, so that a
            recogniser learns to write nothing where nothing is said.
        join_probability: share of the batches whose utterances are joined to recordings of two or four, with pauses of
            up to `silence_seconds` between them, so that a recogniser bears what is longer than its corpus' utterances:
            a stream, a recording of hours.
        time_masks, time_mask_frames, time_mask_share: SpecAugment's masks along time: their number, the most frames
            of each, and the largest share of an utterance that one may take (Park et al., 2019).
        mel_masks, mel_mask_bins: SpecAugment's masks along the mel bins: their number and the most bins of each.
        mel_warp: the mel axis is stretched or pressed by a draw from [-mel_warp, mel_warp], as by a shorter or longer
            vocal tract (Jaitly & Hinton, 2013): for corpora of few speakers.
    """

    speeds: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    gain_db: float = 15.0
    equalizer_db: float = 0.0
    shift_seconds: float = 0.0
    silence_probability: float = 0.2
    silence_seconds: float = 1.0
    noise_probability: float = 0.3
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    noise_folder: str | None = None
    empty_probability: float = 0.0
    join_probability: float = 0.0
    time_masks: int = 2
    time_mask_frames: int = 30
    time_mask_share: float = 0.15
    mel_masks: int = 2
    mel_mask_bins: int = 15
    mel_warp: float = 0.0

    def __post_init__(self):
        for name, value in vars(self).items():
            several = name in ("speeds", "noise_snr_db")
            numbers = value if isinstance(value, list | tuple) else [value]
            is_number = all(isinstance(number, int | float) for number in numbers) or name == "noise_folder"
            if several != isinstance(value, list | tuple) or not is_number:
                raise ValueError(f"expected {name} to be {'numbers' if several else 'a number'}, got {value!r}")
        if len(self.noise_snr_db) != 2:
            raise ValueError(f"expected noise_snr_db to be the lowest and the highest, got {self.noise_snr_db}")
        if not self.speeds or min(self.speeds) <= 0:
            raise ValueError(f"expected speeds above 0, got {self.speeds}")
        # The ratio alone counts, whatever the rate.
        self._speed_perturbation = torchaudio.transforms.SpeedPerturbation(1000, self.speeds)
        self._mel_mask = torchaudio.transforms.FrequencyMasking(self.mel_mask_bins)
        self._time_mask = torchaudio.transforms.TimeMasking(self.time_mask_frames, p=self.time_mask_share)
        self._noises: list[Path] = []
        if self.noise_folder is not None:
            self._noises = sorted(p for p in Path(self.noise_folder).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not self._noises:
                raise ValueError(f"{self.noise_folder}: expected a folder of noise recordings, found none")

    def waveform(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        """A changed copy of an utterance at a rate in Hz: (samples,) → (samples',)."""
        waveform = torch.from_numpy(samples)
        if self.speeds != [1.0]:
            waveform, _ = self._speed_perturbation(waveform)
        if self.equalizer_db:
            waveform = equalized(waveform, self.equalizer_db)
        if self.shift_seconds:
            shift = round(self.shift_seconds * sampling_rate * float(2 * torch.rand(()) - 1))
            waveform = torch.nn.functional.pad(waveform, (shift, -shift)) if abs(shift) < len(waveform) else waveform
        if torch.rand(()) < self.silence_probability:
            most = self.silence_seconds * sampling_rate
            before, after = (int(most * torch.rand(())) for _ in range(2))
            waveform = torch.nn.functional.pad(waveform, (before, after))
        if torch.rand(()) < self.noise_probability:
            low, high = self.noise_snr_db
            snr = low + (high - low) * torch.rand(())
            waveform = torchaudio.functional.add_noise(waveform, self._noise(len(waveform), sampling_rate), snr)
        if self.gain_db:
            waveform = waveform * 10 ** (self.gain_db * (2 * torch.rand(()) - 1) / 20)
        return waveform.numpy()

    def empty(self, length: int, sampling_rate: int) -> np.ndarray:
        """Nothing said: digital silence or noise (samples,) of -80 to -30 dB of full scale."""
        level = -80 + 50 * torch.rand(())
        if torch.rand(()) < 0.5:
            return np.zeros(length, dtype=np.float32)
        return (self._noise(length, sampling_rate) * 10 ** (level / 20)).numpy()

    def joined(self, waveforms: list[np.ndarray], sampling_rate: int) -> np.ndarray:
        """Utterances (samples,) one after another, with digital silence between them."""
        pieces = [waveforms[0]]
        for waveform in waveforms[1:]:
            pieces += [np.zeros(int(self.silence_seconds * sampling_rate * torch.rand(())), np.float32), waveform]
        return np.concatenate(pieces)

    def features(self, features: torch.Tensor) -> torch.Tensor:
        """A warp of one utterance's mel axis, and SpecAugment: (frames, mels). Masks hold 0, the normalised mean."""
        if self.mel_warp:
            mels = features.shape[1]
            positions = torch.arange(mels) * (1 + self.mel_warp * float(2 * torch.rand(()) - 1))
            positions = positions.clamp(max=mels - 1)
            below = positions.long()
            share = positions - below
            features = features[:, below].lerp(features[:, (below + 1).clamp(max=mels - 1)], share)
        spectrogram = features.T[None]  # (1, mels, frames)
        for _ in range(self.mel_masks):
            spectrogram = self._mel_mask(spectrogram)
        for _ in range(self.time_masks):
            spectrogram = self._time_mask(spectrogram)
        return spectrogram[0].T

    def _noise(self, length: int, sampling_rate: int) -> torch.Tensor:
        """(length,) of noise."""
        if not self._noises:
            return coloured_noise(length, exponent=2 * float(torch.rand(())))
        path = self._noises[int(torch.randint(len(self._noises), ()))]
        try:
            noise = torch.from_numpy(read_audio(path, sampling_rate))
        except AudioError:
            return coloured_noise(length, exponent=1.0)
        start = int(torch.randint(len(noise), ()))
        noise = noise.roll(-start).repeat(-(-length // len(noise)))[:length]
        # Silence cannot be scaled to any ratio: it would become NaN.
        return noise if noise.square().sum() > 0 else coloured_noise(length, exponent=1.0)


def coloured_noise(length: int, exponent: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Noise (length,) of unit power that falls with frequency as `1 / f ** exponent`: 0 white, 1 pink, 2 brown."""
    # 20 Hz stays the strongest at 16 kHz: below it brown noise would put all its power where nobody hears it.
    size = next_fast_len(length, real=True)
    frequencies = torch.arange(size // 2 + 1).clamp(min=max(1, size // 800))
    spectrum = torch.fft.rfft(torch.randn(length, generator=generator), n=size) * frequencies ** (-exponent / 2)
    noise = torch.fft.irfft(spectrum, n=size)[:length]
    return noise / noise.square().mean().sqrt().clamp(min=1e-12)


def equalized(waveform: torch.Tensor, most_db: float) -> torch.Tensor:
    """Samples (samples,) with each frequency louder or softer by a random curve, smooth to the ear."""
    size = next_fast_len(len(waveform), real=True)  # a transform of a large prime takes several times as long
    spectrum = torch.fft.rfft(waveform, n=size)
    # Frequencies as our ears space them, in [0, 1]; the lowest octaves get no more room than they need.
    mels = torch.log1p(torch.arange(len(spectrum)) * (10 / len(spectrum))) / np.log(11)
    knots = most_db * (2 * torch.rand(EQUALIZER_KNOTS) - 1)
    position = mels * (EQUALIZER_KNOTS - 1)
    below = position.long().clamp(max=EQUALIZER_KNOTS - 2)
    decibels = knots[below].lerp(knots[below + 1], position - below)
    return torch.fft.irfft(spectrum * 10 ** (decibels / 20), n=size)[: len(waveform)]


def add_noise(samples: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """White noise at a signal-to-noise ratio, for measuring: the same for the same seed. (samples,) → (samples,)"""
    generator = torch.Generator().manual_seed(seed)
    noise = coloured_noise(len(samples), 0.0, generator)
    return torchaudio.functional.add_noise(torch.from_numpy(samples), noise, torch.tensor(snr_db)).numpy()


__all__ = ["Augmentation", "add_noise", "coloured_noise"]
