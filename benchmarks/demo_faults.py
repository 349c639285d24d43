"""Visitors of the page who do what they should not, and many of them.

    python benchmarks/demo_faults.py PATH/an4 --split test

Starts `hf-speechrec demo` in a process of its own. Visitors vanish in the middle of a sentence, of an answer and of an
upload; the next one has to be heard as ever. Others send what is too large, too long, or no audio; each has to read
why. Then a hundred connections at once ask until 10,000 requests are answered: none may get lost, every text has to be
that of `StreamingRecognizer` by itself, and the server's memory has to stay where it is.
"""

import argparse
import asyncio
import contextlib
import io
import re
import time
from collections import Counter
from urllib.parse import urlsplit

import numpy as np
import psutil
import soundfile
from demo_load import PIECE_SECONDS, at_once, recordings
from page_server import PageServer, page_server
from visitor import PageError, Visitor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--vanishing", type=int, default=60)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    said, expected = recordings(arguments.corpus, arguments.split)
    with page_server() as server:
        asyncio.run(measure(server, said, expected, arguments))
        # The first line behind a traceback that is not indented says what it ended with.
        ends = Counter(re.findall(r"Traceback .*\n(?:\s.*\n)*(.*)", server.log.read_text()))
        print(f"{ends.total()} tracebacks in the server's log")
        for end, number in ends.most_common():
            print(f"{number} x {end}")


async def measure(server: PageServer, said: list[list[bytes]], expected: list[str], arguments) -> None:
    ways = (vanish_at_the_microphone, vanish_while_listening, vanish_while_uploading)
    await asyncio.gather(*(ways[i % 3](server.address, said[0]) for i in range(arguments.vanishing)))
    result = await at_once(server, Visitor.speak, said[:1], expected[:1])
    print(f"{arguments.vanishing} visitors vanished; the next, at the microphone: {result}", flush=True)
    await refusals(server)
    await many(server, said, expected, arguments.connections, arguments.requests)


async def vanish_at_the_microphone(address: str, pieces: list[bytes]) -> None:
    await _until_cut(Visitor.speak, address, pieces)


async def vanish_while_listening(address: str, pieces: list[bytes]) -> None:
    await _until_cut(Visitor.listen, address, pieces)


async def _until_cut(speak, address: str, pieces: list[bytes]) -> None:
    async with Visitor(address) as visitor:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(speak(visitor, pieces, PIECE_SECONDS), 1.1)


async def vanish_while_uploading(address: str, pieces: list[bytes]) -> None:
    where = urlsplit(address)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {2 * len(pieces[0])}\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
    writer.write(b'Content-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n' + pieces[0])
    await writer.drain()
    writer.close()


async def refusals(server: PageServer) -> None:
    """What is told to whom sends what the page does not take."""
    long = io.BytesIO()
    soundfile.write(long, np.zeros(16_000 * 660, np.float32), 16_000, format="FLAC")
    process = psutil.Process(server.pid)
    for name, content in (
        ("large.wav", bytes(51 << 20)),
        ("long.flac", long.getvalue()),
        ("notes.wav", b"this is no audio"),
    ):
        before = process.memory_info().rss / 1e6
        told = Counter(await asyncio.gather(*(refusal(server.address, name, content) for _ in range(8))))
        after = process.memory_info().rss / 1e6
        answers = ", ".join(f"{number} were told {text!r}" for text, number in told.items())
        print(f"{name} of {len(content) / 1e6:.1f} MB: {answers}; memory {before:.0f} to {after:.0f} MB", flush=True)


async def refusal(address: str, name: str, content: bytes) -> str | None:
    async with Visitor(address) as visitor:
        try:
            await visitor.call("transcribe", await visitor.upload(content, name))
        except PageError as error:
            return str(error)
    return None


async def many(server: PageServer, said: list[list[bytes]], expected: list[str], connections: int, wanted: int) -> None:
    """Visit after visit on each connection until enough requests are answered."""
    process, begin = psutil.Process(server.pid), time.monotonic()
    visits, answered, wrong, lost = 0, 0, 0, Counter()

    async def connection() -> None:
        nonlocal visits, answered, wrong
        while answered + lost.total() < wanted:
            which, visits = visits % len(said), visits + 1
            visitor = Visitor(server.address)
            try:
                async with visitor:
                    text, _ = await visitor.listen(said[which])
                wrong += text != expected[which]
            except Exception as error:
                lost[f"{type(error).__name__}: {error}"] += 1
            before, answered = answered, answered + visitor.answered
            if answered // 1000 > before // 1000 or answered >= wanted > before:
                print(
                    f"{connections} connections at once, {answered} requests in {visits} visits and "
                    f"{time.monotonic() - begin:.0f} s: {lost.total()} lost, {wrong} wrong texts, "
                    f"{process.memory_info().rss / 1e6:.0f} MB",
                    flush=True,
                )

    await asyncio.gather(*(connection() for _ in range(connections)))
    for reason, number in lost.items():
        print(f"lost {number} times: {reason}")


if __name__ == "__main__":
    main()
