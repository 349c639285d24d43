"""A corpus on disk → a data set in the Hub's form: Parquet files that hold the audio, to download or to stream."""

import io
import logging
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
SHUFFLE_SEED = 0


def prepare(corpus: str | PathLike, folder: str | PathLike, splits: list[str] | None = None, task: str = "ctc") -> Path:
    """
    Write a corpus as Parquet files, `data/SPLIT-00000-of-00008.parquet`, with the columns `audio`, `text` or `label`,
    `speaker` and `duration`. Utterances are mixed once, since a stream can only be mixed a little, and a file appears
    under its name when it is whole.

    Args:
        corpus: what `read_corpus` or, for the task "classification", `read_labelled_corpus` takes.
        folder: where to write; `datasets.load_dataset` and our own commands read it as they would read the Hub.
        splits: the parts of the corpus; without them all of it becomes the part "train".
        task: "ctc" or "classification".

    Returns:
        The folder.

    Raises:
        CorpusError: where there is nothing to write, or the folder already holds other data.
    """
    data = Path(folder, "data")
    if data.exists() and any(data.iterdir()):
        raise CorpusError(f"{data}: expected an empty folder, or none; it already holds files")
    data.mkdir(parents=True, exist_ok=True)
    read = read_corpus if task == "ctc" else read_labelled_corpus
    sizes = {}
    parts: list[str | None] = [*splits] if splits else [None]
    for split in parts:
        dataset = read(corpus, split)
        name = split or "train"
        sizes[name] = _write_split(dataset.shuffle(seed=SHUFFLE_SEED), data, name, "text" if task == "ctc" else "label")
    _write_card(Path(folder), Path(corpus).name, task, sizes)
    return Path(folder)


def _write_split(dataset: datasets.Dataset, data: Path, split: str, target: str) -> tuple[int, float]:
    """Returns the number of utterances and their hours."""
    sizes = [Path(row["path"]).stat().st_size if row.get("path") else len(row["audio"]["bytes"]) for row in dataset]
    shards = min(max(-(-sum(sizes) // SHARD_BYTES), MIN_SHARDS), len(dataset))
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
        partial = data / f"{split}-{i:05d}-of-{shards:05d}.partial"
        shard = datasets.Dataset.from_list(rows, features=features).cast_column("audio", datasets.Audio())
        shard.to_parquet(partial, batch_size=ROW_GROUP)
        partial.rename(partial.with_suffix(".parquet"))
        written += len(rows)
        seconds += sum(row["duration"] for row in rows)
    warn_of(problems, len(dataset), split)
    return written, seconds / 3600


def _embedded(row: dict) -> dict:
    """The recording's bytes, and its name without the folders of this machine."""
    source = row_source(row)
    path = Path(row["path"] if row.get("path") else row["audio"].get("path") or "audio")
    if path.suffix.lower() in HUB_SUFFIXES:
        content = source["bytes"] if isinstance(source, dict) else Path(source).read_bytes()
        return {"bytes": content, "path": path.name}
    rate = 16_000
    file = io.BytesIO()
    soundfile.write(file, read_audio(source, rate), rate, format="FLAC")
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
        "```bash\nhf-speechrec train RECIPE --corpus USER/NAME --streaming --max_steps 10000\n```\n"
    )
    DatasetCard(text).save(folder / "README.md")


__all__ = ["prepare"]
