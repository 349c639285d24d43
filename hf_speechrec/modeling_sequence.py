"""What both model families need of sequences: lengths, masks, and recurrence that padding cannot change.

This file travels to the Hub beside the weights: it may import torch, transformers and numpy only.
"""

import torch
from torch import nn


def lengths_from_mask(attention_mask: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
    """Valid frames of each row of `inputs` (batch, frames, …); all of them where there is no mask. (batch,)"""
    if attention_mask is None:
        return torch.full((inputs.shape[0],), inputs.shape[1], device=inputs.device)
    return attention_mask.long().sum(-1)


def mask_from_lengths(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    """True for valid frames. (batch, frames)"""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def reverse_by_length(inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """
    Turn the valid frames of each row round and leave its padding where it is.

    A backward recurrence over the result starts at each row's own last frame. Packing would do the same, but is
    slow on a CPU and cannot be exported.

    Args:
        inputs: (batch, frames, features)
        lengths: (batch,)
    """
    frames = torch.arange(inputs.shape[1], device=inputs.device)
    mirrored = lengths[:, None] - 1 - frames  # negative in the padding
    index = torch.where(mirrored >= 0, mirrored, frames)
    return inputs.gather(1, index[..., None].expand_as(inputs))


class BidirectionalGRU(nn.Module):
    """
    One bidirectional GRU layer over valid frames only: (batch, frames, input_size) → (batch, frames, 2 * hidden_size).

    Outputs of padded frames carry no meaning, and no valid frame depends on them.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.forward_gru = nn.GRU(input_size, hidden_size, batch_first=True)
        self.backward_gru = nn.GRU(input_size, hidden_size, batch_first=True)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        forward_states, _ = self.forward_gru(inputs)
        backward_states, _ = self.backward_gru(reverse_by_length(inputs, lengths))
        return torch.cat([forward_states, reverse_by_length(backward_states, lengths)], dim=-1)
