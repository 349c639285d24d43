"""Error rates: word and character error rate, their confidence interval, and what goes wrong most."""

import datetime
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import evaluate
import jiwer
import numpy as np
import torch
from tqdm.auto import tqdm

from .audio import AudioError, read_audio, row_source, source_name
from .augmentation import add_noise
from .modeling_resnet_bigru import BLANK_MARGIN
from .text import TextNormalizer
from .transcription import transcribe

logger = logging.getLogger(__name__)

BOOTSTRAP_SAMPLES = 10_000
BOOTSTRAP_BLOCK = 250  # of them that are drawn together
# One character for each that the vocabulary lacks, as in the transcript itself; no model writes it.
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class SpeechErrorRate(evaluate.Metric):
    """
    A local `evaluate` metric module (`evaluate.load("wer")` downloads one): word and character error rate of a whole
    corpus, with the counts that they are made of. Use it like any other: `SpeechErrorRate().compute(...)`, or as
    `metric=` of an evaluator.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Word and character error rate of a corpus (errors over reference words and characters).",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, float]:
        return error_rates(references, predictions)


def error_rates(references: list[str], predictions: list[str]) -> dict[str, float]:
    """
    `wer` and `cer` as shares, and `substitutions`, `deletions`, `insertions` and `words` (in the references).

    Raises:
        ValueError: where the lists differ in length or the references hold no word.
    """
    if len(references) != len(predictions):
        raise ValueError(f"expected as many predictions as references, got {len(predictions)} and {len(references)}")
    if not any(reference.strip() for reference in references):
        raise ValueError("expected references with at least one word, all are empty")
    words = jiwer.process_words(references, predictions)
    total = words.hits + words.substitutions + words.deletions
    return {
        "wer": (words.substitutions + words.deletions + words.insertions) / total,
        "cer": jiwer.process_characters(references, predictions).cer,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "words": total,
    }


def utterance_errors(
    references: list[str], predictions: list[str], process: Callable = jiwer.process_words
) -> tuple[np.ndarray, np.ndarray]:
    """
    Word errors and reference words of each utterance: two integer arrays (utterances,); of its characters where
    `process` is `jiwer.process_characters`.
    """
    counts = [
        (units.substitutions + units.deletions + units.insertions, units.hits + units.substitutions + units.deletions)
        for reference, prediction in zip(references, predictions, strict=True)
        for units in [process(reference, prediction)]
    ]
    errors, units = np.array(counts).T
    return errors, units


def bootstrap_interval(errors: np.ndarray, words: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """
    95 % interval of the WER, by drawing utterances with replacement (Bisani & Ney, 2004, "Bootstrap estimates for
    confidence intervals in ASR performance evaluation"); of another rate, where errors are counted in other units.
    """
    generator, share = np.random.default_rng(seed), np.full(len(errors), 1 / len(errors))
    rates = []
    for _ in range(BOOTSTRAP_SAMPLES // BOOTSTRAP_BLOCK):  # all at once take gigabytes for a large corpus
        draws = generator.multinomial(len(errors), share, size=BOOTSTRAP_BLOCK)
        rates.append((draws @ errors) / np.maximum(draws @ words, 1))
    low, high = np.percentile(np.concatenate(rates), [2.5, 97.5])
    return float(low), float(high)


def confusions(references: list[str], predictions: list[str], most: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent word errors: (reference, prediction, count); an empty word is an insertion or deletion."""
    output = jiwer.process_words(references, predictions)
    counts: Counter = Counter()
    for reference, prediction, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        for chunk in chunks:
            if chunk.type == "equal":
                continue
            said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            heard = prediction[chunk.hyp_start_idx : chunk.hyp_end_idx]
            size = max(len(said), len(heard))
            counts.update(zip(said or [""] * size, heard or [""] * size, strict=True))
    return [(said, heard, count) for (said, heard), count in counts.most_common(most)]


def frame_predictions(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  the Trainer's call
    """Most likely class of each frame (batch, frames), -100 in the padding; spares keeping the logits of a test set."""
    if isinstance(logits, tuple):
        logits = logits[0]
    return logits.argmax(-1).masked_fill((logits == BLANK_MARGIN).any(-1), -100)


def trainer_metrics(processor, report: Callable[[str], Any]) -> Callable:
    """
    `compute_metrics` for a Trainer whose `preprocess_logits_for_metrics` is `frame_predictions`.

    Each evaluation reports the share of blank frames and five decoded utterances: a model that has settled on blanks,
    the usual failure of CTC, is seen at once.
    """
    tokenizer = processor.tokenizer

    def compute_metrics(prediction) -> dict[str, float]:
        frames, labels = prediction.predictions, prediction.label_ids
        valid = frames >= 0
        blank_share = float((frames == tokenizer.pad_token_id).sum() / max(valid.sum(), 1))
        predictions = tokenizer.batch_decode(np.where(valid, frames, tokenizer.pad_token_id))
        label_ids = np.where(labels >= 0, labels, tokenizer.pad_token_id)
        # Labels are of normalised transcripts. A second time would make two words of CAF<unk>.
        references = [
            text.replace(tokenizer.unk_token, UNKNOWN_CHARACTER)
            for text in tokenizer.batch_decode(label_ids, group_tokens=False)
        ]
        for i in np.linspace(0, len(references) - 1, num=min(5, len(references)), dtype=int):
            report(f"  said:  {references[i]}\n  heard: {predictions[i]}")
        report(f"  blank frames: {blank_share:.1%}")
        rates = error_rates(references, predictions)
        return {"wer": rates["wer"], "cer": rates["cer"], "blank_share": blank_share}

    return compute_metrics


def evaluate_recognizer(
    recognizer,
    dataset: datasets.Dataset,
    *,
    gain_db: float = 0.0,
    noise_snr_db: float | None = None,
    batch_size: int = 8,
    decoder: Callable[[torch.Tensor], str] | None = None,
) -> dict[str, Any]:
    """
    Measure a recogniser (from `load_recognizer`) on a corpus (from `read_corpus`).

    Args:
        gain_db: change of volume before recognition.
        noise_snr_db: white noise is added at this signal-to-noise ratio, the same for an utterance in every run.
        batch_size: recordings that go through the model together.
        decoder: as `transcribe` takes it; greedy where it is not given.

    Returns:
        `wer` and `cer` (shares), `wer_interval` and `cer_interval` (95 %), `substitutions`, `deletions`, `insertions`,
        `words`, `utterances`, `failed` (files that could not be read, which are left out and named), `confusions`,
        `worst` (utterances: `source`, `reference`, `prediction`, and word `errors`), `audio_seconds`, and
        `real_time_factor` (seconds of computing for a second of audio: reading, features, model and decoding).
    """
    normalizer = TextNormalizer(**(recognizer.model.config.text_normalizer or {}))
    if "duration" in dataset.column_names:
        dataset = dataset.sort("duration")
    failed: list[str] = []
    references: list[str] = []
    names: list[str] = []

    def recordings() -> Iterator[np.ndarray]:
        for row, samples in conditioned(dataset, recognizer, failed, gain_db, noise_snr_db):
            names.append(source_name(row_source(row)))
            references.append(normalizer(row["text"]))
            yield samples

    start = time.perf_counter()
    transcripts = list(transcribe(recordings(), recognizer, batch_size=batch_size, decoder=decoder))
    elapsed = time.perf_counter() - start
    if not references:
        raise ValueError(f"not one recording could be read ({failed[0] if failed else 'the corpus is empty'})")
    predictions = [transcript.text for transcript in transcripts]
    errors, words = utterance_errors(references, predictions)
    worst = np.argsort(-errors, kind="stable")[:5]
    seconds = sum(transcript.duration for transcript in transcripts)
    return {
        **error_rates(references, predictions),
        "wer_interval": bootstrap_interval(errors, words),
        "cer_interval": bootstrap_interval(*utterance_errors(references, predictions, jiwer.process_characters)),
        "utterances": len(references),
        "failed": failed,
        "confusions": confusions(references, predictions),
        "worst": [
            {
                "source": names[i],
                "reference": references[i],
                "prediction": predictions[i],
                "errors": int(errors[i]),
            }
            for i in worst
            if errors[i]
        ],
        **circumstances(recognizer, seconds, elapsed, gain_db, noise_snr_db),
    }


def conditioned(
    dataset: datasets.Dataset, model, failed: list[str], gain_db: float, noise_snr_db: float | None
) -> Iterator[tuple[dict, np.ndarray]]:
    """
    The rows of a corpus with their samples (samples,) at the rate of a pipeline, in noise (the same for a row in every
    run) and at another volume. What cannot be read is left out and named in `failed`.
    """
    for i, row in enumerate(tqdm(dataset, desc="Evaluating", unit="utt", leave=False, disable=None)):
        try:
            samples = read_audio(row_source(row), model.feature_extractor.sampling_rate)
        except AudioError as error:
            failed.append(str(error))
            continue
        if noise_snr_db is not None:
            samples = add_noise(samples, noise_snr_db, seed=i)
        yield row, samples * np.float32(10 ** (gain_db / 20))


def circumstances(model, seconds: float, elapsed: float, gain_db: float, noise_snr_db: float | None) -> dict[str, Any]:
    """What a report says of how its figures came about: of `seconds` of audio in `elapsed` seconds by a pipeline."""
    return {
        "audio_seconds": round(seconds, 2),
        "real_time_factor": elapsed / seconds,
        "gain_db": gain_db,
        "noise_snr_db": noise_snr_db,
        "hardware": f"{model.device.type}, {torch.get_num_threads()} threads, {platform.machine()}",
        "date": datetime.date.today().isoformat(),
    }


def format_report(report: dict[str, Any]) -> str:
    """The result of `evaluate_recognizer` as a table to read."""
    (low, high), (cer_low, cer_high) = report["wer_interval"], report["cer_interval"]
    lines = [
        f"WER   {report['wer']:7.2%}   (95 % interval {low:.2%} to {high:.2%}, {report['words']} words, "
        f"{report['utterances']} utterances)",
        f"CER   {report['cer']:7.2%}   (95 % interval {cer_low:.2%} to {cer_high:.2%})",
        f"errors  {report['substitutions']} substituted, {report['deletions']} deleted, "
        f"{report['insertions']} inserted",
        f"speed   {report['audio_seconds']:.0f} s of audio at a real-time factor of {report['real_time_factor']:.4f} "
        f"({report['hardware']})",
    ]
    if report["confusions"]:
        lines.append("most confused (said → heard):")
        lines += [
            f"  {count:3d}  {said or '(nothing)'} → {heard or '(nothing)'}"
            for said, heard, count in report["confusions"]
        ]
    if report["worst"]:
        lines.append("worst utterances:")
        lines += [
            f"  said   {item['reference']}\n  heard  {item['prediction']}\n  in     {item['source']}"
            for item in report["worst"]
        ]
    if report["failed"]:
        lines.append(f"{len(report['failed'])} recordings could not be read:")
        lines += [f"  {reason}" for reason in report["failed"][:5]]
    return "\n".join(lines)
