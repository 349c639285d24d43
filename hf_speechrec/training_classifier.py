"""A classifier's part of training: labels, model, and what its confidence is worth."""

import logging
from itertools import chain
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from transformers import Trainer

from .augmentation import Augmentation
from .collator import AudioClassificationCollator
from .configuration_bilstm import BiLstmConfig
from .corpus_rows import warn_of, without_recordings
from .evaluation_classifier import choose_threshold, classification_rates, label_names, plot_confusion_matrix, softmax
from .hub_corpora import streamed_values
from .modeling_bilstm import BiLstmForAudioClassification
from .recipe import STREAM_WITHOUT_MEANS, Recipe
from .speaker_normalization import speaker_sums
from .training_parts import REGULARIZATION, TrainingParts, fitted_feature_extractor, load_start, warn_of_other_sizes

logger = logging.getLogger(__name__)


def classifier_parts(
    recipe: Recipe, train_set, eval_set, augmentation: Augmentation | None, seed: int
) -> TrainingParts:
    """What a Trainer needs to train a classifier on a corpus of labelled recordings."""
    said = streamed_values(recipe.corpus, recipe.train_split, "label") if recipe.streaming else train_set["label"]
    labels = sorted(set(said))
    if len(labels) < 2:
        raise ValueError(f"{recipe.corpus}: expected at least two labels to tell apart, got {', '.join(labels)}")
    extractor, model = _extractor_and_model(recipe, train_set, labels)
    return TrainingParts(
        model=model,
        processing_class=extractor,
        train_set=train_set,
        eval_set=None if eval_set is None else with_known_labels(eval_set, labels, "the held-out part"),
        data_collator=AudioClassificationCollator(
            extractor,
            model.config.label2id,
            augmentation,
            seed=seed,
            speaker_means=_speaker_means(extractor, train_set, eval_set),
        ),
        compute_metrics=_trainer_metrics,
        finish=_choose_and_plot,
    )


def _speaker_means(extractor, train_set, eval_set) -> dict[str, torch.Tensor] | None:
    """The mean of each speaker's clips, for a model that takes it away."""
    if not extractor.normalize_by_speaker:
        return None
    if isinstance(train_set, datasets.IterableDataset):  # of a checkpoint that the run starts from
        raise ValueError(STREAM_WITHOUT_MEANS)
    parts = [part for part in (train_set, eval_set) if part is not None]
    if any(None in part["speaker"] for part in parts):
        raise ValueError("features.normalize_by_speaker: expected a corpus that says whose each clip is")
    sums = speaker_sums(chain.from_iterable(parts), extractor)
    return {speaker: one.mean.float() for speaker, one in sums.items()}


def with_known_labels(dataset, labels, name: str):
    """Leave out, with a warning that counts and names them, rows whose label the model has not been trained on."""
    known = set(labels)
    problems = [
        f"{row.get('path') or 'a row'}: the label {row['label']!r} is none of the model's {len(known)}"
        for row in without_recordings(dataset)
        if row["label"] not in known
    ]
    warn_of(problems, len(dataset), name)
    if len(problems) == len(dataset):
        raise ValueError(f"{name}: not one row has a label of the model ({problems[0] if problems else 'it is empty'})")
    return dataset.filter(lambda label: label in known, input_columns="label") if problems else dataset


def _extractor_and_model(recipe: Recipe, train_set, labels: list[str]):
    id2label = dict(enumerate(labels))
    label2id = {label: i for i, label in id2label.items()}
    source = recipe.model_name_or_path
    if source is None or str(source).endswith((".pth", ".pt")):
        extractor = fitted_feature_extractor(train_set, **recipe.features)
        if source is None:
            config = BiLstmConfig(
                input_size=extractor.feature_size, id2label=id2label, label2id=label2id, **recipe.model
            )
            return extractor, BiLstmForAudioClassification(config)
        # The sizes are those of its tensors, which say nothing of the rest.
        settings = {key: recipe.model[key] for key in (REGULARIZATION | {"pooling"}) & recipe.model.keys()}
        model = BiLstmForAudioClassification.from_state_dict_file(source, **settings)
        warn_of_other_sizes(source, (model.config, recipe.model))
        if model.config.input_size != extractor.feature_size:
            raise ValueError(
                f"{source}: takes {model.config.input_size} features a frame, the recipe's features.feature_size is "
                f"{extractor.feature_size}"
            )
        if model.config.num_labels == len(labels):
            model.config.id2label, model.config.label2id = id2label, label2id
            taken = ", ".join(f"{i} for {label!r}" for i, label in id2label.items())
            logger.warning("%s: its classes have no names, and are taken in alphabetical order: %s", source, taken)
            return extractor, model
    else:
        loaded, extractor = load_start(recipe)
        if not isinstance(loaded, BiLstmForAudioClassification):
            raise ValueError(
                f"{source}: expected a {BiLstmForAudioClassification.__name__} to start from, got a "
                f"{type(loaded).__name__}"
            )
        model = loaded
        if model.config.label2id == label2id:
            return extractor, model
    replace_labels(model, id2label)
    return extractor, model


@torch.no_grad()
def replace_labels(model: BiLstmForAudioClassification, id2label: dict[int, str]) -> None:
    """Give the model a head for other labels; labels that both have keep their weights."""
    old, head = cast(dict[str, int], model.config.label2id), model.fc
    fresh = torch.nn.Linear(head.in_features, len(id2label), dtype=head.weight.dtype, device=head.weight.device)
    shared = [(i, old[label]) for i, label in id2label.items() if label in old]
    for new_id, old_id in shared:
        fresh.weight[new_id] = head.weight[old_id]
        fresh.bias[new_id] = head.bias[old_id]
    model.fc = fresh
    model.config.id2label = dict(id2label)
    model.config.label2id = {label: i for i, label in id2label.items()}
    model.config.confidence_threshold = None
    logger.warning(
        "The head is new: %d labels, of which %d keep the checkpoint's weights and %d are initialised anew.",
        len(id2label),
        len(shared),
        len(id2label) - len(shared),
    )


def _trainer_metrics(prediction) -> dict[str, float]:
    labels, logits = _readable(prediction)
    return classification_rates(labels, logits.argmax(-1))


def _readable(prediction) -> tuple[np.ndarray, np.ndarray]:
    """
    Labels (utterances,) and logits (utterances, classes) of an evaluation, without the clips that could not be read,
    which the collator labels -100. Raises `ValueError` where none is left.
    """
    labels, logits = np.asarray(prediction.label_ids), np.asarray(prediction.predictions)
    is_read = labels >= 0
    if not is_read.any():
        raise ValueError(f"expected held-out clips that can be read, none of {len(labels)} could be")
    return labels[is_read], logits[is_read]


def _choose_and_plot(trainer: Trainer, eval_set, output_dir: Path) -> None:
    """Choose the confidence threshold on the held-out part, and draw what is taken for what there."""
    labels, logits = _readable(trainer.predict(eval_set))
    probabilities = softmax(logits)
    config = cast(BiLstmForAudioClassification, trainer.model).config
    threshold = config.confidence_threshold = choose_threshold(labels, probabilities)
    if threshold is None:
        logger.warning("No confidence threshold: not one answer on the held-out part is right")
    else:
        logger.info("Confidence threshold, chosen on the held-out part: %.3f", threshold)
    if trainer.is_world_process_zero():
        names = label_names(config)
        matrix = confusion_matrix(labels, probabilities.argmax(-1), labels=range(len(names)))
        plot_confusion_matrix(matrix, names, output_dir / "confusion_matrix.png")


__all__ = ["classifier_parts", "replace_labels", "with_known_labels"]
