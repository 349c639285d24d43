"""Recipe and corpus → a trained model."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from .common import DeviceOption, app, clear_errors


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML file; recipes/ has some.")],
    corpus: Annotated[str | None, typer.Option(help="Where the corpus is, in place of the recipe's.")] = None,
    held_out: Annotated[
        str | None,
        typer.Option(help="To choose by: a file of speakers, a share such as 0.1, another part, or none."),
    ] = None,
    model_name_or_path: Annotated[str | None, typer.Option(help="Start from this checkpoint (fine-tuning).")] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="char or bpe:SIZE; from a checkpoint also keep (the default) or extend.")
    ] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="Stream a Hub data set; give --max_steps.")] = False,
    device: DeviceOption = None,
) -> None:
    """
    Train a recogniser or a classifier by a recipe.

    Any key of the recipe is an option too, with a dot one of its sections. Whatever else is given goes to transformers'
    `TrainingArguments`, in either spelling.

    - `hf-speechrec train recipes/an4.yaml --corpus data/an4`
    - `hf-speechrec train recipes/an4.yaml --num-train-epochs 10 --output_dir runs/short`
    - `hf-speechrec train recipes/an4.yaml --model.hidden_size 256 --augmentation.gain_db 6`
    - `hf-speechrec train recipes/commands.yaml --corpus my-clips/`
    - `hf-speechrec train recipes/an4.yaml --resume_from_checkpoint true`
    - `hf-speechrec train recipes/fine-tune.yaml --corpus user/data --held-out none --streaming --max_steps 5000`
    - `torchrun --nproc-per-node 2 -m hf_speechrec train recipes/an4.yaml --device cpu`
    """
    from ..recipe import Recipe, split_recipe_options
    from ..training import train as run

    named = {
        "corpus": corpus,
        "held_out": held_out,
        "model_name_or_path": model_name_or_path,
        "vocabulary": vocabulary,
        "streaming": streaming or None,
    }
    with clear_errors():
        if str(recipe).startswith("-"):  # typer does not know the option, and takes it for the recipe
            raise ValueError(f"{recipe}: expected the recipe before this option: hf-speechrec train RECIPE {recipe} …")
        sections, arguments = split_recipe_options(context.args)
        arguments = _with_resume_value(arguments)
        overrides = {name: value for name, value in named.items() if value is not None} | sections
        settings = Recipe.from_yaml(recipe, overrides)
        folder = run(settings, arguments, device)
    if os.environ.get("RANK", "0") == "0":
        use = "transcribe" if settings.task == "ctc" else "classify"
        typer.echo(f"The model is in {folder}; try: hf-speechrec {use} FILE --model {folder}")


def _with_resume_value(arguments: list[str]) -> list[str]:
    """A bare `--resume_from_checkpoint` means true, as of the switches of `TrainingArguments`, of which it is none."""
    completed = []
    for argument, following in pairwise([*arguments, "--"]):
        completed.append(argument)
        if argument.replace("-", "_") == "__resume_from_checkpoint" and following.startswith("--"):
            completed.append("true")
    return completed
