"""Visitors of the page: eight who speak at once, then two hundred one after the other.

    python benchmarks/demo_load.py PATH/an4 --split test

Starts `hf-speechrec demo` in a process of its own. Eight visitors then speak in real time, each a recording of its own
in pieces of 0.25 s: first through the API `/listen`, then into the microphone of the page. Each has to get the words
that `StreamingRecognizer` writes by itself. The latency is that of a piece: from when its last sample was spoken to
when its words are there. Then two hundred sessions through the API as fast as they go, and the server's memory after
them. The visitors' own CPU time stands beside the server's: were it more, the latency would be theirs.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Coroutine

import numpy as np
import psutil
import torch
from page_server import PageServer, page_server
from visitor import Visitor, wav_pieces

from hf_speechrec.audio import read_audio, row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.loading import load_recognizer
from hf_speechrec.streaming import StreamingRecognizer

RATE = 48_000  # Hz, a browser's
PIECE_SECONDS = 0.25
Speak = Callable[[Visitor, list[bytes], float], Coroutine[None, None, tuple[str, list[float]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--visitors", type=int, default=8, help="who speak at once")
    parser.add_argument("--sessions", type=int, default=200, help="one after the other")
    arguments = parser.parse_args()
    said, expected = recordings(arguments.corpus, arguments.split)
    with page_server() as server:
        asyncio.run(measure(server, said, expected, arguments.visitors, arguments.sessions))


async def measure(
    server: PageServer, said: list[list[bytes]], expected: list[str], visitors: int, sessions: int
) -> None:
    for name, speak in (("/listen", Visitor.listen), ("the microphone", Visitor.speak)):
        print(f"through {name}:", await at_once(server, speak, said[:visitors], expected[:visitors]), flush=True)
    wrong, process = 0, psutil.Process(server.pid)
    for i in range(sessions):
        which = i % len(said)
        async with Visitor(server.address) as visitor:
            text, _ = await visitor.listen(said[which])
        wrong += text != expected[which]
        if i + 1 in (1, 10, 50) or (i + 1) % 100 == 0:
            print(f"after {i + 1} sessions: {process.memory_info().rss / 1e6:.0f} MB, {wrong} wrong texts", flush=True)


async def at_once(server: PageServer, speak: Speak, said: list[list[bytes]], expected: list[str]) -> str:
    """Visitors who speak at the same time, and how it went. Each begins at another moment of a piece, as people do."""

    async def visit(i: int) -> tuple[str, list[float]]:
        async with Visitor(server.address) as visitor:
            await asyncio.sleep(i / len(said) * PIECE_SECONDS)
            return await speak(visitor, said[i], PIECE_SECONDS)

    process = psutil.Process(server.pid)
    begin, own, served = time.monotonic(), time.process_time(), sum(process.cpu_times()[:2])
    results = await asyncio.gather(*map(visit, range(len(said))))
    seconds, own, served = time.monotonic() - begin, time.process_time() - own, sum(process.cpu_times()[:2]) - served
    wrong = sum(text != words for (text, _), words in zip(results, expected, strict=True))
    latencies = [latency for _, some in results for latency in some]
    median, late = np.quantile(latencies, [0.5, 0.95]) * 1000
    return (
        f"{len(said)} at once, {wrong} wrong texts, {len(latencies)} pieces, latency median {median:.0f} ms, "
        f"95th percentile {late:.0f} ms; in {seconds:.0f} s on {os.cpu_count()} cores the server took "
        f"{served:.1f} s of CPU, the visitors {own:.1f} s"
    )


def recordings(corpus: str, split: str | None) -> tuple[list[list[bytes]], list[str]]:
    """Recordings in pieces, the longest first, and the text of each, streamed without a page."""
    rows = sorted(read_corpus(corpus, split), key=lambda row: -row["duration"])
    said = [wav_pieces(read_audio(row_source(row), RATE), RATE, PIECE_SECONDS) for row in rows]
    torch.set_num_threads(1)
    recognizer = load_recognizer("an4", "cpu")
    return said, [streamed(recognizer, pieces) for pieces in said]


def streamed(recognizer, pieces: list[bytes]) -> str:
    stream = StreamingRecognizer(recognizer.model, recognizer)
    words = [word for piece in pieces for word in stream.feed(read_audio(piece, RATE), RATE).words]
    return " ".join(word.word for word in words + stream.flush().words)


if __name__ == "__main__":
    main()
