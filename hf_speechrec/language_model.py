"""Text → a word n-gram model as an ARPA file, and what decoding needs to know of one."""

import contextlib
import gzip
import io
import itertools
import json
import logging
import lzma
import math
import re
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LANGUAGE_MODEL = "language_model.arpa.gz"  # in a model folder that carries one
UNKNOWN_WORD = "<unk>"
SPECIAL_WORDS = ("<s>", "</s>", UNKNOWN_WORD)
FIRST_THRESHOLD = 1e-9  # of entropy pruning (Stolcke, 1998), raised until the file is small enough


class LanguageModelError(ValueError):
    """A language model that cannot be made or used; the message says what was expected and what came."""


def text_lines(path: str | PathLike) -> Iterator[str]:
    """The lines of a UTF-8 text file, also one in .gz or .xz."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(Path(path).suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from file
    except (UnicodeDecodeError, EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise LanguageModelError(f"{path}: expected text in UTF-8 ({error})") from None


def build_language_model(
    texts: Iterable[str],
    path: str | PathLike,
    *,
    order: int = 3,
    max_megabytes: float | None = None,
    vocabulary: Collection[str] | None = None,
) -> dict[str, int]:
    """
    Train a Kneser-Ney model by kaldingram.

    Args:
        texts: normalised sentences (by the recogniser's `TextNormalizer`), words separated by single blanks.
        path: the ARPA file to write, with `.gz` compressed.
        order: words of the longest n-gram, 2 to 5.
        max_megabytes: prune by entropy until the file is no larger.
        vocabulary: the words that can be recognised; any other is unknown to the model. By default all of the text.

    Returns:
        `sentences`, `words`, of them `unknown`, `vocabulary` (different words) and `bytes`.

    Raises:
        LanguageModelError: for texts without a word, a size that cannot be reached, and a missing kaldingram.
        OSError: where the file cannot be written.
    """
    try:
        from kaldingram import prune, train
    except ImportError:
        raise LanguageModelError("a language model needs the extra lm: pip install 'hf_speechrec[lm]'") from None
    if max_megabytes is not None and not max_megabytes > 0:
        raise LanguageModelError(f"expected a size above 0 MB, got {max_megabytes:g}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sentences = words = unknown = 0
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _only_for_people():
        text, arpa, smaller = (Path(folder, name) for name in ("text", "lm.arpa", "pruned.arpa"))
        with text.open("w", encoding="utf-8") as file:
            for line in texts:
                if not line:
                    continue
                tokens = line.split()
                if vocabulary is not None:
                    tokens = [token if token in vocabulary else UNKNOWN_WORD for token in tokens]
                file.write(" ".join(tokens) + "\n")
                sentences += 1
                words += len(tokens)
                unknown += tokens.count(UNKNOWN_WORD)
                seen.update(tokens)
        seen.discard(UNKNOWN_WORD)
        if not seen:
            reason = "every line is empty after normalising" if not words else "none of its words is in the lexicon"
            raise LanguageModelError(f"expected a text with words, {reason}")
        train.main(["--ngram-order", str(order), "--text", str(text), "--lm", str(arpa), "--num-workers", "0"])
        finished = _finished(arpa, path.suffix)
        # Every pass over a large model takes minutes: the further it has to go, the further it begins.
        threshold = FIRST_THRESHOLD * max(1.0, finished.stat().st_size / 1e6 / (max_megabytes or math.inf))
        while max_megabytes is not None and finished.stat().st_size > max_megabytes * 1e6:
            if threshold > 1:
                size = finished.stat().st_size / 1e6
                raise LanguageModelError(f"expected at most {max_megabytes} MB, but its words alone take {size:.2f} MB")
            options = ["--threshold", str(threshold), "--lm", str(arpa), "--write-lm", str(smaller), "--verbose", "3"]
            try:
                prune.main(options)
            except ValueError as error:  # of a text so regular that nothing is left for what it does not have
                raise LanguageModelError(f"the model of this text cannot be pruned ({error})") from None
            smaller.replace(arpa)
            finished = _finished(arpa, path.suffix)
            size = finished.stat().st_size / 1e6
            logger.info("pruned at %.1e: %.2f MB", threshold, size)
            # A size falls more slowly than its threshold rises: so it is approached from above, and not missed by far.
            threshold *= min(10.0, max(1.2, (size / max_megabytes) ** 1.4))
        finished.replace(path)
    size = path.stat().st_size
    return {"sentences": sentences, "words": words, "unknown": unknown, "vocabulary": len(seen), "bytes": size}


def _finished(arpa: Path, suffix: str) -> Path:
    """A copy with the fewest digits that matter, compressed where the suffix says so."""
    finished = arpa.with_name(f"finished{suffix}")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(arpa.open(encoding="utf-8"))
        target: Any = stack.enter_context(finished.open("wb"))
        if suffix == ".gz":  # without a name and a time: the same text gives the same file
            target = stack.enter_context(gzip.GzipFile("", "wb", 9, target, mtime=0))
        target.writelines(_rounded(line).encode() for line in source)
    return finished


def _rounded(line: str) -> str:
    """
    A line of an ARPA file with three decimals: a thousandth of a power of ten is a quarter of a percent. Less than a
    search can tell, and a fifth of a compressed file.
    """
    score, tab, rest = line.rstrip("\n").partition("\t")
    if not tab:
        return line
    words, tab, backoff = rest.partition("\t")
    return f"{float(score):.3f}\t{words}" + (f"\t{float(backoff):.3f}\n" if tab else "\n")


@contextlib.contextmanager
def _only_for_people() -> Iterator[None]:
    """kaldingram's progress bars are for a terminal."""
    with contextlib.redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):
        yield


def arpa_lines(path: str | PathLike) -> Iterator[tuple[int, str]]:
    """
    The lines of an ARPA file, also one in .gz, with the order of the n-grams that they belong to; 0 for the header.

    Raises:
        LanguageModelError: for what is not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise LanguageModelError(f"{path}: no such language model")
    order = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            lines = itertools.dropwhile(lambda line: not line.strip(), file)
            if next(lines, "").strip() != "\\data\\":
                raise LanguageModelError(
                    f"{path}: expected an n-gram model in the ARPA format, beginning with \\data\\"
                )
            yield 0, "\\data\\\n"
            for line in lines:
                if line.startswith("\\") and (match := re.match(r"\\(\d+)-grams:", line)):
                    order = int(match[1])
                yield order, line
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise LanguageModelError(f"{path}: expected an n-gram model in the ARPA format ({error})") from None


def read_words(path: str | PathLike) -> list[str]:
    """The words of an ARPA file. Raises `LanguageModelError` where it is none, or has no words."""
    words = []
    for order, line in arpa_lines(path):
        if order > 1:
            break
        fields = line.split()
        if order == 1 and len(fields) > 1 and fields[1] not in SPECIAL_WORDS:
            words.append(fields[1])
    if not words:
        raise LanguageModelError(f"{path}: expected an n-gram model with words, it has none")
    return words


def write_with_hotwords(path: str | PathLike, target: str | PathLike, hotwords: Iterable[str], bonus: float) -> None:
    """
    Copy an ARPA file and take `bonus` from the log10-probability of every word but some hotwords, wherever it stands
    last in an n-gram; a search makes up for it by a higher word score. (Raised probabilities would exceed 1, which
    KenLM refuses.) Hotwords that the file does not know come in as its rarest word.

    Raises `LanguageModelError` for what is not an ARPA file.
    """
    hotwords = set(hotwords)
    new = sorted(hotwords - set(read_words(path)))
    rarest = 0.0
    with Path(target).open("w", encoding="utf-8") as file:
        for order, line in arpa_lines(path):
            fields = line.rstrip("\n").split("\t")
            written = line
            if order == 0 and line.startswith("ngram 1="):
                written = f"ngram 1={_number(path, line[8:], int) + len(new)}\n"
            elif len(fields) > 1:
                score, word = _number(path, fields[0], float), fields[1].rpartition(" ")[2]
                if word not in SPECIAL_WORDS:
                    rarest = min(rarest, score) if order == 1 else rarest
                    if word not in hotwords:
                        written = "\t".join([f"{score - bonus:.7f}", *fields[1:]]) + "\n"
            elif order == 1 and not line.strip():
                file.writelines(f"{rarest:.7f}\t{word}\t0\n" for word in new)
                new = []
            file.write(written)


def _number(path: str | PathLike, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise LanguageModelError(
            f"{path}: expected an n-gram model in the ARPA format, got {text.strip()[:40]!r} in place of a number"
        ) from None


def weights_file(path: str | PathLike) -> Path:
    """Where the weights tuned for a language model are kept: beside it."""
    return Path(path).with_name(Path(path).name.removesuffix(".gz").removesuffix(".arpa") + ".json")


def read_weights(path: str | PathLike) -> dict[str, float]:
    """`lm_weight` and `word_score` as tuned for a language model; nothing where they have not been."""
    file = weights_file(path)
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        weights = {name: float(values[name]) for name in ("lm_weight", "word_score")}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise LanguageModelError(f"{file}: expected the weights lm_weight and word_score ({error})") from None
    if not all(math.isfinite(weight) for weight in weights.values()):
        raise LanguageModelError(f"{file}: expected finite weights, got {weights}")
    return weights


def write_weights(path: str | PathLike, lm_weight: float, word_score: float) -> None:
    """Keep tuned weights beside a language model."""
    values = {"lm_weight": lm_weight, "word_score": word_score}
    weights_file(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


__all__ = [
    "LANGUAGE_MODEL",
    "LanguageModelError",
    "build_language_model",
    "read_weights",
    "read_words",
    "text_lines",
    "write_weights",
    "write_with_hotwords",
]
