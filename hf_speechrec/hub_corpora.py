"""Data sets of the Hub, and folders in its form (`hf-speechrec prepare`): downloaded first, or streamed."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import datasets

from .audio import AudioError, audio_duration, first_line
from .corpus_rows import SPEAKER_COLUMNS, TARGET_COLUMNS, CorpusError, printable, warn_of

logger = logging.getLogger(__name__)

# What `Audio(decode=False)` gives; of a stream datasets would hand even that to torchcodec.
ENCODED = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
NAMED_PROBLEMS = 5  # of a stream, whose rows are never all seen


def is_hub_dataset(source: str) -> bool:
    """Whether a name can only be that of a Hub data set, or is a folder in its form."""
    path = Path(source)
    if path.exists():
        return path.is_dir() and any(path.glob("data/*.parquet"))
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and " " not in source


def hub_dataset(source: str, split: str | None, target: str, streaming: bool = False, max_seconds: float = math.inf):
    """
    A Hub data set with the columns `audio` (undecoded), the target, `speaker` and `duration`. Rows that cannot be used
    are left out, counted and named; of a stream, whose rows are read as they come, the first few are named.
    """
    dataset = _load(source, split, streaming)
    columns = list(dataset.features or {})
    audio = next((column for column in columns if isinstance(dataset.features[column], datasets.Audio)), None)
    value = next((column for column in TARGET_COLUMNS[target] if column in columns), None)
    if audio is None or value is None:
        raise CorpusError(
            f"{source}: expected an audio column and one of {', '.join(TARGET_COLUMNS[target])}, "
            f"got {', '.join(columns)}"
        )
    speaker = next((column for column in SPEAKER_COLUMNS if column in columns), None)
    # Undecoded: datasets' own decoding needs torchcodec and a system FFmpeg.
    dataset = dataset.cast_column(audio, datasets.Audio(decode=False))
    name_of = _names(dataset.features[value])

    def standard(row: dict) -> dict:
        content = problem = seconds = recording = name = None
        try:
            recording, content = _fetched(row[audio]), name_of(row[value])
            name = row[speaker] if speaker else None
            seconds = audio_duration(recording)  # type: ignore[arg-type]  # none at all is an AudioError
        except AudioError as error:
            problem = str(error)
        except UnicodeDecodeError:  # Arrow decodes a cell where it is read
            problem = "expected texts in UTF-8"
        if problem is None and content is None:
            problem = f"no {target}"
        elif seconds is not None and seconds > max_seconds:
            problem = f"expected at most {max_seconds:g} s, got {seconds:.1f} s"
        return {
            "audio": recording,
            target: content,
            "speaker": None if name is None else str(name),
            "duration": seconds,
            "problem": problem,
        }

    features = {name: datasets.Value("string") for name in (target, "speaker", "problem")}
    dataset = dataset.map(
        standard,
        remove_columns=[column for column in columns if column not in ("audio", target)],
        features=datasets.Features(
            # A column of the target's name may have held numbers of classes.
            {
                "audio": ENCODED if streaming else datasets.Audio(decode=False),
                "duration": datasets.Value("float64"),
                **features,
            }
        ),
    )
    if streaming:
        return dataset.filter(_Usable(source)).remove_columns("problem")
    problems = [f"row {i}: {problem}" for i, problem in enumerate(dataset["problem"]) if problem is not None]
    warn_of(problems, len(dataset), source)
    if len(problems) == len(dataset):
        raise CorpusError(f"{source}: not one usable row ({printable(problems[0]) if problems else 'it is empty'})")
    return dataset.filter(lambda problem: problem is None, input_columns="problem").remove_columns("problem")


def streamed_values(source: str, split: str | None, target: str) -> Iterator[str]:
    """All texts or labels of a Hub data set, without its audio where the files allow it (Parquet does)."""
    dataset = _load(source, split, streaming=True)
    value = next(column for column in TARGET_COLUMNS[target] if column in (dataset.features or {}))
    name_of = _names(dataset.features[value])
    try:
        dataset = _load(source, split, streaming=True, columns=[value])
    except CorpusError:  # files of another kind have no such option
        dataset = dataset.select_columns(value)
    return (name for row in dataset if (name := name_of(row[value])) is not None)


def _load(source: str, split: str | None, streaming: bool, **options):
    name, _, config = (source, "", "") if Path(source).exists() else source.partition(":")
    try:
        return datasets.load_dataset(name, config or None, split=split or "train", streaming=streaming, **options)
    except Exception as error:  # a script (which is not run), a card that is none, a table cut short: of any kind
        # "An error occurred while generating the dataset" says less than what it was raised from.
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = first_line(cause or error)
        raise CorpusError(f"{source}: no such file or folder, nor a data set that the Hub gives ({reason})") from error


def _fetched(recording: dict | None) -> dict | None:
    """With its bytes, where it is a file of its own on the Hub."""
    if recording is None or recording.get("bytes") is not None or "://" not in str(recording.get("path")):
        return recording
    with datasets.utils.file_utils.xopen(recording["path"], "rb") as file:
        return {"bytes": file.read(), "path": recording["path"].rpartition("/")[2]}


def _names(feature):
    """A function from a column's value to its text, or None where there is none."""

    def name_of(value) -> str | None:
        if isinstance(feature, datasets.ClassLabel) and value is not None:
            value = feature.int2str(value) if value >= 0 else None  # -1: nobody has labelled it
        return None if value in (None, "") else str(value)

    return name_of


class _Usable:
    """Keeps the rows of a stream that have no problem, and names the first few that have."""

    def __init__(self, source: str):
        self.source = source
        self.problems = 0

    def __call__(self, row: dict) -> bool:
        if row["problem"] is None:
            return True
        self.problems += 1
        if self.problems <= NAMED_PROBLEMS:
            logger.warning("%s: left out a row: %s", self.source, printable(row["problem"]))
        return False


__all__ = ["hub_dataset", "is_hub_dataset", "streamed_values"]
