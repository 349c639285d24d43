"""The classifier's configuration: defaults, validation, and what is stored."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_speechrec import BiLstmConfig


def test_defaults_are_the_documented_ones():
    config = BiLstmConfig()
    assert config.model_type == "bilstm"
    assert (config.input_size, config.hidden_size, config.num_hidden_layers) == (80, 128, 2)
    assert (config.pooling, config.dropout, config.label_smoothing) == ("max", 0.2, 0.0)
    assert config.confidence_threshold is None
    assert config.num_labels == 2  # transformers' own


def test_round_trip_through_json_keeps_every_value(tmp_path):
    names = {0: "zéro", 1: "one", 2: "unknown"}
    changed = {
        "input_size": 40,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "pooling": "last",
        "dropout": 0.5,
        "label_smoothing": 0.1,
        "confidence_threshold": 0.65,
        "id2label": names,
        "label2id": {name: i for i, name in names.items()},
    }
    config = BiLstmConfig(**changed)
    config.save_pretrained(tmp_path)
    loaded = BiLstmConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in changed} == changed
    assert loaded.num_labels == 3
    assert loaded.to_dict() == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bilstm"


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_each_pooling_is_allowed(pooling):
    assert BiLstmConfig(pooling=pooling).pooling == pooling


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pooling", "median"),
        ("pooling", ""),
        ("input_size", 0),
        ("hidden_size", -128),
        ("num_hidden_layers", 0),
    ],
)
def test_a_value_out_of_range_is_named_with_what_came(field, value):
    with pytest.raises(StrictDataclassError, match=rf"expected {field} to be .*got {value!r}"):
        BiLstmConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", "big"), ("num_hidden_layers", 1.5), ("pooling", 3), ("confidence_threshold", "high")],
)
def test_a_value_of_the_wrong_type_is_named_with_what_came(field, value):
    with pytest.raises(StrictDataclassError, match=rf"'{field}'[\s\S]*{type(value).__name__}[\s\S]*{value!r}"):
        BiLstmConfig(**{field: value})


def test_a_key_of_a_later_version_is_kept(tmp_path):
    BiLstmConfig(attention_heads=4).save_pretrained(tmp_path)
    assert BiLstmConfig.from_pretrained(tmp_path).attention_heads == 4
