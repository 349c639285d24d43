"""Reading audio: every format, rate and channel count gives mono float32 at 16 kHz, or one clear line."""

import io

import numpy as np
import pytest
import soundfile
from conftest import RATE

from hf_speechrec.audio import (
    FILTER_VALUES,
    SUFFIXES,
    AudioError,
    StreamResampler,
    audio_blocks,
    audio_duration,
    prepare_waveform,
    read_audio,
    steps,
)


def tone(hertz: float, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def strongest_frequency(samples: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def loudness(samples: np.ndarray) -> float:
    middle = samples[len(samples) // 4 : -len(samples) // 4]  # a resampler's and a codec's edges are not the signal
    return float(np.sqrt(np.mean(middle**2)))


# Formats


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.WAV"])
def test_lossless_formats_give_the_samples_that_were_written(tmp_path, speech, name):
    soundfile.write(tmp_path / name, speech, RATE, subtype="PCM_16")
    read = read_audio(tmp_path / name, RATE)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, speech, atol=1 / 32768)
    assert audio_duration(tmp_path / name) == len(speech) / RATE


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [("a.opus", "OGG", "OPUS"), ("a.ogg", "OGG", "VORBIS"), ("a.mp3", "MP3", "MPEG_LAYER_III")],
)
def test_lossy_formats_keep_the_signal(tmp_path, name, container, codec):
    soundfile.write(tmp_path / name, tone(440, seconds=2), RATE, format=container, subtype=codec)
    read = read_audio(tmp_path / name, RATE)
    assert read.dtype == np.float32
    assert len(read) == pytest.approx(2 * RATE, rel=0.01)
    assert strongest_frequency(read) == pytest.approx(440, abs=1)
    assert loudness(read) == pytest.approx(0.5 / 2**0.5, rel=0.05)
    assert audio_duration(tmp_path / name) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_an_mp3_without_a_tag_is_read_from_memory_as_from_its_file(tmp_path, rate):
    soundfile.write(tmp_path / "a.mp3", tone(440, rate), rate)
    content = (tmp_path / "a.mp3").read_bytes()
    assert content[0] == 0xFF  # a frame of sound, no tag
    np.testing.assert_array_equal(read_audio(content, RATE), read_audio(tmp_path / "a.mp3", RATE))
    assert audio_duration({"bytes": content, "path": None}) == audio_duration(tmp_path / "a.mp3")


def without_its_length(flac: bytes) -> bytes:
    """What an encoder leaves that has written into a pipe: no number of samples in the header."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def test_a_flac_from_a_pipe_is_read_and_measured(tmp_path, an4_files):
    path = tmp_path / "piped.flac"
    path.write_bytes(without_its_length(an4_files[0].read_bytes()))
    expected = read_audio(an4_files[0], RATE)
    np.testing.assert_array_equal(read_audio(path, RATE), expected)
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(path, RATE))), expected)
    assert audio_duration(path) == len(expected) / RATE


@pytest.mark.parametrize("byte_order", ["01", "10"])
def test_a_sphere_file_in_either_byte_order(tmp_path, speech, write_sphere, byte_order):
    write_sphere(tmp_path / "a.sph", speech, byte_order=byte_order)
    np.testing.assert_allclose(read_audio(tmp_path / "a.sph", RATE), speech, atol=1e-4)
    assert audio_duration(tmp_path / "a.sph") == len(speech) / RATE


def test_real_opus_speech(librispeech):
    paths = sorted(librispeech.rglob("*.opus"))
    assert len(paths) == 3
    for path in paths:
        samples = read_audio(path, RATE)
        assert len(samples) / RATE == pytest.approx(audio_duration(path), abs=0.001)
        assert 2 < len(samples) / RATE < 10
        assert 0.001 < np.sqrt(np.mean(samples**2)) < 1


def test_suffixes_name_what_can_be_read_without_being_told_more():
    assert {".wav", ".flac", ".opus", ".ogg", ".mp3", ".sph"} <= SUFFIXES
    assert ".raw" not in SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


# Rates and channels


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000, 96_000])
def test_a_sine_keeps_its_frequency_length_and_loudness_at_any_rate(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(1000, rate, seconds=2), rate)
    read = read_audio(tmp_path / "a.wav", RATE)
    assert len(read) == 2 * RATE
    assert strongest_frequency(read) == pytest.approx(1000, abs=1)
    assert loudness(read) == pytest.approx(0.5 / 2**0.5, rel=0.01)
    assert audio_duration(tmp_path / "a.wav") == 2


def test_what_the_model_cannot_hear_does_not_fold_into_what_it_can(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(20_000, 96_000), 96_000)
    assert loudness(read_audio(tmp_path / "a.wav", RATE)) < 0.001


@pytest.mark.parametrize("rate", [7_999, 11_127, 16_001, 44_101, 700_001])
def test_a_rate_that_has_little_in_common_with_the_models_costs_no_memory(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(1000, rate, seconds=2), rate)
    before, after = steps(rate, RATE)
    assert before * after <= FILTER_VALUES  # for 44101 Hz the exact ones would take 6 GB
    assert before / after == pytest.approx(rate / RATE, rel=2e-4)
    read = read_audio(tmp_path / "a.wav", RATE)
    assert len(read) == pytest.approx(2 * RATE, rel=2e-4)
    assert strongest_frequency(read) == pytest.approx(1000, abs=1)
    np.testing.assert_allclose(np.concatenate(list(audio_blocks(tmp_path / "a.wav", RATE))), read, atol=1e-6)
    resampler = StreamResampler(rate, RATE)
    pieces = [resampler.feed(piece) for piece in np.array_split(tone(1000, rate, seconds=2), 9)]
    assert len(np.concatenate([*pieces, resampler.flush()])) == len(read)


@pytest.mark.parametrize("rate", [22_050, 32_000, 44_056, 48_000, 192_000])
def test_usual_rates_are_resampled_exactly(rate):
    before, after = steps(rate, RATE)
    assert before * RATE == after * rate or rate == 44_056
    assert before / after == pytest.approx(rate / RATE, rel=1e-6)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2_000_000_000])
def test_a_rate_that_nobody_records_at_is_an_error(tmp_path, rate):
    content = bytearray(wave_bytes(tone(440)))
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for read in (lambda path: read_audio(path, RATE), audio_duration, lambda path: next(audio_blocks(path, RATE))):
        with pytest.raises(AudioError, match=rf"a\.wav: expected a sampling rate of 1000 to 768000 Hz, got {rate} Hz"):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_averaged(tmp_path, channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (RATE, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", RATE), samples.mean(axis=1), atol=1e-6)


# Sources


def test_a_path_its_bytes_and_rows_of_datasets_give_the_same(an4_files):
    path = an4_files[0]
    expected = read_audio(path, RATE)
    sources = [
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": path.read_bytes(), "path": "gone.flac"},
        {"bytes": None, "path": str(path)},
    ]
    for source in sources:
        np.testing.assert_array_equal(read_audio(source, RATE), expected)
    assert audio_duration({"bytes": path.read_bytes(), "path": None}) == len(expected) / RATE


def test_prepare_waveform_takes_an_array_as_it_would_take_a_file(speech):
    np.testing.assert_array_equal(prepare_waveform(speech, RATE, RATE), speech)
    assert strongest_frequency(prepare_waveform(tone(440, 8_000), 8_000, RATE)) == pytest.approx(440, abs=1)
    with pytest.raises(AudioError, match=r"^microphone: expected at least one sample"):
        prepare_waveform(speech[:0], RATE, RATE, "microphone")


# Bad input


def wave_bytes(samples: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, **{"format": "WAV", "subtype": "FLOAT", **options})
    return file.getvalue()


def with_sample(value: float) -> np.ndarray:
    samples = tone(440)
    samples[100] = value
    return samples


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.wav", b"", "the file is empty"),
        ("empty.flac", b"", "the file is empty"),
        ("letter.wav", b"Dear Sir,\nplease find enclosed\n", "not audio that can be read"),
        ("letter.flac", b"Dear Sir,\nplease find enclosed\n", "not audio that can be read"),
        ("letter.raw", b"Dear Sir,\nplease find enclosed\n", "not audio that can be read"),
        ("no-samples.wav", wave_bytes(tone(440)[:0]), "expected at least one sample"),
        ("nan.wav", wave_bytes(with_sample(np.nan)), "expected finite samples"),
        ("infinite.wav", wave_bytes(with_sample(np.inf)), "expected finite samples"),
        ("absurd.wav", wave_bytes(with_sample(1e30)), "expected samples in about"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the bytes hold the time at which they were made
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        read_audio(path, RATE)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_flac_is_an_error(tmp_path, an4_files, share):
    content = an4_files[0].read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioError, match="not audio that can be read") as caught:
        read_audio(path, RATE)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [lambda source: read_audio(source, RATE), audio_duration])
def test_what_holds_no_audio_is_an_error_of_reading_and_of_measuring(tmp_path, read):
    (tmp_path / "letter.wav").write_text("Dear Sir")
    (tmp_path / "no-samples.wav").write_bytes(wave_bytes(tone(440)[:0]))
    cases = {
        tmp_path / "missing.wav": "no such file",
        tmp_path: "expected an audio file, got a folder",
        tmp_path / ("long" * 100): "expected a file that can be opened",
        tmp_path / "letter.wav": "not audio that can be read",
        tmp_path / "no-samples.wav": "expected at least one sample",
    }
    for source, expected in cases.items():
        with pytest.raises(AudioError) as caught:
            read(source)
        assert str(caught.value).startswith(f"{source}: {expected}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [None, {"bytes": None, "path": None}])
def test_a_row_without_audio_is_an_error(row):
    with pytest.raises(AudioError, match=r"^audio: expected a recording, got none$"):
        read_audio(row, RATE)


def test_no_more_is_read_than_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_speechrec.audio.BLOCK_SECONDS", 1.0)
    soundfile.write(tmp_path / "a.flac", tone(440, seconds=4.5), RATE)
    content = (tmp_path / "a.flac").read_bytes()
    assert len(read_audio(content, RATE, max_seconds=4.5)) == 4.5 * RATE
    cut = content[: len(content) // 2]  # would be an error if it were read to its end
    with pytest.raises(AudioError, match=r"^audio: expected at most 0\.5 s, got more$"):
        read_audio(cut, RATE, max_seconds=0.5)
    with pytest.raises(AudioError, match="not audio that can be read"):
        read_audio(cut, RATE)


def test_bad_bytes_are_named_by_their_row():
    with pytest.raises(AudioError, match=r"^audio: not audio that can be read"):
        read_audio(b"Dear Sir", RATE)
    with pytest.raises(AudioError, match=r"^clips/7\.wav: not audio that can be read"):
        read_audio({"bytes": b"Dear Sir", "path": "clips/7.wav"}, RATE)


@pytest.mark.parametrize("rate", [8_000, 16_000, 96_000])
def test_a_single_sample_is_audio(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.full(1, 0.5), rate, subtype="FLOAT")
    read = read_audio(tmp_path / "a.wav", RATE)
    assert len(read) == -(-RATE // rate)
    assert np.isfinite(read).all()
    assert read.any()
    if rate == RATE:
        assert read[0] == 0.5


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_silence_is_audio(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(rate), rate)
    read = read_audio(tmp_path / "a.wav", RATE)
    assert read.shape == (RATE,)
    assert not read.any()


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_blocks_are_the_whole_recording_in_pieces(tmp_path, rate, channels, monkeypatch):
    monkeypatch.setattr("hf_speechrec.audio.BLOCK_SECONDS", 0.7)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * rate + 123, channels))
    soundfile.write(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    blocks = list(audio_blocks(tmp_path / "x.wav", 16_000))
    assert len(blocks) > 4
    whole = read_audio(tmp_path / "x.wav", 16_000)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


def test_blocks_name_what_is_wrong_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_speechrec.audio.BLOCK_SECONDS", 1.0)
    samples = np.zeros(40_000, np.float32)
    samples[-1] = np.inf
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    blocks = audio_blocks(tmp_path / "x.wav", 16_000)
    assert [len(next(blocks)), len(next(blocks))] == [16_000, 16_000]
    with pytest.raises(AudioError, match=r"x\.wav: expected finite samples"):
        next(blocks)
    soundfile.write(tmp_path / "empty.wav", samples[:0], 16_000)
    for name, message in (("empty.wav", "at least one sample"), ("gone.wav", "no such file")):
        with pytest.raises(AudioError, match=message):
            list(audio_blocks(tmp_path / name, 16_000))
