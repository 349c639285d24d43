"""Held-out speech → the weights of a language model."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike

import datasets
import torch
from tqdm.auto import tqdm

from .audio import AudioError, read_audio, row_source
from .corpus_rows import warn_of
from .decoding import load_decoder
from .evaluation import error_rates
from .pronunciation import lexicon_of
from .segmentation import cut_at_silences
from .text import TextNormalizer
from .transcription import segment_log_probs

LM_WEIGHTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
WORD_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0)
TUNING_BEAM_SIZE = 300  # a quarter of the time of the default beam, for a few of its words


@dataclass
class Trial:
    """Weights, and the word error rate that they give."""

    lm_weight: float
    word_score: float
    wer: float


def tune_decoder(
    recognizer,
    dataset: datasets.Dataset,
    language_model: str | PathLike,
    *,
    lm_weights: tuple[float, ...] = LM_WEIGHTS,
    word_scores: tuple[float, ...] = WORD_SCORES,
    beam_size: int = TUNING_BEAM_SIZE,
) -> Iterator[Trial]:
    """
    Try weights on recordings that neither model has seen: each weight with a word score of 0, each word score with the
    best weight, and each weight once more with the best word score. The acoustic model runs once.

    Args:
        recognizer: from `load_recognizer`.
        dataset: from `read_corpus`.
        language_model: an ARPA file.

    Raises:
        ValueError: where no recording can be read.
        LanguageModelError: as `load_decoder`, before the acoustic model runs.
    """
    normalizer = TextNormalizer(**(recognizer.model.config.text_normalizer or {}))
    extractor = recognizer.feature_extractor
    ratio = recognizer.model.config.inputs_to_logits_ratio
    head = "logits" if lexicon_of(recognizer.model) is None else "phone_logits"
    load_decoder(recognizer, language_model, beam_size=1)  # what is wrong with it is said before the work
    references, outputs, problems = [], [], []
    for row in tqdm(dataset, desc="Recognising", unit="utt", leave=False, disable=None):
        try:
            samples = read_audio(row_source(row), extractor.sampling_rate)
        except AudioError as error:
            problems.append(str(error))
            continue
        references.append(normalizer(row["text"]))
        pieces: list[torch.Tensor] = []
        goes_on = False  # whether a word may reach from the last piece into this one
        for segment in cut_at_silences([samples], extractor.sampling_rate, ratio):
            (log_probs,) = segment_log_probs([segment], recognizer, head)
            pieces.append(torch.cat([pieces.pop(), log_probs]) if goes_on else log_probs)
            goes_on = segment.goes_on
        outputs.append(pieces)
    warn_of(problems, len(dataset), "tuning")
    if not references:
        raise ValueError("not one recording could be read")
    seen: dict[tuple[float, float], Trial] = {}

    def trial(lm_weight: float, word_score: float) -> Iterator[Trial]:
        key = (lm_weight, word_score)
        if key in seen:
            return
        decoder = load_decoder(
            recognizer, language_model, lm_weight=lm_weight, word_score=word_score, beam_size=beam_size
        )
        texts = [" ".join(decoder(log_probs) for log_probs in pieces) for pieces in outputs]
        seen[key] = Trial(lm_weight, word_score, error_rates(references, texts)["wer"])
        yield seen[key]

    def best() -> Trial:
        return min(seen.values(), key=lambda t: t.wer)

    for lm_weight in lm_weights:
        yield from trial(lm_weight, 0.0)
    lm_weight = best().lm_weight
    for word_score in word_scores:
        yield from trial(lm_weight, word_score)
    word_score = best().word_score
    for lm_weight in lm_weights:
        yield from trial(lm_weight, word_score)


__all__ = ["Trial", "tune_decoder"]
