"""A recording of hours: memory, speed, and whether cutting it costs words.

    OMP_NUM_THREADS=1 python benchmarks/long_recording.py an4 PATH/an4 --split test --hours 3

The clips of a corpus are joined in its order (by speaker), 0.5 s of faint noise between them, over and over until it is
long enough, written as FLAC, and transcribed by the command in a process of its own. Beside it the same clips apart.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from hf_speechrec.audio import read_audio, row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import read_speakers
from hf_speechrec.evaluation import error_rates
from hf_speechrec.loading import load_recognizer
from hf_speechrec.text import TextNormalizer
from hf_speechrec.transcription import transcribe

# A process counts the memory of the one that started it; this one is small.
LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""
# What ends has its libraries' last pages read: of PyTorch for CUDA 130 MB more than it ever worked with.
COMMAND = """
import resource, sys
from hf_speechrec.cli import app
app(standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
PAUSE_SECONDS = 0.5
NOISE = 1e-4  # of full scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled name, a folder or a Hub id")
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--speakers", type=Path, help="only the speakers in this file")
    parser.add_argument("--hours", type=float, default=3.0)
    arguments = parser.parse_args()

    recognizer = load_recognizer(arguments.model, "cpu")
    normalizer = TextNormalizer(**recognizer.model.config.text_normalizer)
    rate = recognizer.feature_extractor.sampling_rate
    names = read_speakers(arguments.speakers) if arguments.speakers else None
    corpus = read_corpus(arguments.corpus, arguments.split, speakers=names)
    clips = [read_audio(row_source(row), rate) for row in corpus]
    references = [normalizer(text) for text in corpus["text"]]
    apart = [transcript.text for transcript in transcribe(clips, recognizer)]

    generator = np.random.default_rng(0)
    said: list[str] = []
    heard_apart: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.flac")
        samples = 0
        with soundfile.SoundFile(path, "w", rate, 1) as file:
            while samples < arguments.hours * 3600 * rate:
                for i in range(len(clips)):
                    pause = NOISE * generator.standard_normal(round(PAUSE_SECONDS * rate)).astype(np.float32)
                    file.write(np.concatenate([pause, clips[i]]))
                    samples += len(pause) + len(clips[i])
                    said.append(references[i])
                    heard_apart.append(apart[i])
        begin = time.perf_counter()
        command = [sys.executable, "-c", COMMAND, "transcribe", str(path), "--model", arguments.model]
        command = [sys.executable, "-c", LAUNCH, *command, "--device", "cpu"]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        elapsed = time.perf_counter() - begin
    text = process.stdout.strip()
    at_work, at_exit = (int(line) * 1024 / 1e9 for line in process.stderr.splitlines()[-2:])
    seconds = samples / rate
    joined, separate = error_rates([" ".join(said)], [text]), error_rates(said, heard_apart)
    factor = elapsed / seconds
    print(f"{seconds / 3600:.2f} hours, {joined['words']} words, in {elapsed:.0f} s: real-time factor {factor:.4f}")
    print(f"peak memory of the process {at_work:.2f} GB, as it exits {at_exit:.2f} GB")
    print(
        f"WER as one recording {joined['wer']:.2%}, as clips {separate['wer']:.2%} "
        f"({joined['wer'] / separate['wer'] - 1:+.1%} relative)"
    )


if __name__ == "__main__":
    main()
