"""Words with their times → subtitles: SubRip (.srt) and WebVTT (.vtt)."""

import html
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from .alignment import Word

LINE_CHARACTERS = 42
LINES = 2
LONGEST_SECONDS = 7.0  # what television's guidelines give a subtitle (BBC, Netflix)
SHORTEST_SECONDS = 1.0  # that it stays, where the next one leaves it the time
PAUSE_SECONDS = 0.8  # that ends a subtitle


@dataclass
class Subtitle:
    """What is shown from `start` to `end` (seconds)."""

    start: float
    end: float
    lines: list[str]


def subtitles(words: Iterable[Word]) -> list[Subtitle]:
    """At most two lines of 42 characters each, broken at pauses; no two overlap."""
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        fits = (
            group
            and word.start - group[-1].end < PAUSE_SECONDS
            and word.end - group[0].start <= LONGEST_SECONDS
            and len(_lines([*group, word])) <= LINES
        )
        if fits:
            group.append(word)
        else:
            groups.append([word])
    shown = []
    for i, group in enumerate(groups):
        latest = groups[i + 1][0].start if i + 1 < len(groups) else float("inf")
        end = min(max(group[-1].end, group[0].start + SHORTEST_SECONDS), latest)
        lines = _lines(group)
        # A "word" of more than two lines is no word; it is shown in parts.
        parts = [lines[k : k + LINES] for k in range(0, len(lines), LINES)]
        step = (end - group[0].start) / len(parts)
        shown += [
            Subtitle(group[0].start + k * step, group[0].start + (k + 1) * step, part) for k, part in enumerate(parts)
        ]
    return shown


def to_srt(words: Iterable[Word]) -> str:
    """SubRip."""
    blocks = [
        f"{number}\n{_time(item.start, ',')} --> {_time(item.end, ',')}\n" + "\n".join(item.lines) + "\n"
        for number, item in enumerate(subtitles(words), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(words: Iterable[Word]) -> str:
    """WebVTT."""
    blocks = [
        f"{_time(item.start, '.')} --> {_time(item.end, '.')}\n"
        + "\n".join(html.escape(line, quote=False) for line in item.lines)
        + "\n"
        for item in subtitles(words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _lines(words: list[Word]) -> list[str]:
    return textwrap.wrap(" ".join(word.word for word in words), LINE_CHARACTERS, break_on_hyphens=False)


def _time(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{milliseconds:03d}"


__all__ = ["Subtitle", "subtitles", "to_srt", "to_vtt"]
