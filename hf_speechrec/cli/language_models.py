"""Text → an n-gram model, and the weights that suit it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from .common import BeamSizeOption, DeviceOption, app, clear_errors, quiet_libraries

CORPUS_SUFFIXES = (".csv", ".tsv", ".jsonl")


@app.command()
def build_lm(
    text: Annotated[
        str, typer.Argument(help="A text file, one sentence a line (also .gz, .xz), or a corpus with its transcripts.")
    ],
    out: Annotated[Path, typer.Argument(help="NAME.arpa or NAME.arpa.gz, or a model folder, which carries it then.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="The recogniser that it is for: the text gets its spelling and, where it has a lexicon, keeps to its "
            "words. By default OUT where that is a model folder, else librispeech-mini."
        ),
    ] = None,
    order: Annotated[int, typer.Option(min=2, max=5, help="Words of the longest n-gram.")] = 3,
    max_mb: Annotated[float | None, typer.Option(help="Prune it until the file has no more megabytes.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of a corpus.")] = None,
    exclude_speakers: Annotated[
        Path | None, typer.Option(help="Of a corpus, without the speakers in this file, one a line.")
    ] = None,
) -> None:
    """
    Make an n-gram language model of text, spelled as the recogniser spells.

    The best text is what your users say. Measure with held-out transcripts, and never with those of the test part.

    - `hf-speechrec build-lm sentences.txt names.arpa.gz --model runs/mine`
    - `hf-speechrec build-lm books.txt.xz runs/mine --max-mb 10`
    - `hf-speechrec build-lm data/an4 an4.arpa.gz --model an4 --split train --exclude-speakers held-out.txt`
    """
    from ..language_model import LANGUAGE_MODEL, build_language_model
    from ..loading import DEFAULT_RECOGNIZER, load_model
    from ..pronunciation import lexicon_of
    from ..text import TextNormalizer

    with clear_errors(), quiet_libraries():
        path = out / LANGUAGE_MODEL if out.is_dir() else out
        _check_writable(path)
        own = str(out) if (out / "config.json").is_file() else DEFAULT_RECOGNIZER
        network, _ = load_model(model or own)
        normalizer = TextNormalizer(**(network.config.text_normalizer or {}))
        texts = (normalizer(line) for line in _texts(text, split, exclude_speakers))
        stats = build_language_model(texts, path, order=order, max_megabytes=max_mb, vocabulary=lexicon_of(network))
    typer.echo(
        f"{path}: {stats['sentences']} sentences, {stats['words']} words, {stats['vocabulary']} different, "
        + (f"{stats['unknown']} not in the lexicon, " if stats["unknown"] else "")
        + f"{stats['bytes'] / 1e6:.2f} MB"
    )


def _texts(text: str, split: str | None, exclude_speakers: Path | None) -> Iterable[str]:
    from ..corpora import read_corpus
    from ..corpus_rows import read_speakers
    from ..language_model import text_lines

    if Path(text).is_file() and Path(text).suffix not in CORPUS_SUFFIXES:
        if split is not None or exclude_speakers is not None:
            raise ValueError(f"{text}: expected a corpus for --split and --exclude-speakers, got a text file")
        return text_lines(text)
    excluded = None if exclude_speakers is None else read_speakers(exclude_speakers)
    return read_corpus(text, split, exclude_speakers=excluded)["text"]


def _check_writable(path: Path) -> None:
    """Raise `ValueError` now for a file that cannot be written, and not after minutes of work. Nothing is changed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise ValueError(f"{path}: expected a file that can be written ({error.strerror})") from None


@app.command()
def tune_lm(
    model: Annotated[str, typer.Argument(help="A bundled model, a folder, or an id on the Hub.")],
    lm: Annotated[Path, typer.Argument(help="The language model, or the model folder that carries it.")],
    corpus: Annotated[str, typer.Argument(help="Recordings with texts that neither model has seen.")],
    split: Annotated[str | None, typer.Option(help="Which part of the corpus, where it has parts.")] = None,
    speakers: Annotated[Path | None, typer.Option(help="Only the speakers in this file, one a line.")] = None,
    beam_size: BeamSizeOption = 300,
    device: DeviceOption = None,
) -> None:
    """
    Choose the weights of a language model on held-out speech, and keep them beside it.

    - `hf-speechrec tune-lm runs/mine an4.arpa.gz data/an4 --split train --speakers recipes/splits/an4-dev-speakers.txt`
    """
    from ..corpora import read_corpus
    from ..corpus_rows import read_speakers
    from ..language_model import LANGUAGE_MODEL, weights_file, write_weights
    from ..loading import load_recognizer
    from ..tuning import tune_decoder

    with clear_errors(), quiet_libraries():
        path = lm / LANGUAGE_MODEL if lm.is_dir() else lm
        if path.is_file():
            _check_writable(weights_file(path))
        names = None if speakers is None else read_speakers(speakers)
        dataset = read_corpus(corpus, split, speakers=names)
        best = None
        for trial in tune_decoder(load_recognizer(model, device), dataset, path, beam_size=beam_size):
            typer.echo(f"weight {trial.lm_weight:5.2f}  word score {trial.word_score:5.2f}  WER {trial.wer:7.2%}")
            best = trial if best is None or trial.wer < best.wer else best
        assert best is not None
        write_weights(path, best.lm_weight, best.word_score)
    typer.echo(f"kept beside {path}: weight {best.lm_weight}, word score {best.word_score} (WER {best.wer:.2%})")
