"""What visitors say, piece after piece: whole, and in order, however slow the server is."""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..alignment import Word
from ..audio import MIN_RATE
from ..streaming import StreamingRecognizer

MAX_LISTENERS = 32  # microphones at once; each takes a twenty-fifth of a core
MAX_SPEECH_SECONDS = 300  # of one visit to the microphone
MAX_RATE = 192_000  # Hz
MAX_PIECE_BYTES = 2 * 10 * MAX_RATE  # of ten seconds; a browser sends no more at once (microphone.js)
MAX_NAME = 64  # characters
SILENT_SECONDS = 3.0  # after which a visit loses its place where another needs it
KEPT_SECONDS = 60.0  # after which it is over in any case


@dataclass
class Listener:
    """What one visitor has said so far."""

    stream: StreamingRecognizer
    words: list[Word] = field(default_factory=list)
    partial: str = ""
    seconds: float = 0.0
    pieces: int = 0  # that have been heard
    is_over: bool = False
    latest: float = field(default_factory=time.monotonic)  # when something came of this visitor
    lock: threading.RLock = field(default_factory=threading.RLock)  # a piece and the end may come at once

    def hear(self, samples: np.ndarray, rate: int) -> None:
        """Samples (samples,) of `rate` Hz, in order. Nothing is heard after the end. Raises `ValueError` as `feed`."""
        with self.lock:
            if self.is_over:
                return
            update = self.stream.feed(samples, rate)
            self.seconds += len(samples) / rate
            self.words += update.words
            self.partial = update.partial
            if self.seconds >= MAX_SPEECH_SECONDS:
                self.end()

    def end(self) -> None:
        """The end: what was held back for want of context."""
        with self.lock:
            self.words += self.stream.flush().words
            self.partial = ""
            self.is_over = True


class Microphones:
    """
    The microphones that are open, each with a listener of its own.

    A microphone counts its pieces and waits for an answer to each, so that none can get lost or change places, and one
    that is sent again, because its answer did not arrive, is heard once.

    Args:
        open_stream: makes a recogniser's state for one more.
    """

    def __init__(self, open_stream: Callable[[], StreamingRecognizer]):
        self._open_stream = open_stream
        self._listeners: dict[str, Listener] = {}  # by the names of their visits, MAX_LISTENERS at most
        self._lock = threading.Lock()

    def hear(self, piece: Any) -> dict[str, Any]:
        """
        The next piece of what a microphone hears → all that has been said.

        Args:
            piece: `visit`, the name of this use of the microphone; `number` of the piece, which opens the visit where
                it is 0; `rate` in Hz; `samples` of 16 bits in base64; `is_last`, whether the recording ends with it.

        Returns:
            `text`; `partial`, of the word that is being said; `end` of the last word in seconds; `is_over`, after the
            last piece and where the visit has become too long. Or `error`, for people to read: Gradio would show them
            nothing of an exception.
        """
        try:
            visit, number, rate, samples = _checked(piece)
            listener = self._listener(visit, number)
            with listener.lock:
                if number not in (listener.pieces, listener.pieces - 1):
                    raise ValueError(f"expected piece {listener.pieces} of the recording, got {number}")
                if number == listener.pieces:
                    listener.hear(samples, rate)
                    listener.pieces += 1
                    if piece.get("is_last") and not listener.is_over:
                        listener.end()
                listener.latest = time.monotonic()
                return heard(listener)
        except ValueError as error:
            return {"error": str(error)}

    def _listener(self, visit: str, number: int) -> Listener:
        with self._lock:
            now = time.monotonic()
            self._listeners = {
                name: listener for name, listener in self._listeners.items() if now - listener.latest < KEPT_SECONDS
            }
            if visit not in self._listeners:
                if number != 0:
                    raise ValueError("this recording is no longer known here: press Record to begin anew")
                self._make_room(now)
                self._listeners[visit] = Listener(self._open_stream())
            self._listeners[visit].latest = now
            return self._listeners[visit]

    def _make_room(self, now: float) -> None:
        """A place for one more: that of a visit that has ended, or whose visitor has vanished."""
        if len(self._listeners) < MAX_LISTENERS:
            return
        ages = {name: now - known.latest for name, known in self._listeners.items()}
        free = [name for name, known in self._listeners.items() if known.is_over or ages[name] > SILENT_SECONDS]
        if not free:
            raise ValueError(f"{MAX_LISTENERS} people are speaking here already: try again in a minute")
        del self._listeners[max(free, key=ages.__getitem__)]


def heard(listener: Listener) -> dict[str, Any]:
    """What a listener has understood, for the page's script."""
    return {
        "text": " ".join(word.word for word in listener.words),
        "partial": listener.partial,
        "end": listener.words[-1].end if listener.words else 0.0,
        "is_over": listener.is_over,
    }


def _checked(piece: Any) -> tuple[str, int, int, np.ndarray]:
    """The name, number, rate and samples (samples,) of a piece. Raises `ValueError`: anybody may post anything."""
    expected = {"visit": str, "number": int, "rate": int, "samples": str}
    if not isinstance(piece, dict) or not all(type(piece.get(name)) is kind for name, kind in expected.items()):
        raise ValueError(f"expected a piece of a recording, with {', '.join(expected)}")
    if len(piece["visit"]) > MAX_NAME:
        raise ValueError(f"expected a visit's name of at most {MAX_NAME} characters, got {len(piece['visit'])}")
    if not MIN_RATE <= piece["rate"] <= MAX_RATE:
        raise ValueError(f"expected a sampling rate of {MIN_RATE} to {MAX_RATE} Hz, got {piece['rate']} Hz")
    if len(piece["samples"]) > MAX_PIECE_BYTES * 4 // 3 + 4:
        raise ValueError(f"expected a piece of at most {MAX_PIECE_BYTES} bytes, got more")
    try:
        samples = np.frombuffer(base64.b64decode(piece["samples"], validate=True), "<i2")
    except ValueError:
        raise ValueError("expected samples of 16 bits in base64") from None
    return piece["visit"], piece["number"], piece["rate"], samples.astype(np.float32) / 32768


__all__ = ["MAX_LISTENERS", "Listener", "Microphones", "heard"]
