"""Corpora → one `datasets.Dataset` of (path, text, duration, speaker), whatever they look like on disk."""

import csv
import json
import logging
import os
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from .audio import SUFFIXES, AudioError, audio_duration

logger = logging.getLogger(__name__)

PATH_COLUMNS = ("path", "file_name", "audio_filepath", "audio", "file", "filename")
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
DOWNLOAD_FOLDER = Path(HF_HOME, "hf_speechrec")
FEATURES = datasets.Features(
    {
        "path": datasets.Value("string"),
        "text": datasets.Value("string"),
        "duration": datasets.Value("float64"),  # seconds
        "speaker": datasets.Value("string"),
    }
)


class CorpusError(ValueError):
    """A corpus that cannot be used; the message names it, what was expected and what came."""


def read_corpus(
    source: str | os.PathLike,
    split: str | None = None,
    *,
    speakers: Iterable[str] | None = None,
    exclude_speakers: Iterable[str] | None = None,
    streaming: bool = False,
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Read a corpus of transcribed recordings.

    Args:
        source: one of
            a folder of LibriSpeech as published (`speaker/chapter/*.trans.txt` with .flac, .opus or .wav);
            `librispeech:SUBSET`, downloaded by torchaudio (`librispeech:train-clean-100`);
            a folder of AN4 (`etc` and `wav`, SPHERE or FLAC), with `split` "train" or "test";
            a folder with `metadata.csv` or `metadata.jsonl`, as the Hub's audiofolder has it;
            a manifest: a .csv, .tsv, .jsonl or .json-lines file with a column of paths and one of texts;
            the id of a data set on the Hub, with `:config` behind it where it has several.
        split: which part, where the corpus has parts: a name of AN4's or of a Hub data set, or for a folder of
            several LibriSpeech subsets the subset's name.
        speakers: keep only these speakers.
        exclude_speakers: leave these out.
        streaming: stream a Hub data set instead of downloading it.

    Returns:
        `datasets.Dataset` of `path`, `text`, `duration` (seconds) and `speaker` (or None). Hub data sets have their
        undecoded `audio` in place of `path`, and streamed ones have no `duration`.

    Raises:
        CorpusError: where there is nothing of that name or not one usable row. A single bad row or unreadable file
            is left out, counted, and named in a warning.
    """
    path = Path(source)
    if path.exists():
        try:
            rows, problems = _local_rows(path, split)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(f"{source}: expected tables of UTF-8 text that can be read ({error})") from None
        dataset = _measured(rows, problems, str(source))
    elif str(source).startswith("librispeech:"):
        dataset = read_corpus(_downloaded_librispeech(str(source).partition(":")[2]))
    elif _looks_like_hub_id(str(source)):
        dataset = _hub_dataset(str(source), split, streaming)
    else:
        raise CorpusError(
            f"{source}: no such file or folder, and neither `librispeech:SUBSET` nor the id of a Hub data set"
        )
    return _select_speakers(dataset, speakers, exclude_speakers, str(source))


def split_speakers(dataset: datasets.Dataset, share: float, seed: int = 0) -> tuple[datasets.Dataset, datasets.Dataset]:
    """
    Hold out about `share` of the utterances: whole speakers where they are known, else utterances at random.

    Returns:
        The rest and the held-out part. Raises `CorpusError` where either would be empty.
    """
    rng = random.Random(seed)
    known = dataset["speaker"]
    groups = list(known) if all(speaker is not None for speaker in known) else [str(i) for i in range(len(dataset))]
    names = sorted(set(groups))
    if len(names) < 2:
        raise CorpusError(f"expected at least two speakers or utterances to hold some out, got {len(names)}")
    rng.shuffle(names)
    held: set[str] = set()
    while names[len(held) :][1:] and (not held or sum(g in held for g in groups) < share * len(groups)):
        held.add(names[len(held)])
    train = [i for i, group in enumerate(groups) if group not in held]
    return dataset.select(train), dataset.select([i for i, group in enumerate(groups) if group in held])


# Rows of local corpora: ({"path", "text", "speaker"} of each utterance, a line for each bad row)

Rows = tuple[list[dict[str, Any]], list[str]]


def _local_rows(path: Path, split: str | None) -> Rows:
    if (path / "etc").is_dir() and any((path / "etc").glob("*.fileids")):
        return _an4(path, split)
    part = path / (split or "")
    if split and not part.is_dir():  # never the whole in its place: somebody would be scored on what was trained on
        raise CorpusError(f"{path}: expected a folder named {split!r} in it, as a split was asked for")
    if path.is_file():
        return _manifest(path)
    for folder in (part, path):
        for name in ("metadata.csv", "metadata.jsonl"):
            if (folder / name).exists():
                rows, problems = _manifest(folder / name)
                if folder != part:  # one table above all parts
                    rows = [row for row in rows if Path(row["path"]).is_relative_to(part)]
                return rows, problems
    transcripts = sorted(part.rglob("*.trans.txt"))
    if transcripts:
        return _librispeech(transcripts)
    raise CorpusError(
        f"{path}: expected LibriSpeech (*.trans.txt), AN4 (etc/*.fileids), or a folder with metadata.csv or "
        "metadata.jsonl; found none of them"
    )


def _an4(root: Path, split: str | None) -> Rows:
    """CMU AN4: train lines read `<s> TEXT </s> (id)`, test lines `TEXT (id)`."""
    fileids = root / "etc" / f"an4_{split}.fileids"
    if not fileids.exists():
        raise CorpusError(f"{root}: AN4 has the splits 'train' and 'test', got {split!r}")
    lines = fileids.with_name(f"an4_{split}.transcription").read_text(encoding="utf-8").splitlines()
    texts = {}
    for line in lines:
        text, _, utterance = line.strip().rpartition("(")
        texts[utterance.rstrip(")")] = text.replace("<s>", "").replace("</s>", "").strip()
    rows, problems = [], []
    for fileid in fileids.read_text(encoding="utf-8").split():
        relative = Path(fileid)
        audio = _with_any_suffix(root / "wav" / relative)
        if audio is None or relative.name not in texts:
            problems.append(f"{fileid}: no {'audio' if audio is None else 'transcript'}")
        else:
            rows.append({"path": str(audio), "text": texts[relative.name], "speaker": relative.parent.name})
    return rows, problems


def _librispeech(transcripts: list[Path]) -> Rows:
    rows, problems = [], []
    for transcript in transcripts:
        speaker = transcript.name.split("-")[0]
        for line in transcript.read_text(encoding="utf-8").splitlines():
            utterance, _, text = line.strip().partition(" ")
            if not utterance:
                continue
            audio = _with_any_suffix(transcript.parent / utterance)
            if audio is None or not text:
                problems.append(f"{transcript.parent / utterance}: no {'transcript' if audio else 'audio'}")
            else:
                rows.append({"path": str(audio), "text": text, "speaker": speaker})
    return rows, problems


def _with_any_suffix(stem: Path) -> Path | None:
    return next((path for suffix in sorted(SUFFIXES) if (path := stem.with_name(stem.name + suffix)).exists()), None)


def _manifest(path: Path) -> Rows:
    """A table with one utterance a row; relative paths start at the manifest's folder."""
    rows, problems = [], []
    for number, record in _records(path):
        if not isinstance(record, dict):
            problems.append(f"{path}:{number}: not a JSON object")
            continue
        audio, text = _first(record, PATH_COLUMNS), _first(record, TEXT_COLUMNS)
        if audio is None or text is None:
            missing = f"no path (one of {', '.join(PATH_COLUMNS)})" if audio is None else "no text"
            problems.append(f"{path}:{number}: {missing}, got the columns {', '.join(map(str, record))}")
            continue
        speaker = _first(record, SPEAKER_COLUMNS)
        rows.append({"path": str(path.parent / str(audio)), "text": str(text), "speaker": speaker and str(speaker)})
    return rows, problems


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
                    except json.JSONDecodeError:
                        yield number, line
        else:
            raise CorpusError(f"{path}: expected a manifest .csv, .tsv or .jsonl, got {path.suffix or 'no suffix'}")


def _first(record: dict, columns: tuple[str, ...]) -> Any:
    return next((record[column] for column in columns if record.get(column) not in (None, "")), None)


def _measured(rows: list[dict], problems: list[str], name: str) -> datasets.Dataset:
    """Add each row's duration, and leave out what cannot be read."""

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
            else:
                usable.append({**row, "duration": result})
    warn_of(problems, len(problems) + len(usable), name)
    if not usable:
        raise CorpusError(f"{name}: not one usable row ({problems[0] if problems else 'it is empty'})")
    return datasets.Dataset.from_list(usable, features=FEATURES)


def warn_of(problems: list[str], num_rows: int, name: str) -> None:
    """Count and name the rows that were left out."""
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:5])
        more = f"\n  … and {len(problems) - 5} more" if len(problems) > 5 else ""
        logger.warning("%s: left out %d of %d rows:%s%s", name, len(problems), num_rows, shown, more)


def _downloaded_librispeech(subset: str) -> Path:
    from torchaudio.datasets import LIBRISPEECH
    from torchaudio.datasets.librispeech import _DATA_SUBSETS

    if subset not in _DATA_SUBSETS:
        raise CorpusError(f"librispeech:{subset}: expected one of {', '.join(_DATA_SUBSETS)}")
    DOWNLOAD_FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        LIBRISPEECH(DOWNLOAD_FOLDER, subset, download=True)
    except (OSError, RuntimeError) as error:  # no network, a wrong checksum
        raise CorpusError(f"librispeech:{subset}: could not be downloaded ({error})") from error
    return DOWNLOAD_FOLDER / "LibriSpeech" / subset


def _looks_like_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and " " not in source


def _hub_dataset(source: str, split: str | None, streaming: bool):
    name, _, config = source.partition(":")
    try:
        dataset = datasets.load_dataset(name, config or None, split=split or "train", streaming=streaming)
    except (OSError, ValueError, ImportError, datasets.exceptions.DatasetsError) as error:
        # "An error occurred while generating the dataset" says less than what it was raised from.
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = next(iter(str(cause or error).strip().splitlines()), type(error).__name__)
        raise CorpusError(f"{source}: no such file or folder, nor a data set that the Hub gives ({reason})") from error
    columns = list(dataset.features or {})
    audio = next((column for column in columns if isinstance(dataset.features[column], datasets.Audio)), None)
    text = next((column for column in TEXT_COLUMNS if column in columns), None)
    if audio is None or text is None:
        raise CorpusError(
            f"{source}: expected an audio column and one of {', '.join(TEXT_COLUMNS)}, got {', '.join(columns)}"
        )
    speaker = next((column for column in SPEAKER_COLUMNS if column in columns), None)
    # Undecoded: datasets' own decoding needs torchcodec and a system FFmpeg.
    dataset = dataset.cast_column(audio, datasets.Audio(decode=False))

    def standard(row: dict) -> dict:
        name = row[speaker] if speaker else None
        return {"audio": row[audio], "text": row[text], "speaker": None if name is None else str(name)}

    dataset = dataset.map(standard, remove_columns=[column for column in columns if column not in ("audio", "text")])
    if streaming:
        return dataset.filter(lambda row: row["text"] is not None)

    def measured(row: dict) -> dict:
        try:
            return {"duration": audio_duration(row["audio"]), "problem": None if row["text"] else "no text"}
        except AudioError as error:
            return {"duration": None, "problem": str(error)}

    dataset = dataset.map(measured)
    problems = [f"row {i}: {problem}" for i, problem in enumerate(dataset["problem"]) if problem is not None]
    warn_of(problems, len(dataset), source)
    if len(problems) == len(dataset):
        raise CorpusError(f"{source}: not one usable row ({problems[0] if problems else 'it is empty'})")
    return dataset.filter(lambda problem: problem is None, input_columns="problem").remove_columns("problem")


def _select_speakers(dataset, speakers, exclude_speakers, name: str):
    if speakers is None and exclude_speakers is None:
        return dataset
    wanted = None if speakers is None else set(speakers)
    unwanted = set(exclude_speakers or ())
    selected = dataset.filter(
        lambda row: (wanted is None or row["speaker"] in wanted) and row["speaker"] not in unwanted
    )
    if isinstance(selected, datasets.Dataset) and len(selected) == 0:
        raise CorpusError(f"{name}: not one utterance of the wanted speakers")
    return selected
