"""From nothing to the first transcript, beside what importing torch and transformers takes alone.

    python benchmarks/loading_time.py                       # the bundled recogniser
    python benchmarks/loading_time.py --model user/name     # from the Hub's cache, after a first run
    python benchmarks/loading_time.py --profile             # and where the time goes

Fresh processes, in turn; medians. Bytecode has to be compiled (a first run does it, unless PYTHONDONTWRITEBYTECODE is
set).
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

CLIP = Path(__file__).parent.parent / "demo" / "examples" / "an4-seven-digits.flac"
LIBRARIES = "import torch; from transformers import PreTrainedModel, Wav2Vec2Processor, pipeline"
OURS = """
import sys
from hf_speechrec.loading import load_recognizer
from hf_speechrec.transcription import transcribe
print(next(transcribe([sys.argv[1]], load_recognizer(sys.argv[2], "cpu"))).text)
"""


def seconds(code: str, *arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="an4", help="a bundled name, a folder or a Hub id")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also print the twenty dearest imports")
    arguments = parser.parse_args()

    seconds(OURS, str(CLIP), arguments.model)  # warms the disk's and the Hub's cache
    libraries, ours = [], []
    for _ in range(arguments.runs):
        libraries.append(seconds(LIBRARIES))
        ours.append(seconds(OURS, str(CLIP), arguments.model))
    alone, whole = statistics.median(libraries), statistics.median(ours)
    print(f"importing torch and transformers: {alone:.2f} s")
    print(f"to the first transcript:          {whole:.2f} s ({whole / alone:.2f} times)")
    if arguments.profile:
        command = [sys.executable, "-X", "importtime", "-c", OURS, str(CLIP), arguments.model]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
        rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")][1:]
        for own, total, name in sorted(rows, key=lambda row: -int(row[1]))[:20]:
            print(f"{int(total) / 1e6:7.2f} s with what it imports, {int(own) / 1e6:6.2f} s itself  {name.rstrip()}")


if __name__ == "__main__":
    main()
