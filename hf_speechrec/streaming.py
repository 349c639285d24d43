"""Samples as they come → words as they are said, with the weights that also read whole files.

The model runs in chunks (`ResNetBiGruConfig.chunk_frames`, `lookahead_frames`): each chunk is recognised once, when its
look-ahead has been heard, so what has been said never changes. The logits are those of the whole recording in chunk
mode, whatever sizes the samples arrive in: features and convolutions are computed with the context that they reach for,
and the forward GRUs carry their state on (see docs/architecture.md for the latency).
"""

import math
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch

from .alignment import Character, Word, join_characters
from .audio import MAX_RATE, MIN_RATE, StreamResampler, check_samples
from .modeling_resnet_bigru import ResNetBiGruForCTC
from .onnx_model import OnnxResNetBiGruForCTC

LATENCY = 0.64  # seconds, where neither caller nor config say
LOOKAHEAD_SHARE = 1 / 3  # of what a latency leaves for chunk and look-ahead; measured in docs/experiments.md
LONGEST_SECONDS = 60.0  # of a segment in which nobody pauses; it ends with a word then, and at twice that anywhere


@dataclass
class Update:
    """What a piece of audio has brought."""

    words: list[Word] = field(default_factory=list)  # committed now, in order
    partial: str = ""  # of the word that is being said
    segments: list[list[Word]] = field(default_factory=list)  # ended now, mostly by silence: the words of each


class StreamingRecognizer:
    """
    A recogniser that hears while somebody speaks.

    Args:
        model: a recogniser.
        processor: its processor (or pipeline: anything with `feature_extractor` and `tokenizer`).
        latency: algorithmic latency in seconds that chunk and look-ahead may not exceed. By default they are the
            config's, or, where that has whole utterances, what 0.64 seconds allow.
        chunk_frames, lookahead_frames: logit frames (40 ms each in the bundled models), in place of a latency; a chunk
            without a look-ahead has none.
        endpoint_seconds: so much time without a letter ends a segment, and so does a word after a minute without. It
            cuts the text only: what the model remembers goes on until `reset`.

    Raises:
        ValueError: for numbers out of range, a latency beside `chunk_frames`, and `lookahead_frames` alone.
    """

    def __init__(
        self,
        model: ResNetBiGruForCTC | OnnxResNetBiGruForCTC,
        processor: Any,
        chunk_frames: int | None = None,
        lookahead_frames: int | None = None,
        *,
        latency: float | None = None,
        endpoint_seconds: float = 0.8,
    ):
        _check_arguments(chunk_frames, lookahead_frames, latency, endpoint_seconds)
        self.model = model.eval()
        self.extractor = processor.feature_extractor
        self.tokenizer = processor.tokenizer
        config = model.config
        self.reduction = config.time_reduction
        # Each of the two convolutions of a block reaches one frame to either side, at the stride of the first
        # convolution; that one, where it has a stride of two, reaches ahead within the frames that it joins.
        stride = min(self.reduction, 2)
        reach = 2 * config.num_residual_blocks * stride
        self.right_context = reach + (stride == 1)  # feature frames behind a logit frame's own
        self.left_context = -(-(reach + 2) // self.reduction)  # logit frames before
        # Feature frames on either side that the STFT of a frame reaches into.
        self.context_hops = -(-(self.extractor.n_fft - self.extractor.hop_length) // (2 * self.extractor.hop_length))
        self.frame_seconds = self.reduction * self.extractor.hop_length / self.extractor.sampling_rate
        self.endpoint_frames = max(1, round(endpoint_seconds / self.frame_seconds))
        if chunk_frames is not None:
            self.chunk_frames, self.lookahead_frames = chunk_frames, lookahead_frames or 0
        elif latency is None and config.chunk_frames:
            self.chunk_frames, self.lookahead_frames = config.chunk_frames, config.lookahead_frames
        else:
            self.chunk_frames, self.lookahead_frames = self._frames_within(LATENCY if latency is None else latency)
        self.reset()

    def _frames_within(self, latency: float) -> tuple[int, int]:
        """Chunk and look-ahead of an algorithmic latency. Raises `ValueError` where it is too short for a frame."""
        self.chunk_frames = self.lookahead_frames = 0
        frames = int((latency - self.latency) / self.frame_seconds + 1e-6)
        if frames < 1:
            least = self.latency + self.frame_seconds
            raise ValueError(f"expected a latency of at least {least * 1000:.0f} ms, got {latency * 1000:.0f} ms")
        lookahead_frames = min(math.ceil(frames * LOOKAHEAD_SHARE), frames - 1)
        return frames - lookahead_frames, lookahead_frames

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: chunk, look-ahead, and what convolutions and STFT reach for."""
        samples = self.right_context * self.extractor.hop_length + self.context_hops * self.extractor.hop_length
        ahead = (self.chunk_frames + self.lookahead_frames) * self.frame_seconds
        return ahead + samples / self.extractor.sampling_rate

    def reset(self) -> None:
        """Forget everything: the next samples begin a new recording."""
        self._resampler: StreamResampler | None = None
        self._samples = np.zeros(0, np.float32)  # from `_frames_done - context_hops` hops on
        self._heard = 0  # samples, at the model's rate
        self._frames_done = 0  # feature frames
        self._features = torch.zeros(0, self.extractor.feature_size)  # the last of them
        self._encoded_done = 0  # logit frames that the convolutions have given
        self._encoded = torch.zeros(0, self.model.config.hidden_size)  # the last of them
        self._logits_done = 0
        self._states = self.model.initial_states(1)
        self._decoder = _GreedyDecoder(self.tokenizer, self.frame_seconds, self.endpoint_frames)
        self._is_flushed = False

    def feed(self, samples: np.ndarray, sampling_rate: float | None = None) -> Update:
        """
        Hear some more.

        Args:
            samples: float samples (samples,) in about [-1, 1]; any number of them, also none.
            sampling_rate: their rate in whole Hz, the same for the whole stream; by default the model's.

        Raises:
            ValueError: for samples that are not finite or not mono, a rate that is none or another than before, or a
                stream that has been flushed. Nothing of them is heard then, and the stream goes on.
        """
        return self._decoder.update(self._step(self._checked(samples, sampling_rate), is_last=False))

    def flush(self) -> Update:
        """The end: what was held back for want of context. After it only `reset` helps."""
        if self._is_flushed:
            return Update()
        rest = np.zeros(0, np.float32) if self._resampler is None else self._resampler.flush()
        update = self._decoder.update(self._step(rest, is_last=True), is_last=True)
        self._is_flushed = True
        return update

    def logits(self, samples: np.ndarray, sampling_rate: float | None = None, is_last: bool = False) -> torch.Tensor:
        """As `feed` and `flush` in one, but (frames', vocab) of the frames that are ready now, without their text."""
        heard = self._checked(samples, sampling_rate)
        if is_last and self._resampler is not None:
            heard = np.concatenate([heard, self._resampler.flush()])
        self._is_flushed = is_last
        return self._step(heard, is_last)

    def _checked(self, samples: np.ndarray, sampling_rate: float | None) -> np.ndarray:
        """Samples at the model's rate."""
        samples = np.asarray(samples)
        own = self.extractor.sampling_rate
        rate = own if sampling_rate is None else sampling_rate
        if self._is_flushed:
            raise ValueError("the stream has been flushed: call reset() to begin another")
        if samples.size and not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(f"expected float samples in about [-1, 1], got {samples.dtype}: divide by its maximum")
        samples = samples.astype(np.float32)
        if samples.ndim != 1:
            raise ValueError(f"expected mono samples of shape (samples,), got {samples.shape}")
        check_samples(samples, "stream")
        if not (MIN_RATE <= rate <= MAX_RATE and rate % 1 == 0):
            raise ValueError(f"expected a sampling rate of {MIN_RATE} to {MAX_RATE} whole Hz, got {rate!r}")
        rate = int(rate)
        if self._resampler is None:
            self._resampler = StreamResampler(rate, own)
        elif rate != self._resampler.rate:
            raise ValueError(f"expected {self._resampler.rate} Hz as before, got {rate} Hz: call reset() to change it")
        return self._resampler.feed(samples)

    @torch.inference_mode()
    def _step(self, samples: np.ndarray, is_last: bool) -> torch.Tensor:
        """(frames', vocab) of the frames that have all they may see."""
        self._samples = np.concatenate([self._samples, samples])
        self._heard += len(samples)
        before = self._frames_done
        self._make_features(is_last)
        if self._frames_done == before and not is_last:
            return torch.zeros(0, self.model.config.vocab_size)
        self._encode(is_last)
        ready = []
        while self._encoded_done - self._logits_done >= self.chunk_frames + self.lookahead_frames or (
            is_last and self._encoded_done > self._logits_done
        ):
            ready.append(self._recognise_chunk())
        return torch.cat(ready) if ready else torch.zeros(0, self.model.config.vocab_size)

    def _make_features(self, is_last: bool) -> None:
        hop = self.extractor.hop_length
        first = max(0, self._frames_done - self.context_hops)
        if is_last:
            ready = -(-self._heard // hop)
        else:
            # As many as a chunk wants, at once: a call for each of a microphone's pieces costs more than the frames.
            ready = max(0, self._heard // hop - self.context_hops)
            wanted = self._logits_done + self.chunk_frames + self.lookahead_frames
            ready = ready if ready >= wanted * self.reduction + self.right_context else self._frames_done
        if ready <= self._frames_done:
            return
        end = len(self._samples) if is_last else (ready + self.context_hops - first) * hop
        block = self.extractor(
            self._samples[:end], sampling_rate=self.extractor.sampling_rate, return_tensors="pt"
        ).input_features[0]
        self._features = torch.cat([self._features, block[self._frames_done - first : ready - first]])
        self._frames_done = ready
        self._samples = self._samples[(max(0, ready - self.context_hops) - first) * hop :]

    def _encode(self, is_last: bool) -> None:
        reduction = self.reduction
        if is_last:
            ready = -(-self._frames_done // reduction)
        else:
            # As many as a chunk wants: the context is computed anew each time.
            ready = max(0, self._frames_done - self.right_context) // reduction
            wanted = self._logits_done + self.chunk_frames + self.lookahead_frames
            ready = ready if ready >= wanted else self._encoded_done
        if ready <= self._encoded_done:
            return
        first = max(0, self._encoded_done - self.left_context)
        device = self.model.device
        end = len(self._features) if is_last else (ready - first) * reduction + self.right_context
        block = self._features[None, :end].to(device)
        encoded, _ = self.model.encoder(block, torch.tensor([block.shape[1]], device=device))
        self._encoded = torch.cat([self._encoded, encoded[0, self._encoded_done - first : ready - first].cpu()])
        self._encoded_done = ready
        self._features = self._features[(max(0, ready - self.left_context) - first) * reduction :]

    def _recognise_chunk(self) -> torch.Tensor:
        window = self._encoded[None, : self.chunk_frames + self.lookahead_frames].to(self.model.device)
        logits, self._states = self.model.recognize_window(window, self.chunk_frames, self._states)
        self._encoded = self._encoded[len(logits) :]
        self._logits_done += len(logits)
        return logits.float().cpu()


def _check_arguments(chunk_frames, lookahead_frames, latency, endpoint_seconds) -> None:
    """Those of a `StreamingRecognizer`."""
    for name, value, least in (("chunk_frames", chunk_frames, 1), ("lookahead_frames", lookahead_frames, 0)):
        if value is not None and not (isinstance(value, Integral) and int(value) >= least):
            raise ValueError(f"expected {name} to be a whole number of at least {least}, got {value!r}")
    if chunk_frames is None and lookahead_frames is not None:
        raise ValueError("expected chunk_frames beside lookahead_frames, got none")
    if chunk_frames is not None and latency is not None:
        raise ValueError(f"expected either chunk_frames or a latency, got both ({chunk_frames} and {latency})")
    for name, value in (("latency", latency), ("endpoint_seconds", endpoint_seconds)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"expected {name} to be a finite number of seconds above 0, got {value}")


class _GreedyDecoder:
    """The best class of each frame → words, their times and their confidence, a few frames at a time."""

    def __init__(self, tokenizer, frame_seconds: float, endpoint_frames: int):
        self.tokenizer = tokenizer
        self.blank, self.delimiter = tokenizer.pad_token_id, tokenizer.word_delimiter_token_id
        self.frame_seconds = frame_seconds
        self.endpoint_frames = endpoint_frames
        self.longest_frames = round(LONGEST_SECONDS / frame_seconds)
        self.frame = 0
        self.previous = self.blank
        self.first_letter = self.last_letter = 0  # frames; of the segment, and at all
        self.letters: list[tuple[Character, float]] = []  # of the word being said, with their log-probabilities
        self.segment: list[Word] = []

    def update(self, logits: torch.Tensor, is_last: bool = False) -> Update:
        update = Update()
        scores, tokens = logits.log_softmax(-1).max(-1) if len(logits) else (torch.zeros(0), torch.zeros(0))
        for score, token in zip(scores.tolist(), tokens.tolist(), strict=True):
            if token == self.delimiter:
                self._end_word(update)
            elif token != self.blank:
                self._hear_letter(token, score)
            length = self.frame - self.first_letter
            if (
                self.frame - self.last_letter >= self.endpoint_frames
                or (length >= self.longest_frames and not self.letters)
                or length >= 2 * self.longest_frames
            ):
                self._end_segment(update)
            self.previous = token
            self.frame += 1
        if is_last:
            self._end_segment(update)
        update.partial = "".join(letter.character for letter, _ in self.letters)
        return update

    def _hear_letter(self, token: int, score: float) -> None:
        end = round((self.frame + 1) * self.frame_seconds, 3)
        if token != self.previous:
            if not (self.letters or self.segment):
                self.first_letter = self.frame
            text = self.tokenizer.convert_ids_to_tokens(token)
            self.letters.append((Character(text, round(self.frame * self.frame_seconds, 3), end), score))
        if self.letters:  # there are none where a segment of too great a length has ended within this letter
            self.letters[-1][0].end = end
        self.last_letter = self.frame

    def _end_word(self, update: Update) -> None:
        if not self.letters:
            return
        word = join_characters(self.letters)
        self.letters = []
        self.segment.append(word)
        update.words.append(word)

    def _end_segment(self, update: Update) -> None:
        self._end_word(update)
        if self.segment:
            update.segments.append(self.segment)
            self.segment = []


__all__ = ["StreamingRecognizer", "Update"]
