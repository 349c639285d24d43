"""Rows of a corpus → a padded batch of features and labels."""

import logging
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Processor

from .audio import AudioError, read_audio, row_source
from .augmentation import Augmentation
from .text import TextNormalizer, encode

logger = logging.getLogger(__name__)


@dataclass
class CTCCollator:
    """
    Reads the audio of each row, makes features and labels, and pads them to the batch's longest.

    Rows whose `augment` is true are augmented: a corpus for training has that column, one for evaluation does not, so
    that one collator serves both and any `Trainer` will do.

    Args:
        processor: the model's processor.
        normalizer: the policy for transcripts.
        augmentation: what happens to rows that ask for it.
        seed: where given, augmentation follows from it, `epoch` and the utterances alone, so that a run resumed in
            mid-epoch goes on as the unbroken one would; otherwise from torch's global generator.

    A file that cannot be read in the middle of a run is named, counted in `unreadable`, and stands in the batch as a
    moment of silence without words: the run goes on, and every process keeps its batch size.
    """

    processor: Wav2Vec2Processor
    normalizer: TextNormalizer
    augmentation: Augmentation | None = None
    seed: int | None = None
    unreadable: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # a data loader's workers see it change

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `input_features` (batch, frames, mels), `attention_mask` (batch, frames), and `labels` (batch, labels)
            padded with -100 where the rows have a `text`.
        """
        if self.seed is None:
            return self._collate(rows)
        utterances = [(row.get("path"), row.get("text")) for row in rows]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(zlib.crc32(repr((self.seed, int(self.epoch), utterances)).encode()))
            return self._collate(rows)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        extractor = self.processor.feature_extractor
        waveforms, texts = [], []
        for row in rows:
            try:
                text = row.get("text")
                waveform = read_audio(row_source(row), extractor.sampling_rate)
            except AudioError as error:
                if not self.unreadable[str(error)]:
                    logger.warning("Treated as silence: %s", error)
                self.unreadable[str(error)] += 1
                waveform = np.zeros(extractor.sampling_rate // 10, dtype=np.float32)
                text = None if text is None else ""
            if self.augmentation is not None and row.get("augment"):
                waveform = self.augmentation.waveform(waveform)
            waveforms.append(waveform)
            texts.append(text)

        batch = dict(extractor(waveforms, sampling_rate=extractor.sampling_rate, return_tensors="pt"))
        if self.augmentation is not None:
            lengths = batch["attention_mask"].sum(-1).tolist()
            for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                if row.get("augment"):
                    features = batch["input_features"][i, :length]
                    batch["input_features"][i, :length] = self.augmentation.features(features)
        if texts[0] is not None:
            labels = [
                torch.tensor(encode(self.processor.tokenizer, self.normalizer(text or "")), dtype=torch.long)
                for text in texts
            ]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=-100)
        return batch
