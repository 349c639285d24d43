"""How well a classifier tells labels apart, and what its confidence is worth."""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

from .audio import MAX_COMMAND_SECONDS, row_source, source_name
from .classification import Classification, classify, for_one_speaker
from .corpus_rows import select_speakers
from .evaluation import bootstrap_interval, circumstances, conditioned

CALIBRATION_BINS = 15
ACCEPTED_SHARE = 0.95  # of the right answers on held-out speakers reach the confidence threshold


def classification_rates(labels: Sequence | np.ndarray, predictions: Sequence | np.ndarray) -> dict[str, float]:
    """`accuracy` and `macro_f1` (the mean of the classes' F1, whatever their size)."""
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
    }


def label_names(config) -> list[str]:
    """The labels in the order of their ids: a config that was read from JSON has them as "0", "1", "10", "2"."""
    return [name for _, name in sorted(config.id2label.items())]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (utterances, classes)."""
    return torch.from_numpy(np.asarray(logits)).float().softmax(-1).numpy()


def expected_calibration_error(is_right: np.ndarray, confidences: np.ndarray) -> float:
    """
    Mean distance between confidence and accuracy over 15 bins of confidence, weighted by their size (Guo et al., 2017,
    "On calibration of modern neural networks").

    Args:
        is_right: whether each answer was right (utterances,).
        confidences: probability of each answer (utterances,).
    """
    bins = np.minimum((confidences * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return float(
        sum(
            (bins == i).mean() * abs(is_right[bins == i].mean() - confidences[bins == i].mean())
            for i in np.unique(bins)
        )
    )


def choose_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """
    The highest confidence that 95 % of the right answers reach: what falls below it is more likely a word that the
    model does not know. Held-out speakers' labels (utterances,) and probabilities (utterances, classes); None where no
    answer was right.
    """
    confidences = probabilities.max(-1)[probabilities.argmax(-1) == labels]
    return round(float(np.quantile(confidences, 1 - ACCEPTED_SHARE)), 4) if len(confidences) else None


def evaluate_classifier(
    classifier,
    dataset: datasets.Dataset,
    *,
    gain_db: float = 0.0,
    noise_snr_db: float | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """
    Measure a classifier (from `load_classifier`) on a corpus (from `read_labelled_corpus`). One that was trained with
    `features.normalize_by_speaker` knows whose clips they are, where the corpus says so: it takes away each speaker's
    mean over all of these clips, as `for_one_speaker` does.

    Args:
        gain_db: change of volume before classification.
        noise_snr_db: white noise is added at this signal-to-noise ratio, the same for an utterance in every run.
        batch_size: recordings that go through the model together.

    Returns:
        `accuracy`, `accuracy_interval` (95 %), `macro_f1`, `per_class` (precision, recall, F1 and support), `labels`
        and the `confusion_matrix` in their order (rows: true), `expected_calibration_error`, `confidence_threshold`
        with the shares of right and of wrong answers that reach it, `utterances`, `failed` (files that could not be
        used), `normalized_speakers` (how many had their mean taken away), `audio_seconds`, and `real_time_factor`.
        Clips whose label the model does not have count for `unknown_utterances`, `unknown_labels` and
        `unknown_rejected` alone, the last being the share of them below the threshold (None without such clips or
        threshold).
    """
    config = classifier.model.config
    failed: list[str] = []
    said: list[tuple[str, str]] = []  # label and recording

    def recordings(part: datasets.Dataset) -> Iterator[np.ndarray]:
        for row, samples in conditioned(part, classifier, failed, gain_db, noise_snr_db):
            said.append((row["label"], source_name(row_source(row))))
            yield samples

    start = time.perf_counter()
    results: list[Classification] = []
    extractor = classifier.feature_extractor
    speakers = sorted(set(dataset["speaker"]) - {None}) if extractor.normalize_by_speaker else []
    for speaker in speakers:
        clips = list(recordings(select_speakers(dataset, [speaker])))
        is_known = any(len(clip) <= MAX_COMMAND_SECONDS * extractor.sampling_rate for clip in clips)
        adapted = for_one_speaker(classifier, clips) if is_known else classifier
        results += classify(clips, adapted, top_k=1, batch_size=batch_size)
    others = dataset.filter(lambda name: name is None, input_columns="speaker") if speakers else dataset
    results += classify(recordings(others), classifier, top_k=1, batch_size=batch_size)
    elapsed = time.perf_counter() - start
    answers: list[tuple[str, dict[str, Any]]] = []  # label, and what was heard
    for (label, source), result in zip(said, results, strict=True):
        if result.error is None:
            answers.append((label, result.labels[0]))
        else:
            failed.append(f"{source}: {result.error.removeprefix('audio: ')}")
    unknown = [(label, heard) for label, heard in answers if label not in config.label2id]
    answers = [(label, heard) for label, heard in answers if label in config.label2id]
    if not answers:
        reasons = [*failed, *(f"the label {label!r} is none of the model's" for label, _ in unknown)]
        raise ValueError(f"not one recording could be used ({reasons[0] if reasons else 'the corpus is empty'})")
    truth = [label for label, _ in answers]
    predictions = [heard["label"] for _, heard in answers]
    confidences = np.array([heard["score"] for _, heard in answers])
    is_right = np.array([said == heard for said, heard in zip(truth, predictions, strict=True)])
    rates = classification_rates(truth, predictions)
    low, high = bootstrap_interval((~is_right).astype(int), np.ones(len(truth), dtype=int))
    names = label_names(config)
    per_class = classification_report(truth, predictions, labels=names, output_dict=True, zero_division=0)
    seconds = sum(result.duration for result in results)
    threshold = config.confidence_threshold
    unknown_accepted = _share(np.array([heard["score"] for _, heard in unknown]), threshold)
    return {
        **rates,
        "accuracy_interval": (1 - high, 1 - low),
        "per_class": {name: per_class[name] for name in names},
        "labels": names,
        "confusion_matrix": confusion_matrix(truth, predictions, labels=names).tolist(),
        "expected_calibration_error": expected_calibration_error(is_right, confidences),
        "confidence_threshold": threshold,
        "right_accepted": _share(confidences[is_right], threshold),
        "wrong_accepted": _share(confidences[~is_right], threshold),
        "utterances": len(truth),
        "unknown_utterances": len(unknown),
        "unknown_labels": sorted({label for label, _ in unknown}),
        "unknown_rejected": None if unknown_accepted is None else 1 - unknown_accepted,
        "failed": failed,
        "normalized_speakers": len(speakers),
        **circumstances(classifier, seconds, elapsed, gain_db, noise_snr_db),
    }


def _share(confidences: np.ndarray, threshold: float | None) -> float | None:
    return None if threshold is None or not len(confidences) else float((confidences >= threshold).mean())


def format_classification_report(report: dict[str, Any]) -> str:
    """The result of `evaluate_classifier` as a table to read."""
    low, high = report["accuracy_interval"]
    lines = [
        f"accuracy  {report['accuracy']:7.2%}   (95 % interval {low:.2%} to {high:.2%}, {report['utterances']} "
        "utterances)",
        f"macro-F1  {report['macro_f1']:7.2%}",
        f"expected calibration error  {report['expected_calibration_error']:.2%}",
    ]
    if report["confidence_threshold"] is not None:
        shares = [
            f"{report[key]:.1%} of the {kind} answers"
            for key, kind in (("right_accepted", "right"), ("wrong_accepted", "wrong"))
            if report[key] is not None
        ]
        lines.append(f"confidence of {report['confidence_threshold']:.3f} or more: {', '.join(shares)}")
    if report["normalized_speakers"]:
        lines.append(f"less the mean of each of {report['normalized_speakers']} speakers, over all their clips here")
    if report["unknown_utterances"]:
        shown = ", ".join(report["unknown_labels"][:10]) + (", …" if len(report["unknown_labels"]) > 10 else "")
        rejected = report["unknown_rejected"]
        below = "" if rejected is None else f": {rejected:.1%} of them below that confidence"
        lines.append(f"{report['unknown_utterances']} clips of labels that the model lacks ({shown}){below}")
    lines.append(
        f"speed     {report['audio_seconds']:.0f} s of audio at a real-time factor of {report['real_time_factor']:.4f} "
        f"({report['hardware']})"
    )
    width = max(len(name) for name in report["labels"])
    lines.append(f"{'label':{width}s}  precision  recall    F1  clips   most often taken for")
    for i, (name, row) in enumerate(report["per_class"].items()):
        others = [(count, report["labels"][j]) for j, count in enumerate(report["confusion_matrix"][i]) if j != i]
        count, other = max(others, default=(0, ""))
        lines.append(
            f"{name:{width}s}  {row['precision']:9.1%} {row['recall']:7.1%} {row['f1-score']:5.2f} "
            f"{row['support']:6.0f}   {f'{other} ({count})' if count else ''}".rstrip()
        )
    if report["failed"]:
        lines.append(f"{len(report['failed'])} recordings could not be used:")
        lines += [f"  {reason}" for reason in report["failed"][:5]]
    return "\n".join(lines)


def plot_confusion_matrix(matrix: np.ndarray, labels: Sequence[str], path: str | os.PathLike) -> None:
    """Draw a confusion matrix (rows: true labels), as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from sklearn.metrics import ConfusionMatrixDisplay

    size = max(4.0, 0.5 * len(labels) + 2)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    display = ConfusionMatrixDisplay(np.asarray(matrix), display_labels=labels)
    display.plot(ax=axes, cmap="Blues", xticks_rotation="vertical", colorbar=False)
    axes.set(xlabel="heard", ylabel="said")
    figure.savefig(path, dpi=100)
    plt.close(figure)


__all__ = [
    "choose_threshold",
    "classification_rates",
    "evaluate_classifier",
    "expected_calibration_error",
    "format_classification_report",
    "label_names",
    "plot_confusion_matrix",
    "softmax",
]
