"""A recording of any length → pieces that the model can take, cut where it is quiet."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

LONGEST_SECONDS = 30.0
SHORTEST_SECONDS = 1.5
PAUSE_SECONDS = 0.6  # of quiet: a piece ends in the middle of the first such pause that makes it long enough
CONTEXT_SECONDS = 0.5  # that the model hears on both sides of a cut where nobody pauses
LEVEL_SECONDS = 0.02
QUIET_DB = 30.0  # under what is loudest
NOISE_DB = 10.0  # above the quietest tenth of the samples, which is no speech either


@dataclass
class Segment:
    """A piece of a recording. Pieces lie end to end; what they hear of each other is context."""

    samples: np.ndarray  # (lead + length + what comes after,)
    start: int  # samples from the recording's beginning to the piece proper
    lead: int  # samples before it
    length: int  # samples of it
    goes_on: bool = False  # cut where nobody pauses: the next piece may begin within a word

    @property
    def own_samples(self) -> np.ndarray:
        """The piece without its context (length,)."""
        return self.samples[self.lead : self.lead + self.length]


def cut_at_silences(blocks: Iterable[np.ndarray], sampling_rate: int, multiple: int) -> Iterator[Segment]:
    """
    Cut a recording into pieces of 1.5 to 30 seconds, as the utterances of a corpus are: at pauses. Where nobody pauses
    for 30 seconds the quietest place has to do, and the model hears a little of both sides there. A recording that is
    not longer stays whole.

    Args:
        blocks: the recording's samples (samples,), in pieces of any size.
        multiple: cuts lie at multiples of so many samples: those of a logit frame.
    """
    longest, context = (
        round(seconds * sampling_rate) // multiple * multiple for seconds in (LONGEST_SECONDS, CONTEXT_SECONDS)
    )
    buffer = np.zeros(0, np.float32)
    begin = lead = 0  # of the buffer in the recording, and of the next piece in the buffer
    for block in itertools.chain(blocks, [None]):
        is_last = block is None
        if not is_last:
            buffer = np.concatenate([buffer, block])
        # In mid-recording a piece waits for the context behind it; the end of a long one is cut like the rest.
        while len(buffer) - lead > ((0 if begin else longest) if is_last else longest + context):
            cut, is_pause = _pause(buffer[lead : lead + longest], sampling_rate, len(buffer) - lead > longest)
            length = cut // multiple * multiple or len(buffer) - lead
            after = 0 if is_pause else context
            yield Segment(buffer[: lead + length + after], begin + lead, lead, length, goes_on=not is_pause)
            kept = min(after, lead + length)
            begin += lead + length - kept
            buffer, lead = buffer[lead + length - kept :], kept
    if len(buffer) > lead:
        yield Segment(buffer, begin + lead, lead, len(buffer) - lead)


def _pause(samples: np.ndarray, sampling_rate: int, must_cut: bool) -> tuple[int, bool]:
    """
    Where to cut samples (samples,): in the middle of the first pause that is late enough, else, where it must be, of
    the quietest stretch, and which of the two it is; 0 for nowhere.
    """
    frame = round(LEVEL_SECONDS * sampling_rate)
    pause, earliest = round(PAUSE_SECONDS / LEVEL_SECONDS), round(SHORTEST_SECONDS / LEVEL_SECONDS)
    power = frame_power(samples, frame)
    if len(power) < earliest + pause:
        return 0, True
    levels = decibels(power)
    loudest, floor = np.percentile(levels, [98, 10])
    quiet = levels < quiet_level(loudest, floor)
    pauses = np.flatnonzero(sliding_window_view(quiet[earliest:], pause).all(axis=1))
    if pauses.size:
        return (earliest + int(pauses[0]) + pause // 2) * frame, True
    if not must_cut:
        return 0, True
    late = len(power) // 3
    sums = np.convolve(power[late:], np.ones(pause), mode="valid")
    return (late + int(sums.argmin()) + pause // 2) * frame, False


def frame_power(samples: np.ndarray, frame: int) -> np.ndarray:
    """Mean square of each whole frame of samples: (samples,) → (frames,)."""
    return np.square(samples[: len(samples) // frame * frame].reshape(-1, frame), dtype=np.float64).mean(axis=1)


def decibels(power: np.ndarray) -> np.ndarray:
    """Power in dB of full scale; -100 for none."""
    return 10 * np.log10(power + 1e-10)


def quiet_level(loudest: float, floor: float) -> float:
    """Level in dB under which nobody speaks, by the loudest level of speech and that of the quietest tenth."""
    return max(loudest - QUIET_DB, min(floor + NOISE_DB, loudest - QUIET_DB / 2))


__all__ = ["Segment", "cut_at_silences", "decibels", "frame_power", "quiet_level"]
