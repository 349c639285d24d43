"""Fine-tuning against training from nothing, on ten minutes of other speech.

    python benchmarks/fine_tuning.py PATH/LibriSpeech/dev-4spk

Ten minutes of three of the four speakers are trained on, once from the bundled AN4 checkpoint and once from nothing,
with the same recipe (recipes/fine-tune.yaml); both are measured on the fourth speaker.
"""

import argparse
import csv
import json
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

        results = {}
        for name, start in (
            ("fine-tuned", ["--model-name-or-path", arguments.base, "--vocabulary", "extend"]),
            ("from nothing", []),
        ):
            folder = root / name.replace(" ", "-")
            run("train", RECIPE, "--corpus", root / "train.csv", "--output_dir", folder, "--device", "cpu", *start)
            report = root / "report.json"
            speakers = ["--speakers", root / "speaker.txt"]
            run("evaluate", folder, arguments.corpus, *speakers, "--json", report, "--device", "cpu")
            results[name] = json.loads(report.read_text())
            rates = results[name]
            low, high = rates["wer_interval"]
            print(f"{name:13s} WER {rates['wer']:.2%} ({low:.2%} to {high:.2%}), CER {rates['cer']:.2%}", flush=True)


def run(*arguments) -> None:
    subprocess.run([sys.executable, "-m", "hf_speechrec", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
