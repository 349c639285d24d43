"""Configuration of the ResNet + BiGRU recogniser.

This file travels to the Hub beside the weights: it may import torch, transformers and numpy only.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# A file could make a model that takes hours to be built, or all memory there is.
MAX_LAYERS = 100
MAX_CHUNK = 10_000  # logit frames


@strict
class ResNetBiGruConfig(PreTrainedConfig):
    r"""
    Configuration of [`ResNetBiGruForCTC`]. The defaults make a recogniser of some 2 M parameters that trains on a
    laptop. The original write-up's sizes (24,726,205 parameters) are `num_mel_bins=128, conv_channels=32,
    share_block_layers=True, time_reduction=1, frequency_reduction=1, hidden_size=512, num_hidden_layers=5,
    vocab_size=29`.

    Args:
        vocab_size (`int`, defaults to 32): number of CTC classes, the blank (`pad_token_id`) among them.
        num_mel_bins (`int`, defaults to 80): mel bins of a frame, the extractor's `feature_size`.
        hop_length (`int`, defaults to 160): samples a frame, the extractor's `hop_length`; it makes
            `inputs_to_logits_ratio`.
        conv_channels (`int`, defaults to 32): channels of every convolution.
        num_residual_blocks (`int`, defaults to 3): residual convolution blocks.
        share_block_layers (`bool`, defaults to `False`): each block applies one norm and one convolution twice, as the
            write-up's code does, instead of two of each.
        time_reduction (`int`, defaults to 4): frames for each logit frame: 1, 2 or 4.
        frequency_reduction (`int`, defaults to 2): stride of the first convolution along the mel bins: 1 or 2.
        hidden_size (`int`, defaults to 192): units of each direction of a GRU.
        num_hidden_layers (`int`, defaults to 3): bidirectional GRU layers.
        conv_dropout, hidden_dropout, classifier_dropout (`float`): dropout in the blocks, after each GRU layer, and
            in the classifier.
        chunk_frames (`int`, defaults to 0): logit frames of a chunk, at whose end (and look-ahead) the backward GRUs
            start anew, so that text can be written while somebody speaks; 0 is the context of the whole utterance.
        lookahead_frames (`int`, defaults to 0): logit frames after a chunk that its backward GRUs may see.
        chunked_training_probability (`float`, defaults to 0.5): share of training batches that are run in chunks of a
            random size, so that one checkpoint serves whole utterances and streams.
        ctc_loss_reduction (`str`, defaults to `"mean"`): `"mean"` divides each loss by its number of labels, `"sum"`
            does not.
        ctc_zero_infinity (`bool`, defaults to `True`): an utterance with more labels than frames allow counts as
            zero loss rather than infinite.
        phones (`list[str]`, *optional*): classes of a second head beside its blank, class 0: the phones of a lexicon.
            It learns how words sound, which is easier than how they are spelled: a language model finds words through
            it.
        phone_loss_weight (`float`, defaults to 0.5): share of the second head in the loss.
        text_normalizer (`dict`, *optional*): the policy that training transcripts were normalised by
            (`hf_speechrec.TextNormalizer`), to be applied to references when scoring.
    """

    model_type = "resnet_bigru"
    keys_to_ignore_at_inference = ["phone_logits"]  # noqa: RUF012  transformers declares it so

    vocab_size: int = 32
    num_mel_bins: int = 80
    hop_length: int = 160
    conv_channels: int = 32
    num_residual_blocks: int = 3
    share_block_layers: bool = False
    time_reduction: int = 4
    frequency_reduction: int = 2
    hidden_size: int = 192
    num_hidden_layers: int = 3
    conv_dropout: float | int = 0.1
    hidden_dropout: float | int = 0.2
    classifier_dropout: float | int = 0.2
    chunk_frames: int = 0
    lookahead_frames: int = 0
    chunked_training_probability: float | int = 0.5
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = True
    phones: list[str] | None = None
    phone_loss_weight: float | int = 0.5
    text_normalizer: dict[str, Any] | None = None
    pad_token_id: int | None = 0

    def validate_architecture(self):
        """Part of `@strict`'s validation."""
        allowed = {"time_reduction": (1, 2, 4), "frequency_reduction": (1, 2), "ctc_loss_reduction": ("mean", "sum")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"expected {name} to be one of {values}, got {getattr(self, name)!r}")
        for name in ("vocab_size", "num_mel_bins", "hop_length", "conv_channels", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        for name in ("num_residual_blocks", "chunk_frames", "lookahead_frames"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} to be at least 0, got {getattr(self, name)}")
        largest = dict.fromkeys(("num_residual_blocks", "num_hidden_layers"), MAX_LAYERS)
        for name, limit in (largest | dict.fromkeys(("chunk_frames", "lookahead_frames"), MAX_CHUNK)).items():
            if getattr(self, name) > limit:
                raise ValueError(f"expected {name} to be at most {limit}, got {getattr(self, name)}")
        for name in ("chunked_training_probability", "phone_loss_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} to be in [0, 1], got {getattr(self, name)}")
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"expected pad_token_id to be the blank among {self.vocab_size} classes, got {self.pad_token_id}"
            )

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples for each logit frame: an utterance of `n` samples has `ceil(n / ratio)` logit frames."""
        return self.hop_length * self.time_reduction


__all__ = ["ResNetBiGruConfig"]
