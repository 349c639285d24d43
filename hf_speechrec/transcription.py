"""Recordings → text: one model, many files of any length, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch

from .alignment import Word, align, snap_to_silence
from .audio import AudioError, audio_blocks, source_name
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
            They are those of the model's head that its attribute `head` names, where it has one.
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
            if seconds >= WINDOW_SECONDS:
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
        blocks = [source] if isinstance(source, np.ndarray) else audio_blocks(source, rate)
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
    texts: dict[int, str] = {}
    words: dict[int, list[Word]] = {}
    audible = {
        i: len(segment.samples) / rate
        for i, (_, segment) in enumerate(window)
        if np.abs(segment.samples).max() >= SILENCE
    }
    for batch in _batches(audible, batch_size):
        segments = [window[i][1] for i in batch]
        head = getattr(decoder, "head", "logits")
        outputs = _segment_heads(segments, recognizer, {head, "logits"})
        for i, segment, log_probs in zip(batch, segments, outputs, strict=True):
            texts[i] = decoder(log_probs[head])
            if word_times:
                offset = segment.start / rate
                words[i] = align(log_probs["logits"], texts[i], recognizer.tokenizer, frame_seconds(recognizer), offset)
                snap_to_silence(words[i], segment.own_samples, rate, offset)
        if progress is not None:
            progress(sum(segment.length for segment in segments) / rate)
    for i, (transcript, segment) in enumerate(window):
        if i not in texts:
            if progress is not None:
                progress(segment.length / rate)
            continue
        transcript.text = f"{transcript.text} {texts[i]}".strip()
        transcript.words += words.get(i, [])


__all__ = ["Transcript", "align_recording", "transcribe"]
