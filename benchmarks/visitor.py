"""A visitor of the page over plain HTTP: what a browser's tab or a program sends, and nothing that costs more.

A visitor has a session of its own, held open by a heartbeat as a browser's tab holds it. What it says goes the two ways
that speech can go: piece after piece through the API `/listen`, or into the microphone of the page, which sends what
has been said since its last piece was answered. Hundreds of visitors fit into one process.
"""

import asyncio
import base64
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import numpy as np
import soundfile

TIMEOUT = aiohttp.ClientTimeout(total=600)  # seconds; a heartbeat is one request


class PageError(Exception):
    """What the page answers in place of a result; the message is what a person would read."""


class Visitor:
    """
    A session with the page: `async with Visitor(address) as visitor`.

    Args:
        address: of the page.
    """

    def __init__(self, address: str):
        self.session = uuid.uuid4().hex
        self.answered = 0  # calls
        self._address = address

    async def __aenter__(self) -> "Visitor":
        # aiohttp, since httpx takes four times its CPU for the same requests.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)  # seconds; the server closes them after 5
        self._http = aiohttp.ClientSession(self._address, timeout=TIMEOUT, connector=connector)
        config = await self._request("GET", "/config")
        self._functions = {function["id"]: function for function in config["dependencies"]}
        ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self._microphone = ids["microphone"]
        self._heart = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._heart.cancel()
        await asyncio.gather(self._heart, return_exceptions=True)
        await self._http.close()

    async def upload(self, content: bytes, name: str = "audio.wav") -> dict[str, Any]:
        """A file → what Gradio calls it. Raises `PageError` where the page does not take it."""
        form = aiohttp.FormData()
        form.add_field("files", io.BytesIO(content), filename=name)
        (path,) = await self._request("POST", "/gradio_api/upload", data=form)
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    async def call(self, function: str | int, *inputs: Any) -> list[Any]:
        """A function of the API by its name, or of the page by its number → its outputs. Raises `PageError`."""
        event, outputs = await self.join(function, *inputs), None
        async for message in self.messages():
            if message["msg"] == "process_completed" and message["event_id"] == event:
                self.answered += 1
                if not message["success"]:
                    raise PageError(message["output"].get("error"))
                outputs = message["output"]["data"]
        if outputs is None:
            raise PageError("the answer did not come")
        return outputs

    async def join(self, function: str | int, *inputs: Any) -> str:
        """Queue for a function → the event's id, whose answer is one of `messages`."""
        if isinstance(function, str):
            function = next(i for i, known in self._functions.items() if known["api_name"] == function)
        filled = [*inputs, *[None] * (len(self._functions[function]["inputs"]) - len(inputs))]  # states come last
        body = {"data": filled, "fn_index": function, "session_hash": self.session}
        return (await self._request("POST", "/gradio_api/queue/join", json=body))["event_id"]

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the server says to this session, until nothing is pending."""
        async with self._http.get("/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            async for line in stream.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    async def listen(self, pieces: Sequence[bytes], seconds: float = 0.0) -> tuple[str, list[float]]:
        """
        Speak through the API.

        Args:
            pieces: what is said, as audio files.
            seconds: that each piece lasts; 0: they are there at once.

        Returns:
            The text, and the latency of each piece in seconds: from its last sample to its words.
        """
        begin, latencies = time.monotonic(), []
        for i, piece in enumerate(pieces):
            said = begin + (i + 1) * seconds if seconds else time.monotonic()
            await asyncio.sleep(said - time.monotonic())
            await self.call("listen", await self.upload(piece))
            latencies.append(time.monotonic() - said)
        answer, *_ = await self.call("listen_end")
        return answer["text"], latencies

    async def speak(self, pieces: Sequence[bytes], seconds: float) -> tuple[str, list[float]]:
        """As `listen`, but into the microphone of the page: what is said while an answer is awaited goes together."""
        visit, begin, latencies = uuid.uuid4().hex, time.monotonic(), []
        said = [soundfile.read(io.BytesIO(piece), dtype="int16") for piece in pieces]
        number = sent = 0
        while sent < len(said):
            await asyncio.sleep(begin + (sent + 1) * seconds - time.monotonic())
            due = min(max(sent + 1, int((time.monotonic() - begin) / seconds)), len(said))
            await self.hear(visit, number, np.concatenate([samples for samples, _ in said[sent:due]]), said[0][1])
            latencies += [time.monotonic() - begin - (i + 1) * seconds for i in range(sent, due)]
            number, sent = number + 1, due
        answer = await self.hear(visit, number, np.zeros(0, np.int16), said[0][1], is_last=True)
        return answer["text"], latencies

    async def hear(
        self, visit: str, number: int, samples: np.ndarray, rate: int, is_last: bool = False
    ) -> dict[str, Any]:
        """One piece (samples,) of 16 bits for the microphone of the page → its answer. Raises `PageError`."""
        encoded = base64.b64encode(samples.astype("<i2").tobytes()).decode()
        piece = {"visit": visit, "number": number, "rate": rate, "samples": encoded, "is_last": is_last}
        body = {"data": piece, "component_id": self._microphone, "fn_name": "hear", "session_hash": self.session}
        answer = await self._request("POST", "/gradio_api/component_server/", json=body)
        if "error" in answer:
            raise PageError(answer["error"])
        return answer

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        async with self._http.request(method, path, **options) as response:
            if not response.ok:
                raise PageError(f"{response.status}: {await response.text()}")
            return await response.json()

    async def _beat(self) -> None:
        async with self._http.get(f"/gradio_api/heartbeat/{self.session}") as stream:
            async for _ in stream.content:
                pass


def wav_pieces(samples: np.ndarray, rate: int, seconds: float) -> list[bytes]:
    """Samples (samples,) as files of `seconds` each; like a microphone's they have 16 bits."""
    size = round(seconds * rate)
    pieces = []
    for start in range(0, len(samples), size):
        file = io.BytesIO()
        soundfile.write(file, samples[start : start + size], rate, format="WAV", subtype="PCM_16")
        pieces.append(file.getvalue())
    return pieces
