"""Accuracy on the Free Spoken Digit Dataset: its official split, and each speaker by a model of the other five.

    python benchmarks/fsdd.py PATH/fsdd                              # seven trainings
    python benchmarks/fsdd.py PATH/fsdd --only official theo --features.feature_size 40

What is not known here goes to training, as with `hf-speechrec train`. The official split tests the
first five recordings of each digit and speaker; leaving a speaker out says what a stranger can expect of a model that
is trained for strangers (`STRANGERS`), which takes away the mean of one's clips. That mean is of all 500 clips,
without their labels; or of ten, drawn five times, in which case the other 490 are measured.
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import datasets

from hf_speechrec.classification import classify, for_one_speaker
from hf_speechrec.evaluation_classifier import evaluate_classifier
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier
from hf_speechrec.recipe import Recipe, split_recipe_options
from hf_speechrec.training import train

# Each speaker has a microphone and a vocal tract of their own: the one is taken away, the other varied.
STRANGERS = {
    "features.normalize_by_speaker": True,
    "model.label_smoothing": 0.15,
    "augmentation.speeds": [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2],
    "augmentation.gain_db": 10,
    "augmentation.noise_probability": 0.5,
    "augmentation.noise_snr_db": [5, 40],
    "augmentation.mel_mask_bins": 5,
    "augmentation.mel_warp": 0.12,
    "training.num_train_epochs": 16,
}
RECIPE = Path(__file__).parent.parent / "recipes" / "fsdd.yaml"
FEW = 10  # clips that somebody may be asked for
DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the FSDD folder")
    parser.add_argument("--only", nargs="+", help="some of them: official, and the speakers to leave out")
    arguments, rest = parser.parse_known_args()

    everybody = sorted(set(read_labelled_corpus(arguments.corpus)["speaker"]))
    sections, trainer_arguments = split_recipe_options(rest)
    accuracies = []
    for name in arguments.only or ["official", *everybody]:
        left_out = None if name == "official" else name
        overrides = {"corpus": arguments.corpus}
        if left_out is not None:
            overrides |= {"train_split": None, "exclude_speakers": [left_out], **STRANGERS}
        overrides |= sections
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            options = ["--output_dir", folder, "--save_strategy", "no", "--disable_tqdm", "true", *trainer_arguments]
            classifier = load_classifier(train(Recipe.from_yaml(RECIPE, overrides), options, "cpu"), "cpu")
            seconds = time.perf_counter() - start
        split = "test" if left_out is None else None
        test = read_labelled_corpus(arguments.corpus, split, speakers=None if left_out is None else [left_out])
        report = evaluate_classifier(classifier, test)
        low, high = report["accuracy_interval"]
        title = "official split" if left_out is None else f"without {left_out}"
        few = ""
        if left_out is not None:
            accuracies.append(report["accuracy"])
            if report["normalized_speakers"]:
                few = f"; by the mean of {FEW} clips {accuracy_by_few(classifier, test):.2%}"
        print(
            f"{title:20s} accuracy {report['accuracy']:7.2%} ({low:.2%} to {high:.2%}), {report['utterances']} clips, "
            f"trained in {seconds:.0f} s{few}",
            flush=True,
        )
    if accuracies:
        print(f"mean over {len(accuracies)} speakers left out: {statistics.mean(accuracies):.2%}")


def accuracy_by_few(classifier, clips: datasets.Dataset) -> float:
    """Accuracy on a speaker's clips but `FEW`, whose mean is taken away; the mean of `DRAWS` such draws."""
    accuracies = []
    for seed in range(DRAWS):
        few = set(random.Random(seed).sample(range(len(clips)), FEW))
        adapted = for_one_speaker(classifier, [clips[i]["path"] for i in sorted(few)])
        others = clips.select([i for i in range(len(clips)) if i not in few])
        answers = classify(others["path"], adapted, top_k=1)
        is_right = [answer.labels[0]["label"] == label for answer, label in zip(answers, others["label"], strict=True)]
        accuracies.append(statistics.mean(is_right))
    return statistics.mean(accuracies)


if __name__ == "__main__":
    main()
