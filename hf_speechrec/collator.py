"""Rows of a corpus → a padded batch of features and labels."""

import logging
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Processor

from .audio import AudioError, read_audio, row_source
from .augmentation import Augmentation
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .text import TextNormalizer, encode

logger = logging.getLogger(__name__)

MOST_FAILED_READS = 50  # in a row: the corpus has gone, and silence is all that a model would learn


class SpeechCollator:
    """
    Reads the audio of each row, makes features, and pads them to the batch's longest. What the labels are is for the
    subclasses; this one gives none.

    Rows whose `augment` is true are augmented: a corpus for training has that column, one for evaluation does not, so
    that one collator serves both and any `Trainer` will do.

    Args:
        feature_extractor: the model's.
        augmentation: what happens to rows that ask for it.
        seed: where given, augmentation follows from it, `epoch` and the utterances alone, so that a run resumed in
            mid-epoch goes on as the unbroken one would; otherwise from torch's global generator.

    In the first `plain_epochs` epochs nothing is augmented.

    A file that cannot be read in the middle of a run is named, counted in `unreadable` (and by all workers of a data
    loader in `failed_reads`), and stands in the batch as a moment of silence that teaches nothing wrong: the run goes
    on, and every process keeps its batch size. `MOST_FAILED_READS` in a row raise an `AudioError`.
    """

    def __init__(
        self,
        feature_extractor: LogMelFeatureExtractor,
        augmentation: Augmentation | None = None,
        seed: int | None = None,
    ):
        self.plain_epochs = 0
        self.feature_extractor = feature_extractor
        self.augmentation = augmentation
        self.seed = seed
        self.unreadable: Counter[str] = Counter()
        self.failed_reads = torch.zeros((), dtype=torch.long).share_memory_()
        self.failed_in_a_row = 0
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # a data loader's workers see it change

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `input_features` (batch, frames, mels), `attention_mask` (batch, frames), and `labels` where the rows have
            any.
        """
        if self.seed is None:
            return self._collate(rows)
        utterances = [(row.get("path"), row.get("text", row.get("label"))) for row in rows]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(zlib.crc32(repr((self.seed, int(self.epoch), utterances)).encode()))
            return self._collate(rows)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        extractor = self.feature_extractor
        augmentation = None if int(self.epoch) < self.plain_epochs else self.augmentation
        waveforms, is_speech = [], []
        for row in rows:
            try:
                waveform = read_audio(row_source(row), extractor.sampling_rate)
                is_speech.append(True)
                self.failed_in_a_row = 0
            except AudioError as error:
                self._count(error)
                waveform = np.zeros(extractor.sampling_rate // 10, dtype=np.float32)
                is_speech.append(False)
            if augmentation is not None and row.get("augment"):
                if torch.rand(()) < augmentation.empty_probability:
                    waveform = augmentation.empty(len(waveform), extractor.sampling_rate)
                    is_speech[-1] = False
                else:
                    waveform = augmentation.waveform(waveform, extractor.sampling_rate)
            waveforms.append(waveform)

        is_training = all(row.get("augment") for row in rows)
        if augmentation is not None and is_training and torch.rand(()) < augmentation.join_probability:
            rows, waveforms, is_speech = self._join(rows, waveforms, is_speech, augmentation)

        batch = self._features(rows, waveforms)
        if augmentation is not None:
            lengths = batch["attention_mask"].sum(-1).tolist()
            for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                if row.get("augment"):
                    features = batch["input_features"][i, :length]
                    batch["input_features"][i, :length] = augmentation.features(features)
        return batch | self._labels(rows, is_speech)

    def _count(self, error: AudioError) -> None:
        if not self.unreadable[str(error)]:
            logger.warning("Treated as silence: %s", error)
        self.unreadable[str(error)] += 1
        self.failed_reads += 1
        self.failed_in_a_row += 1
        if self.failed_in_a_row == MOST_FAILED_READS:
            raise AudioError(f"{error}; with it {MOST_FAILED_READS} recordings in a row could not be read")

    def _join(self, rows, waveforms, is_speech, augmentation: Augmentation):
        raise ValueError("augmentation: expected a join_probability of 0, utterances of one label cannot be joined")

    def _features(self, rows: list[dict[str, Any]], waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        extractor = self.feature_extractor
        return dict(extractor(waveforms, sampling_rate=extractor.sampling_rate, return_tensors="pt"))

    def _labels(self, rows: list[dict[str, Any]], is_speech: list[bool]) -> dict[str, torch.Tensor]:
        return {}


class CTCCollator(SpeechCollator):
    """
    `labels` are the token ids of the transcripts (batch, labels), padded with -100. What is no speech (a file
    that cannot be read, silence that augmentation puts in its place) has no words.

    Args:
        processor: the model's processor.
        normalizer: the policy for transcripts.
        augmentation, seed: see `SpeechCollator`.
        pronounce: words → phones, or none where one of them is unknown. Where given, `phone_ids` (batch, phones) are
            padded with -100, too; an utterance of unknown phones has nothing else.
    """

    def __init__(
        self,
        processor: Wav2Vec2Processor,
        normalizer: TextNormalizer,
        augmentation: Augmentation | None = None,
        seed: int | None = None,
        pronounce: Callable[[list[str]], list[int] | None] | None = None,
    ):
        super().__init__(processor.feature_extractor, augmentation, seed)
        self.processor = processor
        self.normalizer = normalizer
        self.pronounce = pronounce

    def _join(self, rows, waveforms, is_speech, augmentation: Augmentation):
        """Neighbours of the batch, two or four at a time: as many frames as before, in fewer rows."""
        size = 2 ** int(torch.randint(1, 3, ()))
        groups = [range(i, min(i + size, len(rows))) for i in range(0, len(rows), size)]
        rate = self.feature_extractor.sampling_rate
        joined = [
            {**rows[group[0]], "text": " ".join(rows[i].get("text") or "" for i in group if is_speech[i])}
            for group in groups
        ]
        recordings = [augmentation.joined([waveforms[i] for i in group], rate) for group in groups]
        return joined, recordings, [True] * len(groups)

    def _labels(self, rows: list[dict[str, Any]], is_speech: list[bool]) -> dict[str, torch.Tensor]:
        if rows[0].get("text") is None:
            return {}
        spoken = zip(rows, is_speech, strict=True)
        texts = [self.normalizer(row.get("text") or "") if ok else "" for row, ok in spoken]
        labels = {"labels": _padded([encode(self.processor.tokenizer, text) for text in texts])}
        if self.pronounce is not None:
            labels["phone_ids"] = _padded([self.pronounce(text.split()) or [] for text in texts])
        return labels


def _padded(ids: list[list[int]]) -> torch.Tensor:
    """(batch, longest), padded with -100"""
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in ids], batch_first=True, padding_value=-100)


class AudioClassificationCollator(SpeechCollator):
    """
    `labels` are the classes of the utterances (batch,). What is no speech has -100, which the loss ignores.

    Args:
        feature_extractor, augmentation, seed: see `SpeechCollator`.
        label2id: number of each class, the model's `config.label2id`.
        speaker_means: log-mel mean (mels,) of each `speaker` of the rows, which is taken away in place of the
            extractor's `feature_mean`. For those who have none the latter stands.
    """

    def __init__(
        self,
        feature_extractor: LogMelFeatureExtractor,
        label2id: dict[str, int],
        augmentation: Augmentation | None = None,
        seed: int | None = None,
        speaker_means: dict[str, torch.Tensor] | None = None,
    ):
        super().__init__(feature_extractor, augmentation, seed)
        self.label2id = label2id
        self.speaker_means = speaker_means or {}

    def _features(self, rows: list[dict[str, Any]], waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        batch = super()._features(rows, waveforms)
        extractor = self.feature_extractor
        for i, row in enumerate(rows):
            if (mean := self.speaker_means.get(row.get("speaker", ""))) is not None:
                shift = (torch.tensor(extractor.feature_mean) - mean) / torch.tensor(extractor.feature_std)
                batch["input_features"][i] += shift * batch["attention_mask"][i][:, None]
        return batch

    def _labels(self, rows: list[dict[str, Any]], is_speech: list[bool]) -> dict[str, torch.Tensor]:
        if rows[0].get("label") is None:
            return {}
        if unknown := sorted({str(row["label"]) for row in rows} - self.label2id.keys()):
            raise ValueError(f"expected labels among {', '.join(self.label2id)}, got {', '.join(unknown)}")
        ids = [self.label2id[row["label"]] if ok else -100 for row, ok in zip(rows, is_speech, strict=True)]
        return {"labels": torch.tensor(ids)}


__all__ = ["AudioClassificationCollator", "CTCCollator", "SpeechCollator"]
