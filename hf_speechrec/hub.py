"""A model → a repository on the Hub that others can load, whether or not they have this package."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from .audio import first_line, read_audio
from .loading import load_model, load_pipeline
from .model_card import FACTS, render_model_card
from .pronunciation import LEXICON, LICENSES

logger = logging.getLogger(__name__)

# What of a checkpoint is uploaded while a run goes on; never a pickle.
PUBLISHED = ("*.json", "*.py", "model*.safetensors")
UNPUBLISHED = ("trainer_state.json",)
# What a search with a language model reads; a lexicon's licence wants its notice to stay with it.
SEARCH_FILES = ("language_model.*", LEXICON, LICENSES)
COMPANIONS = (FACTS, "all_results.json", "*.png", *SEARCH_FILES)  # besides, what a run leaves and a card shows
ATTEMPTS = 3
CHECK_SECONDS = 300
LOGITS_TOLERANCE = 1e-4
CHECK = """
import json, sys
sys.modules["hf_speechrec"] = None  # as for somebody who does not have it
import numpy as np, torch
from transformers import pipeline
task, folder, samples, logits = sys.argv[1:]
model = pipeline(task, model=folder, trust_remote_code=True, device="cpu")
samples, extractor = np.load(samples), model.feature_extractor
with torch.no_grad():
    inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    np.save(logits, model.model(**inputs).logits.numpy())
modules = [type(model.model).__module__, type(extractor).__module__]
print(json.dumps({"modules": modules, "result": model(samples)}))
"""
HERE = Path(__file__).parent
# In a wheel the files of the Space lie beside this one, in a checkout beside the package.
SPACE = next((path for path in (HERE / "space", HERE.parent / "demo") if path.exists()), HERE)
EXAMPLES = SPACE / "examples"


class HubError(ValueError):
    """Something that could not be published; the message says what and why."""


def push_folder(folder: str | PathLike, repo_id: str, **options) -> str:
    """
    Publish a model folder (or a bundled model) as it is: its weights are uploaded byte for byte.

    Args:
        folder: what training left, or the name of a bundled model.
        repo_id: "user/name"; made where there is none.
        **options: see `push_model`.

    Returns:
        The address of the commit or pull request.

    Raises:
        ModelError: where there is no model that can be loaded.
        HubError: where others could not load it, or the Hub does not take it.
    """
    model, processor = load_model(folder)
    return push_model(model, repo_id, processor, weights=Path(model.config._name_or_path, WEIGHTS), **options)


def push_model(
    model: PreTrainedModel,
    repo_id: str,
    processor: Any = None,
    *,
    weights: Path | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """
    Publish a model: weights, config with `auto_map`, feature extractor, tokenizer, the code that others need, plots,
    and the card. The whole is one commit: it is there or it is not. Before that it has to load, in a process without
    this package, and to give the same logits there.

    Args:
        model: a model of ours.
        repo_id: "user/name"; made where there is none.
        processor: its processor or feature extractor; by default that of the folder it was loaded from. That folder's
            plots and figures are published too where the weights are still the same.
        weights: a file of its weights to upload in place of newly written ones.
        private: whether a new repository is private.
        revision: branch to push to, made where there is none.
        create_pr: open a pull request instead of changing the branch.
        token: by default the one of `hf auth login` or `HF_TOKEN`.
        commit_message: what the history says.

    Returns:
        The address of the commit or pull request.

    Raises:
        HubError: where others could not load it, or the Hub does not take it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary, "model")
        write_hub_folder(model, staged, repo_id, processor, weights)
        check_loads_for_others(staged)
        return upload(
            staged,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            token=token,
            commit_message=commit_message or "Upload the model",
        )


def write_hub_folder(
    model: PreTrainedModel, folder: Path, model_id: str, processor: Any = None, weights: Path | None = None
) -> None:
    """Write everything that a repository of a model holds (see `push_model`) into a new folder."""
    name = model.config._name_or_path  # empty for a model that was made here
    source = Path(name) if name and Path(name).is_dir() else None
    if processor is None:
        if source is None:
            raise HubError("expected a processor: the model was not loaded from a folder that has one")
        _, processor = load_model(source)
    if weights is not None and weights.exists():
        folder.mkdir(parents=True)
        custom_object_save(model, folder, config=model.config)  # type: ignore[arg-type]
        model.config.save_pretrained(folder)
        shutil.copyfile(weights, folder / WEIGHTS)
    else:
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    # What was measured is true of the weights in the source, not of what has been trained on in memory since.
    if source is not None and (weights is not None or _has_weights_of(model, source)):
        copy_files(source, folder, COMPANIONS)
    render_model_card(folder, model_id)


def copy_files(source: Path, folder: Path, patterns: Iterable[str]) -> None:
    """Copy the files of a folder whose names fit one of the patterns into another one."""
    if not source.samefile(folder):
        for file in {file for pattern in patterns for file in source.glob(pattern) if file.is_file()}:
            shutil.copyfile(file, folder / file.name)


def _has_weights_of(model: PreTrainedModel, folder: Path) -> bool:
    if not (folder / WEIGHTS).exists():
        return False
    stored, own = load_file(folder / WEIGHTS), model.state_dict()
    return own.keys() == stored.keys() and all(own[name].cpu().equal(stored[name].to(own[name].dtype)) for name in own)


def check_loads_for_others(folder: Path) -> None:
    """
    Load a folder in a process that cannot import this package, give it a clip of speech, and compare logits and result
    with those here.

    Raises:
        HubError: where it does not load there, or differs.
    """
    here = load_pipeline(folder, "cpu")
    extractor: Any = here.feature_extractor
    samples = read_audio(next(iter(sorted(EXAMPLES.glob("*.flac")))), extractor.sampling_rate)
    with torch.no_grad():
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        expected = here.model(**inputs).logits.numpy()
    with tempfile.TemporaryDirectory() as temporary:
        waveform, logits = Path(temporary, "samples.npy"), Path(temporary, "logits.npy")
        np.save(waveform, samples)
        try:
            process = subprocess.run(
                [sys.executable, "-c", CHECK, here.task, str(folder), str(waveform), str(logits)],
                cwd=temporary,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": temporary},
                capture_output=True,
                text=True,
                timeout=CHECK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HubError(f"loading it without this package took more than {CHECK_SECONDS} s: not published") from None
        if process.returncode != 0:
            reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise HubError(f"it would not load for others, so it was not published ({reason})")
        there = json.loads(process.stdout.splitlines()[-1])
        if not all(module.startswith("transformers_modules") for module in there["modules"]):
            raise HubError(f"its code does not lie beside the weights ({', '.join(there['modules'])}): not published")
        difference = float(np.abs(np.load(logits) - expected).max())
    if not difference < LOGITS_TOLERANCE:
        raise HubError(f"without this package its logits differ by {difference:.1e}: not published")
    said, heard = _said(here(samples)), _said(there["result"])
    if said != heard:
        raise HubError(f"without this package it hears {heard!r} in place of {said!r}: not published")


def _said(result: Any) -> str:
    """The text, or the most probable label, that a pipeline gives."""
    return result["text"] if isinstance(result, dict) else result[0]["label"]


def upload(
    folder: Path,
    repo_id: str,
    repo_type: str = "model",
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str = "Upload",
    allow_patterns: list[str] | None = None,
) -> str:
    """
    A folder → one commit of a repository, which is made where there is none; what breaks off is tried again. Returns
    the address of the commit or pull request. Raises `HubError`.
    """
    api = HfApi(token=token)
    with clear_hub_errors(repo_id):
        sdk = "gradio" if repo_type == "space" else None
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk).repo_id
        if revision is not None:
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                commit = api.upload_folder(
                    repo_id=repo_id,
                    repo_type=repo_type,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=revision,
                    create_pr=create_pr,
                    allow_patterns=allow_patterns,
                )
                return commit.pr_url or commit.commit_url
            except (HTTPError, RuntimeError) as error:
                if attempt == ATTEMPTS or _status(error) < 500:  # it would be refused again
                    raise
                reason = first_line(error)
                logger.warning("The upload broke off (%s), attempt %d of %d follows", reason, attempt + 1, ATTEMPTS)
                time.sleep(attempt)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def clear_hub_errors(repo_id: str) -> Iterator[None]:
    """What goes wrong while something is published is a `HubError` of one line."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise HubError("no token for the Hub: run `hf auth login`, or set HF_TOKEN") from None
    except HFValidationError as error:
        raise HubError(f"{repo_id}: expected an id such as user/name ({error})") from None
    except HfHubHTTPError as error:
        reasons = {401: "the token is missing or not valid (`hf auth login`)", 403: "the token may not write there"}
        reason = reasons.get(_status(error)) or error.server_message or first_line(error)
        raise HubError(f"{repo_id}: not published, {reason}") from error
    except RuntimeError as error:
        raise HubError(f"{repo_id}: not published, {first_line(error.__cause__ or error)}") from error
    except (HTTPError, OSError) as error:
        raise HubError(f"{repo_id}: not published, the Hub cannot be reached ({first_line(error)})") from error


def _status(error: BaseException) -> int:
    """HTTP status of what went wrong, 500 for a connection that broke; huggingface_hub wraps that of a large file."""
    cause = error.__cause__ if isinstance(error, RuntimeError) else error
    return getattr(getattr(cause, "response", None), "status_code", 500)


__all__ = ["HubError", "check_loads_for_others", "push_folder", "push_model", "upload", "write_hub_folder"]
