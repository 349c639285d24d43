"""Break training runs in mid-epoch, resume them, and compare their final loss with unbroken runs.

    python benchmarks/kill_and_resume.py PATH/an4 --kills 20

Trains a small recogniser for 120 steps with three seeds unbroken; then with the first seed again,

- killed (`kill -9`) at so many random moments, from its start to its last step, and resumed each time; a run that has
  no step left is ended, and another one begun,
- ended by SIGTERM, as a cluster does, and resumed,
- with a loss that is NaN in a few steps,
- with a recording deleted after the first checkpoint,
- on a disk that is full at the second checkpoint, and resumed when there is room (a tmpfs: needs root on Linux).

Prints each final training loss (the mean over the last 20 steps) and whether it lies within the spread of the seeds;
after each fault every file under its final name is read, and those that are not whole are counted.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from hf_speechrec.corpora import read_corpus
from hf_speechrec.training_checkpoints import RESUMED

RECIPE = Path(__file__).parent.parent / "recipes" / "an4.yaml"
STEPS, SAVE_STEPS = 120, 10
RESUME = ("--resume_from_checkpoint", "true")
NAN_STEPS = (20, 21, 50)
NAN = f"""
import sys
from hf_speechrec.cli import app
from hf_speechrec.trainer import SpeechTrainer

whole = SpeechTrainer.compute_loss
def compute_loss(self, *args, **kwargs):
    loss = whole(self, *args, **kwargs)
    return loss * float("nan") if self.state.global_step in {NAN_STEPS} else loss
SpeechTrainer.compute_loss = compute_loss
app(sys.argv[1:])
"""


def command(corpus: str | Path, folder: Path, seed: int, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "hf_speechrec", "train", str(RECIPE), "--corpus", str(corpus), "--held-out", "none"),
        *("--output_dir", str(folder), "--seed", str(seed), "--max_steps", str(STEPS), "--device", "cpu"),
        *("--save_strategy", "steps", "--save_steps", str(SAVE_STEPS), "--eval_strategy", "no"),
        *("--load_best_model_at_end", "false", "--logging_steps", "1", "--per_device_train_batch_size", "8"),
        *("--model.hidden_size", "64", "--model.num_hidden_layers", "2", *more),
    ]


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run(*arguments) -> None:
    subprocess.run(command(*arguments), check=True, capture_output=True)


def final_loss(folder: Path) -> float:
    """Mean of the last 20 steps, each logged by itself: a resumed run's mean begins at its checkpoint."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return statistics.mean([entry["loss"] for entry in history if "loss" in entry][-20:])


def wait_for(path: Path, process: subprocess.Popen) -> float:
    """Seconds until a path is there."""
    begin = time.monotonic()
    while not path.exists():
        time.sleep(0.05)
        if process.poll() is not None:
            sys.exit(f"the run ended without {path.name}:\n{process.stderr.read()}")
    return time.monotonic() - begin


def is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".pt", ".pth", ".bin"):
            return zipfile.ZipFile(path).testzip() is None  # torch's files are archives with check sums
        elif path.suffix == ".png":
            return path.read_bytes().endswith(b"IEND\xaeB`\x82")
    except (ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True


def half_written(folder: Path) -> list[str]:
    """Files under a final name that are not whole ("_*" is no final name)."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    final = [path for path in files if not any(part.startswith("_") for part in path.parts)]
    return [str(path) for path in final if not is_whole(folder / path)]


def half_deleted(folder: Path) -> list[str]:
    """Checkpoints that lack a file; a resumed run passes them over."""
    checkpoints = folder.glob("checkpoint-*")
    return [path.name for path in checkpoints if not all((path / name).exists() for name in RESUMED)]


def newest_step(folder: Path) -> int:
    """Of the newest checkpoint; 0 where there is none."""
    return max((int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*")), default=0)


def killed(corpus: str, root: Path, kills: int, longest: float) -> tuple[list[float], int, int]:
    """
    Kill at moments up to `longest` seconds after each start, as long as steps are left: after the last one a kill would
    hit nothing but imports. Final losses of the runs that it took; counts of half-written files, half-deleted folders.
    """
    moments = random.Random(0)
    losses: list[float] = []
    files = folders = done = 0
    while True:
        folder = root / f"killed{len(losses)}"
        while done < kills and newest_step(folder) < STEPS:
            process = start(corpus, folder, 1, *RESUME)
            try:
                process.wait(moments.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                done += newest_step(folder) < STEPS
            process.communicate()
            broken, missing = half_written(folder), half_deleted(folder)
            files, folders = files + len(broken), folders + len(missing)
            step = newest_step(folder)
            print(f"  {done}: newest checkpoint {step}, half-written {broken}, half-deleted {missing}", flush=True)
        run(corpus, folder, 1, *RESUME)
        losses.append(final_loss(folder))
        if done == kills:
            return losses, files, folders


def spoilt(corpus: str, folder: Path) -> int:
    """A loss of NaN in some steps; returns how many were left out."""
    _, _, _, *arguments = command(corpus, folder, 1)  # python -m hf_speechrec
    subprocess.run([sys.executable, "-c", NAN, *arguments], check=True, capture_output=True)
    return json.loads((folder / "all_results.json").read_text()).get("skipped_steps", 0)


def terminated(corpus: str, folder: Path) -> int:
    process = start(corpus, folder, 1)
    wait_for(folder / f"checkpoint-{SAVE_STEPS}", process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    run(corpus, folder, 1, *RESUME)
    return process.returncode


def robbed(corpus: str, root: Path) -> int:
    """Delete a recording in mid-run; returns how often it was missed."""
    copy, folder = root / "an4", root / "robbed"
    for path in Path(corpus).resolve().rglob("*"):
        link = copy / path.relative_to(Path(corpus).resolve())
        if not path.is_dir():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    process = start(copy, folder, 1)
    wait_for(folder / f"checkpoint-{SAVE_STEPS}", process)
    # One that has not been heard yet: the first epoch goes from short to long.
    longest = max(read_corpus(copy, "train"), key=lambda row: row["duration"])
    Path(longest["path"]).unlink()
    process.communicate()
    return json.loads((folder / "all_results.json").read_text()).get("failed_reads", 0)


def on_a_full_disk(corpus: str, folder: Path, checkpoint_bytes: int) -> dict:
    """What the run that met the full disk left and said, and the final loss of the one that had room again."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={checkpoint_bytes * 3 // 2}", "tmpfs", folder], check=True)
    try:
        process = start(corpus, folder, 1)
        _, errors = process.communicate()
        left = sorted(path.name for path in folder.iterdir())
        broken = half_written(folder)
        subprocess.run(["mount", "-o", f"remount,size={checkpoint_bytes * 10}", folder], check=True)
        run(corpus, folder, 1, *RESUME)
        facts = {"exit_code": process.returncode, "left": left, "half_written": len(broken)}
        return facts | {"loss": final_loss(folder), "said": errors[errors.find("error: ") :].strip()}
    finally:
        subprocess.run(["umount", folder], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the AN4 folder")
    parser.add_argument("--kills", type=int, default=20, help="random moments to kill one run at")
    arguments = parser.parse_args()
    corpus = arguments.corpus
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        unbroken, first_checkpoint = [], 0.0
        for seed in (1, 2, 3):
            process = start(corpus, root / f"seed{seed}", seed)
            first_checkpoint = wait_for(root / f"seed{seed}" / f"checkpoint-{SAVE_STEPS}", process)
            process.communicate()
            unbroken.append(final_loss(root / f"seed{seed}"))
            print(f"unbroken, seed {seed}: final loss {unbroken[-1]:.4f}", flush=True)
        spread = max(unbroken) - min(unbroken)
        results = {"unbroken": unbroken, "spread": spread}

        def compare(fault: str, loss: float, **facts) -> None:
            results[fault] = {"loss": loss, "within": abs(loss - unbroken[0]) <= spread, **facts}
            print(
                f"{fault}: final loss {loss:.4f}, unbroken {unbroken[0]:.4f}, spread {spread:.4f}; {facts}", flush=True
            )

        losses, files, folders = killed(corpus, root, arguments.kills, 1.6 * first_checkpoint)
        farthest = max(losses, key=lambda loss: abs(loss - unbroken[0]))
        facts = {"runs": len(losses), "half_written": files, "half_deleted": folders}
        compare(f"killed {arguments.kills} times", farthest, **facts)
        code = terminated(corpus, root / "terminated")
        compare("SIGTERM", final_loss(root / "terminated"), exit_code=code)
        skipped = spoilt(corpus, root / "spoilt")
        compare(f"NaN in {len(NAN_STEPS)} steps", final_loss(root / "spoilt"), skipped_steps=skipped)
        missed = robbed(corpus, root)
        compare("a recording deleted", final_loss(root / "robbed"), failed_reads=missed)
        if sys.platform == "linux" and os.geteuid() == 0:
            size = sum(path.stat().st_size for path in (root / "seed1" / f"checkpoint-{STEPS}").iterdir())
            compare("a full disk", **on_a_full_disk(corpus, root / "full", size))
        else:
            print("a full disk: skipped, mounting a tmpfs needs root on Linux")
        print(json.dumps(results))


if __name__ == "__main__":
    main()
