"""The model card: rendered from `model_card.md` with what was measured; what was not is left out."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

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
        reports: results of `evaluate_recognizer` by a name for the condition ("test", "test, noise 10 dB"); the first
            one's WER enters the metadata.
        license_id: the model's licence on the Hub ("apache-2.0").
        language: code of the language ("en").

    Returns:
        The card's path.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    first = next(iter(reports.values()), None)
    results = None
    if first is not None:
        results = [
            EvalResult(
                task_type="automatic-speech-recognition",
                dataset_type=dataset.lower(),
                dataset_name=dataset,
                metric_type=metric,
                metric_value=round(100 * first[metric], 2),
            )
            for metric in ("wer", "cer")
        ]
    data = ModelCardData(
        language=language,
        license=license_id,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["hf_speechrec", "ctc", config.model_type],
        metrics=["wer", "cer"],
        model_name=title if results else None,
        eval_results=results,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        summary=summary,
        model_id=model_id,
        results=[row for name, report in reports.items() for row in _result_rows(name, report)],
        training_data=training_data,
        limits=limits,
        training_command=training_command,
        plot="training.png" if (folder / "training.png").exists() else None,
        settings=_settings(folder, config),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _result_rows(name: str, report: dict[str, Any]) -> list[dict[str, str]]:
    low, high = report["wer_interval"]
    how = f"`{report['command']}`, {report['date']}" if "command" in report else report["date"]
    rows = [
        {
            "measure": f"WER, {name}",
            "value": f"{report['wer']:.2%} (95 % interval {low:.2%} to {high:.2%})",
            "how": f"{how}; {report['words']} words",
        }
    ]
    if not report["gain_db"] and report["noise_snr_db"] is None:
        rows.append({"measure": f"CER, {name}", "value": f"{report['cer']:.2%}", "how": "the same run"})
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
    names = ("conv_channels", "num_residual_blocks", "time_reduction", "hidden_size", "num_hidden_layers", "vocab_size")
    settings = [(name, getattr(config, name)) for name in names]
    results = folder / "all_results.json"
    if results.exists():
        values = json.loads(results.read_text(encoding="utf-8"))
        settings += [
            (name, round(values[name], 4))
            for name in ("train_utterances", "train_hours", "epoch", "train_runtime", "train_loss")
            if name in values
        ]
    return settings
