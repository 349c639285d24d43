"""What the page shows of words, labels and models."""

import contextlib
import html
import re
from pathlib import Path

from ..alignment import Word
from ..classification import Classification
from ..model_card import read_facts

UNSURE = 0.7  # confidence under which a word's underline is dotted
LEAST_SHOWN = 0.005  # probability of a label; less would be a row of 0 %
READABLE = {"_silence_": "(silence)", "_unknown_": "(another word)"}  # Speech Commands' names


def model_name(model: str) -> str:
    """What a model is called on the page."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def summary_of(recognizer) -> str:
    """The first sentence about it on its card, where it has one."""
    with contextlib.suppress(ValueError, AttributeError):  # whoever wrote it
        summary = read_facts(recognizer.model.name_or_path)["card"].get("summary", "")
        return re.split(r"(?<=[.!?])\s", summary.strip())[0]
    return ""


def model_cards(*models) -> str:
    """Their model cards, as Markdown."""
    parts = []
    for model in models:
        card = Path(model.model.name_or_path, "README.md")
        text = (
            card.read_text(encoding="utf-8", errors="replace")
            if card.is_file()
            else f"# {card.parent.name}\n\nIt has no card."
        )
        text = text.split("\n---\n", 1)[-1] if text.startswith("---") else text
        parts.append(re.sub(r"!\[.*?\]\(.*?\)", "", text))  # its pictures lie beside it, and not beside the page
    return "\n\n---\n\n".join(parts)


def hint(text: str) -> str:
    """A sentence where words will stand."""
    return f'<div class="transcript"><span class="hint">{text}</span></div>'


def words_as_html(words: list[Word]) -> str:
    """Words as buttons that play their place, underlined from red (unsure) to green, and dotted where it is unsure."""
    if not words:
        return hint("No words were heard in this recording.")
    buttons = "".join(
        f'<button class="word{" unsure" if word.confidence < UNSURE else ""}" type="button" data-start="{word.start}" '
        f'data-end="{word.end}" style="--sure: hsl({120 * max(0.0, 2 * word.confidence - 1):.0f} 70% 45% / 0.6)" '
        f'title="{word.start:.2f} to {word.end:.2f} s, {word.confidence:.0%} sure">{html.escape(word.word)}</button>'
        for word in words
    )
    legend = f'<i>sure</i>, <i class="unsure">less than {UNSURE:.0%} sure</i>; press a word to hear it'
    return f'<div class="transcript"><div class="words">{buttons}</div><p class="legend">{legend}</p></div>'


def named_labels(result: Classification) -> tuple[dict[str, float], str]:
    """Labels as people call them, without those that nobody would think of, and whether the model is sure."""
    best, *others = ((READABLE.get(item["label"], item["label"]), item["score"]) for item in result.labels)
    labels = dict([best, *(item for item in others if item[1] >= LEAST_SHOWN)])
    doubt = "Not sure: it may be another word, or none." if result.is_confident is False else ""
    return labels, f'<div class="transcript"><p class="note">{doubt}</p></div>' if doubt else ""


__all__ = ["READABLE", "hint", "model_cards", "model_name", "named_labels", "summary_of", "words_as_html"]
