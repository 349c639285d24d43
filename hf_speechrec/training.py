"""A recipe → a trained model folder: corpus, vocabulary, model, transformers' Trainer, results and a plot."""

import inspect
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    EarlyStoppingCallback,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2Processor,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import rotate_checkpoints

from .audio import AudioError, read_audio
from .augmentation import Augmentation
from .collator import CTCCollator
from .configuration_resnet_bigru import ResNetBiGruConfig
from .corpora import CorpusError, read_corpus, split_speakers
from .evaluation import trainer_metrics
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .modeling_resnet_bigru import BLANK_MARGIN, ResNetBiGruForCTC
from .text import TextNormalizer, build_tokenizer, encode, tokenizer_from_pieces
from .transcription import load_model

logger = logging.getLogger(__name__)

STATISTICS_SECONDS = 3600  # an hour of speech settles a mean and a variance for each mel bin
PARTIAL = ".partial"  # folder in which a checkpoint is written before it gets its name


@dataclass
class Recipe:
    """
    What a training run is made of; a YAML file has the same keys.

    Args:
        corpus: what `read_corpus` takes.
        train_split: the part to train on.
        held_out: speakers held out of it to choose by: a file with one a line (relative to the recipe), a share such
            as 0.1, or nothing, in which case all is trained on and the last weights are kept.
        model_name_or_path: start from this checkpoint instead of from nothing.
        vocabulary: "char", "bpe:SIZE"; when starting from a checkpoint also "keep" (the default there) or "extend".
        normalizer, model, features, augmentation: arguments of `TextNormalizer`, `ResNetBiGruConfig`,
            `LogMelFeatureExtractor` and `Augmentation` that differ from their defaults.
        early_stopping_patience: evaluations without a better WER after which to stop.
        training: arguments of transformers' `TrainingArguments`.
    """

    corpus: str
    train_split: str | None = None
    held_out: str | float | None = None
    model_name_or_path: str | None = None
    vocabulary: str | None = None
    normalizer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] | None = field(default_factory=dict)
    early_stopping_patience: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    task: str = "ctc"
    folder: Path = Path()

    def __post_init__(self):
        # What follows from the rest is no part of a recipe.
        derived = {"vocab_size", "num_mel_bins", "hop_length", "text_normalizer", "pad_token_id"}
        figures = {"feature_mean", "feature_std", "kwargs"}
        known = {
            "normalizer": set(inspect.signature(TextNormalizer).parameters),
            "model": ResNetBiGruConfig.__annotations__.keys() - derived,
            "features": inspect.signature(LogMelFeatureExtractor).parameters.keys() - figures,
            "augmentation": set(inspect.signature(Augmentation).parameters),
        }
        for section in (*known, "training"):
            values = getattr(self, section)
            if values is None:
                if section != "augmentation":  # none at all is not its defaults
                    setattr(self, section, {})
                continue
            if not isinstance(values, dict):
                raise ValueError(f"expected {section} to be a section (names and values), got {values!r}")
            names = known.get(section, set(values))  # `training_arguments` looks after its own
            if unknown := sorted(set(values) - names):
                raise ValueError(
                    f"the section {section} has no {', '.join(unknown)}; it has {', '.join(sorted(names))}"
                )
        try:
            ResNetBiGruConfig(**self.model)
        except StrictDataclassError as error:
            raise ValueError(f"the section model: {error.__cause__}") from None

    @classmethod
    def from_yaml(cls, path: str | os.PathLike, overrides: dict[str, Any] | None = None) -> "Recipe":
        """
        Read a recipe.

        Args:
            path: the YAML file.
            overrides: values that replace the file's; `{"model.hidden_size": 256}` reaches into a section.

        Raises:
            ValueError: for a file that is not a recipe, or a key that no recipe has.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not a recipe that can be read ({str(error).splitlines()[0]})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a recipe (YAML keys and values), got {type(values).__name__}")
        for name, value in (overrides or {}).items():
            section, _, key = name.partition(".")
            if key:
                values[section] = {**(values.get(section) or {}), key: value}
            else:
                values[section] = value
        known = {f.name for f in fields(cls)} - {"folder"}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{path}: a recipe has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        if not values.get("corpus"):
            raise ValueError(f"{path}: expected a corpus, the recipe names none")
        try:
            return cls(**values, folder=Path(path).parent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


class EpochSampler(LengthGroupedSampler):
    """
    Batches of utterances of similar length, in an order that follows from seed and epoch alone.

    transformers draws it from the global generator. A run resumed in mid-epoch would then see some utterances twice
    and others never, and so would the processes of a distributed run, whose generators drift apart.
    """

    def __init__(self, sampler: LengthGroupedSampler, trainer: Trainer):
        super().__init__(sampler.batch_size, lengths=list(sampler.lengths), generator=torch.Generator())
        self.trainer = trainer

    def __iter__(self):
        self.generator.manual_seed(self.trainer.args.seed + int(self.trainer.state.epoch or 0))
        return super().__iter__()


class CollatorEpoch(TrainerCallback):
    """Tells a seeded collator which epoch it is."""

    def __init__(self, collator: CTCCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch.fill_(int(state.epoch or 0))


class SpeechTrainer(Trainer):
    """
    transformers' Trainer, but a checkpoint appears under its name only when it is whole, and the order of the
    utterances does not depend on where a run was broken.
    """

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        return EpochSampler(sampler, self) if isinstance(sampler, LengthGroupedSampler) else sampler

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, PARTIAL) if getattr(self, "_is_saving", False) else folder

    def _save_checkpoint(self, model, trial) -> None:
        final = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        partial = Path(self.args.output_dir, PARTIAL, final.name)
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
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()


def _publish(partial: Path, final: Path) -> None:
    """Flush a folder to the disk, then give it its name in one step."""
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    if final.exists():
        shutil.rmtree(final)
    partial.replace(final)


def frame_predictions(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Most likely class of each frame (batch, frames), -100 in the padding: the logits of a test set need not be kept."""
    if isinstance(logits, tuple):
        logits = logits[0]
    return logits.argmax(-1).masked_fill((logits == BLANK_MARGIN).any(-1), -100)


def train(recipe: Recipe, arguments: Sequence[str] = (), device: str | None = None) -> Path:
    """
    Train a recogniser.

    Args:
        recipe: what to train on what.
        arguments: command-line arguments of `TrainingArguments` that go before the recipe's
            (`["--num-train-epochs", "3"]`).
        device: "cpu", "cuda" or "mps"; by default the best there is.

    Returns:
        The folder of the trained model, with `all_results.json` and `training.png` beside the weights.

    Raises:
        ValueError: for a recipe, corpus or argument that cannot be used.
    """
    args = training_arguments(recipe.training, arguments, device)
    output_dir = Path(args.output_dir)
    # Before anything random: weights, the held-out draw and the augmentation all follow the seed.
    torch.manual_seed(args.seed)

    corpus = read_corpus(recipe.corpus, recipe.train_split)
    train_set, eval_set = _hold_out(corpus, recipe, args.seed)
    processor, model, normalizer = _processor_and_model(recipe, train_set)
    train_set = usable_for_ctc(train_set, model.config, processor, normalizer)
    augmentation = None if recipe.augmentation is None else Augmentation(**recipe.augmentation)
    if augmentation is not None:
        train_set = train_set.add_column("augment", [True] * len(train_set))
    collator = CTCCollator(processor, normalizer, augmentation, seed=args.seed)
    callbacks: list[TrainerCallback] = [CollatorEpoch(collator)]
    if eval_set is None:  # nothing to choose by: the last weights are kept
        args.eval_strategy, args.load_best_model_at_end = "no", False
    elif recipe.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))

    trainer = SpeechTrainer(
        model=model,
        args=args,
        train_dataset=train_set,
        eval_dataset=eval_set,
        data_collator=collator,
        processing_class=processor,
        compute_metrics=trainer_metrics(processor, normalizer, logger.info),
        preprocess_logits_for_metrics=frame_predictions,
        callbacks=callbacks,
    )
    if trainer.is_world_process_zero():
        hours = sum(train_set["duration"]) / 3600
        logger.info(
            "Training %s: %.1f M parameters, %d classes, %d utterances (%.2f h) on %s",
            type(model).__name__,
            model.num_parameters() / 1e6,
            model.config.vocab_size,
            len(train_set),
            hours,
            args.device,
        )
    result = trainer.train(resume_from_checkpoint=_checkpoint_to_resume(args, output_dir))
    metrics = {**result.metrics, "train_utterances": len(train_set), "train_hours": sum(train_set["duration"]) / 3600}
    metrics["audio_seconds_per_second"] = (
        sum(train_set["duration"]) * args.num_train_epochs / result.metrics["train_runtime"]
    )
    if collator.unreadable:
        metrics["unreadable_files"] = len(collator.unreadable)
        logger.warning("%d files could not be read while training", len(collator.unreadable))
    if eval_set is not None:
        metrics.update(trainer.evaluate())
    if trainer.is_world_process_zero():
        _save(trainer, output_dir, metrics)
    trainer.accelerator.wait_for_everyone()
    return output_dir


def training_arguments(values: dict[str, Any], arguments: Sequence[str] = (), device: str | None = None):
    """
    `TrainingArguments` of a recipe's section, command-line arguments before it and our defaults behind it.

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
        "metric_for_best_model": "wer",
        "greater_is_better": False,
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
    parser = HfArgumentParser(TrainingArguments, exit_on_error=False)
    parser.set_defaults(**defaults | values)
    try:
        args, rest = parser.parse_known_args(list(arguments))
    except Exception as error:  # argparse's own errors do not share a useful base
        raise ValueError(str(error)) from None
    if rest:
        raise ValueError(f"neither an option of this command nor of transformers' TrainingArguments: {' '.join(rest)}")
    if device == "cpu":
        args.use_cpu = True
    return TrainingArguments(**vars(args))


def _hold_out(corpus: datasets.Dataset, recipe: Recipe, seed: int):
    """The part to train on and the part to choose by (or None)."""
    held_out = recipe.held_out
    if held_out in (None, "", "none", 0):
        return corpus, None
    try:
        return split_speakers(corpus, float(held_out), seed)
    except ValueError as error:
        if isinstance(error, CorpusError):
            raise
    path = next((p for p in (recipe.folder / str(held_out), Path(str(held_out))) if p.exists()), None)
    if path is None:
        raise CorpusError(f"{held_out}: expected a file of held-out speakers or a share such as 0.1")
    names = set(path.read_text(encoding="utf-8").split())
    train = corpus.filter(lambda row: row["speaker"] not in names)
    held = corpus.filter(lambda row: row["speaker"] in names)
    if len(train) == 0 or len(held) == 0:
        raise CorpusError(f"{path}: expected some of the corpus' speakers, but not all, to be held out")
    # By length, so that evaluation batches hold little padding.
    return train, held.sort("duration")


def _processor_and_model(recipe: Recipe, train_set) -> tuple[Wav2Vec2Processor, ResNetBiGruForCTC, TextNormalizer]:
    if recipe.model_name_or_path is None:
        normalizer = TextNormalizer(**recipe.normalizer)
        tokenizer = build_tokenizer(map(normalizer, train_set["text"]), recipe.vocabulary or "char")
        extractor = fitted_feature_extractor(train_set, **recipe.features)
        config = ResNetBiGruConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=extractor.feature_size,
            hop_length=extractor.hop_length,
            text_normalizer=normalizer.to_dict(),
            pad_token_id=tokenizer.pad_token_id,
            **recipe.model,
        )
        return Wav2Vec2Processor(extractor, tokenizer), ResNetBiGruForCTC(config), normalizer

    name = recipe.model_name_or_path
    model, processor = load_model(name)
    stored = TextNormalizer(**(model.config.text_normalizer or {}))
    vocabulary = recipe.vocabulary or "keep"
    if vocabulary == "keep":
        return processor, model, stored
    normalizer = TextNormalizer(**(stored.to_dict() | recipe.normalizer))
    texts = [normalizer(text) for text in train_set["text"]]
    old = processor.tokenizer
    if vocabulary == "extend":
        pieces = [piece for piece, _ in sorted(old.get_vocab().items(), key=lambda item: item[1])][3:]
        new = sorted(set("".join(texts)) - set(old.get_vocab()) - {" "})
        tokenizer = tokenizer_from_pieces(pieces + new)
    else:
        tokenizer = build_tokenizer(texts, vocabulary)
    replace_vocabulary(model, old.get_vocab(), tokenizer.get_vocab())
    model.config.text_normalizer = normalizer.to_dict()
    return Wav2Vec2Processor(processor.feature_extractor, tokenizer), model, normalizer


@torch.no_grad()
def replace_vocabulary(model: ResNetBiGruForCTC, old: dict[str, int], new: dict[str, int]) -> None:
    """Give the model a head for another vocabulary; classes that both have keep their weights."""
    head = model.classifier[-1]
    shared = [piece for piece in new if piece in old]
    fresh = torch.nn.Linear(head.in_features, len(new), dtype=head.weight.dtype, device=head.weight.device)
    for piece in shared:
        fresh.weight[new[piece]] = head.weight[old[piece]]
        fresh.bias[new[piece]] = head.bias[old[piece]]
    model.classifier[-1] = fresh
    model.config.vocab_size = len(new)
    logger.warning(
        "The head is new: %d classes, of which %d keep the checkpoint's weights and %d are initialised anew.",
        len(new),
        len(shared),
        len(new) - len(shared),
    )


def fitted_feature_extractor(dataset: datasets.Dataset, **kwargs) -> LogMelFeatureExtractor:
    """An extractor that normalises by the mean and variance of a training set (of an hour drawn from it)."""
    extractor = LogMelFeatureExtractor(**kwargs)
    total = torch.zeros(extractor.feature_size, dtype=torch.float64)
    squares, frames, seconds = total.clone(), 0, 0.0
    for row in dataset.shuffle(seed=0):
        try:
            waveform = read_audio(row.get("audio") or row["path"], extractor.sampling_rate)
        except AudioError:
            continue
        features = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        features = features["input_features"][0].double()
        total += features.sum(0)
        squares += features.square().sum(0)
        frames += len(features)
        seconds += len(waveform) / extractor.sampling_rate
        if seconds > STATISTICS_SECONDS:
            break
    if frames == 0:
        raise CorpusError("expected recordings to take feature statistics from, none could be read")
    mean = total / frames
    std = (squares / frames - mean.square()).clamp(min=1e-4).sqrt()
    return LogMelFeatureExtractor(
        **kwargs,
        feature_mean=[round(value, 4) for value in mean.tolist()],
        feature_std=[round(value, 4) for value in std.tolist()],
    )


def usable_for_ctc(dataset, config: ResNetBiGruConfig, processor: Wav2Vec2Processor, normalizer: TextNormalizer):
    """
    Leave out, with a warning that counts and names them, utterances that CTC cannot learn: without words after
    normalising, with characters outside the vocabulary, or with more labels (and blanks between repeats) than frames.
    """
    tokenizer = processor.tokenizer
    rate = processor.feature_extractor.sampling_rate
    problems: list[str] = []

    def is_usable(row: dict) -> bool:
        text = normalizer(row["text"])
        ids = encode(tokenizer, text)
        needed = len(ids) + sum(a == b for a, b in zip(ids, ids[1:], strict=False))
        frames = -(-round(row["duration"] * rate) // config.inputs_to_logits_ratio)
        if not ids:
            problem = "no words"
        elif tokenizer.unk_token_id in ids:
            unknown = sorted({c for c in text if c != " " and c not in tokenizer.get_vocab()})
            problem = f"characters outside the vocabulary: {' '.join(unknown)}"
        elif needed > frames:
            problem = f"{needed} labels, more than its {frames} frames"
        else:
            return True
        problems.append(f"{row.get('path') or text[:40]}: {problem}")
        return False

    usable = dataset.select([i for i, row in enumerate(dataset) if is_usable(row)])
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:5])
        more = f"\n  … and {len(problems) - 5} more" if len(problems) > 5 else ""
        logger.warning("Left out %d of %d utterances:%s%s", len(problems), len(dataset), shown, more)
    if len(usable) == 0:
        raise CorpusError(f"not one utterance that CTC can learn ({problems[0]})")
    return usable


def _checkpoint_to_resume(args: TrainingArguments, output_dir: Path) -> str | None:
    """`--resume_from_checkpoint` takes a folder, or "true" for the newest whole checkpoint of the output folder."""
    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() in ("false", "no", "0"):
        return None
    if str(wanted).lower() not in ("true", "yes", "1", "last"):
        if not Path(wanted, "trainer_state.json").exists():
            raise ValueError(f"{wanted}: expected a checkpoint folder to resume from (with a trainer_state.json)")
        return str(wanted)
    numbered = [path for path in output_dir.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    if not numbered:
        logger.warning("%s: no checkpoint to resume from yet, starting anew", output_dir)
        return None
    return str(max(numbered, key=lambda path: int(path.name.partition("-")[2])))


def _save(trainer: SpeechTrainer, output_dir: Path, metrics: dict[str, float]) -> None:
    partial = output_dir / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    trainer.save_model(str(partial))
    trainer.state.save_to_json(str(partial / "trainer_state.json"))
    (partial / "all_results.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    plot_history(trainer.state.log_history, partial / "training.png")
    for file in sorted(partial.iterdir()):
        file.replace(output_dir / file.name)
    partial.rmdir()


def plot_history(history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draw the losses and the WER of a Trainer's `log_history` over the epochs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, loss_axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    wer_axis = loss_axis.twinx()
    for axis, key, label, colour in (
        (loss_axis, "loss", "training loss", "tab:blue"),
        (loss_axis, "eval_loss", "held-out loss", "tab:orange"),
        (wer_axis, "eval_wer", "held-out WER", "tab:green"),
    ):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, color=colour)
    loss_axis.set(xlabel="epoch", ylabel="CTC loss a label", yscale="log")
    wer_axis.set(ylabel="WER", ylim=(0, 1))
    wer_axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    if loss_axis.lines or wer_axis.lines:
        figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
