"""A corpus on disk → a data set in the Hub's form: Parquet files that hold the audio, to download or to stream."""

import io
import logging
import re
from os import PathLike
from pathlib import Path

import datasets
import soundfile
from tqdm.auto import tqdm

from .audio import AudioError, read_audio, row_source
from .corpora import read_corpus
from .corpus_rows import CorpusError, warn_of
from .hub_corpora import ENCODED
from .labelled_corpora import read_labelled_corpus

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20
MIN_SHARDS = 8  # each process and each worker of a data loader reads whole files
ROW_GROUP = 50  # utterances that a reader has to fetch at once
HUB_SUFFIXES = {".flac", ".wav", ".mp3", ".ogg", ".opus"}  # what a data set's page plays; anything else becomes FLAC
FLAC_RATE = 16_000  # Hz
SHUFFLE_SEED = 0


def prepare(corpus: str | PathLike, folder: str | PathLike, splits: list[str] | None = None, task: str = "ctc") -> Path:
    """
    Write a corpus as Parquet files, `data/SPLIT-00000-of-00008.parquet`, with the columns `audio`, `text` or `label`,
    `speaker` and `duration`. Utterances are mixed once, since a stream can only be mixed a little. The folder `data`
    appears when all is written.

    Args:
        corpus: what `read_corpus` or, for the task "classification", `read_labelled_corpus` takes.
        folder: where to write; `datasets.load_dataset` and our own commands read it as they would read the Hub.
        splits: the parts of the corpus; without them all of it (of a Hub data set its part "train") becomes the part
            "train". What a name cannot have there becomes an underscore: `train_clean_100`.
        task: "ctc" or "classification".

    Returns:
        The folder.

    Raises:
        CorpusError: where there is nothing to write, or the folder already holds other data.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise CorpusError(f"{folder}: expected an empty folder, or none; it already holds files")
    read = read_corpus if task == "ctc" else read_labelled_corpus
    # All of them first: a part that is not there should not be found after hours of writing.
    parts = {re.sub(r"\W", "_", split): read(corpus, split) for split in splits} if splits else {}
    parts = parts or {"train": read(corpus)}
    partial = folder / "data.partial"
    partial.mkdir(parents=True)
    target = "text" if task == "ctc" else "label"
    sizes = {name: _write_split(part.shuffle(seed=SHUFFLE_SEED), partial, name, target) for name, part in parts.items()}
    _write_card(folder, Path(corpus).name, task, sizes)
    partial.rename(folder / "data")
    return folder


def _write_split(dataset: datasets.Dataset, data: Path, split: str, target: str) -> tuple[int, float]:
    """Returns the number of utterances and their hours."""
    shards = min(max(-(-sum(map(_bytes, dataset)) // SHARD_BYTES), MIN_SHARDS), len(dataset))
    features = datasets.Features(
        {
            "audio": ENCODED,
            target: datasets.Value("string"),
            "speaker": datasets.Value("string"),
            "duration": datasets.Value("float64"),
        }
    )
    problems: list[str] = []
    written, seconds = 0, 0.0
    for i in tqdm(range(shards), desc=f"Writing {split}", unit="file", disable=None):
        rows = []
        for row in dataset.shard(shards, i, contiguous=True):
            try:
                rows.append({name: row[name] for name in (target, "speaker", "duration")} | {"audio": _embedded(row)})
            except AudioError as error:
                problems.append(str(error))
        shard = datasets.Dataset.from_list(rows, features=features).cast_column("audio", datasets.Audio())
        shard.to_parquet(data / f"{split}-{i:05d}-of-{shards:05d}.parquet", batch_size=ROW_GROUP)
        written += len(rows)
        seconds += sum(row["duration"] for row in rows)
    warn_of(problems, len(dataset), split)
    return written, seconds / 3600


def _bytes(row: dict) -> int:
    source = row_source(row)
    is_in_row = isinstance(source, dict) and source["bytes"] is not None
    return len(source["bytes"]) if is_in_row else _path(row).stat().st_size


def _path(row: dict) -> Path:
    source = row_source(row)
    return Path((source["path"] if isinstance(source, dict) else source) or "")


def _embedded(row: dict) -> dict:
    """The recording's bytes, and its name without the folders of this machine."""
    source, path = row_source(row), _path(row)
    content = source["bytes"] if isinstance(source, dict) else None
    if content is not None and not path.name:
        return {"bytes": content, "path": None}
    if path.suffix.lower() in HUB_SUFFIXES:
        return {"bytes": path.read_bytes() if content is None else content, "path": path.name}
    file = io.BytesIO()
    soundfile.write(file, read_audio(source, FLAC_RATE), FLAC_RATE, format="FLAC")
    return {"bytes": file.getvalue(), "path": f"{path.stem}.flac"}


def _write_card(folder: Path, name: str, task: str, sizes: dict[str, tuple[int, float]]) -> None:
    from huggingface_hub import DatasetCard, DatasetCardData

    category = "automatic-speech-recognition" if task == "ctc" else "audio-classification"
    data = DatasetCardData(
        task_categories=[category],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in sizes],
            }
        ],
    )
    rows = "\n".join(f"| {split} | {utterances} | {hours:.2f} |" for split, (utterances, hours) in sizes.items())
    target = "text" if task == "ctc" else "label"
    text = (
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n"
        f"Recordings with their {target}s, written by `hf-speechrec prepare`. Add here whose they are, how they were\n"
        "made, and their licence: nobody else can know.\n\n"
        f"| part | utterances | hours |\n| --- | --- | --- |\n{rows}\n\n"
        "```bash\nhf-speechrec train RECIPE --corpus USER/NAME --held-out none --streaming --max_steps 10000\n```\n"
    )
    DatasetCard(text).save(folder / "README.md")


__all__ = ["prepare"]
