"""Accuracy of a classifier on the test part of Speech Commands, and the time and memory that one clip takes.

    python benchmarks/speech_commands.py PATH/speech_commands                  # the bundled checkpoint
    python benchmarks/speech_commands.py PATH/speech_commands --model runs/x   # another run
    python benchmarks/speech_commands.py PATH/speech_commands --write-card     # and render the bundled card anew

783 clips of speakers that were not trained on: ten words, other words, and silence. White noise, the same for a clip
in every run. The time is of one clip by itself on one thread, features included and reading the file apart.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from hf_speechrec.audio import read_audio
from hf_speechrec.evaluation_classifier import evaluate_classifier, format_classification_report, plot_confusion_matrix
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import CHECKPOINTS, load_classifier
from hf_speechrec.model_card import condition_name, render_model_card, update_facts

CORPUS = "Speech Commands"
CONDITIONS = [
    {},
    {"gain_db": 12.0},
    {"gain_db": -12.0},
    {"noise_snr_db": 20.0},
    {"noise_snr_db": 10.0},
    {"noise_snr_db": 5.0},
]


def milliseconds_a_clip(classifier, clips: list[np.ndarray]) -> float:
    """Median over the clips, one by one on one thread."""
    torch.set_num_threads(1)
    times = []
    for clip in clips:
        start = time.perf_counter()
        classifier(clip)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[5:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the folder of Speech Commands with train.txt and test.txt")
    parser.add_argument("--model", default="speech-commands", help="a bundled name, a folder or a Hub id")
    parser.add_argument("--json", type=Path, help="also write the reports to this file")
    parser.add_argument("--write-card", action="store_true", help="render the bundled model's card from the figures")
    arguments = parser.parse_args()

    classifier = load_classifier(arguments.model, "cpu")
    corpus = read_labelled_corpus(arguments.corpus, "test")
    reports = {}
    for condition in CONDITIONS:
        report = evaluate_classifier(classifier, corpus, **condition)
        report |= {"command": "python benchmarks/speech_commands.py PATH/speech_commands"}
        report |= {"corpus": CORPUS, "split": "test"}
        name = condition_name(report)
        if not reports:
            print(format_classification_report(report))
            if arguments.write_card:
                plot = CHECKPOINTS / "speech-commands" / "confusion_matrix.png"
                plot_confusion_matrix(report["confusion_matrix"], report["labels"], plot)
        reports[name] = report
        low, high = report["accuracy_interval"]
        print(f"{name:37s} accuracy {report['accuracy']:6.2%} ({low:.2%} to {high:.2%})", flush=True)
    clips = [read_audio(path, 16_000) for path in corpus["path"][:100]]
    print(f"one clip, one thread, features included: {milliseconds_a_clip(classifier, clips):.2f} ms")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2) + "\n")
    if arguments.write_card:
        update_facts(CHECKPOINTS / "speech-commands", evaluations=reports)
        print(render_model_card(CHECKPOINTS / "speech-commands", "speech-commands"))


if __name__ == "__main__":
    main()
