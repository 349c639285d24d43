"""Corpora of commands: each layout gives the same four columns, parts are kept apart, bad rows are named."""

import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torchaudio
from conftest import RATE

from hf_speechrec import labelled_corpora
from hf_speechrec.audio import audio_duration
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.labelled_corpora import SpeechRecognitionDataset, read_labelled_corpus

VALIDATION = ["yes/022cd682_nohash_0.opus"]
TESTING = ["no/1b4c9b89_nohash_0.opus", "yes/1b4c9b89_nohash_0.opus"]


@pytest.fixture(scope="session")
def commands(fixtures) -> Path:
    """Clips of Speech Commands: five each of yes, no and _silence_, with lists train.txt and test.txt."""
    return fixtures / "speech_commands"


@pytest.fixture(scope="session")
def fsdd(fixtures) -> Path:
    """FSDD: 0 and 1, spoken by george, jackson and theo, recordings 0 (test) and 5 (train)."""
    return fixtures / "fsdd"


@pytest.fixture
def published(commands, tmp_path) -> Path:
    """Speech Commands as it is published: clips by label, noise, and lists of two of its three parts."""
    folder = tmp_path / "speech_commands_v0.02"
    for label in ("yes", "no"):
        shutil.copytree(commands / label, folder / label)
    (folder / "README.md").write_text("Speech Commands")
    write_clip(folder / "_background_noise_/white_noise.wav")
    (folder / "validation_list.txt").write_text("\n".join(VALIDATION) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(TESTING) + "\n")
    return folder


def write_clip(path: Path, seconds: float = 0.25, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(rate * seconds)), rate)
    return path


def write_clips(root: Path, *names: str) -> Path:
    for name in names:
        write_clip(root / name)
    return root


def names(corpus: datasets.Dataset) -> list[str]:
    """`label/clip` of each row; the labels are the folders'."""
    paths = [Path(path) for path in corpus["path"]]
    assert corpus["label"][:] == [path.parent.name for path in paths]
    return [f"{path.parent.name}/{path.name}" for path in paths]


# Speech Commands


@pytest.mark.parametrize(("split", "number"), [("train", 3), ("test", 2)])
def test_speech_commands_with_lists(commands, split, number):
    corpus = read_labelled_corpus(commands, split)
    assert corpus.features == {name: datasets.Value("string") for name in ("path", "label", "speaker")} | {
        "duration": datasets.Value("float64")
    }
    assert names(corpus) == (commands / f"{split}.txt").read_text().split()
    assert Counter(corpus["label"]) == {"yes": number, "no": number, "_silence_": number}
    for row in corpus:
        assert row["speaker"] == (None if row["label"] == "_silence_" else Path(row["path"]).name.partition("_")[0])
        assert row["duration"] == audio_duration(row["path"])
        assert row["duration"] == pytest.approx(1, abs=0.1)


def test_without_a_part_everything_is_read(commands):
    assert Counter(read_labelled_corpus(commands)["label"]) == {"_silence_": 5, "no": 5, "yes": 5}


@pytest.mark.parametrize("split", [None, "train", "validation", "test"])
def test_speech_commands_as_published(published, split):
    everything = sorted(f"{clip.parent.name}/{clip.name}" for clip in published.rglob("*.opus"))
    rest = [name for name in everything if name not in VALIDATION + TESTING]
    expected = {None: everything, "train": rest, "validation": VALIDATION, "test": TESTING}[split]
    assert names(read_labelled_corpus(published, split)) == expected  # the noise is no class
    assert len(everything) == 10


def test_speech_commands_by_name_is_unpacked_by_torchaudio(published, tmp_path, monkeypatch):
    downloads = tmp_path / "downloads"
    monkeypatch.setattr(labelled_corpora, "DOWNLOAD_FOLDER", downloads)
    monkeypatch.chdir(tmp_path)
    # An archive that is there already is not downloaded, so this is torchaudio's own code without the network.
    downloads.mkdir()
    with tarfile.open(downloads / "speech_commands_v0.02.tar.gz", "w:gz") as tar:
        tar.add(published, ".")
    corpus = read_labelled_corpus("speech_commands", "test")
    assert names(corpus) == TESTING
    assert all(Path(path).is_relative_to(downloads / "SpeechCommands/speech_commands_v0.02") for path in corpus["path"])


def test_a_download_that_fails_is_an_error_with_its_reason(tmp_path, monkeypatch):
    def download(folder, *, download):
        assert download
        assert folder == tmp_path / "downloads"
        raise RuntimeError("The hash of the file does not match")

    monkeypatch.setattr(labelled_corpora, "DOWNLOAD_FOLDER", tmp_path / "downloads")
    monkeypatch.setattr(torchaudio.datasets, "SPEECHCOMMANDS", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=r"^speech_commands: could not be downloaded \(The hash .* not match\)$"):
        read_labelled_corpus("speech_commands", "test")


def test_a_folder_named_speech_commands_comes_before_the_download(commands, tmp_path, monkeypatch):
    shutil.copytree(commands, tmp_path / "speech_commands")
    monkeypatch.chdir(tmp_path)
    assert len(read_labelled_corpus("speech_commands", "test")) == 6


# FSDD


@pytest.mark.parametrize("folder", ["", "recordings"])
@pytest.mark.parametrize(("split", "indices"), [("train", [5]), ("test", [0]), (None, [0, 5])])
def test_fsdd_is_split_by_its_indices(fsdd, folder, split, indices):
    corpus = read_labelled_corpus(fsdd / folder, split)
    assert [(Path(row["path"]).name, row["label"], row["speaker"]) for row in corpus] == [
        (f"{digit}_{speaker}_{index}.wav", digit, speaker)
        for digit in "01"
        for speaker in ("george", "jackson", "theo")
        for index in indices
    ]
    assert corpus["duration"][:] == [audio_duration(path) for path in corpus["path"]]


def test_one_speaker_is_left_out_and_chosen(fsdd):
    rest = read_labelled_corpus(fsdd, "train", exclude_speakers=["theo"])
    theo = read_labelled_corpus(fsdd, "train", speakers=["theo"])
    assert rest["speaker"][:] == ["george", "jackson"] * 2
    assert theo["speaker"][:] == ["theo"] * 2
    assert rest["label"][:] == ["0", "0", "1", "1"]
    with pytest.raises(CorpusError, match="not one utterance of the wanted speakers"):
        read_labelled_corpus(fsdd, "train", speakers=["nobody"])


def test_a_recording_of_fsdd_without_an_index_is_named(fsdd, tmp_path, caplog):
    shutil.copytree(fsdd / "recordings", tmp_path / "recordings")
    write_clips(tmp_path / "recordings", "7_anna_last.wav", "seven_anna_1.wav")
    assert len(read_labelled_corpus(tmp_path, "test")) == 6
    assert "left out 2 of 8 rows" in caplog.text
    assert "7_anna_last.wav: expected a name like 7_speaker_12.wav" in caplog.text


# Folders of folders


def drawn_parts(source: Path) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Both parts, after what holds for all of them."""
    train, test = read_labelled_corpus(source, "train"), read_labelled_corpus(source, "test")
    everything = read_labelled_corpus(source)
    assert not set(train["path"]) & set(test["path"])
    assert sorted(train["path"][:] + test["path"][:]) == sorted(everything["path"])
    assert read_labelled_corpus(source, "test")[:] == test[:]
    return train, test


def test_a_plain_folder_is_split_by_the_speakers_in_its_names(commands, tmp_path):
    for label in ("yes", "no", "_silence_"):
        shutil.copytree(commands / label, tmp_path / label)
    train, test = drawn_parts(tmp_path)
    assert set(train["speaker"]) & set(test["speaker"]) <= {None}  # the silence is nobody's
    assert 3 <= len(test) <= 4  # a fifth of 15; a speaker has two clips at most
    assert len(names(train)) + len(names(test)) == 15


@pytest.mark.parametrize("kind", ["folder", "manifest", "table"])
def test_without_speakers_every_label_gives_a_fifth_to_the_test(tmp_path, kind):
    clips = [f"{label}/{i:02}.wav" for label, number in (("yes", 20), ("no", 10)) for i in range(number)]
    source = write_clips(tmp_path / "corpus", *clips)
    if kind != "folder":
        table = source / ("metadata.csv" if kind == "table" else "m.csv")
        table.write_text("\n".join(["path,label", *(f"{clip},{clip.partition('/')[0]}" for clip in clips)]))
        source = source if kind == "table" else table
    train, test = drawn_parts(source)
    assert Counter(train["label"]) == {"yes": 16, "no": 8}
    assert Counter(test["label"]) == {"yes": 4, "no": 2}
    assert set(names(train)) | set(names(test)) == set(clips)
    assert set(train["speaker"]) == {None}


def test_a_folder_with_parts(tmp_path):
    write_clips(tmp_path, "train/yes/a.wav", "train/no/yes_anna_3.flac", "dev/yes/b.wav", "train/.cache/c.wav")
    (tmp_path / "train/yes/notes.txt").write_text("not a clip")
    train = read_labelled_corpus(tmp_path, "train")
    assert names(train) == ["no/yes_anna_3.flac", "yes/a.wav"]  # the folder is the label, whatever the name says
    assert train["speaker"][:] == [None, None]  # nor is anna a speaker: the name does not start with its label
    assert names(read_labelled_corpus(tmp_path, "dev")) == ["yes/b.wav"]


def test_a_folder_with_parts_gives_all_of_them_where_none_is_asked_for(tmp_path):
    write_clips(tmp_path, "train/yes/a.wav", "train/no/b.wav", "test/yes/c.wav")
    assert sorted(names(read_labelled_corpus(tmp_path))) == ["no/b.wav", "yes/a.wav", "yes/c.wav"]


@pytest.mark.parametrize(
    "stem", ["clip_{label}_{i}", "{label}_take_{i}", "{label}_{label}{i}_0"], ids=["label", "take", "one label each"]
)
def test_what_only_looks_like_a_speaker_is_none(tmp_path, stem):
    clips = [f"{label}/{stem.format(label=label, i=i)}.wav" for label in ("yes", "no") for i in range(5)]
    write_clips(tmp_path, *clips)
    assert set(read_labelled_corpus(tmp_path)["speaker"]) == {None}
    for part, count in (("train", 4), ("test", 1)):
        assert Counter(read_labelled_corpus(tmp_path, part)["label"]) == {"yes": count, "no": count}
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("\n".join(clips))
    assert set(read_labelled_corpus(tmp_path, "train")["speaker"]) == {None}


def test_a_class_may_be_called_like_a_part(tmp_path):
    write_clips(tmp_path, *(f"{label}/{i}.wav" for label in ("test", "train", "go") for i in range(5)))
    assert Counter(read_labelled_corpus(tmp_path, "test")["label"]) == {"test": 1, "train": 1, "go": 1}


def test_a_part_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path):
    write_clips(tmp_path, "train/yes/a.wav", "train/no/b.wav", "dev/yes/c.wav")
    with pytest.raises(CorpusError, match="expected one of the parts dev, train, got 'test'"):
        read_labelled_corpus(tmp_path, "test")


# Manifests


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "path,label,speaker\nclips/a.wav,été,0\nclips/b.wav,7,\n"),
        ("m.tsv", "client_id\tkeyword\tfile\n0\tété\tclips/a.wav\n\t7\tclips/b.wav\n"),
        (
            "m.jsonl",
            '{"path": "clips/a.wav", "label": "été", "speaker": "0"}\n{"path": "clips/b.wav", "label": 7}\n',
        ),
        (
            "metadata.jsonl",
            '{"file_name": "clips/a.wav", "class": "été", "speaker_id": 0}\n\n'
            '{"file_name": "clips/b.wav", "class": 7, "speaker_id": null}\n',
        ),
        (
            "m.json",
            '{"audio": "clips/a.wav", "command": "été", "speaker": 0}\n{"audio": "clips/b.wav", "command": 7}\n',
        ),
    ],
)
def test_manifests(tmp_path, name, content):
    write_clips(tmp_path, "clips/a.wav", "clips/b.wav")
    (tmp_path / name).write_text(content, encoding="utf-8")
    corpus = read_labelled_corpus(tmp_path if name.startswith("metadata") else tmp_path / name)
    assert corpus[:] == {
        "path": [str(tmp_path / "clips/a.wav"), str(tmp_path / "clips/b.wav")],
        "label": ["été", "7"],
        "speaker": ["0", None],
        "duration": [0.25, 0.25],
    }


def test_numbers_are_names_of_speakers(tmp_path):
    write_clips(tmp_path, "a.wav", "b.wav")
    rows = [{"path": "a.wav", "label": "yes", "speaker": 0}, {"path": "b.wav", "label": "no", "speaker": 1}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_labelled_corpus(tmp_path / "m.jsonl")["speaker"][:] == ["0", "1"]


def test_the_parts_of_a_manifest_are_of_whole_speakers(tmp_path):
    rows = ["path,label,speaker"]
    for i in range(20):
        write_clip(tmp_path / f"{i}.wav")
        rows.append(f"{i}.wav,{i % 2},speaker {i % 5}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    train, test = drawn_parts(tmp_path / "m.csv")
    assert not set(train["speaker"]) & set(test["speaker"])
    assert (len(train), len(test)) == (16, 4)


# Data sets of the Hub: a folder of that relative name stands in for the Hub, the code of `datasets` is the same


def hub_data_set(folder: Path, labels: list, column: str, feature=None) -> str:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE // 4), RATE, format="WAV")
    dataset = datasets.Dataset.from_list(
        [
            {"audio": {"bytes": file.getvalue(), "path": f"{i}.wav"}, column: label, "speaker_id": i % 2}
            for i, label in enumerate(labels)
        ]
    ).cast_column("audio", datasets.Audio(decode=False))
    folder.mkdir(parents=True)
    dataset = dataset if feature is None else dataset.cast_column(column, feature)
    dataset.to_parquet(folder / "train.parquet")
    return "user/commands:default"  # with `:default` behind it the name is no path


@pytest.mark.parametrize(
    ("labels", "column", "feature"),
    [
        (["yes", "no", "yes"], "label", None),
        (["yes", "no", "yes"], "keyword", None),
        ([1, 0, 1], "label", datasets.ClassLabel(names=["no", "yes"])),
        ([1, 0, 1], "intent", datasets.ClassLabel(names=["no", "yes"])),
    ],
)
def test_a_hub_data_set_has_the_names_of_its_classes(tmp_path, monkeypatch, labels, column, feature):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    corpus = read_labelled_corpus(hub_data_set(tmp_path / "user/commands", labels, column, feature))
    assert set(corpus.column_names) == {"audio", "label", "speaker", "duration"}
    assert corpus["label"][:] == ["yes", "no", "yes"]
    assert corpus["speaker"][:] == ["0", "1", "0"]
    assert corpus["duration"][:] == [0.25] * 3


def test_the_plain_numbers_of_a_hub_data_set_are_labels_and_nought_is_one(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    corpus = read_labelled_corpus(hub_data_set(tmp_path / "user/commands", [1, 0, None], "label"))
    assert corpus["label"][:] == ["1", "0"]
    assert "left out 1 of 3 rows" in caplog.text
    assert "row 2: no label" in caplog.text


def test_a_class_number_without_a_name_is_left_out_and_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    classes = datasets.ClassLabel(names=["no", "yes"])  # -1 is the Hub's "not labelled"
    corpus = read_labelled_corpus(hub_data_set(tmp_path / "user/commands", [1, -1, 0], "label", classes))
    assert corpus["label"][:] == ["yes", "no"]
    assert "row 1: no label" in caplog.text


# Bad input


def test_bad_clips_are_counted_and_named_and_do_not_end_the_reading(tmp_path, caplog):
    write_clips(tmp_path, "yes/a.wav", "no/b.wav")
    write_clip(tmp_path / "yes/meeting.wav", seconds=600, rate=8000)
    write_clip(tmp_path / "yes/limit.wav", seconds=30, rate=8000)
    (tmp_path / "no/letter.wav").write_text("Dear Sir")
    (tmp_path / "maybe").mkdir()
    (tmp_path / "maybe/notes.txt").write_text("to be recorded")
    assert names(read_labelled_corpus(tmp_path)) == ["no/b.wav", "yes/a.wav", "yes/limit.wav"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{tmp_path}: left out 3 of 6 rows:" in record.getMessage()
    assert f"{tmp_path / 'maybe'}: a class without clips" in record.getMessage()
    assert f"{tmp_path / 'no/letter.wav'}: not audio that can be read" in record.getMessage()
    assert f"{tmp_path / 'yes/meeting.wav'}: expected at most 30 s, got 600.0 s" in record.getMessage()


@pytest.mark.parametrize("kind", ["manifest", "link"])
def test_a_file_with_two_labels_is_left_out_and_named_with_both(tmp_path, caplog, kind):
    source = write_clips(tmp_path / "corpus", "yes/a.wav", "no/b.wav")
    if kind == "link":
        (source / "no/c.wav").symlink_to(source / "yes/a.wav")
    else:
        rows = [("yes/a.wav", "yes"), ("no/b.wav", "no"), ("no/../yes/a.wav", "no"), ("no/b.wav", "no")]
        source = source / "m.jsonl"
        source.write_text("\n".join(json.dumps({"path": path, "label": label}) for path, label in rows))
    corpus = read_labelled_corpus(source)
    assert set(names(corpus)) == {"no/b.wav"}  # twice with the same label is no contradiction
    assert f"{tmp_path / 'corpus/yes/a.wav'}: has the labels no and yes" in caplog.text


def test_clips_of_a_list_that_are_not_there_are_named(published, caplog):
    with (published / "testing_list.txt").open("a") as file:
        file.write("\nyes/nobody_nohash_0.wav\n")
    assert names(read_labelled_corpus(published, "test")) == TESTING
    assert "left out 1 of 3 rows" in caplog.text
    assert f"{published / 'yes/nobody_nohash_0.wav'}: no such file" in caplog.text


@pytest.mark.parametrize(
    ("clips", "texts", "split", "reason"),
    [
        ([], {}, None, "expected a folder of clips for each label, found no folders"),
        (["a.wav"], {}, None, "expected a folder of clips for each label, found no folders"),
        ([], {"yes/notes.txt": "Hm"}, None, r"not one usable row \(.*yes: a class without clips\)"),
        ([], {"yes/a.wav": "Dear Sir"}, "train", r"not one usable row \(.*a\.wav: not audio that can be read"),
        (["yes/a.wav"], {"test.txt": "yes/b.wav\n"}, "test", r"not one usable row \(.*b\.wav: no such file\)"),
        (["yes/a.wav"], {"test.txt": "\n"}, "test", r"not one usable row \(it is empty\)"),
        (["yes/a.wav"], {}, "dev", "expected one of the parts train, test, got 'dev'"),
        (["7_anna_0.wav"], {}, "dev", "FSDD has the parts train and test, got 'dev'"),
        (["7_anna_0.wav"], {}, "train", r"not one usable row \(it is empty\)"),
        (
            ["yes/a.wav"],
            {"testing_list.txt": "yes/a.wav"},
            "dev",
            "Speech Commands has the parts train, validation and test, got 'dev'",
        ),
        (["yes/a.wav"], {"testing_list.txt": "yes/a.wav"}, "train", r"expected tables .*validation_list\.txt"),
        ([], {"metadata.csv": "path,text\na.wav,YES\n"}, None, r"no label, got the columns path, text"),
        ([], {"metadata.csv": "path,label\na.wav,yes\n"}, "dev", "expected one of the parts train, test, got 'dev'"),
        (
            ["yes/a.wav", "yes/b.wav", "no/c.wav"],
            {},
            "test",
            r"too few utterances \(3\) to hold out a share of 0\.2",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_an_error_that_names_it(tmp_path, clips, texts, split, reason):
    write_clips(tmp_path, *clips)
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=reason) as caught:
        read_labelled_corpus(tmp_path, split)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/commands", "a/b/c.csv", "two words/commands"])
def test_an_unknown_name_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=f"^{name}: no such file or folder, and neither `speech_commands` nor"):
        read_labelled_corpus(name)


# A plain PyTorch data set


def test_recordings_and_labels_are_a_data_set_of_rows(commands):
    files = sorted(commands.rglob("*.opus"))
    dataset = SpeechRecognitionDataset(files, [path.parent.name for path in files])
    assert len(dataset) == 15
    assert dataset[14] == {"path": str(commands / "yes/37dca74f_nohash_0.opus"), "label": "yes"}
    assert dataset.id2label == {0: "_silence_", 1: "no", 2: "yes"}
    assert [row["label"] for row in dataset] == ["_silence_"] * 5 + ["no"] * 5 + ["yes"] * 5


@pytest.mark.parametrize(("files", "labels"), [(["a.wav", "b.wav"], ["yes"]), (["a.wav"], ["yes", "no"]), ([], [])])
def test_every_recording_needs_a_label(files, labels):
    with pytest.raises(ValueError, match=f"^expected a label .* got {len(files)} files and {len(labels)} labels$"):
        SpeechRecognitionDataset(files, labels)
