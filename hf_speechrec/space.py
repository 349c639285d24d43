"""The demo → a Gradio Space that needs nothing but what lies in it, for there is no package index that has us."""

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path

from .hub import EXAMPLES, SPACE, HubError, upload
from .loading import CHECKPOINTS, DEFAULT_CLASSIFIER, DEMO_RECOGNIZER

PACKAGE = "hf_speechrec"


def push_space(
    repo_id: str,
    recognizer: str = DEMO_RECOGNIZER,
    classifier: str = DEFAULT_CLASSIFIER,
    *,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """
    Publish the page as a Space: `app.py`, beside it this package with its examples, and what both need.

    Args:
        repo_id: "user/name"; made where there is none.
        recognizer: a bundled model, or an id on the Hub that the Space can read.
        classifier: the same.
        private: whether a new Space is private.
        token: by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The address of the commit.

    Raises:
        HubError: for a model in a folder of this machine, and where the Hub does not take it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "space")
        write_space(folder, recognizer, classifier)
        return upload(folder, repo_id, "space", private=private, token=token, commit_message="Upload the Space")


def write_space(folder: Path, recognizer: str, classifier: str) -> None:
    """
    Everything that a Space holds, into a new folder.

    The package lies there as it is, and not as a wheel: the builder of a Space installs the requirements before it has
    the other files, so that they could name a wheel only by an address, which a private Space does not give, and which
    pip would take from its cache when the wheel has changed.
    """
    bundled = {path.name for path in CHECKPOINTS.iterdir()}
    published = [name for name in (recognizer, classifier) if name not in bundled]
    for name in published:
        if Path(name).exists() or name.count("/") != 1:
            raise HubError(
                f"{name}: a Space reads bundled models and those on the Hub; `hf-speechrec push` publishes one"
            )
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__", EXAMPLES.name))
    package = Path(__file__).parent
    unneeded = {str(CHECKPOINTS / name) for name in bundled - {recognizer, classifier}} | {str(package / "space")}
    shutil.copytree(
        package,
        folder / PACKAGE,
        ignore=lambda parent, names: [
            name for name in names if name == "__pycache__" or str(Path(parent, name)) in unneeded
        ],
    )
    shutil.copytree(EXAMPLES, folder / PACKAGE / "space" / EXAMPLES.name)  # where the package looks for them
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
    app = (folder / "app.py").read_text(encoding="utf-8")
    for default, name in ((DEMO_RECOGNIZER, recognizer), (DEFAULT_CLASSIFIER, classifier)):
        app = app.replace(json.dumps(default), json.dumps(name))
    (folder / "app.py").write_text(app, encoding="utf-8")
    facts = f"sdk_version: {importlib.metadata.version('gradio')}\n"
    if published:
        facts += f"models: {json.dumps(published)}\n"
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card.replace("app_file:", f"{facts}app_file:", 1), encoding="utf-8")


def requirements() -> list[str]:
    """What the package and its page need, without the package."""
    parts = [line.partition(";") for line in importlib.metadata.requires(PACKAGE) or []]
    return [name.strip() for name, _, marker in parts if marker.strip().replace("'", '"') in ("", 'extra == "demo"')]


__all__ = ["push_space", "requirements", "write_space"]
