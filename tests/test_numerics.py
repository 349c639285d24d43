"""Numerical trust: logits that depend on the recording alone, halves that hear the same, seeds that repeat a run."""

import random

import pytest
import torch
from small_runs import assert_same_weights, tiny_recipe

from hf_speechrec.audio import read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.decoding import GreedyDecoder
from hf_speechrec.evaluation import evaluate_recognizer
from hf_speechrec.loading import load_recognizer
from hf_speechrec.segmentation import cut_at_silences
from hf_speechrec.training import train
from hf_speechrec.transcription import segment_log_probs


@pytest.fixture(scope="module")
def recognizer():
    return load_recognizer("an4", "cpu")


@pytest.fixture(scope="module")
def segments(an4) -> list:
    """The 18 utterances of both parts, of 0.8 to 6 seconds."""
    paths = [*read_corpus(an4, "train")["path"], *read_corpus(an4, "test")["path"]]
    return [segment for path in paths for segment in cut_at_silences([read_audio(path, 16_000)], 16_000, 640)]


@pytest.fixture
def threads():
    """Sets the number of threads, for one test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


def log_probs(recognizer, segments, order, batch_size) -> list[torch.Tensor]:
    """(frames, vocab) of each utterance, in their own order."""
    results = {}
    for batch in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
        results.update(zip(batch, segment_log_probs([segments[i] for i in batch], recognizer), strict=True))
    return [results[i] for i in range(len(segments))]


@pytest.fixture(scope="module")
def reference(recognizer, segments) -> list[torch.Tensor]:
    """On one thread, one utterance at a time."""
    assert torch.get_num_threads() == 1
    return log_probs(recognizer, segments, list(range(len(segments))), 1)


@pytest.mark.parametrize(
    ("number_of_threads", "batch_size", "is_shuffled"),
    [(2, 1, False), (1, 4, False), (1, 18, False), (1, 4, True), (2, 7, True)],
)
def test_threads_batches_and_order_change_no_logit_by_1e_4_and_no_letter(
    recognizer, segments, reference, threads, number_of_threads, batch_size, is_shuffled
):
    order = list(range(len(segments)))
    if is_shuffled:
        random.shuffle(order)
    threads(number_of_threads)
    results = log_probs(recognizer, segments, order, batch_size)
    decode = GreedyDecoder(recognizer.tokenizer)
    for rows, expected in zip(results, reference, strict=True):
        torch.testing.assert_close(rows, expected, atol=1e-4, rtol=0)
        assert decode(rows) == decode(expected)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 0.1), (torch.bfloat16, 1.0)])
def test_halves_hear_what_float32_hears(recognizer, segments, reference, an4, dtype, largest):
    half = load_recognizer("an4", "cpu")
    half.model.to(dtype)
    results = log_probs(half, segments, list(range(len(segments))), 6)
    likely = [expected.exp() > 0.01 for expected in reference]  # far under that, halves have no digits left
    differences = [float((a - b)[i].abs().max()) for a, b, i in zip(results, reference, likely, strict=True)]
    assert 0 < max(differences) < largest
    corpus = read_corpus(an4, "test")
    expected, found = (evaluate_recognizer(model, corpus)["wer"] for model in (recognizer, half))
    assert abs(found - expected) <= 0.003


@pytest.mark.parametrize("number_of_threads", [1, 2])
def test_on_equal_threads_a_seed_repeats_a_run_to_the_bit(an4, tmp_path, threads, number_of_threads):
    threads(number_of_threads)
    first, second = (train(tiny_recipe(an4, tmp_path / name, augmentation={}), device="cpu") for name in "ab")
    assert_same_weights(first, second)
