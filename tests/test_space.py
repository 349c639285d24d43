"""The Space: it holds everything that it needs, names it by addresses that work, and lands on the Hub."""

import io
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile

import pytest
import yaml
from hub_server import running_hub
from page_server import page_server

from hf_speechrec.hub import HubError
from hf_speechrec.space import write_space

pytest.importorskip("gradio", reason="the extra demo is not installed")


@pytest.fixture(scope="module", autouse=True)
def _build_offline():
    """pip would fetch hatchling for the wheel; the test environment has it."""
    os.environ["PIP_NO_BUILD_ISOLATION"] = "0"  # pip's way of saying "no isolation"
    yield
    del os.environ["PIP_NO_BUILD_ISOLATION"]


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "files"
    write_space(folder, "user/demo", "user/mine", "speech-commands")
    return folder


def test_it_holds_the_page_the_examples_and_the_package(space):
    names = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
    (wheel,) = [name for name in names if name.endswith(".whl")]
    expected = {"app.py", "README.md", "requirements.txt", "examples/README.md", "examples/an4-seven-digits.flac"}
    assert expected < names
    with zipfile.ZipFile(space / wheel) as archive:
        inside = set(archive.namelist())
    assert {"hf_speechrec/demo.py", "hf_speechrec/space/app.py", "hf_speechrec/checkpoints/an4/config.json"} < inside
    address = f"https://huggingface.co/spaces/user/demo/resolve/main/{wheel}"
    assert (space / "requirements.txt").read_text() == f"hf_speechrec[demo] @ {address}\n"


def test_the_front_matter_and_the_app_name_what_it_runs(space):
    facts = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (facts["sdk"], facts["app_file"], facts["models"]) == ("gradio", "app.py", ["user/mine"])
    assert facts["sdk_version"].startswith("6.")
    app = (space / "app.py").read_text()
    assert 'os.environ.get("RECOGNIZER", "user/mine")' in app
    assert 'os.environ.get("CLASSIFIER", "speech-commands")' in app
    compile(app, "app.py", "exec")


def test_a_model_that_nobody_else_has_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in (str(tmp_path / "mine"), "no-such-model"):
        with pytest.raises(HubError, match="a Space reads bundled models and those on the Hub"):
            write_space(tmp_path / "out", "user/demo", name, "speech-commands")


def test_an_installed_package_becomes_a_wheel_again(space, tmp_path):
    """As for somebody without a checkout: the wheel is installed, and its Space holds an equal one."""
    (wheel,) = space.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", tmp_path / "site", wheel]
    subprocess.run([sys.executable, *install], check=True)
    code = "import hf_speechrec.space as s, pathlib; print(s.__file__); "
    code += "s.write_space(pathlib.Path('out'), 'u/d', 'an4', 'u/c')"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(str(tmp_path / "site"))
    with zipfile.ZipFile(wheel) as built, zipfile.ZipFile(tmp_path / "out" / wheel.name) as packed:
        own = set(built.namelist())
        assert own <= set(packed.namelist())
        code_files = [name for name in own if name.endswith((".py", ".safetensors"))]
        assert all(built.read(name) == packed.read(name) for name in code_files)


def test_it_is_published_by_one_command(tmp_path):
    with running_hub(tmp_path / "hub") as hub:
        command = [sys.executable, "-m", "hf_speechrec", "push-space", "user/demo"]
        environment = hub.environment(tmp_path / "home") | {"PIP_NO_BUILD_ISOLATION": "0"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{hub.url}/spaces/user/demo/commit/")
        requirement, _, address = hub.read("user/demo", "requirements.txt", kind="spaces").decode().partition(" @ ")
        assert requirement == "hf_speechrec[demo]"
        with urllib.request.urlopen(address.strip()) as response:
            assert zipfile.is_zipfile(io.BytesIO(response.read()))


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
            subprocess.run(command, env=environment | {"PIP_NO_BUILD_ISOLATION": "0"}, check=True)
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
                example = handle_file(str(folder / "examples" / "an4-seven-digits.flac"))
                assert client.predict(example, api_name="/transcribe")["text"] == "THREE THREE ONE OH ONE EIGHT EIGHT"
                client.close()
        finally:
            shutil.rmtree(tmp_path / "venv")  # gigabytes
