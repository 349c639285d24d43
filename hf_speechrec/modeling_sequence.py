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


class _GRUFunction(torch.autograd.Function):
    """
    `torch.gru` of one layer and direction with both passes of its own, for training on a CPU.

    torch's backward pass adds to the gradient of the weights once a frame: for a small batch most of the time goes into
    reading and writing that matrix. Here the loops over frames hold what needs the frame before (backwards, the one
    after) and nothing else; the large products stand outside them, in autocast's type where autocast is on. The forward
    pass is as quick as torch's, but keeps the gates, which are not computed anew. The same numbers, to rounding.
    """

    @staticmethod
    def forward(ctx, inputs, state, weight_ih, weight_hh, bias_ih, bias_hh):
        size, full = weight_hh.shape[1], weight_ih.dtype
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else full
        ctx.inputs_dtype = inputs.dtype
        # From here on frames come first: (frames, batch, …), gates in torch's order: reset, update, new.
        inputs = inputs.transpose(0, 1).to(dtype).contiguous()
        with torch.autocast("cpu", enabled=False):
            gates = nn.functional.linear(inputs, weight_ih.to(dtype), bias_ih.to(dtype)).to(full)
            new = gates[..., 2 * size :].clone()
            gates[..., 2 * size :] = 0  # what enters the new state from the states meets the reset gate first
            gates += bias_hh
            states = torch.empty(len(inputs) + 1, *state.shape[1:], dtype=full)
            states[0] = state[0]
            before = states[0]
            recurrent = weight_hh.t()
            reset, update, from_states = gates.split(size, -1)
            per_frame = (gates, gates[..., : 2 * size], reset, update, from_states, new, states[1:])
            for frame in zip(*(tensor.unbind(0) for tensor in per_frame), strict=True):
                frame_gates, reset_and_update, reset, update, from_state, fresh, after = frame
                frame_gates.addmm_(before, recurrent)
                reset_and_update.sigmoid_()
                fresh.addcmul_(reset, from_state).tanh_()
                torch.lerp(fresh, before, update, out=after)
                before = after
        ctx.save_for_backward(inputs, states, gates, new, weight_ih, weight_hh)
        return states[1:].transpose(0, 1), before[None].clone()

    @staticmethod
    def backward(ctx, grad_outputs, grad_last):
        inputs, states, gates, new, weight_ih, weight_hh = ctx.saved_tensors
        size, full, dtype = weight_hh.shape[1], weight_ih.dtype, inputs.dtype
        before = states[:-1]
        reset, update, from_states = gates.split(size, -1)

        # state = (1 - update) * new + update * before: its slope along what enters each gate.
        new_slope = (1 - update) * (1 - new.square())
        slopes = torch.stack(
            [
                new_slope * from_states * (reset - reset.square()),
                (before - new) * (update - update.square()),
                new_slope * reset,
            ],
            dim=-2,
        )
        grad_gates = torch.empty_like(slopes)
        grad_states = torch.empty_like(before)
        grad_before, kept = grad_last[0].clone(), torch.empty_like(grad_last[0])
        per_frame = (grad_outputs.transpose(0, 1), grad_states, slopes, grad_gates, grad_gates.flatten(2), update)
        for frame in reversed(list(zip(*(tensor.unbind(0) for tensor in per_frame), strict=True))):
            grad_output, grad_state, slope, grad_gate, flat_grad_gate, keep = frame
            torch.add(grad_before, grad_output, out=grad_state)
            torch.mul(grad_state[:, None], slope, out=grad_gate)
            torch.mul(grad_state, keep, out=kept)
            torch.addmm(kept, flat_grad_gate, weight_hh, out=grad_before)

        # What enters the new state's gate from the inputs has not met the reset gate.
        by_states = grad_gates.flatten(2)
        by_inputs = torch.cat([by_states[..., : 2 * size], grad_states * new_slope], dim=-1)
        grad_bias_ih, grad_bias_hh = (gates.sum((0, 1)) for gates in (by_inputs, by_states))
        by_inputs, by_states = by_inputs.to(dtype).flatten(0, 1), by_states.to(dtype).flatten(0, 1)
        grad_inputs = (by_inputs @ weight_ih.to(dtype)).unflatten(0, inputs.shape[:2]).transpose(0, 1)
        grad_weight_ih = (by_inputs.T @ inputs.flatten(0, 1)).to(full)
        grad_weight_hh = (by_states.T @ before.to(dtype).flatten(0, 1)).to(full)
        grad_inputs = grad_inputs.to(ctx.inputs_dtype)
        return grad_inputs, grad_before[None], grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh


def run_gru(gru: nn.GRU, inputs: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What `gru(inputs, state)` returns, of one layer and one direction with the batch first; trained on a CPU, sooner.

    Args:
        inputs: (batch, frames, input_size)
        state: before the first frame (1, batch, hidden_size); zeros by default.

    Returns:
        (batch, frames, hidden_size), and the state after the last frame (1, batch, hidden_size).
    """
    if inputs.device.type != "cpu" or not torch.is_grad_enabled() or not gru.weight_ih_l0.requires_grad:
        return gru(inputs, state)
    if state is None:
        state = torch.zeros(1, inputs.shape[0], gru.hidden_size, dtype=inputs.dtype)
    return _GRUFunction.apply(inputs, state, gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)


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
        forward_states, _ = run_gru(self.forward_gru, inputs)
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
        chunks, state = run_gru(self.forward_gru, join_windows(windows, state.shape[1], chunk_frames), state)
        forward_states = chunks.unflatten(1, (-1, chunk_frames)).flatten(0, 1)
        if windows.shape[1] > chunk_frames:
            # The look-ahead goes on from the chunk's end; the next chunk will not: it sees further in its layers below.
            ends = forward_states[None, :, -1].contiguous()
            ahead, _ = run_gru(self.forward_gru, windows[:, chunk_frames:], ends)
            forward_states = torch.cat([forward_states, ahead], dim=1)
        return torch.cat([forward_states, self._backward(windows, lengths)], dim=-1), state

    def _backward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states, _ = run_gru(self.backward_gru, reverse_by_length(inputs, lengths))
        return reverse_by_length(states, lengths)
