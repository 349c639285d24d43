"""Broken files, thousands of each kind, for everything that reads a stranger's bytes.

    python benchmarks/fuzz.py                                          # 500 inputs for each target, about half an hour
    python benchmarks/fuzz.py --inputs 3000 --targets 'audio: flac'
    python benchmarks/fuzz.py --targets 'audio: flac' --first 1234 --inputs 1     # one input again

The inputs are whole files (the tests' fixtures and what is written in their likeness), with bits flipped, lengths
edited, pieces cut out, put in or zeroed, and words of texts replaced (`tests/fuzzing.py`). They are the same for the
same seed. Each is read in a process of its own that may take 30 s and 6 GiB. Prints what each target did; ends with 1
where anything was found: an error that is not ours, a traceback, a temporary file left, a hang, a crash.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fuzzing import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=[], help="some of them; by default all")
    parser.add_argument("--inputs", type=int, default=500, help="of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    begin = time.monotonic()
    results = fuzz(arguments.targets, arguments.seed, arguments.first, arguments.inputs)
    print("| target | inputs | read | refused | found | slowest |\n| --- | --- | --- | --- | --- | --- |")
    for target in dict.fromkeys(result["target"] for result in results):
        own = [result for result in results if result["target"] == target]
        refused = sum(result["refused"] for result in own)
        found = sum(bool(result["complaints"]) for result in own)
        slowest = max(result["seconds"] for result in own)
        print(f"| {target} | {len(own)} | {len(own) - refused} | {refused} | {found} | {slowest:.1f} s |")
    bad = [result for result in results if result["complaints"]]
    minutes = (time.monotonic() - begin) / 60
    print(f"\n{len(results)} inputs, {len(bad)} with something found, {minutes:.0f} minutes, seed {arguments.seed}")
    kinds = Counter((result["target"], complaint) for result in bad for complaint in result["complaints"])
    for (target, complaint), count in kinds.most_common():
        number = next(r["number"] for r in bad if r["target"] == target and complaint in r["complaints"])
        print(f"  {count} x {target} (first: {number}): {complaint}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
