"""The demo → a Gradio Space that needs nothing but what lies in it, for there is no package index that has us."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub import constants

from .hub import SPACE, HubError, upload
from .loading import CHECKPOINTS, DEFAULT_CLASSIFIER, DEFAULT_RECOGNIZER

PACKAGE = "hf_speechrec"


def push_space(
    repo_id: str,
    recognizer: str = DEFAULT_RECOGNIZER,
    classifier: str = DEFAULT_CLASSIFIER,
    *,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """
    Publish the page as a Space: `app.py`, its examples, this package as a wheel, and requirements that name it.

    Args:
        repo_id: "user/name"; made where there is none.
        recognizer: a bundled model, or an id on the Hub that the Space can read.
        classifier: the same.
        private: whether a new Space is private. The requirements name the wheel by its address in the Space, which
            has to be readable while the Space is built.
        token: by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The address of the commit.

    Raises:
        HubError: for a model in a folder of this machine, and where the Hub does not take it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "space")
        write_space(folder, repo_id, recognizer, classifier)
        return upload(folder, repo_id, "space", private=private, token=token, commit_message="Upload the Space")


def write_space(folder: Path, repo_id: str, recognizer: str, classifier: str) -> None:
    """Everything that a Space holds, into a new folder."""
    bundled = {path.name for path in CHECKPOINTS.iterdir()}
    published = [name for name in (recognizer, classifier) if name not in bundled]
    for name in published:
        if Path(name).exists() or name.count("/") != 1:
            raise HubError(
                f"{name}: a Space reads bundled models and those on the Hub; `hf-speechrec push` publishes one"
            )
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    wheel = build_wheel(folder)
    # The builder of a Space installs the requirements before it has the other files: hence an address, and not a path.
    address = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}"
    (folder / "requirements.txt").write_text(f"{PACKAGE}[demo] @ {address}\n", encoding="utf-8")
    app = (folder / "app.py").read_text(encoding="utf-8")
    for default, name in ((DEFAULT_RECOGNIZER, recognizer), (DEFAULT_CLASSIFIER, classifier)):
        app = app.replace(json.dumps(default), json.dumps(name))
    (folder / "app.py").write_text(app, encoding="utf-8")
    facts = f"sdk_version: {importlib.metadata.version('gradio')}\n"
    if published:
        facts += f"models: {json.dumps(published)}\n"
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.replace("app_file:", f"{facts}app_file:", 1), encoding="utf-8")


def build_wheel(folder: Path) -> Path:
    """This package as a wheel in a folder: built from a checkout, put together again from an installation."""
    distribution = importlib.metadata.distribution(PACKAGE)
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").is_file():
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), "."]
        process = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise HubError(f"{checkout}: the wheel cannot be built ({reason})")
        (wheel,) = folder.glob(f"{PACKAGE}-*.whl")
        return wheel
    wheel = folder / f"{PACKAGE}-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in distribution.files or []:
            if file.parts[0].startswith(PACKAGE) and "__pycache__" not in file.parts:
                archive.write(file.locate(), file)
    return wheel


__all__ = ["push_space", "write_space"]
