"""What training a recogniser and training a classifier have in common."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, Trainer

from .audio import AudioError, read_audio, row_source
from .collator import SpeechCollator
from .corpus_rows import CorpusError
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .loading import load_model
from .recipe import Recipe
from .speaker_normalization import speaker_sums

logger = logging.getLogger(__name__)

STATISTICS_SECONDS = 3600  # an hour of speech settles a mean and a variance for each mel bin


# What a config says of training alone: a run that starts from a checkpoint may choose it anew.
REGULARIZATION = {
    "conv_dropout",
    "hidden_dropout",
    "classifier_dropout",
    "chunked_training_probability",
    "phone_loss_weight",
    "dropout",
    "label_smoothing",
}


@dataclass
class TrainingParts:
    """
    What a task gives to the Trainer. `finish` runs after training with the trainer, the held-out part and the output
    folder, before the model is saved; `write_companions` puts what belongs beside the model into the folder.
    """

    model: PreTrainedModel
    processing_class: Any
    train_set: datasets.Dataset
    eval_set: datasets.Dataset | None
    data_collator: SpeechCollator
    compute_metrics: Callable
    preprocess_logits_for_metrics: Callable | None = None
    finish: Callable[[Trainer, datasets.Dataset, Path], None] | None = None
    write_companions: Callable[[Path], None] | None = None


def load_start(recipe: Recipe) -> tuple[PreTrainedModel, Any]:
    """
    The checkpoint that a recipe starts from, with the recipe's `REGULARIZATION`. Its sizes and features stand, and a
    warning says so where the recipe asks for others. Raises `ModelError`.
    """
    name = str(recipe.model_name_or_path)
    model, processor = load_model(name, {key: recipe.model[key] for key in REGULARIZATION & recipe.model.keys()})
    extractor = getattr(processor, "feature_extractor", processor)
    warn_of_other_sizes(name, (model.config, recipe.model), (extractor, recipe.features))
    return model, processor


def warn_of_other_sizes(name: str, *wanted: tuple[Any, dict[str, Any]]) -> None:
    """Name what a checkpoint's config or feature extractor has otherwise than a recipe's section asks for."""
    missed = [key for source, values in wanted for key, value in values.items() if getattr(source, key, None) != value]
    if missed:
        logger.warning("%s: its own %s stand, the recipe's do not apply", name, ", ".join(sorted(missed)))


def fitted_feature_extractor(dataset: datasets.Dataset, **kwargs) -> LogMelFeatureExtractor:
    """
    An extractor that normalises by the mean and variance of a training set (of an hour drawn from it); with
    `normalize_by_speaker` by the mean of its speakers' means, and the variance about a speaker's own.
    """
    extractor = LogMelFeatureExtractor(**kwargs)
    if extractor.normalize_by_speaker:
        sums = list(speaker_sums(dataset, extractor).values())
        if not sums:
            raise CorpusError("expected recordings to take feature statistics from, none could be read")
        frames = sum(one.frames for one in sums)
        variance = torch.stack([one.squares - one.frames * one.mean.square() for one in sums]).sum(0) / frames
        return _with_statistics(kwargs, torch.stack([one.mean for one in sums]).mean(0), variance)
    total = torch.zeros(extractor.feature_size, dtype=torch.float64)
    squares, frames, seconds = total.clone(), 0, 0.0
    for row in dataset.shuffle(seed=0):
        try:
            waveform = read_audio(row_source(row), extractor.sampling_rate)
        except AudioError:
            continue
        features = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        features = features["input_features"][0].double()
        total += features.sum(0)
        squares += features.square().sum(0)
        frames += len(features)
        seconds += len(waveform) / extractor.sampling_rate
        if seconds > STATISTICS_SECONDS:
            break
    if frames == 0:
        raise CorpusError("expected recordings to take feature statistics from, none could be read")
    mean = total / frames
    return _with_statistics(kwargs, mean, squares / frames - mean.square())


def _with_statistics(settings: dict[str, Any], mean: torch.Tensor, variance: torch.Tensor) -> LogMelFeatureExtractor:
    return LogMelFeatureExtractor(
        **settings,
        feature_mean=[round(value, 4) for value in mean.tolist()],
        feature_std=[round(value, 4) for value in variance.clamp(min=1e-4).sqrt().tolist()],
    )
