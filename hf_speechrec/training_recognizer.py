"""A recogniser's part of training: vocabulary, model, and utterances that CTC can learn."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import datasets
import torch
from transformers import Wav2Vec2Processor

from .augmentation import Augmentation
from .collator import CTCCollator
from .configuration_resnet_bigru import ResNetBiGruConfig
from .corpus_rows import CorpusError, warn_of, without_recordings
from .evaluation import frame_predictions, trainer_metrics
from .hub_corpora import NAMED_PROBLEMS, streamed_values
from .modeling_resnet_bigru import ResNetBiGruForCTC
from .pronunciation import LEXICON, LICENSES, Lexicon, phone_ids, phones_of, read_lexicon, write_lexicon
from .recipe import Recipe
from .text import TextNormalizer, build_tokenizer, encode, tokenizer_from_pieces
from .training_parts import TrainingParts, fitted_feature_extractor, load_start, warn_of_other_sizes

logger = logging.getLogger(__name__)


def recognizer_parts(
    recipe: Recipe, train_set, eval_set, augmentation: Augmentation | None, seed: int
) -> TrainingParts:
    """What a Trainer needs to train a recogniser on a corpus of transcribed recordings."""
    processor, model, normalizer = _processor_and_model(recipe, train_set)
    source = recipe.path_of(recipe.lexicon or "")
    lexicon = _normalized(read_lexicon(source), normalizer) if recipe.lexicon else None
    if lexicon and not recipe.streaming:
        _check_coverage(lexicon, map(normalizer, train_set["text"]), source)
    _fit_phones(model, lexicon)
    return TrainingParts(
        model=model,
        processing_class=processor,
        train_set=usable_for_ctc(train_set, model.config, processor, normalizer),
        eval_set=eval_set,
        data_collator=CTCCollator(processor, normalizer, augmentation, seed, _pronounce(model, lexicon)),
        compute_metrics=trainer_metrics(processor, logger.info),
        preprocess_logits_for_metrics=frame_predictions,
        write_companions=None if lexicon is None else partial(_write_lexicon, lexicon, source),
    )


def _normalized(lexicon: Lexicon, normalizer: TextNormalizer) -> Lexicon:
    """Words as the transcripts are spelled; without those that are several, or none, to the normaliser."""
    normalized: Lexicon = {}
    for word, ways in lexicon.items():
        spelled = normalizer(word)
        if spelled and " " not in spelled:
            known = normalized.setdefault(spelled, [])
            known += [way for way in ways if way not in known]
    return normalized


def _check_coverage(lexicon: Lexicon, texts: Iterable[str], source: Path) -> None:
    """Say which words of the training transcripts a lexicon lacks. Raises `CorpusError` where it has none of them."""
    counts = Counter(word for text in texts for word in text.split())
    missing = Counter({word: count for word, count in counts.items() if word not in lexicon})
    if missing and len(missing) == len(counts):
        raise CorpusError(f"{source}: expected a lexicon of the transcripts' words, it has none of them")
    if missing:
        most = ", ".join(word for word, _ in missing.most_common(5))
        share = missing.total() / counts.total()
        logger.warning("%s: %.1f %% of the words said are not in it (%s, …)", source, 100 * share, most)


def _write_lexicon(lexicon: Lexicon, source: Path, folder: Path) -> None:
    """A lexicon, and the licence that lies beside its source, into the folder of a model."""
    write_lexicon(lexicon, folder / LEXICON)
    for licence in source.parent.glob(LICENSES):
        shutil.copyfile(licence, folder / licence.name)


def _fit_phones(model: ResNetBiGruForCTC, lexicon: Lexicon | None) -> None:
    """Give the model a head for the lexicon's phones, or none, where it has another one."""
    phones = phones_of(lexicon) if lexicon else None
    before = model.config.phones
    if phones == before or (lexicon and before and set(phones_of(lexicon)) <= set(before)):
        return
    model.config.phones = phones
    model.phone_classifier = None if phones is None else model.new_head(1 + len(phones))
    if before:
        logger.warning("The head for phones is %s.", "new" if phones else "left out: the recipe has no lexicon")


def _pronounce(model: ResNetBiGruForCTC, lexicon: Lexicon | None):
    return None if lexicon is None else partial(phone_ids, lexicon=lexicon, phones=model.config.phones or [])


def _texts(recipe: Recipe, train_set):
    if recipe.streaming:
        return streamed_values(recipe.corpus, recipe.train_split, "text")
    return train_set["text"]


def _processor_and_model(recipe: Recipe, train_set) -> tuple[Wav2Vec2Processor, ResNetBiGruForCTC, TextNormalizer]:
    if recipe.model_name_or_path is None:
        normalizer = TextNormalizer(**recipe.normalizer)
        tokenizer = build_tokenizer(map(normalizer, _texts(recipe, train_set)), recipe.vocabulary or "char")
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
    model, processor = load_start(recipe)
    if not isinstance(model, ResNetBiGruForCTC):
        raise ValueError(f"{name}: expected a {ResNetBiGruForCTC.__name__} to start from, got a {type(model).__name__}")
    stored = TextNormalizer(**(model.config.text_normalizer or {}))
    vocabulary = recipe.vocabulary or "keep"
    if vocabulary == "keep":
        warn_of_other_sizes(name, (stored, recipe.normalizer))
        return processor, model, stored
    normalizer = TextNormalizer(**(stored.to_dict() | recipe.normalizer))
    texts = [normalizer(text) for text in _texts(recipe, train_set)]
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


def usable_for_ctc(dataset, config: ResNetBiGruConfig, processor: Wav2Vec2Processor, normalizer: TextNormalizer):
    """
    Leave out, with a warning that counts and names them, utterances that CTC cannot learn: without words after
    normalising, with characters outside the vocabulary, or with more labels (and blanks between repeats) than frames.
    """
    tokenizer = processor.tokenizer
    rate = processor.feature_extractor.sampling_rate
    problems: list[str] = []
    is_stream = isinstance(dataset, datasets.IterableDataset)

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
        if len(problems) < NAMED_PROBLEMS or not is_stream:
            problems.append(f"{row.get('path') or text[:40]}: {problem}")
            if is_stream:
                logger.warning("training: left out %s", problems[-1])
        return False

    if is_stream:  # read as it comes: nobody knows how many there will be
        return dataset.filter(is_usable)
    usable = dataset.select([i for i, row in enumerate(without_recordings(dataset)) if is_usable(row)])
    warn_of(problems, len(dataset), "training")
    if len(usable) == 0:
        raise CorpusError(f"not one utterance that CTC can learn ({problems[0]})")
    return usable
