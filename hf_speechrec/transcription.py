"""Recordings → text: one model, many files, through transformers' own pipeline."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline

from .audio import AudioError, read_audio, source_name
from .loading import load_recognizer

CHUNK_SECONDS = 30.0  # longer recordings are cut into chunks that overlap by a sixth on either side
SILENCE = 1e-4  # peak (-80 dB) under which a recording holds no speech; models have not heard digital silence
WINDOW_SECONDS = 600.0  # audio held in memory at once, where files are not longer than that


@dataclass
class Transcript:
    """The text of one recording, or the reason why there is none."""

    source: str
    text: str = ""
    duration: float = 0.0  # seconds
    words: list[dict] = field(default_factory=list)  # {"word", "start", "end"}, seconds
    error: str | None = None


def transcribe(
    sources: Iterable[str | PathLike | bytes | dict | np.ndarray],
    recognizer: AutomaticSpeechRecognitionPipeline | None = None,
    *,
    word_times: bool = False,
    batch_size: int = 8,
) -> Iterator[Transcript]:
    """
    Transcribe recordings, several at once.

    Args:
        sources: paths, bytes of files, `datasets.Audio` rows, or arrays (samples,) at the model's rate.
        recognizer: from `load_recognizer`; the default model where it is not given.
        word_times: also find out when each word was said.
        batch_size: chunks of up to 30 seconds that go through the model together.

    Yields:
        One `Transcript` a source, in order. One that cannot be read has its `error` set; the others still come.
    """
    recognizer = recognizer or load_recognizer()
    extractor: Any = recognizer.feature_extractor
    window: list[tuple[Transcript, np.ndarray | None]] = []
    seconds = 0.0
    for source in sources:
        transcript, samples = _read(source, extractor.sampling_rate)
        if seconds + transcript.duration > WINDOW_SECONDS:
            yield from _transcribe_window(window, recognizer, word_times, batch_size)
            window, seconds = [], 0.0
        window.append((transcript, samples))
        seconds += transcript.duration
    yield from _transcribe_window(window, recognizer, word_times, batch_size)


def _read(source, sampling_rate: int) -> tuple[Transcript, np.ndarray | None]:
    name = source_name(source)
    try:
        samples = source if isinstance(source, np.ndarray) else read_audio(source, sampling_rate)
    except AudioError as error:
        return Transcript(name, error=str(error)), None
    return Transcript(name, duration=len(samples) / sampling_rate), samples


def _transcribe_window(window, recognizer, word_times: bool, batch_size: int) -> Iterator[Transcript]:
    # The longest first: neighbours in a batch are then of similar length, and a shortage of memory shows at once.
    audible = [i for i, (_, samples) in enumerate(window) if samples is not None and np.abs(samples).max() >= SILENCE]
    order = sorted(audible, key=lambda i: -window[i][0].duration)
    # Whole where they fit: of a chunk's last frame the pipeline drops what is less than half a frame.
    long = sum(window[i][0].duration > CHUNK_SECONDS for i in order)
    for indices, chunk_seconds in ((order[:long], CHUNK_SECONDS), (order[long:], None)):
        if not indices:  # the pipeline fails on an empty list
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "use a dataset on GPU": this is batched already
            results = recognizer(
                [window[i][1] for i in indices],
                chunk_length_s=chunk_seconds,
                batch_size=batch_size,
                return_timestamps="word" if word_times else None,
            )
        for i, result in zip(indices, results, strict=True):
            transcript = window[i][0]
            transcript.text = result["text"]
            for chunk in result.get("chunks", []):
                start, end = chunk["timestamp"]
                word = {"word": chunk["text"], "start": round(float(start), 3), "end": round(float(end), 3)}
                transcript.words.append(word)
    yield from (transcript for transcript, _ in window)
