"""Recipe and command line become TrainingArguments: what was said goes first, and what does not fit is named."""

import pytest
import torch
from small_runs import tiny_recipe

from hf_speechrec.recipe import Recipe
from hf_speechrec.training_arguments import recipe_arguments, training_arguments


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


def test_a_gpu_that_emulates_bfloat16_is_given_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert training_arguments({"output_dir": str(tmp_path)}, ["--use_cpu", "true"]).bf16 is False


def test_an_abbreviated_argument_is_not_guessed():
    with pytest.raises(ValueError, match="--learning-rat 1"):
        training_arguments({}, ["--learning-rat", "1"])


@pytest.mark.parametrize(
    ("said", "is_stream", "expected"),
    [
        ({}, False, ("epoch", "epoch", True)),
        ({"save_strategy": "epoch"}, False, ("epoch", "epoch", True)),
        ({"load_best_model_at_end": False}, False, ("epoch", "epoch", False)),
        ({"save_strategy": "no"}, False, ("epoch", "no", False)),
        ({"eval_strategy": "no"}, False, ("no", "steps", False)),
        ({"eval_steps": 100}, False, ("steps", "steps", True)),
        ({"save_steps": 100}, False, ("steps", "steps", True)),
        ({"eval_strategy": "steps", "eval_steps": 30, "save_steps": 50}, False, ("steps", "steps", False)),
        ({"eval_strategy": "steps"}, False, ("steps", "steps", False)),  # transformers' steps need not fit
        ({}, True, ("no", "steps", False)),
        ({"save_steps": 100}, True, ("no", "steps", False)),
        ({"eval_steps": 100}, True, ("steps", "steps", True)),
    ],
)
@pytest.mark.parametrize("where", ["recipe", "command line"])
def test_what_is_not_said_makes_the_best_weights_be_kept(tmp_path, said, is_stream, expected, where):
    training = {"output_dir": str(tmp_path), "max_steps": 5} | (said if where == "recipe" else {})
    recipe = Recipe("user/corpus", held_out="test", streaming=is_stream, training=training)
    arguments = [] if where == "recipe" else [f"--{name.replace('_', '-')}={value}" for name, value in said.items()]
    args = recipe_arguments(recipe, arguments, "cpu")
    assert (args.eval_strategy, args.save_strategy, args.load_best_model_at_end) == expected
    for name in ("eval_steps", "save_steps"):
        if "steps" in expected[:1]:
            steps = said.get(name, said.get("eval_steps", said.get("save_steps")))
            assert steps is None or getattr(args, name) == steps


def test_patience_without_a_part_to_choose_by_is_named(tmp_path, caplog):
    recipe_arguments(Recipe("x", early_stopping_patience=3, training={"output_dir": str(tmp_path)}), device="cpu")
    (message,) = caplog.messages
    assert message == "early_stopping_patience does nothing: no part is held out to choose by (--held-out 0.1)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval_strategy": "no"}, "no and false"),
        ({"save_strategy": "no"}, "epoch and false"),
        ({"save_strategy": "epoch", "load_best_model_at_end": False}, "epoch and false"),
    ],
)
def test_nothing_to_stop_early_by_is_an_error_before_the_corpus_is_read(tmp_path, changes, said):
    recipe = tiny_recipe("no-corpus", tmp_path, held_out=0.2, early_stopping_patience=1, **changes)
    message = (
        r"early_stopping_patience: expected an eval_strategy \(epoch or steps\) and load_best_model_at_end true, got "
    )
    with pytest.raises(ValueError, match=message + said):
        recipe_arguments(recipe, device="cpu")
