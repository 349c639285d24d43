"""How true word times are: a known text aligned to trimmed single-word clips joined with known silences.

    python benchmarks/word_times.py an4 PATH/an4 --split test
    python benchmarks/word_times.py an4 PATH/speech_commands --split test

Of an AN4-like corpus the utterances of one word are used, of a labelled one all whose label is a word. A clip is
trimmed to where it is within 30 dB of its loudest 20 ms. Ten words and the silences between them (0.2 to 0.8 s of
faint noise) make one recording; the transcript is given.
"""

import argparse

import numpy as np

from hf_speechrec.audio import read_audio, row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_recognizer
from hf_speechrec.text import TextNormalizer
from hf_speechrec.transcription import align_recording

FRAME_SECONDS = 0.02
RANGE_DB = 30
NOISE = 1e-4  # of full scale
WORDS = 10  # of a recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled name, a folder or a Hub id")
    parser.add_argument("corpus")
    parser.add_argument("--split")
    arguments = parser.parse_args()

    recognizer = load_recognizer(arguments.model, "cpu")
    normalizer = TextNormalizer(**recognizer.model.config.text_normalizer)
    rate = recognizer.feature_extractor.sampling_rate
    clips = [
        (normalizer(text), trimmed(read_audio(source, rate), rate))
        for text, source in single_words(arguments.corpus, arguments.split)
    ]
    generator = np.random.default_rng(0)
    order = generator.permutation(len(clips))
    starts, ends = [], []
    for first in range(0, len(order), WORDS):
        pieces: list[np.ndarray] = []
        text, times, position = [], [], 0
        for i in order[first : first + WORDS]:
            pause = NOISE * generator.standard_normal(round(generator.uniform(0.2, 0.8) * rate)).astype(np.float32)
            pieces += [pause, clips[i][1]]
            position += len(pause)
            times.append((position / rate, (position + len(clips[i][1])) / rate))
            position += len(clips[i][1])
            text.append(clips[i][0])
        aligned = align_recording(np.concatenate(pieces), " ".join(text), recognizer).words
        starts += [word.start - start for word, (start, _) in zip(aligned, times, strict=True)]
        ends += [word.end - end for word, (_, end) in zip(aligned, times, strict=True)]
    for name, errors in (("starts", np.array(starts)), ("ends", np.array(ends))):
        print(
            f"{len(errors)} word {name}: {np.mean(np.abs(errors) <= 0.05):.1%} within 50 ms, "
            f"{np.mean(np.abs(errors) <= 0.1):.1%} within 100 ms, bias {np.mean(errors) * 1000:+.0f} ms "
            f"(median {np.median(errors) * 1000:+.0f} ms)"
        )


def single_words(corpus: str, split: str | None):
    """Words and what `read_audio` takes."""
    try:
        rows = read_corpus(corpus, split)
        return [(row["text"], row_source(row)) for row in rows if len(row["text"].split()) == 1]
    except CorpusError:
        rows = read_labelled_corpus(corpus, split)
        return [(row["label"], row_source(row)) for row in rows if row["label"].isalpha()]


def trimmed(samples: np.ndarray, rate: int) -> np.ndarray:
    """A clip from the first to the last frame that is loud enough."""
    frame = round(FRAME_SECONDS * rate)
    power = np.square(samples[: len(samples) // frame * frame].reshape(-1, frame)).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-RANGE_DB / 10))
    return samples[loud[0] * frame : (loud[-1] + 1) * frame]


if __name__ == "__main__":
    main()
