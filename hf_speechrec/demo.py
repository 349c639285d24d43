"""The Gradio page: words while one speaks, files with subtitles, spoken commands, and a look inside a recogniser."""

import json
import os
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from .audio import AudioError, decoded_blocks, read_audio
from .classification import Classification, classify
from .decoding import BeamSearchDecoder, load_decoder
from .hub import EXAMPLES
from .inside import INSIDE_SECONDS, as_svg, draw_inside
from .loading import DEFAULT_CLASSIFIER, DEMO_RECOGNIZER, load_classifier, load_recognizer
from .page.microphone import MAX_LISTENERS, Listener, Microphones
from .page.shown import READABLE, hint, model_cards, model_name, named_labels, summary_of, words_as_html
from .streaming import StreamingRecognizer
from .subtitles import to_srt, to_vtt
from .transcription import Transcript, transcribe

MAX_FILE_SIZE = "50mb"
MAX_FILE_SECONDS = 600
MAX_WAITING = 256  # calls; who is served waits with one at a time
MAX_SESSIONS = 256  # that are remembered, the latest used; Gradio keeps 0.1 MB for each, by itself for ten thousand
SECONDS_KEPT = 3600  # uploads and what a visitor has said

PAGE = Path(__file__).parent / "page"
FONT = ["system-ui", "sans-serif"]  # the visitor's own: none is fetched
SUBTITLES = {"srt": to_srt, "vtt": to_vtt}
SAY = {
    "an4": "Say *three one four one five*, or spell your name.",
    "librispeech-mini": "Say *it was a cold and windy morning*.",
}
COPY = """async () => {
  const words = [...document.querySelectorAll("#text button.word")].map((word) => word.textContent);
  await navigator.clipboard.writeText(words.join(" "));
  return "Copied";
}"""


def build_demo(
    recognizer: str = DEMO_RECOGNIZER,
    classifier: str = DEFAULT_CLASSIFIER,
    language_model: str | None = None,
) -> gr.Blocks:
    """
    The page. Its models are loaded now: what a first visitor says while one is being loaded would be lost.

    Args:
        recognizer: the name of a bundled model, a folder, or an id on the Hub.
        classifier: the same.
        language_model: for files: an ARPA file, or "model" for the one that the recogniser carries.

    Raises:
        ModelError: for a model that cannot be loaded, or is not of its kind.
        LanguageModelError: for a language model that does not suit.
    """
    speech, command = load_recognizer(recognizer), load_classifier(classifier)
    decoder = None if language_model is None else load_decoder(speech, language_model)
    examples = sorted(str(path) for path in EXAMPLES.glob("*.*") if path.suffix in (".flac", ".wav", ".opus"))
    sentences = [path for path in examples if "command" not in Path(path).name]
    commands = [path for path in examples if "command" in Path(path).name]
    name, kept = model_name(recognizer), (SECONDS_KEPT, SECONDS_KEPT)

    with gr.Blocks(title=f"{name} · hf_speechrec", analytics_enabled=False, delete_cache=kept) as page:
        gr.Markdown(
            f"# hf_speechrec: {name}\nSmall models for speech that you train on your own recordings. Here **{name}** "
            f"writes what is said, and **{model_name(classifier)}** names commands."
        )
        with gr.Tab("Speak", id="speak"):
            _speak_tab(speech, SAY.get(recognizer, ""))
        with gr.Tab("File", id="file"):
            _file_tab(speech, decoder, sentences)
        with gr.Tab("Commands", id="commands"):
            _commands_tab(command, commands)
        with gr.Tab("Look inside", id="inside"):
            _inside_tab(speech, sentences)
        with gr.Accordion("About the models", open=False) as about:
            card = gr.Markdown()
            about.expand(lambda: model_cards(speech, command), None, card, api_visibility="private")
    return page


def launch(
    recognizer: str = DEMO_RECOGNIZER,
    classifier: str = DEFAULT_CLASSIFIER,
    language_model: str | None = None,
    **options,
) -> None:
    """Serve the page of `build_demo`; `options` are Gradio's own (`server_port=7861`, `share=True`)."""
    torch.set_num_threads(1)  # visitors share the cores; threads within one's step would wait for each other
    # Gradio's statistics of its API, made anew of all calls after each call, take longer than hearing a piece.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "100")  # calls
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1000")
    page = build_demo(recognizer, classifier, language_model).queue(max_size=MAX_WAITING, default_concurrency_limit=2)
    page.launch(
        max_file_size=MAX_FILE_SIZE,
        state_session_capacity=MAX_SESSIONS,
        theme=gr.themes.Soft(font=FONT, font_mono=["ui-monospace", "monospace"]),
        css_paths=PAGE / "style.css",
        head_paths=PAGE / "head.html",
        footer_links=["api", "gradio"],
        **options,
    )


def _speak_tab(recognizer, say: str) -> None:
    gr.Markdown(
        f"{summary_of(recognizer)} {say}\n\n"
        "Press *Record* and speak. Words that stand there are final; the paler end is still being heard."
    )

    def stream() -> StreamingRecognizer:
        return StreamingRecognizer(recognizer.model, recognizer)

    microphones = Microphones(stream)

    def hear(piece: dict) -> dict:  # a function of its own, since Gradio marks what its pages may call
        return microphones.hear(piece)

    gr.HTML(
        html_template=_asset("microphone.html"),
        js_on_load=_asset("microphone.js"),
        server_functions=[hear],
        elem_id="microphone",
    )

    def listen(path: str, listener: Listener | None):
        listener = listener or Listener(stream())
        try:
            for samples, rate in decoded_blocks(path):
                listener.hear(samples, rate)
        except ValueError as error:
            raise _refusal(error) from None
        return _heard(listener), listener

    def listen_end(listener: Listener | None):
        if listener is not None and not listener.is_over:
            listener.end()
        return _heard(listener), None

    state = gr.State(None, time_to_live=SECONDS_KEPT)
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


def _file_tab(recognizer, decoder: BeamSearchDecoder | None, examples: list[str]) -> None:
    audio = _recording("Recording", "recording", examples)
    shown = gr.HTML(hint("The words will stand here; press one to hear it."), elem_id="text")
    with gr.Row(elem_id="downloads"):
        copy = gr.Button("Copy text", size="sm", visible=False)
        downloads = [gr.DownloadButton(f"Download .{kind}", size="sm", visible=False) for kind in (*SUBTITLES, "json")]
    copy.click(None, None, copy, js=COPY)

    def show(path: str | None):
        if path is None:
            return [hint(""), gr.Button(visible=False), *[gr.DownloadButton(visible=False)] * len(downloads)]
        transcript = _transcribe(recognizer, decoder, path)
        contents = {kind: write(transcript.words) for kind, write in SUBTITLES.items()}
        contents["json"] = json.dumps(_as_json(transcript), ensure_ascii=False, indent=2)
        folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
        files = []
        for kind, content in contents.items():
            file = folder / f"{Path(path).stem}.{kind}"
            file.write_text(content, encoding="utf-8")
            files.append(gr.DownloadButton(value=str(file), visible=True))
        return [words_as_html(transcript.words), gr.Button("Copy text", visible=bool(transcript.words)), *files]

    def answered(path: str) -> dict[str, Any]:
        transcript = _transcribe(recognizer, decoder, path)
        return _as_json(transcript) | {kind: write(transcript.words) for kind, write in SUBTITLES.items()}

    # A search does one thing at a time.
    limit: dict[str, Any] = {"concurrency_id": "transcribe", "concurrency_limit": 2 if decoder is None else 1}
    audio.change(show, audio, [shown, copy, *downloads], api_visibility="private", **limit)
    about = "A recording → its text, words with times and confidence, and subtitles."
    _endpoint(answered, audio, "transcribe", about, **limit)


def _commands_tab(classifier, examples: list[str]) -> None:
    known = ", ".join(sorted(label for label in classifier.model.config.id2label.values() if label not in READABLE))
    gr.Markdown(f"Say one of these words: {textwrap.shorten(known, 200, placeholder=' …')}.")
    audio = _recording("One word", "command", examples, is_spoken=True)
    label = gr.Label(num_top_classes=5, label="Heard", elem_id="label")
    doubt = gr.HTML(elem_id="doubt")

    def name(path: str | None) -> tuple[dict[str, float] | None, str]:
        return (None, "") if path is None else named_labels(_classify(classifier, path))

    def answered(path: str) -> dict[str, Any]:
        result = _classify(classifier, path)
        confidences = [{"label": item["label"], "confidence": item["score"]} for item in result.labels]
        return {"label": result.labels[0]["label"], "is_confident": result.is_confident, "confidences": confidences}

    audio.change(name, audio, [label, doubt], api_visibility="private")
    about = "A clip of one word → its label, whether the model is sure, and the probability of each label."
    _endpoint(answered, audio, "classify", about)


def _inside_tab(recognizer, examples: list[str]) -> None:
    gr.Markdown(
        "What the model sees, and what it makes of it: the energy of each pitch over time, the probability of each "
        f"character, and where the text puts them. The first {INSIDE_SECONDS} seconds are drawn."
    )
    audio = _recording("Recording", "inside", examples)
    drawing = gr.HTML(elem_id="plot")

    def look(path: str | None) -> str:
        if path is None:
            return ""
        svg = as_svg(draw_inside(recognizer, _read(recognizer, path)), "Energy and probability of characters over time")
        return f'<div class="inside" tabindex="0">{svg}</div>'

    audio.change(
        look, audio, drawing, api_name="inside", api_description="A recording → what the model sees and thinks, as SVG."
    )


def _endpoint(answer: Callable[[str], dict], audio: gr.Audio, name: str, description: str, **limits) -> None:
    """What programs call with a recording, and the page itself does not."""
    hidden = gr.JSON(visible=False)
    gr.Button(visible=False).click(answer, audio, hidden, api_name=name, api_description=description, **limits)


def _recording(label: str, elem_id: str, examples: list[str], is_spoken: bool = False) -> gr.Audio:
    """
    A recording in the browser's own player, which plays a word that is pressed (head.html), and clips to try by what
    they are: of command-left.opus that is "Left", without its corpus.
    """
    audio = gr.Audio(
        sources=["microphone", "upload"] if is_spoken else ["upload", "microphone"],
        type="filepath",
        label=label,
        elem_id=elem_id,
        waveform_options=gr.WaveformOptions(show_recording_waveform=False),
    )
    if examples:
        labels = [Path(path).stem.partition("-")[2].replace("-", " ").capitalize() for path in examples]
        gr.Examples(examples, audio, label="Examples", example_labels=labels)
    return audio


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
        raise _refusal(error) from None


def _transcribe(recognizer, decoder: BeamSearchDecoder | None, path: str) -> Transcript:
    try:
        _check_length(path)
    except AudioError as error:
        raise _refusal(error) from None
    (transcript,) = transcribe([path], recognizer, word_times=True, decoder=decoder)
    if transcript.error is not None:
        raise _refusal(transcript.error)
    return transcript


def _classify(classifier, path: str) -> Classification:
    (result,) = classify([path], classifier, top_k=None)
    if result.error is not None:
        raise _refusal(result.error)
    return result


def _check_length(path: str) -> None:
    """By what there is to be heard: a header may claim anything."""
    seconds = 0.0
    for samples, rate in decoded_blocks(path):
        seconds += len(samples) / rate
        if seconds > MAX_FILE_SECONDS:
            raise AudioError(f"{path}: expected at most {MAX_FILE_SECONDS // 60} minutes here, got more")


def _refusal(error: Exception | str) -> gr.Error:
    """
    What a visitor reads, who need not know where the server keeps uploads; the server's log needs no traceback of it.
    """
    source, colon, reason = str(error).partition(": ")
    return gr.Error(f"{Path(source).name}{colon}{reason}", print_exception=False)


def _as_json(transcript: Transcript) -> dict[str, Any]:
    return {"text": transcript.text, "duration": transcript.duration, "words": [asdict(w) for w in transcript.words]}


def _asset(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


__all__ = ["build_demo", "launch"]
