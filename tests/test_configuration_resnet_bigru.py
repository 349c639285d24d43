"""The recogniser's configuration: defaults, validation, what is stored, and what is derived."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_speechrec import ResNetBiGruConfig


def test_defaults_are_the_documented_ones():
    config = ResNetBiGruConfig()
    assert config.model_type == "resnet_bigru"
    assert (config.vocab_size, config.num_mel_bins, config.hop_length) == (32, 80, 160)
    assert (config.conv_channels, config.num_residual_blocks, config.share_block_layers) == (32, 3, False)
    assert (config.time_reduction, config.frequency_reduction) == (4, 2)
    assert (config.hidden_size, config.num_hidden_layers) == (192, 3)
    assert (config.conv_dropout, config.hidden_dropout, config.classifier_dropout) == (0.1, 0.2, 0.2)
    assert (config.ctc_loss_reduction, config.ctc_zero_infinity, config.pad_token_id) == ("mean", True, 0)
    assert config.text_normalizer is None


def test_round_trip_through_json_keeps_every_value(tmp_path):
    changed = {
        "vocab_size": 40,
        "num_mel_bins": 64,
        "hop_length": 200,
        "share_block_layers": True,
        "time_reduction": 2,
        "conv_dropout": 0.25,
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": False,
        "text_normalizer": {"case": "lower", "kept_marks": "'ʼ"},
        "pad_token_id": 3,
    }
    config = ResNetBiGruConfig(**changed)
    config.save_pretrained(tmp_path)
    loaded = ResNetBiGruConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in changed} == changed
    assert loaded.to_dict() == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "resnet_bigru"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_reduction", 3),
        ("frequency_reduction", 4),
        ("ctc_loss_reduction", "none"),
        ("vocab_size", 0),
        ("num_mel_bins", 0),
        ("hop_length", -160),
        ("conv_channels", 0),
        ("num_residual_blocks", -1),
        ("hidden_size", 0),
        ("num_hidden_layers", 0),
        ("pad_token_id", 32),
        ("pad_token_id", None),
    ],
)
def test_a_value_out_of_range_is_named_with_what_came(field, value):
    with pytest.raises(StrictDataclassError, match=rf"expected {field} to be .*got {value!r}"):
        ResNetBiGruConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", "big"), ("conv_channels", 1.5), ("share_block_layers", "yes")]
)
def test_a_value_of_the_wrong_type_is_named_with_what_came(field, value):
    with pytest.raises(StrictDataclassError, match=f"'{field}' expected .* {type(value).__name__} .*{value!r}"):
        ResNetBiGruConfig(**{field: value})


def test_no_residual_block_is_allowed():
    assert ResNetBiGruConfig(num_residual_blocks=0).num_residual_blocks == 0


def test_a_key_of_a_later_version_is_kept(tmp_path):
    ResNetBiGruConfig(attention_heads=4).save_pretrained(tmp_path)
    assert ResNetBiGruConfig.from_pretrained(tmp_path).attention_heads == 4


@pytest.mark.parametrize(
    ("hop_length", "time_reduction", "ratio"), [(160, 1, 160), (160, 2, 320), (160, 4, 640), (200, 4, 800)]
)
def test_inputs_to_logits_ratio_is_samples_a_logit_frame(hop_length, time_reduction, ratio):
    config = ResNetBiGruConfig(hop_length=hop_length, time_reduction=time_reduction)
    assert config.inputs_to_logits_ratio == ratio
    assert "inputs_to_logits_ratio" not in config.to_dict()  # derived, so that it cannot disagree
