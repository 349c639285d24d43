"""The recogniser's network: sizes, padding, loss, initialisation, saving, and transformers' own pipeline."""

import itertools
import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    Wav2Vec2Processor,
    pipeline,
)

from hf_speechrec import LogMelFeatureExtractor, ResNetBiGruConfig, ResNetBiGruForCTC
from hf_speechrec.audio import read_audio
from hf_speechrec.modeling_resnet_bigru import BLANK_MARGIN, TRAINING_CHUNKS, TRAINING_LOOKAHEAD
from hf_speechrec.modeling_sequence import join_windows, mask_from_lengths, split_windows
from hf_speechrec.text import build_tokenizer

SAMPLING_RATE = 16_000
SMALL = {
    "vocab_size": 27,
    "num_mel_bins": 40,
    "conv_channels": 4,
    "num_residual_blocks": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
}
VARIANTS = list(itertools.product((1, 2, 4), (False, True)))


def network(**changes) -> ResNetBiGruForCTC:
    """A small network, evaluating."""
    return ResNetBiGruForCTC(ResNetBiGruConfig(**SMALL | changes)).eval()


@pytest.fixture(scope="module")
def recordings(an4_files) -> list[np.ndarray]:
    """16 utterances of AN4, of 1.1 to 4.3 seconds, cut so that they fill neither frames nor logit frames evenly."""
    waveforms = [read_audio(path, SAMPLING_RATE)[: -1 - 157 * i] for i, path in enumerate(an4_files[:16])]
    assert len({len(waveform) for waveform in waveforms}) == 16
    return waveforms


@pytest.fixture(scope="module")
def extractor() -> LogMelFeatureExtractor:
    return LogMelFeatureExtractor(feature_size=40, feature_mean=[-4.0] * 40, feature_std=[3.0] * 40)


@pytest.fixture(scope="module")
def batch(recordings, extractor) -> dict[str, torch.Tensor]:
    return dict(extractor(recordings, sampling_rate=SAMPLING_RATE, return_tensors="pt"))


def random_labels(batch: int = 16, longest: int = 8) -> torch.Tensor:
    """(batch, labels), padded with -100; rows differ in length."""
    labels = torch.randint(1, 27, (batch, longest))
    return labels.masked_fill(torch.arange(longest) >= torch.randint(1, longest + 1, (batch, 1)), -100)


# Sizes


def test_the_write_ups_sizes_give_its_number_of_parameters():
    config = ResNetBiGruConfig(
        num_mel_bins=128,
        conv_channels=32,
        share_block_layers=True,
        time_reduction=1,
        frequency_reduction=1,
        hidden_size=512,
        num_hidden_layers=5,
        vocab_size=29,
    )
    assert ResNetBiGruForCTC(config).num_parameters() == 24_726_205


def test_blocks_of_their_own_layers_have_two_norms_and_two_convolutions():
    shared, own = network(share_block_layers=True), network(share_block_layers=False)
    bins, channels = 20, 4
    one_norm_and_convolution = 2 * bins + 9 * channels**2 + channels
    assert own.num_parameters() - shared.num_parameters() == 2 * one_norm_and_convolution  # in each of 2 blocks


@pytest.mark.parametrize("time_reduction", [1, 2, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8, 13, 101])
def test_logit_frames_are_frames_over_time_reduction_rounded_up(frames, time_reduction):
    logits = network(time_reduction=time_reduction)(torch.randn(2, frames, 40)).logits
    assert logits.shape == (2, -(-frames // time_reduction), 27)


@pytest.mark.parametrize("time_reduction", [1, 2, 4])
def test_an_utterance_has_samples_over_ratio_frames_rounded_up(time_reduction, extractor):
    model = network(time_reduction=time_reduction)
    ratio = model.config.inputs_to_logits_ratio
    for samples in (ratio - 1, ratio, ratio + 1, 7 * ratio + ratio // 2):
        features = extractor(np.zeros(samples, np.float32), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        assert model(**features).logits.shape[1] == -(-samples // ratio)


@pytest.mark.parametrize("bins", [1, 39, 40])
@pytest.mark.parametrize("frequency_reduction", [1, 2])
def test_any_number_of_mel_bins_will_do(bins, frequency_reduction):
    model = network(num_mel_bins=bins, frequency_reduction=frequency_reduction)
    assert model(torch.randn(1, 9, bins)).logits.shape == (1, 3, 27)


# Padding


@torch.no_grad()
@pytest.mark.parametrize(("time_reduction", "share_block_layers"), VARIANTS)
def test_sixteen_utterances_give_the_same_logits_alone_and_together(
    batch, recordings, extractor, time_reduction, share_block_layers
):
    model = network(time_reduction=time_reduction, share_block_layers=share_block_layers)
    together = model(**batch).logits
    for waveform, logits in zip(recordings, together, strict=True):
        alone = model(**extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")).logits[0]
        assert alone.std(0).max() > 1e-2  # so that the bound means something
        assert (alone - logits[: len(alone)]).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("time_reduction", [1, 2, 4])
def test_padded_frames_are_blanks(batch, time_reduction):
    for blank in (0, 5):
        logits = network(time_reduction=time_reduction, pad_token_id=blank)(**batch).logits
        lengths = -(-batch["attention_mask"].sum(-1) // time_reduction)
        padding = torch.arange(logits.shape[1]) >= lengths[:, None]
        assert padding.any()
        assert (logits[padding].argmax(-1) == blank).all()
        assert (logits[padding][:, blank] == BLANK_MARGIN).all()
        assert logits[~padding].abs().max() < 100


@torch.no_grad()
@pytest.mark.parametrize("garbage", [1e4, -1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("time_reduction", [1, 4])
def test_what_stands_in_padded_features_changes_nothing(batch, garbage, time_reduction):
    model = network(time_reduction=time_reduction)
    features = batch["input_features"].masked_fill(batch["attention_mask"][..., None] == 0, garbage)
    assert not features.equal(batch["input_features"])
    assert model(features, batch["attention_mask"]).logits.equal(model(**batch).logits)


@torch.no_grad()
def test_frames_without_a_mask_are_all_valid(batch):
    model = network()
    longest = batch["attention_mask"].sum(-1).argmax()
    features = batch["input_features"][longest][None]
    torch.testing.assert_close(model(features).logits[0], model(**batch).logits[longest], atol=1e-5, rtol=0)


# Loss


def ctc_loss_by_hand(logits, lengths, labels, reduction="mean", blank=0):
    return torch.nn.functional.ctc_loss(
        torch.log_softmax(logits.double(), -1).transpose(0, 1),
        labels.clamp(min=0),
        lengths,
        (labels >= 0).sum(-1),
        blank=blank,
        reduction=reduction,
    )


@torch.no_grad()
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("time_reduction", [1, 2, 4])
def test_loss_is_the_ctc_loss_of_the_valid_frames(batch, time_reduction, reduction):
    model, labels = network(time_reduction=time_reduction, ctc_loss_reduction=reduction), random_labels()
    output = model(**batch, labels=labels)
    lengths = -(-batch["attention_mask"].sum(-1) // time_reduction)
    expected = ctc_loss_by_hand(output.logits, lengths, labels, reduction)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=0)
    assert output.loss.isfinite()


@torch.no_grad()
def test_summed_loss_of_a_batch_is_the_sum_over_its_utterances(batch, recordings, extractor):
    model, labels = network(ctc_loss_reduction="sum"), random_labels()
    alone = [
        model(**extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt"), labels=row[None]).loss
        for waveform, row in zip(recordings, labels, strict=True)
    ]
    torch.testing.assert_close(model(**batch, labels=labels).loss, torch.stack(alone).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk_frames", [0, 6])
def test_loss_stays_in_float32_under_bfloat16_autocast(batch, chunk_frames):
    model, labels = network(chunk_frames=chunk_frames, lookahead_frames=chunk_frames // 2), random_labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch, labels=labels)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    lengths = -(-batch["attention_mask"].sum(-1) // 4)
    expected = ctc_loss_by_hand(output.logits, lengths, labels)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=0)  # bfloat16 knows but 8 bits
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_more_labels_than_frames_cost_nothing_and_leave_gradients_finite():
    model = network(ctc_loss_reduction="sum")
    features, labels = torch.randn(2, 16, 40), torch.full((2, 9), -100)
    labels[0, :2] = torch.tensor([3, 4])
    labels[1] = torch.arange(1, 10)  # 9 labels in 4 frames
    loss = model(features, labels=labels).loss
    assert loss > 0
    torch.testing.assert_close(loss, model(features[:1], labels=labels[:1]).loss)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model(features[1:], labels=labels[1:]).loss == 0


def test_zero_infinity_can_be_switched_off():
    model = network(ctc_zero_infinity=False)
    assert model(torch.randn(1, 16, 40), labels=torch.arange(1, 10)[None]).loss.isinf()


@pytest.mark.parametrize(("time_reduction", "share_block_layers"), VARIANTS)
def test_every_parameter_gets_a_gradient(batch, time_reduction, share_block_layers):
    changes = {"time_reduction": time_reduction, "share_block_layers": share_block_layers}
    model = network(**changes, chunked_training_probability=0).train()
    model(**batch, labels=random_labels()).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@torch.no_grad()
def test_a_tuple_is_returned_on_request(batch):
    model, labels = network(), random_labels()
    output = model(**batch, labels=labels)
    loss, logits = model(**batch, labels=labels, return_dict=False)
    assert loss.equal(output.loss)
    assert logits.equal(output.logits)
    (logits,) = model(**batch, return_dict=False)
    assert logits.equal(output.logits)
    assert model(**batch).loss is None


# Chunks

ROWS = torch.tensor([101, 1, 4, 37, 64, 99, 8, 50])  # frames
ROWS_MASK = (torch.arange(101) < ROWS[:, None]).long()
CONTEXTS = [(3, 0), (3, 2), (5, 7), (8, 4)]  # logit frames of a chunk, and after it


def close(first: torch.Tensor, second: torch.Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(first, second, atol=atol, rtol=0)


def valid_logits(model: ResNetBiGruForCTC, features: torch.Tensor, **context) -> torch.Tensor:
    """Those of all rows' valid frames, one after another."""
    logits = model(features, ROWS_MASK, **context).logits
    return logits[mask_from_lengths(-(-ROWS // model.config.time_reduction), logits.shape[1])]


@torch.no_grad()
@pytest.mark.parametrize("time_reduction", [1, 4])
@pytest.mark.parametrize(("chunk_frames", "lookahead_frames"), CONTEXTS)
def test_in_chunks_utterances_give_the_same_logits_alone_and_together(chunk_frames, lookahead_frames, time_reduction):
    changes = {"chunk_frames": chunk_frames, "lookahead_frames": lookahead_frames, "time_reduction": time_reduction}
    model, features = network(**changes), torch.randn(8, 101, 40)
    together = model(features, ROWS_MASK).logits
    assert together.shape == (8, -(-101 // time_reduction), 27)
    padding = ~mask_from_lengths(-(-ROWS // time_reduction), together.shape[1])
    assert (together[padding][:, 0] == BLANK_MARGIN).all()
    for row, length, logits in zip(features, ROWS, together, strict=True):
        alone = model(row[None, :length]).logits[0]
        assert alone.std() > 1e-2  # so that the bound means something
        close(alone, logits[: len(alone)], atol=1e-5)
    garbage = features.masked_fill(ROWS_MASK[..., None] == 0, float("nan"))
    assert model(garbage, ROWS_MASK).logits.equal(together)


@torch.no_grad()
@pytest.mark.parametrize("chunk_frames", [26, 27, 60])
@pytest.mark.parametrize("lookahead_frames", [0, 5])
def test_a_chunk_as_long_as_the_utterance_is_its_full_context(chunk_frames, lookahead_frames):
    model, features = network(), torch.randn(8, 101, 40)  # 26 logit frames
    context = {"chunk_frames": chunk_frames, "lookahead_frames": lookahead_frames}
    close(valid_logits(model, features, **context), valid_logits(model, features), atol=1e-5)
    shorter = valid_logits(model, features, chunk_frames=13, lookahead_frames=lookahead_frames)
    assert (shorter - valid_logits(model, features)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("chunk_frames", "lookahead_frames"), CONTEXTS)
@pytest.mark.parametrize("time_reduction", [1, 2, 4])
def test_a_chunk_depends_on_its_look_ahead_and_on_nothing_later(chunk_frames, lookahead_frames, time_reduction):
    """
    Feature frames `first` and later stand neither in the first two chunks, nor in the look-ahead, nor in the
    convolutions' view of that: a frame of the strided one, and of the blocks' four a strided frame each.
    """
    model, features = network(time_reduction=time_reduction), torch.randn(2, 101, 40)
    context = {"chunk_frames": chunk_frames, "lookahead_frames": lookahead_frames}
    visible = 2 * chunk_frames + lookahead_frames
    first = time_reduction * visible + 4 * min(time_reduction, 2) + (time_reduction == 1)
    assert first < 101
    logits = model(features, **context).logits

    def change_from(frame: int, **context) -> torch.Tensor:
        """Largest change of the first two chunks' logits where later features change, for each logit frame."""
        later = torch.cat([features[:, :frame], features[:, frame:] + 10 * torch.randn(2, 101 - frame, 40)], dim=1)
        before = model(features, **context).logits
        return (model(later, **context).logits - before)[:, : 2 * chunk_frames].abs().amax((0, 2))

    assert change_from(first, **context).max() == 0
    assert change_from(first - 1, **context)[-1] > 0  # the bound is tight
    assert change_from(first, chunk_frames=0).max() > 0  # and full context sees further
    if lookahead_frames:
        beyond_chunk = first - time_reduction * lookahead_frames
        assert change_from(beyond_chunk, chunk_frames=chunk_frames, lookahead_frames=0).max() == 0
        assert change_from(beyond_chunk, **context)[-1] > 1e-4
    assert logits.equal(model(features, **context).logits)


@torch.no_grad()
@pytest.mark.parametrize("frames", [8, 9, 10, 11])
@pytest.mark.parametrize("lookahead_frames", [0, 2, 6])
def test_chunk_by_chunk_with_carried_states_is_all_at_once(frames, lookahead_frames):
    """As a stream has it: the last chunk, and look-aheads before it, are cut off at the end and not padded."""
    model, hidden = network(num_hidden_layers=3), torch.randn(2, frames, 24)
    windows, lengths = split_windows(hidden, torch.tensor([frames] * 2), 4, lookahead_frames)
    outputs, _ = model.recur(windows, lengths, 4, model.initial_states(2))
    whole = join_windows(outputs, 2, 4)[:, :frames]
    states, pieces = model.initial_states(2), []
    assert [tuple(state.shape) for state in states] == [(1, 2, 24)] * 3
    for start in range(0, frames, 4):
        window = hidden[:, start : start + 4 + lookahead_frames]
        size = min(4, frames - start)
        output, states = model.recur(window, torch.tensor([window.shape[1]] * 2), size, states)
        pieces.append(join_windows(output, 2, size))
    close(torch.cat(pieces, dim=1), whole)
    forgetful, _ = model.recur(windows[[1]], lengths[[1]], 4, model.initial_states(1))
    assert (forgetful[0, :4] - whole[0, 4:8]).abs().max() > 1e-3  # so that the states do matter


@torch.no_grad()
def test_the_configs_context_is_used_unless_the_caller_gives_another():
    model, features = network(chunk_frames=4, lookahead_frames=2), torch.randn(8, 101, 40)
    full = network()
    full.load_state_dict(model.state_dict())
    logits = valid_logits(model, features)
    assert logits.equal(valid_logits(full, features, chunk_frames=4, lookahead_frames=2))
    assert (logits - valid_logits(full, features)).abs().max() > 1e-3
    assert valid_logits(model, features, chunk_frames=0).equal(valid_logits(full, features))
    for context in ({"chunk_frames": 6, "lookahead_frames": 3}, {"chunk_frames": 6, "lookahead_frames": 0}):
        assert valid_logits(model, features, **context).equal(valid_logits(full, features, **context))
    expected = valid_logits(full, features, chunk_frames=4, lookahead_frames=0)
    assert valid_logits(model, features, lookahead_frames=0).equal(expected)
    assert (logits - expected).abs().max() > 1e-4


def training_network(probability: float) -> ResNetBiGruForCTC:
    no_dropout = {"conv_dropout": 0.0, "hidden_dropout": 0.0, "classifier_dropout": 0.0}
    return network(**no_dropout, chunked_training_probability=probability).train()


@torch.no_grad()
def test_training_runs_in_random_chunks_by_the_configs_probability():
    features = torch.randn(2, 160, 40)  # 40 logit frames, more than any chunk
    full = training_network(0)
    expected = full.eval()(features).logits
    close(full.train()(features).logits, expected, atol=1e-5)
    assert all(full.draw_context() == (0, 0) for _ in range(100))
    chunked = training_network(1.0)
    chunked.load_state_dict(full.state_dict())
    changes = [(chunked(features).logits - expected).abs().max().item() for _ in range(5)]
    assert min(changes) > 1e-4
    assert len(set(changes)) > 1
    close(chunked(features, chunk_frames=0).logits, expected, atol=1e-5)  # the caller's word goes before chance
    assert chunked.eval()(features).logits.equal(expected)


def test_training_chunks_are_of_every_size_as_many_small_as_large():
    low, high = TRAINING_CHUNKS
    model = training_network(1.0)
    contexts = [model.draw_context() for _ in range(3000)]
    assert {chunk for chunk, _ in contexts} == set(range(low, high + 1))
    assert all(0 <= lookahead <= max(chunk // 2, TRAINING_LOOKAHEAD) for chunk, lookahead in contexts)
    assert {lookahead for chunk, lookahead in contexts if chunk == low} == set(range(TRAINING_LOOKAHEAD + 1))
    middle = (low * high) ** 0.5
    assert 1350 < sum(chunk < middle for chunk, _ in contexts) < 1650
    model = training_network(0.5)
    assert 400 < sum(model.draw_context() == (0, 0) for _ in range(1000)) < 600


@pytest.mark.parametrize(("chunk_frames", "lookahead_frames"), CONTEXTS)
def test_in_chunks_every_parameter_gets_a_gradient(chunk_frames, lookahead_frames):
    model = network().train()
    context = {"chunk_frames": chunk_frames, "lookahead_frames": lookahead_frames}
    model(torch.randn(8, 101, 40), ROWS_MASK, labels=random_labels(8, 4), **context).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("field", ["chunk_frames", "lookahead_frames"])
def test_a_negative_context_is_refused_by_name(field):
    with pytest.raises(StrictDataclassError, match=rf"expected {field} to be at least 0, got -1"):
        ResNetBiGruConfig(**{field: -1})


def test_the_context_is_stored_with_the_config(tmp_path):
    ResNetBiGruConfig(chunk_frames=16, lookahead_frames=8, chunked_training_probability=0.25).save_pretrained(tmp_path)
    loaded = ResNetBiGruConfig.from_pretrained(tmp_path)
    assert (loaded.chunk_frames, loaded.lookahead_frames, loaded.chunked_training_probability) == (16, 8, 0.25)


# Initialisation


def test_recurrent_matrices_are_orthogonal_in_each_gate():
    for layer in network().gru_layers:
        for gru in (layer.gru.forward_gru, layer.gru.backward_gru):
            for gate in gru.weight_hh_l0.chunk(3):
                torch.testing.assert_close(gate @ gate.T, torch.eye(24), atol=1e-5, rtol=0)
            assert not gru.weight_hh_l0[:24].equal(gru.weight_hh_l0[24:48])


def test_initial_weights_keep_the_signal_and_initial_biases_are_small():
    model = network(conv_channels=16, num_residual_blocks=3, hidden_size=96)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 1000:  # enough draws to measure
                assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
            assert 0 < module.bias.abs().max() <= fan_in**-0.5
        elif isinstance(module, torch.nn.GRU):
            for gate in module.weight_ih_l0.chunk(3):
                assert gate.std().item() == pytest.approx((2 / sum(gate.shape)) ** 0.5, rel=0.1)
            assert module.bias_ih_l0.count_nonzero() == module.bias_hh_l0.count_nonzero() == 0
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_no_buffer_is_held():
    """transformers fills buffers that are not saved with garbage on loading."""
    assert list(network().buffers()) == []


# Saving and loading


@torch.no_grad()
@pytest.mark.parametrize(("time_reduction", "share_block_layers"), VARIANTS)
def test_a_saved_model_gives_the_same_logits(batch, tmp_path, time_reduction, share_block_layers):
    model = network(time_reduction=time_reduction, share_block_layers=share_block_layers)
    model.save_pretrained(tmp_path)
    loaded = ResNetBiGruForCTC.from_pretrained(tmp_path)
    assert not loaded.training
    assert loaded.dtype == torch.float32
    assert loaded(**batch).logits.equal(model(**batch).logits)


def test_weights_are_saved_as_safetensors_and_nothing_is_pickled(tmp_path):
    network().save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".py"}
    assert names == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_the_saved_one_unless_asked_otherwise(tmp_path, dtype):
    network().to(dtype).save_pretrained(tmp_path)
    assert ResNetBiGruForCTC.from_pretrained(tmp_path).dtype == dtype
    assert ResNetBiGruForCTC.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


@torch.no_grad()
def test_a_file_of_halves_whose_config_says_float32_takes_float32_features(batch, tmp_path):
    model = network()
    expected = model(**batch).logits
    model.half().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    loaded = ResNetBiGruForCTC.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-2, rtol=0)


@torch.no_grad()
def test_auto_classes_load_what_was_saved(batch, tmp_path, extractor, recordings):
    model = network()
    model.save_pretrained(tmp_path)
    Wav2Vec2Processor(extractor, build_tokenizer(["ONE TWO"])).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ResNetBiGruConfig)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), LogMelFeatureExtractor)
    loaded = AutoModelForCTC.from_pretrained(tmp_path)
    assert isinstance(loaded, ResNetBiGruForCTC)
    features = AutoFeatureExtractor.from_pretrained(tmp_path)(
        recordings, sampling_rate=SAMPLING_RATE, return_tensors="pt"
    )
    assert loaded(**features).logits.equal(model(**batch).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).decode([6, 5, 4, 1, 7]) == "TON W"


# transformers' pipeline


@pytest.fixture(scope="module")
def recognizer(batch, extractor):
    """A random network whose classes are level, word ends raised: it writes words, if senseless ones."""
    torch.manual_seed(1)
    model = network()
    head = model.classifier[-1]
    with torch.no_grad():
        logits = model(**batch).logits
        head.bias -= logits[logits[..., 0] != BLANK_MARGIN].mean(0)
        logits = model(**batch).logits
        head.bias[1] += logits[logits[..., 0] != BLANK_MARGIN].max(-1).values.mean() / 2
    tokenizer = build_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWX"])
    assert len(tokenizer) == model.config.vocab_size
    return pipeline("automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=extractor)


@pytest.fixture(scope="module")
def decoded(recognizer, batch) -> list[str]:
    """Direct decoding: the most likely class of each frame."""
    with torch.no_grad():
        texts = recognizer.tokenizer.batch_decode(recognizer.model(**batch).logits.argmax(-1))
    assert all(texts)
    assert sum(len(text.split()) > 1 for text in texts) >= 8
    return texts


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_pipeline_writes_what_direct_decoding_does(recognizer, recordings, decoded, batch_size):
    assert [result["text"] for result in recognizer(recordings, batch_size=batch_size)] == decoded


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_chunk_longer_than_the_recording_changes_nothing(recognizer, recordings, batch_size):
    # Whole frames: of a chunk's last frame the pipeline drops what is less than half.
    whole = [waveform[: len(waveform) // 640 * 640] for waveform in recordings]
    chunked = recognizer(whole, chunk_length_s=30, batch_size=batch_size)
    assert chunked == recognizer(whole)
    assert all(result["text"] for result in chunked)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_chunks_are_joined_where_their_strides_meet(recognizer, recordings, batch_size):
    """Of each 2 s chunk the 0.48 s at either side, which a neighbour covers too, are left out."""
    recording = np.concatenate(recordings[:3])
    tokens = []
    for start in range(0, len(recording), 16_640):
        chunk = recording[start : start + 32_000]
        features = recognizer.feature_extractor(chunk, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        with torch.no_grad():
            frames = recognizer.model(**features).logits.argmax(-1)[0]
        is_last = start + 32_000 >= len(recording)
        tokens.append(frames[0 if start == 0 else 12 : None if is_last else -12])
        if is_last:
            break
    assert len(torch.cat(tokens)) == -(-len(recording) // 640)
    result = recognizer(recording, chunk_length_s=2.0, stride_length_s=0.48, batch_size=batch_size)
    assert result["text"] == recognizer.tokenizer.decode(torch.cat(tokens))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_word_times_cover_the_words_in_order(recognizer, recordings, decoded, batch_size):
    results = recognizer(recordings, return_timestamps="word", batch_size=batch_size)
    for waveform, text, result in zip(recordings, decoded, results, strict=True):
        assert result["text"] == text
        assert [chunk["text"] for chunk in result["chunks"]] == text.split()
        times = [second for chunk in result["chunks"] for second in chunk["timestamp"]]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= -(-len(waveform) // 640) * 0.04 + 1e-9


def test_character_times_are_those_of_the_frames(recognizer, recordings, decoded):
    (result,) = recognizer(recordings[:1], return_timestamps="char")
    assert "".join(chunk["text"] for chunk in result["chunks"]).strip() == decoded[0]
    features = recognizer.feature_extractor(recordings[0], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    with torch.no_grad():
        frames = recognizer.model(**features).logits.argmax(-1)[0].tolist()
    runs = [(token, len(list(group))) for token, group in itertools.groupby(frames)]
    ends = list(itertools.accumulate(length for _, length in runs))
    expected = [
        (recognizer.tokenizer.convert_ids_to_tokens(token).replace("|", " "), (end - length) * 0.04, end * 0.04)
        for (token, length), end in zip(runs, ends, strict=True)
        if token != 0
    ]
    found = [(chunk["text"], *chunk["timestamp"]) for chunk in result["chunks"]]
    assert [text for text, *_ in found] == [text for text, *_ in expected]
    assert [times for _, *times in found] == [pytest.approx(times) for _, *times in expected]


# The second head


def test_a_model_with_phones_learns_both_heads(batch):
    model = network(phones=["A", "B", "C"], phone_loss_weight=0.25)
    labels, phone_ids = random_labels(), torch.randint(1, 4, (16, 5))
    phone_ids[3, 2:] = -100
    output = model(**batch, labels=labels, phone_ids=phone_ids)
    assert output.phone_logits.shape == (*output.logits.shape[:2], 4)
    frames = (batch["attention_mask"].sum(-1) + 3) // 4
    alone = model.ctc_loss(output.logits, frames, labels, blank=0)
    phones = model.ctc_loss(output.phone_logits, frames, phone_ids, blank=0)
    assert (alone - phones).abs() > 0.1
    torch.testing.assert_close(output.loss, 0.75 * alone + 0.25 * phones)
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.phone_classifier.parameters())
    # Without labels for them, the phones do not count.
    torch.testing.assert_close(model(**batch, labels=labels).loss, alone)


def test_rows_whose_phones_are_unknown_teach_the_characters_only(batch):
    model = network(phones=["A", "B", "C"])
    labels, phone_ids = random_labels(), torch.randint(1, 4, (16, 5))
    phone_ids[4:] = -100
    with torch.no_grad():
        some = model(**batch, labels=labels, phone_ids=phone_ids).loss
        frames = (batch["attention_mask"].sum(-1) + 3) // 4
        output = model(**batch)
        expected = model.ctc_loss(output.logits, frames, labels, blank=0).lerp(
            model.ctc_loss(output.phone_logits[:4], frames[:4], phone_ids[:4], blank=0), 0.5
        )
    torch.testing.assert_close(some, expected)
    none = model(**batch, labels=labels, phone_ids=torch.full((16, 1), -100)).loss
    none.backward()
    assert none.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_phones_of_padded_frames_are_blanks(batch):
    model = network(phones=["A", "B", "C"])
    with torch.no_grad():
        phone_logits = model(**batch).phone_logits
    frames = (batch["attention_mask"].sum(-1) + 3) // 4
    padding = ~mask_from_lengths(frames, phone_logits.shape[1])
    assert padding.any()
    assert (phone_logits[padding].argmax(-1) == 0).all()
    assert network().phone_classifier is None
    assert "phone_logits" not in network()(**batch)
