"""Fine-tuning against training from nothing, on ten minutes of other speech.

    python benchmarks/fine_tuning.py PATH/LibriSpeech/dev-4spk

Ten minutes of three of the four speakers are trained on, once from the bundled AN4 checkpoint and once from nothing,
both at once on a thread each with the same recipe (recipes/fine-tune.yaml); both are measured on the fourth speaker.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hf_speechrec.corpora import read_corpus

RECIPE = Path(__file__).parent.parent / "recipes" / "fine-tune.yaml"
TRAIN_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the folder of the development speakers")
    parser.add_argument("--base", default="hf_speechrec/checkpoints/an4", help="checkpoint to start from")
    parser.add_argument("--test-speaker", default="8226")
    arguments = parser.parse_args()

    corpus = read_corpus(arguments.corpus)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        seconds = 0.0
        with (root / "train.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "text"])
            for row in corpus.shuffle(seed=0):
                if row["speaker"] != arguments.test_speaker and seconds < TRAIN_SECONDS:
                    seconds += row["duration"]
                    writer.writerow([Path(row["path"]).absolute(), row["text"]])
        (root / "speaker.txt").write_text(arguments.test_speaker + "\n")

        starts = {
            "fine-tuned": ["--model-name-or-path", arguments.base, "--vocabulary", "extend"],
            "from nothing": [],
        }
        trainings = [
            start("train", RECIPE, "--corpus", root / "train.csv", "--output_dir", root / name, "--device", "cpu", *how)
            for name, how in starts.items()
        ]
        if sum(training.wait() for training in trainings):
            sys.exit("a training failed")
        for name in starts:
            options = ["--speakers", root / "speaker.txt", "--json", root / "report.json", "--device", "cpu"]
            start("evaluate", root / name, arguments.corpus, *options).wait()
            rates = json.loads((root / "report.json").read_text())
            low, high = rates["wer_interval"]
            print(f"{name:13s} WER {rates['wer']:.2%} ({low:.2%} to {high:.2%}), CER {rates['cer']:.2%}", flush=True)


def start(*arguments) -> subprocess.Popen:
    """A command of ours on one thread: the two trainings share two cores."""
    return subprocess.Popen(
        [sys.executable, "-m", "hf_speechrec", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


if __name__ == "__main__":
    main()
