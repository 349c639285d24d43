"""Lengths, masks, and a recurrence that padding cannot change."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hf_speechrec.modeling_sequence import (
    BidirectionalGRU,
    join_windows,
    lengths_from_mask,
    mask_from_lengths,
    reverse_by_length,
    run_gru,
    split_windows,
)

LENGTHS = torch.tensor([7, 1, 4, 6, 3])


def test_without_a_mask_every_frame_is_valid():
    assert lengths_from_mask(None, torch.zeros(3, 5, 2)).tolist() == [5, 5, 5]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_lengths_are_counted_from_a_mask_of_any_type(dtype):
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=dtype)
    lengths = lengths_from_mask(mask, torch.zeros(3, 4, 2))
    assert lengths.tolist() == [2, 4, 1]
    assert lengths.dtype == torch.int64


def test_mask_marks_the_first_frames_of_each_row():
    mask = mask_from_lengths(torch.tensor([2, 0, 3]), 3)
    assert mask.tolist() == [[True, True, False], [False, False, False], [True, True, True]]


def test_mask_and_lengths_are_each_others_inverse():
    mask = mask_from_lengths(LENGTHS, 9)
    assert lengths_from_mask(mask, torch.zeros(5, 9, 1)).equal(LENGTHS)


def test_reverse_by_length_equals_a_python_loop():
    inputs = torch.randn(5, 7, 3)
    expected = inputs.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        for frame in range(length):
            expected[row, frame] = inputs[row, length - 1 - frame]
    assert reverse_by_length(inputs, LENGTHS).equal(expected)


def test_reversing_twice_gives_the_input_back():
    inputs = torch.randn(5, 7, 3)
    assert reverse_by_length(reverse_by_length(inputs, LENGTHS), LENGTHS).equal(inputs)


def packed_reference(layer: BidirectionalGRU, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The same weights in torch's own bidirectional GRU over packed sequences."""
    hidden_size = layer.forward_gru.hidden_size
    reference = nn.GRU(layer.forward_gru.input_size, hidden_size, batch_first=True, bidirectional=True)
    weights = dict(layer.forward_gru.named_parameters())
    weights |= {f"{name}_reverse": weight for name, weight in layer.backward_gru.named_parameters()}
    reference.load_state_dict(weights)
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(reference(packed)[0], batch_first=True)[0]


def test_bidirectional_gru_equals_torchs_own_over_packed_sequences():
    layer, inputs = BidirectionalGRU(6, 5), torch.randn(5, 7, 6)
    outputs, expected = layer(inputs, LENGTHS), packed_reference(layer, inputs, LENGTHS)
    valid = mask_from_lengths(LENGTHS, 7)
    assert outputs.shape == (5, 7, 10)
    assert (outputs - expected)[valid].abs().max() < 1e-6


def test_bidirectional_gru_has_the_gradients_of_torchs_own():
    layer = BidirectionalGRU(6, 5)
    inputs = torch.randn(5, 7, 6, requires_grad=True)
    valid = mask_from_lengths(LENGTHS, 7)[..., None]
    target = torch.randn(5, 7, 10)
    (layer(inputs, LENGTHS) * target * valid).sum().backward()
    gradient, inputs.grad = inputs.grad, None
    (packed_reference(layer, inputs, LENGTHS) * target * valid).sum().backward()
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, inputs.grad, atol=1e-6, rtol=0)


def gradients_of_a_gru(run, gru: nn.GRU, inputs: torch.Tensor, state: torch.Tensor) -> list[torch.Tensor]:
    """Of the inputs, the state before and each parameter, where outputs and the state after both count."""
    outputs, after = run(gru, inputs, state)
    weights = torch.linspace(-1, 1, outputs.numel()).view_as(outputs)
    return list(
        torch.autograd.grad((outputs * weights).sum() + after.square().sum(), [inputs, state, *gru.parameters()])
    )


def test_both_passes_of_a_gru_are_torchs_own():
    gru = nn.GRU(6, 5, batch_first=True)
    inputs, state = torch.randn(3, 7, 6, requires_grad=True), torch.randn(1, 3, 5, requires_grad=True)
    ours = run_gru(gru, inputs, state)
    for mine, torchs in zip(ours, gru(inputs, state), strict=True):
        torch.testing.assert_close(mine, torchs, atol=1e-6, rtol=0)
    assert type(ours[0].grad_fn).__name__ == "_GRUFunctionBackward"
    gradients = gradients_of_a_gru(run_gru, gru, inputs, state)
    expected = gradients_of_a_gru(lambda gru, *args: gru(*args), gru, inputs, state)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert reference.abs().max() > 0.01
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=0)


def test_under_autocast_a_gru_computes_in_float32_and_its_gradient_nearly_so():
    gru = nn.GRU(6, 5, batch_first=True)
    inputs, state = torch.randn(3, 7, 6, requires_grad=True), torch.randn(1, 3, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = run_gru(gru, inputs.bfloat16(), state)
        gradients = gradients_of_a_gru(run_gru, gru, inputs, state)
    assert outputs.dtype == torch.float32
    assert gradients[0].dtype == inputs.dtype
    for gradient, exact in zip(gradients, gradients_of_a_gru(run_gru, gru, inputs, state), strict=True):
        assert 0 < (gradient - exact).norm() < 0.02 * exact.norm()


def test_padding_reaches_no_valid_frame():
    layer, inputs = BidirectionalGRU(6, 5), torch.randn(5, 7, 6)
    valid = mask_from_lengths(LENGTHS, 7)
    other = torch.where(valid[..., None], inputs, 1e3)
    assert layer(inputs, LENGTHS)[valid].equal(layer(other, LENGTHS)[valid])


# Windows


def test_windows_are_chunks_with_the_frames_that_follow_them():
    inputs = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [9, 0, 0, 0, 0]])[..., None].float()
    windows, lengths = split_windows(inputs, torch.tensor([5, 3, 1]), chunk_frames=2, lookahead_frames=1)
    assert windows[..., 0].tolist() == [
        *([1, 2, 3], [3, 4, 5], [5, 0, 0]),
        *([6, 7, 8], [8, 0, 0], [0, 0, 0]),
        *([9, 0, 0], [0, 0, 0], [0, 0, 0]),
    ]
    assert lengths.tolist() == [3, 3, 1, 3, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("lookahead_frames", [0, 2, 9])
@pytest.mark.parametrize("chunk_frames", [1, 2, 3, 7, 20])
def test_windows_joined_are_the_input(chunk_frames, lookahead_frames):
    inputs = torch.randn(5, 7, 3)
    windows, lengths = split_windows(inputs, LENGTHS, chunk_frames, lookahead_frames)
    chunks = -(-7 // chunk_frames)
    assert windows.shape == (5 * chunks, chunk_frames + lookahead_frames, 3)
    assert lengths.shape == (5 * chunks,)
    joined = join_windows(windows, 5, chunk_frames)
    assert joined[:, :7].equal(inputs)
    assert (joined[:, 7:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("chunk_frames", "lookahead_frames"), [(1, 0), (2, 1), (3, 5), (4, 0), (7, 2), (9, 0)])
def test_a_window_gives_what_a_recurrence_over_it_alone_would(chunk_frames, lookahead_frames):
    """By hand: forward over the row up to the window's end, backward from there to the chunk's beginning."""
    layer, inputs, state = BidirectionalGRU(6, 5), torch.randn(5, 7, 6), torch.randn(1, 5, 5)
    windows, lengths = split_windows(inputs, LENGTHS, chunk_frames, lookahead_frames)
    outputs, _ = layer.forward_windows(windows, lengths, chunk_frames, state)
    assert outputs.shape == (*windows.shape[:2], 10)
    outputs = outputs.unflatten(0, (5, -1))
    for row, length in enumerate(LENGTHS.tolist()):
        for chunk, start in enumerate(range(0, length, chunk_frames)):
            end = min(start + chunk_frames + lookahead_frames, length)
            forward = layer.forward_gru(inputs[row : row + 1, :end], state[:, row : row + 1])[0][0, start:]
            backward = layer.backward_gru(inputs[row : row + 1, start:end].flip(1))[0][0].flip(0)
            expected = torch.cat([forward, backward], dim=-1)
            torch.testing.assert_close(outputs[row, chunk, : end - start], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_window_of_everything_is_the_whole_recurrence():
    layer, inputs = BidirectionalGRU(6, 5), torch.randn(5, 7, 6)
    windows, lengths = split_windows(inputs, LENGTHS, 7, 0)
    outputs, state = layer.forward_windows(windows, lengths, 7, torch.zeros(1, 5, 5))
    valid = mask_from_lengths(LENGTHS, 7)
    torch.testing.assert_close(outputs[valid], layer(inputs, LENGTHS)[valid], atol=1e-6, rtol=0)
    torch.testing.assert_close(state[0, 0], outputs[0, -1, :5])  # of the row that fills the window


def test_what_stands_in_a_windows_padding_reaches_no_valid_frame():
    layer, inputs = BidirectionalGRU(6, 5), torch.randn(5, 7, 6)
    valid, outputs = mask_from_lengths(LENGTHS, 7), []
    for garbage in (0.0, 1e3, float("nan")):
        windows, lengths = split_windows(torch.where(valid[..., None], inputs, garbage), LENGTHS, 3, 2)
        states, _ = layer.forward_windows(windows, lengths, 3, torch.zeros(1, 5, 5))
        outputs.append(states[mask_from_lengths(lengths, 5)])
    assert outputs[0].isfinite().all()
    assert outputs[0].equal(outputs[1])
    assert outputs[0].equal(outputs[2])
