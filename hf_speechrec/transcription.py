"""Recordings → text: one model, many files, through transformers' own pipeline."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    AutoModelForCTC,
    PreTrainedModel,
    Wav2Vec2Processor,
    pipeline,
)

from .audio import SUFFIXES, AudioError, read_audio

CHECKPOINTS = Path(__file__).parent / "checkpoints"  # the bundled models, each an ordinary Hub folder
DEFAULT_MODEL = "an4"
CHUNK_SECONDS = 30.0  # longer recordings are cut into chunks that overlap by a sixth on either side
SILENCE = 1e-4  # peak (-80 dB) under which a recording holds no speech; models have not heard digital silence
WINDOW_SECONDS = 600.0  # audio held in memory at once, where files are not longer than that


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it, what was expected and what came."""


@dataclass
class Transcript:
    """The text of one recording, or the reason why there is none."""

    source: str
    text: str = ""
    duration: float = 0.0  # seconds
    words: list[dict] = field(default_factory=list)  # {"word", "start", "end"}, seconds
    error: str | None = None


def load_recognizer(model: str | PathLike = DEFAULT_MODEL, device: str | None = None):
    """
    A model as transformers' speech recognition pipeline.

    Args:
        model: the name of a bundled model ("an4"), a folder, or an id on the Hub.
        device: "cpu", "cuda" or "mps"; by default the best there is.

    Raises:
        ModelError: for a folder or id without a model that can be loaded, or a device that is not there.
    """
    network, processor = load_model(model)
    try:
        return pipeline(
            "automatic-speech-recognition",
            model=network,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
            device=best_device() if device is None else device,
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"device {device}: cannot be used here ({_first_line(error)})") from None


def load_model(model: str | PathLike) -> tuple[PreTrainedModel, Wav2Vec2Processor]:
    """The network and processor of a bundled model, a folder, or an id on the Hub. Raises `ModelError`."""
    name = str(CHECKPOINTS / str(model)) if (CHECKPOINTS / str(model)).is_dir() else str(model)
    if not Path(name).is_dir() and not (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        bundled = ", ".join(sorted(path.name for path in CHECKPOINTS.glob("*") if path.is_dir()))
        raise ModelError(f"{model}: no such folder, no bundled model ({bundled}), and not an id on the Hub (user/name)")
    try:
        return AutoModelForCTC.from_pretrained(name), Wav2Vec2Processor.from_pretrained(name)
    except StrictDataclassError as error:  # its first line does not say what is wrong, its cause does
        raise ModelError(f"{model}: not a model that can be loaded ({error.__cause__})") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{model}: not a model that can be loaded ({_first_line(error)})") from error


def best_device() -> str:
    """ "cuda" or "mps" where there is one, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def audio_files(sources: Iterable[str | PathLike]) -> list[str]:
    """Folders are replaced by the recordings in them (at any depth, by name), everything else stays as it is."""
    files: list[str] = []
    for source in map(str, sources):
        if not Path(source).is_dir():
            files.append(source)
            continue
        found = sorted(str(path) for path in Path(source).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise AudioError(f"{source}: expected recordings, found none ({', '.join(sorted(SUFFIXES))})")
        files += found
    return files


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
    if isinstance(source, np.ndarray):
        return Transcript("array", duration=len(source) / sampling_rate), source
    path = source.get("path") if isinstance(source, dict) else source
    name = "audio" if isinstance(path, bytes) or path is None else str(path)
    try:
        samples = read_audio(source, sampling_rate)
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


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
