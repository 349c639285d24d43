"""Recordings → text: one model, many files of any length, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch

from .alignment import Word, align, align_phones, snap_to_silence, spread
from .audio import AudioError, audio_blocks, prepare_array, source_name
from .decoding import GreedyDecoder
from .loading import load_recognizer
from .segmentation import Segment, cut_at_silences
from .text import TextNormalizer

SILENCE = 1e-4  # peak (-80 dB) under which a piece holds no speech; models have not heard digital silence
WINDOW_SECONDS = 120.0  # audio held in memory at once, to be sorted by length
BATCH_SECONDS = 10.0  # times the batch size: what goes through the model at once, padding counted

Source = str | PathLike | bytes | dict | np.ndarray


@dataclass
class Transcript:
    """The text of one recording, or the reason why there is none."""

    source: str
    text: str = ""
    duration: float = 0.0  # seconds
    words: list[Word] = field(default_factory=list)
    error: str | None = None  # what came before it, in a long recording, is in `text`


def transcribe(
    sources: Iterable[Source],
    recognizer: Any = None,
    *,
    word_times: bool = False,
    batch_size: int = 8,
    decoder: Callable[[torch.Tensor], str] | None = None,
    progress: Callable[[float], Any] | None = None,
) -> Iterator[Transcript]:
    """
    Transcribe recordings, several at once. Long ones are cut where it is quiet, and are never in memory as a whole.

    Args:
        sources: paths, bytes of files, `datasets.Audio` rows, or arrays (samples,) at the model's rate.
        recognizer: from `load_recognizer`; the default model where it is not given.
        word_times: also find out when each word and character was said.
        batch_size: pieces that go through the model together; fewer of them where they are longer than 10 seconds.
        decoder: log-probabilities (frames, vocab) → text, such as a `BeamSearchDecoder`; greedy where it is not given.
            They are those of the model's head that its attribute `head` names, where it has one. Where it has a
            `lexicon` and `phones`, the words' times come from their sounds (`align_phones`).
        progress: is called with the seconds of audio that are done since the last call.

    Yields:
        One `Transcript` a source, in order. One that cannot be read has its `error` set; the others still come.
    """
    recognizer = recognizer or load_recognizer()
    decoder = decoder or GreedyDecoder(recognizer.tokenizer)
    transcripts: list[Transcript] = []
    window: list[tuple[Transcript, Segment]] = []
    seconds = 0.0
    for source in sources:
        transcript = Transcript(source_name(source))
        transcripts.append(transcript)
        for segment in _segments(source, recognizer, transcript):
            window.append((transcript, segment))
            seconds += segment.length / recognizer.feature_extractor.sampling_rate
            # A window ends between words: it may be twice as long where nobody pauses, and ends anywhere then.
            if seconds >= WINDOW_SECONDS * (2 if segment.goes_on else 1):
                _transcribe_window(window, recognizer, decoder, word_times, batch_size, progress)
                window, seconds = [], 0.0
                yield from transcripts[:-1]
                transcripts = [transcript]
    _transcribe_window(window, recognizer, decoder, word_times, batch_size, progress)
    yield from transcripts


def align_recording(source: Source, text: str, recognizer) -> Transcript:
    """
    When the words of a known text are said in a recording.

    The words keep the spelling that they have in `text`; what the model's text normaliser takes away (a lone dash) has
    no time and is left out.

    Raises:
        AudioError: for a recording that cannot be read.
        ValueError: for a text without words, with characters that the model does not know, or too long for the audio.
    """
    normalizer = TextNormalizer(**(recognizer.model.config.text_normalizer or {}))
    spelled = [(word, normalizer(word).split()) for word in text.split()]
    normalized = " ".join(part for _, parts in spelled for part in parts)
    if not normalized:
        raise ValueError("expected a text with words, got none")
    transcript = Transcript(source_name(source), text=" ".join(text.split()))
    segments = list(_segments(source, recognizer, transcript))
    if transcript.error is not None:
        raise AudioError(transcript.error)
    pieces = [log_probs for segment in segments for log_probs in segment_log_probs([segment], recognizer)]
    words = align(torch.cat(pieces), normalized, recognizer.tokenizer, frame_seconds(recognizer))
    samples = np.concatenate([segment.own_samples for segment in segments])
    snap_to_silence(words, samples, recognizer.feature_extractor.sampling_rate)
    aligned = iter(words)
    for word, parts in spelled:
        found = [next(aligned) for _ in parts]
        if found:
            characters = [character for part in found for character in part.characters]
            confidence = float(np.exp(np.mean(np.log([part.confidence + 1e-9 for part in found]))))
            transcript.words.append(Word(word, found[0].start, found[-1].end, round(confidence, 4), characters))
    return transcript


def frame_seconds(recognizer) -> float:
    """Duration of a logit frame."""
    extractor: Any = recognizer.feature_extractor
    return recognizer.model.config.inputs_to_logits_ratio / extractor.sampling_rate


def segment_log_probs(segments: list[Segment], recognizer, head: str = "logits") -> list[torch.Tensor]:
    """
    Log-probabilities (frames, vocab) of each piece of a recording without its context, on the CPU in float32; of
    another head of the model's where it is named ("phone_logits").
    """
    return [heads[head] for heads in _segment_heads(segments, recognizer, [head])]


@torch.inference_mode()
def _segment_heads(segments: list[Segment], recognizer, heads: Iterable[str]) -> list[dict[str, torch.Tensor]]:
    model, extractor = recognizer.model, recognizer.feature_extractor
    ratio = model.config.inputs_to_logits_ratio
    inputs = extractor(
        [segment.samples for segment in segments],
        sampling_rate=extractor.sampling_rate,
        padding=True,
        return_tensors="pt",
    )
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in inputs.items()
    }
    outputs = model(**inputs)
    log_probs = {head: outputs[head].float().log_softmax(-1).cpu() for head in heads}
    spans = [slice(s.lead // ratio, s.lead // ratio - (-s.length // ratio)) for s in segments]
    return [{head: rows[i, span] for head, rows in log_probs.items()} for i, span in enumerate(spans)]


def _segments(source: Source, recognizer, transcript: Transcript) -> Iterator[Segment]:
    """The pieces of a recording; what goes wrong, and its duration, are noted in its transcript."""
    rate = recognizer.feature_extractor.sampling_rate
    try:
        blocks = [prepare_array(source, rate)] if isinstance(source, np.ndarray) else audio_blocks(source, rate)
        for segment in cut_at_silences(blocks, rate, recognizer.model.config.inputs_to_logits_ratio):
            transcript.duration = (segment.start + segment.length) / rate
            yield segment
    except AudioError as error:
        transcript.error = str(error)


def _batches(lengths: dict[int, float], batch_size: int) -> Iterator[list[int]]:
    """
    Numbers of pieces that go through the model together, by their seconds: the longest first, so that neighbours are of
    similar length and a shortage of memory shows at once.
    """
    batch: list[int] = []
    for i in sorted(lengths, key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1 > batch_size or (len(batch) + 1) * lengths[batch[0]] > batch_size * BATCH_SECONDS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _transcribe_window(window, recognizer, decoder, word_times: bool, batch_size: int, progress) -> None:
    rate = recognizer.feature_extractor.sampling_rate
    head = getattr(decoder, "head", "logits")
    texts: dict[int, str] = {}
    words: dict[int, list[Word]] = {}
    audible = {
        i: len(segment.samples) / rate
        for i, (_, segment) in enumerate(window)
        if np.abs(segment.samples).max() >= SILENCE
    }
    outputs: dict[int, dict[str, torch.Tensor]] = {}
    waiting = _runs(window, audible)
    for batch in _batches(audible, batch_size):
        segments = [window[i][1] for i in batch]
        outputs |= zip(batch, _segment_heads(segments, recognizer, {head, "logits"}), strict=True)
        for run in [run for run in waiting if outputs.keys() >= set(run)]:
            waiting.remove(run)
            heads = [outputs.pop(i) for i in run]
            log_probs = {name: torch.cat([piece[name] for piece in heads]) for name in heads[0]}
            texts[run[0]] = decoder(log_probs[head])
            segments = [window[i][1] for i in run]
            if word_times:
                words[run[0]] = _word_times(log_probs, texts[run[0]], segments, recognizer, decoder)
            if progress is not None:
                progress(sum(segment.length for segment in segments) / rate)
    for i, (transcript, segment) in enumerate(window):
        if i not in audible and progress is not None:
            progress(segment.length / rate)
        transcript.text = f"{transcript.text} {texts.get(i, '')}".strip()
        transcript.words += words.get(i, [])


def _runs(window, audible) -> list[list[int]]:
    """Numbers of pieces that are read as one text: a cut where nobody pauses may lie within a word."""
    runs: list[list[int]] = []
    for i, (transcript, _) in enumerate(window):
        before, piece = window[i - 1]
        if i in audible and i - 1 in audible and before is transcript and piece.goes_on:
            runs[-1].append(i)
        elif i in audible:
            runs.append([i])
    return runs


def _word_times(log_probs, text: str, segments: list[Segment], recognizer, decoder) -> list[Word]:
    """When the words of a text are said in neighbouring pieces, whose heads gave `log_probs` (frames, classes)."""
    rate, seconds = recognizer.feature_extractor.sampling_rate, frame_seconds(recognizer)
    samples, offset = np.concatenate([segment.own_samples for segment in segments]), segments[0].start / rate
    lexicon = getattr(decoder, "lexicon", None)
    try:
        if lexicon is None:
            words = align(log_probs["logits"], text, recognizer.tokenizer, seconds, offset)
        else:
            words = align_phones(log_probs[decoder.head], text, lexicon, decoder.phones, seconds, offset)
    except ValueError:
        # A decoder may write more letters than there are frames, or what the model does not know. The text stands.
        return spread(text, samples, rate, offset)
    snap_to_silence(words, samples, rate, offset)
    return words


__all__ = ["Transcript", "align_recording", "transcribe"]
