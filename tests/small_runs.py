"""Recipes that train in a moment, and what to compare of two runs."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_speechrec.recipe import Recipe

TINY = {"conv_channels": 2, "num_residual_blocks": 1, "hidden_size": 16, "num_hidden_layers": 1}
TINY_CLASSIFIER = {"hidden_size": 16, "num_hidden_layers": 1, "dropout": 0.0}
PNG = b"\x89PNG\r\n\x1a\n"


def tiny_recipe(corpus, output_dir, **changes) -> Recipe:
    """A recipe that takes a moment; what is not the recipe's goes to its training arguments."""
    recipe = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    return Recipe(
        corpus=str(corpus),
        **{
            "train_split": "train" if Path(corpus).is_dir() else None,
            "model": TINY if recipe.get("task", "ctc") == "ctc" else TINY_CLASSIFIER,
            "features": {"feature_size": 20},
        }
        | recipe,
        training={
            "output_dir": str(output_dir),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
        }
        | changes,
    )


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(folder, other) -> None:
    expected = weights(other)
    assert weights(folder).keys() == expected.keys()
    assert [name for name, weight in weights(folder).items() if not weight.equal(expected[name])] == []
