"""Forced alignment: known paths give known times, and what does not fit is said."""

import pytest
import torch

from hf_speechrec.alignment import align
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
