"""The card: every figure with its command, nothing that was not measured, metadata that the Hub can read."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from hf_speechrec.cli import app
from hf_speechrec.loading import CHECKPOINTS
from hf_speechrec.model_card import (
    FACTS,
    command_line,
    condition_name,
    read_facts,
    render_model_card,
    update_facts,
)

REPORT = {
    "wer": 0.0625,
    "cer": 0.025,
    "wer_interval": (0.05, 0.08),
    "words": 773,
    "real_time_factor": 0.0125,
    "hardware": "cpu, 2 threads, x86_64",
    "date": "2026-11-22",
    "gain_db": 0.0,
    "noise_snr_db": None,
    "command": "hf-speechrec evaluate an4 PATH --split test",
    "corpus": "AN4",
    "split": "test",
    "worst": [{"reference": "ONE", "prediction": "NINE", "errors": 1}],
}
WORDS = {
    "title": "A recogniser",
    "summary": "What it is.",
    "training_data": "What it heard.",
    "limits": "What it cannot do.",
    "language": "en",
    "license": "apache-2.0",
    "datasets": ["user/an4"],
}


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(CHECKPOINTS / "an4" / name, tmp_path)
    return tmp_path


def test_facts_that_cannot_be_written_leave_those_that_were_known(folder, monkeypatch):
    update_facts(folder, card=WORDS)

    def until_the_disk_is_full(path, text, **_):
        path.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", until_the_disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            update_facts(folder, evaluations={"AN4 test": REPORT})
    assert read_facts(folder) == {"card": WORDS, "training": {}, "evaluations": {}}


def test_figures_stand_with_their_command_and_in_the_metadata(folder):
    noisy = REPORT | {"wer": 0.5, "noise_snr_db": 5.0}
    update_facts(folder, card=WORDS, evaluations={"AN4 test": REPORT, "AN4 test, noise at 5 dB": noisy})
    card = ModelCard.load(render_model_card(folder, "user/name"))
    assert "| WER, AN4 test | 6.25% (95 % interval 5.00% to 8.00%) |" in card.text
    assert "`hf-speechrec evaluate an4 PATH --split test`, 2026-11-22; 773 words" in card.text
    assert card.text.count("real-time factor") == 1
    assert "WER, AN4 test, noise at 5 dB | 50.00%" in card.text
    for text in ("A recogniser", "What it is.", "What it heard.", "What it cannot do.", 'model="user/name"'):
        assert text in card.text
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert card.data.datasets == ["user/an4"]
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "automatic-speech-recognition"
    # Noise is no part of the data set that the metadata names.
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {"wer": 6.25, "cer": 2.5}
    assert (results["wer"].dataset_name, results["wer"].dataset_split) == ("AN4", "test")
    assert results["wer"].metric_name == "WER"


def test_metadata_is_parsed_back_without_loss(folder):
    update_facts(folder, card=WORDS, evaluations={"AN4 test": REPORT})
    card = ModelCard.load(render_model_card(folder, "user/name"))
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert again.data.eval_results == card.data.eval_results


def test_what_was_not_measured_is_left_out(folder):
    card = ModelCard.load(render_model_card(folder))
    assert "Nothing has been measured yet" in card.text
    assert card.data.eval_results is None
    assert card.data.license is None
    for word in ("training.png", "train_runtime", "Trained on", "What it was trained on", "What to expect", "None"):
        assert word not in card.text
    assert f"# ResNet + BiGRU recogniser: {folder.name}" in card.text
    assert "3.63 M parameters, 6.9 MiB on disk" in card.text


def test_a_runs_own_figures_and_plot_are_shown(folder):
    (folder / "training.png").write_bytes(b"")
    results = {"eval_wer": 0.125, "eval_cer": 0.05, "train_hours": 0.62134, "train_loss": 0.25}
    training = {
        "command": "hf-speechrec train recipes/an4.yaml",
        "hardware": "cpu",
        "date": "2026-11-22",
        "settings": {"learning_rate": 0.001, "seed": 3},
        "results": results,
    }
    update_facts(folder, training=training)
    text = ModelCard.load(render_model_card(folder)).text
    assert "| WER, held-out part | 12.50% |" in text
    assert "`hf-speechrec train recipes/an4.yaml`" in text
    assert "| learning_rate | 0.001 |" in text
    assert "| train_hours | 0.6213 |" in text
    assert "![Training over the epochs](training.png)" in text
    assert "Trained on cpu, 2026-11-22." in text


@pytest.mark.parametrize(
    ("start", "base_model"), [("user/name", "user/name"), ("librispeech-mini", None), ("PATH/first", None)]
)
def test_what_a_run_started_from_is_named(folder, start, base_model):
    update_facts(folder, training={"started_from": start})
    card = ModelCard.load(render_model_card(folder, "user/mine"))
    assert f"## What it was trained on\n\nIts training started from the weights of `{start}`" in card.text
    assert card.data.base_model == base_model
    update_facts(folder, card=WORDS)
    text = ModelCard.load(render_model_card(folder, "user/mine")).text
    assert f"What it heard.\n\nIts training started from the weights of `{start}`" in text


def test_facts_are_kept_and_added_to(folder):
    update_facts(folder, card={"title": "Old", "language": "en"}, evaluations={"AN4 test": REPORT})
    update_facts(folder, card={"title": "New", "license": None}, evaluations={"AN4 test, +12 dB": REPORT})
    facts = read_facts(folder)
    assert facts["card"] == {"title": "New", "language": "en"}
    assert list(facts["evaluations"]) == ["AN4 test", "AN4 test, +12 dB"]
    assert "worst" not in facts["evaluations"]["AN4 test"]


@pytest.mark.parametrize(
    "content", ["Dear Sir", "[]", '{"card": 3}', "[" * 100_000], ids=["text", "list", "number", "deep"]
)
def test_facts_that_are_none_are_an_error(folder, content):
    (folder / FACTS).write_text(content)
    with pytest.raises(ValueError, match="expected the facts of a model card"):
        render_model_card(folder)


def test_the_name_of_a_condition():
    report = {"corpus": "AN4", "split": "test", "gain_db": 0.0, "noise_snr_db": None}
    assert condition_name(report) == "AN4 test"
    assert condition_name(report | {"corpus": "mine", "split": None, "gain_db": -12.0}) == "mine, -12 dB"
    assert condition_name(report | {"noise_snr_db": 10.0, "speakers": 2}) == "AN4 test, noise at 10 dB, 2 speakers"
    assert condition_name(report | {"language_model": True}) == "AN4 test, language model"
    assert condition_name(report | {"normalized_speakers": 3}) == "AN4 test, less each speaker's mean"


@pytest.mark.parametrize(
    ("argv", "processes", "expected"),
    [
        (["/x/bin/hf-speechrec", "train", "r.yaml", "--corpus", "/home/me/an4"], 1, "train r.yaml --corpus PATH/an4"),
        (["/x/hf_speechrec/__main__.py", "evaluate", "an4", "--json=/tmp/a b.json"], 1, None),
        (["/x/hf_speechrec/__main__.py", "train", "r.yaml"], 2, None),
        (
            ["/x/bin/hf-speechrec", "train", "r.yaml", "--hub_token", "hf_x", "--a.b=../c"],
            1,
            "train r.yaml --hub_token '***' --a.b=PATH/c",
        ),
        (["/x/bin/hf-speechrec", "train", "r.yaml", "--hub-token=hf_x"], 1, "train r.yaml '--hub-token=***'"),
        (["benchmarks/an4.py", "/data/an4"], 1, "python benchmarks/an4.py PATH/an4"),
        (["/x/bin/pytest"], 1, "nothing"),
    ],
)
def test_the_command_of_a_card_tells_nothing_of_the_machine(monkeypatch, argv, processes, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    command = command_line()
    if expected == "nothing":
        assert command is None
    elif processes == 2:
        assert command == "torchrun --nproc-per-node=2 -m hf_speechrec train r.yaml"
    elif expected is None:
        assert command == "hf-speechrec evaluate an4 '--json=PATH/a b.json'"
    else:
        assert command.removeprefix("hf-speechrec ") == expected


@pytest.mark.parametrize(("name", "metric"), [("an4", "wer"), ("speech-commands", "accuracy")])
def test_the_bundled_models_have_their_cards(name, metric):
    card = ModelCard.load(CHECKPOINTS / name / "README.md")
    (value,) = [result.metric_value for result in card.data.eval_results if result.metric_type == metric]
    assert 0 < value < 100
    assert f"python benchmarks/{name.replace('-', '_')}.py PATH/{name.replace('-', '_')}" in card.text
    facts = read_facts(CHECKPOINTS / name)
    assert facts["training"]["command"].startswith(("hf-speechrec train", "torchrun"))
    assert (CHECKPOINTS / name / "training.png").exists()


def test_an_evaluation_updates_the_card_of_a_classifier(classifier, speech_commands, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(classifier, folder)
    options = ["--split", "train", "--update-card", "--corpus-name", "Clips"]
    result = CliRunner().invoke(app, ["evaluate", str(folder), str(speech_commands), *options])
    assert result.exit_code == 0, result.output
    card = ModelCard.load(folder / "README.md")
    assert "| accuracy, Clips train | 100.00% (95 % interval 100.00% to 100.00%) |" in card.text
    assert "Its labels: `_silence_`, `no`, `yes`." in card.text
    assert 'load_classifier("PATH/mine")' in card.text  # `pipeline` would not find a folder of another machine
    assert "![What is taken for what](confusion_matrix.png)" in card.text
    assert (folder / "confusion_matrix.png").exists()
    assert card.data.pipeline_tag == "audio-classification"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"accuracy": 100.0, "f1": 100.0}
    report = json.loads((folder / FACTS).read_text())["evaluations"]["Clips train"]
    assert report["utterances"] == 9
    drawn = (folder / "confusion_matrix.png").read_bytes()
    result = CliRunner().invoke(app, ["evaluate", str(folder), str(speech_commands), *options, "--noise-snr-db", "0"])
    assert result.exit_code == 0, result.output
    assert "Clips train, noise at 0 dB" in (folder / "README.md").read_text()
    assert (folder / "confusion_matrix.png").read_bytes() == drawn


def test_what_a_card_asks_for_is_what_the_model_takes(classifier, tmp_path, monkeypatch):
    folder = shutil.copytree(classifier, tmp_path / "mine")
    config = json.loads((folder / "preprocessor_config.json").read_text()) | {"sampling_rate": 8000}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    assert "array at 8000 Hz" in render_model_card(folder, "user/mine").read_text()
    monkeypatch.chdir(tmp_path)
    assert "recording.flac --model mine\n" in render_model_card("mine").read_text()
    bundled = shutil.copytree(CHECKPOINTS / "an4", tmp_path / "bundled" / "an4")
    monkeypatch.setattr("hf_speechrec.model_card.CHECKPOINTS", tmp_path / "bundled")
    assert 'load_recognizer("an4")' in render_model_card(bundled).read_text()


def test_what_a_language_model_made_of_it_is_named_so():
    results = ModelCard.load(CHECKPOINTS / "librispeech-mini" / "README.md").data.eval_results
    rates = {result.metric_name: result.metric_value for result in results}
    assert sorted(rates) == ["CER", "CER with a language model", "WER", "WER with a language model"]
    assert rates["WER with a language model"] < rates["WER"] / 2


def test_nothing_ends_a_cell_of_the_table(folder):
    update_facts(folder, evaluations={"a|b": REPORT | {"command": "x |\n y"}})
    text = ModelCard.load(render_model_card(folder)).text
    assert "| WER, a\\|b | 6.25%" in text
    assert "`x \\| y`" in text


def test_an_evaluation_without_its_figures_is_an_error_that_names_it(folder):
    update_facts(folder, evaluations={"AN4 test": {"wer": 0.5, "gain_db": 0.0}})
    with pytest.raises(ValueError, match="the evaluation 'AN4 test' has no 'date'"):
        render_model_card(folder)


def test_a_new_run_forgets_the_old_ones_figures(folder):
    update_facts(folder, card=WORDS, evaluations={"AN4 test": REPORT})
    update_facts(folder, anew=True, training={"command": "x"})
    assert read_facts(folder) == {"card": {}, "training": {"command": "x"}, "evaluations": {}}


def test_only_a_folders_card_can_be_updated(speech_commands):
    result = CliRunner().invoke(app, ["evaluate", "speech-commands", str(speech_commands), "--update-card"])
    assert result.exit_code == 1
    assert "speech-commands: a card is updated in a model folder" in result.output
