"""What a recogniser sees and what it thinks, drawn."""

import numpy as np
import torch
from matplotlib.figure import Figure

from .alignment import align
from .decoding import GreedyDecoder
from .segmentation import cut_at_silences
from .transcription import frame_seconds, segment_log_probs

INSIDE_SECONDS = 10  # of a recording that are drawn


def draw_inside(recognizer, samples: np.ndarray) -> Figure:
    """Log-mel energies and CTC posteriors of the first ten seconds of samples (samples,) at the model's rate."""
    extractor, tokenizer = recognizer.feature_extractor, recognizer.tokenizer
    rate, seconds = extractor.sampling_rate, frame_seconds(recognizer)
    samples = samples[: INSIDE_SECONDS * rate]
    features = extractor(samples, sampling_rate=rate, return_tensors="pt").input_features[0]  # (frames, mels)
    segments = list(cut_at_silences([samples], rate, recognizer.model.config.inputs_to_logits_ratio))
    (log_probs,) = segment_log_probs(segments, recognizer)
    words = align(log_probs, GreedyDecoder(tokenizer)(log_probs), tokenizer, seconds)
    probabilities = log_probs.exp()
    seen = [i for i in (probabilities.max(0).values > 0.1).nonzero().flatten().tolist() if i != tokenizer.pad_token_id]
    duration = len(samples) / rate

    figure = Figure(figsize=(9, 5.4), layout="constrained")
    mel, posterior = figure.subplots(2, 1, sharex=True)
    mel.imshow(features.T, origin="lower", aspect="auto", cmap="magma", extent=(0, duration, 0, features.shape[1]))
    mel.set_ylabel("mel bin")
    extent = (0, len(log_probs) * seconds, -0.5, max(len(seen), 1) - 0.5)
    posterior.imshow(
        probabilities[:, seen].T if seen else torch.zeros(1, len(log_probs)),
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=extent,
    )
    delimiter = tokenizer.word_delimiter_token_id
    names = ["space" if i == delimiter else tokenizer.convert_ids_to_tokens(i) for i in seen]
    posterior.set_yticks(range(len(seen)), names, fontsize=8)
    posterior.set_xlabel("seconds")
    posterior.set_ylabel("character")
    for word in words:
        for axis in (mel, posterior):
            axis.axvline(word.start, color="tab:orange", linewidth=0.8)
        mel.text(word.start, features.shape[1] * 1.02, word.word, fontsize=9, color="tab:orange")
    return figure


__all__ = ["INSIDE_SECONDS", "draw_inside"]
