"""transformers' Trainer for speech: an order that survives a resume, whole checkpoints, its pushes."""

import ctypes
import logging
import shutil
import zlib
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import HubStrategy, rotate_checkpoints
from transformers.utils import PushInProgress

from .audio import first_line
from .hub import PUBLISHED, UNPUBLISHED, clear_hub_errors, push_folder
from .model_card import FACTS, render_model_card, update_facts
from .training_callbacks import FiniteSteps, Termination
from .training_checkpoints import PARTIAL, publish, whole_or_nothing

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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
        if self.args.device.type == "cpu":
            keep_freed_memory()
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
                publish(partial, final)
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


def keep_freed_memory() -> bool:
    """
    Have glibc keep what is freed: it gives the tensors of each step back to the system and takes them again in the next
    one, which costs two processes on two cores a third of their time. Returns whether there is a glibc that does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no Linux, or another library
        return False
    # Before glibc 2.35 32 MiB are the most that it takes.
    from_heap = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)
    return bool(from_heap and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


__all__ = ["EpochSampler", "SpeechTrainer", "keep_freed_memory"]
