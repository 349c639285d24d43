"""Configuration of the BiLSTM classifier.

This file travels to the Hub beside the weights: it may import torch, transformers and numpy only.
"""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

MAX_LAYERS = 100  # a file could make a model that takes hours to be built


@strict
class BiLstmConfig(PreTrainedConfig):
    r"""
    Configuration of [`BiLstmForAudioClassification`]. The number of classes and their names are transformers' own
    `num_labels`, `id2label` and `label2id`.

    Args:
        input_size (`int`, defaults to 80): features of a frame, the extractor's `feature_size`.
        hidden_size (`int`, defaults to 128): units of each direction of an LSTM layer.
        num_hidden_layers (`int`, defaults to 2): bidirectional LSTM layers.
        pooling (`str`, defaults to `"max"`): how the frames of an utterance become one vector: their `"mean"`, their
            `"max"`, or `"last"`, each direction's final state.
        dropout (`float`, defaults to 0.2): between the LSTM layers and before the classifier.
        label_smoothing (`float`, defaults to 0.0): share of the target that is spread over all classes in training.
        confidence_threshold (`float`, *optional*): probability under which the best class is not to be believed,
            chosen on held-out speakers.
    """

    model_type = "bilstm"

    input_size: int = 80
    hidden_size: int = 128
    num_hidden_layers: int = 2
    pooling: str = "max"
    dropout: float | int = 0.2
    label_smoothing: float | int = 0.0
    confidence_threshold: float | int | None = None

    def validate_architecture(self):
        """Part of `@strict`'s validation."""
        if self.pooling not in ("mean", "max", "last"):
            raise ValueError(f"expected pooling to be 'mean', 'max' or 'last', got {self.pooling!r}")
        for name in ("input_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"expected num_hidden_layers to be at most {MAX_LAYERS}, got {self.num_hidden_layers}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"expected label_smoothing to be in [0, 1), got {self.label_smoothing}")


__all__ = ["BiLstmConfig"]
