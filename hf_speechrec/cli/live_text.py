"""Words as they are said → a terminal, or a file that they are sent to."""

import shutil
import unicodedata
from collections.abc import Iterable
from typing import TextIO

import typer


class LiveText:
    """
    Words as they come; on a terminal also the word that is being said, dimmed, until it is committed.

    A terminal redraws a row and not what has wrapped into the next one: rows are broken here, before a word that would.
    """

    def __init__(self, out: TextIO):
        self.out = out
        self.is_live = out.isatty()
        self.column = 0  # of the cursor

    def show(self, update) -> None:
        """What an `Update` of the stream brings; a segment that has ended ends the line."""
        text = "\033[K" if self.is_live else ""  # the partial word of before
        words = list(update.words)
        for segment in update.segments:
            own = [word for word in words if word in segment]  # the others have been shown
            text += self._row(own) + "\n"
            self.column = 0
            words = words[len(own) :]
        text += self._row(words)
        if self.is_live and update.partial:
            text += self._break(update.partial)
            room = max(0, _width() - self.column - 1)
            partial = update.partial[:room]
            while _columns(partial) > room:
                partial = partial[:-1]
            text += f"\033[2m{partial}\033[0m\033[{_columns(partial)}D" if partial else ""
        if text:
            self.out.write(text)
            self.out.flush()

    def warn(self, message: str) -> None:
        """On stderr, beside the words."""
        if self.is_live:
            self.out.write("\033[K" + ("\n" if self.column else ""))
            self.out.flush()
            self.column = 0
        typer.echo(f"warning: {message}", err=True)

    def _row(self, words: Iterable) -> str:
        text = ""
        for word in words:
            text += f"{self._break(word.word)}{word.word} "
            self.column = (self.column + _columns(word.word) + 1) % _width()
        return text

    def _break(self, word: str) -> str:
        """A new row, where a word and the blank behind it do not fit on this one."""
        if not self.is_live or not self.column or self.column + _columns(word) + 1 < _width():
            return ""
        self.column = 0
        return "\n"


def _width() -> int:
    """Columns of the terminal, which may change."""
    return shutil.get_terminal_size().columns


def _columns(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
