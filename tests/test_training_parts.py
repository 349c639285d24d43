from hf_speechrec.recipe import Recipe
from hf_speechrec.training_parts import load_start


def test_a_run_that_starts_from_a_checkpoint_chooses_its_own_regularization(caplog):
    model, _ = load_start(Recipe("corpus", model_name_or_path="an4", model={"hidden_dropout": 0.42}))
    assert {layer.dropout.p for layer in model.gru_layers} == {0.42}
    assert model.config.hidden_dropout == 0.42
    assert not caplog.records


def test_sizes_and_features_of_a_checkpoint_stand_and_a_warning_names_those_that_differ(caplog):
    wanted = {"model": {"hidden_size": 64, "num_hidden_layers": 3}, "features": {"feature_size": 40}}
    model, processor = load_start(Recipe("corpus", model_name_or_path="an4", **wanted))
    assert (model.config.hidden_size, processor.feature_extractor.feature_size) == (256, 80)
    (record,) = caplog.records
    assert record.getMessage() == "an4: its own feature_size, hidden_size stand, the recipe's do not apply"


def test_a_classifier_chooses_its_own_regularization_too():
    recipe = Recipe("corpus", "classification", model_name_or_path="speech-commands", model={"dropout": 0.05})
    model, _ = load_start(recipe)
    assert model.config.dropout == 0.05
