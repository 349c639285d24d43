"""File, bytes or array → mono float32 samples at the model's rate. The one place where audio is read."""

import functools
import io
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
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
BLOCK_VALUES = 1 << 24  # of all channels, at most: what a header claims must not cost memory
MAX_COMMAND_SECONDS = 30.0  # one label fits a command, not a recording of minutes
# What a file may claim. A corrupt float file can hold finite nonsense that would drown everything; at a corrupt rate of
# 1 Hz a second of audio would be hours.
MAX_AMPLITUDE = 1e6
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
UNKNOWN_FRAMES = (1 << 63) - 1  # libsndfile's, for a FLAC that was written into a pipe
FILTER_VALUES = 1 << 22  # of a resampler's filters


class AudioError(ValueError):
    """Audio that cannot be used; the message names the source, what was expected and what came."""


def read_audio(source: str | PathLike | bytes | dict, sampling_rate: int, max_seconds: float = math.inf) -> np.ndarray:
    """
    Mono samples of a recording.

    Args:
        source: a path, the bytes of a file, or a row of `datasets.Audio(decode=False)`: `{"bytes", "path"}`.
        sampling_rate: Hz of the result; the recording is resampled where it differs.
        max_seconds: no more than that is read, whatever the header says.

    Returns:
        float32 samples (samples,) in about [-1, 1], the mean of all channels.

    Raises:
        AudioError: for a missing, empty, unreadable, truncated or too long file, and for samples that are not finite.
    """
    blocks, rate, seconds = [np.zeros(0, np.float32)], sampling_rate, 0.0
    for block, rate in decoded_blocks(source):
        blocks.append(block)
        seconds += len(block) / rate
        if seconds > max_seconds:
            raise AudioError(f"{source_name(source)}: expected at most {max_seconds:g} s, got more")
    return prepare_waveform(np.concatenate(blocks), rate, sampling_rate, source_name(source))


def prepare_waveform(samples: np.ndarray, rate: int, sampling_rate: int, name: str = "audio") -> np.ndarray:
    """Check mono samples (samples,) of `rate` Hz and resample them to `sampling_rate` Hz. Raises `AudioError`."""
    if len(samples) == 0:
        raise AudioError(f"{name}: expected at least one sample, the audio is empty")
    check_samples(samples, name)
    if rate != sampling_rate:
        samples = resampler(rate, sampling_rate)(torch.from_numpy(samples)).numpy()
    return samples


def prepare_array(samples: np.ndarray, sampling_rate: int, name: str = "audio") -> np.ndarray:
    """An array at its model's rate as recordings are read: float32 (samples,). Raises `AudioError`."""
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"{name}: expected float samples of shape (samples,), got {samples.dtype} {samples.shape}")
    return prepare_waveform(samples.astype(np.float32, copy=False), sampling_rate, sampling_rate, name)


def check_samples(samples: np.ndarray, name: str = "audio") -> None:
    """Raises `AudioError` for samples that are not finite or claim to be louder than anything is."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: expected finite samples, got NaN or infinity")
    if len(samples) and np.abs(samples).max() > MAX_AMPLITUDE:
        raise AudioError(f"{name}: expected samples in about [-1, 1], got {np.abs(samples).max():.3g}")


def audio_blocks(source: str | PathLike | bytes | dict, sampling_rate: int) -> Iterator[np.ndarray]:
    """
    What `read_audio` gives, in pieces (samples,) of half a minute, so that hours need no more memory than minutes;
    except of what only torchcodec reads (m4a, webm, video), which is decoded whole.

    Raises `AudioError` as `read_audio` does, where it meets what is wrong.
    """
    resample = None
    for samples, rate in decoded_blocks(source):
        resample = resample or StreamResampler(rate, sampling_rate)
        yield resample.feed(samples)
    if resample is None:
        raise AudioError(f"{source_name(source)}: expected at least one sample, the audio is empty")
    yield resample.flush()


def decoded_blocks(source: str | PathLike | bytes | dict) -> Iterator[tuple[np.ndarray, int]]:
    """
    Mono samples (samples,) as they stand in a file, up to half a minute at a time, and their rate in Hz.

    Raises `AudioError` as `read_audio` does, where it meets what is wrong.
    """
    name, file = _open(source)
    try:
        recording = _Recording(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: .raw, without a rate
        samples, rate = _read_with_torchcodec(source, name, error)
        _check_rate(rate, name)
        check_samples(samples, name)
        yield samples.mean(axis=1), rate
        return
    with recording:
        rate, stated, read = recording.samplerate, recording.frames, 0
        _check_rate(rate, name)
        size = min(round(BLOCK_SECONDS * rate), BLOCK_VALUES // recording.channels)
        while True:
            try:
                samples = recording.read(size, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise AudioError(f"{name}: not audio that can be read ({_reason(error)})") from None
            if not len(samples):
                break
            check_samples(samples, name)
            read += len(samples)
            yield samples.mean(axis=1), rate
        # The other formats state no length, or libsndfile has corrected it by the file's.
        if recording.format == "FLAC" and read < stated != UNKNOWN_FRAMES:
            spoken = f"it ends after {read / rate:.2f} of {stated / rate:.2f} s"
            raise AudioError(f"{name}: not audio that can be read ({spoken})")


class _Recording(soundfile.SoundFile):
    """Read from its beginning to its end, without the seeking that fails where a FLAC does not state its length."""

    def seekable(self) -> bool:
        return False


def audio_duration(source: str | PathLike) -> float:
    """Seconds of a recording, from its header where that says it. Raises `AudioError` as `read_audio` does."""
    name, file = _open(source)
    try:
        info = soundfile.info(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:  # TypeError: .raw, without a rate
        samples, rate = _read_with_torchcodec(source, name, error)
        frames = len(samples)
    else:
        rate, frames = info.samplerate, info.frames
    _check_rate(rate, name)
    if frames == UNKNOWN_FRAMES:
        frames = sum(len(samples) for samples, _ in decoded_blocks(source))
    if frames <= 0:
        raise AudioError(f"{name}: expected at least one sample, the audio is empty")
    return frames / rate


def _check_rate(rate: int, name: str) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: expected a sampling rate of {MIN_RATE} to {MAX_RATE} Hz, got {rate} Hz")


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


class _Bytes(io.BytesIO):
    """Seeks as a file does for libsndfile, which a damaged header may send before the beginning."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # An error here would be printed, with its traceback, by the callback that C has called.
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(0, start + offset))


def _open(source) -> tuple[str, str | io.BytesIO]:
    """A name for messages, and what soundfile can read."""
    if isinstance(source, dict):
        name = str(source.get("path") or "audio")
        return (name, _Bytes(source["bytes"])) if source.get("bytes") is not None else _open(source.get("path"))
    if isinstance(source, bytes | bytearray):
        return "audio", _Bytes(source)
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
    return (getattr(error, "error_string", "") or first_line(error)).strip().rstrip(".")


def first_line(error: BaseException) -> str:
    """What a person reads of an error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def steps(rate: int, new_rate: int) -> tuple[int, int]:
    """
    Samples before and after resampling that take equally long. A filter is needed for each pair of them: rates that
    have little in common (44101 and 16000 Hz) are taken for the nearest that have more, a few millionths away.
    """
    exact = Fraction(rate, new_rate)
    if exact.numerator * exact.denominator > FILTER_VALUES:
        exact = exact.limit_denominator(math.isqrt(FILTER_VALUES * new_rate // rate))
    return exact.numerator, exact.denominator


@functools.lru_cache(maxsize=16)
def resampler(rate: int, sampling_rate: int) -> torchaudio.transforms.Resample:
    """From a rate to another, both in Hz: (…, samples) → (…, samples')."""
    return torchaudio.transforms.Resample(*steps(rate, sampling_rate))


class StreamResampler:
    """Resampling as of the whole recording: what a filter reaches for is kept from one piece to the next."""

    def __init__(self, rate: int, new_rate: int):
        self.rate = rate
        self.step, self.new_step = steps(rate, new_rate)
        self.resample = None if self.step == self.new_step else resampler(rate, new_rate)
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
