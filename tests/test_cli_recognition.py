"""The commands around recognition: subtitles, known texts, language models, live text; in this process, to be quick."""

import json
import re

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from hf_speechrec.audio import read_audio
from hf_speechrec.cli import app

DIGITS = "THREE THREE ONE OH ONE EIGHT EIGHT"


@pytest.fixture
def digits(repository):
    return repository / "demo" / "examples" / "an4-seven-digits.flac"


def command(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_subtitles_are_printed(digits):
    result = command("transcribe", digits, "--format", "srt")
    assert result.exit_code == 0, result.stderr
    number, times, text = result.stdout.strip().splitlines()
    assert (number, text) == ("1", DIGITS)
    assert re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:0\d,\d{3}", times)


def test_several_recordings_go_into_a_folder(digits, tmp_path):
    refused = command("transcribe", digits, digits, "--format", "vtt")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "expected --output-dir: 2 recordings do not fit one vtt file" in refused.stderr
    twice = command("transcribe", digits, digits, "--format", "vtt", "--output-dir", tmp_path)
    assert "an4-seven-digits.vtt would be written twice" in twice.stderr
    copy = tmp_path / "other.flac"
    copy.write_bytes(digits.read_bytes())
    result = command("transcribe", digits, copy, "--format", "vtt", "--output-dir", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["an4-seven-digits.vtt", "other.vtt"]
    for name in names:
        content = (tmp_path / "out" / name).read_text()
        assert content.startswith("WEBVTT\n\n00:00:0")
        assert content.endswith(f"{DIGITS}\n")


def test_a_folder_that_cannot_be_written_is_said_before_the_work(digits, tmp_path):
    (tmp_path / "file").write_text("")
    result = command("transcribe", digits, "--output-dir", tmp_path / "file" / "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / "file") in result.stderr


def test_json_has_words_characters_and_confidence(digits):
    answer = json.loads(command("transcribe", digits, "--format", "json").stdout)
    assert [word["word"] for word in answer["words"]] == DIGITS.split()
    for word in answer["words"]:
        assert "".join(c["character"] for c in word["characters"]) == word["word"]
        assert 0 < word["confidence"] <= 1


def test_a_known_text_is_aligned_from_words_or_from_a_file(digits, tmp_path):
    (tmp_path / "script.txt").write_text("Three three one\noh one eight eight.\n")
    for text in ("Three three one oh one eight eight.", tmp_path / "script.txt"):
        answer = json.loads(command("transcribe", digits, "--text", text, "--format", "json").stdout)
        assert [word["word"] for word in answer["words"]][-1] == "eight."
        assert answer["words"][0]["start"] < answer["words"][1]["start"]
    result = command("transcribe", digits, "--text", "one two three four five " * 30)
    assert result.exit_code == 1
    assert "the text cannot be aligned: expected at least" in result.stderr


def test_a_language_model_is_built_tuned_and_used(digits, an4, tmp_path):
    pytest.importorskip("flashlight", reason="the extra lm is not installed")
    pytest.importorskip("kaldingram", reason="the extra lm is not installed")
    sentences = tmp_path / "text.txt"
    sentences.write_text("one two three four\nfive six seven eight nine oh\nthree one oh\neight eight, one.\n" * 3)
    lm = tmp_path / "lm.arpa.gz"
    result = command("build-lm", sentences, lm)
    assert result.exit_code == 0, result.stderr
    assert f"{lm}: 12 sentences, 48 words, 10 different" in result.stdout

    result = command("tune-lm", "an4", lm, an4, "--split", "train", "--beam-size", "20")
    assert result.exit_code == 0, result.stderr
    assert len(re.findall(r"^weight .* WER", result.stdout, re.M)) >= 12
    kept = json.loads((tmp_path / "lm.json").read_text())
    assert f"weight {kept['lm_weight']}, word score {kept['word_score']}" in result.stdout

    assert command("transcribe", digits, "--lm", lm).stdout == f"{DIGITS}\n"
    # Words that the text does not have are not written, but for hotwords.
    clip = next((an4 / "wav").rglob("*.flac"))
    said = command("transcribe", clip).stdout.split()
    assert set(command("transcribe", clip, "--lm", lm).stdout.split()) <= set(sentences.read_text().upper().split())
    hot = command("transcribe", clip, "--lm", lm, "--hotwords", ",".join(said), "--hotword-bonus", "4")
    assert hot.stdout.split() == said

    report = tmp_path / "report.json"
    result = command("evaluate", "an4", an4, "--split", "test", "--lm", lm, "--json", report)
    assert result.exit_code == 0, result.stderr
    assert json.loads(report.read_text())["words"] == 47


def test_a_corpus_gives_its_transcripts_and_a_folder_carries_its_model(an4, tmp_path):
    pytest.importorskip("kaldingram", reason="the extra lm is not installed")
    result = command("build-lm", an4, tmp_path, "--split", "train", "--order", "2")
    assert result.exit_code == 0, result.stderr
    assert "10 sentences" in result.stdout
    assert (tmp_path / "language_model.arpa.gz").stat().st_size > 100
    (tmp_path / "empty.txt").write_text("... \n - \n")
    result = command("build-lm", tmp_path / "empty.txt", tmp_path / "x.arpa")
    assert result.exit_code == 1
    assert "expected a text with words, every line is empty after normalising" in result.stderr


def test_options_of_a_language_model_need_one(digits, tmp_path):
    result = command("transcribe", digits, "--hotwords", "XERXES")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "hotwords and weights need a language model: expected --lm" in result.stderr
    result = command("transcribe", digits, "--lm", "model")
    assert "the model carries no language model: expected" in result.stderr
    result = command("transcribe", digits, "--lm", tmp_path / "gone.arpa")
    assert "gone.arpa: no such language model" in result.stderr


def test_listen_writes_a_played_file_line_by_line(digits, tmp_path):
    clip = read_audio(digits, 16_000)
    silence = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 1e-4
    soundfile.write(tmp_path / "x.wav", np.concatenate([clip, silence, clip]), 16_000)
    result = command("listen", "--file", tmp_path / "x.wav", "--speed", "0", "--latency", "1.28")
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [DIGITS.split()] * 2


def test_listen_says_what_is_missing(tmp_path, monkeypatch, digits):
    result = command("listen", "--file", tmp_path / "gone.wav")
    assert result.exit_code == 1
    assert "gone.wav: no such file" in result.stderr
    result = command("listen", "--file", digits, "--latency", "0.1")
    assert "expected a latency of at least 180 ms, got 100 ms" in result.stderr
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", None)
    result = command("listen")
    assert result.exit_code == 1
    assert "a microphone needs the extra listen" in result.stderr


def test_help_has_examples():
    for name in ("listen", "build-lm", "tune-lm"):
        result = command(name, "--help")
        assert result.exit_code == 0
        assert f"hf-speechrec {name} " in result.stdout
