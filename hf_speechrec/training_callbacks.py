"""What happens between the steps of a run: a seeded collator's epoch, steps without a finite gradient, SIGTERM."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

import torch
from transformers import Trainer, TrainerCallback

from .collator import SpeechCollator

logger = logging.getLogger(__name__)

MOST_SKIPPED_STEPS = 20  # in a row; float16, which the default never is, looks for its scale in fewer


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

    def __init__(self, trainer: Trainer):
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
            self.trainer._save_checkpoint(self.trainer.model, trial=None)  # type: ignore[arg-type]
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


__all__ = ["CollatorEpoch", "FiniteSteps", "Termination"]
