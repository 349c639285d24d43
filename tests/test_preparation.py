"""A corpus in the Hub's form: nothing lost, nothing of the machine in it, and training from it as from a stream."""

import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from small_runs import PNG, TINY, tiny_recipe, weights

from hf_speechrec.audio import read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.preparation import prepare
from hf_speechrec.training import train

RATE = 16_000  # Hz


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Behind each pass over a stream datasets waits 5 s for pyarrow's threads, which matters where a process ends."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture(scope="module")
def prepared(an4, tmp_path_factory):
    return prepare(an4, tmp_path_factory.mktemp("prepared") / "an4", ["train", "test"])


def by_text(corpus) -> dict:
    return {row["text"]: row for row in corpus}


def test_nothing_is_lost(prepared, an4):
    for split in ("train", "test"):
        there, here = by_text(read_corpus(prepared, split)), by_text(read_corpus(an4, split))
        assert there.keys() == here.keys()
        for text, row in here.items():
            assert there[text]["duration"] == row["duration"]
            assert there[text]["speaker"] == row["speaker"]
            audio = there[text]["audio"]
            np.testing.assert_array_equal(read_audio(audio, RATE), read_audio(row["path"], RATE))
            assert "/" not in audio["path"]


def test_datasets_reads_it_as_it_would_read_the_hub(prepared):
    dataset = datasets.load_dataset(str(prepared))
    assert {name: len(part) for name, part in dataset.items()} == {"train": 10, "test": 8}
    assert isinstance(dataset["train"].features["audio"], datasets.Audio)
    card = DatasetCard.load(prepared / "README.md")
    assert card.data.task_categories == ["automatic-speech-recognition"]
    assert "| train | 10 |" in card.text
    assert len(list(prepared.glob("data/train-*-of-00008.parquet"))) == 8
    assert not list(prepared.rglob("*.partial"))


def test_labels_too(speech_commands, tmp_path):
    folder = prepare(speech_commands, tmp_path / "clips", ["train"], task="classification")
    there, here = read_labelled_corpus(folder, "train"), read_labelled_corpus(speech_commands, "train")
    assert sorted(there["label"][:]) == sorted(here["label"][:])
    assert sorted(map(str, there["speaker"])) == sorted(map(str, here["speaker"]))


def test_formats_that_the_hub_does_not_play_become_flac(tmp_path, speech, write_sphere):
    write_sphere(tmp_path / "a.sph", speech)
    (tmp_path / "mine.csv").write_text("path,text\na.sph,HELLO\n")
    row = read_corpus(prepare(tmp_path / "mine.csv", tmp_path / "out"), "train")[0]
    assert row["audio"]["path"] == "a.flac"
    assert row["audio"]["bytes"].startswith(b"fLaC")
    np.testing.assert_allclose(read_audio(row["audio"], RATE), read_audio(tmp_path / "a.sph", RATE), atol=1e-4)


def test_a_folder_with_data_is_not_written_into(prepared, an4):
    with pytest.raises(CorpusError, match="expected an empty folder"):
        prepare(an4, prepared, ["train"])


def test_nothing_is_written_where_a_part_is_missing(an4, tmp_path):
    with pytest.raises(CorpusError, match="AN4 has the splits 'train' and 'test', got 'dev-clean'"):
        prepare(an4, tmp_path / "out", ["train", "dev-clean"])
    assert not (tmp_path / "out").exists()


def test_a_parts_name_becomes_one_that_datasets_takes(an4_files, tmp_path):
    folder = tmp_path / "corpus" / "train-clean"
    folder.mkdir(parents=True)
    (folder / "metadata.csv").write_text(f"path,text\n{an4_files[0]},HELLO\n")
    prepared = prepare(tmp_path / "corpus", tmp_path / "out", ["train-clean"])
    assert read_corpus(prepared, "train_clean")["text"][:] == ["HELLO"]


def test_prepared_data_can_be_prepared_again(prepared, tmp_path):
    again = prepare(prepared, tmp_path / "again", ["test"])
    assert by_text(read_corpus(again, "test")).keys() == by_text(read_corpus(prepared, "test")).keys()


def test_a_stream_has_the_same_rows(prepared):
    stream = read_corpus(prepared, "train", streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    here = by_text(read_corpus(prepared, "train"))
    there = by_text(stream)
    assert there.keys() == here.keys()
    assert all(there[text]["duration"] == row["duration"] for text, row in here.items())
    speaker = next(iter(here.values()))["speaker"]
    kept = list(read_corpus(prepared, "train", streaming=True, exclude_speakers=[speaker]))
    assert 0 < len(kept) < 10
    assert speaker not in {row["speaker"] for row in kept}


def test_training_from_a_stream(prepared, tmp_path):
    changes = {"held_out": "test", "streaming": True, "eval_strategy": "steps", "eval_steps": 2}
    folder = train(tiny_recipe(prepared, tmp_path / "streamed", **changes), device="cpu")
    same = train(tiny_recipe(prepared, tmp_path / "again", **changes), device="cpu")
    assert (folder / "training.png").read_bytes().startswith(PNG)
    assert all(weight.equal(weights(same)[name]) for name, weight in weights(folder).items())
    # The same letters and statistics as from the files.
    whole = train(tiny_recipe(prepared, tmp_path / "whole"), device="cpu")
    assert (folder / "vocab.json").read_text() == (whole / "vocab.json").read_text()


def test_a_classifier_from_a_stream(speech_commands, tmp_path):
    corpus = prepare(speech_commands, tmp_path / "clips", ["train", "test"], task="classification")
    recipe = tiny_recipe(corpus, tmp_path / "run", task="classification", streaming=True, held_out="test")
    folder = train(recipe, device="cpu")
    assert (folder / "confusion_matrix.png").exists()


@pytest.mark.slow
def test_two_processes_stream_different_parts(prepared, tmp_path, repository):
    recipe = tmp_path / "recipe.yaml"
    values = {
        "task": "ctc",
        "corpus": str(prepared),
        "train_split": "train",
        "held_out": "test",
        "streaming": True,
        "model": TINY,
        "features": {"feature_size": 20},
        "training": {"max_steps": 4, "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no"},
    }
    recipe.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hf_speechrec", "train"]
    options = [recipe, "--device", "cpu", "--output_dir", tmp_path / "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *map(str, options)], cwd=repository, env=environment, check=True, capture_output=True)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    # Ten utterances, four a step by both together: the first epoch ends within the third step.
    assert 1 < results["epoch"] < 3
    assert np.isfinite(results["eval_loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "a stream has no end: expected max_steps"),
        ({"held_out": 0.2}, "of a stream no speakers can be held out"),
        ({"held_out": "missing"}, "missing: expected a file of held-out speakers, a share such as 0.1, or a part"),
    ],
)
def test_what_a_stream_cannot_do_is_said(prepared, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_recipe(prepared, tmp_path / "run", streaming=True, **changes), device="cpu")


def test_only_a_data_set_of_the_hub_can_be_streamed(an4, tmp_path):
    with pytest.raises(CorpusError, match="only a Hub data set"):
        train(tiny_recipe(an4, tmp_path / "run", streaming=True), device="cpu")
