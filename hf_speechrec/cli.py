"""The `hf-speechrec` command. Thin: it reads arguments, calls the package, and prints."""

import contextlib
import enum
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


class Device(enum.StrEnum):
    """Where the model runs."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class OutputFormat(enum.StrEnum):
    """How transcripts are printed."""

    txt = "txt"
    json = "json"


class Task(enum.StrEnum):
    """What a corpus is for."""

    ctc = "ctc"
    classification = "classification"


DeviceOption = Annotated[Device | None, typer.Option(help="Where to run; by default the best there is.")]
ModelOption = Annotated[str, typer.Option(help="A bundled model, a folder, or an id on the Hub (user/name).")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result to this JSON file.")]


@app.callback()
def main() -> None:
    """Train, evaluate and use your own speech recogniser or classifier of spoken commands."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("hf_speechrec").setLevel(logging.INFO)
    # Of the processes of a distributed run only the first speaks.
    if os.environ.get("RANK", "0") != "0":
        logging.disable(logging.INFO)


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """A user's mistake is one line on stderr and exit code 1, not a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


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

    Whatever else is given goes to transformers' `TrainingArguments`, in either spelling; a name with a dot reaches
    into a section of the recipe.

    - `hf-speechrec train recipes/an4.yaml --corpus data/an4`
    - `hf-speechrec train recipes/an4.yaml --num-train-epochs 10 --output_dir runs/short`
    - `hf-speechrec train recipes/an4.yaml --model.hidden_size 256 --augmentation.gain_db 6`
    - `hf-speechrec train recipes/commands.yaml --corpus my-clips/`
    - `hf-speechrec train recipes/an4.yaml --resume_from_checkpoint true`
    - `hf-speechrec train recipes/fine-tune.yaml --corpus user/data --held-out none --streaming --max_steps 5000`
    - `torchrun --nproc-per-node 2 -m hf_speechrec train recipes/an4.yaml --device cpu`
    """
    from .recipe import Recipe
    from .training import train as run

    named = {
        "corpus": corpus,
        "held_out": held_out,
        "model_name_or_path": model_name_or_path,
        "vocabulary": vocabulary,
        "streaming": streaming or None,
    }
    with clear_errors():
        sections, arguments = split_section_options(context.args)
        overrides = {name: value for name, value in named.items() if value is not None} | sections
        settings = Recipe.from_yaml(recipe, overrides)
        folder = run(settings, arguments, device)
    if os.environ.get("RANK", "0") == "0":
        use = "transcribe" if settings.task == "ctc" else "classify"
        typer.echo(f"The model is in {folder}; try: hf-speechrec {use} FILE --model {folder}")


def split_section_options(arguments: list[str]) -> tuple[dict, list[str]]:
    """Part `--section.key value` (read as YAML) from everything else."""
    import yaml

    sections, rest, remaining = {}, [], iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(argument)
            continue
        given = value if equals else next(remaining, None)
        if given is None:
            raise ValueError(f"{name}: expected a value")
        sections[name[2:].replace("-", "_")] = yaml.safe_load(given)
    return sections, rest


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A bundled model, a folder, or an id on the Hub.")],
    corpus: Annotated[str, typer.Argument(help="A folder, a manifest, librispeech:SUBSET, or a Hub data set.")],
    split: Annotated[str | None, typer.Option(help="Which part of the corpus, where it has parts.")] = None,
    speakers: Annotated[Path | None, typer.Option(help="Only the speakers in this file, one a line.")] = None,
    gain_db: Annotated[float, typer.Option(help="Change the volume first.")] = 0.0,
    noise_snr_db: Annotated[float | None, typer.Option(help="Add white noise at this signal-to-noise ratio.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Recordings that go through the model together.")] = 8,
    device: DeviceOption = None,
    json_file: JsonOption = None,
    plot: Annotated[
        Path | None, typer.Option(help="Of a classifier: draw what is taken for what into this PNG.")
    ] = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Put the result into the card (README.md) of the model's folder.")
    ] = False,
    corpus_name: Annotated[
        str | None, typer.Option(help="What the card calls the corpus; by default its folder's name.")
    ] = None,
) -> None:
    """
    Measure a model on a corpus: error rates or accuracy with their 95 % interval, what goes wrong most, the speed.

    - `hf-speechrec evaluate an4 data/an4 --split test`
    - `hf-speechrec evaluate runs/mine manifest.csv --noise-snr-db 10 --json noisy.json`
    - `hf-speechrec evaluate speech-commands data/speech_commands --split test --plot confusion.png`
    - `hf-speechrec evaluate runs/mine data/an4 --split test --update-card --corpus-name AN4`
    """
    from .corpora import read_corpus
    from .evaluation import evaluate_recognizer, format_report
    from .evaluation_classifier import evaluate_classifier, format_classification_report, plot_confusion_matrix
    from .labelled_corpora import read_labelled_corpus
    from .loading import CHECKPOINTS, is_classifier, load_pipeline
    from .model_card import command_line, condition_name, render_model_card, update_facts

    with clear_errors(), quiet_libraries():
        is_bundled = model in {path.name for path in CHECKPOINTS.iterdir()}
        if update_card and (is_bundled or not Path(model).is_dir()):
            raise ValueError(f"{model}: a card is updated in a model folder; expected its path")
        names = None if speakers is None else speakers.read_text(encoding="utf-8").split()
        loaded = load_pipeline(model, device)
        conditions: dict[str, Any] = {"gain_db": gain_db, "noise_snr_db": noise_snr_db, "batch_size": batch_size}
        if is_classifier(loaded.model.config):
            report = evaluate_classifier(loaded, read_labelled_corpus(corpus, split, speakers=names), **conditions)
            text = format_classification_report(report)
            if plot is not None:
                plot_confusion_matrix(report["confusion_matrix"], report["labels"], plot)
        else:
            report = evaluate_recognizer(loaded, read_corpus(corpus, split, speakers=names), **conditions)
            text = format_report(report)
        default_name = Path(corpus).name if Path(corpus).is_dir() else Path(corpus).stem
        report |= {"command": command_line(), "corpus": corpus_name or default_name, "split": split}
        if update_card:
            name = condition_name(report["corpus"], split, gain_db, noise_snr_db)
            if names is not None:
                report["speakers"] = len(names)
                name += f", {len(names)} speakers"
            if "confusion_matrix" in report and not (gain_db or noise_snr_db or names):
                plot_confusion_matrix(report["confusion_matrix"], report["labels"], Path(model, "confusion_matrix.png"))
            update_facts(model, evaluations={name: report})
            render_model_card(model)
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(text)


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
    from .hub import upload
    from .preparation import prepare as run

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
    from .hub import push_folder

    with clear_errors(), quiet_libraries():
        typer.echo(
            push_folder(
                folder, repo_id, private=private, revision=revision, create_pr=create_pr, commit_message=message
            )
        )


@app.command()
def transcribe(
    files: Annotated[list[str], typer.Argument(help="Recordings, folders of them, or - for standard input.")],
    model: ModelOption = "an4",
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="txt: the text; json: with words and their times, a line a file.")
    ] = OutputFormat.txt,
    batch_size: Annotated[int, typer.Option(min=1, help="Recordings that go through the model together.")] = 8,
    device: DeviceOption = None,
) -> None:
    """
    Write what is said in recordings.

    Several files print as `FILE<tab>TEXT`. One that cannot be read is named on stderr, the others are still
    transcribed, and the exit code is 1.

    - `hf-speechrec transcribe talk.flac`
    - `hf-speechrec transcribe recordings/ --model user/name --format json > out.jsonl`
    - `cat talk.wav | hf-speechrec transcribe -`
    """
    from .audio import audio_files
    from .loading import load_recognizer
    from .transcription import transcribe as run

    failed = False
    with clear_errors(), quiet_libraries():
        sources = audio_files(files)
        recognizer = load_recognizer(model, device)
        for transcript in run(
            progress(recordings(sources), len(sources)),
            recognizer,
            word_times=output_format == "json",
            batch_size=batch_size,
        ):
            if transcript.error is not None:
                failed = True
                typer.echo(f"error: {transcript.error}", err=True)
            elif output_format == "json":
                fields = {k: v for k, v in vars(transcript).items() if k != "error"}
                typer.echo(json.dumps(fields, ensure_ascii=False))
            else:
                typer.echo(f"{transcript.source}\t{transcript.text}" if len(sources) > 1 else transcript.text)
    if failed:
        raise typer.Exit(1)


@app.command()
def classify(
    files: Annotated[list[str], typer.Argument(help="Recordings, folders of them, or - for standard input.")],
    model: ModelOption = "speech-commands",
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to print for each.")] = 1,
    output_format: Annotated[
        OutputFormat, typer.Option("--format", help="txt: label and probability; json: a line a file.")
    ] = OutputFormat.txt,
    batch_size: Annotated[int, typer.Option(min=1, help="Recordings that go through the model together.")] = 32,
    device: DeviceOption = None,
) -> None:
    """
    Name the command in recordings of one word each.

    Prints `LABEL<tab>PROBABILITY`, with several files `FILE<tab>LABEL<tab>PROBABILITY`, and a `?` behind an answer that
    does not reach the model's confidence threshold. A file that cannot be read is named on stderr, the others are still
    classified, and the exit code is 1.

    - `hf-speechrec classify yes.wav`
    - `hf-speechrec classify clips/ --model user/name --top-k 3 --format json > out.jsonl`
    """
    from .audio import audio_files
    from .classification import classify as run
    from .loading import load_classifier

    failed = False
    with clear_errors(), quiet_libraries():
        sources = audio_files(files)
        classifier = load_classifier(model, device)
        for result in run(progress(recordings(sources), len(sources)), classifier, top_k=top_k, batch_size=batch_size):
            if result.error is not None:
                failed = True
                typer.echo(f"error: {result.error}", err=True)
            elif output_format == "json":
                typer.echo(json.dumps({k: v for k, v in vars(result).items() if k != "error"}, ensure_ascii=False))
            else:
                source = f"{result.source}\t" if len(sources) > 1 else ""
                for i, item in enumerate(result.labels):
                    doubt = "\t?" if i == 0 and result.is_confident is False else ""
                    typer.echo(f"{source}{item['label']}\t{item['score']:.3f}{doubt}")
    if failed:
        raise typer.Exit(1)


def recordings(sources: list[str]) -> Iterator[str | bytes]:
    """Paths, with the bytes of standard input in place of -."""
    return (sys.stdin.buffer.read() if source == "-" else source for source in sources)


def progress(items, total: int):
    """A progress bar on stderr, where there is somebody to see it and something to wait for."""
    from tqdm.auto import tqdm

    return tqdm(items, total=total, unit="file", disable=total < 20 or not sys.stderr.isatty(), leave=False)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own notices from between the lines that were asked for."""
    import datasets
    import huggingface_hub
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    app()
