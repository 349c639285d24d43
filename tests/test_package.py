"""The whole: the wheel, the README's words, and which module may import which."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TRAVELLING = {
    "feature_extraction_log_mel",
    "configuration_bilstm",
    "modeling_bilstm",
    "configuration_resnet_bigru",
    "modeling_resnet_bigru",
    "modeling_sequence",
}


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", target, "."]
    subprocess.run(command, check=True, cwd=repository, capture_output=True)
    (path,) = target.glob("*.whl")
    return path


def test_the_wheel_is_whole_and_works_elsewhere(wheel, repository, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    bundled = {f"hf_speechrec/checkpoints/{name}/model.safetensors" for name in ("an4", "speech-commands")}
    page = {f"hf_speechrec/page/{name}" for name in ("style.css", "head.html", "microphone.js", "microphone.html")}
    assert {"hf_speechrec/model_card.md", *bundled, *page} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "runs"))]
    clip = repository / "demo" / "examples" / "an4-seven-digits.flac"
    code = "import hf_speechrec.model_card as m, sys; print(m.__file__, m.TEMPLATE); "
    code += "from hf_speechrec.cli import app; app(['transcribe', sys.argv[1], '--model', 'an4'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", code, clip], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    origin, words = result.stdout.splitlines()
    assert origin.count(str(tmp_path / "site")) == 2
    assert words == "THREE THREE ONE OH ONE EIGHT EIGHT"


@pytest.mark.parametrize(("name", "mebibytes"), [("an4", 8), ("librispeech-mini", 16), ("speech-commands", 3)])
def test_the_bundled_models_are_small_and_hold_nothing_to_unpickle(repository, name, mebibytes):
    folder = repository / "hf_speechrec" / "checkpoints" / name
    assert (folder / "model.safetensors").stat().st_size < mebibytes * 2**20
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".py")]


def test_files_that_travel_import_nothing_that_stays(repository):
    for name in TRAVELLING:
        tree = ast.parse((repository / "hf_speechrec" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                others = {"torch", "transformers", "numpy", "huggingface_hub"} | sys.stdlib_module_names
                allowed = TRAVELLING if node.level else others
                assert node.level <= 1
                assert (node.module or "").split(".")[0] in allowed, f"{name}: from {node.module}"
            elif isinstance(node, ast.Import):
                allowed = {"torch", "numpy"} | sys.stdlib_module_names
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, name


def readme_tree(repository: Path) -> list[str]:
    """Modules and folders of the package, in the order in which the README names them."""
    tree = (repository / "README.md").read_text().split("## Where things are")[1].split("```")[1]
    return re.findall(r"^  (\w+\.py|\w+/)", tree, re.MULTILINE)


def test_the_readme_tree_is_the_folder(repository):
    named = {name for name in readme_tree(repository) if name.endswith(".py")}
    modules = {path.name for path in (repository / "hf_speechrec").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == modules


def imported_modules(path: Path, package: Path) -> set[str]:
    """Modules of the package that are imported with a file of it; what a function imports, when it runs, is not."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    level, names = len(path.relative_to(package).parts), set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom) and node.level == level:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes += ast.iter_child_nodes(node)
    return names


def test_a_module_imports_only_what_stands_above_it_in_the_readme_tree(repository):
    package = repository / "hf_speechrec"
    above: list[str] = []
    wrong = []
    for entry in readme_tree(repository):
        name = entry.removesuffix(".py").rstrip("/")
        files = [package / entry] if entry.endswith(".py") else sorted((package / name).glob("*.py"))
        for file in files:
            wrong += [f"{file.name}: {other}" for other in imported_modules(file, package) - {*above, name}]
        above.append(name)
    assert set(above[: len(TRAVELLING)]) == TRAVELLING
    assert "loading" in imported_modules(package / "hub.py", package)  # it does find them
    assert wrong == []


def test_what_is_public_says_what_it_is(repository):
    silent = []
    for path in sorted((repository / "hf_speechrec").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                silent += [f"{path.name}: {node.name}"] * (not ast.get_docstring(node))
    assert silent == []


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "THREE THREE ONE OH ONE EIGHT EIGHT"), (1, "train_loss"), (3, " s  EIGHT  (")]
)
def test_the_readme_python_runs(repository, tmp_path, number, expected):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    code = blocks[number].replace('"runs/mine"', repr(str(tmp_path / "mine")))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout
