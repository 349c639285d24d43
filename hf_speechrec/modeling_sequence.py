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


def split_windows(
    inputs: torch.Tensor, lengths: torch.Tensor, chunk_frames: int, lookahead_frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cut each row into chunks, each with the frames that follow it: what a latency-controlled recurrence may see.

    Args:
        inputs: (batch, frames, features)
        lengths: (batch,)

    Returns:
        Windows (batch * chunks, chunk_frames + lookahead_frames, features), those of a row one after another, and
        their valid frames (batch * chunks,), which may be 0.

    Raises:
        ValueError: for a chunk of no frames or a negative look-ahead.
    """
    if chunk_frames < 1 or lookahead_frames < 0:
        raise ValueError(
            f"expected a chunk of frames and no negative look-ahead, got {chunk_frames}, {lookahead_frames}"
        )
    frames = inputs.shape[1]
    chunks = -(-frames // chunk_frames)
    size = chunk_frames + lookahead_frames
    padded = nn.functional.pad(inputs, (0, 0, 0, (chunks - 1) * chunk_frames + size - frames))
    windows = padded.unfold(1, size, chunk_frames).flatten(0, 1).transpose(1, 2)
    starts = torch.arange(chunks, device=inputs.device) * chunk_frames
    return windows, (lengths[:, None] - starts).clamp(0, size).flatten()


def join_windows(windows: torch.Tensor, batch_size: int, chunk_frames: int) -> torch.Tensor:
    """The chunks of windows (batch * chunks, window, features), put together: (batch, chunks * chunk_frames, …)."""
    return windows[:, :chunk_frames].unflatten(0, (batch_size, -1)).flatten(1, 2)


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
        return torch.cat([forward_states, self._backward(inputs, lengths)], dim=-1)

    def forward_windows(
        self, windows: torch.Tensor, lengths: torch.Tensor, chunk_frames: int, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The same with bounded latency: the forward direction carries its state from chunk to chunk, the backward one
        starts anew at the end of each window (Zhang et al., 2016, "Highway LSTM RNNs for distant speech recognition";
        Xue & Yan, 2017). All windows at once, so that training is parallel over chunks.

        Args:
            windows: (batch * chunks, window, input_size), see `split_windows`.
            lengths: valid frames of each window (batch * chunks,).
            chunk_frames: frames of a window before its look-ahead.
            state: of the forward direction before the first chunk of each row (1, batch, hidden_size).

        Returns:
            (batch * chunks, window, 2 * hidden_size), and the state after the last chunk (1, batch, hidden_size).
        """
        chunks, state = self.forward_gru(join_windows(windows, state.shape[1], chunk_frames), state)
        forward_states = chunks.unflatten(1, (-1, chunk_frames)).flatten(0, 1)
        if windows.shape[1] > chunk_frames:
            # The look-ahead goes on from the chunk's end; the next chunk will not: it sees further in its layers below.
            ends = forward_states[None, :, -1].contiguous()
            ahead, _ = self.forward_gru(windows[:, chunk_frames:], ends)
            forward_states = torch.cat([forward_states, ahead], dim=1)
        return torch.cat([forward_states, self._backward(windows, lengths)], dim=-1), state

    def _backward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states, _ = self.backward_gru(reverse_by_length(inputs, lengths))
        return reverse_by_length(states, lengths)
