"""The page in a process of its own: for benchmarks, tests and pictures."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120  # it imports PyTorch first


@dataclass(frozen=True)
class PageServer:
    address: str
    pid: int
    log: Path  # what it has written so far


@contextmanager
def page_server(*command: str | Path, environment: Mapping[str, str] | None = None) -> Iterator[PageServer]:
    """
    Serve the page on a free port as long as the block runs.

    Args:
        command: what starts it; by default `hf-speechrec demo`.
        environment: its variables; by default this process's.

    Raises:
        RuntimeError: where it ends or does not answer, with what it wrote.
    """
    command = command or (sys.executable, "-m", "hf_speechrec", "demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(Path(folder, "uploads")),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        log = Path(folder, "log")
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**(os.environ if environment is None else environment), **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process, log)
            yield PageServer(address, process.pid, log)
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/config", timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the page is not served:\n{log.read_text()}") from None
            time.sleep(0.3)
