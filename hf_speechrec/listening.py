"""A microphone, or a file that plays as one → samples as they come."""

import contextlib
import queue
import time
from collections.abc import Iterator
from os import PathLike

import numpy as np

from .audio import audio_blocks

BLOCK_SECONDS = 0.05
LOST_SECONDS = 5.0  # without a block: a microphone that was pulled out says nothing, and PortAudio does not tell


class MicrophoneError(ValueError):
    """A microphone that cannot be heard; the message says why."""


def microphone(device: int | str | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """
    Mono float32 samples (samples,) of a microphone and their rate in Hz, until the caller stops.

    Args:
        device: the number or a part of the name of an input of sounddevice's list; by default the system's.

    Raises:
        MicrophoneError: without the extra `listen`, PortAudio, or an input; where it does not start; and where nothing
            has come for five seconds.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package without the PortAudio library
        raise MicrophoneError(
            f"a microphone needs the extra listen: pip install 'hf_speechrec[listen]', and PortAudio ({error})"
        ) from None
    blocks: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    with contextlib.ExitStack() as opened:
        try:
            rate = int(sounddevice.query_devices(device, "input")["default_samplerate"])
            stream = sounddevice.InputStream(
                rate,
                round(BLOCK_SECONDS * rate),
                device,
                channels=1,
                dtype="float32",
                callback=lambda samples, *_: blocks.put(samples[:, 0].copy()),
            )
            opened.enter_context(stream)  # starts it
        except (sounddevice.PortAudioError, ValueError) as error:
            raise MicrophoneError(f"expected a microphone that can be opened, got: {error}") from None
        while True:
            try:
                block = blocks.get(timeout=LOST_SECONDS)
            except queue.Empty:
                raise MicrophoneError(
                    f"expected sound from the microphone, nothing has come for {LOST_SECONDS:g} s: is it plugged in?"
                ) from None
            yield block, rate


def played(path: str | PathLike, sampling_rate: int, speed: float = 1.0) -> Iterator[tuple[np.ndarray, int]]:
    """
    A recording in pieces of 50 ms, each when a microphone would give it.

    Args:
        sampling_rate: of the pieces.
        speed: 2 for twice as fast; 0 for no waiting at all.

    Raises:
        AudioError: for a recording that cannot be read.
    """
    size = round(BLOCK_SECONDS * sampling_rate)
    begin = time.monotonic()
    heard = 0
    for block in audio_blocks(path, sampling_rate):
        for start in range(0, len(block), size):
            piece = block[start : start + size]
            heard += len(piece)
            if speed > 0:
                time.sleep(max(0.0, begin + heard / sampling_rate / speed - time.monotonic()))
            yield piece, sampling_rate


__all__ = ["MicrophoneError", "microphone", "played"]
