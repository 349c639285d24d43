"""Recipe and command line → transformers' TrainingArguments, with our defaults."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments

from .corpus_rows import CorpusError
from .hub_corpora import is_hub_dataset
from .recipe import Recipe

logger = logging.getLogger(__name__)

METRICS = {"ctc": "wer", "classification": "accuracy"}


def recipe_arguments(recipe: Recipe, arguments: Sequence[str] = (), device: str | None = None) -> TrainingArguments:
    """
    `TrainingArguments` of a run: those of the command line, of the recipe, and what suits a part that is held out, or
    its absence.

    Args:
        recipe: what to train on what.
        arguments: command-line arguments of `TrainingArguments` (`["--num-train-epochs", "3"]`).
        device: "cpu", "cuda" or "mps"; by default the best there is.

    Raises:
        ValueError: for arguments that do not fit together, or as `training_arguments`.
    """
    values = recipe.training
    if recipe.has_held_out:
        values = _choosing(_said(recipe, arguments), recipe.streaming) | values
    else:  # nothing to choose by: the last weights are kept
        arguments = [*arguments, "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    args = training_arguments(values, arguments, device, METRICS[recipe.task])
    if recipe.early_stopping_patience and recipe.has_held_out:
        _check_stopping(args)
    elif recipe.early_stopping_patience:
        logger.warning("early_stopping_patience does nothing: no part is held out to choose by (--held-out 0.1)")
    if recipe.streaming:
        _check_stream(recipe, args)
    return args


def training_arguments(
    values: dict[str, Any], arguments: Sequence[str] = (), device: str | None = None, metric: str = "wer"
) -> TrainingArguments:
    """
    `TrainingArguments` of a recipe's section, command-line arguments before it and our defaults behind it. `metric`
    ("wer" or "accuracy") chooses the best checkpoint.

    Raises:
        ValueError: for an argument that `TrainingArguments` does not have, or a value that does not fit.
    """
    defaults = {
        "output_dir": "runs/model",
        "remove_unused_columns": False,
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "duration",
        "label_names": ["labels"],
        "report_to": "none",
        "metric_for_best_model": metric,
        "greater_is_better": metric == "accuracy",
        "save_total_limit": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "logging_steps": 50,
        "ddp_find_unused_parameters": False,  # every parameter takes part in every step
        "dataloader_pin_memory": torch.cuda.is_available(),
        "bf16": device in (None, "cuda") and _does_bfloat16(),
    }
    known = {f.name for f in fields(TrainingArguments)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"transformers' TrainingArguments has no {', '.join(unknown)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is not None and not available.get(device, False):
        raise ValueError(
            f"expected a device among {', '.join(d for d, there in available.items() if there)}, got {device}"
        )
    parser = HfArgumentParser(TrainingArguments, exit_on_error=False, allow_abbrev=False)  # type: ignore[arg-type]
    parser.set_defaults(**defaults | values)
    try:
        args, rest = parser.parse_known_args(list(arguments))
    except Exception as error:  # argparse's own errors do not share a useful base
        raise ValueError(str(error)) from None
    if rest:
        raise ValueError(f"neither an option of this command nor of transformers' TrainingArguments: {' '.join(rest)}")
    if device == "cpu":
        args.use_cpu = True
    if args.push_to_hub and str(getattr(args.hub_strategy, "value", args.hub_strategy)) not in ("end", "every_save"):
        raise ValueError(f"expected the hub_strategy end or every_save, got {args.hub_strategy}")
    return TrainingArguments(**vars(args))


def _does_bfloat16() -> bool:
    """Whether a GPU has it in hardware: emulated it is slower than float32. The loss is always taken in float32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _said(recipe: Recipe, arguments: Sequence[str]) -> dict[str, Any]:
    """The training arguments that recipe and command line name, with their values as they stand there."""
    said = dict(recipe.training)
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            said[name[2:].replace("-", "_")] = value if equals else following
    return said


def _choosing(said: dict[str, Any], is_stream: bool) -> dict[str, Any]:
    """
    Training arguments that make a run with a held-out part keep its best weights: for what was not said it evaluates
    and saves every epoch, or by the steps that were said. A stream, whose epochs may take days, is evaluated on the way
    only where eval_steps or eval_strategy were said.
    """
    saving = said.get("save_strategy", "steps" if "save_steps" in said else "epoch")
    is_by_steps = "eval_steps" in said or (saving == "steps" and not is_stream)
    strategy = said.get("eval_strategy", "steps" if is_by_steps else "no" if is_stream else "epoch")
    if strategy not in ("epoch", "steps"):
        return {}
    values = {"eval_strategy": strategy, "save_strategy": strategy}
    steps = said.get("eval_steps", said.get("save_steps"))
    if strategy == "steps" and steps is not None:
        values |= {"eval_steps": steps, "save_steps": steps}
    values |= {name: said[name] for name in values if name in said}
    fit = strategy == "epoch" or (steps is not None and str(values["save_steps"]) == str(values["eval_steps"]))
    if fit and values["save_strategy"] == strategy:  # transformers refuses others
        values["load_best_model_at_end"] = True
    return values


def _check_stopping(args) -> None:
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    if strategy == "no" or not args.load_best_model_at_end:
        raise ValueError(
            "early_stopping_patience: expected an eval_strategy (epoch or steps) and load_best_model_at_end true, got "
            f"{strategy} and {str(args.load_best_model_at_end).lower()}"
        )


def _check_stream(recipe: Recipe, args) -> None:
    if not is_hub_dataset(recipe.corpus):
        raise CorpusError(f"{recipe.corpus}: only a Hub data set, or a folder in its form, can be streamed")
    if args.max_steps <= 0:
        raise ValueError("a stream has no end: expected max_steps in the recipe's training section")
    # Processes come to the end of their parts at different steps, and would wait for each other.
    if args.world_size > 1 and "epoch" in (args.eval_strategy, args.save_strategy):
        raise ValueError(
            "a stream in several processes: expected eval_strategy and save_strategy to be steps, got epoch"
        )


__all__ = ["recipe_arguments", "training_arguments"]
