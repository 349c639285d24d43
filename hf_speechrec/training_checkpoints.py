"""The files that a run writes, each under its name only when it is whole, and the checkpoint that it goes on from."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from .audio import first_line
from .training_plot import plot_history

logger = logging.getLogger(__name__)

PARTIAL = "_partial"  # where a checkpoint is written before it gets its name; the Hub is never given a "_*"
RESUMED = ("trainer_state.json", WEIGHTS, "optimizer.pt", "scheduler.pt")  # what a run goes on from


@contextlib.contextmanager
def whole_or_nothing(output_dir: Path, name: str) -> Iterator[None]:
    """
    Of what cannot be written (a full disk) nothing is left, so that there is room again; safetensors and torch have
    errors of their own, which become an `OSError` that names it.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(output_dir).free / 2**20
        shutil.rmtree(output_dir / PARTIAL, ignore_errors=True)
        reason = f"{free:.1f} MiB are free there; {first_line(error)}"
        raise OSError(f"{output_dir}: {name} cannot be written ({reason})") from error


def publish(partial: Path, final: Path) -> None:
    """Flush a folder to the disk, then give it its name in one step."""
    _flush(partial)
    if final.exists():  # of an earlier run: never half deleted under its name
        replaced = partial.with_name(f"{final.name}-replaced")
        final.replace(replaced)
        partial.replace(final)
        shutil.rmtree(replaced)
    else:
        partial.replace(final)


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def save_run(trainer: Trainer, output_dir: Path, metrics: dict[str, float]) -> None:
    """
    Write the trained model, its results and its plot into the output folder, all of it or nothing.

    Args:
        trainer: which has come to its end.
        output_dir: also of an earlier run: what that one left is replaced.
        metrics: `all_results.json`.

    Raises:
        OSError: where there is no room for it.
    """
    partial = output_dir / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    with whole_or_nothing(output_dir, "the model"):
        trainer.save_model(str(partial), _internal_call=True)  # without a push of its own
        trainer.state.save_to_json(str(partial / "trainer_state.json"))
        (partial / "all_results.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        plot_history(trainer.state.log_history, partial / "training.png")
        _publish_files(partial, output_dir)
    trainer.create_model_card()


def _publish_files(partial: Path, output_dir: Path) -> None:
    """
    Flush the files of a folder to the disk, then move each into another one. The weights that they replace go first and
    the new ones come last: broken off at any moment, there is no model, or it is the old one or the new one, and never
    the weights of one with the vocabulary of the other.
    """
    _flush(partial)
    (output_dir / WEIGHTS).unlink(missing_ok=True)
    for file in sorted(partial.iterdir(), key=lambda file: file.name == WEIGHTS):
        file.replace(output_dir / file.name)
    partial.rmdir()


def checkpoint_to_resume(args: TrainingArguments, output_dir: Path) -> str | None:
    """
    `--resume_from_checkpoint` takes a folder, or "true" for the newest checkpoint of the output folder. One that lacks
    a file (deleting or copying it was interrupted) is passed over.
    """
    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() in ("false", "no", "0"):
        return None
    if str(wanted).lower() not in ("true", "yes", "1", "last"):
        if not Path(wanted, "trainer_state.json").exists():
            raise ValueError(f"{wanted}: expected a checkpoint folder to resume from (with a trainer_state.json)")
        return _checked(Path(wanted))
    numbered = [path for path in output_dir.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        missing = [name for name in RESUMED if not (path / name).exists()]
        if not missing:
            return _checked(path)
        logger.warning("%s: passed over, it has no %s", path, ", ".join(missing))
    logger.warning("%s: no checkpoint to resume from yet, starting anew", output_dir)
    return None


def _checked(checkpoint: Path) -> str:
    """
    A checkpoint whose files transformers can read as it does: safetensors, JSON, and tensors without a pickle of
    anything else. (Of `training_args.bin`, a pickle, it reads nothing.) Raises `ValueError` that names the file.
    """
    files = [checkpoint / name for name in ("trainer_state.json", WEIGHTS)]
    for file in [*files, *sorted(checkpoint.glob("*.pt")), *sorted(checkpoint.glob("*.pth"))]:
        try:
            if file.suffix == ".json":
                TrainerState.load_from_json(str(file))
            elif file.suffix == ".safetensors":
                safe_open(file, "pt")
            else:
                with safe_globals():
                    torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # bytes of any kind end torch's reader in an error of any kind
            # torch's own message is long, and recommends to load a pickle that it has just refused.
            reason = f" ({first_line(error)})" if isinstance(error, OSError) else ""
            raise ValueError(
                f"{checkpoint}: expected a checkpoint folder to resume from, but its {file.name} cannot be read "
                f"safely{reason}"
            ) from None
    return str(checkpoint)


__all__ = ["PARTIAL", "RESUMED", "checkpoint_to_resume", "publish", "save_run", "whole_or_nothing"]
