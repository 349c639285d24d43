"""Put a trained model into the package: float16 weights, and nothing that only training needs.

    python benchmarks/bundle.py runs/an4 an4
    python benchmarks/bundle.py runs/speech-commands speech-commands

The config says float32: the weights are widened when they are loaded, and meet float32 features.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hf_speechrec.hub import COMPANIONS, copy_files
from hf_speechrec.loading import CHECKPOINTS, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that training left")
    parser.add_argument("name", help="the bundled model's name")
    arguments = parser.parse_args()

    target = CHECKPOINTS / arguments.name
    target.mkdir(parents=True, exist_ok=True)
    model, processor = load_model(arguments.run)
    model.config.dtype = "float32"
    model.config.save_pretrained(target)
    processor.save_pretrained(target)
    weights = load_file(arguments.run / "model.safetensors")
    save_file(
        {name: weight.to(torch.float16) for name, weight in weights.items()},
        target / "model.safetensors",
        {"format": "pt"},
    )
    copy_files(arguments.run, target, COMPANIONS)
    for code in target.glob("*.py"):  # the package has it; a push writes it beside the weights
        code.unlink()
    for path in target.glob("*config.json"):
        values = json.loads(path.read_text())
        for section in (values, values.get("feature_extractor", {})):
            section.pop("auto_map", None)
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>10,} {file}")


if __name__ == "__main__":
    main()
