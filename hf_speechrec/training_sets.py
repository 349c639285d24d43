"""Recipe → the part of a corpus to train on, and the part to choose by."""

from collections.abc import Callable
from pathlib import Path

import datasets

from .corpora import read_corpus
from .corpus_rows import (
    CorpusError,
    read_speakers,
    select_speakers,
    split_held_out,
    warn_of_missing_speakers,
)
from .hub_corpora import is_hub_dataset
from .labelled_corpora import read_labelled_corpus
from .recipe import Recipe


def read_sets(recipe: Recipe, seed: int):
    """
    The part to train on and the part to choose by (or None).

    Raises:
        CorpusError: for a corpus that cannot be used, and a held-out part that is none of it or all of it.
        ValueError: for a share that is none.
    """
    held_out = recipe.held_out
    share = _share(held_out) if recipe.has_held_out else None
    corpus = _read(recipe, recipe.train_split)
    if not recipe.has_held_out:
        return corpus, None
    if share is not None and not recipe.streaming:
        return split_held_out(corpus, share, seed)
    path = next((p for p in (recipe.folder / str(held_out), Path(str(held_out))) if p.is_file()), None)
    if recipe.streaming and (share is not None or path is not None):
        raise CorpusError(f"{held_out}: of a stream no speakers can be held out; expected the name of another part")
    return (corpus, _held_out_part(recipe)) if path is None else _without_speakers(corpus, path)


def _read(recipe: Recipe, split: str | None):
    read: Callable = read_corpus if recipe.task == "ctc" else read_labelled_corpus
    excluded = recipe.exclude_speakers
    if recipe.streaming or not excluded:
        return read(recipe.corpus, split, exclude_speakers=excluded, streaming=recipe.streaming)
    corpus = read(recipe.corpus, split)
    if split == recipe.train_split:  # elsewhere nobody expects all of them
        warn_of_missing_speakers("exclude_speakers", excluded, corpus)
    return select_speakers(corpus, exclude_speakers=excluded, name=recipe.corpus)


def _held_out_part(recipe: Recipe) -> datasets.Dataset:
    """The part of the corpus that `held_out` names."""
    held_out = str(recipe.held_out)
    trained_on = recipe.train_split or ("train" if is_hub_dataset(recipe.corpus) else None)
    if trained_on in (None, held_out):
        raise CorpusError(
            f"{held_out}: expected a file of held-out speakers or a share such as 0.1; a part of the corpus can be "
            "held out where train_split names another one"
        )
    try:
        held = _read(recipe, held_out)
        # Of a stream this part alone is fetched, and kept: every evaluation reads all of it.
        return datasets.Dataset.from_list(list(held)) if recipe.streaming else held
    except CorpusError as error:
        raise CorpusError(
            f"{held_out}: expected a file of held-out speakers, a share such as 0.1, or a part of the corpus ({error})"
        ) from None


def _without_speakers(corpus: datasets.Dataset, path: Path) -> tuple[datasets.Dataset, datasets.Dataset]:
    """A corpus without the speakers that a file names, and they."""
    names = read_speakers(path)
    try:
        held = select_speakers(corpus, names)
        train_set = select_speakers(corpus, exclude_speakers=names)
    except CorpusError:
        raise CorpusError(f"{path}: expected some of the corpus' speakers, but not all, to be held out") from None
    warn_of_missing_speakers(path, names, held)
    return train_set, held


def marked_for_augmentation(train_set):
    """With the column that asks the collator to augment."""
    if isinstance(train_set, datasets.IterableDataset):
        return train_set.map(lambda _: {"augment": True})
    return train_set.add_column("augment", [True] * len(train_set))


def sizes(train_set) -> dict[str, float]:
    """`train_utterances` and `train_hours`; nothing of a stream, whose end nobody knows."""
    if isinstance(train_set, datasets.IterableDataset):
        return {}
    return {"train_utterances": len(train_set), "train_hours": sum(train_set["duration"]) / 3600}


def _share(held_out: str | float | None) -> float | None:
    """The share that is held out, or None where a name stands in its place. Raises `ValueError`."""
    try:
        share = float(str(held_out))
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, such as 0.1, or none; got {held_out}")
    return share


__all__ = ["marked_for_augmentation", "read_sets", "sizes"]
