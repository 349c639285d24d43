"""Samples as they come: a played file keeps time, and a microphone that is not there is one clear line."""

import sys
import time
import types

import numpy as np
import pytest

from hf_speechrec.audio import read_audio
from hf_speechrec.listening import MicrophoneError, microphone, played


@pytest.fixture
def digits(repository):
    return repository / "demo" / "examples" / "an4-seven-digits.flac"


def test_a_file_plays_in_pieces_of_50_ms(digits):
    pieces = list(played(digits, 16_000, speed=0))
    assert {rate for _, rate in pieces} == {16_000}
    assert {len(piece) for piece, _ in pieces[:-1]} == {800}
    assert np.array_equal(np.concatenate([piece for piece, _ in pieces]), read_audio(digits, 16_000))


def test_a_file_plays_at_its_speed(digits):
    begin = time.monotonic()
    seconds = sum(len(piece) for piece, _ in played(digits, 16_000, speed=8)) / 16_000
    assert seconds / 8 <= time.monotonic() - begin < seconds / 8 + 1


class PortAudioError(Exception):
    pass


def sounddevice(query, stream=None):
    """What `microphone` uses of the package, whose real one needs a sound card."""
    return types.SimpleNamespace(query_devices=query, InputStream=stream, PortAudioError=PortAudioError)


def test_a_microphone_gives_what_its_callback_gets(monkeypatch):
    class Stream:
        def __init__(self, rate, size, device, channels, dtype, callback):
            assert (rate, size, device, channels, dtype) == (44_100, 2205, "USB", 1, "float32")
            self.callback = callback

        def __enter__(self):
            for i in range(3):
                self.callback(np.full((2205, 1), i, np.float32), 2205, None, None)

        def __exit__(self, *_):
            self.callback = None

    def query(device, kind):
        assert (device, kind) == ("USB", "input")
        return {"default_samplerate": 44_100.0}

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(query, Stream))
    pieces = microphone("USB")
    for i in range(3):
        samples, rate = next(pieces)
        assert (samples.shape, rate, samples[0]) == ((2205,), 44_100, i)
    pieces.close()


def test_no_microphone_is_said(monkeypatch):
    def query(*_):
        raise PortAudioError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(query))
    with pytest.raises(MicrophoneError, match="expected a microphone that can be opened, got: Error querying device"):
        next(microphone())
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MicrophoneError, match=r"pip install 'hf_speechrec\[listen\]', and PortAudio"):
        next(microphone())


class Silent:
    """A microphone that starts, if at all, and is never heard."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


class Broken(Silent):
    def __enter__(self):
        raise PortAudioError("Error starting stream: Unanticipated host error")


def test_a_microphone_that_does_not_start_or_falls_silent_is_said(monkeypatch):
    def query(*_):
        return {"default_samplerate": 16_000.0}

    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(query, Broken))
    with pytest.raises(MicrophoneError, match="that can be opened, got: Error starting stream"):
        next(microphone())
    monkeypatch.setattr("hf_speechrec.listening.LOST_SECONDS", 0.01)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice(query, Silent))
    with pytest.raises(MicrophoneError, match=r"nothing has come for 0\.01 s: is it plugged in\?"):
        next(microphone())
