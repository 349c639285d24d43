"""Recipes: what a YAML file may say, what may be said over it, and what is wrong with the others."""

import pytest
from small_runs import tiny_recipe

from hf_speechrec.recipe import Recipe
from hf_speechrec.training import train


@pytest.fixture
def recipe_file(tmp_path):
    def write(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_recipe_is_read_from_yaml(recipe_file):
    path = recipe_file("corpus: data/mine\nmodel: {hidden_size: 64}\naugmentation: null\n")
    recipe = Recipe.from_yaml(path)
    assert (recipe.corpus, recipe.model, recipe.augmentation) == ("data/mine", {"hidden_size": 64}, None)
    assert (recipe.held_out, recipe.training, recipe.folder) == (None, {}, path.parent)


def test_overrides_replace_values_and_reach_into_sections(recipe_file):
    path = recipe_file("corpus: a\nmodel: {hidden_size: 64, conv_channels: 8}\naugmentation:\n")
    overrides = {"corpus": "b", "model.hidden_size": 96, "augmentation.gain_db": 6, "training.seed": 3}
    recipe = Recipe.from_yaml(path, overrides)
    assert recipe.corpus == "b"
    assert recipe.model == {"hidden_size": 96, "conv_channels": 8}
    assert recipe.augmentation == {"gain_db": 6}
    assert recipe.training == {"seed": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: a\nmodle: {}\n", "a recipe has no modle; it has augmentation, card, corpus"),
        ("corpus: a\nfolder: b\n", "a recipe has no folder"),
        ("- corpus\n- model\n", r"expected a recipe \(YAML keys and values\), got list"),
        ("", r"expected a recipe \(YAML keys and values\), got NoneType"),
        ("corpus: [a\n", "not a recipe that can be read"),
        ("train_split: train\n", "expected a corpus"),
        ("corpus: a\nmodel: 3\n", "expected model to be a section .* got 3"),
        ("corpus: a\n1: b\n", "a recipe has no 1"),
        ("corpus: [a]\n", r"expected corpus to be text, got \['a'\]"),
        ("corpus: a\ntask: {a: b}\n", "expected task to be text"),
        ("corpus: a\nmodel: {1: 2}\n", "the section model has no 1"),
        ("corpus: 2001-99-99\n", "not a recipe that can be read"),
        ("corpus: " + "[" * 10_000, "not a recipe that can be read"),
        ("corpus: a\ntask: cooking\n", "expected the task .ctc. or .classification., got .cooking."),
    ],
)
def test_a_file_that_is_not_a_recipe_is_named_with_what_is_wrong(recipe_file, text, message):
    with pytest.raises(ValueError, match=rf"recipe\.yaml: {message}"):
        Recipe.from_yaml(recipe_file(text))


def test_a_missing_or_binary_recipe_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml: not a recipe that can be read .*No such file"):
        Recipe.from_yaml(tmp_path / "nowhere.yaml")
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"recipe\.yaml: not a recipe that can be read"):
        Recipe.from_yaml(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"hiden_size": 8}, "hiden_size"),
        ("model", {"time_reduction": 3}, "expected time_reduction to be one of .* got 3"),
        ("model", {"hidden_size": "big"}, "hidden_size.* expected int, got str"),
        ("model", {"vocab_size": 8}, "vocab_size"),
        ("features", {"mels": 8}, "mels"),
        ("augmentation", {"gain": 8}, "gain"),
        ("normalizer", {"casing": "upper"}, "casing"),
        ("normalizer", {"case": "middle"}, "expected case to be one of .* got 'middle'"),
        ("vocabulary", "words", "expected a vocabulary 'char' or 'bpe:SIZE', got 'words'"),
        ("augmentation", {"speeds": 1.0}, "expected speeds to be numbers, got 1.0"),
        ("augmentation", {"gain_db": "loud"}, "expected gain_db to be a number, got 'loud'"),
        ("augmentation", {"noise_snr_db": [3]}, "expected noise_snr_db to be the lowest and the highest"),
        ("exclude_speakers", "fash", r"expected exclude_speakers to be a list \(\[ann, bob\]\), got 'fash'"),
        ("curriculum_epochs", None, "expected curriculum_epochs to be a whole number, got None"),
        ("early_stopping_patience", 1.5, "expected early_stopping_patience to be a whole number, got 1.5"),
    ],
)
def test_a_mistake_in_a_section_is_a_value_error_that_names_it(an4, tmp_path, section, values, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_recipe(an4, tmp_path / "model", **{section: values}), device="cpu")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_value_has_no_section(recipe_file):
    with pytest.raises(ValueError, match=r"expected corpus to be a section for --corpus.x, it is a value"):
        Recipe.from_yaml(recipe_file("corpus: a\n"), {"corpus.x": 1})


def test_what_grows_when_it_is_written_out_is_shortened(recipe_file):
    """Nine times nine, nine times over: of a line for each level, by references to the one before."""
    levels = "".join(f"  - &l{i + 1} [{', '.join([f'*l{i}'] * 9)}]\n" for i in range(9))
    with pytest.raises(ValueError, match="expected model to be a section") as error:
        Recipe.from_yaml(recipe_file(f"corpus: a\nmodel:\n  - &l0 [x]\n{levels}"))
    assert len(str(error.value)) < 1000
