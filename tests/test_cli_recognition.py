"""The commands around recognition: subtitles, known texts, language models, live text; in this process, to be quick."""

import io
import json
import re
import shutil

import jiwer
import numpy as np
import pytest
import soundfile

from hf_speechrec.alignment import Word
from hf_speechrec.audio import read_audio
from hf_speechrec.cli.live_text import LiveText
from hf_speechrec.corpora import read_corpus
from hf_speechrec.language_model import read_words
from hf_speechrec.listening import MicrophoneError
from hf_speechrec.loading import CHECKPOINTS
from hf_speechrec.streaming import Update

DIGITS = "THREE THREE ONE OH ONE EIGHT EIGHT"
AN4 = ("--model", "an4")


@pytest.fixture
def digits(repository):
    return repository / "demo" / "examples" / "an4-seven-digits.flac"


def test_subtitles_are_printed(command, digits):
    result = command("transcribe", *AN4, digits, "--format", "srt")
    assert result.exit_code == 0, result.stderr
    number, times, text = result.stdout.strip().splitlines()
    assert (number, text) == ("1", DIGITS)
    assert re.fullmatch(r"00:00:0\d,\d{3} --> 00:00:0\d,\d{3}", times)


def test_several_recordings_go_into_a_folder(command, digits, tmp_path):
    refused = command("transcribe", *AN4, digits, digits, "--format", "vtt")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "expected --output-dir: 2 recordings do not fit one vtt file" in refused.stderr
    twice = command("transcribe", *AN4, digits, digits, "--format", "vtt", "--output-dir", tmp_path)
    assert "an4-seven-digits.vtt would be written twice" in twice.stderr
    copy = tmp_path / "other.flac"
    copy.write_bytes(digits.read_bytes())
    result = command("transcribe", *AN4, digits, copy, "--format", "vtt", "--output-dir", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["an4-seven-digits.vtt", "other.vtt"]
    for name in names:
        content = (tmp_path / "out" / name).read_text()
        assert content.startswith("WEBVTT\n\n00:00:0")
        assert content.endswith(f"{DIGITS}\n")


def test_a_folder_that_cannot_be_written_is_said_before_the_work(command, digits, tmp_path):
    (tmp_path / "file").write_text("")
    result = command("transcribe", *AN4, digits, "--output-dir", tmp_path / "file" / "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / "file") in result.stderr


def test_json_has_words_characters_and_confidence(command, digits):
    answer = json.loads(command("transcribe", *AN4, digits, "--format", "json").stdout)
    assert [word["word"] for word in answer["words"]] == DIGITS.split()
    for word in answer["words"]:
        assert "".join(c["character"] for c in word["characters"]) == word["word"]
        assert 0 < word["confidence"] <= 1


def test_a_known_text_is_aligned_from_words_or_from_a_file(command, digits, tmp_path):
    (tmp_path / "script.txt").write_text("Three three one\noh one eight eight.\n")
    for text in ("Three three one oh one eight eight.", tmp_path / "script.txt"):
        answer = json.loads(command("transcribe", *AN4, digits, "--text", text, "--format", "json").stdout)
        assert [word["word"] for word in answer["words"]][-1] == "eight."
        assert answer["words"][0]["start"] < answer["words"][1]["start"]
    result = command("transcribe", *AN4, digits, "--text", "one two three four five " * 30)
    assert result.exit_code == 1
    assert "the text cannot be aligned: expected at least" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "scirpt.txt"], "scirpt.txt: no such file: expected what is said, or a text file of it"),
        (["--text", "one", "--lm", "x.arpa"], "expected --text without --lm and --hotwords"),
        (["--text", "one", "--hotwords", "ONE"], "expected --text without --lm and --hotwords"),
    ],
)
def test_what_does_not_go_with_a_known_text_is_said(command, digits, arguments, message):
    result = command("transcribe", *AN4, digits, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("name", "code", "text", "message"),
    [
        ("nan", 1, "", "error: {path}: expected finite samples, got NaN or infinity\n"),
        ("silence", 0, "\n", "notice: {path}: no words in 1.00 s\n"),
        ("sample", 0, "\n", "notice: {path}: no words in 0.00 s\n"),
        ("8 kHz", 0, f"{DIGITS}\n", ""),
    ],
)
def test_unusual_recordings_have_their_words_or_a_line_that_says_why_not(
    command, digits, tmp_path, name, code, text, message
):
    samples, rate = {
        "nan": (np.full(16_000, np.nan, np.float32), 16_000),
        "silence": (np.zeros(16_000, np.float32), 16_000),
        "sample": (np.full(1, 0.5, np.float32), 16_000),
        "8 kHz": (read_audio(digits, 8_000), 8_000),
    }[name]
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, rate, subtype="FLOAT")
    result = command("transcribe", *AN4, path)
    assert (result.exit_code, result.stdout, result.stderr) == (code, text, message.format(path=path))


def test_a_language_model_is_built_tuned_and_used(command, digits, an4, tmp_path):
    pytest.importorskip("flashlight", reason="the extra lm is not installed")
    pytest.importorskip("kaldingram", reason="the extra lm is not installed")
    sentences = tmp_path / "text.txt"
    sentences.write_text("one two three four\nfive six seven eight nine oh\nthree one oh\neight eight, one.\n" * 3)
    lm = tmp_path / "lm.arpa.gz"
    result = command("build-lm", *AN4, sentences, lm)
    assert result.exit_code == 0, result.stderr
    assert f"{lm}: 12 sentences, 48 words, 10 different" in result.stdout

    refused = command("tune-lm", "an4", tmp_path / "gone.arpa", an4, "--split", "train")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "gone.arpa: no such language model" in refused.stderr
    result = command("tune-lm", "an4", lm, an4, "--split", "train", "--beam-size", "20")
    assert result.exit_code == 0, result.stderr
    assert len(re.findall(r"^weight .* WER", result.stdout, re.M)) >= 11
    kept = json.loads((tmp_path / "lm.json").read_text())
    assert f"weight {kept['lm_weight']}, word score {kept['word_score']}" in result.stdout

    assert command("transcribe", *AN4, digits, "--lm", lm).stdout == f"{DIGITS}\n"
    # Words that the text does not have are not written, but for hotwords.
    clip = next((an4 / "wav").rglob("*.flac"))
    said = command("transcribe", *AN4, clip).stdout.split()
    assert set(command("transcribe", *AN4, clip, "--lm", lm).stdout.split()) <= set(
        sentences.read_text().upper().split()
    )
    hot = command("transcribe", *AN4, clip, "--lm", lm, "--hotwords", ",".join(said), "--hotword-bonus", "4")
    assert hot.stdout.split() == said

    report = tmp_path / "report.json"
    result = command("evaluate", "an4", an4, "--split", "test", "--lm", lm, "--json", report)
    assert result.exit_code == 0, result.stderr
    assert json.loads(report.read_text())["words"] == 47


def test_a_corpus_gives_its_transcripts_and_a_folder_carries_its_model(command, an4, tmp_path):
    pytest.importorskip("kaldingram", reason="the extra lm is not installed")
    # In a model folder it is of that model's spelling, where no other one is named.
    folder = shutil.copytree(CHECKPOINTS / "an4", tmp_path / "mine")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"upper"', '"lower"'))
    result = command("build-lm", an4, folder, "--split", "train", "--order", "2")
    assert result.exit_code == 0, result.stderr
    assert "10 sentences" in result.stdout
    assert {word.lower() for word in read_words(folder / "language_model.arpa.gz")} == set(
        read_words(folder / "language_model.arpa.gz")
    )
    (tmp_path / "text.txt").write_text("the man saw Xyzzyq and Qwghlm\n")
    result = command("build-lm", tmp_path / "text.txt", tmp_path / "y.arpa", "--order", "2")
    assert "6 words, 4 different, 2 not in the lexicon" in result.stdout
    (tmp_path / "empty.txt").write_text("... \n - \n")
    result = command("build-lm", tmp_path / "empty.txt", tmp_path / "x.arpa")
    assert result.exit_code == 1
    assert "expected a text with words, every line is empty after normalising" in result.stderr


def test_parts_of_a_plain_text_are_refused(command, tmp_path):
    (tmp_path / "text.txt").write_text("one two three\n")
    (tmp_path / "speakers.txt").write_text("fejs\n")
    for option in (["--split", "train"], ["--exclude-speakers", tmp_path / "speakers.txt"]):
        result = command("build-lm", *AN4, tmp_path / "text.txt", tmp_path / "x.arpa", *option)
        assert result.exit_code == 1
        assert "text.txt: expected a corpus for --split and --exclude-speakers, got a text file" in result.stderr
    assert not (tmp_path / "x.arpa").exists()


def test_speakers_are_lines_of_their_file(command, an4, tmp_path):
    pytest.importorskip("kaldingram", reason="the extra lm is not installed")
    paths = read_corpus(an4, "train")["path"]
    said = [("Ann Lee", "one two"), ("Ann", "two three"), ("Lee", "three four five")]
    rows = [f"{path},{text},{speaker}" for path, (speaker, text) in zip(paths, said, strict=False)]
    (tmp_path / "corpus.csv").write_text("\n".join(["path,text,speaker", *rows]))
    (tmp_path / "speakers.txt").write_text("Ann Lee \n\n")
    excluded = ["--exclude-speakers", tmp_path / "speakers.txt"]
    result = command("build-lm", *AN4, tmp_path / "corpus.csv", tmp_path / "x.arpa", "--order", "2", *excluded)
    assert result.exit_code == 0, result.stderr
    assert "2 sentences, 5 words" in result.stdout


def test_what_cannot_be_written_is_said_before_the_work(command, an4, tmp_path, monkeypatch):
    for loader in ("load_model", "load_recognizer"):
        monkeypatch.setattr(f"hf_speechrec.loading.{loader}", None)
    (tmp_path / "file").write_text("one two three\n")
    result = command("build-lm", *AN4, tmp_path / "file", tmp_path / "file" / "x.arpa")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}/file/x.arpa: expected a file that can be written (")
    (tmp_path / "lm.arpa").write_text("")
    (tmp_path / "lm.json").mkdir()
    result = command("tune-lm", "an4", tmp_path / "lm.arpa", an4, "--split", "train")
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}/lm.json: expected a file that can be written (Is a directory)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lm.arpa", "lm.json"]


def test_a_hotword_brings_its_phones(command, librispeech, tmp_path):
    pytest.importorskip("flashlight", reason="the extra lm is not installed")
    pytest.importorskip("kaldingram", reason="the extra lm is not installed")
    sentences = ["to have a voice in their own government", "a voice of their own", "to have a government", "a voice"]
    (tmp_path / "text.txt").write_text("\n".join(sentences * 3))
    lm = tmp_path / "lm.arpa"
    assert command("build-lm", tmp_path / "text.txt", lm, "--model", "librispeech-mini").exit_code == 0
    clip = next(path for path in read_corpus(librispeech)["path"] if "4088" in path)
    options = ["--model", "librispeech-mini", "--lm", lm, "--hotwords"]
    result = command("transcribe", clip, *options, "Gummint=G AH1 V ER0 N M AH0 N T,have")
    assert result.exit_code == 0, result.stderr
    assert "GUMMINT" in result.stdout.split()
    result = command("transcribe", clip, *options, "Gummint=G U")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "hotword 'GUMMINT': expected phones of the recogniser (AA AE" in result.stderr
    assert "got 'U'" in result.stderr


def test_read_english_is_the_default_and_its_language_model_is_named(command, librispeech):
    (row,) = (row for row in read_corpus(librispeech) if "4088" in row["path"])
    result = command("transcribe", row["path"])
    assert result.exit_code == 0
    assert jiwer.cer(row["text"], result.stdout.strip()) < 0.35
    assert result.stderr == "notice: librispeech-mini carries a language model: --lm model makes fewer errors\n"


def test_options_of_a_language_model_need_one(command, digits, tmp_path):
    result = command("transcribe", *AN4, digits, "--hotwords", "XERXES")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "hotwords and weights need a language model: expected --lm" in result.stderr
    result = command("transcribe", *AN4, digits, "--lm", "model")
    assert "the model carries no language model: expected" in result.stderr
    result = command("transcribe", *AN4, digits, "--lm", tmp_path / "gone.arpa")
    assert "gone.arpa: no such language model" in result.stderr


def test_listen_writes_a_played_file_line_by_line(command, digits, tmp_path):
    clip = read_audio(digits, 16_000)
    silence = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 1e-4
    soundfile.write(tmp_path / "x.wav", np.concatenate([clip, silence, clip]), 16_000)
    result = command("listen", *AN4, "--file", tmp_path / "x.wav", "--speed", "0", "--latency", "1.28")
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [DIGITS.split()] * 2


def test_listen_goes_on_past_a_bad_block_and_keeps_what_it_has_heard(command, digits, monkeypatch):
    def torn(_):
        for i, piece in enumerate(np.array_split(read_audio(digits, 16_000), 60)):
            yield piece, 16_000
            if i in (20, 40):
                yield np.full(800, np.nan, np.float32), 16_000
        raise MicrophoneError("expected sound from the microphone, nothing has come")

    monkeypatch.setattr("hf_speechrec.listening.microphone", torn)
    result = command("listen", *AN4)
    assert result.exit_code == 1
    assert result.stdout.split() == DIGITS.split()
    _, *lines = result.stderr.splitlines()
    warning = "warning: stream: expected finite samples, got NaN or infinity; left out, as all the like will be"
    assert lines == [warning, "error: expected sound from the microphone, nothing has come"]


class Terminal(io.StringIO):
    """The rows that a terminal of 20 columns shows."""

    def __init__(self):
        super().__init__()
        self.rows, self.column = [""], 0

    def isatty(self):
        return True

    def write(self, text):
        for part in re.findall(r"\033\[\d*\w|.|\n", text):
            if part == "\n":
                self.rows.append("")
                self.column = 0
            elif part == "\033[K":
                self.rows[-1] = self.rows[-1][: self.column]
            elif part.endswith("D") and part.startswith("\033"):
                self.column = max(0, self.column - int(part[2:-1]))
            elif not part.startswith("\033"):
                if self.column == 20:
                    self.rows.append("")
                    self.column = 0
                self.rows[-1] = self.rows[-1][: self.column] + part + self.rows[-1][self.column + 1 :]
                self.column += 1


def spoken(words: str, first: int = 0) -> list[Word]:
    return [Word(word, first + i, first + i + 1, 1.0) for i, word in enumerate(words.split())]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    return Terminal()


def test_a_word_that_is_being_said_leaves_nothing_behind(terminal):
    text = LiveText(terminal)
    text.show(Update(words=spoken("ALPHA BRAVO"), partial="CH"))
    assert terminal.rows == ["ALPHA BRAVO CH"]
    text.show(Update(partial="CHARLE"))
    assert terminal.rows == ["ALPHA BRAVO CHARLE"]
    text.show(Update(partial="CHARLESTON"))  # would wrap, and could not be redrawn
    assert [row.rstrip() for row in terminal.rows] == ["ALPHA BRAVO", "CHARLESTON"]
    text.show(Update(words=spoken("CHARLESTON DELTA", 2), partial="E" * 50))
    assert [row.rstrip() for row in terminal.rows] == ["ALPHA BRAVO", "CHARLESTON DELTA", "E" * 19]
    text.show(Update(words=spoken("E" * 50, 4), partial="FOX"))
    assert [row.rstrip() for row in terminal.rows[2:]] == ["E" * 20, "E" * 20, "E" * 10 + " FOX"]
    text.show(Update(partial="語" * 12))  # each is two columns wide
    assert terminal.rows[5:] == ["語" * 9]


def test_the_words_of_a_new_segment_begin_a_line(terminal):
    first, second = spoken("ONE TWO"), spoken("THREE", 2)
    plain = io.StringIO()
    for out in (terminal, plain):
        text = LiveText(out)
        text.show(Update(words=first[:1], partial="T"))
        text.show(Update(words=[first[1], *second], partial="FOU", segments=[first]))
        text.show(Update(segments=[second]))  # whose words have been shown
        text.show(Update(words=spoken("FOUR", 3), segments=[spoken("FOUR", 3)]))
    assert plain.getvalue() == "ONE TWO \nTHREE \nFOUR \n"
    assert terminal.rows == ["ONE TWO ", "THREE ", "FOUR ", ""]


def test_a_warning_stands_beside_the_words(terminal, capsys):
    text = LiveText(terminal)
    text.show(Update(words=spoken("ONE"), partial="TW"))
    text.warn("a block is left out")
    assert terminal.rows == ["ONE ", ""]
    assert capsys.readouterr().err == "warning: a block is left out\n"


def test_listen_says_what_is_missing(command, tmp_path, monkeypatch, digits):
    result = command("listen", *AN4, "--file", tmp_path / "gone.wav")
    assert result.exit_code == 1
    assert "gone.wav: no such file" in result.stderr
    result = command("listen", *AN4, "--file", digits, "--latency", "0.1")
    assert "expected a latency of at least 140 ms, got 100 ms" in result.stderr
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", None)
    result = command("listen", *AN4)
    assert result.exit_code == 1
    assert "a microphone needs the extra listen" in result.stderr
