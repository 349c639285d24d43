"""A recipe → a trained model folder: corpus, model, transformers' Trainer, results and a plot."""

import datetime
import logging
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState

from .augmentation import Augmentation
from .collator import SpeechCollator
from .language_model import LANGUAGE_MODEL, weights_file
from .loading import CHECKPOINTS
from .model_card import command_line, update_facts
from .pronunciation import LEXICON
from .recipe import Recipe
from .trainer import SpeechTrainer
from .training_arguments import recipe_arguments
from .training_callbacks import CollatorEpoch
from .training_checkpoints import PARTIAL, checkpoint_to_resume, save_run
from .training_classifier import classifier_parts
from .training_parts import TrainingParts
from .training_recognizer import recognizer_parts
from .training_sets import marked_for_augmentation, read_sets, sizes

logger = logging.getLogger(__name__)

SHUFFLE_BUFFER = 1000  # utterances of a stream that are mixed


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
    args = recipe_arguments(recipe, arguments, device)
    output_dir = Path(str(args.output_dir))
    # Before anything random: weights, the held-out draw and the augmentation all follow the seed.
    torch.manual_seed(args.seed)

    train_set, eval_set = read_sets(recipe, args.seed)
    parts_of = recognizer_parts if recipe.task == "ctc" else classifier_parts
    augmentation = None if recipe.augmentation is None else Augmentation(**recipe.augmentation)
    parts = parts_of(recipe, train_set, eval_set, augmentation, args.seed)
    train_set, eval_set = parts.train_set, parts.eval_set
    if augmentation is not None:
        train_set = marked_for_augmentation(train_set)
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
    size = sizes(train_set)
    checkpoint = checkpoint_to_resume(args, output_dir)
    if trainer.is_world_process_zero():
        logger.info(
            "Training %s: %.1f M parameters, %s on %s",
            type(parts.model).__name__,
            parts.model.num_parameters() / 1e6,
            f"{size['train_utterances']} utterances ({size['train_hours']:.2f} h)" if size else "a stream",
            args.device,
        )
        _begin_folder(output_dir, recipe, args, parts)
        if checkpoint is None:
            _remove_language_model(output_dir)
    metrics = _run(trainer, parts.data_collator, size, checkpoint) | {"seed": args.seed}
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
    update_facts(output_dir, anew=True, card=recipe.card, training=_facts(recipe, args))
    for name in ("confusion_matrix.png", LEXICON):  # of what is about to be replaced
        (output_dir / name).unlink(missing_ok=True)
    if parts.write_companions is not None:
        parts.write_companions(output_dir)


def _remove_language_model(output_dir: Path) -> None:
    """One that the folder carries is of another run's spelling, and maybe of a text that is not to go with this one."""
    if (model := output_dir / LANGUAGE_MODEL).exists():
        logger.warning("%s: removed, it was made for the model that is replaced", model)
        for path in (model, weights_file(model)):
            path.unlink(missing_ok=True)


def _facts(recipe: Recipe, args) -> dict[str, Any]:
    """What a card says of the run."""
    device = torch.cuda.get_device_name() if args.device.type == "cuda" else platform.machine()
    start = recipe.model_name_or_path
    # A folder of this machine says nothing to others but its name.
    is_bundled = start in {path.name for path in CHECKPOINTS.iterdir()}
    is_folder = start is not None and not is_bundled and Path(start).exists()
    workers = f"{args.world_size} processes" if args.world_size > 1 else f"{torch.get_num_threads()} threads"
    return {
        "command": command_line(),
        "started_from": f"PATH/{Path(str(start)).name}" if is_folder else start,
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
