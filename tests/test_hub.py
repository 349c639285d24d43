"""Publishing and loading by id, over HTTP: a Hub on loopback, clients in processes of their own with empty caches."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from hub_server import Hub, client_process, running_hub
from safetensors.torch import load_file
from small_runs import PNG, TINY, TINY_CLASSIFIER

from hf_speechrec import BiLstmConfig, BiLstmForAudioClassification, LogMelFeatureExtractor
from hf_speechrec.audio import read_audio
from hf_speechrec.hub import HubError, check_loads_for_others, push_folder, write_hub_folder
from hf_speechrec.loading import CHECKPOINTS, ModelError, load_model, load_pipeline

RATE = 16_000  # Hz
CLIP = "wav/an4test_clstk/mmxg/cen6-mmxg-b.flac"
WORDS = "ONE FIVE TWO ONE THREE"
PUBLISHED = {  # by id: what the command is given, its task, its Auto class
    "user/an4": ("an4", "automatic-speech-recognition", "AutoModelForCTC"),
    "user/commands": ("speech-commands", "audio-classification", "AutoModelForAudioClassification"),
}
RECOGNIZER_CODE = {
    "configuration_resnet_bigru.py",
    "feature_extraction_log_mel.py",
    "modeling_resnet_bigru.py",
    "modeling_sequence.py",
}
CLASSIFIER_CODE = {
    "configuration_bilstm.py",
    "feature_extraction_log_mel.py",
    "modeling_bilstm.py",
    "modeling_sequence.py",
}
TOKENIZER = {"processor_config.json", "tokenizer_config.json", "vocab.json"}
CARD = {"title": "Numbers and letters", "training_data": "Ten utterances of AN4.", "license": "apache-2.0"}

# "with" the package or "without", where to write, samples; then id, task and Auto class of each model.
LOAD = """
import json, sys
mode, folder, samples, *rest = sys.argv[1:]
if mode == "without":
    sys.modules["hf_speechrec"] = None
else:
    import hf_speechrec
import numpy as np, torch, transformers
from pathlib import Path

samples, found = np.load(samples), {}
for name, task, auto in zip(rest[::3], rest[1::3], rest[2::3]):
    trust, refusals = {}, []
    if mode == "without":
        for kind in ("AutoConfig", "AutoFeatureExtractor", auto, "pipeline"):
            try:
                if kind == "pipeline":
                    transformers.pipeline(task, model=name)
                else:
                    getattr(transformers, kind).from_pretrained(name)
            except ValueError as error:
                refusals.append(str(error))
        if not found:  # of the second model the first one's code would be in the way
            refusals += [module for module in sys.modules if module.startswith("transformers_modules.")]
            modules = transformers.dynamic_module_utils.HF_MODULES_CACHE
            refusals += [str(path) for path in Path(modules).rglob("*.py") if path.stat().st_size]
        trust = {"trust_remote_code": True}
    load = lambda kind: getattr(transformers, kind).from_pretrained(name, **trust)
    config, extractor, model = load("AutoConfig"), load("AutoFeatureExtractor"), load(auto).eval()
    processor = load("AutoProcessor") if task.startswith("automatic") else extractor
    recognizer = transformers.pipeline(task, model=name, **trust)
    with torch.no_grad():
        inputs = processor(samples, sampling_rate=16_000, return_tensors="pt")
        np.save(Path(folder, f"{mode}-{name.replace('/', '-')}.npy"), model(**inputs).logits.numpy())
    found[name] = {
        "modules": sorted({type(part).__module__ for part in (config, extractor, model, recognizer.model)}),
        "processor": type(processor).__name__,
        "result": recognizer(samples),
        "refusals": refusals,
    }
print()  # behind transformers' question whether to trust
print(json.dumps(found))
"""

# Train with a push at every checkpoint, then publish the same model in the two other ways.
TRAIN = f"""
import sys
from unittest import mock
from transformers import AutoModelForCTC
from hf_speechrec.cli import app
from hf_speechrec.training import train
from small_runs import tiny_recipe

corpus, folder = sys.argv[1:]
recipe = tiny_recipe(corpus, folder, save_strategy="steps", save_steps=2, max_steps=4, card={CARD!r})
push = ["--push_to_hub", "true", "--hub_model_id", "user/trained", "--hub_strategy", "every_save"]
train(recipe, push, device="cpu")
AutoModelForCTC.from_pretrained(folder).push_to_hub("user/method")
with mock.patch("hf_speechrec.hub.check_loads_for_others"):  # passed a line above
    app(["push", folder, "user/command"])
"""


def start(hub: Hub, home: Path, *arguments, **variables: str) -> subprocess.Popen:
    """A client: Python in a new process, with its caches in `home`."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=hub.environment(home, OMP_NUM_THREADS="1", **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return out


def files(hub: Hub, repo: str, revision: str = "main") -> set[str]:
    return hub.repos["models", repo].find(revision).tree.keys() - {".gitattributes"}


def text(hub: Hub, repo: str, path: str) -> str:
    return hub.read(repo, path).decode()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def published(an4, runs) -> Iterator[Hub]:
    """A Hub with the bundled models, pushed by the command, and a trained model, pushed in three ways."""
    with running_hub(runs / "hub") as hub:
        clients = [
            start(hub, runs / f"home-of-{name}", "-m", "hf_speechrec", "push", name, repo)
            for repo, (name, _, _) in PUBLISHED.items()
        ]
        path = {"PYTHONPATH": str(Path(__file__).parent)}
        clients.append(start(hub, runs / "home-of-training", "-c", TRAIN, an4, runs / "trained", **path))
        for repo, client in zip([*PUBLISHED, "user/command"], clients, strict=True):
            address = output(client).splitlines()[-1]
            assert address == f"{hub.url}/{repo}/commit/{hub.repos['models', repo].find('main').sha}"
        yield hub


@pytest.fixture(scope="module")
def loaded(published, an4, runs) -> dict[str, dict]:
    """What processes with and without the package find under the published ids, and the folder of their logits."""
    np.save(runs / "samples.npy", read_audio(an4 / CLIP, RATE))
    models = [value for repo, (_, task, auto) in PUBLISHED.items() for value in (repo, task, auto)]
    models += ["user/trained", "automatic-speech-recognition", "AutoModelForCTC"]
    clients = {
        mode: start(published, runs / f"home-{mode}", "-c", LOAD, mode, runs, runs / "samples.npy", *models)
        for mode in ("with", "without")
    }
    return {mode: json.loads(output(client).splitlines()[-1]) for mode, client in clients.items()}


def logits(runs: Path, mode: str, repo: str) -> np.ndarray:
    return np.load(runs / f"{mode}-{repo.replace('/', '-')}.npy")


# Loading by id


@pytest.mark.parametrize("repo", [*PUBLISHED, "user/trained"])
def test_a_published_model_gives_the_same_with_the_package_and_without(loaded, an4, runs, repo):
    here = load_pipeline(PUBLISHED[repo][0] if repo in PUBLISHED else runs / "trained", "cpu")
    samples = read_audio(an4 / CLIP, RATE)
    with torch.no_grad():
        inputs = here.feature_extractor(samples, sampling_rate=RATE, return_tensors="pt")
        expected = here.model(**inputs).logits.numpy()
    result = here(samples)
    for mode, place in (("with", "hf_speechrec."), ("without", "transformers_modules.")):
        found = loaded[mode][repo]
        assert all(module.startswith(place) for module in found["modules"]), found["modules"]
        assert np.abs(logits(runs, mode, repo) - expected).max() < 1e-6
        if here.task == "automatic-speech-recognition":
            assert found["processor"] == "Wav2Vec2Processor"
            assert found["result"] == result
        else:
            assert found["processor"] == "LogMelFeatureExtractor"
            assert [item["label"] for item in found["result"]] == [item["label"] for item in result]
            assert [item["score"] for item in found["result"]] == pytest.approx([item["score"] for item in result])
    if repo == "user/an4":
        assert result["text"] == WORDS


@pytest.mark.parametrize("repo", PUBLISHED)
def test_without_package_and_trust_nothing_is_run_and_the_error_says_why(loaded, repo):
    refusals = loaded["without"][repo]["refusals"]
    assert len(refusals) == 4  # config, feature extractor, model, pipeline; and no code that was fetched all the same
    for refusal in refusals:
        assert f"The repository {repo} contains custom code which must be executed" in refusal
        assert "trust_remote_code=True" in refusal


# What a repository holds


@pytest.mark.parametrize(
    ("repo", "expected"),
    [
        ("user/an4", RECOGNIZER_CODE | TOKENIZER | {"training.png"}),
        ("user/commands", CLASSIFIER_CODE | {"preprocessor_config.json", "training.png", "confusion_matrix.png"}),
    ],
)
def test_a_repository_is_whole_and_holds_nothing_else(published, repo, expected):
    folder = CHECKPOINTS / PUBLISHED[repo][0]
    facts = {name for name in ("all_results.json", "model_card.json") if (folder / name).exists()}
    assert files(published, repo) == expected | facts | {"README.md", "config.json", "model.safetensors"}
    for name in ["model.safetensors", "training.png", *facts]:
        assert published.read(repo, name) == (folder / name).read_bytes()
    code = {path: published.read(repo, path) for path in expected if path.endswith(".py")}
    assert code == {path: (CHECKPOINTS.parent / path).read_bytes() for path in code}


def test_the_configs_name_the_classes_beside_the_weights(published):
    assert json.loads(text(published, "user/an4", "config.json"))["auto_map"] == {
        "AutoConfig": "configuration_resnet_bigru.ResNetBiGruConfig",
        "AutoModelForCTC": "modeling_resnet_bigru.ResNetBiGruForCTC",
    }
    assert json.loads(text(published, "user/commands", "config.json"))["auto_map"] == {
        "AutoConfig": "configuration_bilstm.BiLstmConfig",
        "AutoModelForAudioClassification": "modeling_bilstm.BiLstmForAudioClassification",
    }
    extractor = {"AutoFeatureExtractor": "feature_extraction_log_mel.LogMelFeatureExtractor"}
    processor = json.loads(text(published, "user/an4", "processor_config.json"))
    assert processor["feature_extractor"]["auto_map"] == extractor
    assert json.loads(text(published, "user/commands", "preprocessor_config.json"))["auto_map"] == extractor


@pytest.mark.parametrize("repo", PUBLISHED)
def test_the_card_is_for_the_published_name(published, repo):
    card, task = text(published, repo, "README.md"), PUBLISHED[repo][1]
    data = yaml.safe_load(card.split("---")[1])
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", task)
    assert "hf_speechrec" in data["tags"]
    assert f'pipeline("{task}", model="{repo}")' in card
    assert f'pipeline("{task}", model="{repo}", trust_remote_code=True)' in card
    assert "![Training over the epochs](training.png)" in card
    assert str(CHECKPOINTS) not in card


def test_a_bundled_models_measurements_are_published_with_it(published):
    data = yaml.safe_load(text(published, "user/an4", "README.md").split("---")[1])
    (wer,) = [m["value"] for r in data["model-index"][0]["results"] for m in r["metrics"] if m["type"] == "wer"]
    bundled = yaml.safe_load((CHECKPOINTS / "an4" / "README.md").read_text().split("---")[1])
    assert wer in [m["value"] for r in bundled["model-index"][0]["results"] for m in r["metrics"]]


def test_a_model_folder_carries_its_language_model_its_lexicon_and_that_ones_licence(tmp_path):
    source = shutil.copytree(CHECKPOINTS / "an4", tmp_path / "mine")
    companions = ("language_model.arpa.gz", "language_model.json", "lexicon.txt.gz", "CMUDICT-LICENSE")
    for name in companions:
        (source / name).write_bytes(name.encode())
    (source / "LICENSES").mkdir()
    model, processor = load_model(source)
    write_hub_folder(model, tmp_path / "staged", "user/mine", processor)
    for name in companions:
        assert (tmp_path / "staged" / name).read_bytes() == name.encode()


def test_three_ways_of_publishing_give_the_same_repository(published, runs):
    command = files(published, "user/command")
    assert RECOGNIZER_CODE | TOKENIZER | {"README.md", "config.json", "model.safetensors", "training.png"} < command
    assert files(published, "user/method") == command
    assert files(published, "user/trained") == command
    assert published.read("user/command", "model.safetensors") == (runs / "trained" / "model.safetensors").read_bytes()


# Training that publishes


def test_training_publishes_every_checkpoint_and_nothing_that_is_not_for_others(published):
    history = published.repos["models", "user/trained"].history(published.repos["models", "user/trained"].find("main"))
    commits = [commit for commit in history if commit.parent]
    assert commits[0].title == "End of training"
    assert "Training in progress, step 2" in [commit.title for commit in commits]
    whole = RECOGNIZER_CODE | TOKENIZER | {"README.md", "config.json", "model.safetensors"}
    for commit in commits:
        assert whole <= commit.tree.keys(), commit.title
        unwanted = [
            path
            for path in commit.tree
            if path.startswith(("_", "checkpoint-", "last-checkpoint", "runs/"))
            or path.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))
            or path in ("optimizer.safetensors", "trainer_state.json")
        ]
        assert unwanted == [], commit.title


def test_the_trainers_card_is_ours(published):
    for repo in ("user/trained", "user/method", "user/command"):
        card = text(published, repo, "README.md")
        assert card.splitlines().count("# Numbers and letters") == 1
        assert CARD["training_data"] in card
        assert f'model="{repo}"' in card
        assert "![Training over the epochs](training.png)" in card
        assert "learning_rate" in card
        assert "generated automatically" not in card  # transformers' draft
        assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    assert published.read("user/trained", "training.png").startswith(PNG)


def test_the_published_weights_are_the_last(published, runs):
    last = load_file(runs / "trained" / "model.safetensors")
    (runs / "pushed.safetensors").write_bytes(published.read("user/trained", "model.safetensors"))
    pushed = load_file(runs / "pushed.safetensors")
    assert pushed.keys() == last.keys()
    assert [name for name in last if not pushed[name].equal(last[name])] == []


# In one process: what the command answers, how a load goes on. Each start would take seconds.


def _command(arguments: list[str], variables: dict[str, str | None]) -> tuple[int, str, str]:
    """In the client's process: the command; a variable that is None is removed."""
    from hf_speechrec.cli import app

    logging.getLogger().handlers.clear()  # of the last command, with its stderr
    out, err = StringIO(), StringIO()
    environment = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
    # That others can load it is shown above, and takes a process.
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch("hf_speechrec.hub.check_loads_for_others"),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as code,
    ):
        app(arguments)
    return code.value.code, out.getvalue(), err.getvalue()


def _hidden_size(name: str, options: dict) -> int | str:
    """In the client's process: the hidden size of a model on the Hub, or its error."""
    import transformers

    try:
        return transformers.AutoModelForAudioClassification.from_pretrained(name, **options).config.hidden_size
    except OSError as error:
        return str(error)


@pytest.fixture(scope="module")
def client(local_server, tmp_path_factory) -> Iterator[ProcessPoolExecutor]:
    with client_process(local_server, tmp_path_factory.mktemp("home")) as pool:
        yield pool


@pytest.fixture
def command(client) -> Callable[..., tuple[int, str, str]]:
    """Runs `hf-speechrec`; gives exit code, stdout and stderr."""

    def run(*arguments, **variables: str | None) -> tuple[int, str, str]:
        return client.submit(_command, [str(argument) for argument in arguments], variables).result()

    return run


@pytest.fixture
def hidden_size(client) -> Callable[..., int | str]:
    return lambda name, **options: client.submit(_hidden_size, name, options).result()


@pytest.fixture
def write_model(tmp_path) -> Callable[[int], Path]:
    """A writer of folders with small classifiers."""

    def write(hidden_size: int = 4) -> Path:
        folder = tmp_path / f"model-{hidden_size}"
        config = BiLstmConfig(**TINY_CLASSIFIER | {"hidden_size": hidden_size}, input_size=20, num_labels=2)
        BiLstmForAudioClassification(config).save_pretrained(folder)
        LogMelFeatureExtractor(feature_size=20).save_pretrained(folder)
        return folder

    return write


def one_line(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_branch_and_a_pull_request_leave_main_as_it_is(command, hidden_size, local_hub, write_model):
    assert command("push", write_model(4), "user/branched", "--message", "The first")[0] == 0
    repo = local_hub.repos["models", "user/branched"]
    first = repo.find("main")
    assert (first.title, repo.private) == ("The first", False)
    code, out, err = command("push", write_model(5), "user/branched", "--revision", "v2")
    assert (code, err) == (0, "")
    assert out == f"{local_hub.url}/user/branched/commit/{repo.find('v2').sha}\n"
    code, out, err = command("push", write_model(6), "user/branched", "--create-pr")
    assert (code, out, err) == (0, f"{local_hub.url}/user/branched/discussions/1\n", "")
    assert repo.find("main") == first
    assert hidden_size("user/branched") == 4
    assert hidden_size("user/branched", revision="v2") == 5
    assert hidden_size("user/branched", revision="refs/pr/1") == 6
    assert hidden_size("user/branched", revision=first.sha) == 4
    assert "v9 is not a valid git identifier" in hidden_size("user/branched", revision="v9")


def test_pushed_again_it_is_a_commit_more(command, hidden_size, local_hub, write_model):
    for size in (4, 5):
        assert command("push", write_model(size), "user/again")[0] == 0
    repo = local_hub.repos["models", "user/again"]
    assert [commit.title for commit in repo.history(repo.find("main"))] == ["Upload the model"] * 2 + ["initial commit"]
    assert hidden_size("user/again") == 5


def test_a_private_model_needs_a_token(command, local_hub, an4):
    assert command("push", CHECKPOINTS / "an4", "user/private", "--private")[::2] == (0, "")
    assert local_hub.repos["models", "user/private"].private
    transcribe = ("transcribe", an4 / CLIP, "--model", "user/private", "--device", "cpu")
    for variables in ({"HF_TOKEN": None}, {"HF_TOKEN": local_hub.stranger}):
        assert "user/private" in one_line(command(*transcribe, **variables))
    assert command(*transcribe) == (0, f"{WORDS}\n", "")


def test_a_second_load_needs_no_server(command, local_hub, an4):
    assert command("push", "an4", "user/cached")[0] == 0
    transcribe = ("transcribe", an4 / CLIP, "--model", "user/cached", "--device", "cpu")
    assert command(*transcribe) == (0, f"{WORDS}\n", "")
    asked = len(local_hub.requests)
    local_hub.stop()
    try:
        code, out, err = command(*transcribe)
    finally:
        local_hub.start()
    assert (code, out) == (0, f"{WORDS}\n")
    assert "Retrying" not in err  # each question to a server that is away is asked six times, for 23 seconds
    assert len(local_hub.requests) == asked


def test_a_first_load_without_a_server_is_one_line(command, local_hub, an4):
    local_hub.stop()
    try:
        line = one_line(command("transcribe", an4 / CLIP, "--model", "user/absent"))
    finally:
        local_hub.start()
    assert line == "error: user/absent: the Hub cannot be reached, and it is not in the cache"


@pytest.mark.usefixtures("local_hub")
def test_a_model_that_is_not_there_is_one_line(command, an4):
    assert "user/missing" in one_line(command("transcribe", an4 / CLIP, "--model", "user/missing"))
    assert "no such folder" in one_line(command("push", "user-missing", "user/name"))


# What cannot be published


def test_without_a_token_nothing_is_published(command, local_hub, write_model):
    folder = write_model()
    for token in (None, "hf_of_nobody"):
        line = one_line(command("push", folder, "user/mine", HF_TOKEN=token))
        assert "token" in line
        assert "hf auth login" in line
    assert local_hub.repos == {}


def test_somebody_elses_name_is_refused(command, local_hub, write_model):
    folder = write_model(4)
    assert command("push", folder, "user/mine")[0] == 0
    before = dict(local_hub.repos["models", "user/mine"].refs)
    other = write_model(5)
    for name in ("user/mine", "user/new"):
        line = one_line(command("push", other, name, HF_TOKEN=local_hub.stranger))
        assert name in line
        assert "the token may not write there" in line
    assert local_hub.repos["models", "user/mine"].refs == before
    assert list(local_hub.repos) == [("models", "user/mine")]


@pytest.mark.parametrize("name", ["user/a/b", "user/a b", "user/a--b", "user/-a", "/a"])
def test_a_malformed_id_is_named(command, local_hub, write_model, name):
    line = one_line(command("push", write_model(), name))
    assert line.startswith(f"error: {name}: expected an id such as user/name")
    assert local_hub.repos == {}


def test_without_a_network_it_says_so(command, local_hub, write_model):
    folder = write_model()
    local_hub.stop()
    try:
        line = one_line(command("push", folder, "user/mine"))
    finally:
        local_hub.start()
    assert "user/mine: not published, the Hub cannot be reached" in line
    assert local_hub.requests == []


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_folder_that_is_not_whole_is_refused_before_anything_is_asked(command, local_hub, write_model, missing):
    folder = write_model()
    (folder / missing).unlink()
    assert str(folder) in one_line(command("push", folder, "user/mine"))
    assert local_hub.requests == []


@pytest.mark.parametrize("status", [500, None])
def test_an_upload_that_breaks_off_once_is_tried_again(command, local_hub, write_model, status):
    local_hub.fail_next(1, "POST .*/commit/", status)
    code, out, err = command("push", write_model(), "user/mine")
    repo = local_hub.repos["models", "user/mine"]
    assert (code, out) == (0, f"{local_hub.url}/user/mine/commit/{repo.find('main').sha}\n"), err
    assert len(repo.commits) == 2
    assert files(local_hub, "user/mine") > CLASSIFIER_CODE
    (line,) = err.splitlines()
    assert "attempt 2 of 3" in line


@pytest.mark.parametrize(
    ("request_", "status"), [("POST .*/commit/", 500), ("POST .*/commit/", 400), ("PUT /lfs/", 403)]
)
def test_an_upload_that_always_breaks_off_changes_nothing(command, local_hub, write_model, request_, status):
    assert command("push", write_model(4), "user/mine")[0] == 0
    before = files(local_hub, "user/mine"), dict(local_hub.repos["models", "user/mine"].refs)
    local_hub.fail_next(99, request_, status)
    code, out, err = command("push", write_model(5), "user/mine")
    assert (code, out) == (1, "")
    *attempts, line = err.splitlines()
    assert len(attempts) == (2 if status == 500 else 0)
    assert line.startswith("error: user/mine: not published")
    assert (files(local_hub, "user/mine"), local_hub.repos["models", "user/mine"].refs) == before


def test_of_a_model_that_was_never_saved_the_current_folder_is_not_published(tmp_path, monkeypatch):
    config = BiLstmConfig(**TINY_CLASSIFIER, input_size=20, num_labels=2)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "of-nobody-else.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path / "here")
    model, extractor = BiLstmForAudioClassification(config), LogMelFeatureExtractor(feature_size=20)
    write_hub_folder(model, tmp_path / "staged", "user/mine", extractor)
    expected = CLASSIFIER_CODE | {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in (tmp_path / "staged").iterdir()} == expected
    with pytest.raises(HubError, match="expected a processor"):
        write_hub_folder(model, tmp_path / "other", "user/mine")


# What would not load for others


@pytest.fixture
def stage(write_model, tmp_path) -> Callable[[str], Path]:
    """Writes a model as it would be published, with more code behind its own."""

    def write(code: str) -> Path:
        model, extractor = load_model(write_model())
        write_hub_folder(model, tmp_path / "staged", "user/mine", extractor)
        with (tmp_path / "staged" / "modeling_bilstm.py").open("a") as file:
            file.write(code)
        return tmp_path / "staged"

    return write


def test_code_that_needs_more_than_others_have_is_not_published(stage, write_model, monkeypatch):
    staged, uploads = stage("\nimport a_package_of_nobody\n"), []
    monkeypatch.setattr("hf_speechrec.hub.write_hub_folder", lambda _, to, *__: shutil.copytree(staged, to))
    monkeypatch.setattr("hf_speechrec.hub.upload", lambda *given, **_: uploads.append(given))
    with pytest.raises(HubError, match=r"would not load for others, so it was not published \(.*a_package_of_nobody"):
        push_folder(write_model(), "user/mine")
    assert uploads == []


@pytest.mark.slow
def test_code_that_gives_something_else_is_not_published(stage):
    staged = stage(
        "\n\n_forward = BiLstmForAudioClassification.forward\n\n\n"
        "def _other(self, *args, **kwargs):\n"
        "    output = _forward(self, *args, **kwargs)\n"
        "    output.logits = output.logits + 0.5\n"
        "    return output\n\n\n"
        "BiLstmForAudioClassification.forward = _other\n"
    )
    with pytest.raises(HubError, match=r"its logits differ by 5\.0e-01: not published"):
        check_loads_for_others(staged)


@pytest.mark.slow
def test_a_folder_without_code_is_not_published():
    with pytest.raises(HubError, match="would not load for others"):
        check_loads_for_others(CHECKPOINTS / "an4")


# A config that does not fit


@pytest.fixture
def reconfigured(tmp_path) -> Callable[..., Path]:
    """A bundled model whose config is changed; None removes a key."""

    def change(name: str, **values) -> Path:
        folder = shutil.copytree(CHECKPOINTS / name, tmp_path / name)
        config = json.loads((folder / "config.json").read_text()) | values
        config = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return change


@pytest.mark.parametrize("name", ["an4", "speech-commands"])
def test_an_unknown_key_is_kept_and_warned_of(reconfigured, caplog, name):
    folder = reconfigured(name, key_of_a_newer_version=3)
    model, _ = load_model(folder)
    assert model.config.key_of_a_newer_version == 3
    (warning,) = [record for record in caplog.records if record.name == "hf_speechrec.loading"]
    assert warning.levelno == logging.WARNING
    assert "key_of_a_newer_version" in warning.getMessage()
    assert str(folder) in warning.getMessage()
    caplog.clear()
    load_model(name)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("an4", {"hidden_size": "256"}),
        ("an4", {"conv_channels": 1.5}),
        ("an4", {"time_reduction": 3}),
        ("an4", {"chunk_frames": -1}),
        ("speech-commands", {"hidden_size": [128]}),
        ("speech-commands", {"pooling": 5}),
    ],
)
def test_a_key_of_the_wrong_type_or_range_is_one_line(reconfigured, name, values):
    folder = reconfigured(name, **values)
    with pytest.raises(ModelError) as error:
        load_model(folder)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{folder}: not a model that can be loaded (")
    assert next(iter(values)) in line


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("an4", {"num_hidden_layers": 4}, "expected weights .* got none"),  # transformers would draw them at random
        ("an4", {"hidden_size": 1_000_000}, r"expected weights .* \[.*1000000.*, got \["),
        ("an4", {"num_hidden_layers": 10**9}, "expected num_hidden_layers to be at most 100"),
        ("an4", {"num_mel_bins": 40}, "expected num_mel_bins 80, as the feature extractor has it, got 40"),
        ("an4", {"hop_length": 320}, "expected hop_length 160, as the feature extractor has it, got 320"),
        ("an4", {"vocab_size": 20}, "expected tokens numbered 0 to 19, got 20"),
        ("an4", {"text_normalizer": {"case": "sideways"}}, "sideways"),
        ("speech-commands", {"num_hidden_layers": 101}, "expected num_hidden_layers to be at most 100"),
        (
            "speech-commands",
            {"num_labels": 10**12, "id2label": None, "label2id": None},
            "expected at most 1000000 labels",
        ),
    ],
)
def test_a_config_that_does_not_fit_its_folder_is_one_line_and_takes_no_memory(reconfigured, name, values, message):
    folder = reconfigured(name, **values)
    with pytest.raises(ModelError, match=rf"not a model that can be loaded \(.*{message}") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_could_not_encode_is_refused(reconfigured):
    path = reconfigured("an4") / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "long"}))
    with pytest.raises(ModelError, match="expected model_max_length to be a number, got 'long'"):
        load_model(path.parent)


def test_a_checkpoint_older_than_a_key_has_its_default(reconfigured, speech):
    keys = ("chunk_frames", "lookahead_frames", "chunked_training_probability", "share_block_layers", "hidden_dropout")
    folder = reconfigured("an4", **dict.fromkeys(keys))
    assert not set(keys) & json.loads((folder / "config.json").read_text()).keys()
    old, extractor = load_model(folder)
    assert (old.config.chunk_frames, old.config.lookahead_frames, old.config.share_block_layers) == (0, 0, False)
    assert old.config.hidden_dropout == 0.2
    new, _ = load_model("an4")
    with torch.no_grad():
        inputs = extractor.feature_extractor(speech, sampling_rate=RATE, return_tensors="pt")
        assert old.eval()(**inputs).logits.equal(new.eval()(**inputs).logits)


@pytest.mark.slow
def test_a_data_set_is_published_and_trained_from_as_a_stream(command, local_hub, an4, tmp_path):
    code, out, err = command("prepare", an4, tmp_path / "data", "--splits", "train,test", "--push", "user/data")
    assert (code, err) == (0, "")
    assert local_hub.url in out
    paths = local_hub.repos["datasets", "user/data"].find("main").tree
    assert sum(path.startswith("data/train-") and path.endswith("-of-00008.parquet") for path in paths) == 8
    recipe = {
        "corpus": "user/data",
        "train_split": "train",
        "held_out": "test",
        "streaming": True,
        "model": TINY,
        "features": {"feature_size": 20},
        "training": {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = ["--device", "cpu", "--output_dir", tmp_path / "run"]
    code, out, err = command("train", tmp_path / "recipe.yaml", *options)
    assert code == 0, err
    assert f"The model is in {tmp_path / 'run'}" in out
    assert set("FIVE") <= json.loads((tmp_path / "run" / "vocab.json").read_text()).keys()
    assert "eval_wer" in json.loads((tmp_path / "run" / "all_results.json").read_text())
    read = [path for method, path in local_hub.requests if method == "GET" and "/data/train-" in path]
    assert read  # over the wire, not from the folder
