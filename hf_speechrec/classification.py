"""Recordings → one label each, through transformers' own pipeline."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np
from transformers import AudioClassificationPipeline

from .audio import MAX_COMMAND_SECONDS, AudioError, prepare_array, read_audio, source_name
from .loading import load_classifier
from .speaker_normalization import adapted_to_speaker


@dataclass
class Classification:
    """The labels of one recording, the most probable first, or the reason why there are none."""

    source: str
    labels: list[dict] = field(default_factory=list)  # {"label", "score"}, probabilities
    is_confident: bool | None = None  # whether the best reaches the model's threshold, where it has one
    duration: float = 0.0  # seconds
    error: str | None = None


def classify(
    sources: Iterable[str | PathLike | bytes | dict | np.ndarray],
    classifier: AudioClassificationPipeline | None = None,
    *,
    top_k: int | None = 5,
    batch_size: int = 32,
) -> Iterator[Classification]:
    """
    Give recordings their labels, several at once.

    Args:
        sources: paths, bytes of files, `datasets.Audio` rows, or arrays (samples,) at the model's rate, of at most
            30 s each.
        classifier: from `load_classifier`; the default model where it is not given.
        top_k: how many labels each gets; all with None.
        batch_size: recordings that go through the model together.

    Yields:
        One `Classification` a source, in order. One that cannot be read has its `error` set; the others still come.
    """
    classifier = classifier or load_classifier()
    extractor: Any = classifier.feature_extractor
    threshold = getattr(classifier.model.config, "confidence_threshold", None)
    remaining = iter(sources)
    while group := list(islice(remaining, batch_size)):
        results, waveforms = [], []
        for source in group:
            result, samples = _read(source, extractor.sampling_rate)
            results.append(result)
            if samples is not None:
                waveforms.append(samples)
        # The pipeline fails on an empty list; its types know of one recording only.
        found: Any = classifier(waveforms, top_k=top_k, batch_size=batch_size) if waveforms else []  # type: ignore[arg-type]
        labels = iter(found)
        for result in results:
            if result.error is None:
                result.labels = next(labels)
                result.is_confident = None if threshold is None else result.labels[0]["score"] >= threshold
            yield result


def for_one_speaker(
    classifier: AudioClassificationPipeline, sources: Iterable[str | PathLike | bytes | dict | np.ndarray]
) -> AudioClassificationPipeline:
    """
    A classifier for the recordings of one speaker, whose voice, microphone and room it takes away: of a model that was
    trained with `features.normalize_by_speaker`.

    Args:
        classifier: from `load_classifier`; it stays as it is.
        sources: what `classify` takes: clips of that speaker, of any words; ten are nearly as good as hundreds. Those
            that cannot be read are left out.

    Raises:
        ValueError: where the model was trained otherwise, or not one clip can be read.
    """
    extractor: Any = classifier.feature_extractor
    clips = (_read(source, extractor.sampling_rate)[1] for source in sources)
    adapted = copy.copy(classifier)
    adapted.feature_extractor = adapted_to_speaker(extractor, (clip for clip in clips if clip is not None))
    return adapted


def _read(source, sampling_rate: int) -> tuple[Classification, np.ndarray | None]:
    name = source_name(source)
    try:
        if isinstance(source, np.ndarray):
            samples = prepare_array(source, sampling_rate, name)
        else:
            samples = read_audio(source, sampling_rate, MAX_COMMAND_SECONDS)
        seconds = len(samples) / sampling_rate
        if seconds > MAX_COMMAND_SECONDS:
            raise AudioError(f"{name}: expected a command of at most {MAX_COMMAND_SECONDS:g} s, got {seconds:.1f} s")
    except AudioError as error:
        return Classification(name, error=str(error)), None
    return Classification(name, duration=seconds), samples


__all__ = ["Classification", "classify", "for_one_speaker"]
