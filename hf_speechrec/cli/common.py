"""What the commands share: options, errors of one line, progress, quiet."""

import contextlib
import enum
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


class Device(enum.StrEnum):
    """Where the model runs."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


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


def progress(total: float, unit: str, **options):
    """A progress bar on stderr, where there is somebody to see it."""
    from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False, **options)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own notices from between the lines that were asked for."""
    import huggingface_hub
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Transcribing does not need datasets, which takes a second and 200 MB to import.
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    else:
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    huggingface_hub.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


LmOption = Annotated[
    str | None,
    typer.Option("--lm", help="Search with this n-gram model (ARPA, from build-lm); model: the one the model carries."),
]
LmWeightOption = Annotated[
    float | None, typer.Option(help="Weight of the language model; by default what tune-lm found, else 1.")
]
WordScoreOption = Annotated[
    float | None, typer.Option(help="Added for every word; by default what tune-lm found, else 0.")
]
BeamSizeOption = Annotated[
    int, typer.Option(min=1, help="Hypotheses kept from frame to frame; the more, the fewer errors and the slower.")
]
HotwordsOption = Annotated[
    str | None,
    typer.Option(
        help="Words to listen for, known to the language model or not: 'Xerxes,Ouida'. With phones, those that a "
        "model's lexicon lacks, too: 'Xerxes,Ouida=W IY D AH'."
    ),
]
HotwordBonusOption = Annotated[float, typer.Option(help="How much likelier they become, in powers of ten.")]


def build_decoder(
    recognizer,
    lm: str | None,
    lm_weight: float | None,
    word_score: float | None,
    beam_size: int,
    hotwords: str | None,
    hotword_bonus: float,
):
    """The decoder that the options ask for; none for the greedy one. Raises `LanguageModelError`."""
    from ..decoding import load_decoder
    from ..language_model import LanguageModelError

    if lm is None:
        if hotwords is not None or lm_weight is not None or word_score is not None:
            raise LanguageModelError("hotwords and weights need a language model: expected --lm, got none")
        return None
    return load_decoder(
        recognizer,
        lm,
        lm_weight=lm_weight,
        word_score=word_score,
        beam_size=beam_size,
        hotwords=(hotwords or "").split(","),
        hotword_bonus=hotword_bonus,
    )
