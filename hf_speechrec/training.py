"""A recipe → a trained model folder: corpus, model, transformers' Trainer, results and a plot."""

import datetime
import logging
import platform
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState

from .augmentation import Augmentation
from .collator import SpeechCollator
from .corpora import read_corpus
from .corpus_rows import CorpusError, select_speakers, split_held_out
from .evaluation import read_speakers, warn_of_missing_speakers
from .hub_corpora import is_hub_dataset
from .labelled_corpora import read_labelled_corpus
from .model_card import command_line, update_facts
from .pronunciation import LEXICON
from .recipe import Recipe
from .trainer import SpeechTrainer, training_arguments
from .training_callbacks import CollatorEpoch
from .training_checkpoints import PARTIAL, checkpoint_to_resume, save_run
from .training_classifier import classifier_parts
from .training_parts import TrainingParts
from .training_recognizer import recognizer_parts

logger = logging.getLogger(__name__)

SHUFFLE_BUFFER = 1000  # utterances of a stream that are mixed
METRICS = {"ctc": "wer", "classification": "accuracy"}


def train(recipe: Recipe, arguments: Sequence[str] = (), device: str | None = None) -> Path:
    """
    Train a recogniser or a classifier. With a held-out part the folder gets the best weights by it, unless the recipe
    or the arguments say otherwise; without one the last.

    Args:
        recipe: what to train on what.
        arguments: command-line arguments of `TrainingArguments` that go before the recipe's
            (`["--num-train-epochs", "3"]`).
        device: "cpu", "cuda" or "mps"; by default the best there is.

    Returns:
        The folder of the trained model, with `all_results.json` and `training.png` beside the weights.

    Raises:
        ValueError: for a recipe, corpus or argument that cannot be used, a loss that stays NaN, or recordings that have
            gone away.
        OSError: where the folder cannot be written; its checkpoints are whole.
        SystemExit: 143 after a SIGTERM, with the run saved.
    """
    values = recipe.training
    if not _is_held_out(recipe):  # nothing to choose by: the last weights are kept
        arguments = [*arguments, "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    else:
        values = _choosing(_said(recipe, arguments), recipe.streaming) | values
    args = training_arguments(values, arguments, device, METRICS[recipe.task])
    if _is_held_out(recipe) and recipe.early_stopping_patience:
        _check_stopping(args)
    if recipe.streaming:
        _check_stream(recipe, args)
    output_dir = Path(str(args.output_dir))
    # Before anything random: weights, the held-out draw and the augmentation all follow the seed.
    torch.manual_seed(args.seed)

    train_set, eval_set = _read(recipe, args.seed)
    parts_of = recognizer_parts if recipe.task == "ctc" else classifier_parts
    augmentation = None if recipe.augmentation is None else Augmentation(**recipe.augmentation)
    parts = parts_of(recipe, train_set, eval_set, augmentation, args.seed)
    train_set, eval_set = parts.train_set, parts.eval_set
    if augmentation is not None:
        train_set = _marked(train_set)
    if recipe.streaming:
        train_set = train_set.shuffle(seed=args.seed, buffer_size=SHUFFLE_BUFFER)
        # Each process reads its own part; sent by the first one, batches of different length would not fit together.
        setattr(args.accelerator_config, "dispatch_batches", False)  # noqa: B010  typed as what it was given as
    curriculum_epochs = 0 if recipe.streaming else recipe.curriculum_epochs  # a stream's lengths are not known before
    parts.data_collator.plain_epochs = curriculum_epochs
    callbacks: list[TrainerCallback] = [CollatorEpoch(parts.data_collator)]
    if eval_set is not None and recipe.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))

    trainer = SpeechTrainer(
        model=parts.model,
        args=args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=parts.data_collator,
        processing_class=parts.processing_class,
        compute_metrics=parts.compute_metrics,
        preprocess_logits_for_metrics=parts.preprocess_logits_for_metrics,
        callbacks=callbacks,
        shortest_first=curriculum_epochs > 0,
    )
    size = _size(train_set)
    if trainer.is_world_process_zero():
        logger.info(
            "Training %s: %.1f M parameters, %s on %s",
            type(parts.model).__name__,
            parts.model.num_parameters() / 1e6,
            f"{size['train_utterances']} utterances ({size['train_hours']:.2f} h)" if size else "a stream",
            args.device,
        )
        _begin_folder(output_dir, recipe, args, parts)
    metrics = _run(trainer, parts.data_collator, size, checkpoint_to_resume(args, output_dir)) | {"seed": args.seed}
    if eval_set is not None:
        metrics.update(trainer.evaluate())
        if parts.finish is not None:
            parts.finish(trainer, eval_set, output_dir)
    if trainer.is_world_process_zero():
        update_facts(output_dir, training={"results": metrics})
        save_run(trainer, output_dir, metrics)
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.wait_for_everyone()
    return output_dir


def _is_held_out(recipe: Recipe) -> bool:
    return recipe.held_out not in (None, "", "none", 0)


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


def _run(
    trainer: SpeechTrainer, collator: SpeechCollator, size: dict[str, float], checkpoint: str | None
) -> dict[str, float]:
    """Train, from a checkpoint on where there is one; returns what can be said of it."""
    epoch_before = 0.0
    if checkpoint is not None:
        epoch_before = TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json"))).epoch or 0.0
    result = trainer.train(resume_from_checkpoint=checkpoint)
    metrics = {**result.metrics, **size}
    epochs = result.metrics["epoch"] - epoch_before
    if not epochs:
        del metrics["train_loss"]  # the mean of nothing
    elif size:
        metrics["audio_seconds_per_second"] = 3600 * size["train_hours"] * epochs / result.metrics["train_runtime"]
    if failed_reads := int(collator.failed_reads):
        metrics["failed_reads"] = failed_reads
        logger.warning("%d times a file could not be read while training", failed_reads)
    if skipped := sum("skipped_steps" in entry for entry in trainer.state.log_history):
        metrics["skipped_steps"] = skipped
        logger.warning("%d steps were left out: their loss or gradient was not finite", skipped)
    return metrics


def _begin_folder(output_dir: Path, recipe: Recipe, args, parts: TrainingParts) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output_dir / PARTIAL, ignore_errors=True)  # of a run that was killed
    update_facts(output_dir, anew=True, card=recipe.card, training=_facts(args))
    for name in ("confusion_matrix.png", LEXICON):  # of what is about to be replaced
        (output_dir / name).unlink(missing_ok=True)
    if parts.write_companions is not None:
        parts.write_companions(output_dir)


def _facts(args) -> dict[str, Any]:
    """What a card says of the run."""
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else platform.machine()
    workers = f"{args.world_size} processes" if args.world_size > 1 else f"{torch.get_num_threads()} threads"
    return {
        "command": command_line(),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{args.device.type} ({device}, {workers})",
        "settings": {
            "learning_rate": args.learning_rate,
            "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            "warmup_steps": args.warmup_steps,
            "weight_decay": args.weight_decay,
            "batch size": args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            "seed": args.seed,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


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


def _marked(train_set):
    """With the column that asks the collator to augment."""
    if isinstance(train_set, datasets.IterableDataset):
        return train_set.map(lambda _: {"augment": True})
    return train_set.add_column("augment", [True] * len(train_set))


def _size(train_set) -> dict[str, float]:
    if isinstance(train_set, datasets.IterableDataset):
        return {}
    return {"train_utterances": len(train_set), "train_hours": sum(train_set["duration"]) / 3600}


def _read(recipe: Recipe, seed: int):
    """The part to train on and the part to choose by (or None)."""
    read: Callable = read_corpus if recipe.task == "ctc" else read_labelled_corpus
    held_out = recipe.held_out
    share = _share(held_out) if _is_held_out(recipe) else None
    corpus = read(
        recipe.corpus, recipe.train_split, exclude_speakers=recipe.exclude_speakers, streaming=recipe.streaming
    )
    if not _is_held_out(recipe):
        return corpus, None
    if share is not None and not recipe.streaming:
        return split_held_out(corpus, share, seed)
    path = next((p for p in (recipe.folder / str(held_out), Path(str(held_out))) if p.is_file()), None)
    if share is not None or (path is not None and recipe.streaming):
        raise CorpusError(f"{held_out}: of a stream no speakers can be held out; expected the name of another part")
    if path is None:
        trained_on = recipe.train_split or ("train" if is_hub_dataset(recipe.corpus) else None)
        if trained_on in (None, held_out):
            raise CorpusError(
                f"{held_out}: expected a file of held-out speakers or a share such as 0.1; a part of the corpus can be "
                "held out where train_split names another one"
            )
        options = {"exclude_speakers": recipe.exclude_speakers, "streaming": recipe.streaming}
        try:
            held = read(recipe.corpus, str(held_out), **options)
            # Of a stream this part alone is fetched, and kept: every evaluation reads all of it.
            return corpus, datasets.Dataset.from_list(list(held)) if recipe.streaming else held.sort("duration")
        except CorpusError as error:
            raise CorpusError(
                f"{held_out}: expected a file of held-out speakers, a share such as 0.1, or a part of the corpus "
                f"({error})"
            ) from None
    names = read_speakers(path)
    try:
        held = select_speakers(corpus, names)
        train_set = select_speakers(corpus, exclude_speakers=names)
    except CorpusError:
        raise CorpusError(f"{path}: expected some of the corpus' speakers, but not all, to be held out") from None
    warn_of_missing_speakers(path, names, held)
    # By length, so that evaluation batches hold little padding.
    return train_set, held.sort("duration")


def _share(held_out: str | float | None) -> float | None:
    """The share that is held out, or None where a name stands in its place. Raises `ValueError`."""
    try:
        share = float(str(held_out))
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, such as 0.1, or none; got {held_out}")
    return share
