"""Broken files of every kind are read or refused in one line of ours, and leave nothing behind (see `fuzzing.py`)."""

import csv
import io
import json
import struct
from collections import Counter

import numpy as np
import pytest
from conftest import RATE
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from hf_speechrec.audio import MAX_RATE, MIN_RATE, AudioError, audio_duration, read_audio
from hf_speechrec.corpus_rows import manifest_rows
from hf_speechrec.pronunciation import read_lexicon, write_lexicon


def found(results: list[dict]) -> dict[tuple[str, str], list[int]]:
    """Complaints by target, and the numbers of the inputs: `benchmarks/fuzz.py --first NUMBER` gives them again."""
    complaints: dict[tuple[str, str], list[int]] = {}
    for result in results:
        for complaint in result["complaints"]:
            complaints.setdefault((result["target"], complaint), []).append(result["number"])
    return complaints


@pytest.mark.slow
def test_whole_files_are_read_and_broken_ones_read_or_refused():
    results = fuzz([], seed=0, first=0, count=8)
    assert found(results) == {}
    refused = Counter(result["target"] for result in results if result["refused"])
    read = Counter(result["target"] for result in results if not result["refused"] and result["number"] >= 0)
    assert len({result["target"] for result in results}) >= 28  # more with the extras lm and demo
    assert len(refused) >= 20
    assert len(read) >= 20


@pytest.mark.slow
def test_more_broken_files_are_read_or_refused():
    assert found(fuzz([], seed=1, first=1, count=30)) == {}


def test_what_misbehaves_is_noticed():
    kinds = {
        "_segmentation_fault": "SIGSEGV",
        "_hang": "hangs",
        "_temporary_file": "leaves tmp",
        "_printed_traceback": "prints a traceback: FileNotFoundError",
        "_foreign_error": "KeyError",
        "_all_memory": "MemoryError",
    }
    results = fuzz(list(kinds), seed=0, first=0, count=1, limit_seconds=1)
    assert [(result["target"], result["number"]) for result in results] == [(k, n) for k in kinds for n in (-1, 0)]
    for result in results:
        (complaint,) = result["complaints"]
        assert complaint.startswith(kinds[result["target"]])


# Properties


@given(
    channels=st.integers(0, 65_535),
    rate=st.integers(0, 2**32 - 1) | st.integers(1_000, 200_000),
    bits=st.sampled_from([0, 1, 8, 12, 16, 24, 32, 64, 65_535]),
    sizes=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    kind=st.sampled_from([0, 1, 2, 3, 6, 7, 17, 49, 85, 65_534]),
)
def test_whatever_a_header_claims_costs_no_more_than_the_file(channels, rate, bits, sizes, kind):
    form = struct.pack("<HHIIHH", kind, channels, rate, 0, 2, bits)
    header = b"RIFF" + struct.pack("<I", sizes[0]) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    content = header + b"data" + struct.pack("<I", sizes[1]) + bytes(range(200))
    try:
        samples = read_audio(content, RATE)
    except AudioError:
        return
    assert MIN_RATE <= rate <= MAX_RATE
    assert np.isfinite(samples).all()
    assert len(samples) <= 2000 * RATE / rate + 1  # GSM makes five of a byte


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)


@given(st.lists(st.tuples(cells, cells), min_size=1), st.sampled_from(["csv", "jsonl"]))
def test_any_text_comes_back_from_a_table(tmp_path_factory, rows, kind):
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"path": a, "text": b}) + "\n" for a, b in rows))
    else:
        file = io.StringIO(newline="")
        csv.writer(file).writerows([("path", "text"), *rows])
        path.write_text(file.getvalue(), encoding="utf-8", newline="")
    read, problems = manifest_rows(path, "text")
    assert problems == []
    assert [(row["path"], row["text"]) for row in read] == [(str(path.parent / a), b) for a, b in rows]


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_are_more_than_a_bad_row(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-bytes.jsonl"
    path.write_bytes(b'{"path": "a", "text": "b"}\n' + content)
    try:
        rows, problems = manifest_rows(path, "text")
    except UnicodeDecodeError:  # `read_corpus` says so
        return
    assert rows[0]["text"] == "b"
    assert len(rows) + len(problems) <= 1 + len(content)


words = st.text(st.characters(categories=["L", "N"]), min_size=1)
phones = st.lists(st.sampled_from(["AH", "B", "K", "ʃ"]), min_size=1).map(tuple)


@given(st.dictionaries(words, st.sets(phones, min_size=1), min_size=1))
def test_any_lexicon_is_read_as_it_was_written(tmp_path_factory, lexicon):
    path = tmp_path_factory.getbasetemp() / "any.gz"
    write_lexicon({word: [list(way) for way in sorted(ways)] for word, ways in lexicon.items()}, path)
    assert {word: {tuple(way) for way in ways} for word, ways in read_lexicon(path).items()} == lexicon


@given(st.integers(0, 2**36 - 1))
def test_a_flac_may_claim_any_length(an4_files, total):
    content = bytearray(an4_files[0].read_bytes())
    stated = (content[21] & 15) << 32 | int.from_bytes(content[22:26], "big")
    content[21:26] = bytes([content[21] & 240 | total >> 32]) + (total & 0xFFFFFFFF).to_bytes(4, "big")
    row = {"bytes": bytes(content), "path": None}
    if total == 0:  # unknown, as of a FLAC that was written into a pipe
        assert len(read_audio(row, RATE)) == audio_duration(row) * RATE == stated
    elif total <= stated:
        assert len(read_audio(row, RATE)) == total
    else:
        with pytest.raises(AudioError, match=f"it ends after {stated / RATE:.2f} of {total / RATE:.2f} s"):
            read_audio(row, RATE)
