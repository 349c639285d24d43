"""Corpora: each layout gives the same four columns, bad rows are counted and named, nothing usable is an error."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from conftest import RATE

from hf_speechrec import corpora
from hf_speechrec.audio import audio_duration, read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.labelled_corpora import read_labelled_corpus

FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("path", "text", "speaker")} | {"duration": datasets.Value("float64")}
)
LIBRISPEECH_TEXTS = {
    "4088": "TO HAVE A VOICE IN THEIR OWN GOVERNMENT",
    "4406": "THIS DAY IN THE AFTERNOON ABOUT AN HOUR BY SUN",
    "5652": "SIMPLY TO WITHDRAW A PATIENT FROM THE ONE KIND OF LIFE",
}


def write_tone(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(RATE * seconds)) / 10), RATE)
    return path


def as_librispeech(source: Path, target: Path, suffix: str) -> Path:
    """A copy of LibriSpeech's layout with another audio format."""
    shutil.copytree(source, target)
    for path in sorted(target.rglob("*.opus")):
        soundfile.write(path.with_suffix(suffix), read_audio(path, RATE), RATE)
        path.unlink()
    return target


# LibriSpeech


@pytest.mark.parametrize("suffix", [".opus", ".flac", ".wav"])
def test_librispeech_in_each_format(tmp_path, librispeech, suffix):
    folder = librispeech if suffix == ".opus" else as_librispeech(librispeech, tmp_path / "copy", suffix)
    corpus = read_corpus(folder)
    assert corpus.features == FEATURES
    assert dict(zip(corpus["speaker"], corpus["text"], strict=True)) == LIBRISPEECH_TEXTS
    for row in corpus:
        assert row["path"].endswith(suffix)
        assert row["duration"] == audio_duration(row["path"])
        assert row["duration"] > 2


def test_a_split_is_one_of_several_librispeech_subsets(tmp_path, librispeech):
    shutil.copytree(librispeech, tmp_path / "dev-clean")
    shutil.copytree(librispeech / "4088", tmp_path / "test-clean" / "4088")
    assert read_corpus(tmp_path, "test-clean")["speaker"][:] == ["4088"]
    assert len(read_corpus(tmp_path, "dev-clean")) == 3
    assert len(read_corpus(tmp_path)) == 4


def test_several_librispeech_subsets_are_joined(tmp_path, librispeech):
    for name in ("train-clean-100", "train-clean-360", "dev-clean"):
        shutil.copytree(librispeech, tmp_path / name)
    corpus = read_corpus(tmp_path, "train-clean-100+train-clean-360")
    assert [Path(path).relative_to(tmp_path).parts[0] for path in corpus["path"]] == (
        ["train-clean-100"] * 3 + ["train-clean-360"] * 3
    )
    with pytest.raises(CorpusError, match="train-other-500"):
        read_corpus(tmp_path, "train-clean-100+train-other-500")


def test_librispeech_rows_without_audio_or_text_are_named(tmp_path, librispeech, caplog):
    shutil.copytree(librispeech, tmp_path / "copy")
    transcript = tmp_path / "copy/4088/158077/4088-158077.trans.txt"
    transcript.write_text(f"{transcript.read_text()}4088-158077-0099 NOBODY RECORDED THIS\n\n")
    next((tmp_path / "copy/4406").rglob("*.trans.txt")).write_text("4406-16882-0027\n")
    corpus = read_corpus(tmp_path / "copy")
    assert sorted(corpus["speaker"]) == ["4088", "5652"]
    assert "left out 2 of 4 rows" in caplog.text  # the empty line is no row
    assert "4088-158077-0099: no audio" in caplog.text
    assert "4406-16882-0027: no transcript" in caplog.text


def test_librispeech_by_name_is_unpacked_by_torchaudio(tmp_path, librispeech, monkeypatch):
    monkeypatch.setattr(corpora, "DOWNLOAD_FOLDER", tmp_path / "downloads")
    copy = as_librispeech(librispeech, tmp_path / "copy", ".flac")
    # An archive that is there already is not downloaded, so this is torchaudio's own code without the network.
    (tmp_path / "downloads").mkdir()
    archive = tmp_path / "downloads/dev-clean.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(copy, "LibriSpeech/dev-clean")
    corpus = read_corpus("librispeech:dev-clean")
    assert dict(zip(corpus["speaker"], corpus["text"], strict=True)) == LIBRISPEECH_TEXTS
    assert all(Path(path).is_relative_to(tmp_path / "downloads/LibriSpeech/dev-clean") for path in corpus["path"])
    archive.unlink()
    assert read_corpus("librispeech:dev-clean", speakers=["5652"])["text"][:] == [LIBRISPEECH_TEXTS["5652"]]


def test_a_librispeech_subset_has_no_parts():
    with pytest.raises(CorpusError, match=r"librispeech:dev-clean: expected no split, .* got 'test-clean'"):
        read_corpus("librispeech:dev-clean", "test-clean")


def test_an_unknown_librispeech_subset_is_an_error_that_names_the_known(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "DOWNLOAD_FOLDER", tmp_path / "downloads")
    with pytest.raises(CorpusError, match=r"^librispeech:nonsense: expected one of dev-clean, .*train-other-500$"):
        read_corpus("librispeech:nonsense")
    assert not (tmp_path / "downloads").exists()


# AN4


def test_an4(an4):
    train, test = read_corpus(an4, "train"), read_corpus(an4, "test")
    assert train.features == test.features == FEATURES
    assert (len(train), len(test)) == (10, 8)
    texts = dict(zip(train["speaker"], train["text"], strict=True))
    assert texts["mrab"] == "ENTER TWO OH SEVEN"  # from `<s> ENTER TWO OH SEVEN </s> (an73-mrab-b)`
    assert dict(zip(test["speaker"], test["text"], strict=True))["mjgm"] == "J O H N"
    assert not set(train["speaker"]) & set(test["speaker"])
    for row in test:
        assert row["duration"] == audio_duration(row["path"])


def test_an4_as_published_in_sphere_files(tmp_path, an4, write_sphere):
    shutil.copytree(an4 / "etc", tmp_path / "etc")
    for path in an4.rglob("*.flac"):
        sphere = (tmp_path / path.relative_to(an4)).with_suffix(".sph")
        sphere.parent.mkdir(parents=True, exist_ok=True)
        write_sphere(sphere, read_audio(path, RATE))
    original, copy = read_corpus(an4, "test"), read_corpus(tmp_path, "test")
    assert all(path.endswith(".sph") for path in copy["path"])
    for column in ("text", "speaker", "duration"):
        assert copy[column][:] == original[column][:]


@pytest.mark.parametrize("split", ["dev", None])
def test_an4_has_no_other_split(an4, split):
    with pytest.raises(CorpusError, match=f"AN4 has the splits 'train' and 'test', got {split!r}"):
        read_corpus(an4, split)


def test_an4_rows_without_audio_or_transcript_are_named(tmp_path, an4, caplog):
    shutil.copytree(an4, tmp_path / "an4")
    with (tmp_path / "an4/etc/an4_test.fileids").open("a") as file:
        file.write("an4test_clstk/ghost/cen9-ghost-b\n")
    transcription = tmp_path / "an4/etc/an4_test.transcription"
    transcription.write_text(transcription.read_text().replace("J O H N (cen2-mjgm-b)\n", ""))
    assert len(read_corpus(tmp_path / "an4", "test")) == 7
    assert "left out 2 of 9 rows" in caplog.text
    assert "an4test_clstk/ghost/cen9-ghost-b: no audio" in caplog.text
    assert "an4test_clstk/mjgm/cen2-mjgm-b: no transcript" in caplog.text
    transcription.unlink()
    with pytest.raises(CorpusError, match=r"an4_test\.transcription"):
        read_corpus(tmp_path / "an4", "test")


# audiofolder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'file_name,transcription,speaker_id\na.wav,"HELLO, WORLD",7\nsub/b.flac,GRÜẞE,8\n'),
        (
            "metadata.jsonl",
            '{"file_name": "a.wav", "text": "HELLO, WORLD", "speaker_id": 7}\n\n'
            '{"file_name": "sub/b.flac", "text": "GR\\u00dc\\u1e9eE", "speaker_id": 8}\n',
        ),
    ],
)
def test_an_audiofolder(tmp_path, name, content):
    write_tone(tmp_path / "a.wav", 0.5)
    write_tone(tmp_path / "sub/b.flac", 0.25)
    (tmp_path / name).write_text(content, encoding="utf-8")
    corpus = read_corpus(tmp_path)
    assert corpus.features == FEATURES
    assert corpus[:] == {
        "path": [str(tmp_path / "a.wav"), str(tmp_path / "sub/b.flac")],
        "text": ["HELLO, WORLD", "GRÜẞE"],
        "duration": [0.5, 0.25],
        "speaker": ["7", "8"],
    }


def test_the_table_of_an_audiofolder_may_name_files_elsewhere(tmp_path, an4_files):
    for folder in (tmp_path, tmp_path / "test"):
        folder.mkdir(exist_ok=True)
        (folder / "metadata.csv").write_text(f"file_name,text\n{an4_files[0]},HELLO\n")
    for split in (None, "test"):
        assert read_corpus(tmp_path, split)["path"][:] == [str(an4_files[0])]


def test_the_split_of_an_audiofolder_has_its_own_table(tmp_path):
    for split, text in (("train", "ONE"), ("test", "TWO")):
        write_tone(tmp_path / split / "a.wav")
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", "text": text}))
    write_tone(tmp_path / "c.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text\nc.wav,THREE\n")
    assert read_corpus(tmp_path, "train")["text"][:] == ["ONE"]
    assert read_corpus(tmp_path, "test")["text"][:] == ["TWO"]


def test_a_split_takes_its_own_rows_of_a_table_above_all_splits(tmp_path):
    for name in ("train/a.wav", "train/b.wav", "test/c.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/a.wav,A\ntrain/b.wav,B\ntest/c.wav,C\n")
    assert read_corpus(tmp_path, "train")["text"][:] == ["A", "B"]
    assert read_corpus(tmp_path, "test")["text"][:] == ["C"]
    assert read_corpus(tmp_path)["text"][:] == ["A", "B", "C"]


# Manifests


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "\ufeffpath,text,speaker\nclips/a.wav,été,anna\n"),  # Excel begins with a byte-order mark
        ("m.csv", "text,path,other,speaker\r\nété,clips/a.wav,,anna\r\n"),
        ("m.tsv", "client_id\tpath\tsentence\tage\nanna\tclips/a.wav\tété\t\n"),  # Common Voice
        ("m.jsonl", '{"path": "clips/a.wav", "text": "été", "speaker": "anna"}\n'),
        ("m.json", '{"audio_filepath": "clips/a.wav", "duration": 9.9, "text": "été", "speaker": "anna"}\n'),  # NeMo
        ("m.JSONL", '\ufeff{"file": "clips/a.wav", "sentence": "\\u00e9t\\u00e9", "speaker_id": "anna"}\n'),
    ],
)
def test_manifests(tmp_path, monkeypatch, name, content):
    write_tone(tmp_path / "corpus/clips/a.wav")
    (tmp_path / "corpus" / name).write_text(content, encoding="utf-8", newline="")
    monkeypatch.chdir(tmp_path)  # relative paths start at the manifest, wherever the command was run
    corpus = read_corpus(f"corpus/{name}")
    assert corpus.features == FEATURES
    assert corpus[0] == {"path": "corpus/clips/a.wav", "text": "été", "duration": 0.5, "speaker": "anna"}
    assert len(corpus) == 1


def test_a_manifest_may_name_files_elsewhere_and_no_speakers(tmp_path, an4_files):
    (tmp_path / "m.csv").write_text(f"path,text\n{an4_files[0]},HELLO\n")
    assert read_corpus(tmp_path / "m.csv")[0] == {
        "path": str(an4_files[0]),
        "text": "HELLO",
        "duration": audio_duration(an4_files[0]),
        "speaker": None,
    }


def test_bad_rows_are_counted_and_named_and_do_not_end_the_reading(tmp_path, caplog):
    write_tone(tmp_path / "good.wav")
    (tmp_path / "letter.wav").write_text("Dear Sir")
    (tmp_path / "empty.wav").touch()
    rows = [
        '{"path": "good.wav", "text": "GOOD"}',
        '{"path": "good.wav", "text": ""}',
        '{"text": "NO PATH"}',
        '{"path": "good.wav", "text": "BROK',
        '["good.wav", "A LIST"]',
        '{"path": "missing.wav", "text": "GONE"}',
        '{"path": "letter.wav", "text": "A LETTER"}',
        '{"path": "empty.wav", "text": "EMPTY"}',
        f'{{"path": "{"long" * 100}", "text": "LONG"}}',
        '{"path": "good.wav", "text": "GOOD AGAIN"}',
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    assert read_corpus(tmp_path / "m.jsonl")["text"][:] == ["GOOD", "GOOD AGAIN"]
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelname == "WARNING"
    assert "left out 8 of 10 rows" in message
    for line, reason in ((2, "no text"), (3, "no path"), (4, "not a JSON object"), (5, "not a JSON object")):
        assert f"m.jsonl:{line}: {reason}" in message
    assert f"{tmp_path / 'missing.wav'}: no such file" in message
    assert message.endswith("… and 3 more")


@pytest.mark.parametrize("read", [read_corpus, read_labelled_corpus])
def test_rows_that_no_file_should_have_are_left_out_and_the_others_stay(tmp_path, an4_files, caplog, read):
    good = {"path": str(an4_files[0].resolve()), "text": "ONE", "label": "one"}
    bad = [
        "[" * 100_000,
        "9" * 5_000,
        *(json.dumps(good | {key: value}) for key in ("path", "text", "label") for value in ("a\0", "\ud800")),
        json.dumps(good | {"path": "a" * 5_000}),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join([json.dumps(good), *bad, json.dumps(good)]))
    dataset = read(tmp_path / "rows.jsonl")
    used = "text" if read is read_corpus else "label"
    assert dataset[used] == [good[used]] * 4  # of the bad ones two have it in the other's column
    assert "rows.jsonl: left out 7 of 11 rows" in caplog.text


def test_a_name_with_a_line_break_is_said_in_one_line(tmp_path):
    (tmp_path / "rows.csv").write_text('path,text\n"a\n\x1b[2Jb.wav",ONE\n')
    with pytest.raises(CorpusError) as error:
        read_corpus(tmp_path / "rows.csv")
    assert str(error.value).endswith("a\\n\\x1b[2Jb.wav: no such file)")


@pytest.mark.parametrize("name", [".", "..", "/", "a\0b", "a" * 5_000])
def test_an_odd_name_in_a_list_of_an4_is_a_bad_row(tmp_path, an4, caplog, name):
    shutil.copytree(an4, tmp_path / "an4")
    fileids = tmp_path / "an4/etc/an4_test.fileids"
    fileids.write_text(f"{fileids.read_text()}\n{name}\n")
    assert len(read_corpus(tmp_path / "an4", "test")) == 8
    assert "left out 1 of 9 rows" in caplog.text


def test_bad_rows_of_a_csv_are_named_by_their_line(tmp_path, caplog):
    write_tone(tmp_path / "good.wav")
    (tmp_path / "m.csv").write_text("path,text\ngood.wav,GOOD\ngood.wav\n,NO PATH\ngood.wav,MORE,THAN,ASKED\n")
    assert read_corpus(tmp_path / "m.csv")["text"][:] == ["GOOD", "MORE"]
    assert "left out 2 of 4 rows" in caplog.text
    assert "m.csv:3: no text" in caplog.text
    assert "m.csv:4: no path" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.csv", b"", "not one usable row .it is empty"),
        ("m.csv", b"path,text\n", "not one usable row .it is empty"),
        ("m.csv", b"path,text\nmissing.wav,GONE\n", "not one usable row .*missing.wav: no such file"),
        ("m.csv", b"sound,words\na.wav,HELLO\n", "not one usable row .*no path .one of path, .*columns sound, words"),
        ("m.jsonl", b"[\n]\n", "not one usable row .*m.jsonl:1: not a JSON object"),
        ("m.csv", "path,text\na.wav,été\n".encode("latin-1"), "expected tables of UTF-8 text .*utf-8"),
        ("m.csv", b'path,text\na.wav,"' + b"x" * 200_000, "expected tables of UTF-8 text .*field larger"),
        ("m.txt", b"a.wav HELLO\n", "expected a manifest .csv, .tsv or .jsonl, got .txt"),
        ("manifest", b"a.wav HELLO\n", "expected a manifest .csv, .tsv or .jsonl, got no suffix"),
    ],
)
def test_a_manifest_without_a_usable_row_is_an_error(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=reason) as caught:
        read_corpus(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing_known_is_an_error(tmp_path):
    write_tone(tmp_path / "a.wav")
    with pytest.raises(CorpusError, match=r"expected LibriSpeech .*AN4 .*metadata.csv or metadata.jsonl; found none"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/corpus", "a/b/c.csv", "two words/corpus"])
def test_an_unknown_name_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=f"^{name}: no such file or folder, and neither"):
        read_corpus(name)


# Speakers


def test_speakers_are_chosen_and_left_out(an4):
    everyone = set(read_corpus(an4, "train")["speaker"])
    assert set(read_corpus(an4, "train", speakers=["mrab", "mjhp"])["speaker"]) == {"mrab", "mjhp"}
    assert set(read_corpus(an4, "train", exclude_speakers=["mrab"])["speaker"]) == everyone - {"mrab"}
    both = read_corpus(an4, "train", speakers=["mrab", "mjhp"], exclude_speakers=["mrab"])
    assert both["speaker"][:] == ["mjhp"]
    with pytest.raises(CorpusError, match="not one utterance of the wanted speakers"):
        read_corpus(an4, "train", speakers=["nobody"])


# Data sets of the Hub: a folder of that relative name stands in for the Hub, the code of `datasets` is the same


def wave(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(int(RATE * seconds), 0.1), RATE, format="WAV")
    return file.getvalue()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A writer of Hub data sets; with `:default` behind them their names are no paths."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)

    def write(name: str, **splits: list[dict]) -> str:
        Path(name).mkdir(parents=True)
        for split, rows in splits.items():
            # Cast afterwards: encoding by the feature would need torchcodec.
            dataset = datasets.Dataset.from_list(rows)
            dataset.cast_column("recording", datasets.Audio(decode=False)).to_parquet(f"{name}/{split}.parquet")
        return f"{name}:default"

    return write


def hub_rows(*texts: str | None) -> list[dict]:
    return [
        {"id": i, "recording": {"bytes": wave(0.5 + i), "path": f"{i}.wav"}, "sentence": text, "speaker_id": i % 2}
        for i, text in enumerate(texts)
    ]


def test_a_hub_data_set(hub):
    name = hub("user/speech", train=hub_rows("ONE", "TWO", "THREE"), test=hub_rows("FOUR"))
    corpus = read_corpus(name)
    assert set(corpus.column_names) == {"audio", "text", "duration", "speaker"}
    assert corpus["text"][:] == ["ONE", "TWO", "THREE"]
    assert corpus["duration"][:] == [0.5, 1.5, 2.5]
    assert corpus["speaker"][:] == ["0", "1", "0"]
    assert len(read_audio(corpus[1]["audio"], RATE)) == 1.5 * RATE
    assert read_corpus(name, "test")["text"][:] == ["FOUR"]
    assert read_corpus(name, speakers=["1"])["text"][:] == ["TWO"]


def test_a_streamed_hub_data_set(hub):
    name = hub("user/speech", train=hub_rows("ONE", None, "THREE", "FOUR"))
    corpus = read_corpus(name, streaming=True)
    assert isinstance(corpus, datasets.IterableDataset)
    rows = list(corpus)
    assert [row["text"] for row in rows] == ["ONE", "THREE", "FOUR"]
    assert all(set(row) == {"audio", "text", "speaker", "duration"} for row in rows)
    assert [row["duration"] for row in rows] == [0.5, 2.5, 3.5]
    assert len(read_audio(rows[1]["audio"], RATE)) == 2.5 * RATE
    assert [row["text"] for row in read_corpus(name, streaming=True, speakers=["1"])] == ["FOUR"]


@pytest.mark.parametrize("reading", ["first", "cached"])
def test_bad_rows_of_a_hub_data_set_are_counted_and_named(hub, caplog, reading):
    rows = hub_rows("ONE", None, "THREE", "FOUR", "FIVE")
    rows[2]["recording"]["bytes"] = b"Dear Sir"
    rows[3]["recording"] = None
    rows[4]["speaker_id"] = None
    name = hub("user/speech", train=rows)
    corpus = read_corpus(name)
    if reading == "cached":
        caplog.clear()
        corpus = read_corpus(name)
    assert corpus["text"][:] == ["ONE", "FIVE"]
    assert corpus["speaker"][:] == ["0", None]
    assert "left out 3 of 5 rows" in caplog.text
    assert "row 1: no text" in caplog.text
    assert "row 2: 2.wav: not audio that can be read" in caplog.text
    assert "row 3: audio: expected a recording, got none" in caplog.text


def test_a_text_that_is_not_utf8_is_a_bad_row(hub, caplog):
    name = hub("user/speech", train=hub_rows("ONE", "TWO"))
    file = Path("user/speech/train.parquet")
    table = pyarrow.parquet.read_table(file)
    broken = pyarrow.array([b"ONE", "ÉTÉ".encode("latin-1")]).view(pyarrow.string())
    pyarrow.parquet.write_table(table.set_column(table.column_names.index("sentence"), "sentence", broken), file)
    assert read_corpus(name)["text"][:] == ["ONE"]
    assert "row 1: expected texts in UTF-8" in caplog.text


def test_a_hub_data_set_without_a_usable_row_is_an_error(hub):
    rows = hub_rows("ONE")
    rows[0]["recording"]["bytes"] = b"Dear Sir"
    with pytest.raises(CorpusError, match=r"^user/speech:default: not one usable row \(row 0: 0\.wav: not audio"):
        read_corpus(hub("user/speech", train=rows))


def test_a_hub_data_set_without_texts_is_an_error_that_names_its_columns(hub):
    rows = [{"recording": row["recording"], "label": 1} for row in hub_rows("ONE")]
    with pytest.raises(CorpusError, match=r"expected an audio column and one of text, .*got recording, label"):
        read_corpus(hub("user/speech", train=rows))


def test_an_error_inside_datasets_gives_its_reason(hub):
    hub("user/speech", train=hub_rows("ONE"))
    Path("user/speech/train.parquet").write_text("Dear Sir")
    with pytest.raises(CorpusError, match=r"^user/speech:default: .*[Pp]arquet") as caught:
        read_corpus("user/speech:default")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "split"),
    [("user/missing", None), ("user/speech:missing", None), ("user/speech:default", "missing")],
)
def test_an_unknown_hub_data_set_configuration_or_split_is_an_error(hub, name, split, streaming):
    hub("user/speech", train=hub_rows("ONE"))
    with pytest.raises(CorpusError, match=f"^{name}: .*missing") as caught:
        read_corpus(name, split, streaming=streaming)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["librispeech", "manifest"])
def test_a_split_that_is_not_there_never_gives_the_whole(kind, librispeech, tmp_path, an4_files):
    source = librispeech
    if kind == "manifest":
        source = tmp_path / "corpus.csv"
        source.write_text(f"path,text\n{an4_files[0]},HELLO\n")
    with pytest.raises(CorpusError, match="expected a folder named 'test' in it"):
        read_corpus(source, "test")


def test_an_unbalanced_quote_in_a_tsv_stays_in_its_row(tmp_path, an4_files):
    lines = ["path\tsentence", f'{an4_files[0]}\t"HELLO', f"{an4_files[1]}\tWORLD"]
    (tmp_path / "corpus.tsv").write_text("\n".join(lines) + "\n")
    assert read_corpus(tmp_path / "corpus.tsv")["text"][:] == ['"HELLO', "WORLD"]
