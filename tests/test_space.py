"""The Space: it holds everything that it needs, private or not, and lands on the Hub."""

import filecmp
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from hub_server import running_hub
from page_server import page_server

from hf_speechrec.hub import HubError
from hf_speechrec.space import write_space

pytest.importorskip("gradio", reason="the extra demo is not installed")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "files"
    write_space(folder, "user/mine", "speech-commands")
    return folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_it_holds_the_page_the_examples_and_the_package(space, repository):
    names = files(space)
    code = {f"hf_speechrec/{path.relative_to(repository / 'hf_speechrec')}" for path in repository.glob("hf_*/**/*.py")}
    page = {f"hf_speechrec/page/{name}" for name in ("style.css", "head.html", "microphone.html", "microphone.js")}
    examples = {f"hf_speechrec/space/examples/{path.name}" for path in (repository / "demo" / "examples").iterdir()}
    assert {"app.py", "README.md", "requirements.txt"} | code | page | examples <= names
    assert not [name for name in names if name.endswith((".whl", ".pyc"))]
    # Of the bundled models the one that it runs.
    models = {name.split("/")[2] for name in names if name.startswith("hf_speechrec/checkpoints/")}
    assert models == {"speech-commands"}


def test_the_requirements_are_what_the_package_and_its_page_need(space, repository):
    """Names from the package index alone: an address in the Space itself would want a token where it is private."""
    lines = (space / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["demo"]]

    def plain(requirement):  # the metadata's spelling of it
        name = requirement[: next(i for i, c in enumerate(requirement) if c in "<>=")]
        return name.replace("_", "-"), sorted(requirement.removeprefix(name).split(","))

    assert sorted(map(plain, lines)) == sorted(map(plain, wanted))
    assert not [line for line in lines if "hf_speechrec" in line or "@" in line or "/" in line]


def test_the_front_matter_and_the_app_name_what_it_runs(space):
    facts = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (facts["sdk"], facts["app_file"], facts["models"]) == ("gradio", "app.py", ["user/mine"])
    assert facts["sdk_version"].startswith("6.")
    assert facts["python_version"] == "3.11"  # as text: 3.10 would be the number 3.1
    app = (space / "app.py").read_text()
    assert 'os.environ.get("RECOGNIZER", "user/mine")' in app
    assert 'os.environ.get("CLASSIFIER", "speech-commands")' in app
    compile(app, "app.py", "exec")


def test_its_package_is_the_one_that_its_app_imports(space):
    """And finds its examples, without being installed."""
    code = "import hf_speechrec.hub as h; print(h.__file__); print(*sorted(p.name for p in h.EXAMPLES.glob('*.flac')))"
    environment = {**os.environ, "PYTHONPATH": str(space)}
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, cwd=space.parent, env=environment, capture_output=True, text=True, check=True)
    origin, examples = result.stdout.splitlines()
    assert origin == str(space / "hf_speechrec" / "hub.py")
    assert examples == "an4-seven-digits.flac an4-spelled-name.flac"


def test_a_model_that_nobody_else_has_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in (str(tmp_path / "mine"), "no-such-model"):
        with pytest.raises(HubError, match="a Space reads bundled models and those on the Hub"):
            write_space(tmp_path / "out", name, "speech-commands")


@pytest.mark.slow
def test_an_installed_package_writes_the_same(space, repository, tmp_path):
    """As for somebody without a checkout."""
    options = ["--quiet", "--no-deps", "--no-compile", "--no-build-isolation"]  # pip would fetch hatchling
    install = [sys.executable, "-m", "pip", "install", *options, "--target", tmp_path / "site", "."]
    subprocess.run(install, cwd=repository, check=True, capture_output=True)
    code = "import hf_speechrec.space as s, pathlib; print(s.__file__); "
    code += "s.write_space(pathlib.Path('out'), 'user/mine', 'speech-commands')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(str(tmp_path / "site"))
    names = files(tmp_path / "out")
    assert names - files(space) == {"hf_speechrec/model_card.md"}  # in a checkout it lies beside the package
    assert files(space) <= names
    assert filecmp.cmpfiles(space, tmp_path / "out", files(space), shallow=False)[1:] == ([], [])


@pytest.mark.slow
def test_it_is_published_by_one_command(tmp_path):
    with running_hub(tmp_path / "hub") as hub:
        command = [sys.executable, "-m", "hf_speechrec", "push-space", "user/demo", "--private"]
        environment = hub.environment(tmp_path / "home")
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{hub.url}/spaces/user/demo/commit/")
        assert b"gradio" in hub.read("user/demo", "requirements.txt", kind="spaces")
        assert b"def build_demo" in hub.read("user/demo", "hf_speechrec/demo.py", kind="spaces")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("CI" not in os.environ, reason="fills a new environment from the package index; CI=1 runs it")
def test_it_runs_alone(tmp_path):
    """The Space's own files and an empty environment: requirements installed, a model fetched from the Hub, words."""
    from gradio_client import Client, handle_file

    with running_hub(tmp_path / "hub") as hub:
        environment = hub.environment(tmp_path / "home")
        for arguments in (["push", "an4", "user/mine"], ["push-space", "user/demo", "--model", "user/mine"]):
            command = [sys.executable, "-m", "hf_speechrec", *arguments]
            subprocess.run(command, env=environment, check=True)
        fetch = "from huggingface_hub import snapshot_download as fetch; "
        fetch += "fetch('user/demo', repo_type='space', local_dir='space')"
        subprocess.run([sys.executable, "-c", fetch], cwd=tmp_path, env=environment, check=True)

        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
        python, folder = tmp_path / "venv" / "bin" / "python", tmp_path / "space"
        install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "-r", "requirements.txt"]
        subprocess.run(install, cwd=folder, check=True)
        try:
            with page_server(python, folder / "app.py", environment=environment | {"HF_HUB_OFFLINE": "0"}) as server:
                client = Client(server.address, verbose=False)
                examples = folder / "hf_speechrec" / "space" / "examples"
                example = handle_file(str(examples / "an4-seven-digits.flac"))
                assert client.predict(example, api_name="/transcribe")["text"] == "THREE THREE ONE OH ONE EIGHT EIGHT"
                client.close()
        finally:
            shutil.rmtree(tmp_path / "venv")  # gigabytes
