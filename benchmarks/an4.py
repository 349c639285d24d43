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
from hf_speechrec.model_card import condition_name, render_model_card, update_facts

CONDITIONS = [
    {},
    {"gain_db": 12.0},
    {"gain_db": -12.0},
    {"noise_snr_db": 20.0},
    {"noise_snr_db": 10.0},
    {"noise_snr_db": 5.0},
]


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
    for condition in CONDITIONS:
        report = evaluate_recognizer(recognizer, corpus, **condition)
        report |= {"command": "python benchmarks/an4.py PATH/an4", "corpus": "AN4", "split": "test"}
        name = condition_name(report)
        reports[name] = report
        low, high = report["wer_interval"]
        print(f"{name:25s} WER {report['wer']:6.2%} ({low:.2%} to {high:.2%})   CER {report['cer']:6.2%}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2) + "\n")
    if arguments.write_card:
        update_facts(CHECKPOINTS / "an4", evaluations=reports)
        print(render_model_card(CHECKPOINTS / "an4", "an4"))


if __name__ == "__main__":
    main()
