"""The model card: rendered from `model_card.md` with what was measured; what was not is left out."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

from .loading import is_classifier

HERE = Path(__file__).parent
# In a wheel the template lies beside this file, in a checkout beside the package.
TEMPLATE = next((path for path in (HERE / "model_card.md", HERE.parent / "model_card.md") if path.exists()), None)


def write_model_card(
    folder: str | PathLike,
    *,
    model_id: str,
    title: str,
    summary: str,
    training_data: str,
    limits: str,
    training_command: str,
    dataset: str,
    reports: dict[str, dict[str, Any]],
    license_id: str | None = None,
    language: str | None = None,
) -> Path:
    """
    Write `README.md` into a model folder.

    Args:
        folder: a model folder, with the run's `all_results.json` and `training.png` where there are any.
        model_id: what users load the model by.
        title, summary, training_data, limits, training_command: text, in Markdown.
        dataset: name of the data set of the results, for the card's metadata.
        reports: results of `evaluate_recognizer` or `evaluate_classifier` by a name for the condition ("test", "test,
            noise 10 dB"); the first one's error rates or accuracy enter the metadata.
        license_id: the model's licence on the Hub ("apache-2.0").
        language: code of the language ("en").

    Returns:
        The card's path.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    task = "audio-classification" if is_classifier(config) else "automatic-speech-recognition"
    metrics = ["accuracy", "f1"] if is_classifier(config) else ["wer", "cer"]
    first = next(iter(reports.values()), None)
    results = None
    if first is not None:
        results = [
            EvalResult(
                task_type=task,
                dataset_type=dataset.lower(),
                dataset_name=dataset,
                metric_type=metric,
                metric_value=round(100 * first["macro_f1" if metric == "f1" else metric], 2),
            )
            for metric in metrics
        ]
    data = ModelCardData(
        language=language,
        license=license_id,
        library_name="transformers",
        pipeline_tag=task,
        tags=["hf_speechrec", *([] if is_classifier(config) else ["ctc"]), config.model_type],
        metrics=metrics,
        model_name=title if results else None,
        eval_results=results,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        summary=summary,
        labels=", ".join(config.id2label.values()) if is_classifier(config) else None,
        model_id=model_id,
        results=[row for name, report in reports.items() for row in _result_rows(name, report)],
        training_data=training_data,
        limits=limits,
        training_command=training_command,
        plot="training.png" if (folder / "training.png").exists() else None,
        confusion_matrix="confusion_matrix.png" if (folder / "confusion_matrix.png").exists() else None,
        settings=_settings(folder, config),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _result_rows(name: str, report: dict[str, Any]) -> list[dict[str, str]]:
    how = f"`{report['command']}`, {report['date']}" if "command" in report else report["date"]
    rate, other = ("accuracy", "macro_f1") if "accuracy" in report else ("wer", "cer")
    low, high = report[f"{rate}_interval"]
    size = f"{report['words']} words" if "words" in report else f"{report['utterances']} utterances"
    titles = {"wer": "WER", "cer": "CER", "accuracy": "accuracy", "macro_f1": "macro-F1"}
    rows = [
        {
            "measure": f"{titles[rate]}, {name}",
            "value": f"{report[rate]:.2%} (95 % interval {low:.2%} to {high:.2%})",
            "how": f"{how}; {size}",
        }
    ]
    if not report["gain_db"] and report["noise_snr_db"] is None:
        values = {f"{titles[other]}, {name}": f"{report[other]:.2%}"}
        if "expected_calibration_error" in report:
            values[f"expected calibration error, {name}"] = f"{report['expected_calibration_error']:.2%}"
        if report.get("right_accepted") is not None and report.get("wrong_accepted") is not None:
            values[f"right and wrong answers above the confidence threshold, {name}"] = (
                f"{report['right_accepted']:.1%} and {report['wrong_accepted']:.1%}"
            )
        rows += [{"measure": key, "value": value, "how": "the same run"} for key, value in values.items()]
        rows.append(
            {
                "measure": "real-time factor",
                "value": f"{report['real_time_factor']:.4f}",
                "how": f"the same run, {report['hardware']}",
            }
        )
    return rows


def _settings(folder: Path, config) -> list[tuple[str, Any]]:
    """Sizes and, where the run left them, its results."""
    names = (
        "conv_channels",
        "num_residual_blocks",
        "time_reduction",
        "input_size",
        "hidden_size",
        "num_hidden_layers",
        "pooling",
        "vocab_size",
        "confidence_threshold",
    )
    settings = [(name, getattr(config, name)) for name in names if getattr(config, name, None) is not None]
    results = folder / "all_results.json"
    if results.exists():
        values = json.loads(results.read_text(encoding="utf-8"))
        settings += [
            (name, round(values[name], 4))
            for name in ("train_utterances", "train_hours", "epoch", "seed", "train_runtime", "train_loss")
            if name in values
        ]
    return settings
