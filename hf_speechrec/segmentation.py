"""A recording of any length → pieces that the model can take, cut where it is quiet."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

LONGEST_SECONDS = 30.0
SHORTEST_SECONDS = 10.0
CONTEXT_SECONDS = 1.0  # that the model hears on both sides of a piece, so that a cut costs nothing where nobody pauses
PAUSE_SECONDS = 0.3  # the quietest stretch of this length is where a recording is cut
FRAME_SECONDS = 0.02


@dataclass
class Segment:
    """A piece of a recording. Pieces lie end to end; what they hear of each other is context."""

    samples: np.ndarray  # (lead + length + what comes after,)
    start: int  # samples from the recording's beginning to the piece proper
    lead: int  # samples before it
    length: int  # samples of it

    @property
    def own_samples(self) -> np.ndarray:
        """The piece without its context (length,)."""
        return self.samples[self.lead : self.lead + self.length]


def cut_at_silences(blocks: Iterable[np.ndarray], sampling_rate: int, multiple: int) -> Iterator[Segment]:
    """
    Cut a recording into pieces of 10 to 30 seconds, each at the quietest place that allows them; one that is not longer
    stays whole.

    Args:
        blocks: the recording's samples (samples,), in pieces of any size.
        multiple: cuts lie at multiples of so many samples: those of a logit frame.
    """
    longest, shortest, context = (
        round(seconds * sampling_rate) // multiple * multiple
        for seconds in (LONGEST_SECONDS, SHORTEST_SECONDS, CONTEXT_SECONDS)
    )
    buffer = np.zeros(0, np.float32)
    begin = lead = 0  # of the buffer in the recording, and of the next piece in the buffer
    for block in itertools.chain(blocks, [None]):
        if block is not None:
            buffer = np.concatenate([buffer, block])
        # In mid-recording a piece waits for the context behind it.
        while len(buffer) - lead > longest + (0 if block is None else context):
            length = shortest + _quietest(buffer[lead + shortest : lead + longest], sampling_rate)
            length = length // multiple * multiple
            yield Segment(buffer[: lead + length + context], begin + lead, lead, length)
            dropped = lead + length - context
            buffer, begin, lead = buffer[dropped:], begin + dropped, context
    if len(buffer) > lead:
        yield Segment(buffer, begin + lead, lead, len(buffer) - lead)


def _quietest(samples: np.ndarray, sampling_rate: int) -> int:
    """The middle, in samples, of the stretch of the least power."""
    frame = round(FRAME_SECONDS * sampling_rate)
    power = np.square(samples[: len(samples) // frame * frame].reshape(-1, frame), dtype=np.float64).mean(axis=1)
    pause = round(PAUSE_SECONDS / FRAME_SECONDS)
    sums = np.convolve(power, np.ones(pause), mode="valid")
    return (int(sums.argmin()) + pause // 2) * frame


__all__ = ["Segment", "cut_at_silences"]
