"""Text and CTC log-probabilities → when each word and character was said, and how sure the model is."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torchaudio.functional import forced_align, merge_tokens

from .pronunciation import Lexicon, phone_ids
from .segmentation import decibels, frame_power, quiet_level
from .text import encode

LEVEL_SECONDS = 0.01
PAUSE_SECONDS = 0.12
REACH_SECONDS = 0.6  # from a word's characters to the pause before or after it
MAX_CELLS = 2_000_000_000  # of the alignment's table, a byte each


@dataclass
class Character:
    """A character, a word piece, or a phone."""

    character: str
    start: float  # seconds from the beginning
    end: float


@dataclass
class Word:
    """A word, when it was said, and how sure the model is."""

    word: str
    start: float  # seconds from the beginning
    end: float
    confidence: float  # probability of its characters: their geometric mean; 0 where nothing tells
    characters: list[Character] = field(default_factory=list)


def align(log_probs: torch.Tensor, text: str, tokenizer, frame_seconds: float, offset: float = 0.0) -> list[Word]:
    """
    The most likely times of a known text: CTC forced alignment (Kürzinger et al., 2020, "CTC-segmentation", on the
    whole text).

    Args:
        log_probs: of each logit frame (frames, vocab).
        text: normalised, its words separated by single blanks.
        tokenizer: the model's.
        frame_seconds: duration of a logit frame.
        offset: seconds that are added to all times.

    Returns:
        The words in order; times never go back.

    Raises:
        ValueError: for characters that the model does not know, and a text that does not fit the audio.
    """
    if not text:
        return []
    tokens = encode(tokenizer, text)
    if tokenizer.unk_token_id in tokens and tokenizer.unk_token not in text:
        known = set(tokenizer.get_vocab())
        unknown = sorted({character for character in text if character not in known | {" "}})
        raise ValueError(f"the text cannot be aligned: the model does not know {' '.join(unknown)}")
    words: list[Word] = []
    letters: list[tuple[Character, float]] = []
    blank = tokenizer.pad_token_id
    for token, start, end, score in _spans(log_probs, tokens, blank, "characters", frame_seconds, offset):
        if token == tokenizer.word_delimiter_token_id:
            if letters:
                words.append(join_characters(letters))
            letters = []
            continue
        letters.append((Character(tokenizer.convert_ids_to_tokens(token), start, end), score))
    return [*words, join_characters(letters)] if letters else words


def align_phones(
    log_probs: torch.Tensor,
    text: str,
    lexicon: Lexicon,
    phones: list[str],
    frame_seconds: float,
    offset: float = 0.0,
) -> list[Word]:
    """
    As `align`, by the sounds of the words, each in its first way: the times of words that were found by sound, whose
    spelling the characters' head need not have heard. The words' `characters` are their phones.

    Args:
        log_probs: of the model's head for phones (frames, 1 + phones).
        lexicon: how words are said.
        phones: the head's classes after the blank.

    Raises:
        ValueError: for words that the lexicon does not have, and a text that does not fit the audio.
    """
    if not text:
        return []
    tokens = phone_ids(text.split(), lexicon, phones)
    if tokens is None:
        unknown = sorted({word for word in text.split() if word not in lexicon})
        raise ValueError(f"the text cannot be aligned: the lexicon does not have {' '.join(unknown)}")
    spans = _spans(log_probs, tokens, 0, "phones", frame_seconds, offset)
    words = []
    for spelling in text.split():
        said = itertools.islice(spans, len(lexicon[spelling][0]))
        word = join_characters([(Character(phones[phone - 1], start, end), score) for phone, start, end, score in said])
        word.word = spelling
        words.append(word)
    return words


def _spans(
    log_probs: torch.Tensor, tokens: list[int], blank: int, what: str, frame_seconds: float, offset: float
) -> Iterator[tuple[int, float, float, float]]:
    """Each class of a row: itself, its start and end in seconds, its log-probability. Raises `ValueError`."""
    frames = len(log_probs)
    needed = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
    if needed > frames:
        raise ValueError(
            f"the text cannot be aligned: expected at least {needed * frame_seconds:.2f} s of audio for "
            f"{len(tokens)} {what}, got {frames * frame_seconds:.2f} s"
        )
    if frames * (2 * len(tokens) + 1) > MAX_CELLS:
        raise ValueError(
            f"the text cannot be aligned: {frames * frame_seconds / 60:.0f} minutes with {len(tokens)} {what} are "
            "too much at once: cut the recording and its text"
        )
    targets = torch.tensor([tokens], dtype=torch.int32)
    path, scores = forced_align(log_probs[None].float().contiguous().cpu(), targets, blank=blank)
    for span in merge_tokens(path[0], scores[0], blank=blank):
        start, end = (round(offset + frame * frame_seconds, 3) for frame in (span.start, span.end))
        yield span.token, start, end, span.score


def spread(text: str, samples: np.ndarray, sampling_rate: int, offset: float = 0.0) -> list[Word]:
    """
    Times for the words of a text that cannot be aligned: even shares of the time from the first to the last sound. They
    have no characters, and a confidence of 0.

    Args:
        samples: the audio (samples,).
        offset: seconds at which `samples` begin.
    """
    begin, end = 0.0, len(samples) / sampling_rate
    levels = decibels(frame_power(samples, round(LEVEL_SECONDS * sampling_rate)))
    if len(levels):
        loud = np.flatnonzero(levels >= quiet_level(levels.max(), np.percentile(levels, 10)))
        begin, end = float(loud[0]) * LEVEL_SECONDS, float(loud[-1] + 1) * LEVEL_SECONDS
    words = text.split()
    times = [round(float(time), 3) for time in offset + np.linspace(begin, end, len(words) + 1)]
    return [Word(word, start, end, 0.0) for word, (start, end) in zip(words, itertools.pairwise(times), strict=True)]


def snap_to_silence(words: list[Word], samples: np.ndarray, sampling_rate: int, offset: float = 0.0) -> None:
    """
    Move the starts and ends of words to where the sound begins and ends, in place.

    CTC puts a character where it is sure of it, late in the sound of a first one and early in that of a last one. Where
    there is a pause between two words, the energy tells more: a word starts at the end of the last pause before its
    first character, and ends at the beginning of the first one after its last. Words without a pause between them keep
    their times.

    Args:
        words: in order, their times in seconds.
        samples: the audio (samples,).
        offset: seconds at which `samples` begin.
    """
    levels = decibels(frame_power(samples, round(LEVEL_SECONDS * sampling_rate)))
    floor = np.percentile(levels, 10) if len(levels) else 0.0
    reach, pause = round(REACH_SECONDS / LEVEL_SECONDS), round(PAUSE_SECONDS / LEVEL_SECONDS)
    spans = [
        (round((word.start - offset) / LEVEL_SECONDS), round((word.end - offset) / LEVEL_SECONDS)) for word in words
    ]
    for i, (word, (start, end)) in enumerate(zip(words, spans, strict=True)):
        before = max(spans[i - 1][1] if i else 0, start - reach, 0)
        after = min(spans[i + 1][0] if i + 1 < len(spans) else len(levels), end + reach)
        loudest = levels[start:end].max(initial=-np.inf)
        quiet = levels[before:after] < quiet_level(loudest, floor)
        if len(quiet) < pause:
            continue
        # Beginnings of pauses: a stop (the T of STOP) is quiet too, but not for so long.
        pauses = np.flatnonzero(sliding_window_view(quiet, pause).all(axis=1)) + before
        if (earlier := pauses[pauses + pause <= start]).size:
            word.start = word.characters[0].start = round(offset + (earlier[-1] + pause) * LEVEL_SECONDS, 3)
        if (later := pauses[pauses >= end]).size:
            word.end = word.characters[-1].end = round(offset + later[0] * LEVEL_SECONDS, 3)


def join_characters(letters: list[tuple[Character, float]]) -> Word:
    """A word of its characters and their log-probabilities."""
    characters = [character for character, _ in letters]
    confidence = float(torch.tensor([score for _, score in letters]).mean().exp())
    text = "".join(character.character for character in characters)
    return Word(text, characters[0].start, characters[-1].end, round(confidence, 4), characters)


__all__ = ["Character", "Word", "align", "align_phones", "join_characters", "snap_to_silence", "spread"]
