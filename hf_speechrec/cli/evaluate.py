"""Model and corpus → what it gets wrong."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    BeamSizeOption,
    DeviceOption,
    HotwordBonusOption,
    HotwordsOption,
    JsonOption,
    LmOption,
    LmWeightOption,
    WordScoreOption,
    app,
    build_decoder,
    clear_errors,
    quiet_libraries,
)

DECODER_OPTIONS = ("lm", "lm_weight", "word_score", "beam_size", "hotwords", "hotword_bonus")


@app.command()
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A bundled model, a folder, or an id on the Hub.")],
    corpus: Annotated[str, typer.Argument(help="A folder, a manifest, librispeech:SUBSET, or a Hub data set.")],
    split: Annotated[str | None, typer.Option(help="Which part of the corpus, where it has parts.")] = None,
    speakers: Annotated[Path | None, typer.Option(help="Only the speakers in this file, one a line.")] = None,
    gain_db: Annotated[float, typer.Option(help="Change the volume first.")] = 0.0,
    noise_snr_db: Annotated[float | None, typer.Option(help="Add white noise at this signal-to-noise ratio.")] = None,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    beam_size: BeamSizeOption = 2000,
    hotwords: HotwordsOption = None,
    hotword_bonus: HotwordBonusOption = 5.0,
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
    - `hf-speechrec evaluate an4 data/an4 --split test --lm an4.arpa.gz`
    - `hf-speechrec evaluate speech-commands data/speech_commands --split test --plot confusion.png`
    - `hf-speechrec evaluate runs/mine data/an4 --split test --update-card --corpus-name AN4`
    """
    from ..corpora import read_corpus
    from ..corpus_rows import read_speakers, warn_of_missing_speakers
    from ..evaluation import evaluate_recognizer, format_report
    from ..evaluation_classifier import evaluate_classifier, format_classification_report, plot_confusion_matrix
    from ..labelled_corpora import read_labelled_corpus
    from ..loading import CHECKPOINTS, is_classifier, load_pipeline
    from ..model_card import command_line, condition_name, render_model_card, update_facts

    with clear_errors(), quiet_libraries():
        is_bundled = model in {path.name for path in CHECKPOINTS.iterdir()}
        if update_card and (is_bundled or not Path(model).is_dir()):
            raise ValueError(f"{model}: a card is updated in a model folder; expected its path")
        _check_folders(json_file, plot)
        names = None if speakers is None else read_speakers(speakers)
        loaded = load_pipeline(model, device)
        conditions: dict[str, Any] = {"gain_db": gain_db, "noise_snr_db": noise_snr_db, "batch_size": batch_size}
        is_for_labels = is_classifier(loaded.model.config)
        _refuse_others_options(context, model, is_for_labels)
        read = read_labelled_corpus if is_for_labels else read_corpus
        decoder = None
        if not is_for_labels:
            decoder = build_decoder(loaded, lm, lm_weight, word_score, beam_size, hotwords, hotword_bonus)
        dataset = read(corpus, split, speakers=names)
        if speakers is not None:
            warn_of_missing_speakers(speakers, names or [], dataset)
        if is_for_labels:
            report = evaluate_classifier(loaded, dataset, **conditions)
            typer.echo(format_classification_report(report))
        else:
            report = evaluate_recognizer(loaded, dataset, decoder=decoder, **conditions)
            typer.echo(format_report(report))
        # What took minutes has been printed before anything is written that may fail.
        if plot is not None:
            plot_confusion_matrix(report["confusion_matrix"], report["labels"], plot)
        default_name = Path(corpus).name if Path(corpus).is_dir() else Path(corpus).stem
        report |= {"command": command_line(), "corpus": corpus_name or default_name, "split": split}
        if update_card:
            if names is not None:
                report["speakers"] = len(set(dataset["speaker"]))
            if lm is not None:
                report["language_model"] = True
            if "confusion_matrix" in report and not gain_db and noise_snr_db is None and names is None:
                plot_confusion_matrix(report["confusion_matrix"], report["labels"], Path(model, "confusion_matrix.png"))
            update_facts(model, evaluations={condition_name(report): report})
            render_model_card(model)
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_folders(*files: Path | None) -> None:
    """Before minutes of work, not after them."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{file}: expected a folder {file.parent} to write it into, there is none")


def _refuse_others_options(context: typer.Context, model: str, is_for_labels: bool) -> None:
    """An option for the other kind of model would do nothing, and nobody would notice. Raises `ValueError`."""
    others = DECODER_OPTIONS if is_for_labels else ("plot",)
    given = [name for name in others if getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"]
    if given:
        kind, other = ("classifier", "recogniser") if is_for_labels else ("recogniser", "classifier")
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{model}: is a {kind}, expected no options for a {other}, got {options}")
