"""What all corpora share: tables, Hub data sets, durations, speakers, and rows that cannot be used."""

import csv
import json
import logging
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.constants import HF_HOME
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from .audio import AudioError, audio_duration

logger = logging.getLogger(__name__)

PATH_COLUMNS = ("path", "file_name", "audio_filepath", "audio", "file", "filename")
TARGET_COLUMNS = {
    "text": ("text", "transcription", "transcript", "sentence", "normalized_text"),
    "label": ("label", "class", "category", "command", "keyword", "intent"),
}
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
DOWNLOAD_FOLDER = Path(HF_HOME, "hf_speechrec")

# Rows of local corpora: {"path", "text" or "label", "speaker"} of each utterance, and a line for each bad row.
Rows = tuple[list[dict[str, Any]], list[str]]


class CorpusError(ValueError):
    """A corpus that cannot be used; the message names it, what was expected and what came."""


def manifest_rows(path: Path, target: str) -> Rows:
    """A table with one utterance a row, its "text" or "label" the target; relative paths start at its folder."""
    rows, problems = [], []
    for number, record in _records(path):
        if not isinstance(record, dict):
            problems.append(f"{path}:{number}: not a JSON object")
            continue
        audio, value = _first(record, PATH_COLUMNS), _first(record, TARGET_COLUMNS[target])
        if audio is None or value is None:
            missing = f"no path (one of {', '.join(PATH_COLUMNS)})" if audio is None else f"no {target}"
            problems.append(f"{path}:{number}: {missing}, got the columns {', '.join(map(str, record))}")
            continue
        speaker = _first(record, SPEAKER_COLUMNS)
        row: dict[str, str | None] = {"path": str(path.parent / str(audio)), target: str(value)}
        row["speaker"] = None if speaker is None else str(speaker)
        if not all(_is_text(cell) for cell in row.values()):
            problems.append(f"{path}:{number}: expected text, got characters that are none")
            continue
        rows.append(row)
    return rows, problems


def _is_text(cell: str | None) -> bool:
    """JSON may hold halves of characters, which cannot be written again, and NULs, which no path may have."""
    return cell is None or ("\0" not in cell and not any("\ud800" <= character <= "\udfff" for character in cell))


def is_there(path: Path) -> bool:
    """`Path.exists`, also for a name that is too long to be one."""
    try:
        return path.exists()
    except OSError:
        return False


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number and record of each line. A line that does not parse comes as its text."""
    # Not datasets' own CSV and JSON loaders: one broken line would end them, and the run.
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() in (".csv", ".tsv"):
            # Quotes in a TSV are text (Common Voice has them unbalanced).
            is_tsv = path.suffix.lower() == ".tsv"
            dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"delimiter": ","}
            reader = csv.DictReader(file, **dialect)
            for record in reader:
                yield reader.line_num, {key: value for key, value in record.items() if key is not None}
        elif path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except (ValueError, RecursionError):  # also a number of 5000 digits, brackets 100000 deep
                        yield number, line
        else:
            raise CorpusError(f"{path}: expected a manifest .csv, .tsv or .jsonl, got {path.suffix or 'no suffix'}")


def _first(record: dict, columns: tuple[str, ...]) -> Any:
    return next((record[column] for column in columns if record.get(column) not in (None, "")), None)


def measured(
    rows: list[dict], problems: list[str], name: str, target: str, max_seconds: float = math.inf
) -> datasets.Dataset:
    """Add each row's duration, and leave out what cannot be read or is longer than `max_seconds`."""

    def duration(row: dict) -> float | AudioError:
        try:
            return audio_duration(row["path"])
        except AudioError as error:
            return error

    usable = []
    with ThreadPoolExecutor() as pool:
        progress = tqdm(
            zip(rows, pool.map(duration, rows), strict=True),
            total=len(rows),
            desc=f"Reading {name}",
            unit="file",
            disable=len(rows) < 2000,  # over in a moment
        )
        for row, result in progress:
            if isinstance(result, AudioError):
                problems.append(str(result))
            elif result > max_seconds:
                problems.append(f"{row['path']}: expected at most {max_seconds:g} s, got {result:.1f} s")
            else:
                usable.append({**row, "duration": result})
    warn_of(problems, len(problems) + len(usable), name)
    if not usable:
        raise CorpusError(f"{name}: not one usable row ({printable(problems[0]) if problems else 'it is empty'})")
    features = {name: datasets.Value("string") for name in ("path", target, "speaker")}
    return datasets.Dataset.from_list(
        usable,
        features=datasets.Features(features | {"duration": datasets.Value("float64")}),  # seconds
    )


def warn_of(problems: list[str], num_rows: int, name: str) -> None:
    """Count and name the rows that were left out."""
    if problems:
        shown = "".join(f"\n  {printable(problem)}" for problem in problems[:5])
        more = f"\n  … and {len(problems) - 5} more" if len(problems) > 5 else ""
        logger.warning("%s: left out %d of %d rows:%s%s", name, len(problems), num_rows, shown, more)


def printable(line: str) -> str:
    """A name in a stranger's table may hold line breaks, and what moves a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def split_held_out(
    dataset: datasets.Dataset, share: float, seed: int = 0, *, name: str = "the corpus"
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """
    Hold out about `share` of the utterances: whole speakers where they are known, else utterances at random, of every
    label the same share.

    Returns:
        The rest and the held-out part. Raises `CorpusError` where either would be empty.
    """
    speakers = dataset["speaker"]
    if all(speaker is None for speaker in speakers) and len(dataset) > 1:
        labels = list(dataset["label"]) if "label" in dataset.column_names else None
        try:
            train, held_out = train_test_split(range(len(dataset)), test_size=share, random_state=seed, stratify=labels)
        except ValueError:
            of_labels = f" of each of {len(set(labels))} labels" if labels else ""
            raise CorpusError(
                f"{name}: too few utterances ({len(dataset)}) to hold out a share of {share}{of_labels}"
            ) from None
        return dataset.select(sorted(train)), dataset.select(sorted(held_out))
    # Somebody unknown among known speakers is a speaker for each utterance.
    groups = [speaker or f"utterance {i}" for i, speaker in enumerate(speakers)]
    names = sorted(set(groups))
    if len(names) < 2:
        raise CorpusError(f"{name}: expected at least two speakers or utterances to hold some out, got {len(names)}")
    random.Random(seed).shuffle(names)
    utterances = Counter(groups)
    held = {names[0]}
    size = utterances[names[0]]
    for speaker in names[1:-1]:
        if size >= share * len(dataset):
            break
        held.add(speaker)
        size += utterances[speaker]
    is_held = [group in held for group in groups]
    return (
        dataset.select([i for i, is_out in enumerate(is_held) if not is_out]),
        dataset.select([i for i, is_out in enumerate(is_held) if is_out]),
    )


def select_speakers(
    dataset,
    speakers: Iterable[str] | None = None,
    exclude_speakers: Iterable[str] | None = None,
    *,
    name: str = "corpus",
):
    """Keep only, or leave out, the utterances of some speakers. Raises `CorpusError` where nothing is left."""
    if speakers is None and exclude_speakers is None:
        return dataset
    wanted = None if speakers is None else set(speakers)
    unwanted = set(exclude_speakers or ())
    selected = dataset.filter(
        lambda speaker: (wanted is None or speaker in wanted) and speaker not in unwanted,
        input_columns="speaker",  # and not the recordings of a Hub data set
    )
    if isinstance(selected, datasets.Dataset) and len(selected) == 0:
        raise CorpusError(f"{name}: not one utterance of the wanted speakers")
    return selected


def without_recordings(dataset: datasets.Dataset) -> datasets.Dataset:
    """Without the recordings of a Hub data set, whose bytes would be read with every row that is looked at."""
    return dataset.remove_columns("audio") if "audio" in dataset.column_names else dataset


def read_speakers(path: Path) -> list[str]:
    """The speakers that a file names, one a line; a name may hold blanks."""
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def warn_of_missing_speakers(source: str | Path, speakers: Iterable[str], dataset: datasets.Dataset) -> None:
    """Name those of a list's speakers who say nothing in a corpus; `source` is where the list stands."""
    if missing := sorted(set(speakers) - set(dataset["speaker"])):
        logger.warning("%s: the corpus has no utterance of %s", source, ", ".join(missing))
