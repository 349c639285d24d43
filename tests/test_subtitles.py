"""Subtitles: their form, their size, and that they show every word once and in time."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from hf_speechrec.alignment import Word
from hf_speechrec.subtitles import LINE_CHARACTERS, LINES, LONGEST_SECONDS, subtitles, to_srt, to_vtt


def spoken(*items: tuple[str, float, float]) -> list[Word]:
    return [Word(text, start, end, 1.0) for text, start, end in items]


def test_the_forms_are_those_of_the_formats():
    words = spoken(("GOOD", 0.5, 0.75), ("<DAY>", 0.8, 1.6), ("LATER", 3723.0, 3724.5))
    assert to_srt(words) == (
        "1\n00:00:00,500 --> 00:00:01,600\nGOOD <DAY>\n\n2\n01:02:03,000 --> 01:02:04,500\nLATER\n"
    )
    assert to_vtt(words) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.600\nGOOD &lt;DAY&gt;\n\n01:02:03.000 --> 01:02:04.500\nLATER\n"
    )
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n"


def test_a_short_word_stays_a_second_where_the_next_leaves_it_the_time():
    alone, hurried, _ = subtitles(spoken(("A", 0, 0.1), ("B", 5, 5.1), ("C", 5.95, 7)))
    assert (alone.start, alone.end) == (0, 1.0)
    assert (hurried.start, hurried.end) == (5, 5.95)


word_lists = st.lists(
    st.tuples(st.text("ABCDEFG'", min_size=1, max_size=30), st.floats(0.04, 2), st.floats(0, 3)), max_size=60
)


@given(word_lists)
def test_no_line_is_too_long_and_no_word_is_lost(items):
    words, time = [], 0.0
    for text, duration, pause in items:
        words.append(Word(text, time, time + duration, 1.0))
        time += duration + pause
    shown = subtitles(words)
    assert " ".join(line for item in shown for line in item.lines).split() == [word.word for word in words]
    for item, following in itertools.zip_longest(shown, shown[1:]):
        assert 1 <= len(item.lines) <= LINES
        assert max(map(len, item.lines)) <= LINE_CHARACTERS
        assert 0 < item.end - item.start <= LONGEST_SECONDS + 1e-6
        assert following is None or item.end <= following.start + 1e-9


def test_a_word_that_fills_more_than_two_lines_is_shown_in_parts():
    shown = subtitles(spoken(("X" * 200, 0, 6)))
    assert "".join(line for item in shown for line in item.lines) == "X" * 200
    assert len(shown) == 3
    assert (shown[0].start, shown[-1].end) == (0, 6)
    assert re.fullmatch("X+", shown[-1].lines[-1])
