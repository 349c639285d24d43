"""A speaker's mean log-mel frame, taken away: voice, microphone and room are then no part of what is said.

Cepstral mean normalisation over all that a speaker has said, as Kaldi's recipes do it (Povey et al., 2011, "The Kaldi
speech recognition toolkit"). Of a single word it would take a part of the word away, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from .audio import MAX_COMMAND_SECONDS, AudioError, read_audio, row_source
from .feature_extraction_log_mel import LogMelFeatureExtractor

LOUD_DB = 30  # frames within so much of a clip's loudest: pauses tell of the room, and clips are cut differently


@dataclass
class FrameSums:
    """Sums over loud log-mel frames: `total` and `squares` (mels,), and their number."""

    total: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    frames: int = 0

    def add(self, waveform: np.ndarray, extractor: LogMelFeatureExtractor) -> None:
        """Count a clip in: its samples (samples,), by an extractor that does not normalise."""
        features = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        log_mel = features["input_features"][0].double()
        power = log_mel.logsumexp(-1)
        loud = log_mel[power >= power.max() - LOUD_DB / 10 * np.log(10)]
        self.total = self.total + loud.sum(0)
        self.squares = self.squares + loud.square().sum(0)
        self.frames += len(loud)

    @property
    def mean(self) -> torch.Tensor:
        """(mels,)"""
        return self.total / self.frames


def speaker_sums(dataset: Iterable[dict], extractor: LogMelFeatureExtractor) -> dict[str, FrameSums]:
    """The sums of each speaker of a corpus; clips that cannot be read are left out."""
    plain = _with_figures(extractor, None, None)
    sums: dict[str, FrameSums] = {}
    for row in dataset:
        try:
            waveform = read_audio(row_source(row), extractor.sampling_rate, MAX_COMMAND_SECONDS)
        except AudioError:
            continue
        sums.setdefault(row["speaker"], FrameSums()).add(waveform, plain)
    return sums


def adapted_to_speaker(extractor: LogMelFeatureExtractor, clips: Iterable[np.ndarray]) -> LogMelFeatureExtractor:
    """
    An extractor that takes away one speaker's mean in place of the training speakers'.

    Args:
        extractor: of a model that was trained with `normalize_by_speaker`.
        clips: samples (samples,) of that speaker at the extractor's rate, of all words alike if possible; ten will do.

    Raises:
        ValueError: without a clip, and for an extractor whose model was trained otherwise.
    """
    if not extractor.normalize_by_speaker:
        raise ValueError(
            "expected a model that was trained with features.normalize_by_speaker; this one takes speakers as they are"
        )
    sums, plain = FrameSums(), _with_figures(extractor, None, None)
    for clip in clips:
        sums.add(clip, plain)
    if not sums.frames:
        raise ValueError("expected at least one clip of the speaker, got none")
    return _with_figures(extractor, sums.mean.tolist(), extractor.feature_std)


def _with_figures(
    extractor: LogMelFeatureExtractor, mean: list[float] | None, std: list[float] | None
) -> LogMelFeatureExtractor:
    settings = extractor.to_dict() | {"feature_mean": mean, "feature_std": std}
    return cast(LogMelFeatureExtractor, type(extractor).from_dict(settings))


__all__ = ["LOUD_DB", "FrameSums", "adapted_to_speaker", "speaker_sums"]
