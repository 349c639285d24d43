"""A lexicon of pronunciations: words → the phones that they are made of."""

import gzip
import re
import zlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

LEXICON = "lexicon.txt.gz"  # in the folder of a model with phones
LICENSES = "*LICENSE*"  # of what a model carries, beside it

Lexicon = dict[str, list[list[str]]]


class LexiconError(ValueError):
    """A lexicon that cannot be used; the message says what was expected and what came."""


def read_lexicon(path: str | PathLike) -> Lexicon:
    """
    Words, and the ways they are said. A line has a word and its phones, separated by blanks, as in the CMU Pronouncing
    Dictionary, whose stress marks (`AH0`), numbers of further pronunciations (`READ(2)`) and comments are dropped.
    Words stay as they are spelled there; `.gz` files are read, too.

    Raises:
        LexiconError: for what cannot be read, or has a word without phones.
    """
    opener: Any = gzip.open if Path(path).suffix == ".gz" else open
    lexicon: Lexicon = {}
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, *phones = line.partition("#")[0].split() or [";;;"]
                if word.startswith(";;;"):
                    continue
                if not phones:
                    raise LexiconError(f"{path}: line {number}: expected a word and its phones, got {line.strip()!r}")
                phones = [re.sub(r"\d$", "", phone) for phone in phones]
                ways = lexicon.setdefault(re.sub(r"\(\d+\)$", "", word), [])
                if phones not in ways:
                    ways.append(phones)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise LexiconError(f"{path}: not a lexicon that can be read ({error})") from None
    if not lexicon:
        raise LexiconError(f"{path}: expected words and their phones, got none")
    return lexicon


def lexicon_of(model) -> Lexicon | None:
    """The lexicon in the folder that a model with phones was loaded from."""
    path = Path(model.name_or_path, LEXICON)
    return read_lexicon(path) if model.config.phones and path.is_file() else None


def write_lexicon(lexicon: Lexicon, path: str | PathLike) -> None:
    """As `read_lexicon` reads it, compressed; the same words give the same file."""
    lines = (f"{word} {' '.join(phones)}\n" for word, ways in sorted(lexicon.items()) for phones in ways)
    with Path(path).open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write("".join(lines).encode("utf-8"))


def phones_of(lexicon: Lexicon) -> list[str]:
    """All phones, sorted: the classes of a model's second head."""
    return sorted({phone for ways in lexicon.values() for phones in ways for phone in phones})


def phone_ids(words: Iterable[str], lexicon: Lexicon, phones: list[str]) -> list[int] | None:
    """
    How words are said, each in its first way, as classes (1 for the first of the phones, 0 is the blank); none where
    the lexicon lacks one of the words.
    """
    numbers = {phone: i for i, phone in enumerate(phones, start=1)}
    ids: list[int] = []
    for word in words:
        if word not in lexicon:
            return None
        ids += [numbers[phone] for phone in lexicon[word][0]]
    return ids


__all__ = ["LEXICON", "LexiconError", "lexicon_of", "phone_ids", "phones_of", "read_lexicon", "write_lexicon"]
