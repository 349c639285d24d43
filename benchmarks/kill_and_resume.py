"""Kill a training run in mid-epoch (`kill -9`), resume it, and compare its final loss with unbroken runs.

    python benchmarks/kill_and_resume.py PATH/an4

Trains a small recogniser for 120 steps with three seeds unbroken; then with the first seed, killed after its first
checkpoint and between two, and resumed. Prints each final training loss (the mean over the last 20 steps), whether the
resumed one lies within the spread of the seeds, and whether every file that the kill left behind can be loaded.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

RECIPE = Path(__file__).parent.parent / "recipes" / "an4.yaml"
STEPS, SAVE_STEPS = 120, 40


def command(corpus: str, folder: Path, seed: int, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "hf_speechrec", "train", str(RECIPE), "--corpus", corpus, "--held-out", "none"),
        *("--output_dir", str(folder), "--seed", str(seed), "--max_steps", str(STEPS), "--device", "cpu"),
        *("--save_strategy", "steps", "--save_steps", str(SAVE_STEPS), "--eval_strategy", "no"),
        *("--load_best_model_at_end", "false", "--logging_steps", "20", "--per_device_train_batch_size", "8"),
        *("--model.hidden_size", "64", "--model.num_hidden_layers", "2", *more),
    ]


def final_loss(folder: Path) -> float:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return next(entry["loss"] for entry in reversed(history) if "loss" in entry)


def check_whole(folder: Path) -> list[str]:
    """Load every file with a final name; a half-written one raises."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".partial" not in path.parts]
    for path in files:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
    return sorted(str(path.relative_to(folder)) for path in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the AN4 folder")
    corpus = parser.parse_args().corpus
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        losses = []
        for seed in (1, 2, 3):
            subprocess.run(command(corpus, root / f"seed{seed}", seed), check=True, capture_output=True)
            losses.append(final_loss(root / f"seed{seed}"))
            print(f"unbroken, seed {seed}: final loss {losses[-1]:.4f}", flush=True)

        folder = root / "killed"
        process = subprocess.Popen(
            command(corpus, folder, 1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while not (folder / f"checkpoint-{SAVE_STEPS}").exists():
            time.sleep(0.1)
            if process.poll() is not None:
                sys.exit("the run ended before its first checkpoint")
        time.sleep(4)  # on into the next steps
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"killed with SIGKILL; whole files left: {', '.join(check_whole(folder))}", flush=True)
        subprocess.run(command(corpus, folder, 1, "--resume_from_checkpoint", "true"), check=True, capture_output=True)
        resumed = final_loss(folder)
        check_whole(folder)
        spread = max(losses) - min(losses)
        print(f"killed and resumed, seed 1: final loss {resumed:.4f}, unbroken {losses[0]:.4f}, spread {spread:.4f}")
        print(json.dumps({"unbroken": losses, "resumed": resumed, "within": abs(resumed - losses[0]) <= spread}))


if __name__ == "__main__":
    main()
