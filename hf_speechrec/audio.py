"""File, bytes or array → mono float32 samples at the model's rate. The one place where audio is read."""

import functools
import io
from collections.abc import Iterable, Iterator
from math import gcd
from os import PathLike
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

# Without RAW, which has no header: nobody could tell its rate.
SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats() if name != "RAW"} | {
    ".opus",
    ".sph",
    ".aif",
    ".m4a",
    ".webm",
}
BLOCK_SECONDS = 30.0  # of a long recording that are read at once
MAX_COMMAND_SECONDS = 30.0  # one label fits a command, not a recording of minutes
# The largest value that a file may claim: a corrupt float file can hold finite nonsense that would drown everything.
MAX_AMPLITUDE = 1e6


class AudioError(ValueError):
    """Audio that cannot be used; the message names the source, what was expected and what came."""


def read_audio(source: str | PathLike | bytes | dict, sampling_rate: int) -> np.ndarray:
    """
    Mono samples of a recording.

    Args:
        source: a path, the bytes of a file, or a row of `datasets.Audio(decode=False)`: `{"bytes", "path"}`.
        sampling_rate: Hz of the result; the recording is resampled where it differs.

    Returns:
        float32 samples (samples,) in about [-1, 1], the mean of all channels.

    Raises:
        AudioError: for a missing, empty, unreadable or truncated file, and for samples that are not finite.
    """
    name, file = _open(source)
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: .raw, without a rate
        samples, rate = _read_with_torchcodec(source, name, error)
    samples = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    return prepare_waveform(samples, rate, sampling_rate, name)


def prepare_waveform(samples: np.ndarray, rate: int, sampling_rate: int, name: str = "audio") -> np.ndarray:
    """Check mono samples (samples,) of `rate` Hz and resample them to `sampling_rate` Hz. Raises `AudioError`."""
    if len(samples) == 0:
        raise AudioError(f"{name}: expected at least one sample, the audio is empty")
    check_samples(samples, name)
    if rate != sampling_rate:
        samples = resampler(rate, sampling_rate)(torch.from_numpy(samples)).numpy()
    return samples


def check_samples(samples: np.ndarray, name: str = "audio") -> None:
    """Raises `AudioError` for samples that are not finite or claim to be louder than anything is."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: expected finite samples, got NaN or infinity")
    if len(samples) and np.abs(samples).max() > MAX_AMPLITUDE:
        raise AudioError(f"{name}: expected samples in about [-1, 1], got {np.abs(samples).max():.3g}")


def audio_blocks(source: str | PathLike | bytes | dict, sampling_rate: int) -> Iterator[np.ndarray]:
    """
    What `read_audio` gives, in pieces (samples,) of half a minute, so that hours need no more memory than minutes.

    Raises `AudioError` as `read_audio` does, where it meets what is wrong.
    """
    resample = None
    for samples, rate in decoded_blocks(source):
        check_samples(samples, source_name(source))
        resample = resample or StreamResampler(rate, sampling_rate)
        yield resample.feed(samples)
    if resample is None:
        raise AudioError(f"{source_name(source)}: expected at least one sample, the audio is empty")
    yield resample.flush()


def decoded_blocks(source: str | PathLike | bytes | dict) -> Iterator[tuple[np.ndarray, int]]:
    """Mono samples (samples,) as they stand in a file, half a minute at a time, and their rate in Hz."""
    name, file = _open(source)
    try:
        recording = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: .raw, without a rate
        samples, rate = _read_with_torchcodec(source, name, error)
        yield samples.mean(axis=1), rate
        return
    with recording:
        while True:
            try:
                samples = recording.read(round(BLOCK_SECONDS * recording.samplerate), dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise AudioError(f"{name}: not audio that can be read ({_reason(error)})") from None
            if not len(samples):
                return
            yield samples.mean(axis=1), recording.samplerate


def audio_duration(source: str | PathLike) -> float:
    """Seconds of a recording, from its header alone. Raises `AudioError` as `read_audio` does."""
    name, file = _open(source)
    try:
        info = soundfile.info(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: .raw, without a rate
        samples, rate = _read_with_torchcodec(source, name, error)
        return len(samples) / rate
    if info.frames <= 0:
        raise AudioError(f"{name}: expected at least one sample, the audio is empty")
    return info.frames / info.samplerate


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


def source_name(source) -> str:
    """What a person calls a source of `read_audio`, or an array."""
    path = source.get("path") if isinstance(source, dict) else source
    return str(path) if isinstance(path, str | PathLike) else "audio"


def row_source(row: dict):
    """What `read_audio` takes of a corpus row: its undecoded `audio` (from the Hub), else its `path`."""
    return row["audio"] if "audio" in row else row["path"]


def _open(source) -> tuple[str, str | io.BytesIO]:
    """A name for messages, and what soundfile can read."""
    if isinstance(source, dict):
        name = str(source.get("path") or "audio")
        return (name, io.BytesIO(source["bytes"])) if source.get("bytes") is not None else _open(source.get("path"))
    if isinstance(source, bytes | bytearray):
        return "audio", io.BytesIO(source)
    if source is None:
        raise AudioError("audio: expected a recording, got none")
    path = Path(source)
    try:
        if not path.exists():
            raise AudioError(f"{path}: no such file")
        if path.is_dir():
            raise AudioError(f"{path}: expected an audio file, got a folder")
        if path.stat().st_size == 0:
            raise AudioError(f"{path}: expected audio, the file is empty (0 bytes)")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise AudioError(f"{path}: expected a file that can be opened ({error.strerror})") from None
    return str(path), str(path)


def _read_with_torchcodec(source, name: str, cause: Exception) -> tuple[np.ndarray, int]:
    """What soundfile cannot read (m4a, webm, video) torchcodec may, where it and a system FFmpeg are installed."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError):
        raise AudioError(f"{name}: not audio that can be read ({_reason(cause)})") from None
    if isinstance(source, dict):
        source = source.get("bytes") or source["path"]
    try:
        decoded = AudioDecoder(source).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"{name}: not audio that can be read ({_reason(error)})") from None
    return decoded.data.T.numpy(), decoded.sample_rate


def _reason(error: Exception) -> str:
    """The first line of an error, without the path that soundfile repeats."""
    return str(getattr(error, "error_string", error)).strip().splitlines()[0].rstrip(".")


@functools.lru_cache(maxsize=16)
def resampler(rate: int, sampling_rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, sampling_rate)


class StreamResampler:
    """Resampling as of the whole recording: what a filter reaches for is kept from one piece to the next."""

    def __init__(self, rate: int, new_rate: int):
        self.rate = rate
        common = gcd(rate, new_rate)
        self.step, self.new_step = rate // common, new_rate // common  # samples before and after that take equally long
        self.resample = None if rate == new_rate else resampler(rate, new_rate)
        # Both sides of the filter, in whole steps.
        self.context = 0 if self.resample is None else self.resample.width // self.step + 2
        self.buffer = np.zeros(0, np.float32)
        self.given = 0  # whole steps at the buffer's beginning that have been given already

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """(samples,) at the old rate → those at the new one that are ready."""
        if self.resample is None:
            return samples
        self.buffer = np.concatenate([self.buffer, samples])
        ready = len(self.buffer) // self.step - self.context
        if ready <= self.given:
            return np.zeros(0, np.float32)
        new = self.resample(torch.from_numpy(self.buffer)).numpy()[self.given * self.new_step : ready * self.new_step]
        dropped = max(0, ready - self.context)
        self.buffer = self.buffer[dropped * self.step :]
        self.given = ready - dropped
        return new

    def flush(self) -> np.ndarray:
        """The rest."""
        if self.resample is None or not len(self.buffer):
            return np.zeros(0, np.float32)
        return self.resample(torch.from_numpy(self.buffer)).numpy()[self.given * self.new_step :]
