"""Recordings, or a microphone → text and labels."""

import enum
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    BeamSizeOption,
    DeviceOption,
    HotwordBonusOption,
    HotwordsOption,
    LmOption,
    LmWeightOption,
    ModelOption,
    WordScoreOption,
    app,
    build_decoder,
    clear_errors,
    progress,
    quiet_libraries,
)
from .live_text import LiveText

FilesArgument = Annotated[list[str], typer.Argument(help="Recordings, folders of them, or - for standard input.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Recordings that go through the model together.")]


class TranscriptFormat(enum.StrEnum):
    """How transcripts are written."""

    txt = "txt"
    json = "json"
    srt = "srt"
    vtt = "vtt"


class LabelFormat(enum.StrEnum):
    """How labels are written."""

    txt = "txt"
    json = "json"


@app.command()
def transcribe(
    files: FilesArgument,
    model: ModelOption = "librispeech-mini",
    output_format: Annotated[
        TranscriptFormat,
        typer.Option(
            "--format",
            help="txt: the text; json: with words, characters, their times and confidence, a line a file; srt, vtt: "
            "subtitles.",
        ),
    ] = TranscriptFormat.txt,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write a file for each recording into this folder, and do not print.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="What is said in the recording, or a text file of it: find out when.")
    ] = None,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    beam_size: BeamSizeOption = 2000,
    hotwords: HotwordsOption = None,
    hotword_bonus: HotwordBonusOption = 5.0,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = None,
) -> None:
    """
    Write what is said in recordings of any length.

    Several files print as `FILE<tab>TEXT`. One that cannot be read is named on stderr, the others are still
    transcribed, and the exit code is 1. One without words is named there, too, and its text is empty.

    - `hf-speechrec transcribe talk.flac --lm model`
    - `hf-speechrec transcribe recordings/ --model user/name --format json > out.jsonl`
    - `hf-speechrec transcribe film.flac --format srt > film.srt`
    - `hf-speechrec transcribe recordings/ --format vtt --output-dir subtitles/`
    - `hf-speechrec transcribe talk.flac --text script.txt --format srt`
    - `hf-speechrec transcribe call.wav --model runs/mine --lm names.arpa.gz --hotwords "Xerxes,Ouida"`
    - `hf-speechrec transcribe call.wav --lm model --hotwords "Ouida=W IY D AH"`
    - `cat talk.wav | hf-speechrec transcribe -`
    """
    from ..audio import audio_files
    from ..decoding import carried_language_model
    from ..loading import load_recognizer
    from ..transcription import align_recording
    from ..transcription import transcribe as run

    failed = False
    with clear_errors(), quiet_libraries():
        sources = audio_files(files)
        known = None if text is None else _known_text(text, sources, lm, lm_weight, word_score, hotwords)
        names = _file_names(sources, output_format, output_dir)
        recognizer = load_recognizer(model, device)
        bar = progress(_seconds(sources), "s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio")
        if known is not None:
            transcripts: Any = iter([align_recording(next(recordings(sources)), known, recognizer)])
        else:
            if lm is None and carried_language_model(recognizer).is_file():
                typer.echo(f"notice: {model} carries a language model: --lm model makes fewer errors", err=True)
            decoder = build_decoder(recognizer, lm, lm_weight, word_score, beam_size, hotwords, hotword_bonus)
            transcripts = run(
                recordings(sources),
                recognizer,
                word_times=output_format != TranscriptFormat.txt,
                batch_size=batch_size,
                decoder=decoder,
                progress=bar.update,
            )
        for name, transcript in zip(names, transcripts, strict=True):
            bar.clear()
            if transcript.error is not None:
                failed = True
                typer.echo(f"error: {transcript.error}", err=True)
                if not transcript.text:
                    continue
            elif not transcript.text:
                typer.echo(f"notice: {transcript.source}: no words in {transcript.duration:.2f} s", err=True)
            content = format_transcript(transcript, output_format)
            if output_dir is not None:
                (output_dir / name).write_text(content, encoding="utf-8")
            elif len(sources) > 1 and output_format == TranscriptFormat.txt:
                typer.echo(f"{transcript.source}\t{transcript.text}")
            else:
                typer.echo(content, nl=False)
    if failed:
        raise typer.Exit(1)


def _known_text(text: str, sources: list[str], *options_of_search: Any) -> str:
    """What is said, or the content of the file that has it. Raises `ValueError` for what does not go with it."""
    if len(sources) != 1:
        raise ValueError(f"expected one recording for --text, got {len(sources)}")
    if any(option is not None for option in options_of_search):
        raise ValueError("expected --text without --lm and --hotwords: a known text is not searched for")
    # One "word" that ends in .txt is a slip of the pen in a file's name: nobody says it.
    if not _is_file(text) and len(text.split()) == 1 and Path(text).suffix.lower() == ".txt":
        raise ValueError(f"{text}: no such file: expected what is said, or a text file of it")
    return Path(text).read_text(encoding="utf-8") if _is_file(text) else text


def _file_names(sources: list[str], output_format: TranscriptFormat, output_dir: Path | None) -> list[str]:
    """What the transcripts are called in the folder, which is made. Raises `ValueError` where they do not fit."""
    names = [f"{'stdin' if source == '-' else Path(source).stem}.{output_format}" for source in sources]
    if output_dir is not None:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"expected recordings of different names, {twice[0]} would be written twice")
        output_dir.mkdir(parents=True, exist_ok=True)
    elif len(sources) > 1 and output_format in (TranscriptFormat.srt, TranscriptFormat.vtt):
        raise ValueError(f"expected --output-dir: {len(sources)} recordings do not fit one {output_format} file")
    return names


def format_transcript(transcript, output_format: TranscriptFormat) -> str:
    """A transcript as the content of a file."""
    from ..subtitles import to_srt, to_vtt

    if output_format == TranscriptFormat.json:
        fields = {name: value for name, value in asdict(transcript).items() if name != "error"}
        return json.dumps(fields, ensure_ascii=False) + "\n"
    if output_format == TranscriptFormat.txt:
        return transcript.text + "\n"
    return to_srt(transcript.words) if output_format == TranscriptFormat.srt else to_vtt(transcript.words)


@app.command()
def listen(
    model: ModelOption = "librispeech-mini",
    latency: Annotated[
        float | None,
        typer.Option(help="Seconds from a sound to its letters, at the most; the more, the fewer errors. [0.64]"),
    ] = None,
    microphone: Annotated[
        str | None, typer.Option(help="Number or part of the name of an input (python -m sounddevice lists them).")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Play this recording in place of a microphone.")] = None,
    speed: Annotated[float, typer.Option(min=0, help="Of the recording; 0 for as fast as can be.")] = 1.0,
    device: DeviceOption = None,
) -> None:
    """
    Write what is said while it is said. What stands there does not change; the dimmed end is still being heard.

    A pause ends a line. Stop with Ctrl-C. Sound that cannot be used is left out, with a warning.

    - `hf-speechrec listen`
    - `hf-speechrec listen --model user/name --latency 1.2 --microphone USB`
    - `hf-speechrec listen --file talk.flac --speed 1`
    """
    from ..listening import microphone as open_microphone
    from ..listening import played
    from ..loading import load_recognizer
    from ..streaming import StreamingRecognizer

    with clear_errors(), quiet_libraries():
        recognizer = load_recognizer(model, device)
        stream = StreamingRecognizer(recognizer.model, recognizer, latency=latency)
        if file is not None:
            pieces = played(file, recognizer.feature_extractor.sampling_rate, speed)
        else:
            pieces = open_microphone(int(microphone) if microphone and microphone.isdigit() else microphone)
            typer.echo(f"listening, {stream.latency * 1000:.0f} ms behind you; Ctrl-C ends", err=True)
        text = LiveText(sys.stdout)
        is_warned = False
        try:
            for samples, rate in pieces:
                try:
                    update = stream.feed(samples, rate)
                except ValueError as error:  # a block of NaN: the next one may do
                    if not is_warned:
                        text.warn(f"{error}; left out, as all the like will be")
                    is_warned = True
                else:
                    text.show(update)
        except KeyboardInterrupt:
            if file is not None:
                raise
        finally:
            # Whatever has ended it: words that have been heard are not lost.
            text.show(stream.flush())


@app.command()
def classify(
    files: FilesArgument,
    model: ModelOption = "speech-commands",
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to print for each.")] = 1,
    output_format: Annotated[
        LabelFormat, typer.Option("--format", help="txt: label and probability; json: a line a file.")
    ] = LabelFormat.txt,
    one_speaker: Annotated[
        bool,
        typer.Option(
            "--one-speaker",
            help="All recordings are one person's, at one microphone: take both away (of a model that was trained so).",
        ),
    ] = False,
    batch_size: BatchSizeOption = 32,
    device: DeviceOption = None,
) -> None:
    """
    Name the command in recordings of one word each.

    Prints `LABEL<tab>PROBABILITY`, with several files `FILE<tab>LABEL<tab>PROBABILITY`, and a `?` behind an answer that
    does not reach the model's confidence threshold. A file that cannot be read is named on stderr, the others are still
    classified, and the exit code is 1.

    - `hf-speechrec classify yes.wav`
    - `hf-speechrec classify clips/ --model user/name --top-k 3 --format json > out.jsonl`
    - `hf-speechrec classify clips-of-ann/ --model user/name --one-speaker`
    """
    from ..audio import audio_files
    from ..classification import classify as run
    from ..classification import for_one_speaker
    from ..loading import load_classifier

    failed = False
    with clear_errors(), quiet_libraries():
        sources = audio_files(files)
        classifier = load_classifier(model, device)
        clips: Iterable[str | bytes] = recordings(sources)
        if one_speaker:
            clips = list(clips)
            classifier = for_one_speaker(classifier, clips)
        elif getattr(classifier.feature_extractor, "normalize_by_speaker", False):
            typer.echo(f"notice: {model} takes a speaker's mean away: --one-speaker makes fewer errors", err=True)
        bar = progress(len(sources), "file")
        for result in run(clips, classifier, top_k=top_k, batch_size=batch_size):
            bar.update()
            bar.clear()
            if result.error is not None:
                failed = True
                typer.echo(f"error: {result.error}", err=True)
            elif output_format == LabelFormat.json:
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


def _seconds(sources: list[str]) -> float:
    """Duration of all recordings, as far as their headers tell."""
    from ..audio import AudioError, audio_duration

    total = 0.0
    for source in sources if sys.stderr.isatty() else []:
        try:
            total += 0.0 if source == "-" else audio_duration(source)
        except AudioError:
            continue
    return total


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a text that is longer than names may be
        return False
