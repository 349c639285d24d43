"""What all corpora share: parts are held out fairly and repeatably, speakers are chosen, bad rows are named."""

import datasets
import numpy as np
import pytest
import soundfile
from conftest import RATE

from hf_speechrec.corpus_rows import (
    CorpusError,
    measured,
    read_speakers,
    select_speakers,
    split_held_out,
    warn_of,
    warn_of_missing_speakers,
)


def corpus_of(speakers: list[str | None], labels: list[str] | None = None) -> datasets.Dataset:
    target = "text" if labels is None else "label"
    names = labels or [str(i) for i in range(len(speakers))]
    rows = [
        {"path": f"{i}.wav", target: name, "duration": 1.0, "speaker": speaker}
        for i, (speaker, name) in enumerate(zip(speakers, names, strict=True))
    ]
    features = {name: datasets.Value("string") for name in ("path", target, "speaker")}
    return datasets.Dataset.from_list(
        rows, features=datasets.Features(features | {"duration": datasets.Value("float64")})
    )


# Whole speakers


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("labels", [None, ["yes", "no", "up"] * 20])
def test_whole_speakers_are_held_out(share, labels):
    corpus = corpus_of([f"speaker {i % 10}" for i in range(60)], labels)
    train, held = split_held_out(corpus, share, seed=1)
    assert not set(train["speaker"]) & set(held["speaker"])
    assert sorted(train["path"][:] + held["path"][:]) == sorted(corpus["path"])
    assert len(held) == share * 60


def test_the_held_out_speakers_follow_the_seed():
    corpus = corpus_of([f"speaker {i % 20}" for i in range(60)])
    draws = [frozenset(split_held_out(corpus, 0.2, seed)[1]["speaker"]) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_neither_part_is_empty(share):
    train, held = split_held_out(corpus_of(["anna", "anna", "bert", "cleo"]), share)
    assert len(train) > 0
    assert len(held) > 0


def test_an_utterance_of_nobody_known_is_a_speaker_of_its_own_among_known_speakers():
    corpus = corpus_of(["anna"] * 4 + ["bert"] * 4 + [None] * 8)
    unknown = []
    for seed in range(8):
        train, held = split_held_out(corpus, 0.25, seed)
        assert sorted(train["path"][:] + held["path"][:]) == sorted(corpus["path"])
        assert set(train["speaker"]) & set(held["speaker"]) <= {None}
        assert 4 <= len(held) <= 7  # a quarter, or the quarter less one and then a whole speaker
        unknown.append(held["speaker"][:].count(None))
    assert any(0 < number < 8 for number in unknown)
    assert len(set(unknown)) > 1


@pytest.mark.parametrize("speakers", [["anna"] * 5, [None]])
def test_one_speaker_or_utterance_cannot_be_split(speakers):
    with pytest.raises(CorpusError, match="at least two speakers or utterances to hold some out, got 1"):
        split_held_out(corpus_of(speakers), 0.5)


# Nobody known


def test_every_label_gives_its_share_where_no_speaker_is_known():
    labels = ["yes"] * 20 + ["no", "up"] * 10
    corpus = corpus_of([None] * 40, labels)
    train, held = split_held_out(corpus, 0.2, seed=3)
    assert sorted(held["label"]) == ["no"] * 2 + ["up"] * 2 + ["yes"] * 4
    assert sorted(train["path"][:] + held["path"][:]) == sorted(corpus["path"])
    for part in (train, held):  # each clip keeps its label, and the order of the corpus stays
        numbers = [int(path.removesuffix(".wav")) for path in part["path"]]
        assert numbers == sorted(numbers)
        assert part["label"][:] == [labels[number] for number in numbers]


@pytest.mark.parametrize("labels", [["yes", "no"] * 20, None])
def test_the_held_out_utterances_follow_the_seed(labels):
    corpus = corpus_of([None] * 40, labels)
    draws = [tuple(split_held_out(corpus, 0.2, seed)[1]["path"]) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
    assert all(len(draw) == 8 for draw in draws)


@pytest.mark.parametrize(
    ("labels", "share"),
    [
        (["yes"] * 9 + ["no"], 0.2),  # one row cannot be in both parts
        (["yes", "no", "up", "down"] * 2, 0.2),  # two rows cannot have four labels
        (["yes"] * 4, 1.0),
    ],
)
def test_too_few_rows_of_a_label_are_an_error_in_one_sentence(labels, share):
    with pytest.raises(CorpusError) as caught:
        split_held_out(corpus_of([None] * len(labels), labels), share)
    message = str(caught.value)
    of_labels = f"of each of {len(set(labels))} labels"
    assert message == f"the corpus: too few utterances ({len(labels)}) to hold out a share of {share} {of_labels}"


# Speakers


@pytest.mark.parametrize(
    ("speakers", "exclude", "expected"),
    [
        (None, None, ["anna", "bert", None]),
        (["anna", "nobody"], None, ["anna"]),
        (None, ["anna"], ["bert", None]),
        (["anna", "bert"], ["anna"], ["bert"]),
    ],
)
def test_speakers_are_selected(speakers, exclude, expected):
    assert select_speakers(corpus_of(["anna", "bert", None]), speakers, exclude)["speaker"][:] == expected


def test_a_selection_of_nobody_is_an_error_that_names_the_corpus():
    with pytest.raises(CorpusError, match=r"^my corpus: not one utterance of the wanted speakers$"):
        select_speakers(corpus_of(["anna"]), exclude_speakers=["anna"], name="my corpus")


# Rows that cannot be used


@pytest.mark.parametrize("target", ["text", "label"])
def test_recordings_that_are_too_long_are_left_out_and_named(tmp_path, caplog, target):
    rows = []
    for seconds in (0.5, 1.0, 2.25):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.zeros(int(RATE * seconds)), RATE)
        rows.append({"path": str(path), target: "YES", "speaker": None})
    corpus = measured(rows, ["line 9: no path"], "my corpus", target, max_seconds=1)
    assert set(corpus.column_names) == {"path", target, "speaker", "duration"}
    assert corpus["duration"][:] == [0.5, 1.0]
    (record,) = caplog.records
    assert record.getMessage() == (
        "my corpus: left out 2 of 4 rows:\n"
        "  line 9: no path\n"
        f"  {tmp_path / '2.25.wav'}: expected at most 1 s, got 2.2 s"
    )
    assert measured(rows, [], "my corpus", target)["duration"][:] == [0.5, 1.0, 2.25]


@pytest.mark.parametrize(("number", "last"), [(1, "\n  row 0"), (5, "\n  row 4"), (7, "\n  row 4\n  … and 2 more")])
def test_the_first_five_bad_rows_are_named_and_the_others_counted(caplog, number, last):
    warn_of([f"row {i}" for i in range(number)], 20, "my corpus")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"my corpus: left out {number} of 20 rows:\n  row 0")
    assert record.getMessage().endswith(last)


def test_nothing_is_said_where_no_row_is_bad(caplog):
    warn_of([], 20, "my corpus")
    assert not caplog.records


def test_speakers_stand_one_a_line_and_those_who_say_nothing_are_named(tmp_path, caplog):
    file = tmp_path / "speakers.txt"
    file.write_text("Anna Berg\n\n  bert \r\ncleo\n", encoding="utf-8-sig")
    assert read_speakers(file) == ["Anna Berg", "bert", "cleo"]
    corpus = datasets.Dataset.from_dict({"speaker": ["bert", None, "Anna Berg"]})
    warn_of_missing_speakers(file, read_speakers(file), corpus)
    warn_of_missing_speakers(file, ["bert"], corpus)
    assert caplog.messages == [f"{file}: the corpus has no utterance of cleo"]
