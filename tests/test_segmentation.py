"""Cutting: pieces lie end to end, in silences, and are no longer than the model can take."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hf_speechrec.segmentation import CONTEXT_SECONDS, LONGEST_SECONDS, SHORTEST_SECONDS, cut_at_silences

RATE = 1000  # Hz: the cutting does not care, and a recording of minutes is small
MULTIPLE = 40


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(round(seconds * RATE)).astype(np.float32)


def segments(recording: np.ndarray, block: int = 7919):
    blocks = (recording[i : i + block] for i in range(0, len(recording), block))
    return list(cut_at_silences(blocks, RATE, MULTIPLE))


def test_a_short_recording_stays_whole():
    recording = noise(LONGEST_SECONDS)
    (segment,) = segments(recording)
    assert (segment.start, segment.lead, segment.length) == (0, 0, len(recording))
    assert np.array_equal(segment.samples, recording)


@given(st.floats(0.01, 200), st.integers(1, 60_000))
def test_pieces_lie_end_to_end_with_their_context(seconds, block):
    """Nobody pauses in noise: every cut has its context on both sides."""
    recording = noise(seconds)
    pieces = segments(recording, block)
    position = 0
    for segment in pieces:
        assert segment.start == position
        assert position % MULTIPLE == 0
        assert 0 < segment.length <= LONGEST_SECONDS * RATE
        context = round(CONTEXT_SECONDS * RATE) // MULTIPLE * MULTIPLE
        assert segment.lead == min(position, context)
        after = 0 if segment is pieces[-1] else context
        heard = recording[segment.start - segment.lead : segment.start + segment.length + after]
        assert np.array_equal(segment.samples, heard)
        assert np.array_equal(segment.own_samples, recording[position : position + segment.length])
        assert segment.goes_on == (segment is not pieces[-1])
        position += segment.length
    assert position == len(recording)


def test_cuts_lie_in_the_pauses_and_need_no_context():
    recording = noise(100)
    pauses = [(0.5, 1.3), (18.0, 18.7), (19.0, 19.7), (40.0, 40.3), (43.0, 43.7), (63.0, 63.7), (84.0, 85.2)]
    for start, end in pauses:
        recording[round(start * RATE) : round(end * RATE)] *= 0.001
    pieces = segments(recording)
    cuts = [segment.start / RATE for segment in pieces][1:]
    # Not the first, after which the piece would be too short, nor the third and fourth, too early and too short.
    expected = [(18.0, 18.7), (43.0, 43.7), (63.0, 63.7), (84.0, 85.2)]
    assert len(cuts) == len(expected)
    assert all(start <= cut <= end for cut, (start, end) in zip(cuts, expected, strict=True))
    assert all(segment.lead == 0 and len(segment.samples) == segment.length for segment in pieces)
    assert not any(segment.goes_on for segment in pieces)


def test_a_noisy_recording_is_cut_in_its_pauses_too():
    recording = noise(60)
    for start in range(5, 60, 6):
        recording[start * RATE : start * RATE + 800] *= 0.1  # 20 dB
    cuts = [segment.start / RATE for segment in segments(recording)][1:]
    assert [round(cut) for cut in cuts] == list(range(5, 60, 6))


def test_the_size_of_the_blocks_does_not_matter():
    recording = noise(150)
    for start in range(7, 150, 40):
        recording[start * RATE : start * RATE + 800] *= 0.001
    expected = [(segment.start, segment.length) for segment in segments(recording)]
    assert len(expected) >= 150 / LONGEST_SECONDS
    assert all(length >= SHORTEST_SECONDS * RATE for _, length in expected[:-1])
    for block in (500, 12_345, 150_000):
        assert [(segment.start, segment.length) for segment in segments(recording, block)] == expected


def test_nothing_has_no_pieces():
    assert list(cut_at_silences([], RATE, MULTIPLE)) == []
    assert list(cut_at_silences([np.zeros(0, np.float32)], RATE, MULTIPLE)) == []


def test_digital_silence_is_cut_all_the_same():
    pieces = segments(np.zeros(95 * RATE, np.float32))
    assert sum(piece.length for piece in pieces) == 95 * RATE
    assert max(piece.length for piece in pieces) <= LONGEST_SECONDS * RATE
