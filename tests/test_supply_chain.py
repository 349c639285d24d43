"""What strangers hand over is data: neither a pickle in any of its places nor a model's own code is run unasked."""

import gzip
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import RATE
from small_runs import tiny_recipe
from typer.testing import CliRunner

from hf_speechrec import BiLstmForAudioClassification
from hf_speechrec.audio import AudioError, read_audio
from hf_speechrec.cli import app
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.hub_corpora import hub_dataset
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.language_model import LanguageModelError, read_weights, read_words, text_lines
from hf_speechrec.loading import CHECKPOINTS, ModelError, load_model
from hf_speechrec.pronunciation import LexiconError, read_lexicon
from hf_speechrec.recipe import Recipe
from hf_speechrec.training import train


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.fixture
def sprung(tmp_path) -> Path:
    """The file that only a trap writes."""
    return tmp_path / "sprung"


@pytest.fixture
def trap(sprung) -> bytes:
    content = pickle.dumps(Trap(sprung))
    pickle.loads(content)
    assert sprung.exists()  # it does work
    sprung.unlink()
    return content


def refused(call: Callable, kind: type[Exception], sprung: Path) -> str:
    """The one line of an error."""
    with pytest.raises(kind) as error:
        call()
    assert not sprung.exists()
    (line,) = str(error.value).splitlines()
    return line


# Files


@pytest.fixture(params=["an4", "speech-commands"])
def model(request, tmp_path) -> Path:
    return shutil.copytree(CHECKPOINTS / request.param, tmp_path / "model")


def test_weights_that_would_have_to_be_unpickled_are_not_read(model, trap, sprung):
    weights = model / "model.safetensors"
    (model / "pytorch_model.bin").write_bytes(trap)
    assert load_model(model)[0].num_parameters() > 0  # they lie beside those that are
    weights.unlink()
    assert "no file named model.safetensors" in refused(lambda: load_model(model), ModelError, sprung)
    torch.save({"fc.weight": Trap(sprung)}, model / "pytorch_model.bin")
    assert "no file named model.safetensors" in refused(lambda: load_model(model), ModelError, sprung)
    weights.write_bytes(trap)
    assert str(model) in refused(lambda: load_model(model), ModelError, sprung)


def test_every_other_file_of_a_model_is_text(model, trap, sprung):
    for path in sorted(model.glob("*config.json")) + sorted(model.glob("vocab.json")):
        content = path.read_bytes()
        path.write_bytes(trap)
        assert refused(lambda: load_model(model), ModelError, sprung).startswith(f"{model}: not a model")
        path.write_bytes(content)


def test_an_exported_model_is_no_pickle(tmp_path, trap, sprung):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = shutil.copytree(CHECKPOINTS / "an4", tmp_path / "model")
    (model / "model.safetensors").unlink()
    for name in ("encoder.onnx", "recurrence.onnx"):
        (model / name).write_bytes(trap)
    assert "expected an exported model" in refused(lambda: load_model(model), ModelError, sprung)


@pytest.mark.parametrize(
    ("name", "read", "kind"),
    [
        ("x.pth", BiLstmForAudioClassification.from_state_dict_file, ValueError),
        ("x.wav", lambda path: read_audio(path, RATE), AudioError),
        ("x.csv", read_corpus, CorpusError),
        ("x.jsonl", read_labelled_corpus, CorpusError),
        ("x.arpa", read_words, LanguageModelError),
        ("x.arpa.gz", read_words, LanguageModelError),
        ("x.txt.gz", lambda path: list(text_lines(path)), LanguageModelError),
        ("x.json", lambda path: read_weights(path.with_suffix(".arpa")), LanguageModelError),
        ("lexicon.txt", read_lexicon, LexiconError),
        ("lexicon.txt.gz", read_lexicon, LexiconError),
        ("recipe.yaml", Recipe.from_yaml, ValueError),
    ],
)
def test_a_pickle_in_place_of_a_file_is_refused(tmp_path, trap, sprung, name, read, kind):
    path = tmp_path / name
    path.write_bytes(gzip.compress(trap) if name.endswith(".gz") else trap)
    assert refused(lambda: read(path), kind, sprung).startswith(str(path))


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "train.parquet"])
def test_a_pickle_in_place_of_a_table_is_refused(tmp_path, trap, sprung, name):
    (tmp_path / "corpus" / "data").mkdir(parents=True)
    (tmp_path / "corpus" / "data" / name).write_bytes(trap)
    assert "corpus: " in refused(lambda: read_corpus(tmp_path / "corpus"), CorpusError, sprung)


TAG = "!!python/object/apply:builtins.exec"


def test_yaml_makes_no_objects(tmp_path, sprung):
    code = f"open({str(sprung)!r}, 'w').close()"
    yaml.unsafe_load(f"{TAG} [{json.dumps(code)}]")
    assert sprung.exists()  # it does work
    sprung.unlink()
    recipe = tmp_path / "recipe.yaml"
    for content in (f"corpus: {TAG} [{json.dumps(code)}]\n", "corpus: !!python/name:os.system\n", "corpus: !x 1\n"):
        recipe.write_text(content)
        assert refused(lambda: Recipe.from_yaml(recipe), ValueError, sprung).startswith(f"{recipe}: not a recipe")
    recipe.write_text("corpus: x\n")
    result = CliRunner().invoke(app, ["train", str(recipe), "--lexicon", f"{TAG} [{json.dumps(code)}]"])
    assert (result.exit_code, sprung.exists()) == (1, False)
    assert result.output.startswith("error: --lexicon: expected a YAML value")


def test_the_card_of_a_data_set_makes_no_objects(tmp_path, an4, sprung):
    corpus = tmp_path / "corpus"
    result = CliRunner().invoke(app, ["prepare", str(an4), str(corpus), "--splits", "train"])
    assert result.exit_code == 0, result.output
    code = f"open({str(sprung)!r}, 'w').close()"
    (corpus / "README.md").write_text(f"---\nconfigs: {TAG} [{json.dumps(code)}]\n---\n# Data\n")
    assert "corpus: " in refused(lambda: read_corpus(corpus, "train"), CorpusError, sprung)


# A checkpoint to resume from


@pytest.fixture(scope="module")
def broken_off(an4, tmp_path_factory) -> Path:
    """A run with a checkpoint after two of four steps."""
    folder = tmp_path_factory.mktemp("run") / "model"
    train(tiny_recipe(an4, folder, max_steps=2, save_strategy="steps", save_steps=2), device="cpu")
    return folder


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "pytorch_model.bin"]
)
def test_a_pickle_in_a_checkpoint_is_refused(an4, broken_off, tmp_path, trap, sprung, name, form):
    checkpoint = shutil.copytree(broken_off / "checkpoint-2", tmp_path / "checkpoint-2")
    (checkpoint / name).write_bytes(trap)
    if form == "torch":
        torch.save({"python": Trap(sprung)}, checkpoint / name)
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    recipe = tiny_recipe(an4, tmp_path / "model")
    resume = ["--resume_from_checkpoint", str(checkpoint)]
    line = refused(lambda: train(recipe, resume, device="cpu"), ValueError, sprung)
    read = "model.safetensors" if name == "pytorch_model.bin" else name
    assert line.startswith(f"{checkpoint}: expected a checkpoint folder to resume from, but its {read} cannot be read")


def test_the_arguments_of_the_broken_run_are_not_read(an4, broken_off, tmp_path, trap, sprung):
    """They are the one pickle that transformers writes into a checkpoint."""
    checkpoint = shutil.copytree(broken_off / "checkpoint-2", tmp_path / "checkpoint-2")
    (checkpoint / "training_args.bin").write_bytes(trap)
    train(tiny_recipe(an4, tmp_path / "model"), ["--resume_from_checkpoint", str(checkpoint)], device="cpu")
    assert json.loads((tmp_path / "model" / "trainer_state.json").read_text())["global_step"] == 4
    assert not sprung.exists()


# Code of a model

EVIL = """
from pathlib import Path
Path({sprung!r}).write_text("")
from transformers import PreTrainedConfig, SequenceFeatureExtractor
class EvilConfig(PreTrainedConfig):
    model_type = "evil"
class EvilExtractor(SequenceFeatureExtractor):
    pass
"""


@pytest.fixture(params=["its config", "our config", "its feature extractor"])
def with_code(request, tmp_path, sprung) -> Path:
    """A model folder with code of its own, which its config or feature extractor asks for."""
    model = shutil.copytree(CHECKPOINTS / "an4", tmp_path / "model")
    (model / "evil.py").write_text(EVIL.format(sprung=str(sprung)))
    file, auto_map = "config.json", {"AutoConfig": "evil.EvilConfig", "AutoModelForCTC": "evil.EvilModel"}
    changes = {"model_type": "evil"} if request.param == "its config" else {}
    if request.param == "its feature extractor":
        file, auto_map = "processor_config.json", {"AutoFeatureExtractor": "evil.EvilExtractor"}
    values = json.loads((model / file).read_text())
    part = values["feature_extractor"] if "feature" in request.param else values
    part |= {"auto_map": auto_map} | changes
    if "feature" in request.param:
        part["feature_extractor_type"] = "EvilExtractor"
    (model / file).write_text(json.dumps(values))
    return model


def test_a_models_code_is_not_run_nor_asked_about(with_code, sprung, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to transformers' question on a terminal
    if json.loads((with_code / "config.json").read_text())["model_type"] == "evil" or "Evil" in (
        with_code / "processor_config.json"
    ).read_text(encoding="utf-8"):
        assert "contains custom code" in refused(lambda: load_model(with_code), ModelError, sprung)
    else:
        assert type(load_model(with_code)[0]).__module__.startswith("hf_speechrec.")
        assert not sprung.exists()


LOAD = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from transformers import AutoConfig
from hf_speechrec.loading import ModelError, load_model

sprung, folder, name = Path(sys.argv[1]), *sys.argv[2:]
HfApi().create_repo(name)
HfApi().upload_folder(repo_id=name, folder_path=folder)
try:
    load_model(name)
except ModelError as error:
    print(error)
print(sprung.exists())
AutoConfig.from_pretrained(name, trust_remote_code=True)
print(sprung.exists())
"""


@pytest.mark.slow
@pytest.mark.parametrize("with_code", ["its config"], indirect=True)
def test_code_from_the_hub_is_run_on_the_users_word_alone(with_code, sprung, local_hub, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", LOAD, sprung, with_code, "user/evil"],
        env=local_hub.environment(tmp_path / "home"),
        input="y\n" * 9,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    line, before, after = process.stdout.splitlines()
    assert line.startswith("user/evil: not a model that can be loaded (The repository ")
    assert "contains custom code" in line
    assert (before, after) == ("False", "True")


def test_a_script_in_a_data_set_is_not_run(tmp_path, an4, sprung, monkeypatch):
    corpus = tmp_path / "corpus"
    assert CliRunner().invoke(app, ["prepare", str(an4), str(corpus), "--splits", "train"]).exit_code == 0
    (corpus / "corpus.py").write_text(EVIL.format(sprung=str(sprung)))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert "corpus" in refused(lambda: hub_dataset(str(corpus), "train", "text"), CorpusError, sprung)
