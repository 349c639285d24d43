"""Visitors of the page: eight who speak at once, then two hundred one after the other.

    python benchmarks/demo_load.py PATH/an4 --split test

Starts `hf-speechrec demo` in a process of its own. Eight clients then speak in real time through the API `/listen`,
each a recording of its own in pieces of 0.25 s; each has to get the words that `StreamingRecognizer` writes by itself.
The latency is that of a piece: from when its last sample was spoken to when its words are there. Then two hundred
sessions, each with a connection and a recording of its own, and the server's memory while they come and go.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import soundfile
from gradio_client import Client, handle_file

from hf_speechrec.audio import read_audio, row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.loading import load_recognizer
from hf_speechrec.streaming import StreamingRecognizer

RATE = 16_000  # Hz
PIECE_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--visitors", type=int, default=8, help="who speak at once")
    parser.add_argument("--sessions", type=int, default=200, help="one after the other")
    arguments = parser.parse_args()

    corpus = read_corpus(arguments.corpus, arguments.split)
    rows = sorted(corpus, key=lambda row: -row["duration"])[: arguments.visitors]
    recordings = [read_audio(row_source(row), RATE) for row in rows]
    recognizer = load_recognizer("an4", "cpu")
    expected = [streamed(recognizer, recording) for recording in recordings]

    with tempfile.TemporaryDirectory() as folder:
        pieces = [written(recording, Path(folder, str(i))) for i, recording in enumerate(recordings)]
        server, address = serve(folder)
        try:
            Client(address, verbose=False).predict(handle_file(pieces[0][0]), api_name="/transcribe")  # loads the model
            wrong, latencies = at_once(address, pieces, expected)
            latencies.sort()
            print(
                f"{len(pieces)} at once, {len(latencies)} pieces of {PIECE_SECONDS} s: {wrong} wrong texts, latency "
                f"median {statistics.median(latencies) * 1000:.0f} ms, 95th percentile "
                f"{latencies[round(0.95 * len(latencies)) - 1] * 1000:.0f} ms",
                flush=True,
            )
            for i in range(arguments.sessions):
                client = Client(address, verbose=False)
                which = i % len(pieces)
                text = spoken(client, pieces[which][:8] if i % 5 else pieces[which], None)
                wrong += not i % 5 and text != expected[which]
                client.close()
                if i + 1 in (1, 10, 25, 50) or (i + 1) % 50 == 0:
                    print(f"after {i + 1} sessions: {memory(server.pid) / 1e6:.0f} MB", flush=True)
            print(f"{wrong} wrong texts in all")
        finally:
            server.terminate()
            server.wait(20)


def streamed(recognizer, recording: np.ndarray) -> str:
    stream = StreamingRecognizer(recognizer.model, recognizer)
    return " ".join(word.word for word in stream.feed(recording).words + stream.flush().words)


def written(recording: np.ndarray, folder: Path) -> list[str]:
    """Files of a piece each. As a microphone's samples they have 16 bits."""
    folder.mkdir()
    size = round(PIECE_SECONDS * RATE)
    paths = []
    for start in range(0, len(recording), size):
        paths.append(str(folder / f"{start}.wav"))
        soundfile.write(paths[-1], recording[start : start + size], RATE, subtype="PCM_16")
    return paths


def serve(folder: str) -> tuple[subprocess.Popen, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(Path(folder, "uploads")), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-m", "hf_speechrec", "demo", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/config", timeout=5).close()
            return server, address
        except OSError:
            time.sleep(0.3)
    raise SystemExit("the server did not start")


def at_once(address: str, pieces: list[list[str]], expected: list[str]) -> tuple[int, list[float]]:
    """Wrong texts, and the latency of each piece in seconds."""
    texts = [""] * len(pieces)
    latencies: list[float] = []
    clients = [Client(address, verbose=False) for _ in pieces]

    def visit(i: int) -> None:
        texts[i] = spoken(clients[i], pieces[i], latencies)

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(len(pieces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    return sum(text != reference for text, reference in zip(texts, expected, strict=True)), latencies


def spoken(client: Client, pieces: list[str], latencies: list[float] | None) -> str:
    """The text of a recording that is spoken in real time, or, where no latencies are wanted, as fast as it goes."""
    begin = time.monotonic()
    for i, piece in enumerate(pieces):
        said = begin + (i + 1) * PIECE_SECONDS
        if latencies is not None:
            time.sleep(max(0.0, said - time.monotonic()))
        client.predict(handle_file(piece), api_name="/listen")
        if latencies is not None:
            latencies.append(time.monotonic() - said)
    return client.predict(api_name="/listen_end")["text"]


def memory(pid: int) -> int:
    """Bytes that a process holds in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
