"""Two processes: they take the steps of one, go on where one was, and end together when one is told to."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml
from small_runs import TINY, tiny_recipe, weights

from hf_speechrec.training import train

# Nothing is drawn that depends on how a step's utterances are shared out; of the ten, eight are trained on.
PLAIN = TINY | {"conv_dropout": 0.0, "hidden_dropout": 0.0, "classifier_dropout": 0.0}
TRAINING = {
    "optim": "sgd",  # small differences of a gradient stay small in a step
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_steps": 5,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 5,
}


def in_two_processes(an4, folder, repository, **training) -> subprocess.Popen:
    """Starts them, with two utterances a step each."""
    recipe = folder.with_suffix(".yaml")
    values = {
        "task": "ctc",
        "corpus": str(an4),
        "train_split": "train",
        "held_out": 0.2,
        "augmentation": None,
        "model": PLAIN,
        "features": {"feature_size": 20},
        "training": {"output_dir": str(folder), "per_device_train_batch_size": 2} | TRAINING | training,
    }
    recipe.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hf_speechrec", "train"]
    return subprocess.Popen(
        [*command, str(recipe), "--device", "cpu"],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> str:
    """Its stderr, when it has ended."""
    with process:
        try:
            return process.communicate(timeout=240)[1]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def one(an4, tmp_path_factory):
    """The run of one process, with four utterances a step."""
    folder = tmp_path_factory.mktemp("one") / "model"
    return train(tiny_recipe(an4, folder, held_out=0.2, augmentation=None, model=PLAIN, **TRAINING), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("is_resumed", [False, True], ids=["from-nothing", "resumed"])
def test_two_processes_take_the_steps_of_one(an4, one, tmp_path, repository, is_resumed):
    folder = tmp_path / "two"
    more = {"resume_from_checkpoint": str(one / "checkpoint-3")} if is_resumed else {}  # in mid-epoch
    process = in_two_processes(an4, folder, repository, **more)
    errors = end(process)
    assert process.returncode == 0, errors
    expected = weights(one)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)
    start = weights(one / "checkpoint-3")
    assert not torch.allclose(start["classifier.3.bias"], expected["classifier.3.bias"], atol=1e-4)
    states = [json.loads((path / "trainer_state.json").read_text())["log_history"] for path in (folder, one)]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in states]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    results = [json.loads((path / "all_results.json").read_text()) for path in (folder, one)]
    assert results[0]["eval_wer"] == results[1]["eval_wer"]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], rel=1e-3)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_ends_both(an4, tmp_path, repository):
    folder = tmp_path / "two"
    process = in_two_processes(an4, folder, repository, max_steps=100_000, eval_strategy="no", save_total_limit=2)
    while not (folder / "checkpoint-3").exists():
        time.sleep(0.1)
        assert process.poll() is None, process.stderr.read()
    both = psutil.Process(process.pid).children()
    max(both, key=lambda child: child.pid).send_signal(signal.SIGTERM)
    errors = end(process)
    assert process.returncode != 0
    assert "exitcode  : 143" in errors  # torchrun ends the other one itself, if that was not quicker
    assert not any(child.is_running() for child in both)
    step = max(int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*"))
    assert f"Terminated, step {step} is saved" in errors
    assert (folder / f"checkpoint-{step}" / "rng_state_1.pth").exists()
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    assert state["global_step"] == step
