"""ResNet + BiGRU recogniser with a CTC head.

This file travels to the Hub beside the weights: it may import torch, transformers and numpy only.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput

from .configuration_resnet_bigru import ResNetBiGruConfig
from .modeling_sequence import (
    BidirectionalGRU,
    join_windows,
    lengths_from_mask,
    mask_from_lengths,
    split_windows,
)

BLANK_MARGIN = 8192.0  # log-odds of the blank in padded frames; float16 and bfloat16 hold it exactly
# Frames that are flat over the mel bins (masked by SpecAugment, digital silence) have no variance: at the usual 1e-5
# a LayerNorm multiplies their gradient by 300, and two in a row drown what the rest of the batch has to say.
NORM_EPS = 0.1
TRAINING_CHUNKS = (4, 32)  # logit frames: 160 ms to 1.28 s after a 4-fold time reduction
TRAINING_LOOKAHEAD = 6  # logit frames that are drawn at the most where half a chunk is less


@dataclass
class PhoneticCTCOutput(CausalLMOutput):
    """`CausalLMOutput` with the logits of a second head, where the model has one: (batch, frames', 1 + phones)."""

    phone_logits: torch.Tensor | None = None


def padding_mask(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    """
    True for padded frames: (batch, 1, frames, 1), to zero them in maps of (batch, channels, frames, mels).

    A convolution reaches across the end of an utterance: without zeros there, its last frames would depend on who
    shares the batch (the idea is deepspeech.pytorch's `MaskConv`). `masked_fill` does it, since a product would leave
    NaN and infinity standing.
    """
    return ~mask_from_lengths(lengths, frames)[:, None, :, None]


class ResidualBlock(nn.Module):
    """Twice LayerNorm over the mel bins, GELU, dropout and 3 × 3 convolution, around which the input is added."""

    def __init__(self, config: ResNetBiGruConfig, num_bins: int):
        super().__init__()
        layers = 1 if config.share_block_layers else 2
        channels = config.conv_channels
        self.layer_norms = nn.ModuleList(nn.LayerNorm(num_bins, eps=NORM_EPS) for _ in range(layers))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers))
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(config.conv_dropout)

    def forward(self, hidden_states: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames, mels), with `padding_mask`."""
        residual = hidden_states
        for i in (0, -1):  # the same layer twice where layers are shared
            hidden_states = self.dropout(self.activation(self.layer_norms[i](hidden_states)))
            hidden_states = self.convs[i](hidden_states.masked_fill(padding, 0.0))
        return residual + hidden_states


class ResNetEncoder(nn.Module):
    """Log-mel frames → convolution → residual blocks → linear: (batch, frames, mels) → (batch, frames', hidden)."""

    def __init__(self, config: ResNetBiGruConfig):
        super().__init__()
        # Half of a 4-fold reduction comes late, by joining neighbouring frames before the linear layer: the blocks
        # see 20 ms frames, which keeps plosives apart, and look less far ahead than at 40 ms.
        self.conv_stride = min(config.time_reduction, 2)
        self.stacked_frames = config.time_reduction // self.conv_stride
        num_bins = -(-config.num_mel_bins // config.frequency_reduction)
        stride = (self.conv_stride, config.frequency_reduction)
        self.conv = nn.Conv2d(1, config.conv_channels, 3, stride=stride, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(config, num_bins) for _ in range(config.num_residual_blocks))
        self.linear = nn.Linear(config.conv_channels * num_bins * self.stacked_frames, config.hidden_size)

    def forward(self, input_features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the frames and their number in each row, `ceil(lengths / time_reduction)`."""
        padding = padding_mask(lengths, input_features.shape[1])
        hidden_states = self.conv(input_features[:, None].masked_fill(padding, 0.0))
        lengths = -(-lengths // self.conv_stride)
        padding = padding_mask(lengths, hidden_states.shape[2])
        for block in self.blocks:
            hidden_states = block(hidden_states, padding)
        hidden_states = hidden_states.masked_fill(padding, 0.0)  # the last joined frame may be half padding
        hidden_states = hidden_states.transpose(1, 2).flatten(2)  # (batch, frames, channels * mels)
        odd = -hidden_states.shape[1] % self.stacked_frames
        hidden_states = nn.functional.pad(hidden_states, (0, 0, 0, odd)).unflatten(1, (-1, self.stacked_frames))
        return self.linear(hidden_states.flatten(2)), -(-lengths // self.stacked_frames)


class BiGruLayer(nn.Module):
    """LayerNorm, GELU, bidirectional GRU, dropout."""

    def __init__(self, config: ResNetBiGruConfig, input_size: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(input_size)
        self.activation = nn.GELU()
        self.gru = BidirectionalGRU(input_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.gru(self.activation(self.layer_norm(hidden_states)), lengths))

    def forward_windows(
        self, windows: torch.Tensor, lengths: torch.Tensor, chunk_frames: int, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BidirectionalGRU.forward_windows`."""
        inputs = self.activation(self.layer_norm(windows))
        windows, state = self.gru.forward_windows(inputs, lengths, chunk_frames, state)
        return self.dropout(windows), state


class ResNetBiGruForCTC(PreTrainedModel):
    """Speech recogniser: log-mel frames to CTC logits. See [`ResNetBiGruConfig`]."""

    config: ResNetBiGruConfig
    config_class = ResNetBiGruConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"

    def __init__(self, config: ResNetBiGruConfig):
        super().__init__(config)
        self.blank_token_id = config.pad_token_id or 0
        width = 2 * config.hidden_size
        self.encoder = ResNetEncoder(config)
        self.gru_layers = nn.ModuleList(
            BiGruLayer(config, config.hidden_size if i == 0 else width) for i in range(config.num_hidden_layers)
        )
        self.classifier = self.new_head(config.vocab_size)
        self.phone_classifier = self.new_head(1 + len(config.phones)) if config.phones else None
        self.post_init()

    def new_head(self, classes: int) -> nn.Sequential:
        """Linear to half, GELU, dropout, linear: (…, 2 * hidden) → (…, classes)"""
        size = self.config.hidden_size
        dropout = nn.Dropout(self.config.classifier_dropout)
        return nn.Sequential(nn.Linear(2 * size, size), nn.GELU(), dropout, nn.Linear(size, classes))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """transformers' own leaves GRUs alone and draws convolutions from normal(0, 0.02), which is far too small."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            bound = module.weight[0].numel() ** -0.5
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.GRU):
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    init.zeros_(parameter)
                    continue
                # Input weights by Glorot, recurrent ones orthogonal (Saxe et al., 2014), each gate by itself.
                for gate in parameter.chunk(3):
                    (init.xavier_uniform_ if "_ih_" in name else init.orthogonal_)(gate)
        else:
            super()._init_weights(module)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        chunk_frames: int | None = None,
        lookahead_frames: int | None = None,
        return_dict: bool | None = None,
        phone_ids: torch.Tensor | None = None,
    ) -> PhoneticCTCOutput | tuple:
        """
        Args:
            input_features: log-mel frames (batch, frames, mels).
            attention_mask: 1 for valid frames, 0 for padding (batch, frames); all are valid without it.
            labels: token ids (batch, labels), padded with -100.
            chunk_frames: logit frames of a chunk; 0 for the whole utterance. By default the config's, and in training,
                by its `chunked_training_probability`, of random size.
            lookahead_frames: logit frames after a chunk that its frames may depend on; by default 0 where
                `chunk_frames` is given, else the config's.
            phone_ids: phones, 1 for the first of the config's (batch, phones), padded with -100; a row of nothing else
                has unknown ones. (Not called labels: a Trainer would want them in every batch.)

        Returns:
            `logits` (batch, frames', vocab), with `frames' = ceil(frames / time_reduction)`; padded frames are
            blanks, so that they decode to nothing. `phone_logits` where the config has phones. `loss` where labels are
            given: CTC (Graves et al., 2006), and of both heads where there are labels for both.
        """
        lengths = lengths_from_mask(attention_mask, input_features)
        hidden_states, lengths = self.encode(input_features, lengths)
        if chunk_frames is None:
            chunk_frames, default_lookahead = self.draw_context()
            lookahead_frames = default_lookahead if lookahead_frames is None else lookahead_frames
        if chunk_frames:
            frames = hidden_states.shape[1]
            windows, window_lengths = split_windows(hidden_states, lengths, chunk_frames, lookahead_frames or 0)
            windows, _ = self.recur(windows, window_lengths, chunk_frames, self.initial_states(len(hidden_states)))
            hidden_states = join_windows(windows, len(hidden_states), chunk_frames)[:, :frames]
        else:
            for layer in self.gru_layers:
                hidden_states = layer(hidden_states, lengths)
        logits, phone_logits = self.classify(hidden_states, lengths)

        loss = None if labels is None else self.ctc_loss(logits, lengths, labels, self.blank_token_id)
        if loss is not None and phone_ids is not None and phone_logits is not None:
            known = (phone_ids >= 0).any(-1)
            phone_loss = 0 * phone_logits.sum()  # so that every parameter has a gradient in every step
            if known.any():
                phone_loss = self.ctc_loss(phone_logits[known], lengths[known], phone_ids[known], blank=0)
            loss = loss.lerp(phone_loss, self.config.phone_loss_weight)
        output = PhoneticCTCOutput(loss=loss, logits=logits, phone_logits=phone_logits)
        return output.to_tuple() if return_dict is False else output

    def encode(self, input_features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the encoder makes of a batch, see `ResNetEncoder.forward`."""
        if torch.is_grad_enabled() or input_features.device.type != "cpu":
            return self.encoder(input_features, lengths)
        # Row by row a CPU is as quick, spares the padding, and holds the maps of one utterance rather than of all.
        rows = [
            self.encoder(features[None, : max(1, int(length))], length[None])
            for features, length in zip(input_features, lengths, strict=True)
        ]
        hidden_states = pad_sequence([row[0] for row, _ in rows], batch_first=True)
        frames = -(-input_features.shape[1] // self.config.time_reduction)
        missing = frames - hidden_states.shape[1]
        return nn.functional.pad(hidden_states, (0, 0, 0, missing)), torch.cat([length for _, length in rows])

    def draw_context(self) -> tuple[int, int]:
        """Chunk and look-ahead where the caller leaves them open: the config's, random ones in training."""
        if self.training and torch.rand(()) < self.config.chunked_training_probability:
            # As many small chunks as large ones: they are the harder ones. The look-ahead may reach a little beyond
            # half of a small chunk, which is dearer, but says more of what comes next.
            low, high = TRAINING_CHUNKS
            chunk_frames = round(low * (high / low) ** float(torch.rand(())))
            return chunk_frames, int(torch.randint(max(chunk_frames // 2, TRAINING_LOOKAHEAD) + 1, ()))
        return (0, 0) if self.training else (self.config.chunk_frames, self.config.lookahead_frames)

    def initial_states(self, batch_size: int) -> list[torch.Tensor]:
        """Forward state of each GRU layer before the first chunk: zeros (1, batch, hidden)."""
        return [
            torch.zeros(1, batch_size, self.config.hidden_size, device=self.device, dtype=self.dtype)
            for _ in self.gru_layers
        ]

    def recur(
        self, windows: torch.Tensor, lengths: torch.Tensor, chunk_frames: int, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        All GRU layers over the encoder's output in windows (batch * chunks, window, hidden), with the forward states
        of each layer before and after; see `BidirectionalGRU.forward_windows`.
        """
        after = []
        for layer, before in zip(self.gru_layers, states, strict=True):
            windows, state = cast(BiGruLayer, layer).forward_windows(windows, lengths, chunk_frames, before)
            after.append(state)
        return windows, after

    def classify(self, hidden_states: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The last GRU's output (batch, frames', 2 * hidden) → logits of both heads; blanks in padded frames."""
        padding = ~mask_from_lengths(lengths, hidden_states.shape[1])[..., None]

        def with_blanks(logits: torch.Tensor, blank_id: int) -> torch.Tensor:
            blank = torch.eq(torch.arange(logits.shape[2], device=logits.device), blank_id)
            return torch.where(padding, BLANK_MARGIN * blank.to(logits.dtype), logits)

        logits = with_blanks(self.classifier(hidden_states), self.blank_token_id)
        if self.phone_classifier is None:
            return logits, None
        return logits, with_blanks(self.phone_classifier(hidden_states), 0)

    def recognize_window(
        self, window: torch.Tensor, chunk_frames: int, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        One window of a stream: the encoder's output for a chunk and what may be seen behind it (1, window, hidden), and
        the forward states before it → logits of the chunk (frames, vocab), and the states after it. Only the last
        window of a stream may be shorter than its chunk.
        """
        frames = window.shape[1]
        padding = max(0, chunk_frames - frames)
        window = nn.functional.pad(window, (0, 0, 0, padding))
        lengths = torch.tensor([frames], device=window.device)
        hidden_states, states = self.recur(window, lengths, chunk_frames, states)
        return self.classifier(hidden_states[0, : min(chunk_frames, frames)]), states

    def ctc_loss(self, logits: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, blank: int) -> torch.Tensor:
        """Scalar CTC loss of logits (batch, frames', vocab) whose first `lengths` (batch,) frames are valid."""
        # In float32 outside autocast: a sum of exponentials over hundreds of frames does not survive half precision.
        with torch.autocast(device_type=logits.device.type, enabled=False):
            log_probs = logits.float().log_softmax(-1).transpose(0, 1)
            is_label = labels >= 0
            return nn.functional.ctc_loss(
                log_probs,
                labels.masked_select(is_label),
                lengths,
                is_label.sum(-1),
                blank=blank,
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )


__all__ = ["ResNetBiGruForCTC"]
