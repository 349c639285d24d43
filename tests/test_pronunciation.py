"""Lexicons: CMUdict's own form and ours, read, written, and turned into classes."""

import gzip

import pytest

from hf_speechrec.pronunciation import LexiconError, phone_ids, phones_of, read_lexicon, write_lexicon

CMUDICT = ";;; a comment\nREAD  R IY1 D\nREAD(2)  R EH1 D  # the past\nTHE DH AH0\n\nTHE(1) DH AH1\n"


@pytest.fixture
def lexicon(tmp_path):
    (tmp_path / "cmudict").write_text(CMUDICT)
    return read_lexicon(tmp_path / "cmudict")


def test_cmudict_is_read_without_stress_comments_and_what_is_said_twice(lexicon):
    assert lexicon == {"READ": [["R", "IY", "D"], ["R", "EH", "D"]], "THE": [["DH", "AH"]]}
    assert phones_of(lexicon) == ["AH", "D", "DH", "EH", "IY", "R"]


def test_what_is_written_is_read_again_and_is_the_same_file_each_time(lexicon, tmp_path):
    write_lexicon(lexicon, tmp_path / "a.gz")
    write_lexicon(dict(reversed(lexicon.items())), tmp_path / "b.gz")
    assert read_lexicon(tmp_path / "a.gz") == lexicon
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()).decode().splitlines()[0] == "READ R IY D"


def test_words_are_classes_in_their_first_way(lexicon):
    phones = phones_of(lexicon)
    assert phone_ids(["THE", "READ"], lexicon, phones) == [3, 1, 6, 5, 2]
    assert phone_ids([], lexicon, phones) == []
    assert phone_ids(["THE", "SEA"], lexicon, phones) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"READ R IY D\nTHE\n", r"line 2: expected a word and its phones, got 'THE'"),
        (b";;; nothing\n", "expected words and their phones, got none"),
        (b"\xff\xfe\x00", "not a lexicon that can be read"),
    ],
)
def test_what_is_no_lexicon_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(LexiconError, match=message):
        read_lexicon(tmp_path / "x")


@pytest.mark.parametrize("name", ["gone", "cut.gz", "not.gz", "flawed.gz"])
def test_what_is_not_there_or_not_whole_is_one_clear_line(tmp_path, name):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"READ R IY D\n" * 99)[:30])
    (tmp_path / "not.gz").write_text("READ R IY D")
    packed = gzip.compress(CMUDICT.encode() * 9)
    (tmp_path / "flawed.gz").write_bytes(packed[:20] + bytes(20) + packed[40:])
    with pytest.raises(LexiconError, match=f"{name}: not a lexicon that can be read"):
        read_lexicon(tmp_path / name)
