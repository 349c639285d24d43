"""Error rates of a recogniser on AN4's test part: clean, louder and quieter, and in noise.

    python benchmarks/an4.py PATH/an4                               # the bundled checkpoint
    python benchmarks/an4.py PATH/an4 --model runs/an4-seed2        # another run
    python benchmarks/an4.py PATH/an4 --write-card                  # and render the bundled checkpoint's card anew

White noise, the same for an utterance in every run. 130 utterances of 10 speakers, 773 words.
"""

import argparse
import json
from pathlib import Path

from hf_speechrec.corpora import read_corpus
from hf_speechrec.evaluation import evaluate_recognizer
from hf_speechrec.loading import CHECKPOINTS, load_recognizer
from hf_speechrec.model_card import write_model_card

CONDITIONS = {
    "AN4 test": {},
    "AN4 test, +12 dB": {"gain_db": 12.0},
    "AN4 test, -12 dB": {"gain_db": -12.0},
    "AN4 test, noise at 20 dB": {"noise_snr_db": 20.0},
    "AN4 test, noise at 10 dB": {"noise_snr_db": 10.0},
    "AN4 test, noise at 5 dB": {"noise_snr_db": 5.0},
}
CARD = {
    "model_id": "hf_speechrec/checkpoints/an4",
    "title": "ResNet + BiGRU recogniser for spelled names, numbers and commands (CMU AN4)",
    "summary": (
        "A small recogniser of American English letters, numbers, dates and some thirty commands, trained from nothing "
        "on 42 minutes of speech. It is bundled with hf_speechrec: what its figures show is what the package makes of "
        "so little data, and what a model of your own words can be started from."
    ),
    "training_data": (
        "The training part of CMU AN4 (the *Census database*, about 1991): 948 utterances, 42.4 minutes, 74 speakers, "
        "close-talking microphone, 16 kHz. Its licence is BSD-like: free for any use, the notice must be kept."
    ),
    "limits": (
        "It knows the words of AN4 and spells out anything else as best it can: it is no dictation model. All of its "
        "speakers are American adults recorded close to the microphone in one office; accents, children, distance and "
        "other languages were neither trained on nor measured."
    ),
    "training_command": (
        "`torchrun --nproc-per-node 2 -m hf_speechrec train recipes/an4.yaml --corpus PATH/an4 --held-out none "
        "--device cpu --seed 1`, after settings had been compared by training loss and on ten held-out training "
        "speakers (`recipes/splits/an4-dev-speakers.txt`)."
    ),
    "dataset": "AN4",
    "language": "en",
    "license_id": "apache-2.0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the AN4 folder")
    parser.add_argument("--model", default="an4", help="a bundled name, a folder or a Hub id")
    parser.add_argument("--json", type=Path, help="also write the reports to this file")
    parser.add_argument("--write-card", action="store_true", help="render the bundled model's card from the figures")
    arguments = parser.parse_args()

    recognizer = load_recognizer(arguments.model, "cpu")
    corpus = read_corpus(arguments.corpus, "test")
    reports = {}
    for name, condition in CONDITIONS.items():
        report = evaluate_recognizer(recognizer, corpus, **condition)
        report["command"] = "python benchmarks/an4.py PATH/an4"
        reports[name] = report
        low, high = report["wer_interval"]
        print(f"{name:25s} WER {report['wer']:6.2%} ({low:.2%} to {high:.2%})   CER {report['cer']:6.2%}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2) + "\n")
    if arguments.write_card:
        print(write_model_card(CHECKPOINTS / "an4", reports=reports, **CARD))


if __name__ == "__main__":
    main()
