"""Corpora of commands → one `datasets.Dataset` of (path, label, duration, speaker), whatever they look like on disk."""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
from torch.utils.data import Dataset

from .audio import MAX_COMMAND_SECONDS, SUFFIXES
from .corpus_rows import (
    DOWNLOAD_FOLDER,
    CorpusError,
    Rows,
    is_there,
    manifest_rows,
    measured,
    select_speakers,
    split_held_out,
)
from .hub_corpora import hub_dataset, is_hub_dataset

TEST_SHARE = 0.2  # of a folder that comes without parts
SPLIT_SEED = 0
FSDD_TEST = range(5)  # the data set's own split: each speaker's first five recordings of a digit
# Official lists of Speech Commands, whose training part is what is in neither.
SPEECH_COMMANDS_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
SPEECH_COMMANDS_NAME = re.compile(r"(?:.*_)?([0-9a-f]{8})_nohash_\d+")  # speaker_nohash_index
FSDD_NAME = re.compile(r"([^_]+)_([^_]+)_\d+")  # label_speaker_index


def read_labelled_corpus(
    source: str | os.PathLike,
    split: str | None = None,
    *,
    speakers: Iterable[str] | None = None,
    exclude_speakers: Iterable[str] | None = None,
    streaming: bool = False,
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Read a corpus of recordings with one label each.

    Args:
        source: one of
            a folder of Speech Commands (`label/clip`), as published or with lists `train.txt`, `test.txt`, …;
            `speech_commands`, downloaded by torchaudio;
            a folder of FSDD (`digit_speaker_index.wav`, also in `recordings/`), whose test part are the indices 0 to 4;
            any other folder of `label/clip`, or of parts (`train/label/clip`);
            a manifest: a .csv, .tsv or .jsonl file with a column of paths and one of labels;
            the id of a data set on the Hub, with `:config` behind it where it has several;
            a folder in the Hub's form (`data/*.parquet`), as `hf-speechrec prepare` writes it.
        split: which part; everything where it is not given. A folder without parts has a "train" and a "test" part
            all the same: a fifth for the test, whole speakers where the file names tell them (`label_speaker_index`,
            `speaker_nohash_index`), else the same share of every label, drawn with the seed 0.
        speakers: keep only these speakers.
        exclude_speakers: leave these out.
        streaming: stream a Hub data set instead of downloading it.

    Returns:
        `datasets.Dataset` of `path`, `label`, `duration` (seconds) and `speaker` (or None). Hub data sets have their
        undecoded `audio` in place of `path`; streamed they are a `datasets.IterableDataset`.

    Raises:
        CorpusError: where there is nothing of that name or not one usable row. A single bad row, an unreadable file,
            one longer than 30 s or with two labels is left out, counted, and named in a warning.
    """
    path = Path(source)
    drawn = False
    if str(source) == "speech_commands" and not path.exists():
        path = _downloaded_speech_commands()
    if is_hub_dataset(str(source)):
        dataset = hub_dataset(str(source), split, "label", streaming, MAX_COMMAND_SECONDS)
    elif path.exists():
        try:
            rows, problems, drawn = _local_rows(path, split)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CorpusError(f"{source}: expected tables of UTF-8 text that can be read ({error})") from None
        dataset = measured(*_without_contradictions(rows, problems), str(source), "label", MAX_COMMAND_SECONDS)
    else:
        raise CorpusError(f"{source}: no such file or folder, and neither `speech_commands` nor a Hub data set's id")
    if drawn:
        dataset = split_held_out(dataset, TEST_SHARE, SPLIT_SEED, name=str(source))[split == "test"]
    return select_speakers(dataset, speakers, exclude_speakers, name=str(source))


def _local_rows(path: Path, split: str | None) -> tuple[list[dict], list[str], bool]:
    """Rows, problems, and whether the part has still to be drawn from them."""
    listed = path / f"{split}.txt"
    table = next((t for t in (path, path / "metadata.csv", path / "metadata.jsonl") if t.is_file()), None)
    recordings = path / "recordings" if (path / "recordings").is_dir() else path
    parts = [] if table else [folder for folder in _folders(path) if _folders(folder) and not _clips(folder)]
    must_be_drawn = False
    if split and listed.exists():
        rows = _listed(path, listed)
    elif (path / SPEECH_COMMANDS_LISTS["test"]).exists():
        rows = _speech_commands(path, split)
    elif table is None and any(recordings.glob("[0-9]_*_[0-9]*.wav")):
        rows = _fsdd(recordings, split)
    else:
        names = [part.name for part in parts] or ["train", "test"]
        if split is not None and split not in names:
            raise CorpusError(f"{path}: expected one of the parts {', '.join(names)}, got {split!r}")
        if parts:
            rows = _label_folders([path / split] if split else parts)
        else:
            rows = _label_folders([path]) if table is None else manifest_rows(table, "label")
            must_be_drawn = split is not None
    return *rows, must_be_drawn


def _folders(root: Path) -> list[Path]:
    """Folders that may be labels."""
    return [
        folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and folder.name != "_background_noise_"
    ]


def _clips(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _label_folders(roots: list[Path]) -> Rows:
    rows, problems = [], []
    for root in roots:
        if not _folders(root):
            raise CorpusError(f"{root}: expected a folder of clips for each label, found no folders")
        for folder in _folders(root):
            clips = _clips(folder)
            if not clips:
                problems.append(f"{folder}: a class without clips")
            rows += [_row(clip, folder.name) for clip in clips]
    return _with_likely_speakers(rows), problems


def _with_likely_speakers(rows: list[dict]) -> list[dict]:
    """What looks like a speaker is one only where there are several, and one of them says several words."""
    labels: dict[str | None, set[str]] = {}
    for row in rows:
        labels.setdefault(row["speaker"], set()).add(row["label"])
    labels.pop(None, None)
    if len(labels) < 2 or all(len(said) == 1 for said in labels.values()):
        return [{**row, "speaker": None} for row in rows]
    return rows


def _row(clip: Path, label: str) -> dict:
    speaker = None
    if match := SPEECH_COMMANDS_NAME.fullmatch(clip.stem):
        speaker = match[1]
    elif (match := FSDD_NAME.fullmatch(clip.stem)) and match[1].lower() == label.lower():
        speaker = match[2]
    return {"path": str(clip), "label": label, "speaker": speaker}


def _listed(root: Path, file: Path) -> Rows:
    """A list of `label/clip`, one a line."""
    rows, problems = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        clip = root / line.strip()
        if is_there(clip):
            rows.append(_row(clip, clip.parent.name))
        else:
            problems.append(f"{clip}: no such file")
    return _with_likely_speakers(rows), problems


def _speech_commands(root: Path, split: str | None) -> Rows:
    if split in SPEECH_COMMANDS_LISTS:
        return _listed(root, root / SPEECH_COMMANDS_LISTS[split])
    if split not in (None, "train"):
        raise CorpusError(f"{root}: Speech Commands has the parts train, validation and test, got {split!r}")
    rows, problems = _label_folders([root])
    if split == "train":
        elsewhere = {row["path"] for name in SPEECH_COMMANDS_LISTS.values() for row in _listed(root, root / name)[0]}
        rows = [row for row in rows if row["path"] not in elsewhere]
    return rows, problems


def _fsdd(recordings: Path, split: str | None) -> Rows:
    if split not in (None, "train", "test"):
        raise CorpusError(f"{recordings}: FSDD has the parts train and test, got {split!r}")
    rows, problems = [], []
    for clip in sorted(recordings.glob("*.wav")):
        label, index = clip.stem.partition("_")[0], clip.stem.rpartition("_")[2]
        if not (label.isdigit() and index.isdigit()):
            problems.append(f"{clip}: expected a name like 7_speaker_12.wav")
        elif split is None or (int(index) in FSDD_TEST) == (split == "test"):
            rows.append(_row(clip, label))
    return rows, problems


def _without_contradictions(rows: list[dict], problems: list[str]) -> Rows:
    """Leave out files that have two labels: nobody can tell which is wrong."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(os.path.realpath(row["path"]), set()).add(row["label"])
    kept = {path for path, names in labels.items() if len(names) == 1}
    problems += [
        f"{path}: has the labels {' and '.join(sorted(labels[path]))}" for path in sorted(labels.keys() - kept)
    ]
    return [row for row in rows if os.path.realpath(row["path"]) in kept], problems


def _downloaded_speech_commands() -> Path:
    from torchaudio.datasets import SPEECHCOMMANDS

    DOWNLOAD_FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        SPEECHCOMMANDS(DOWNLOAD_FOLDER, download=True)
    except (OSError, RuntimeError) as error:  # no network, a wrong checksum
        raise CorpusError(f"speech_commands: could not be downloaded ({error})") from error
    return DOWNLOAD_FOLDER / "SpeechCommands" / "speech_commands_v0.02"


class SpeechRecognitionDataset(Dataset):
    """
    Recordings and their labels as a plain PyTorch data set, for a loop of one's own.

    Args:
        audio_files: paths.
        labels: the label of each, a string.

    Each item is a row `{"path", "label"}`; `AudioClassificationCollator` makes batches of them.

    Raises:
        ValueError: where the two differ in number or are empty.
    """

    def __init__(self, audio_files: Sequence[str | os.PathLike], labels: Sequence[str]):
        if len(audio_files) != len(labels) or not len(labels):
            raise ValueError(f"expected a label for each file, got {len(audio_files)} files and {len(labels)} labels")
        self.audio_files = [str(path) for path in audio_files]
        self.labels = [str(label) for label in labels]

    @property
    def id2label(self) -> dict[int, str]:
        """Numbers of the labels, in alphabetical order: what a model's configuration needs, with `label2id`."""
        return dict(enumerate(sorted(set(self.labels))))

    @property
    def label2id(self) -> dict[str, int]:
        return {label: i for i, label in self.id2label.items()}

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"path": self.audio_files[index], "label": self.labels[index]}

    def __len__(self) -> int:
        return len(self.labels)


__all__ = ["SpeechRecognitionDataset", "read_labelled_corpus"]
