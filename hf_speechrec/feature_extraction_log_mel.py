"""Waveform → log-mel frames and their mask.

This file travels to the Hub beside the weights: it may import torch, transformers and numpy only.
"""

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

LOG_FLOOR = 1e-6  # power; about the quantisation noise of 16-bit audio, so that digital silence stays finite
MAX_WINDOW = 16_384  # samples: a file may not ask for all memory there is


class LogMelFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Log-mel spectrogram, normalised per mel bin by figures of the training set.

    Frame `t` is centred on the samples `[t * hop_length, (t + 1) * hop_length)`, and an utterance of `n` samples has
    exactly `ceil(n / hop_length)` frames: no frame stands for padding alone, and chunks cut at multiples of the hop
    line up. The normalisation uses stored figures rather than those of the utterance, because a stream has no
    whole utterance to take them from.

    Args:
        feature_size (`int`, defaults to 80): number of mel bins.
        sampling_rate (`int`, defaults to 16000): Hz.
        hop_length (`int`, defaults to 160): samples between frames (10 ms at 16 kHz).
        win_length (`int`, defaults to 400): samples in a periodic Hann window (25 ms at 16 kHz).
        n_fft (`int`, defaults to 512): size of the Fourier transform, at least `win_length`.
        feature_mean (`list[float]`, *optional*): mean of each mel bin over the training set; 0 where not given.
        feature_std (`list[float]`, *optional*): standard deviation of each mel bin; 1 where not given.
        padding_value (`float`, defaults to 0.0): value of padded frames, the mean of the training set.
        normalize_by_speaker (`bool`, defaults to `False`): whether the model has been trained on frames less each
            speaker's own mean. `feature_mean` is then the mean of the training speakers', which stands for a speaker
            nobody knows; `hf_speechrec.speaker_normalization` puts a known one's in its place.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012  transformers declares it so

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16_000,
        hop_length: int = 160,
        win_length: int = 400,
        n_fft: int = 512,
        feature_mean: list[float] | None = None,
        feature_std: list[float] | None = None,
        padding_value: float = 0.0,
        normalize_by_speaker: bool = False,
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        sizes = {
            "feature_size": (feature_size, 1, 1024),
            "sampling_rate": (sampling_rate, 1000, 768_000),
            "hop_length": (hop_length, 1, MAX_WINDOW),
            "win_length": (win_length, 1, MAX_WINDOW),
            "n_fft": (n_fft, 1, MAX_WINDOW),
        }
        for name, (size, least, most) in sizes.items():
            if not (isinstance(size, int) and least <= size <= most):
                raise ValueError(f"expected {name} to be a whole number from {least} to {most}, got {size!r}")
        if not isinstance(normalize_by_speaker, bool):
            raise ValueError(f"expected normalize_by_speaker to be true or false, got {normalize_by_speaker!r}")
        if not np.isfinite(padding_value):
            raise ValueError(f"expected a finite padding_value, got {padding_value}")
        if not hop_length <= win_length <= n_fft:
            raise ValueError(
                f"expected hop_length <= win_length <= n_fft, got {hop_length}, {win_length} and {n_fft} samples"
            )
        for name, figures in (("feature_mean", feature_mean), ("feature_std", feature_std)):
            if figures is not None and len(figures) != feature_size:
                raise ValueError(f"expected {feature_size} values in {name}, one a mel bin, got {len(figures)}")
            if figures is not None and not np.isfinite(np.array(figures, dtype=np.float64)).all():
                raise ValueError(f"expected finite values in {name}")
        if feature_std is not None and min(feature_std) <= 0:
            raise ValueError(f"expected values above 0 in feature_std, got {min(feature_std)}")
        self.hop_length = hop_length
        self.win_length = win_length
        self.n_fft = n_fft
        self.feature_mean = None if feature_mean is None else [float(value) for value in feature_mean]
        self.feature_std = None if feature_std is None else [float(value) for value in feature_std]
        self.normalize_by_speaker = normalize_by_speaker
        self._constants: dict[torch.device, tuple[torch.Tensor, ...]] = {}

    def to_dict(self) -> dict:
        output = super().to_dict()
        output.pop("_constants", None)
        return output

    def num_frames(self, num_samples):
        """Number of frames of `num_samples` samples (an `int` or an integer tensor): `ceil(n / hop_length)`."""
        return (num_samples + self.hop_length - 1) // self.hop_length

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        device: str | torch.device = "cpu",
        **kwargs,
    ) -> BatchFeature:
        """
        Features of one waveform or of several at once.

        Args:
            raw_speech: mono samples in [-1, 1]: an array `(samples,)`, a list of floats, or a list or array
                `(batch, samples)` of those. They may differ in length.
            sampling_rate: rate of `raw_speech` in Hz. It must be given and equal the extractor's.
            return_tensors: `"pt"` for tensors; by default and for `"np"` NumPy arrays.
            return_attention_mask: whether to return the mask of valid frames.
            device: where the features are computed, and where tensors are left.

        Returns:
            `input_features` of shape (batch, frames, mels), float32, and `attention_mask` of shape (batch, frames).

        Raises:
            ValueError: for a missing or wrong sampling rate, an empty waveform, more than one channel, or samples
                that are not finite.
        """
        if sampling_rate is None:
            raise ValueError(
                f"pass sampling_rate={self.sampling_rate} with the audio: {type(self).__name__} cannot tell the rate "
                "of raw samples, and a wrong one silently gives wrong text"
            )
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"{type(self).__name__} expects audio sampled at {self.sampling_rate} Hz, got {sampling_rate} Hz: "
                "resample it first (torchaudio.functional.resample)"
            )
        waveforms = self._to_waveforms(raw_speech)
        num_samples = torch.tensor([len(waveform) for waveform in waveforms], device=device)
        padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device)
        if not torch.isfinite(padded).all():
            raise ValueError("expected finite samples, got NaN or infinity")

        features = self._log_mel(padded)  # (batch, frames, mels)
        mask = torch.arange(features.shape[1], device=device) < self.num_frames(num_samples)[:, None]
        _, _, mean, std = self._constants_on(features.device)
        features = (features - mean) / std
        features = features.masked_fill(~mask[..., None], self.padding_value)

        data = {"input_features": features}
        if return_attention_mask:
            data["attention_mask"] = mask.long()
        if return_tensors != "pt":
            return BatchFeature(
                {name: tensor.cpu().numpy() for name, tensor in data.items()}, tensor_type=return_tensors
            )
        return BatchFeature(data)

    @staticmethod
    def _to_waveforms(raw_speech) -> list[torch.Tensor]:
        """One float32 tensor (samples,) for each utterance."""
        is_batch = getattr(raw_speech, "ndim", None) == 2 or (
            isinstance(raw_speech, list | tuple) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        )
        # Copied: torch takes neither read-only arrays (of a decoder's bytes) nor those of negative strides.
        waveforms = [
            torch.as_tensor(item if isinstance(item, torch.Tensor) else np.array(item, np.float32), dtype=torch.float32)
            for item in (raw_speech if is_batch else [raw_speech])
        ]
        for waveform in waveforms:
            if waveform.ndim != 1:
                raise ValueError(f"expected mono audio of shape (samples,), got {tuple(waveform.shape)}")
            if len(waveform) == 0:
                raise ValueError("expected at least one sample, got an empty waveform")
        return waveforms

    def _log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, frames, mels)."""
        window, filters, _, _ = self._constants_on(waveforms.device)
        frames = self.num_frames(waveforms.shape[1])
        # torch.stft centres the window in n_fft, and a frame is centred on its hop: half of the excess lies before it.
        left = (self.n_fft - self.hop_length) // 2
        right = (frames - 1) * self.hop_length + self.n_fft - left - waveforms.shape[1]
        spectrum = torch.stft(
            torch.nn.functional.pad(waveforms, (left, right)),
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=window,
            center=False,
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)  # (batch, bins, frames)
        return torch.log((filters @ power).clamp(min=LOG_FLOOR)).transpose(1, 2)

    def _constants_on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        if device not in self._constants:
            filters = mel_filter_bank(
                num_frequency_bins=self.n_fft // 2 + 1,
                num_mel_filters=self.feature_size,
                min_frequency=20.0,  # Hz; below is rumble
                max_frequency=self.sampling_rate / 2,
                sampling_rate=self.sampling_rate,
                mel_scale="htk",
                triangularize_in_mel_space=True,
            )
            self._constants[device] = (
                torch.hann_window(self.win_length, device=device),
                torch.tensor(np.ascontiguousarray(filters.T), dtype=torch.float32, device=device),
                torch.tensor(self.feature_mean or [0.0], dtype=torch.float32, device=device),
                torch.tensor(self.feature_std or [1.0], dtype=torch.float32, device=device),
            )
        return self._constants[device]


__all__ = ["LogMelFeatureExtractor"]
