"""The part to train on and the part to choose by, as a recipe names them."""

import json

import pytest
from small_runs import tiny_recipe

from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.recipe import Recipe
from hf_speechrec.training import train
from hf_speechrec.training_sets import read_sets


@pytest.mark.parametrize("share", ["10", -1, 1, "0", 1.5, "nan"])
def test_a_share_that_is_none_is_an_error_before_the_corpus_is_read(share):
    with pytest.raises(
        ValueError, match=f"held_out: expected a share between 0 and 1, such as 0.1, or none; got {share}"
    ):
        read_sets(Recipe("no-corpus", held_out=share), seed=0)


def test_a_held_out_speaker_may_have_blanks_and_one_who_says_nothing_is_named(an4, tmp_path, caplog):
    names = {"mcel": "Mc El", "mrab": "M Rab"}
    rows = [
        {"path": row["path"], "text": row["text"], "speaker": names.get(row["speaker"], row["speaker"])}
        for row in read_corpus(an4, "train")
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "speakers.txt").write_text("Mc El \n\nM Rab\nnobody at all\n")
    recipe = Recipe(str(tmp_path / "manifest.jsonl"), held_out=str(tmp_path / "speakers.txt"))
    train_set, held = read_sets(recipe, seed=0)
    assert (len(train_set), set(held["speaker"])) == (8, set(names.values()))
    assert caplog.messages == [f"{tmp_path}/speakers.txt: the corpus has no utterance of nobody at all"]


def test_excluded_speakers_are_left_out_by_name_or_number_and_who_says_nothing_is_named(an4_files, tmp_path, caplog):
    rows = [{"path": str(path), "text": "A", "speaker": str(i)} for i, path in enumerate(an4_files[:4])]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text("corpus: manifest.jsonl\nexclude_speakers: [1, 3, 77]\n")
    recipe = Recipe.from_yaml(tmp_path / "recipe.yaml", {"corpus": str(tmp_path / "manifest.jsonl")})
    train_set, _ = read_sets(recipe, seed=0)
    assert train_set["speaker"][:] == ["0", "2"]
    assert caplog.messages == ["exclude_speakers: the corpus has no utterance of 77"]


def test_held_out_speakers_can_be_listed_in_a_file(an4, tmp_path):
    (tmp_path / "speakers.txt").write_text("mcel\nmrab\n")
    recipe = tiny_recipe(an4, tmp_path / "model", held_out="speakers.txt", folder=tmp_path)
    results = json.loads((train(recipe, device="cpu") / "all_results.json").read_text())
    assert results["train_utterances"] == 8
    for names in ("nobody", "\n".join(read_corpus(an4, "train")["speaker"])):
        (tmp_path / "speakers.txt").write_text(names)
        with pytest.raises(CorpusError, match="some of the corpus' speakers, but not all"):
            train(recipe, device="cpu")
    recipe.held_out = "missing.txt"
    with pytest.raises(CorpusError, match=r"missing\.txt: expected a file of held-out speakers, a share"):
        train(recipe, device="cpu")
