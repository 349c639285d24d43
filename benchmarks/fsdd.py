"""Accuracy on the Free Spoken Digit Dataset: its official split, and each speaker by a model of the other five.

    python benchmarks/fsdd.py PATH/fsdd                              # seven trainings
    python benchmarks/fsdd.py PATH/fsdd --only official theo --features.feature_size 40

What is not known here goes to training, as with `hf-speechrec train`. The official split tests the
first five recordings of each digit and speaker; leaving a speaker out says what a stranger can expect, of a model that
is trained for strangers (`STRANGERS`): from the bundled `speech-commands`, which has heard hundreds of voices.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from hf_speechrec.evaluation_classifier import evaluate_classifier
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier
from hf_speechrec.recipe import Recipe, split_recipe_options
from hf_speechrec.training import train

# Some speakers are 30 dB louder than others, each has a microphone and a vocal tract of their own.
STRANGERS = {
    "augmentation.speeds": [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2],
    "augmentation.gain_db": 30,
    "augmentation.equalizer_db": 12,
    "augmentation.noise_probability": 0.5,
    "augmentation.noise_snr_db": [5, 40],
    "augmentation.mel_mask_bins": 5,
    "augmentation.mel_warp": 0.12,
    "model_name_or_path": "speech-commands",
    "training.num_train_epochs": 8,
    "training.learning_rate": 1e-3,
    "training.per_device_train_batch_size": 32,
}
RECIPE = Path(__file__).parent.parent / "recipes" / "fsdd.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the FSDD folder")
    parser.add_argument("--only", nargs="+", help="some of them: official, and the speakers to leave out")
    arguments, rest = parser.parse_known_args()

    everybody = sorted(set(read_labelled_corpus(arguments.corpus)["speaker"]))
    sections, trainer_arguments = split_recipe_options(rest)
    accuracies = {}
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
        accuracies[left_out] = report["accuracy"]
        title = "official split" if left_out is None else f"without {left_out}"
        print(
            f"{title:20s} accuracy {report['accuracy']:7.2%} ({low:.2%} to {high:.2%}), {report['utterances']} clips, "
            f"trained in {seconds:.0f} s",
            flush=True,
        )
    others = [accuracy for speaker, accuracy in accuracies.items() if speaker is not None]
    if others:
        print(f"mean over {len(others)} speakers left out: {statistics.mean(others):.2%}")


if __name__ == "__main__":
    main()
