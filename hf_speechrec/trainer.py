"""transformers' Trainer for speech: its arguments, an order that survives a resume, whole checkpoints, the plot."""

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, safe_globals
from transformers.trainer_utils import HubStrategy, rotate_checkpoints
from transformers.utils import PushInProgress

from .collator import SpeechCollator
from .loading import first_line
from .model_card import FACTS, render_model_card, update_facts

logger = logging.getLogger(__name__)

PARTIAL = "_partial"  # where a checkpoint is written before it gets its name; the Hub is never given a "_*"
RESUMED = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt")  # what a run goes on from
MOST_SKIPPED_STEPS = 20  # in a row; float16, which the default never is, looks for its scale in fewer


def training_arguments(
    values: dict[str, Any], arguments: Sequence[str] = (), device: str | None = None, metric: str = "wer"
) -> TrainingArguments:
    """
    `TrainingArguments` of a recipe's section, command-line arguments before it and our defaults behind it. `metric`
    ("wer" or "accuracy") chooses the best checkpoint.

    Raises:
        ValueError: for an argument that `TrainingArguments` does not have, or a value that does not fit.
    """
    defaults = {
        "output_dir": "runs/model",
        "remove_unused_columns": False,
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "duration",
        "label_names": ["labels"],
        "report_to": "none",
        "metric_for_best_model": metric,
        "greater_is_better": metric == "accuracy",
        "save_total_limit": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "logging_steps": 50,
        "ddp_find_unused_parameters": False,  # every parameter takes part in every step
        "dataloader_pin_memory": torch.cuda.is_available(),
        # Half precision where a GPU does it well; the loss itself is always taken in float32.
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported() and device in (None, "cuda"),
    }
    known = {f.name for f in fields(TrainingArguments)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"transformers' TrainingArguments has no {', '.join(unknown)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is not None and not available.get(device, False):
        raise ValueError(
            f"expected a device among {', '.join(d for d, there in available.items() if there)}, got {device}"
        )
    parser = HfArgumentParser(TrainingArguments, exit_on_error=False, allow_abbrev=False)  # type: ignore[arg-type]
    parser.set_defaults(**defaults | values)
    try:
        args, rest = parser.parse_known_args(list(arguments))
    except Exception as error:  # argparse's own errors do not share a useful base
        raise ValueError(str(error)) from None
    if rest:
        raise ValueError(f"neither an option of this command nor of transformers' TrainingArguments: {' '.join(rest)}")
    if device == "cpu":
        args.use_cpu = True
    if args.push_to_hub and str(getattr(args.hub_strategy, "value", args.hub_strategy)) not in ("end", "every_save"):
        raise ValueError(f"expected the hub_strategy end or every_save, got {args.hub_strategy}")
    return TrainingArguments(**vars(args))


class EpochSampler(LengthGroupedSampler):
    """
    Batches of utterances of similar length, in an order that follows from seed, epoch and the size of a step alone, in
    however many processes; in the first epoch from the shortest to the longest where the trainer asks for it.

    transformers draws it from the global generator. A run resumed in mid-epoch would then see some utterances twice
    and others never, and so would the processes of a distributed run, whose generators drift apart.
    """

    def __init__(self, sampler: LengthGroupedSampler, trainer: "SpeechTrainer"):
        step_size = sampler.batch_size * trainer.args.world_size  # a process takes every so-manieth batch
        super().__init__(step_size, lengths=list(sampler.lengths), generator=torch.Generator())
        self.trainer = trainer

    def __iter__(self):
        epoch = int(self.trainer.state.epoch or 0)
        if self.trainer.shortest_first and epoch == 0:
            return iter(sorted(range(len(self.lengths)), key=self.lengths.__getitem__))
        self.generator.manual_seed(self.trainer.args.seed + epoch)
        return super().__iter__()


class CollatorEpoch(TrainerCallback):
    """Tells a seeded collator which epoch it is."""

    def __init__(self, collator: SpeechCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch.fill_(int(state.epoch or 0))


class FiniteSteps(TrainerCallback):
    """
    Leaves out a step whose gradient is not finite, which would make every weight NaN, in all processes alike. Each is
    named, and counted in the state's history; `MOST_SKIPPED_STEPS` in a row end the run with a `ValueError`.
    """

    def __init__(self):
        self.in_a_row = 0

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if torch.nn.utils.get_total_norm(gradients).isfinite():
            self.in_a_row = 0
            return
        step = state.global_step + 1
        self.in_a_row += 1
        if self.in_a_row == MOST_SKIPPED_STEPS:
            raise ValueError(
                f"step {step}: expected a finite loss and gradient, got none in {self.in_a_row} steps in a row; try a "
                "smaller --learning_rate (--model-name-or-path CHECKPOINT starts from what was saved)"
            )
        logger.warning("Step %d is left out: its loss or gradient is not finite", step)
        state.log_history.append({"epoch": state.epoch, "step": step, "skipped_steps": 1})
        model.zero_grad()  # without a gradient the optimizer leaves weights and averages as they are


class Termination(TrainerCallback):
    """
    What a cluster sends before it kills, SIGTERM, lets a run end well: after the step, or the batch of an evaluation,
    that is going on, a checkpoint is saved, and `SystemExit(143)` follows (128 and the number of the signal). In a
    distributed run it is enough that one process was told.
    """

    def __init__(self, trainer: "SpeechTrainer"):
        self.trainer = trainer
        self.is_told = False
        self.is_ending = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """While a run trains; before and after it the signal ends a process at once. Python allows it one thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._be_told)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _be_told(self, *_) -> None:
        self.is_told = True

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_agreed(args):
            control.should_save, control.should_evaluate = True, False

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.trainer.is_in_train and self._is_agreed(args):
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
            self.on_save(args, state, control)

    def on_save(self, args, state, control, **kwargs):
        if self.is_ending:
            logger.warning("Terminated, step %d is saved: --resume_from_checkpoint true goes on", state.global_step)
            raise SystemExit(128 + signal.SIGTERM)

    def _is_agreed(self, args) -> bool:
        """Whether any process was told: if one went by itself, the others would wait for it."""
        self.is_ending = self.is_told
        if args.world_size > 1:
            told = torch.tensor(int(self.is_told), device=args.device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            self.is_ending = bool(told)
        return self.is_ending


class SpeechTrainer(Trainer):
    """
    transformers' Trainer, but a checkpoint appears under its name only when it is whole, the order of the utterances
    does not depend on where a run was broken, and neither a loss of NaN nor a SIGTERM costs it (see `FiniteSteps` and
    `Termination`). It takes `shortest_first` beside transformers' arguments: the first epoch goes from the shortest to
    the longest utterance.
    """

    def __init__(self, *args, shortest_first: bool = False, **kwargs):
        self.shortest_first = shortest_first
        super().__init__(*args, **kwargs)
        self.termination = Termination(self)
        self.add_callback(self.termination)
        self.add_callback(FiniteSteps())

    def train(self, *args, **kwargs):
        with self.termination.handled():
            return super().train(*args, **kwargs)

    def _run_epoch(self, *args, **kwargs) -> None:
        """A run that was broken off after its last step takes no further one, which transformers' would."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        return EpochSampler(sampler, self) if isinstance(sampler, LengthGroupedSampler) else sampler

    def compute_loss(self, model, inputs, *args, **kwargs):
        """With the same chunks in all processes of a distributed run: each step lasts as long as the slowest."""
        network = self.accelerator.unwrap_model(model)
        if model.training and hasattr(network, "draw_context"):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(zlib.crc32(f"{self.args.seed} {self.state.global_step}".encode()))
                chunk_frames, lookahead_frames = network.draw_context()
            inputs = {**inputs, "chunk_frames": chunk_frames, "lookahead_frames": lookahead_frames}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder, PARTIAL)) if getattr(self, "_is_saving", False) else folder

    def create_model_card(self, language=None, license=None, **kwargs) -> None:  # type: ignore[override]
        """Our own card in place of transformers' draft, from the facts in the output folder."""
        if self.is_world_process_zero():
            update_facts(str(self.args.output_dir), card={"language": language, "license": license})
            render_model_card(str(self.args.output_dir), self.hub_model_id)

    def push_to_hub(  # type: ignore[override]
        self, commit_message="End of training", blocking=True, token=None, revision=None, private=None, **kwargs
    ) -> str | None:
        """As `hf-speechrec push` does it, at the end of a run: see `hf_speechrec.hub.push_model`."""
        from .hub import push_folder

        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        options = {"token": token or self.args.hub_token, "revision": revision or self.args.hub_revision}
        return push_folder(str(self.args.output_dir), str(self.hub_model_id), commit_message=commit_message, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """
        The same files while the run goes on (transformers' own takes neither code nor card, but a pickle of the
        training arguments). In the background, and one at a time.
        """
        from .hub import PUBLISHED, UNPUBLISHED

        is_saving = getattr(self, "_is_saving", False)  # it has no name yet, see `_save_checkpoint`
        if is_saving or not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        if self.push_in_progress is not None:
            self._report_push()
        output_dir = Path(str(self.args.output_dir))
        names = {"README.md", FACTS}
        for pattern in PUBLISHED:
            for file in Path(checkpoint_folder).glob(pattern):
                if file.name not in UNPUBLISHED:
                    shutil.copyfile(file, output_dir / file.name)
                    names.add(file.name)
        self.create_model_card()
        job = HfApi(token=self.args.hub_token).upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=output_dir,
            commit_message=f"Training in progress, step {self.state.global_step}",
            revision=self.args.hub_revision,
            allow_patterns=sorted(names),
            run_as_future=True,
        )
        self.push_in_progress = PushInProgress([job])  # type: ignore[assignment, arg-type]

    def _report_push(self) -> None:
        """A push in the background that failed is worth a line; the run goes on."""
        for job in self.push_in_progress.jobs:  # type: ignore[attr-defined]
            if job.done() and job.exception() is not None:
                logger.warning("A checkpoint could not be pushed (%s)", first_line(job.exception()))

    def init_hf_repo(self, token=None, private=None) -> None:
        from .hub import clear_hub_errors

        with clear_hub_errors(str(self.args.hub_model_id or self.args.output_dir)):
            super().init_hf_repo(token=token, private=private)

    def _save_checkpoint(self, model, trial) -> None:
        output_dir = Path(super()._get_output_dir(trial))
        final = output_dir / f"checkpoint-{self.state.global_step}"
        partial = output_dir / PARTIAL / final.name
        with whole_or_nothing(output_dir, final.name):
            self._is_saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._is_saving = False
            if self.state.best_model_checkpoint == str(partial):
                self.state.best_model_checkpoint = str(final)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(partial / "trainer_state.json"))
                _publish(partial, final)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(output_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not self.termination.is_ending:
            self._push_from_checkpoint(str(final))


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


def _publish(partial: Path, final: Path) -> None:
    """Flush a folder to the disk, then give it its name in one step."""
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    if final.exists():  # of an earlier run: never half deleted under its name
        replaced = partial.with_name(f"{final.name}-replaced")
        final.replace(replaced)
        partial.replace(final)
        shutil.rmtree(replaced)
    else:
        partial.replace(final)


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
    files = [checkpoint / name for name in ("trainer_state.json", "model.safetensors")]
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


def save_run(trainer: SpeechTrainer, output_dir: Path, metrics: dict[str, float]) -> None:
    partial = output_dir / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    with whole_or_nothing(output_dir, "the model"):
        trainer.save_model(str(partial), _internal_call=True)  # without a push of its own
        trainer.state.save_to_json(str(partial / "trainer_state.json"))
        (partial / "all_results.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        plot_history(trainer.state.log_history, partial / "training.png")
        for file in sorted(partial.iterdir()):
            file.replace(output_dir / file.name)
        partial.rmdir()
    trainer.create_model_card()


def plot_history(history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draw the losses and the WER or accuracy of a Trainer's `log_history` over the epochs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, loss_axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    rate_axis = loss_axis.twinx()
    for axis, key, label, colour in (
        (loss_axis, "loss", "training loss", "tab:blue"),
        (loss_axis, "eval_loss", "held-out loss", "tab:orange"),
        (rate_axis, "eval_wer", "held-out WER", "tab:green"),
        (rate_axis, "eval_accuracy", "held-out accuracy", "tab:green"),
    ):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, color=colour)
            axis.set_ylabel(label.replace("training ", "").replace("held-out ", ""))
    loss_axis.set(xlabel="epoch", yscale="log")
    rate_axis.set(ylim=(0, 1))
    rate_axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    rate_axis.set_visible(bool(rate_axis.lines))
    if loss_axis.lines or rate_axis.lines:
        figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
