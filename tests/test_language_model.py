"""Language models: from text to a file that the decoder reads, in size and in alphabet."""

import gzip
import lzma
import math
import re

import pytest

from hf_speechrec import language_model
from hf_speechrec.language_model import (
    LanguageModelError,
    build_language_model,
    read_weights,
    read_words,
    text_lines,
    write_weights,
    write_with_hotwords,
)

TEXTS = ["GO LEFT", "GO RIGHT", "GO LEFT NOW", "STOP", "", "ÉTÉ À LA MER"] * 3

pytest.importorskip("kaldingram", reason="the extra lm is not installed")


@pytest.fixture
def arpa(tmp_path):
    build_language_model(TEXTS, tmp_path / "lm.arpa")
    return tmp_path / "lm.arpa"


def ngrams(path) -> dict[str, float]:
    """n-gram → log10-probability."""
    lines = (line.rstrip("\n").split("\t") for line in text_lines(path))
    return {fields[1]: float(fields[0]) for fields in lines if len(fields) > 1}


def test_probabilities_are_those_of_kneser_ney_and_sum_to_one(arpa):
    assert sorted(read_words(arpa)) == sorted({"GO", "LEFT", "RIGHT", "NOW", "STOP", "ÉTÉ", "À", "LA", "MER"})
    scores = ngrams(arpa)
    assert scores["<s> GO LEFT"] > scores["<s> GO RIGHT"]
    assert sum(10 ** scores[word] for word in [*read_words(arpa), "</s>"]) == pytest.approx(1, abs=2e-3)


def test_scores_have_the_three_decimals_that_matter(arpa):
    numbers = [number for line in text_lines(arpa) if "\t" in line for number in line.rstrip("\n").split("\t")[::2]]
    assert len(numbers) > 20
    assert all(re.fullmatch(r"-?\d+\.\d{3}", number) for number in numbers)


def test_kenlm_reads_it_as_it_is_also_compressed(arpa, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    stats = build_language_model(TEXTS, tmp_path / "lm.arpa.gz")
    assert (stats["sentences"], stats["words"], stats["vocabulary"]) == (15, 36, 9)
    assert stats["bytes"] == (tmp_path / "lm.arpa.gz").stat().st_size
    plain, packed = (kenlm.Model(str(path)) for path in (arpa, tmp_path / "lm.arpa.gz"))
    assert packed.score("GO LEFT") == plain.score("GO LEFT") > plain.score("LEFT GO")
    assert "ÉTÉ" in packed


def test_the_same_text_gives_the_same_file(tmp_path):
    for name in ("a.arpa.gz", "b.arpa.gz"):
        build_language_model(TEXTS, tmp_path / name)
    assert (tmp_path / "a.arpa.gz").read_bytes() == (tmp_path / "b.arpa.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.arpa.gz", "b.arpa.gz"]


def test_it_is_pruned_until_it_fits(tmp_path):
    words = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
    texts = [" ".join(words[(i * k) % 9] for k in range(1, 6)) for i in range(1, 90)]
    full = build_language_model(texts, tmp_path / "full.arpa")["bytes"]
    small = build_language_model(texts, tmp_path / "small.arpa", max_megabytes=full / 2e6)["bytes"]
    assert small <= full / 2
    assert sorted(read_words(tmp_path / "small.arpa")) == sorted(read_words(tmp_path / "full.arpa"))
    with pytest.raises(LanguageModelError, match="its words alone take"):
        build_language_model(texts, tmp_path / "none.arpa", max_megabytes=1e-6)
    for size in (0, -1.0):
        with pytest.raises(LanguageModelError, match=f"expected a size above 0 MB, got {size:g}"):
            build_language_model(texts, tmp_path / "none.arpa", max_megabytes=size)
    assert not (tmp_path / "none.arpa").exists()


def test_words_that_cannot_be_recognised_are_unknown(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    stats = build_language_model(TEXTS, tmp_path / "lm.arpa", vocabulary={"GO", "LEFT", "NOW"})
    said = [word for text in TEXTS for word in text.split()]
    unknown = sum(word not in ("GO", "LEFT", "NOW") for word in said)
    assert (stats["sentences"], stats["words"], stats["unknown"], stats["vocabulary"]) == (15, 36, unknown, 3)
    assert sorted(read_words(tmp_path / "lm.arpa")) == ["GO", "LEFT", "NOW"]
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    assert model.score("GO STOP", eos=False) == model.score("GO RIGHT", eos=False) < model.score("GO LEFT", eos=False)
    with pytest.raises(LanguageModelError, match="none of its words is in the lexicon"):
        build_language_model(TEXTS, tmp_path / "lm.arpa", vocabulary={"XERXES"})


def test_all_but_hotwords_fall_wherever_they_stand_last(arpa, tmp_path):
    write_with_hotwords(arpa, tmp_path / "hot.arpa", ["RIGHT", "XERXES"], bonus=3)
    before, after = ngrams(arpa), ngrams(tmp_path / "hot.arpa")
    for same in ("RIGHT", "GO RIGHT", "<s> GO RIGHT", "</s>", "GO LEFT </s>", "<s>"):
        assert after[same] == before[same]
    for lower in ("LEFT", "GO LEFT", "<s> GO", "GO LEFT NOW"):
        assert after[lower] == pytest.approx(before[lower] - 3, abs=1e-6)
    assert after["XERXES"] == min(score for ngram, score in before.items() if " " not in ngram and score > -99)
    assert "XERXES" in read_words(tmp_path / "hot.arpa")
    kenlm = pytest.importorskip("kenlm")
    assert math.isfinite(kenlm.Model(str(tmp_path / "hot.arpa")).score("GO XERXES"))


def test_texts_are_read_packed_and_unpacked(tmp_path):
    content = "UN ÉTÉ\nDEUX\n"
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    (tmp_path / "a.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "a.xz").write_bytes(lzma.compress(content.encode()))
    for name in ("a.txt", "a.gz", "a.xz"):
        assert list(text_lines(tmp_path / name)) == ["UN ÉTÉ\n", "DEUX\n"]
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    for name in ("bad.txt", "bad.gz"):
        with pytest.raises(LanguageModelError, match=f"{name}: expected text in UTF-8"):
            list(text_lines(tmp_path / name))


def test_a_text_without_words_is_no_model(tmp_path):
    with pytest.raises(LanguageModelError, match="expected a text with words"):
        build_language_model(["", ""], tmp_path / "lm.arpa")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ARPA format"),
        (b"hello\n", "ARPA format"),
        (b"\xff\xff\n", "ARPA format"),
        (b"\\data\\\nngram 1=0\n\n\\1-grams:\n\n\\end\\\n", "it has none"),
    ],
)
def test_what_is_no_language_model_is_said(tmp_path, content, message):
    (tmp_path / "x.arpa").write_bytes(content)
    with pytest.raises(LanguageModelError, match=message):
        read_words(tmp_path / "x.arpa")
    with pytest.raises(LanguageModelError, match="no such language model"):
        read_words(tmp_path / "gone.arpa")


def test_a_broken_archive_is_said(tmp_path, arpa):
    packed = gzip.compress(arpa.read_bytes())
    (tmp_path / "cut.arpa.gz").write_bytes(packed[:40])
    with pytest.raises(LanguageModelError, match="ARPA format"):
        read_words(tmp_path / "cut.arpa.gz")


def test_what_is_no_number_is_said(tmp_path, arpa):
    content = arpa.read_text(encoding="utf-8")
    for old, new in (("ngram 1=", "ngram 1=x"), ("\tGO\t", "x\tGO\t")):
        (tmp_path / "x.arpa").write_text(content.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(
            LanguageModelError, match=r"x\.arpa: expected .* ARPA format, got '.*x.*' in place of a number"
        ):
            write_with_hotwords(tmp_path / "x.arpa", tmp_path / "y.arpa", ["XERXES"], bonus=3)


def test_an_archive_with_a_flaw_inside_is_said(tmp_path, arpa):
    packed = bytearray(gzip.compress(arpa.read_bytes() * 9))
    packed[30:60] = bytes(30)
    (tmp_path / "x.gz").write_bytes(packed)
    with pytest.raises(LanguageModelError, match=r"x\.gz: expected text in UTF-8"):
        list(text_lines(tmp_path / "x.gz"))
    with pytest.raises(LanguageModelError, match=r"x\.gz: expected .* ARPA format"):
        read_words(tmp_path / "x.gz")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"lm_weight": 1e400, "word_score": 0}', "1" + "0" * 400, "null"])
def test_weights_that_are_none_are_said(arpa, content):
    language_model.weights_file(arpa).write_text(content)
    with pytest.raises(LanguageModelError, match=r"lm\.json: expected (the|finite) weights"):
        read_weights(arpa)


def test_tuned_weights_lie_beside_the_model(arpa):
    assert read_weights(arpa) == {}
    write_weights(arpa, 1.5, -0.5)
    assert read_weights(arpa) == {"lm_weight": 1.5, "word_score": -0.5}
    assert language_model.weights_file("a/b.arpa.gz").name == "b.json"
    language_model.weights_file(arpa).write_text("[1]")
    with pytest.raises(LanguageModelError, match="expected the weights"):
        read_weights(arpa)
