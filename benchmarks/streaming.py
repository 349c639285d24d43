"""Streaming beside whole files: errors, latency and cost at algorithmic latencies of 320, 640 and 1280 ms.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py an4 PATH/an4 --split test
    OMP_NUM_THREADS=1 python benchmarks/streaming.py runs/mine my.csv --latencies 0.64

Recordings arrive in pieces of 50 ms, as from a microphone, which goes on behind them: faint noise of two seconds and
the latency follows, so that the stream itself commits the last word, and its latency counts, too. A word's latency runs
from its end in the audio (forced alignment of what the whole-file pass heard) to the end of the piece with which it was
committed, and the computing of that piece is added. The difference in WER has a paired bootstrap over utterances.
"""

import argparse
import difflib
import time
from pathlib import Path

import numpy as np
import torch

from hf_speechrec.audio import read_audio, row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import read_speakers
from hf_speechrec.evaluation import BOOTSTRAP_SAMPLES, utterance_errors
from hf_speechrec.listening import BLOCK_SECONDS
from hf_speechrec.loading import load_recognizer
from hf_speechrec.streaming import StreamingRecognizer
from hf_speechrec.text import TextNormalizer
from hf_speechrec.transcription import transcribe

SILENCE_SECONDS = 2.0  # behind a recording, and the latency: more than the pause that ends a segment
NOISE = 1e-4  # of full scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled name, a folder or a Hub id")
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--speakers", type=Path, help="only the speakers in this file")
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.32, 0.64, 1.28], help="seconds")
    arguments = parser.parse_args()

    recognizer = load_recognizer(arguments.model, "cpu")
    normalizer = TextNormalizer(**recognizer.model.config.text_normalizer)
    names = read_speakers(arguments.speakers) if arguments.speakers else None
    corpus = read_corpus(arguments.corpus, arguments.split, speakers=names)
    rate = recognizer.feature_extractor.sampling_rate
    recordings = [read_audio(row_source(row), rate) for row in corpus]
    references = [normalizer(text) for text in corpus["text"]]

    whole = list(transcribe(recordings, recognizer, word_times=True))
    errors, words = utterance_errors(references, [transcript.text for transcript in whole])
    print(f"{torch.get_num_threads()} thread(s), {len(recordings)} utterances, {words.sum()} words")
    print(f"whole utterances: WER {errors.sum() / words.sum():.2%}")
    for latency in arguments.latencies:
        stream = StreamingRecognizer(recognizer.model, recognizer, latency=latency)
        texts, delays, seconds = [], [], 0.0
        begin = time.process_time()
        for recording, transcript in zip(recordings, whole, strict=True):
            played = with_silence(recording, stream.latency, rate)
            text, times = play(stream, played, rate)
            texts.append(" ".join(text))
            seconds += len(played) / rate
            # The words that both have heard: when was each over, and when did it stand there?
            matcher = difflib.SequenceMatcher(None, [word.word for word in transcript.words], text, autojunk=False)
            for block in matcher.get_matching_blocks():
                delays += [times[block.b + i] - transcript.words[block.a + i].end for i in range(block.size)]
        cost = (time.process_time() - begin) / seconds
        streamed, _ = utterance_errors(references, texts)
        low, high = paired_interval(streamed - errors, words)
        print(
            f"latency {stream.latency * 1000:5.0f} ms (chunk {stream.chunk_frames}, look-ahead "
            f"{stream.lookahead_frames}): WER {streamed.sum() / words.sum():.2%}, difference "
            f"{(streamed.sum() - errors.sum()) / words.sum():+.2%} ({low:+.2%} to {high:+.2%}), "
            f"{streamed.sum() / errors.sum() - 1:+.0%} relative; committed after {np.median(delays) * 1000:.0f} ms "
            f"(median), {np.percentile(delays, 95) * 1000:.0f} ms (95 %) of {len(delays)} words; CPU "
            f"{cost * 1000:.1f} ms a second of audio",
            flush=True,
        )


def with_silence(recording: np.ndarray, latency: float, rate: int) -> np.ndarray:
    """A recording, and what a microphone hears after it."""
    samples = round((SILENCE_SECONDS + latency) * rate)
    noise = NOISE * np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    return np.concatenate([recording, noise])


def play(stream: StreamingRecognizer, recording: np.ndarray, rate: int) -> tuple[list[str], list[float]]:
    """The words of a recording and when each was committed, in seconds from its beginning."""
    stream.reset()
    size = round(BLOCK_SECONDS * rate)
    words: list[str] = []
    times: list[float] = []
    for start in range(0, len(recording) + 1, size):
        begin = time.perf_counter()
        is_last = start + size > len(recording)
        update = stream.feed(recording[start : start + size])
        found = update.words + (stream.flush().words if is_last else [])
        now = min(start + size, len(recording)) / rate + time.perf_counter() - begin
        words += [word.word for word in found]
        times += [now] * len(found)
    return words, times


def paired_interval(differences: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """95 % interval of a difference in WER: utterances drawn with replacement, the same for both."""
    count = len(words)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_SAMPLES)
    low, high = np.percentile((draws @ differences) / np.maximum(draws @ words, 1), [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
