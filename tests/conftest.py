"""What the tests share: real speech, a small processor, and a world that is seeded, offline and on one thread."""

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import Result
from hub_server import Hub, running_hub
from hypothesis import settings
from small_runs import tiny_recipe
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2Processor
from typer.testing import CliRunner

from hf_speechrec import LogMelFeatureExtractor
from hf_speechrec.audio import read_audio
from hf_speechrec.cli import app
from hf_speechrec.text import build_tokenizer
from hf_speechrec.training import train

RATE = 16_000  # Hz

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _log_of_the_package(caplog):
    caplog.set_level(logging.WARNING, logger="hf_speechrec")


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def fixtures() -> Path:
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def an4(fixtures) -> Path:
    """AN4's own layout: 10 utterances of its training part, 8 of its test part."""
    return fixtures / "an4"


@pytest.fixture(scope="session")
def librispeech(fixtures) -> Path:
    """LibriSpeech's layout: three speakers, an utterance of each, as Opus."""
    return fixtures / "LibriSpeech" / "dev-4spk"


@pytest.fixture(scope="session")
def speech_commands(fixtures) -> Path:
    """One-second clips of yes, no and silence, with lists: 9 to train on, 6 of other speakers to test."""
    return fixtures / "speech_commands"


@pytest.fixture(scope="session")
def classifier(speech_commands, tmp_path_factory) -> Path:
    """Folder of a small classifier that has learnt the clips by heart."""
    torch.manual_seed(0)
    recipe = tiny_recipe(
        speech_commands,
        tmp_path_factory.mktemp("classifier"),
        task="classification",
        augmentation=None,
        max_steps=40,
        learning_rate=1e-2,
        per_device_train_batch_size=9,
    )
    return train(recipe, device="cpu")


@pytest.fixture(scope="session")
def local_server(tmp_path_factory) -> Iterator[Hub]:
    """A Hub on loopback, whose address stays the same; its clients run in processes of their own."""
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def local_hub(local_server) -> Hub:
    """The same, empty."""
    local_server.clear()
    return local_server


@pytest.fixture(scope="session")
def an4_files(an4) -> list[Path]:
    return sorted(an4.rglob("*.flac"))


@pytest.fixture(scope="session")
def speech(an4_files) -> np.ndarray:
    """A second or more of somebody speaking, 16 kHz."""
    return read_audio(an4_files[0], RATE)


@pytest.fixture(scope="session")
def tokenizer() -> Wav2Vec2CTCTokenizer:
    return build_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])


@pytest.fixture(scope="session")
def processor(tokenizer) -> Wav2Vec2Processor:
    return Wav2Vec2Processor(LogMelFeatureExtractor(), tokenizer)


@pytest.fixture(scope="session")
def write_sphere() -> Callable[..., None]:
    """A writer of NIST SPHERE files, as the Linguistic Data Consortium and the original AN4 have them."""

    def write(path: Path, samples: np.ndarray, rate: int = RATE, byte_order: str = "10") -> None:
        fields = [
            f"sample_count -i {len(samples)}",
            "sample_n_bytes -i 2",
            "channel_count -i 1",
            f"sample_byte_format -s2 {byte_order}",  # 10: the high byte first
            f"sample_rate -i {rate}",
            "sample_coding -s3 pcm",
            "end_head",
        ]
        header = "\n".join(["NIST_1A", "   1024", *fields, ""]).encode("ascii").ljust(1024)
        pcm = np.round(samples * 32767).astype(">i2" if byte_order == "10" else "<i2")
        path.write_bytes(header + pcm.tobytes())

    return write


@pytest.fixture
def command(monkeypatch):
    """Runs the command in this process, which saves the seconds of its imports."""
    verbosity = transformers.utils.logging.get_verbosity()

    def run(*arguments) -> Result:
        monkeypatch.setattr(sys, "argv", ["hf-speechrec", *map(str, arguments)])
        return CliRunner().invoke(app, sys.argv[1:], prog_name="hf-speechrec")

    yield run
    transformers.utils.logging.set_verbosity(verbosity)
