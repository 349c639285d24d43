"""The Gradio page: words while one speaks, files with subtitles, spoken commands, and a look inside a recogniser."""

import html
import json
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio.context import LocalContext
from starlette.middleware import Middleware

from .alignment import Word
from .audio import AudioError, decoded_blocks, read_audio
from .classification import classify
from .hub import EXAMPLES
from .inside import INSIDE_SECONDS, draw_inside
from .loading import DEFAULT_CLASSIFIER, DEFAULT_RECOGNIZER, load_classifier, load_recognizer
from .page.microphone import MAX_SPEECH_SECONDS, KeepPosted, Listener
from .streaming import StreamingRecognizer
from .subtitles import to_srt, to_vtt
from .transcription import transcribe

MAX_FILE_SIZE = "50mb"
MAX_FILE_SECONDS = 600
MAX_LISTENERS = 16  # microphones at once; each holds a place in the queue while it is open
MAX_WAITING = 256  # calls; who is served waits with one at a time
MAX_SESSIONS = 256  # that are remembered, the latest used; Gradio keeps 0.1 MB for each, by itself for ten thousand
SECONDS_KEPT = 3600  # uploads and what a visitor has said

PAGE = Path(__file__).parent / "page"
FONT = ["system-ui", "sans-serif"]  # the visitor's own: none is fetched


def build_demo(recognizer: str = DEFAULT_RECOGNIZER, classifier: str = DEFAULT_CLASSIFIER) -> gr.Blocks:
    """
    The page. Its models are loaded now: what a first visitor says while one is being loaded would be lost.

    Args:
        recognizer: the name of a bundled model, a folder, or an id on the Hub.
        classifier: the same.

    Raises:
        ModelError: for a model that cannot be loaded, or is not of its kind.
    """
    speech, command = load_recognizer(recognizer), load_classifier(classifier)
    examples = sorted(str(path) for path in EXAMPLES.glob("*.*") if path.suffix in (".flac", ".wav", ".opus"))
    sentences = [path for path in examples if "command" not in Path(path).name]
    commands = [path for path in examples if "command" in Path(path).name]

    with gr.Blocks(title="hf_speechrec", analytics_enabled=False, delete_cache=(SECONDS_KEPT, SECONDS_KEPT)) as page:
        gr.Markdown("# hf_speechrec\nSpeech recognition with small models that you can train yourself.")
        with gr.Tab("Speak", id="speak"):
            _speak_tab(speech)
        with gr.Tab("File", id="file"):
            _file_tab(speech, sentences)
        with gr.Tab("Commands", id="commands"):
            _commands_tab(command, commands)
        with gr.Tab("Look inside", id="inside"):
            _inside_tab(speech, sentences)
        with gr.Accordion("About the models", open=False) as about:
            card = gr.Markdown()
            about.expand(lambda: _cards(speech, command), None, card, api_visibility="private")
    return page


def launch(recognizer: str = DEFAULT_RECOGNIZER, classifier: str = DEFAULT_CLASSIFIER, **options) -> None:
    """
    Serve the page; `options` are Gradio's own (`server_port=7861`, `share=True`). Raises `ModelError` as `build_demo`.
    """
    torch.set_num_threads(1)  # visitors share the cores; threads within one's step would wait for each other
    # Gradio's statistics of its API, made anew of all calls after each call, take longer than hearing a piece.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "100")  # calls
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1000")
    page = build_demo(recognizer, classifier).queue(max_size=MAX_WAITING, default_concurrency_limit=2)
    page.launch(
        max_file_size=MAX_FILE_SIZE,
        state_session_capacity=MAX_SESSIONS,
        theme=gr.themes.Soft(font=FONT, font_mono=["ui-monospace", "monospace"]),
        css_paths=PAGE / "style.css",
        head_paths=PAGE / "head.html",
        footer_links=["api", "gradio"],
        app_kwargs={"middleware": [Middleware(KeepPosted)]},
        **options,
    )


def _speak_tab(recognizer) -> None:
    gr.Markdown("Press *Record* and speak. What stands there does not change; the paler end is still being heard.")
    microphone = gr.Audio(
        sources=["microphone"], streaming=True, type="filepath", label="Microphone", elem_id="microphone"
    )
    shown = gr.HTML(_spoken(None), elem_id="spoken")

    def hear(path: str | None, listener: Listener) -> None:
        try:
            listener.hear(path)
        except ValueError as error:
            raise _refusal(_without_folder(str(error))) from None

    def end(listener: Listener | None) -> None:
        if listener is not None:
            listener.end()

    state = gr.State(None, time_to_live=SECONDS_KEPT, delete_callback=end)

    def speak(path: str | None, listener: Listener | None):
        visit = LocalContext.event_id.get("") or ""
        if listener is None or (listener.is_over and listener.visit != visit):
            listener = Listener(StreamingRecognizer(recognizer.model, recognizer), visit)
        hear(path, listener)
        return _spoken(listener), listener

    def listen(path: str | None, listener: Listener | None):
        listener = listener or Listener(StreamingRecognizer(recognizer.model, recognizer))
        hear(path, listener)
        return _heard(listener), listener

    def stop(listener: Listener | None):
        end(listener)
        return _spoken(listener), listener

    def listen_end(listener: Listener | None):
        end(listener)
        return _heard(listener), None

    microphone.stream(
        speak,
        [microphone, state],
        [shown, state],
        stream_every=0.25,
        time_limit=MAX_SPEECH_SECONDS,
        concurrency_limit=MAX_LISTENERS,
        show_progress="hidden",
        api_visibility="private",
    )
    microphone.start_recording(lambda: _spoken(None), None, shown, api_visibility="private")
    microphone.stop_recording(stop, [state], [shown, state], show_progress="hidden", api_visibility="private")

    piece, answer = gr.Audio(visible=False, type="filepath"), gr.JSON(visible=False)
    gr.Button(visible=False).click(
        listen,
        [piece, state],
        [answer, state],
        api_name="listen",
        api_description="The next piece of a recording (0.1 s and more) → all words so far, and the one being said.",
        concurrency_limit=MAX_LISTENERS,
    )
    gr.Button(visible=False).click(
        listen_end, [state], [answer, state], api_name="listen_end", api_description="The end of the recording."
    )


def _file_tab(recognizer, examples: list[str]) -> None:
    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", elem_id="recording")
    gr.Examples(examples, audio, label="Examples")
    shown = gr.HTML(
        _hint("Words stand here, underlined by how sure the model is; press one to hear it."), elem_id="text"
    )
    with gr.Row():
        downloads = [gr.DownloadButton(f".{kind}", visible=False) for kind in ("srt", "vtt", "json")]

    def show(path: str | None):
        if path is None:
            return [_hint(""), *[gr.DownloadButton(visible=False)] * 3]
        transcript = _transcribe(recognizer, path)
        folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
        contents = {
            "srt": to_srt(transcript.words),
            "vtt": to_vtt(transcript.words),
            "json": json.dumps(_as_json(transcript), ensure_ascii=False, indent=2),
        }
        files = []
        for kind, content in contents.items():
            file = folder / f"transcript.{kind}"
            file.write_text(content, encoding="utf-8")
            files.append(gr.DownloadButton(value=str(file), visible=True))
        return [_words(transcript.words, path), *files]

    audio.change(show, audio, [shown, *downloads], api_visibility="private")
    answer = gr.JSON(visible=False)
    gr.Button(visible=False).click(
        lambda path: _as_json(_transcribe(recognizer, path)),
        audio,
        answer,
        api_name="transcribe",
        api_description="A recording → its text, and words with times and confidence.",
    )


def _commands_tab(classifier, examples: list[str]) -> None:
    audio = gr.Audio(sources=["microphone", "upload"], type="filepath", label="One word", elem_id="command")
    if examples:
        gr.Examples(examples, audio, label="Examples")
    label = gr.Label(num_top_classes=5, label="Heard", elem_id="label")

    def name(path: str | None) -> dict[str, float] | None:
        if path is None:
            return None
        (result,) = classify([path], classifier, top_k=None)
        if result.error is not None:
            raise _refusal(_without_folder(result.error))
        return {item["label"]: item["score"] for item in result.labels}

    audio.change(
        name, audio, label, api_name="classify", api_description="A clip of one word → labels and their probability."
    )


def _inside_tab(recognizer, examples: list[str]) -> None:
    gr.Markdown(
        f"What the model sees (log-mel energies), and what it thinks: the probability of each character over time, and "
        f"where the text puts them. The first {INSIDE_SECONDS} seconds."
    )
    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", elem_id="inside")
    gr.Examples(examples, audio, label="Examples")
    plot = gr.Plot(show_label=False, elem_id="plot")
    audio.change(
        lambda path: None if path is None else draw_inside(recognizer, _read(recognizer, path)),
        audio,
        plot,
        api_visibility="private",
    )


def _cards(*models) -> str:
    """Their model cards, as Markdown."""
    parts = []
    for model in models:
        card = Path(model.model.name_or_path, "README.md")
        text = (
            card.read_text(encoding="utf-8", errors="replace")
            if card.is_file()
            else f"# {card.parent.name}\n\nIt has no card."
        )
        text = text.split("\n---\n", 1)[-1] if text.startswith("---") else text
        parts.append(re.sub(r"!\[.*?\]\(.*?\)", "", text))  # its pictures lie beside it, and not beside the page
    return "\n\n---\n\n".join(parts)


def _heard(listener: Listener | None) -> dict[str, Any]:
    words = [] if listener is None else listener.words
    return {
        "text": " ".join(word.word for word in words),
        "partial": "" if listener is None else listener.partial,
        "words": [asdict(word) for word in words],
    }


def _read(recognizer, path: str) -> np.ndarray:
    try:
        _check_length(path)
        return read_audio(path, recognizer.feature_extractor.sampling_rate)
    except AudioError as error:
        raise _refusal(_without_folder(str(error))) from None


def _transcribe(recognizer, path: str | None):
    if path is None:
        raise _refusal("expected a recording, got none")
    try:
        _check_length(path)
    except AudioError as error:
        raise _refusal(_without_folder(str(error))) from None
    (transcript,) = transcribe([path], recognizer, word_times=True)
    if transcript.error is not None:
        raise _refusal(_without_folder(transcript.error))
    return transcript


def _check_length(path: str) -> None:
    """By what there is to be heard: a header may claim anything."""
    seconds = 0.0
    for samples, rate in decoded_blocks(path):
        seconds += len(samples) / rate
        if seconds > MAX_FILE_SECONDS:
            raise AudioError(f"{path}: expected at most {MAX_FILE_SECONDS // 60} minutes here, got more")


def _refusal(message: str) -> gr.Error:
    """What a visitor reads; the server's log needs no traceback of it."""
    return gr.Error(message, print_exception=False)


def _without_folder(message: str) -> str:
    """A visitor need not know where the server keeps uploads."""
    source, colon, reason = message.partition(": ")
    return f"{Path(source).name}{colon}{reason}"


def _as_json(transcript) -> dict[str, Any]:
    return {"text": transcript.text, "duration": transcript.duration, "words": [asdict(w) for w in transcript.words]}


def _hint(text: str) -> str:
    return f'<div class="transcript"><span class="hint">{text}</span></div>'


def _spoken(listener: Listener | None) -> str:
    if listener is None or not (listener.words or listener.partial):
        return _hint("Listening…" if listener else "Your words will stand here.")
    words = html.escape(" ".join(word.word for word in listener.words))
    note = f"{listener.stream.latency * 1000:.0f} ms behind you"
    if listener.seconds >= MAX_SPEECH_SECONDS:
        note = f"That was {MAX_SPEECH_SECONDS // 60} minutes: press Stop and Record to go on."
    return (
        f'<div class="transcript" aria-live="polite"><span class="firm">{words}</span> '
        f'<span class="partial">{html.escape(listener.partial)}</span><div class="note">{note}</div></div>'
    )


def _words(words: list[Word], path: str) -> str:
    """Words as buttons that play their place, underlined from red (unsure) to green."""
    if not words:
        return _hint("No words were heard in this recording.")
    buttons = "".join(
        f'<button class="word" type="button" data-start="{word.start}" '
        f'style="--sure: hsl({120 * max(0.0, 2 * word.confidence - 1):.0f} 70% 60% / 0.6)" '
        f'title="{word.start:.2f} to {word.end:.2f} s, {word.confidence:.0%} sure">{html.escape(word.word)}</button> '
        for word in words
    )
    source = html.escape(f"gradio_api/file={path}", quote=True)
    return f'<div class="transcript">{buttons}<audio controls preload="metadata" src="{source}"></audio></div>'


__all__ = ["build_demo", "launch"]
