"""What visitors say, piece after piece: whole, and in order, however slow the server is."""

import contextlib
import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from gradio.utils import get_upload_folder
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..alignment import Word
from ..audio import decoded_blocks
from ..streaming import StreamingRecognizer

MAX_SPEECH_SECONDS = 300  # of one visit to the microphone
POSTED: dict[str, deque[str]] = {}  # Gradio's event, a visit to the microphone → files that nobody has heard yet


@dataclass
class Listener:
    """What one visitor has said so far."""

    stream: StreamingRecognizer
    visit: str = ""  # to the microphone, as Gradio calls it
    words: list[Word] = field(default_factory=list)
    partial: str = ""
    seconds: float = 0.0
    is_begun: bool = False
    is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)  # the last piece and the end may come at once

    def hear(self, path: str | None) -> None:
        """
        The next pieces: a file, or those that this visit has posted. Nothing is heard after the end.

        Raises:
            ValueError: for a piece that is no audio.
        """
        with self._lock:
            posted = POSTED.get(self.visit)
            if path is not None and (posted is None or not (self.is_begun or path in posted)):
                self._hear(path)  # the first piece opens the stream that the others are posted to
            self.is_begun = True
            self._hear_posted(posted)

    def end(self) -> None:
        with self._lock:
            self._hear_posted(POSTED.pop(self.visit, None))
            self.words += self.stream.flush().words
            self.partial = ""
            self.is_over = True

    def _hear_posted(self, posted: deque[str] | None) -> None:
        while posted:
            self._hear(posted.popleft())

    def _hear(self, path: str) -> None:
        for samples, rate in decoded_blocks(path):
            if self.is_over or self.seconds >= MAX_SPEECH_SECONDS:
                return
            update = self.stream.feed(samples, rate)
            self.seconds += len(samples) / rate
            self.words += update.words
            self.partial = update.partial


class KeepPosted:
    """
    ASGI middleware that notes each piece which a microphone posts in `POSTED`.

    Gradio hands on only the last of those that arrive while one is being heard; words would be lost on a busy server.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = re.search(r"/gradio_api/stream/(\w+)$", scope["path"]) if scope["type"] == "http" else None
        if stream:
            body = await Request(scope, receive).body()
            with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):  # Gradio says what is wrong
                path = Path(json.loads(body)["data"][0]["path"]).resolve()
                if path.is_relative_to(Path(get_upload_folder()).resolve()):  # and nothing else of this machine
                    POSTED.setdefault(stream[1], deque()).append(str(path))
            receive = _replayed(body, receive)
        await self.app(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """As if the body had not been read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


__all__ = ["MAX_SPEECH_SECONDS", "KeepPosted", "Listener"]
