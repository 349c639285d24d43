"""Corpora → one `datasets.Dataset` of (path, text, duration, speaker), whatever they look like on disk."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import datasets

from .audio import SUFFIXES
from .corpus_rows import (
    DOWNLOAD_FOLDER,
    CorpusError,
    Rows,
    is_there,
    manifest_rows,
    measured,
    select_speakers,
)
from .hub_corpora import hub_dataset, is_hub_dataset


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
            the id of a data set on the Hub, with `:config` behind it where it has several;
            a folder in the Hub's form (`data/*.parquet`), as `hf-speechrec prepare` writes it.
        split: which part, where the corpus has parts: a name of AN4's or of a Hub data set, or for a folder of
            several LibriSpeech subsets the subset's name. Several are joined by `+`, as in `datasets`.
        speakers: keep only these speakers.
        exclude_speakers: leave these out.
        streaming: stream a Hub data set instead of downloading it.

    Returns:
        `datasets.Dataset` of `path`, `text`, `duration` (seconds) and `speaker` (or None). Hub data sets have their
        undecoded `audio` in place of `path`; streamed they are a `datasets.IterableDataset`.

    Raises:
        CorpusError: where there is nothing of that name or not one usable row. A single bad row or unreadable file
            is left out, counted, and named in a warning.
    """
    path = Path(source)
    if is_hub_dataset(str(source)):
        dataset = hub_dataset(str(source), split, "text", streaming)
    elif path.exists():
        try:
            rows, problems = _local_rows(path, split)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(f"{source}: expected tables of UTF-8 text that can be read ({error})") from None
        dataset = measured(rows, problems, str(source), "text")
    elif str(source).startswith("librispeech:"):
        if split is not None:
            raise CorpusError(f"{source}: expected no split, it is one part by itself; got {split!r}")
        dataset = read_corpus(_downloaded_librispeech(str(source).partition(":")[2]))
    else:
        raise CorpusError(
            f"{source}: no such file or folder, and neither `librispeech:SUBSET` nor the id of a Hub data set"
        )
    return select_speakers(dataset, speakers, exclude_speakers, name=str(source))


def _local_rows(path: Path, split: str | None) -> Rows:
    if split and "+" in split:
        parts = [_local_rows(path, name.strip()) for name in split.split("+")]
        return [row for rows, _ in parts for row in rows], [problem for _, problems in parts for problem in problems]
    if (path / "etc").is_dir() and any((path / "etc").glob("*.fileids")):
        return _an4(path, split)
    part = path / (split or "")
    if split and not part.is_dir():  # never the whole in its place: somebody would be scored on what was trained on
        raise CorpusError(f"{path}: expected a folder named {split!r} in it, as a split was asked for")
    if path.is_file():
        return manifest_rows(path, "text")
    for folder in (part, path):
        for name in ("metadata.csv", "metadata.jsonl"):
            if (folder / name).exists():
                rows, problems = manifest_rows(folder / name, "text")
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
    return next((path for suffix in sorted(SUFFIXES) if is_there(path := Path(f"{stem}{suffix}"))), None)


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
