"""Models and data sets → the Hub, or another runtime."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Task, app, clear_errors, quiet_libraries


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="A folder, a manifest, librispeech:SUBSET, or a Hub data set.")],
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    splits: Annotated[
        str | None, typer.Option(help="Parts of the corpus: train,test. By default all is one part, train.")
    ] = None,
    task: Annotated[Task, typer.Option(help="ctc: recordings with texts; classification: with labels.")] = Task.ctc,
    push_to: Annotated[str | None, typer.Option("--push", help="Also publish it under this name: user/name.")] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Who sees a new data set.")] = None,
) -> None:
    """
    Write a corpus as Parquet files in the Hub's form, to train from anywhere, downloaded or streamed.

    - `hf-speechrec prepare data/an4 prepared/an4 --splits train,test`
    - `hf-speechrec prepare clips/ prepared/clips --task classification --splits train,test --push user/clips --private`
    - `hf-speechrec train recipes/an4.yaml --corpus user/an4 --held-out test --streaming --max_steps 5000`
    """
    from ..hub import upload
    from ..preparation import prepare as run

    with clear_errors(), quiet_libraries():
        names = [name.strip() for name in splits.split(",")] if splits else None
        run(corpus, folder, names, task)
        typer.echo(f"The data set is in {folder}")
        if push_to is not None:
            patterns = ["README.md", "data/*.parquet"]
            message = "Upload the data set"
            typer.echo(
                upload(folder, push_to, "dataset", private=private, commit_message=message, allow_patterns=patterns)
            )


@app.command()
def push(
    folder: Annotated[str, typer.Argument(help="A model folder, or a bundled model.")],
    repo_id: Annotated[str, typer.Argument(help="Its name on the Hub: user/name.")],
    private: Annotated[bool | None, typer.Option("--private/--public", help="Who sees a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch; made where there is none.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="What the history says.")] = None,
) -> None:
    """
    Publish a model on the Hub: weights, code, tokenizer, plots and card, in one commit.

    Before that it is loaded as by somebody who does not have this package; a folder that would not load is not
    published. Log in once with `hf auth login`.

    - `hf-speechrec push runs/mine user/name`
    - `hf-speechrec push runs/mine user/name --private --revision v2`
    """
    from ..hub import push_folder

    with clear_errors(), quiet_libraries():
        typer.echo(
            push_folder(
                folder, repo_id, private=private, revision=revision, create_pr=create_pr, commit_message=message
            )
        )


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A bundled model, a folder, or an id on the Hub (user/name).")],
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="Weights of 8 bits: a quarter of the size.")] = False,
) -> None:
    """
    Write a model for onnxruntime: sooner done on a CPU than with torch, and a model like any other.

    - `hf-speechrec export an4 an4-onnx`
    - `hf-speechrec export user/name small --int8`
    - `hf-speechrec transcribe talk.flac --model small`
    """
    from ..export import export_onnx

    with clear_errors(), quiet_libraries():
        size = sum(path.stat().st_size for path in export_onnx(model, folder, int8=int8).glob("*.onnx"))
        typer.echo(f"{folder}: {size / 1e6:.1f} MB of weights")
