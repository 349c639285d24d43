"""The Trainer: its arguments, checkpoints that are whole, runs that resume exactly, the plot."""

import json
import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from small_runs import PNG, assert_same_weights, tiny_recipe, weights
from transformers import AutoModelForCTC, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_speechrec.augmentation import Augmentation
from hf_speechrec.collator import CTCCollator
from hf_speechrec.corpora import read_corpus
from hf_speechrec.recipe import Recipe
from hf_speechrec.text import TextNormalizer
from hf_speechrec.trainer import PARTIAL, EpochSampler, SpeechTrainer, plot_history, training_arguments
from hf_speechrec.training import train


def test_an_unknown_argument_of_a_recipe_is_named():
    with pytest.raises(ValueError, match=r"TrainingArguments has no learning_rat$"):
        training_arguments({"learning_rat": 1e-3})


def test_an_unknown_argument_of_the_command_line_is_named():
    with pytest.raises(ValueError, match=r"neither an option of this command nor of .*: --learning-rates 1"):
        training_arguments({}, ["--learning-rates", "1"])


def test_a_value_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"num-train-epochs.*'many'"):
        training_arguments({}, ["--num-train-epochs", "many"])
    with pytest.raises(ValueError, match=r"num_train_epochs.*many"):
        training_arguments({"num_train_epochs": "many"})


@pytest.mark.parametrize("name", ["--num-train-epochs", "--num_train_epochs"])
def test_either_spelling_of_an_argument_goes_before_the_recipe(tmp_path, name):
    values = {"num_train_epochs": 60, "seed": 5, "output_dir": str(tmp_path)}
    args = training_arguments(values, [name, "3"], "cpu")
    assert (args.num_train_epochs, args.seed) == (3, 5)


def test_yaml_strings_become_numbers_and_our_defaults_stand_behind(tmp_path):
    # YAML 1.1 reads 1e-3, without a point, as a string.
    args = training_arguments({"learning_rate": "1e-4", "output_dir": str(tmp_path)}, device="cpu")
    assert args.learning_rate == 1e-4
    assert args.remove_unused_columns is False
    assert (args.metric_for_best_model, args.greater_is_better) == ("wer", False)
    assert (args.max_grad_norm, args.warmup_steps) == (1.0, 0.05)
    assert args.device.type == "cpu"


def test_switches_can_be_turned_off(tmp_path):
    values = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    arguments = ["--load_best_model_at_end", "false", "--output-dir", str(tmp_path)]
    assert training_arguments(values, arguments, "cpu").load_best_model_at_end is False


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_named(device):
    if device in ("cuda", "mps") and getattr(torch.backends if device == "mps" else torch, device).is_available():
        pytest.skip(f"{device} is there")
    with pytest.raises(ValueError, match=f"expected a device among cpu.* got {device}"):
        training_arguments({}, device=device)


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
        patch.setattr("hf_speechrec.trainer.plot_history", lambda *_: (_ for _ in ()).throw(PowerCutError))
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
        [
            (entry["step"], entry["loss"], entry["learning_rate"])
            for entry in json.loads((path / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for path in (folder, unbroken)
    ]
    assert len(curves[1]) == 8
    assert curves[0] == curves[1]


def test_the_order_of_utterances_follows_from_seed_and_epoch_alone():
    lengths = [float(i % 7) for i in range(50)]

    def order(seed: int, epoch: float, shortest_first: bool = False) -> list[int]:
        trainer = SimpleNamespace(
            args=SimpleNamespace(seed=seed), state=SimpleNamespace(epoch=epoch), shortest_first=shortest_first
        )
        return list(EpochSampler(LengthGroupedSampler(4, lengths=lengths), trainer))

    first = order(1, 2.0)
    torch.manual_seed(99)
    assert order(1, 2.6) == first  # resumed in the middle of epoch 2
    assert sorted(first) == list(range(50))
    assert order(1, 3.0) != first
    assert order(2, 2.0) != first
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
def taken(monkeypatch) -> StepRecorder:
    """The steps that a training run really takes."""
    recorder, original = StepRecorder(), SpeechTrainer.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(recorder)
        recorder.trainer = self

    monkeypatch.setattr(SpeechTrainer, "__init__", init)
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


def test_resuming_from_what_is_no_checkpoint_is_an_error(an4, tmp_path):
    with pytest.raises(ValueError, match="nowhere: expected a checkpoint folder to resume from"):
        train(tiny_recipe(an4, tmp_path / "model"), ["--resume_from_checkpoint", str(tmp_path / "nowhere")], "cpu")


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


def test_an_abbreviated_argument_is_not_guessed():
    with pytest.raises(ValueError, match="--learning-rat 1"):
        training_arguments({}, ["--learning-rat", "1"])
