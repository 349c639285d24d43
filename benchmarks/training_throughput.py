"""Training throughput beside the original write-up's loop, at equal parameter count, in one run on the CPU.

    python benchmarks/training_throughput.py PATH/an4

Ours: the sizes of recipes/an4.yaml, batches of similar length, 4 times fewer frames for the recurrence.
The write-up: 128 mels, 32 channels, shared layers, five GRU layers, no subsampling, every utterance padded to the
corpus' longest; its hidden size is chosen so that both have the same number of parameters (within 1 %).
All read and transform the same utterances, forward, backward, clip and step with AdamW, without augmentation.
"in chunks" is ours as it learns to stream: chunks of 12 frames with a look-ahead of 6.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import Wav2Vec2Processor
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_speechrec import LogMelFeatureExtractor, ResNetBiGruConfig, ResNetBiGruForCTC
from hf_speechrec.collator import CTCCollator
from hf_speechrec.corpora import read_corpus
from hf_speechrec.recipe import Recipe
from hf_speechrec.text import TextNormalizer, build_tokenizer

RECIPE = Path(__file__).parent.parent / "recipes" / "an4.yaml"
WRITE_UP = {
    "num_mel_bins": 128,
    "conv_channels": 32,
    "share_block_layers": True,
    "time_reduction": 1,
    "frequency_reduction": 1,
    "num_hidden_layers": 5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the AN4 folder")
    parser.add_argument("--batches", type=int, default=12, help="batches timed for each (one more warms up)")
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    recipe = Recipe.from_yaml(RECIPE)
    corpus = read_corpus(arguments.corpus, "train")
    normalizer = TextNormalizer(**recipe.normalizer)
    tokenizer = build_tokenizer(map(normalizer, corpus["text"]))
    ours = ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=len(tokenizer), **recipe.model))
    write_up = write_up_of_size(ours.num_parameters(), len(tokenizer))

    rates = {}
    whole, chunks = {"chunk_frames": 0}, {"chunk_frames": 12, "lookahead_frames": 6}
    longest = max(corpus["duration"])
    for name, model, context, pad_to in (
        ("ours", ours, whole, None),
        ("in chunks", ours, chunks, None),
        ("write-up", write_up, whole, longest),
    ):
        extractor = LogMelFeatureExtractor(feature_size=model.config.num_mel_bins)
        collator = CTCCollator(Wav2Vec2Processor(extractor, tokenizer), normalizer)
        rates[name] = throughput(model, corpus, collator, arguments, context, pad_to)
        print(f"{name:9s} {model.num_parameters():,} parameters: {rates[name]:.1f} s of audio a second")
    print(json.dumps({**rates, "ratio": rates["ours"] / rates["write-up"], "threads": torch.get_num_threads()}))


def write_up_of_size(parameters: int, vocab_size: int) -> ResNetBiGruForCTC:
    """The write-up's architecture with the hidden size that comes nearest to `parameters`."""

    def size(hidden: int) -> int:
        with torch.device("meta"):
            config = ResNetBiGruConfig(vocab_size=vocab_size, hidden_size=hidden, **WRITE_UP)
            return ResNetBiGruForCTC(config).num_parameters()

    hidden = min(range(32, 512), key=lambda hidden: abs(size(hidden) - parameters))
    return ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=vocab_size, hidden_size=hidden, **WRITE_UP))


def throughput(model, corpus, collator, arguments, context: dict[str, int], pad_to: float | None) -> float:
    """Seconds of speech (padding not counted) trained on in a second."""
    if pad_to is None:
        sampler = LengthGroupedSampler(arguments.batch_size, lengths=corpus["duration"])
        order = list(sampler)
    else:
        order = random.Random(0).sample(range(len(corpus)), len(corpus))
    batches = [order[i : i + arguments.batch_size] for i in range(0, len(order), arguments.batch_size)]
    # Drawn at random: sorted batches differ in length, the first ones being the longest.
    batches = random.Random(0).sample(batches, arguments.batches + 1)
    loader = DataLoader(corpus, batch_sampler=batches, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    seconds, start = 0.0, 0.0
    for i, (rows, batch) in enumerate(zip(batches, loader, strict=True)):
        if pad_to is not None:
            missing = round(pad_to * 100) - batch["input_features"].shape[1]
            batch["input_features"] = torch.nn.functional.pad(batch["input_features"], (0, 0, 0, max(missing, 0)))
            batch.pop("attention_mask")  # the write-up has none
        optimizer.zero_grad()
        model(**batch, **context).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if i == 0:
            start = time.perf_counter()
        else:
            seconds += sum(corpus["duration"][row] for row in rows)
    return seconds / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
