"""A recipe → a trained model folder: corpus, model, transformers' Trainer, results and a plot."""

import logging
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from .augmentation import Augmentation
from .corpora import read_corpus
from .corpus_rows import CorpusError, select_speakers, split_held_out
from .labelled_corpora import read_labelled_corpus
from .recipe import Recipe
from .trainer import CollatorEpoch, SpeechTrainer, checkpoint_to_resume, save_run, training_arguments
from .training_classifier import classifier_parts
from .training_recognizer import recognizer_parts

logger = logging.getLogger(__name__)

METRICS = {"ctc": "wer", "classification": "accuracy"}


def train(recipe: Recipe, arguments: Sequence[str] = (), device: str | None = None) -> Path:
    """
    Train a recogniser or a classifier.

    Args:
        recipe: what to train on what.
        arguments: command-line arguments of `TrainingArguments` that go before the recipe's
            (`["--num-train-epochs", "3"]`).
        device: "cpu", "cuda" or "mps"; by default the best there is.

    Returns:
        The folder of the trained model, with `all_results.json` and `training.png` beside the weights.

    Raises:
        ValueError: for a recipe, corpus or argument that cannot be used.
    """
    if recipe.held_out in (None, "", "none", 0):  # nothing to choose by: the last weights are kept
        arguments = [*arguments, "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    args = training_arguments(recipe.training, arguments, device, METRICS[recipe.task])
    output_dir = Path(str(args.output_dir))
    # Before anything random: weights, the held-out draw and the augmentation all follow the seed.
    torch.manual_seed(args.seed)

    read, parts_of = (
        (read_corpus, recognizer_parts) if recipe.task == "ctc" else (read_labelled_corpus, classifier_parts)
    )
    corpus = read(recipe.corpus, recipe.train_split, exclude_speakers=recipe.exclude_speakers)
    train_set, eval_set = _hold_out(corpus, recipe, args.seed)
    augmentation = None if recipe.augmentation is None else Augmentation(**recipe.augmentation)
    parts = parts_of(recipe, train_set, eval_set, augmentation, args.seed)
    train_set, eval_set = parts.train_set, parts.eval_set
    if augmentation is not None:
        train_set = train_set.add_column("augment", [True] * len(train_set))
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
    )
    seconds = sum(train_set["duration"])
    if trainer.is_world_process_zero():
        logger.info(
            "Training %s: %.1f M parameters, %d utterances (%.2f h) on %s",
            type(parts.model).__name__,
            parts.model.num_parameters() / 1e6,
            len(train_set),
            seconds / 3600,
            args.device,
        )
    result = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args, output_dir))
    metrics = {**result.metrics, "train_utterances": len(train_set), "train_hours": seconds / 3600, "seed": args.seed}
    metrics["audio_seconds_per_second"] = seconds * args.num_train_epochs / result.metrics["train_runtime"]
    if parts.data_collator.unreadable:
        metrics["unreadable_files"] = len(parts.data_collator.unreadable)
        logger.warning("%d files could not be read while training", len(parts.data_collator.unreadable))
    if eval_set is not None:
        metrics.update(trainer.evaluate())
        if parts.finish is not None:
            parts.finish(trainer, eval_set, output_dir)
    if trainer.is_world_process_zero():
        save_run(trainer, output_dir, metrics)
    trainer.accelerator.wait_for_everyone()
    return output_dir


def _hold_out(corpus: datasets.Dataset, recipe: Recipe, seed: int):
    """The part to train on and the part to choose by (or None)."""
    held_out = recipe.held_out
    if held_out in (None, "", "none", 0):
        return corpus, None
    try:
        return split_held_out(corpus, float(held_out), seed)
    except ValueError as error:
        if isinstance(error, CorpusError):
            raise
    path = next((p for p in (recipe.folder / str(held_out), Path(str(held_out))) if p.exists()), None)
    if path is None:
        raise CorpusError(f"{held_out}: expected a file of held-out speakers or a share such as 0.1")
    names = set(path.read_text(encoding="utf-8").split())
    try:
        held = select_speakers(corpus, names)
        train_set = select_speakers(corpus, exclude_speakers=names)
    except CorpusError:
        raise CorpusError(f"{path}: expected some of the corpus' speakers, but not all, to be held out") from None
    # By length, so that evaluation batches hold little padding.
    return train_set, held.sort("duration")
