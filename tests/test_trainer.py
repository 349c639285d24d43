"""The Trainer: its arguments, checkpoints that are whole, runs that resume exactly whatever broke them, the plot."""

import ctypes
import json
import os
import platform
import resource
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import PNG, assert_same_weights, tiny_recipe, weights
from transformers import AutoModelForCTC, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_speechrec import collator, trainer, training_callbacks
from hf_speechrec.audio import AudioError
from hf_speechrec.augmentation import Augmentation
from hf_speechrec.collator import CTCCollator
from hf_speechrec.corpora import read_corpus
from hf_speechrec.recipe import Recipe
from hf_speechrec.text import TextNormalizer
from hf_speechrec.trainer import EpochSampler, SpeechTrainer, keep_freed_memory
from hf_speechrec.training import train
from hf_speechrec.training_checkpoints import PARTIAL, publish, save_run
from hf_speechrec.training_plot import plot_history


def checkpointing(an4, folder, **changes) -> Recipe:
    """Eight steps over 10 utterances in batches of 4, saved in mid-epoch, with every source of chance."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "augmentation": {}}
    return tiny_recipe(an4, folder, **options | changes)


WHOLE = {
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
    "vocab.json",
    "processor_config.json",
}


@pytest.fixture(scope="module")
def unbroken(an4, tmp_path_factory):
    return train(checkpointing(an4, tmp_path_factory.mktemp("unbroken") / "model"), device="cpu")


def test_each_checkpoint_is_whole_and_nothing_partial_is_left(unbroken):
    checkpoints = sorted(unbroken.glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-4", "checkpoint-8"]
    for path in checkpoints:
        assert {file.name for file in path.iterdir()} >= WHOLE
        state = json.loads((path / "trainer_state.json").read_text())
        assert f"checkpoint-{state['global_step']}" == path.name
        assert AutoModelForCTC.from_pretrained(path).num_parameters() > 0
    assert not list(unbroken.rglob("*.partial*"))
    assert not (unbroken / PARTIAL).exists()


def test_only_the_newest_checkpoints_are_kept(an4, tmp_path):
    folder = train(checkpointing(an4, tmp_path / "model", save_steps=2, save_total_limit=2), device="cpu")
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


def losses(folder) -> list[dict]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("method", ["_save_optimizer_and_scheduler", "_save_rng_state", "save_model"])
def test_a_crash_while_saving_leaves_no_half_written_checkpoint_and_is_resumed(
    an4, unbroken, tmp_path, monkeypatch, method
):
    folder, whole = tmp_path / "model", getattr(SpeechTrainer, method)

    def cut_at_step_8(self, *args, **kwargs):
        if self.state.global_step == 8:
            raise PowerCutError
        whole(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SpeechTrainer, method, cut_at_step_8)
        with pytest.raises(PowerCutError):
            train(checkpointing(an4, folder), device="cpu")
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert {file.name for file in (folder / "checkpoint-4").iterdir()} >= WHOLE
    assert not (folder / "model.safetensors").exists()

    train(checkpointing(an4, folder), ["--resume_from_checkpoint", "true"], device="cpu")
    assert_same_weights(folder, unbroken)
    assert not (folder / PARTIAL).exists()


def test_a_crash_while_the_final_model_is_saved_leaves_the_checkpoints(an4, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr("hf_speechrec.training_checkpoints.plot_history", lambda *_: (_ for _ in ()).throw(PowerCutError))
        with pytest.raises(PowerCutError):
            train(checkpointing(an4, folder), device="cpu")
    assert not (folder / "model.safetensors").exists()
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


def test_a_resumed_run_gives_the_weights_and_the_curve_of_an_unbroken_one(an4, unbroken, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(unbroken / "checkpoint-4", folder / "checkpoint-4")
    train(checkpointing(an4, folder), ["--resume_from_checkpoint", "true"], device="cpu")
    assert_same_weights(folder, unbroken)
    assert not weights(folder / "checkpoint-4")["classifier.3.bias"].equal(weights(folder)["classifier.3.bias"])
    curves = [
        [(entry["step"], entry["loss"], entry["learning_rate"]) for entry in losses(run)] for run in (folder, unbroken)
    ]
    assert len(curves[1]) == 8
    assert curves[0] == curves[1]
    # What is said of its speed is of the steps that this run took: the last of the second epoch and two more.
    results = json.loads((folder / "all_results.json").read_text())
    heard = results["audio_seconds_per_second"] * results["train_runtime"]
    assert heard == pytest.approx(3600 * results["train_hours"] * (4 / 3), rel=0.01)


def test_a_finished_run_that_lost_its_model_is_resumed_without_a_step(an4, unbroken, tmp_path, taken):
    folder = tmp_path / "model"
    shutil.copytree(unbroken / "checkpoint-8", folder / "checkpoint-8")
    train(checkpointing(an4, folder), ["--resume_from_checkpoint", "true"], device="cpu")
    assert taken.steps == []
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-8"]
    assert_same_weights(folder, unbroken)
    assert not {"train_loss", "audio_seconds_per_second"} & json.loads((folder / "all_results.json").read_text()).keys()


def test_the_order_of_utterances_follows_from_seed_and_epoch_alone():
    lengths = [float(i % 7) for i in range(50)]

    def order(seed: int, epoch: float, shortest_first: bool = False, processes: int = 1) -> list[int]:
        trainer = SimpleNamespace(
            args=SimpleNamespace(seed=seed, world_size=processes),
            state=SimpleNamespace(epoch=epoch),
            shortest_first=shortest_first,
        )
        return list(EpochSampler(LengthGroupedSampler(4 // processes, lengths=lengths), trainer))

    first = order(1, 2.0)
    torch.manual_seed(99)
    assert order(1, 2.6) == first  # resumed in the middle of epoch 2
    assert sorted(first) == list(range(50))
    assert order(1, 3.0) != first
    assert order(2, 2.0) != first
    assert order(1, 2.0, processes=2) == first  # two of them take two utterances each
    assert [lengths[i] for i in order(1, 0.4, shortest_first=True)] == sorted(lengths)
    assert order(1, 2.0, shortest_first=True) == first  # the first epoch alone
    # Similar lengths come together: at random, neighbours differ by 2.3 on average.
    assert sum(abs(lengths[a] - lengths[b]) for a, b in pairwise(first)) < 49 * 1.2


def test_augmentation_follows_from_seed_epoch_and_utterances_alone(an4, processor):
    rows = [row | {"augment": True} for row in read_corpus(an4, "train").select(range(2))]
    collator = CTCCollator(processor, TextNormalizer(), Augmentation(), seed=1)
    before = torch.get_rng_state()
    first = collator(rows)["input_features"]
    assert torch.get_rng_state().equal(before)  # the model's dropout goes on as if nothing had been drawn
    torch.manual_seed(99)
    assert collator(rows)["input_features"].equal(first)
    collator.epoch.fill_(1)
    assert not torch.equal(collator(rows)["input_features"], first)


def test_workers_of_the_data_loader_change_nothing(an4, unbroken, tmp_path):
    folder = train(checkpointing(an4, tmp_path / "model", dataloader_num_workers=2), device="cpu")
    assert_same_weights(folder, unbroken)


class StepRecorder(TrainerCallback):
    def __init__(self):
        self.trainer, self.steps, self.epochs = None, [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)
        self.epochs.append(int(self.trainer.data_collator.epoch))


@pytest.fixture
def with_callback(monkeypatch):
    """Adds a callback to every trainer that is made from now on."""
    original = SpeechTrainer.__init__

    def add(callback: TrainerCallback) -> None:
        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            self.add_callback(callback)
            callback.trainer = self

        monkeypatch.setattr(SpeechTrainer, "__init__", init)

    return add


@pytest.fixture
def taken(with_callback) -> StepRecorder:
    """The steps that a training run really takes."""
    recorder = StepRecorder()
    with_callback(recorder)
    return recorder


def test_resuming_takes_the_newest_checkpoint(an4, unbroken, tmp_path, taken):
    folder = tmp_path / "model"
    # By number, not by name or time: as a string 10 comes before 4.
    shutil.copytree(unbroken / "checkpoint-8", folder / "checkpoint-10")
    shutil.copytree(unbroken / "checkpoint-4", folder / "checkpoint-4")
    (folder / "checkpoint-best").mkdir()
    train(checkpointing(an4, folder, max_steps=9), ["--resume_from_checkpoint", "true"], device="cpu")
    assert taken.steps == [9]


def test_resuming_takes_the_checkpoint_that_is_named(an4, unbroken, tmp_path, taken):
    named = str(unbroken / "checkpoint-4")
    train(checkpointing(an4, tmp_path / "model"), ["--resume_from_checkpoint", named], device="cpu")
    assert taken.steps == [5, 6, 7, 8]
    assert taken.epochs == [1, 1, 2, 2]  # of three steps each


def test_resuming_without_a_checkpoint_starts_anew_with_a_notice(an4, tmp_path, caplog, taken):
    train(tiny_recipe(an4, tmp_path / "model"), ["--resume_from_checkpoint", "true"], device="cpu")
    assert taken.steps == [1, 2, 3, 4]
    assert "no checkpoint to resume from yet, starting anew" in caplog.text


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "model.safetensors", "trainer_state.json"])
def test_a_checkpoint_whose_deletion_was_broken_off_is_passed_over(an4, unbroken, tmp_path, caplog, taken, lost):
    folder = tmp_path / "model"
    for name in ("checkpoint-4", "checkpoint-8"):
        shutil.copytree(unbroken / name, folder / name)
    (folder / "checkpoint-8" / lost).unlink()
    train(checkpointing(an4, folder), ["--resume_from_checkpoint", "true"], device="cpu")
    assert taken.steps == [5, 6, 7, 8]
    assert f"checkpoint-8: passed over, it has no {lost}" in caplog.text
    assert_same_weights(folder, unbroken)


def test_a_checkpoint_that_replaces_an_older_one_is_never_half_deleted(tmp_path, monkeypatch):
    partial, final = tmp_path / PARTIAL / "checkpoint-4", tmp_path / "checkpoint-4"
    for folder, words in ((partial, "new"), (final, "old")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(words)

    def killed(*_, **__):
        raise PowerCutError

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(PowerCutError):
        publish(partial, final)
    assert (final / "file").read_text() == "new"


@pytest.mark.parametrize("moves", range(6))  # the weights are the last of six files
def test_a_kill_among_the_final_files_leaves_no_mixture(tmp_path, monkeypatch, moves):
    """Weights of one run with the vocabulary of another would load, and write nonsense."""
    names = ("config.json", "model.safetensors", "vocab.json")
    for name in names:
        (tmp_path / name).write_text("old")

    def save_model(folder, **_):
        Path(folder).mkdir()
        for name in names:
            Path(folder, name).write_text("new")

    state = SimpleNamespace(save_to_json=lambda path: Path(path).write_text("{}"), log_history=[])
    run = SimpleNamespace(save_model=save_model, state=state, create_model_card=lambda: None)
    monkeypatch.setattr("hf_speechrec.training_checkpoints.plot_history", lambda _, path: path.write_text("plot"))
    replace, moved = Path.replace, []

    def killed_after_some(self, target):
        if len(moved) == moves:
            raise PowerCutError
        moved.append(self.name)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_after_some)
        with pytest.raises(PowerCutError):
            save_run(run, tmp_path, {})
    assert not (tmp_path / "model.safetensors").exists()
    save_run(run, tmp_path, {})
    assert {(tmp_path / name).read_text() for name in names} == {"new"}
    assert not (tmp_path / PARTIAL).exists()


def test_resuming_from_what_is_no_checkpoint_is_an_error(an4, tmp_path):
    with pytest.raises(ValueError, match="nowhere: expected a checkpoint folder to resume from"):
        train(tiny_recipe(an4, tmp_path / "model"), ["--resume_from_checkpoint", str(tmp_path / "nowhere")], "cpu")


# Faults


class At(TrainerCallback):
    """Does something once, at an event of a step (the number of steps that are done)."""

    def __init__(self, step: int, action, event: str = "on_step_begin"):
        def once(_args, state, _control, **_):
            if state.global_step == step and not self.is_done:
                self.is_done = True
                action()

        self.is_done = False
        setattr(self, event, once)


def resume(an4, folder, **changes) -> None:
    train(checkpointing(an4, folder, **changes), ["--resume_from_checkpoint", "true"], device="cpu")


@pytest.fixture
def limit_files():
    """From then on no file of this process grows beyond so many bytes: to whoever writes it, a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=before[0]: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_ends_in_one_clear_error_and_the_run_is_resumed(
    an4, unbroken, tmp_path, with_callback, limit_files, name
):
    folder = tmp_path / "model"
    size = (unbroken / "checkpoint-8" / name).stat().st_size
    with_callback(At(7, lambda: limit_files(size - 1)))
    with pytest.raises(OSError, match=r"model: checkpoint-8 cannot be written \([\d.]+ MiB are free there; .+\)$"):
        train(checkpointing(an4, folder), device="cpu")
    limit_files()
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not (folder / PARTIAL).exists()
    resume(an4, folder)
    assert_same_weights(folder, unbroken)


def test_a_disk_that_is_full_at_the_end_costs_no_checkpoint(an4, unbroken, tmp_path, with_callback, limit_files):
    folder = tmp_path / "model"
    with_callback(At(8, lambda: limit_files(4096), "on_train_end"))
    with pytest.raises(OSError, match=r"model: the model cannot be written \(.+\)$"):
        train(checkpointing(an4, folder), device="cpu")
    limit_files()
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-8", "model_card.json"]
    resume(an4, folder)
    assert_same_weights(folder, unbroken)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_ends_without_evaluation_or_push(an4, tmp_path, with_callback, monkeypatch, caplog):
    folder, handler = tmp_path / "model", signal.getsignal(signal.SIGTERM)
    pushes: list = []
    monkeypatch.setattr(SpeechTrainer, "init_hf_repo", lambda self, **_: setattr(self, "hub_model_id", "user/name"))
    monkeypatch.setattr(SpeechTrainer, "_push_from_checkpoint", lambda self, _: pushes.append(self._is_saving))
    with_callback(At(4, terminate))
    evaluated = {"held_out": 0.2, "eval_strategy": "steps", "eval_steps": 5, "push_to_hub": True}
    with pytest.raises(SystemExit) as end:
        train(checkpointing(an4, folder, **evaluated), device="cpu")
    assert end.value.code == 143
    assert "Terminated, step 5 is saved: --resume_from_checkpoint true goes on" in caplog.messages
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
    assert {file.name for file in (folder / "checkpoint-5").iterdir()} >= WHOLE
    history = json.loads((folder / "checkpoint-5" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5]
    assert not any("eval_loss" in entry for entry in history)
    assert pushes == [True, False, True]  # the False after checkpoint-4, and none after checkpoint-5
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_run_resumed_after_sigterm_is_the_unbroken_one(an4, unbroken, tmp_path, with_callback):
    folder = tmp_path / "model"
    with_callback(At(4, terminate))
    with pytest.raises(SystemExit):
        train(checkpointing(an4, folder), device="cpu")
    resume(an4, folder)
    assert_same_weights(folder, unbroken)
    assert [entry["loss"] for entry in losses(folder)] == [entry["loss"] for entry in losses(unbroken)]


def test_sigterm_in_an_evaluation_does_not_wait_for_its_end(an4, tmp_path, with_callback):
    folder = tmp_path / "model"
    with_callback(At(3, terminate, "on_prediction_step"))
    evaluated = {"held_out": 0.4, "eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 1}
    with pytest.raises(SystemExit, match="143"):
        train(checkpointing(an4, folder, save_steps=100, **evaluated), device="cpu")
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-3"]
    history = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history] == [1, 2, 3]  # of the evaluation nothing


@pytest.fixture
def nan_at(monkeypatch):
    """Makes the loss NaN at some steps (1 is the first)."""
    original = SpeechTrainer.compute_loss

    def spoil(*steps: int) -> None:
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = original(self, model, inputs, *args, **kwargs)
            return loss * torch.nan if self.state.global_step + 1 in steps else loss

        monkeypatch.setattr(SpeechTrainer, "compute_loss", compute_loss)

    return spoil


class WeightRecorder(TrainerCallback):
    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))


def test_a_step_without_a_finite_loss_is_left_out_and_counted(an4, tmp_path, nan_at, with_callback, caplog):
    folder, recorder = tmp_path / "model", WeightRecorder()
    nan_at(3, 4, 6)
    with_callback(recorder)
    train(checkpointing(an4, folder), device="cpu")
    changed = [not before.equal(after) for before, after in pairwise(recorder.weights)]
    assert changed == [True, False, False, True, False, True, True]
    assert recorder.weights[-1].isfinite().all()
    assert "Step 6 is left out: its loss or gradient is not finite" in caplog.messages
    assert "3 steps were left out: their loss or gradient was not finite" in caplog.messages
    assert json.loads((folder / "all_results.json").read_text())["skipped_steps"] == 3
    assert all(0 <= entry["loss"] < 100 for entry in losses(folder))

    # The count goes with the checkpoint.
    shutil.rmtree(folder / "checkpoint-8")
    nan_at(8)
    resume(an4, folder)
    assert json.loads((folder / "all_results.json").read_text())["skipped_steps"] == 3  # 3, 4 and now 8


def test_a_loss_that_stays_nan_ends_the_run(an4, tmp_path, nan_at, monkeypatch):
    monkeypatch.setattr(training_callbacks, "MOST_SKIPPED_STEPS", 3)
    nan_at(1, 2, 4, 5, 6)
    with pytest.raises(ValueError, match="step 6: expected a finite loss and gradient, got none in 3 steps in a row"):
        train(checkpointing(an4, tmp_path / "model"), device="cpu")
    assert all(weight.isfinite().all() for weight in weights(tmp_path / "model" / "checkpoint-4").values())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_disappears_in_mid_run_is_silence_and_counted(an4, tmp_path, with_callback, workers):
    corpus = shutil.copytree(an4, tmp_path / "an4")
    gone = read_corpus(corpus, "train")["path"][0]
    with_callback(At(3, Path(gone).unlink))
    folder = tmp_path / "model"
    train(checkpointing(corpus, folder, max_steps=12, dataloader_num_workers=workers), device="cpu")
    results = json.loads((folder / "all_results.json").read_text())
    assert results["failed_reads"] in (2, 3)  # of four epochs; of the second, batches may have been read before
    assert results["epoch"] == 4


def test_a_corpus_that_disappears_in_mid_run_ends_it(an4, tmp_path, with_callback, monkeypatch):
    monkeypatch.setattr(collator, "MOST_FAILED_READS", 4)
    corpus = shutil.copytree(an4, tmp_path / "an4")
    with_callback(At(4, lambda: shutil.rmtree(corpus)))
    with pytest.raises(AudioError, match=r"no such file.*; with it 4 recordings in a row could not be read"):
        train(checkpointing(corpus, tmp_path / "model"), device="cpu")
    assert [path.name for path in (tmp_path / "model").glob("checkpoint-*")] == ["checkpoint-4"]
    shutil.copytree(an4, corpus)
    monkeypatch.undo()
    resume(corpus, tmp_path / "model")
    assert len(losses(tmp_path / "model")) == 8


def test_training_on_a_cpu_keeps_freed_memory(an4, tmp_path, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: asked.append(keep_freed_memory()))
    folder = train(tiny_recipe(an4, tmp_path / "model", max_steps=1), device="cpu")
    assert asked == [platform.libc_ver()[0] == "glibc"]
    assert all(weight.isfinite().all() for weight in weights(folder).values())


def test_without_glibc_there_is_nothing_to_keep(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert keep_freed_memory() is False


def test_a_history_is_drawn(tmp_path):
    history = [
        {"epoch": 1.0, "loss": 3.0},
        {"epoch": 1.0, "eval_loss": 2.5, "eval_wer": 0.9},
        {"epoch": 2.0, "loss": 1.0},
        {"epoch": 2.0, "eval_loss": 1.5, "eval_wer": 0.4},
    ]
    plot_history(history, tmp_path / "full.png")
    plot_history(history[:1], tmp_path / "short.png")
    full, short = ((tmp_path / name).read_bytes() for name in ("full.png", "short.png"))
    assert full.startswith(PNG)
    assert short.startswith(PNG)
    assert len(full) > len(short)


def test_a_history_without_a_figure_is_drawn_too(tmp_path):
    plot_history([{"train_runtime": 1.0}], tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(PNG)
