"""A recipe → a trained model folder: corpus, vocabulary, model, transformers' Trainer, results and a plot."""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import datasets
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, Wav2Vec2Processor

from .audio import AudioError, read_audio, row_source
from .augmentation import Augmentation
from .collator import CTCCollator
from .configuration_resnet_bigru import ResNetBiGruConfig
from .corpora import CorpusError, read_corpus, split_speakers, warn_of
from .evaluation import frame_predictions, trainer_metrics
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .modeling_resnet_bigru import ResNetBiGruForCTC
from .recipe import Recipe
from .text import TextNormalizer, build_tokenizer, encode, tokenizer_from_pieces
from .trainer import CollatorEpoch, SpeechTrainer, checkpoint_to_resume, save_run, training_arguments
from .transcription import load_model

logger = logging.getLogger(__name__)

STATISTICS_SECONDS = 3600  # an hour of speech settles a mean and a variance for each mel bin


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
    seconds = sum(train_set["duration"])
    if trainer.is_world_process_zero():
        logger.info(
            "Training %s: %.1f M parameters, %d classes, %d utterances (%.2f h) on %s",
            type(model).__name__,
            model.num_parameters() / 1e6,
            model.config.vocab_size,
            len(train_set),
            seconds / 3600,
            args.device,
        )
    result = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args, output_dir))
    metrics = {**result.metrics, "train_utterances": len(train_set), "train_hours": seconds / 3600}
    metrics["audio_seconds_per_second"] = seconds * args.num_train_epochs / result.metrics["train_runtime"]
    if collator.unreadable:
        metrics["unreadable_files"] = len(collator.unreadable)
        logger.warning("%d files could not be read while training", len(collator.unreadable))
    if eval_set is not None:
        metrics.update(trainer.evaluate())
    if trainer.is_world_process_zero():
        save_run(trainer, output_dir, metrics)
    trainer.accelerator.wait_for_everyone()
    return output_dir


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
    if not isinstance(model, ResNetBiGruForCTC):
        raise ValueError(f"{name}: expected a {ResNetBiGruForCTC.__name__} to start from, got a {type(model).__name__}")
    if recipe.model or recipe.features:
        logger.warning("%s: its own sizes and features stand; the recipe's model and features do not apply", name)
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
    head = cast(torch.nn.Linear, model.classifier[-1])
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
            waveform = read_audio(row_source(row), extractor.sampling_rate)
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
        needed = len(ids) + sum(a == b for a, b in pairwise(ids))
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
    warn_of(problems, len(dataset), "training")
    if len(usable) == 0:
        raise CorpusError(f"not one utterance that CTC can learn ({problems[0]})")
    return usable
