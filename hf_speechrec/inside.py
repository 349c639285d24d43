"""What a recogniser sees and what it thinks, drawn."""

import html
import io
import math
import re
from collections.abc import Iterable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from transformers.audio_utils import hertz_to_mel

from .alignment import Word, align
from .decoding import GreedyDecoder
from .segmentation import cut_at_silences
from .transcription import frame_seconds, segment_log_probs

INSIDE_SECONDS = 10  # of a recording that are drawn
LEAST_PROBABILITY = 0.1  # of a character that gets a line of its own
LETTER_SIZE = 9  # points, of words and of the text's characters
LETTER_SHARE = 0.012  # of the drawing's width that such a letter takes
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000)  # Hz
LOWEST = 20.0  # Hz, where the feature extractor's bins begin
LINE = "tab:orange"
# From nothing at all to a blue that can be seen on white and on black.
PROBABILITY = LinearSegmentedColormap.from_list("probability", [(0.39, 0.4, 0.95, 0.0), (0.39, 0.4, 0.95, 1.0)])


def draw_inside(recognizer, samples: np.ndarray) -> Figure:
    """
    Log-mel energies and CTC posteriors of the first ten seconds of samples (samples,) at the model's rate, over the
    characters of the text. The first column of axes holds those three, the second their keys.
    """
    extractor, tokenizer = recognizer.feature_extractor, recognizer.tokenizer
    rate, seconds = extractor.sampling_rate, frame_seconds(recognizer)
    samples = samples[: INSIDE_SECONDS * rate]
    features = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features[0]  # (frames, mels)
    segments = list(cut_at_silences([samples], rate, recognizer.model.config.inputs_to_logits_ratio))
    (log_probs,) = segment_log_probs(segments, recognizer)
    words = align(log_probs, GreedyDecoder(tokenizer)(log_probs), tokenizer, seconds)
    duration = len(samples) / rate

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(3, 2, sharex="col", width_ratios=(1, 0.015), height_ratios=(5, 5, 0.4))
    (energy, energy_key), (posterior, posterior_key), (text, nothing) = axes
    nothing.set_axis_off()
    _draw_energy(energy, features, duration, rate)
    figure.colorbar(energy.images[0], cax=energy_key, label="energy (standard deviations)")
    _draw_posterior(posterior, log_probs.exp(), tokenizer, seconds)
    figure.colorbar(posterior.images[0], cax=posterior_key, label="probability")
    for word in words:
        energy.axvline(word.start, color=LINE, linewidth=0.8)
        posterior.axvline(word.start, color=LINE, linewidth=0.8)
    for start, label in _apart(((word.start, f"{word.word} ") for word in words), duration):
        energy.text(start, features.shape[1] * 1.02, label.strip(), fontsize=LETTER_SIZE)
    _draw_text(text, words, duration)
    text.set_xlim(0, duration)
    return figure


def as_svg(figure: Figure, description: str) -> str:
    """A figure as an element of a page, with letters and lines in the colour of the page's own text, light or dark."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    # Without the prologue of a file, and the style, which would be the page's. Letters have no colour, lines are black.
    svg = re.sub(r"^.*?(?=<svg)|<style.*?</style>", "", file.getvalue(), flags=re.DOTALL)
    svg = svg.replace("#000000", "currentColor").replace("xlink:href", "href")
    return svg.replace("<svg", f'<svg role="img" fill="currentColor" aria-label="{html.escape(description)}"', 1)


def _draw_energy(axis: Axes, features: torch.Tensor, duration: float, rate: int) -> None:
    bins = features.shape[1]
    extent = (0, duration, 0, bins)
    axis.imshow(features.T.numpy(), origin="lower", aspect="auto", cmap="magma", extent=extent, interpolation="none")
    # The bins' triangles overlap: their tops divide the mel axis into one part more than there are bins.
    lowest, highest = _mel(LOWEST), _mel(rate / 2)
    places = {hertz: (_mel(hertz) - lowest) / (highest - lowest) * (bins + 1) - 0.5 for hertz in TICKS}
    shown = {str(hertz): min(place, bins) for hertz, place in places.items() if hertz <= rate / 2}
    axis.set_yticks(list(shown.values()), list(shown))
    axis.set_ylabel("Hz")


def _mel(hertz: float) -> float:
    """As the feature extractor's bins are laid out."""
    return float(hertz_to_mel(hertz, mel_scale="htk"))


def _draw_posterior(axis: Axes, probabilities: torch.Tensor, tokenizer, seconds: float) -> None:
    """Of each character that is thought of: (frames, vocab)."""
    likely = (probabilities.max(0).values > LEAST_PROBABILITY).nonzero().flatten().tolist()
    seen = [i for i in likely if i != tokenizer.pad_token_id]
    axis.imshow(
        (probabilities[:, seen].T if seen else torch.zeros(1, len(probabilities))).numpy(),
        origin="lower",
        aspect="auto",
        cmap=PROBABILITY,
        vmin=0,
        vmax=1,
        extent=(0, len(probabilities) * seconds, -0.5, max(len(seen), 1) - 0.5),
        interpolation="none",
    )
    delimiter = tokenizer.word_delimiter_token_id
    names = ["space" if i == delimiter else tokenizer.convert_ids_to_tokens(i) for i in seen]
    axis.set_yticks(range(len(seen)), names)
    axis.set_ylabel("character")


def _draw_text(axis: Axes, words: list[Word], duration: float) -> None:
    """The characters of the text, where it puts them."""
    characters = [character for word in words for character in word.characters]
    middles = (((character.start + character.end) / 2, character.character) for character in characters)
    for middle, label in _apart(middles, duration):
        axis.text(middle, 0.5, label, ha="center", va="center", fontsize=LETTER_SIZE)
    axis.spines[:].set_visible(False)
    axis.set_yticks([0.5], ["text"])
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("seconds")


def _apart(labels: Iterable[tuple[float, str]], duration: float) -> list[tuple[float, str]]:
    """Those of the labels (place in seconds, text), in order, that do not stand on one another."""
    shown, free = [], -math.inf
    for place, label in labels:
        if place >= free:
            shown.append((place, label))
            free = place + len(label) * LETTER_SHARE * duration
    return shown


__all__ = ["INSIDE_SECONDS", "as_svg", "draw_inside"]
