"""The Gradio page: words while one speaks, files with subtitles, spoken commands, and a look inside a recogniser."""

import html
import json
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from .alignment import Word
from .audio import AudioError, audio_duration, decoded_blocks, read_audio
from .classification import classify
from .hub import EXAMPLES
from .inside import INSIDE_SECONDS, draw_inside
from .loading import DEFAULT_CLASSIFIER, DEFAULT_RECOGNIZER, ModelError, load_classifier, load_recognizer
from .streaming import StreamingRecognizer
from .subtitles import to_srt, to_vtt
from .transcription import transcribe

MAX_FILE_SIZE = "50mb"
MAX_FILE_SECONDS = 600
MAX_SPEECH_SECONDS = 300  # of one visit to the microphone
MAX_LISTENERS = 16  # microphones at once; each holds a place in the queue while it is open
MAX_WAITING = 64
SECONDS_KEPT = 3600  # uploads and what a visitor has said

CSS = """
.transcript { font-size: 1.35rem; line-height: 1.9; min-height: 5.5rem; }
.transcript .partial { opacity: 0.7; font-style: italic; }
.transcript .hint, .transcript .note { opacity: 0.7; font-size: 0.95rem; }
.transcript button.word { font: inherit; color: inherit; padding: 0 0.2em; margin: 0 0.05em; border-radius: 0.3em;
  border-bottom: 3px solid var(--sure); cursor: pointer; }
.transcript button.word:hover, .transcript button.word:focus-visible { background: var(--sure);
  outline: 2px solid currentColor; }
.transcript audio { width: 100%; margin-top: 0.8rem; }
/* All tabs side by side on a phone. */
@media (max-width: 480px) { .tab-container button { padding-inline: 0.55rem; } }
"""
# Browsers change what a microphone hears before a page gets it; the models have not learnt from that.
HEAD = """<script>
const devices = navigator.mediaDevices;
const ask = devices?.getUserMedia.bind(devices);
if (ask) devices.getUserMedia = (wish) => ask({ ...wish, audio: wish.audio && {
  ...wish.audio, autoGainControl: false, echoCancellation: false, noiseSuppression: false } });
</script>"""
FONT = ["system-ui", "sans-serif"]  # the visitor's own: none is fetched
PLAY = (
    "const a = this.closest('.transcript').querySelector('audio');"
    "a.currentTime = parseFloat(this.dataset.start); a.play();"
)


class Models:
    """The two models of a page, loaded when they are first needed."""

    def __init__(self, recognizer: str, classifier: str):
        self.names = {"recogniser": recognizer, "classifier": classifier}
        self._loaders: dict[str, Callable] = {"recogniser": load_recognizer, "classifier": load_classifier}
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, kind: str) -> Any:
        with self._lock:
            if kind not in self._loaded:
                try:
                    self._loaded[kind] = self._loaders[kind](self.names[kind])
                except ModelError as error:
                    raise gr.Error(str(error)) from None
            return self._loaded[kind]

    def cards(self) -> str:
        """Both model cards, as Markdown."""
        parts = []
        for kind, name in self.names.items():
            card = Path(self[kind].model.name_or_path, "README.md")
            text = card.read_text(encoding="utf-8") if card.is_file() else f"# {name}\n\nIt has no card."
            text = text.split("\n---\n", 1)[-1] if text.startswith("---") else text
            parts.append(re.sub(r"!\[.*?\]\(.*?\)", "", text))  # its pictures lie beside it, and not beside the page
        return "\n\n---\n\n".join(parts)


@dataclass
class Listener:
    """What one visitor has said so far."""

    stream: StreamingRecognizer
    words: list[Word] = field(default_factory=list)
    partial: str = ""
    seconds: float = 0.0


def build_demo(recognizer: str = DEFAULT_RECOGNIZER, classifier: str = DEFAULT_CLASSIFIER) -> gr.Blocks:
    """
    The page. Nothing is loaded before somebody needs it.

    Args:
        recognizer: the name of a bundled model, a folder, or an id on the Hub.
        classifier: the same.
    """
    models = Models(recognizer, classifier)
    examples = sorted(str(path) for path in EXAMPLES.glob("*.*") if path.suffix in (".flac", ".wav", ".opus"))
    sentences = [path for path in examples if "command" not in Path(path).name]
    commands = [path for path in examples if "command" in Path(path).name]

    with gr.Blocks(title="hf_speechrec", analytics_enabled=False, delete_cache=(SECONDS_KEPT, SECONDS_KEPT)) as page:
        gr.Markdown("# hf_speechrec\nSpeech recognition with small models that you can train yourself.")
        with gr.Tab("Speak", id="speak"):
            _speak_tab(models)
        with gr.Tab("File", id="file"):
            _file_tab(models, sentences)
        with gr.Tab("Commands", id="commands"):
            _commands_tab(models, commands)
        with gr.Tab("Look inside", id="inside"):
            _inside_tab(models, sentences)
        with gr.Accordion("About the models", open=False) as about:
            card = gr.Markdown()
            about.expand(models.cards, None, card, api_visibility="private")
    return page


def launch(recognizer: str = DEFAULT_RECOGNIZER, classifier: str = DEFAULT_CLASSIFIER, **options) -> None:
    """Serve the page; `options` are Gradio's own (`server_port=7861`, `share=True`)."""
    torch.set_num_threads(1)  # visitors share the cores; threads within one's step would wait for each other
    page = build_demo(recognizer, classifier).queue(max_size=MAX_WAITING, default_concurrency_limit=2)
    page.launch(
        max_file_size=MAX_FILE_SIZE,
        theme=gr.themes.Soft(font=FONT, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        head=HEAD,
        footer_links=["api", "gradio"],
        **options,
    )


def _speak_tab(models: Models) -> None:
    gr.Markdown("Press *Record* and speak. What stands there does not change; the paler end is still being heard.")
    microphone = gr.Audio(
        sources=["microphone"], streaming=True, type="numpy", label="Microphone", elem_id="microphone"
    )
    shown = gr.HTML(_spoken(None), elem_id="spoken")
    state = gr.State(None, time_to_live=SECONDS_KEPT)

    def hear(audio: tuple[int, np.ndarray] | None, listener: Listener | None):
        listener = _hear(models, audio, listener)
        return _spoken(listener), listener

    def end(listener: Listener | None):
        listener = _end(listener)
        return _spoken(listener), listener

    microphone.stream(
        hear,
        [microphone, state],
        [shown, state],
        stream_every=0.25,
        time_limit=MAX_SPEECH_SECONDS,
        concurrency_limit=MAX_LISTENERS,
        show_progress="hidden",
        api_visibility="private",
    )
    microphone.start_recording(lambda: (_spoken(None), None), None, [shown, state], api_visibility="private")
    microphone.stop_recording(end, [state], [shown, state], show_progress="hidden", api_visibility="private")

    def listen(path: str | None, listener: Listener | None):
        try:
            for samples, rate in decoded_blocks(path) if path else ():
                listener = _hear(models, (rate, samples), listener)
        except AudioError as error:
            raise gr.Error(_without_folder(str(error))) from None
        return _heard(listener), listener

    def listen_end(listener: Listener | None):
        listener = _end(listener)
        return _heard(listener), None

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


def _file_tab(models: Models, examples: list[str]) -> None:
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
        transcript = _transcribe(models, path)
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
        lambda path: _as_json(_transcribe(models, path)),
        audio,
        answer,
        api_name="transcribe",
        api_description="A recording → its text, and words with times and confidence.",
    )


def _commands_tab(models: Models, examples: list[str]) -> None:
    audio = gr.Audio(sources=["microphone", "upload"], type="filepath", label="One word", elem_id="command")
    if examples:
        gr.Examples(examples, audio, label="Examples")
    label = gr.Label(num_top_classes=5, label="Heard", elem_id="label")

    def name(path: str | None) -> dict[str, float] | None:
        if path is None:
            return None
        (result,) = classify([path], models["classifier"], top_k=None)
        if result.error is not None:
            raise gr.Error(_without_folder(result.error))
        return {item["label"]: item["score"] for item in result.labels}

    audio.change(
        name, audio, label, api_name="classify", api_description="A clip of one word → labels and their probability."
    )


def _inside_tab(models: Models, examples: list[str]) -> None:
    gr.Markdown(
        f"What the model sees (log-mel energies), and what it thinks: the probability of each character over time, and "
        f"where the text puts them. The first {INSIDE_SECONDS} seconds."
    )
    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", elem_id="inside")
    gr.Examples(examples, audio, label="Examples")
    plot = gr.Plot(show_label=False, elem_id="plot")
    audio.change(
        lambda path: None if path is None else draw_inside(models["recogniser"], _read(models["recogniser"], path)),
        audio,
        plot,
        api_visibility="private",
    )


def _hear(models: Models, audio: tuple[int, np.ndarray] | None, listener: Listener | None) -> Listener:
    recognizer = models["recogniser"]
    listener = listener or Listener(StreamingRecognizer(recognizer.model, recognizer))
    if audio is None or listener.seconds >= MAX_SPEECH_SECONDS:
        return listener
    rate, samples = audio
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1)
    samples = samples.mean(axis=1) if samples.ndim > 1 else samples
    try:
        update = listener.stream.feed(samples, rate)
    except ValueError as error:
        raise gr.Error(str(error)) from None
    listener.seconds += len(samples) / rate
    listener.words += update.words
    listener.partial = update.partial
    return listener


def _end(listener: Listener | None) -> Listener | None:
    if listener is not None:
        listener.words += listener.stream.flush().words
        listener.partial = ""
    return listener


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
        raise gr.Error(_without_folder(str(error))) from None


def _transcribe(models: Models, path: str | None):
    if path is None:
        raise gr.Error("expected a recording, got none")
    try:
        _check_length(path)
    except AudioError as error:
        raise gr.Error(_without_folder(str(error))) from None
    (transcript,) = transcribe([path], models["recogniser"], word_times=True)
    if transcript.error is not None:
        raise gr.Error(_without_folder(transcript.error))
    return transcript


def _check_length(path: str) -> None:
    duration = audio_duration(path)
    if duration > MAX_FILE_SECONDS:
        raise AudioError(f"{path}: expected at most {MAX_FILE_SECONDS // 60} minutes here, got {duration / 60:.0f}")


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
        f'<button class="word" type="button" data-start="{word.start}" onclick="{PLAY}" '
        f'style="--sure: hsl({120 * max(0.0, 2 * word.confidence - 1):.0f} 70% 60% / 0.6)" '
        f'title="{word.start:.2f} to {word.end:.2f} s, {word.confidence:.0%} sure">{html.escape(word.word)}</button> '
        for word in words
    )
    source = html.escape(f"gradio_api/file={path}", quote=True)
    return f'<div class="transcript">{buttons}<audio controls preload="metadata" src="{source}"></audio></div>'


__all__ = ["build_demo", "launch"]
