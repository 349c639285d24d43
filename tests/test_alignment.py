"""Forced alignment: known paths give known times, and what does not fit is said."""

import numpy as np
import pytest
import torch

from hf_speechrec.alignment import Character, Word, align, align_phones, snap_to_silence, spread
from hf_speechrec.text import build_tokenizer, tokenizer_from_pieces

FRAME = 0.04


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["ABC'"])


def spoken(tokenizer, path: str, probability: float = 0.9) -> torch.Tensor:
    """Log-probabilities of a path: a character a frame, - for the blank."""
    vocab = tokenizer.get_vocab()
    ids = [tokenizer.pad_token_id if c == "-" else vocab[c] for c in path]
    probabilities = torch.full((len(ids), len(vocab)), (1 - probability) / (len(vocab) - 1))
    probabilities[torch.arange(len(ids)), ids] = probability
    return probabilities.log()


def test_words_and_characters_have_the_times_of_the_path(tokenizer):
    words = align(spoken(tokenizer, "--AAB--|--C-C--"), "AB CC", tokenizer, FRAME, offset=10)
    assert [(word.word, word.start, word.end) for word in words] == [("AB", 10.08, 10.2), ("CC", 10.4, 10.52)]
    characters = [(c.character, c.start, c.end) for word in words for c in word.characters]
    assert characters == [("A", 10.08, 10.16), ("B", 10.16, 10.2), ("C", 10.4, 10.44), ("C", 10.48, 10.52)]
    assert [word.confidence for word in words] == pytest.approx([0.9, 0.9], abs=1e-3)


def test_confidence_falls_where_the_text_is_not_what_was_said(tokenizer):
    log_probs = spoken(tokenizer, "--A-B-|-C---")
    right, wrong = align(log_probs, "AB A", tokenizer, FRAME)
    assert right.confidence > 0.85
    assert wrong.confidence < 0.05


def test_times_never_go_back(tokenizer):
    log_probs = torch.randn(200, len(tokenizer.get_vocab())).log_softmax(-1)
    words = align(log_probs, "ABC CAB A B'C AAA " * 3 + "B", tokenizer, FRAME)
    assert len(words) == 16
    times = [time for word in words for c in word.characters for time in (c.start, c.end)]
    assert times == sorted(times)
    assert times[-1] <= 200 * FRAME + 1e-6


@pytest.mark.parametrize("text", ["|A", "A|", "A|| |A"])
def test_a_delimiter_without_a_word_is_no_word(tokenizer, text):
    """A vocabulary may write it, a normalised text never does."""
    words = align(spoken(tokenizer, "|-A|-|-|-A|-|--"), text, tokenizer, FRAME)
    assert {word.word for word in words} == {"A"}
    assert len(words) == text.count("A")


def test_word_pieces_are_aligned_too():
    tokenizer = tokenizer_from_pieces(["A", "B", "AB"])
    log_probs = torch.full((8, 6), -10.0)
    for frame, piece in enumerate(["<pad>", "AB", "<pad>", "A", "|", "<pad>", "B", "B"]):
        log_probs[frame, tokenizer.convert_tokens_to_ids(piece)] = -0.01
    words = align(log_probs, "ABA B", tokenizer, FRAME)
    assert [[c.character for c in word.characters] for word in words] == [["AB", "A"], ["B"]]
    assert [(word.start, word.end) for word in words] == [(0.04, 0.16), (0.24, 0.32)]


def test_no_text_has_no_words(tokenizer):
    assert align(spoken(tokenizer, "--A"), "", tokenizer, FRAME) == []


def test_what_cannot_be_aligned_is_said(tokenizer):
    log_probs = spoken(tokenizer, "AAAA")
    with pytest.raises(ValueError, match="the model does not know X Z"):
        align(log_probs, "AX Z", tokenizer, FRAME)
    # Two equal characters in a row need a blank between them.
    with pytest.raises(ValueError, match=r"expected at least 0\.20 s of audio for 3 characters, got 0\.16 s"):
        align(log_probs, "AAA", tokenizer, FRAME)
    assert len(align(log_probs, "AA", tokenizer, FRAME)) == 1
    with pytest.raises(ValueError, match="too much at once"):
        align(torch.zeros(1, 1).expand(40_000, 1), "AB" * 15_000, tokenizer, FRAME)


def test_words_found_by_sound_have_the_times_of_their_phones():
    lexicon = {"SEE": [["S", "IY"]], "EASY": [["IY", "Z", "IY"]], "EYE": [["AY"], ["IY"]]}
    phones = ["AY", "IY", "S", "Z"]
    log_probs = torch.full((12, 5), -8.0)
    for frame, phone in enumerate(["-", "S", "IY", "-", "IY", "Z", "Z", "IY", "-", "-", "AY", "-"]):
        log_probs[frame, ["-", *phones].index(phone)] = -0.01
    words = align_phones(log_probs, "SEE EASY EYE", lexicon, phones, FRAME, offset=1)
    assert [(w.word, w.start, w.end) for w in words] == [("SEE", 1.04, 1.12), ("EASY", 1.16, 1.32), ("EYE", 1.4, 1.44)]
    assert [[c.character for c in w.characters] for w in words] == [["S", "IY"], ["IY", "Z", "IY"], ["AY"]]
    assert all(w.confidence > 0.98 for w in words)
    assert align_phones(log_probs, "", lexicon, phones, FRAME) == []
    with pytest.raises(ValueError, match="the lexicon does not have SEA"):
        align_phones(log_probs, "SEE SEA", lexicon, phones, FRAME)
    with pytest.raises(ValueError, match=r"for 18 phones, got 0\.48 s"):
        align_phones(log_probs, "EASY " * 6, lexicon, phones, FRAME)


RATE = 16_000


def word(start: float, end: float) -> Word:
    middle = (start + end) / 2
    return Word("AB", start, end, 1.0, [Character("A", start, middle), Character("B", middle, end)])


def sound(*spans: tuple[float, float], seconds: float = 3.0, noise: float = 1e-4) -> np.ndarray:
    """Noise of full scale in some spans of faint noise."""
    generator = np.random.default_rng(0)
    samples = generator.standard_normal(round(seconds * RATE)).astype(np.float32)
    is_loud = np.zeros(len(samples), bool)
    for start, end in spans:
        is_loud[round(start * RATE) : round(end * RATE)] = True
    return np.where(is_loud, samples, samples * noise)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.1])
def test_words_between_pauses_begin_and_end_with_their_sound(noise):
    words = [word(0.62, 0.8), word(1.7, 1.82), word(2.6, 2.8)]
    snap_to_silence(words, sound((0.5, 0.9), (1.5, 2.0), (2.5, 3.0), noise=noise), RATE)
    times = [(w.start, w.end) for w in words]
    # The last one's sound goes on to the end: nothing tells where the word does.
    assert times == [pytest.approx(t, abs=0.02) for t in [(0.5, 0.9), (1.5, 2.0), (2.5, 2.8)]]
    assert all(w.characters[0].start == w.start and w.characters[-1].end == w.end for w in words)


def test_the_silence_of_a_stop_is_no_pause():
    words = [word(1.3, 1.5)]
    snap_to_silence(words, sound((1.0, 1.1), (1.18, 1.6)), RATE)
    assert (words[0].start, words[0].end) == (pytest.approx(1.0, abs=0.02), pytest.approx(1.6, abs=0.02))


def test_words_without_a_pause_keep_their_times():
    words = [word(1.0, 1.3), word(1.45, 1.8)]
    snap_to_silence(words, sound((0.2, 2.9)), RATE)
    assert [(w.start, w.end) for w in words] == [(1.0, 1.3), (1.45, 1.8)]


def test_times_count_from_the_offset():
    words = [word(100.62, 100.8)]
    snap_to_silence(words, sound((0.5, 0.9)), RATE, offset=100)
    assert (words[0].start, words[0].end) == (pytest.approx(100.5, abs=0.02), pytest.approx(100.9, abs=0.02))


def test_a_recording_shorter_than_a_pause_changes_nothing():
    words = [word(0.0, 0.04)]
    snap_to_silence(words, np.zeros(800, np.float32), RATE)
    assert (words[0].start, words[0].end) == (0.0, 0.04)


def test_what_cannot_be_aligned_is_spread_over_the_sound():
    words = spread("A BC D", sound((0.5, 2.0)), RATE, offset=10)
    assert [w.word for w in words] == ["A", "BC", "D"]
    assert [(w.start, w.end) for w in words] == [
        pytest.approx(t, abs=0.02) for t in [(10.5, 11), (11, 11.5), (11.5, 12)]
    ]
    assert all((w.confidence, w.characters) == (0.0, []) for w in words)
    assert [(w.start, w.end) for w in spread("A", np.zeros(16, np.float32), RATE)] == [(0.0, 0.001)]
    assert spread("", sound((0.5, 2.0)), RATE) == []
