"""The command: what it prints, where, and with which exit code."""

import json
import shutil
import subprocess
import sys

import pytest
import soundfile
from typer.main import get_command

from hf_speechrec import decoding, loading, tuning
from hf_speechrec.cli import app
from hf_speechrec.cli.train import _with_resume_value
from hf_speechrec.recipe import split_recipe_options

DIGITS = "THREE THREE ONE OH ONE EIGHT EIGHT"


def process(*arguments, **options) -> subprocess.CompletedProcess:
    """Run the command in a process of its own, as a user does."""
    options = {"capture_output": True, "text": True, "timeout": 240} | options
    return subprocess.run([sys.executable, "-m", "hf_speechrec", *map(str, arguments)], check=False, **options)


@pytest.fixture
def digits(repository):
    return repository / "demo" / "examples" / "an4-seven-digits.flac"


def test_transcribe_prints_the_words_alone(digits):
    result = process("transcribe", digits, "--model", "an4", "--device", "cpu")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{DIGITS}\n", "")


def test_transcribe_reads_standard_input(digits):
    result = process("transcribe", "-", "--model", "an4", input=digits.read_bytes(), text=False)
    assert (result.returncode, result.stdout.decode()) == (0, f"{DIGITS}\n")


def test_bad_files_are_named_on_stderr_and_the_others_transcribed(digits, tmp_path):
    shutil.copy(digits, tmp_path / "a.flac")
    (tmp_path / "b.wav").write_bytes(b"")
    (tmp_path / "c.wav").write_text("no audio at all")
    (tmp_path / "d.flac").write_bytes(digits.read_bytes()[:2000])
    result = process("transcribe", tmp_path, tmp_path / "e.wav", "--model", "an4", "--format", "json")
    assert result.returncode == 1
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert answer["text"] == DIGITS
    assert [word["word"] for word in answer["words"]] == DIGITS.split()
    errors = result.stderr.splitlines()
    assert [next(name for name in "bcde" if f"{name}.wav" in e or f"{name}.flac" in e) for e in errors] == list("bcde")
    assert all(error.startswith("error: ") for error in errors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "x.wav", "--model", "nonsense"], "nonsense: no such folder, no bundled model"),
        (["train", "no-recipe.yaml"], "no-recipe.yaml: not a recipe that can be read"),
        (
            ["train", "--num_train_epochs", "3", "recipes/an4.yaml"],
            "--num_train_epochs: expected the recipe before this",
        ),
        (["evaluate", "an4", "no-corpus"], "no-corpus: no such file or folder"),
        (["evaluate", "an4", "x.csv", "--json", "none/x.json"], "none/x.json: expected a folder none to write it into"),
        (["evaluate", "an4", "x.csv", "--plot", "x.png"], "an4: is a recogniser, expected no options for a classifier"),
        (
            ["evaluate", "speech-commands", "x.csv", "--lm", "x", "--beam-size", "100"],
            "speech-commands: is a classifier, expected no options for a recogniser, got --lm, --beam-size",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(command, arguments, message):
    result = command(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_evaluate_prints_a_table_and_writes_json(command, an4, tmp_path):
    result = command("evaluate", "an4", an4, "--split", "test", "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["utterances"] == 8
    assert report["words"] == 47
    assert report["wer_interval"][0] <= report["wer"] <= report["wer_interval"][1]
    assert report["command"].startswith("hf-speechrec evaluate an4")
    assert f"WER   {report['wer']:7.2%}" in result.stdout


def test_a_result_that_cannot_be_written_has_been_printed(an4, tmp_path):
    (tmp_path / "speakers").write_text("fvap\nnobody at all\n")
    options = ["--split", "test", "--speakers", tmp_path / "speakers", "--json", tmp_path]
    result = process("evaluate", "an4", an4, *options)
    assert result.returncode == 1
    assert "WER " in result.stdout
    warning, error = result.stderr.splitlines()
    assert warning == f"{tmp_path}/speakers: the corpus has no utterance of nobody at all"
    assert error.startswith("error: ")
    assert str(tmp_path) in error


def test_a_bare_resume_from_checkpoint_means_true():
    resume = "--resume_from_checkpoint"
    assert _with_resume_value(["--seed", "1", resume]) == ["--seed", "1", resume, "true"]
    hyphens = resume.replace("_", "-")
    assert _with_resume_value([hyphens, "--seed=1"]) == [hyphens, "true", "--seed=1"]
    for arguments in ([resume, "false"], [resume, "runs/x/checkpoint-3", "--seed", "1"], [f"{resume}=true"], []):
        assert _with_resume_value(arguments) == arguments


def test_noise_and_volume_reach_the_recogniser(command, an4, tmp_path):
    for name, option in (("noise", ["--noise-snr-db", "-20"]), ("quiet", ["--gain-db", "-6"])):
        result = command("evaluate", "an4", an4, "--split", "test", "--json", tmp_path / name, *option)
        assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "noise").read_text())["wer"] > 0.5
    assert json.loads((tmp_path / "quiet").read_text())["wer"] < 0.3


def test_train_passes_on_arguments_and_the_model_can_be_used(command, an4, repository, tmp_path):
    recipe = repository / "recipes" / "fine-tune.yaml"
    sizes = ["--model.hidden_size", "8", "--model.num_hidden_layers=1", "--model.conv_channels", "2"]
    corpus = tmp_path / "corpus.csv"
    lines = ["path,text", *(f"{an4}/wav/{line},YES" for line in _an4_files(an4))]
    corpus.write_text("\n".join(lines))
    arguments = ["--output-dir", tmp_path / "run", "--max_steps", "2", "--disable_tqdm", "true", "--device", "cpu"]
    result = process("train", recipe, "--corpus", corpus, *arguments, *sizes)
    assert result.returncode == 0, result.stderr
    assert "utterances" in result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["conv_channels"]) == (8, 1, 2)
    assert command("transcribe", an4 / "wav" / _an4_files(an4)[0], "--model", tmp_path / "run").exit_code == 0


def test_classify_prints_label_and_probability_and_marks_doubt(command, classifier, speech_commands, tmp_path):
    clips = [speech_commands / line for line in (speech_commands / "train.txt").read_text().split()]
    result = command("classify", *clips, "--model", classifier)
    assert result.exit_code == 0, result.stderr
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[str(clip), clip.parent.name] for clip in clips]
    assert all(float(row[2]) > 1 / 3 for row in rows)

    doubtful = shutil.copytree(classifier, tmp_path / "model")
    config = json.loads((doubtful / "config.json").read_text()) | {"confidence_threshold": 1.1}
    (doubtful / "config.json").write_text(json.dumps(config))
    (tmp_path / "notes.wav").write_text("this is no audio")
    result = command("classify", clips[0], tmp_path / "notes.wav", "--model", doubtful, "--top-k", "2")
    assert result.exit_code == 1
    assert [line.endswith("\t?") for line in result.stdout.splitlines()] == [True, False]
    assert result.stderr.startswith(f"error: {tmp_path}/notes.wav")
    result = command("classify", clips[0], "--model", doubtful, "--format", "json")
    answer = json.loads(result.stdout)
    assert answer["is_confident"] is False
    assert answer["labels"][0]["label"] == clips[0].parent.name


def test_evaluate_knows_a_classifier_and_draws_its_confusions(command, classifier, speech_commands, tmp_path):
    options = ["--split", "train", "--json", tmp_path / "x.json", "--plot", tmp_path / "x.png"]
    result = command("evaluate", classifier, speech_commands, *options)
    assert result.exit_code == 0, result.stderr
    assert "accuracy  100.00%" in result.stdout
    assert json.loads((tmp_path / "x.json").read_text())["utterances"] == 9
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_wrong_kind_of_model_is_refused(command, classifier, digits):
    result = command("transcribe", digits, "--model", classifier)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "expected a model for automatic-speech-recognition, got one for audio-classification" in result.stderr


def _an4_files(an4):
    return [f"{line}.flac" for line in (an4 / "etc" / "an4_train.fileids").read_text().split()]


def test_section_options_are_parted_from_the_rest():
    options = ["--a-b", "1", "--model.hidden-size", "8", "--x=2", "--augmentation.speeds=[1.0]"]
    options += ["--curriculum-epochs", "3"]
    sections, rest = split_recipe_options(options)
    assert sections == {"model.hidden_size": 8, "augmentation.speeds": [1.0], "curriculum_epochs": 3}
    assert rest == ["--a-b", "1", "--x=2"]
    with pytest.raises(ValueError, match=r"--model\.x: expected a value"):
        split_recipe_options(["--model.x"])


@pytest.mark.parametrize("name", get_command(app).commands)
def test_help_has_examples_for_every_command(command, name):
    result = command(name, "--help")
    assert result.exit_code == 0
    assert f"hf-speechrec {name} " in result.stdout


@pytest.mark.parametrize(
    ("option", "names", "expected"),
    [
        ("model", ("transcribe", "listen"), loading.DEFAULT_RECOGNIZER),
        ("model", ("demo", "push-space"), loading.DEMO_RECOGNIZER),
        ("model", ("classify",), loading.DEFAULT_CLASSIFIER),
        ("classifier", ("demo", "push-space"), loading.DEFAULT_CLASSIFIER),
        ("beam_size", ("transcribe", "evaluate"), decoding.BEAM_SIZE),
        ("beam_size", ("tune-lm",), tuning.TUNING_BEAM_SIZE),
        ("hotword_bonus", ("transcribe", "evaluate"), decoding.HOTWORD_BONUS),
    ],
)
def test_the_commands_defaults_are_the_packages(option, names, expected):
    """They are written out in the command, whose help is there before torch is imported."""
    for name in names:
        (parameter,) = (p for p in get_command(app).commands[name].params if p.name == option)
        assert parameter.default == expected


def test_eight_channels_at_96_khz_are_transcribed(command, digits, tmp_path):
    import numpy as np

    from hf_speechrec.audio import read_audio

    samples = read_audio(digits, 96_000)
    soundfile.write(tmp_path / "x.wav", np.tile(samples[:, None], 8), 96_000)
    assert command("transcribe", tmp_path / "x.wav", "--model", "an4").stdout == f"{DIGITS}\n"
