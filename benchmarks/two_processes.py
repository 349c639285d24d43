"""Does a recogniser learn in two processes what it learns in one with the same number of utterances a step?

    python benchmarks/two_processes.py PATH/an4

Fine-tunes the bundled librispeech-mini on AN4's training part for a few minutes, with two seeds in one process and in
two (`torchrun`, gloo), and once begun in one process and resumed by two in mid-epoch. Prints the WER on the test part
and how far two seeds are apart. The two runs in one process go side by side, a thread each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_and_resume import final_loss

from hf_speechrec.corpora import read_corpus
from hf_speechrec.evaluation import evaluate_recognizer
from hf_speechrec.loading import load_recognizer

RECIPE = Path(__file__).parent.parent / "recipes" / "fine-tune.yaml"
STEPS, RESUMED_STEP = 240, 100  # of 8 utterances: two epochs, and a step in the middle of the first
SEEDS = (1, 2)


def start(corpus: str, folder: Path, seed: int, processes: int, *more: str) -> subprocess.Popen:
    module = ["-m", "hf_speechrec"]
    if processes > 1:
        module = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *module]
    command = [
        *(sys.executable, *module, "train", str(RECIPE), "--corpus", corpus, "--train_split", "train"),
        *("--model-name-or-path", "librispeech-mini", "--output_dir", str(folder), "--device", "cpu"),
        *("--per_device_train_batch_size", str(8 // processes), "--max_steps", str(STEPS), "--seed", str(seed)),
        *("--learning_rate", "1e-3", "--curriculum_epochs", "1", "--logging_steps", "1"),
        *("--save_strategy", "steps", "--save_steps", str(RESUMED_STEP), "--save_total_limit", "5", *more),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the AN4 folder")
    corpus = parser.parse_args().corpus
    test = read_corpus(corpus, "test")
    results: dict[str, list[dict[str, float]]] = {"one": [], "two": [], "one, then two": []}

    def measure(name: str, seed: int, folder: Path) -> None:
        report = evaluate_recognizer(load_recognizer(folder, "cpu"), test)
        results[name].append({"seed": seed, "wer": report["wer"], "loss": final_loss(folder)})
        print(
            f"{name:14s} seed {seed}: test WER {report['wer']:.2%}, training loss {final_loss(folder):.4f}", flush=True
        )

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        begin = time.monotonic()
        side_by_side = [start(corpus, root / f"one{seed}", seed, 1) for seed in SEEDS]
        for process in side_by_side:
            end(process)
        print(f"one process, {len(SEEDS)} runs side by side: {time.monotonic() - begin:.0f} s", flush=True)
        for seed in SEEDS:
            measure("one", seed, root / f"one{seed}")
        for seed in SEEDS:
            begin = time.monotonic()
            end(start(corpus, root / f"two{seed}", seed, 2))
            print(f"two processes: {time.monotonic() - begin:.0f} s", flush=True)
            measure("two", seed, root / f"two{seed}")
        checkpoint = root / f"one{SEEDS[0]}" / f"checkpoint-{RESUMED_STEP}"
        end(start(corpus, root / "resumed", SEEDS[0], 2, "--resume_from_checkpoint", str(checkpoint)))
        measure("one, then two", SEEDS[0], root / "resumed")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
