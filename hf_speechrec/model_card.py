"""The model card: `README.md` of a model folder, rendered from `model_card.md` with the facts that lie in the folder.

Facts are kept in `model_card.json`: the recipe's words about the model, what its training was, and every evaluation
with the command that printed it. A card can therefore be rendered again at any time; what is not among the facts is
left out of it.
"""

import json
import math
import os
import shlex
import sys
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open
from transformers import AutoConfig

from .feature_extraction_log_mel import LogMelFeatureExtractor
from .language_model import LANGUAGE_MODEL
from .loading import CHECKPOINTS, is_classifier

FACTS = "model_card.json"
HERE = Path(__file__).parent
# In a wheel the template lies beside this file, in a checkout beside the package.
TEMPLATE = next((path for path in (HERE / "model_card.md", HERE.parent / "model_card.md") if path.exists()), None)

WORDS = ("title", "summary", "language", "license", "dataset", "datasets", "training_data", "limits")
SETTINGS = (
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
SECRETS = ("token", "password", "secret", "key")  # in the name of an option
TITLES = {"wer": "WER", "cer": "CER", "accuracy": "accuracy", "macro_f1": "macro-F1"}
METRIC_TYPES = {"macro_f1": "f1"}  # the Hub's names, where they are not ours


def read_facts(folder: str | PathLike) -> dict[str, Any]:
    """What a model folder knows about itself: the sections `card`, `training` and `evaluations`."""
    path = Path(folder, FACTS)
    facts = {}
    if path.exists():
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected the facts of a model card as JSON ({error})") from None
    if not isinstance(facts, dict) or not all(isinstance(section, dict) for section in facts.values()):
        raise ValueError(f"{path}: expected the facts of a model card (sections of names and values)")
    return {section: facts.get(section, {}) for section in ("card", "training", "evaluations")}


def update_facts(folder: str | PathLike, *, anew: bool = False, **sections: dict[str, Any]) -> None:
    """
    Add to what a model folder knows about itself.

    Args:
        anew: forget what was known: of weights that are about to be replaced.
        card: the words of a recipe's `card` section (`WORDS`).
        training: what the run was: `command`, `started_from` (a bundled name, a Hub id or `PATH/folder`), `date`,
            `hardware`, `settings` and `results`.
        evaluations: reports of `evaluate_recognizer` or `evaluate_classifier` by a name for the part and the
            conditions ("AN4 test, noise at 10 dB").
    """
    facts = {"card": {}, "training": {}, "evaluations": {}} if anew else read_facts(folder)
    for section, values in sections.items():
        facts[section] |= {name: value for name, value in values.items() if value is not None}
    # Lists of utterances are for whoever evaluates, not for a card.
    long = ("failed", "confusions", "worst", "per_class", "labels", "confusion_matrix")
    facts["evaluations"] = {
        name: {key: value for key, value in report.items() if key not in long}
        for name, report in facts["evaluations"].items()
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    partial = Path(folder, f"_{FACTS}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(Path(folder, FACTS))  # in one step: a full disk or a kill does not take what was known


def condition_name(report: dict[str, Any]) -> str:
    """A name for what a report (with its `corpus` and `split`) has measured: "AN4 test, noise at 10 dB"."""
    parts = [f"{report['corpus']} {report['split']}" if report["split"] else report["corpus"]]
    if report["gain_db"]:
        parts.append(f"{report['gain_db']:+g} dB")
    if report["noise_snr_db"] is not None:
        parts.append(f"noise at {report['noise_snr_db']:g} dB")
    if report.get("speakers"):
        parts.append(f"{report['speakers']} speakers")
    if report.get("language_model"):
        parts.append("language model")
    if report.get("normalized_speakers"):
        parts.append("less each speaker's mean")
    return ", ".join(parts)


def command_line() -> str | None:
    """
    The command that this process was started by, for cards: paths that lead out of the working folder, which tell of a
    machine and help nobody, are cut to `PATH/name`, and secrets are masked. None where it was not a command (a
    notebook, an interpreter).
    """
    program = Path(sys.argv[0])
    if program.stem == "hf-speechrec" or program.parts[-2:] == ("hf_speechrec", "__main__.py"):
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        command = ["hf-speechrec"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}", "-m"]
        command += [] if processes == 1 else ["hf_speechrec"]
    elif program.suffix == ".py":
        command = ["python", f"PATH/{program.name}" if program.is_absolute() else str(program)]
    else:
        return None
    is_secret = False
    for argument in sys.argv[1:]:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if any(word in name for word in SECRETS):
            value = "***" if equals else value
        elif is_secret:
            value = "***"
        elif value.startswith(("/", "~", "..")):
            value = f"PATH/{Path(value).name}"
        is_secret = not equals and argument.startswith("--") and any(word in argument for word in SECRETS)
        command.append(name + equals + value)
    return shlex.join(command)


def render_model_card(folder: str | PathLike, model_id: str | None = None) -> Path:
    """
    Write `README.md` into a model folder from its facts, its config, its weights and its plots.

    The results enter the metadata as `model-index`, the form for data sets of any kind. The Hub's newer
    `.eval_results/*.yaml` is for data sets that are registered there as benchmarks (an `eval.yaml` of theirs, on the
    Hub's list): a model page ignores it for all others, one's own recordings among them.

    Args:
        folder: a model folder.
        model_id: what others load the model by: an id on the Hub; by default a bundled model's name, or the folder.

    Returns:
        The card's path.
    """
    folder = Path(folder)
    is_on_hub = model_id is not None and "/" in model_id
    model_id = model_id or _local_name(folder)
    facts = read_facts(folder)
    words, training, reports = facts["card"], facts["training"], facts["evaluations"]
    config, extractor = AutoConfig.from_pretrained(folder), _feature_extractor(folder)
    is_for_labels = is_classifier(config)
    task = "audio-classification" if is_for_labels else "automatic-speech-recognition"
    family = "BiLSTM classifier" if is_for_labels else "ResNet + BiGRU recogniser"
    title = words.get("title") or f"{family}: {model_id.rpartition('/')[2]}"
    rows = [_cells(row) for name, report in reports.items() for row in _rows_or_error(folder, name, report)]
    results = [result for report in reports.values() for result in _eval_results(task, report, words.get("dataset"))]
    start = training.get("started_from") or ""
    data = ModelCardData(
        language=words.get("language"),
        license=words.get("license"),
        library_name="transformers",
        pipeline_tag=task,
        tags=["hf_speechrec", *([] if is_for_labels else ["ctc"]), config.model_type],
        base_model=start if "/" in start and not start.startswith("PATH/") else None,
        datasets=words.get("datasets"),
        metrics=["accuracy", "f1"] if is_for_labels else ["wer", "cer"],
        model_name=title if results else None,
        eval_results=results or None,
    )
    settings = [(name, getattr(config, name)) for name in SETTINGS if getattr(config, name, None) is not None]
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        family=family,
        labels=", ".join(f"`{label}`" for _, label in sorted(config.id2label.items())) if is_for_labels else None,
        model_id=model_id,
        is_on_hub=is_on_hub,
        sampling_rate=extractor.sampling_rate,
        normalize_by_speaker=extractor.normalize_by_speaker,
        **{name: words.get(name) for name in ("summary", "training_data", "limits")},
        results=rows + _held_out(training),
        training=training,
        settings=settings + list(training.get("settings", {}).items()) + _results(training),
        plot="training.png" if (folder / "training.png").exists() else None,
        confusion_matrix="confusion_matrix.png" if (folder / "confusion_matrix.png").exists() else None,
        size=_size(folder / "model.safetensors"),
        language_model=(folder / LANGUAGE_MODEL).exists(),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _feature_extractor(folder: Path) -> LogMelFeatureExtractor:
    """The model's; the default where the folder has none yet."""
    try:
        return LogMelFeatureExtractor.from_pretrained(folder)
    except OSError:
        return LogMelFeatureExtractor()


def _local_name(folder: Path) -> str:
    """What the commands take: a bundled model's name, or the folder, of which a card tells no more than it has to."""
    if folder.resolve().parent == CHECKPOINTS.resolve():
        return folder.resolve().name
    return f"PATH/{folder.name}" if folder.is_absolute() else folder.as_posix()


def _eval_results(task: str, report: dict[str, Any], dataset: str | None) -> list[EvalResult]:
    # A page would show them as the data set's own.
    if report["gain_db"] or report["noise_snr_db"] is not None or report.get("speakers"):
        return []
    name = report.get("corpus") or dataset or "a corpus of its own"
    suffix = " with a language model" if report.get("language_model") else ""
    suffix += " less each speaker's mean" if report.get("normalized_speakers") else ""
    return [
        EvalResult(
            task_type=task,
            dataset_type=name.lower().replace(" ", "_"),
            dataset_name=name,
            dataset_split=report.get("split"),
            metric_type=METRIC_TYPES.get(metric, metric),
            metric_name=TITLES[metric] + suffix,
            metric_value=round(100 * report[metric], 2),
        )
        for metric in TITLES
        if metric in report
    ]


def _rows_or_error(folder: Path, name: str, report: dict[str, Any]) -> list[dict[str, str]]:
    try:
        return _result_rows(name, report)
    except KeyError as error:
        raise ValueError(f"{folder / FACTS}: the evaluation {name!r} has no {error}") from None


def _cells(row: dict[str, str]) -> dict[str, str]:
    """Nothing that would end a table's cell."""
    return {key: " ".join(value.split()).replace("|", "\\|") for key, value in row.items()}


def _result_rows(name: str, report: dict[str, Any]) -> list[dict[str, str]]:
    how = f"`{report['command']}`, {report['date']}" if report.get("command") else report["date"]
    rate, other = ("accuracy", "macro_f1") if "accuracy" in report else ("wer", "cer")
    low, high = report[f"{rate}_interval"]
    size = f"{report['words']} words" if "words" in report else f"{report['utterances']} utterances"
    rows = [
        {
            "measure": f"{TITLES[rate]}, {name}",
            "value": f"{report[rate]:.2%} (95 % interval {low:.2%} to {high:.2%})",
            "how": f"{how}; {size}",
        }
    ]
    if not report["gain_db"] and report["noise_snr_db"] is None:
        values = {f"{TITLES[other]}, {name}": f"{report[other]:.2%}"}
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


def _held_out(training: dict[str, Any]) -> list[dict[str, str]]:
    """The training's own figures, on the speakers that it chose by."""
    return [
        {
            "measure": f"{title}, held-out part",
            "value": f"{training['results'][f'eval_{metric}']:.2%}",
            "how": "by the training run, on what it held out to choose by",
        }
        for metric, title in TITLES.items()
        if f"eval_{metric}" in training.get("results", {})
    ]


def _results(training: dict[str, Any]) -> list[tuple[str, Any]]:
    names = ("train_utterances", "train_hours", "epoch", "train_runtime", "train_loss")
    return [(name, round(training["results"][name], 4)) for name in names if name in training.get("results", {})]


def _size(weights: Path) -> str | None:
    if not weights.exists():
        return None
    with safe_open(weights, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  safetensors' own method
    parameters = sum(math.prod(shape) for shape in shapes)
    return f"{parameters / 1e6:.2f} M parameters, {weights.stat().st_size / 2**20:.1f} MiB on disk"


__all__ = [
    "FACTS",
    "WORDS",
    "command_line",
    "condition_name",
    "read_facts",
    "render_model_card",
    "update_facts",
]
