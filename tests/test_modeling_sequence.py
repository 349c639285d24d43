"""Lengths, masks, and a recurrence that padding cannot change."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hf_speechrec.modeling_sequence import (
    BidirectionalGRU,
    lengths_from_mask,
    mask_from_lengths,
    reverse_by_length,
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


def test_padding_reaches_no_valid_frame():
    layer, inputs = BidirectionalGRU(6, 5), torch.randn(5, 7, 6)
    valid = mask_from_lengths(LENGTHS, 7)
    other = torch.where(valid[..., None], inputs, 1e3)
    assert layer(inputs, LENGTHS)[valid].equal(layer(other, LENGTHS)[valid])
