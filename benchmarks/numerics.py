"""What a recogniser's numbers depend on that they should not: threads, batches, order, the width of its floats.

    python benchmarks/numerics.py PATH/an4                   # the bundled checkpoint, on AN4's test part
    python benchmarks/numerics.py PATH/an4 --model runs/an4

Prints the largest difference of a log-probability against one thread and one utterance at a time in float32, how many
texts differ, and the WER in float16 and bfloat16: weights and activations, and under autocast.
"""

import argparse
import contextlib
import random
import time

import torch

from hf_speechrec.audio import read_audio
from hf_speechrec.corpora import read_corpus
from hf_speechrec.decoding import GreedyDecoder
from hf_speechrec.evaluation import evaluate_recognizer
from hf_speechrec.loading import load_recognizer
from hf_speechrec.segmentation import cut_at_silences
from hf_speechrec.transcription import segment_log_probs


def log_probs(recognizer, segments: list, threads: int, batch_size: int, order: list[int]) -> list[torch.Tensor]:
    """(frames, vocab) of each utterance, in their own order."""
    torch.set_num_threads(threads)
    results = {}
    for batch in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
        results.update(zip(batch, segment_log_probs([segments[i] for i in batch], recognizer), strict=True))
    torch.set_num_threads(1)
    return [results[i] for i in range(len(segments))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the AN4 folder")
    parser.add_argument("--model", default="an4", help="a bundled name, a folder or a Hub id")
    arguments = parser.parse_args()
    recognizer = load_recognizer(arguments.model, "cpu")
    corpus = read_corpus(arguments.corpus, "test")
    rate, ratio = recognizer.feature_extractor.sampling_rate, recognizer.model.config.inputs_to_logits_ratio
    recordings = [read_audio(path, rate) for path in corpus["path"]]
    segments = [segment for samples in recordings for segment in cut_at_silences([samples], rate, ratio)]
    decode = GreedyDecoder(recognizer.tokenizer)

    in_order = list(range(len(segments)))
    shuffled = random.Random(0).sample(in_order, len(in_order))
    by_length = sorted(in_order, key=lambda i: segments[i].length)
    reference = log_probs(recognizer, segments, 1, 1, in_order)
    texts = [decode(rows) for rows in reference]
    print(f"{len(segments)} utterances of AN4's test part, float32; against one thread, one utterance at a time:")
    for name, case in {
        "2 threads": (2, 1, in_order),
        "batches of 8, by length": (1, 8, by_length),
        "batches of 8, in random order": (1, 8, shuffled),
        "batches of 32 in random order, 2 threads": (2, 32, shuffled),
    }.items():
        results = log_probs(recognizer, segments, *case)
        largest = max(float((a - b).abs().max()) for a, b in zip(results, reference, strict=True))
        different = sum(decode(rows) != text for rows, text in zip(results, texts, strict=True))
        print(f"  {name:42s} log-probabilities differ by at most {largest:.1e}, {different} texts differ", flush=True)

    wer = None
    for name, dtype, autocast in (
        ("float32", torch.float32, None),
        ("bfloat16", torch.bfloat16, None),
        ("float16", torch.float16, None),
        ("autocast to bfloat16", torch.float32, torch.bfloat16),
    ):
        recognizer = load_recognizer(arguments.model, "cpu")
        recognizer.model.to(dtype)
        begin = time.perf_counter()
        with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
            report = evaluate_recognizer(recognizer, corpus)
        wer = report["wer"] if wer is None else wer
        points = 100 * (report["wer"] - wer)
        print(
            f"{name:22s} WER {report['wer']:.2%} ({points:+.2f} points), {time.perf_counter() - begin:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
