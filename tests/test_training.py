"""Training by a recipe: what it leaves out, what it saves, what it starts from, and that it learns."""

import json
import re
import shutil
import time
from pathlib import Path

import datasets
import pytest
import torch
from small_runs import PNG, TINY, assert_same_weights, tiny_recipe, weights
from transformers import AutoModelForCTC, Trainer, TrainingArguments, Wav2Vec2Processor

from hf_speechrec import LogMelFeatureExtractor, ResNetBiGruConfig, ResNetBiGruForCTC
from hf_speechrec.collator import CTCCollator
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import CorpusError
from hf_speechrec.evaluation import evaluate_recognizer
from hf_speechrec.loading import load_recognizer
from hf_speechrec.model_card import read_facts
from hf_speechrec.pronunciation import lexicon_of, phones_of, read_lexicon
from hf_speechrec.recipe import Recipe
from hf_speechrec.text import TextNormalizer, build_tokenizer, encode
from hf_speechrec.training import train
from hf_speechrec.training_parts import fitted_feature_extractor
from hf_speechrec.training_recognizer import replace_vocabulary, usable_for_ctc
from hf_speechrec.transcription import transcribe


def vocabulary(folder) -> dict[str, int]:
    return Wav2Vec2Processor.from_pretrained(folder).tokenizer.get_vocab()


@pytest.fixture(scope="module")
def checkpoint(an4, tmp_path_factory):
    """A model trained for a moment on AN4."""
    torch.manual_seed(0)
    return train(tiny_recipe(an4, tmp_path_factory.mktemp("checkpoint")), device="cpu")


@pytest.fixture
def manifest(an4, tmp_path):
    """Writes a corpus: AN4's recordings with other transcripts."""

    def write(*texts: str):
        rows = [
            {"path": row["path"], "text": text}
            for row, text in zip(read_corpus(an4, "train").select(range(len(texts))), texts, strict=True)
        ]
        path = tmp_path / "manifest.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


# It learns


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["char", "bpe:40"])
def test_overfit_eight_utterances_are_learnt_to_wer_0_in_under_a_minute(an4, manifest, tmp_path, vocabulary):
    eight = read_corpus(manifest(*read_corpus(an4, "train")["text"][:8]))
    recipe = Recipe(
        corpus=str(tmp_path / "manifest.jsonl"),
        vocabulary=vocabulary,
        model={
            "conv_channels": 4,
            "num_residual_blocks": 1,
            "hidden_size": 128,
            "num_hidden_layers": 1,
            "conv_dropout": 0.0,
            "hidden_dropout": 0.0,
            "classifier_dropout": 0.0,
        },
        features={"feature_size": 40},
        augmentation=None,
        training={
            "output_dir": str(tmp_path / "model"),
            "num_train_epochs": 160,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant_with_warmup",
            "save_strategy": "no",
            "disable_tqdm": True,
        },
    )
    start = time.process_time()  # of one thread, however busy the machine is
    folder = train(recipe, device="cpu")
    assert time.process_time() - start < 60
    report = evaluate_recognizer(load_recognizer(folder, "cpu"), eight)
    assert report["utterances"] == 8
    assert report["wer"] == 0


def test_a_users_own_lines_with_transformers_trainer(an4, tmp_path):
    corpus = read_corpus(an4, "train")
    normalizer = TextNormalizer()
    tokenizer = build_tokenizer(map(normalizer, corpus["text"]))
    processor = Wav2Vec2Processor(LogMelFeatureExtractor(feature_size=20), tokenizer)
    model = ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=len(tokenizer), num_mel_bins=20, **TINY))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=20,
            learning_rate=5e-3,
            per_device_train_batch_size=5,
            remove_unused_columns=False,
            logging_steps=2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=corpus,
        eval_dataset=corpus,
        data_collator=CTCCollator(processor, normalizer),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.75 * before
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 10
    assert losses[-1] < losses[0]


def test_results_and_plot_lie_beside_the_weights(an4, tmp_path):
    folder = train(
        tiny_recipe(an4, tmp_path / "model", held_out=0.2, eval_strategy="steps", eval_steps=2), device="cpu"
    )
    results = json.loads((folder / "all_results.json").read_text())
    assert results["train_utterances"] == 8
    assert results["epoch"] == 2
    assert {"train_loss", "train_hours", "audio_seconds_per_second", "eval_loss", "eval_wer", "eval_cer"} <= set(
        results
    )
    assert results["eval_blank_share"] <= 1
    assert (folder / "training.png").read_bytes().startswith(PNG)
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_wer" in entry] == [2, 4, 4]
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "config.json", "vocab.json"}
    assert not list(folder.rglob("*.partial"))
    assert AutoModelForCTC.from_pretrained(folder).config.text_normalizer == TextNormalizer().to_dict()


def test_the_best_checkpoint_by_wer_is_what_remains(an4, tmp_path):
    recipe = tiny_recipe(
        an4,
        tmp_path / "model",
        held_out=0.2,
        max_steps=6,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        save_total_limit=1,
    )
    folder = train(recipe, device="cpu")
    state = json.loads((folder / "trainer_state.json").read_text())
    wers = {entry["step"]: entry["eval_wer"] for entry in state["log_history"] if "eval_wer" in entry}
    assert state["best_metric"] == min(wers.values())
    best = folder / f"checkpoint-{state['best_global_step']}"
    assert state["best_model_checkpoint"] == str(best)
    assert_same_weights(folder, best)


def test_without_held_out_speakers_nothing_is_evaluated(an4, tmp_path):
    recipe = tiny_recipe(
        an4,
        tmp_path / "model",
        held_out="none",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        early_stopping_patience=2,
    )
    folder = train(recipe, device="cpu")
    results = json.loads((folder / "all_results.json").read_text())
    assert results["train_utterances"] == 10
    assert "eval_wer" not in results


def test_a_run_with_a_held_out_part_keeps_the_best_epoch_and_stops_early(an4, tmp_path):
    changes = {"max_steps": -1, "num_train_epochs": 6, "learning_rate": 0.0}  # never better than the first
    recipe = tiny_recipe(an4, tmp_path / "model", held_out=0.2, early_stopping_patience=2, **changes)
    del recipe.training["save_strategy"]  # nothing said
    folder = train(recipe, device="cpu")
    state = json.loads((folder / "trainer_state.json").read_text())
    assert (state["global_step"], state["max_steps"]) == (6, 12)  # eight utterances, two steps an epoch
    # The first, two that are not better, and what remains once more.
    assert [entry["step"] for entry in state["log_history"] if "eval_wer" in entry] == [2, 4, 6, 6]
    assert state["best_model_checkpoint"] == str(folder / "checkpoint-2")
    assert_same_weights(folder, folder / "checkpoint-2")


def test_the_same_seed_gives_the_same_weights_and_another_does_not(an4, tmp_path):
    first, second, third = (
        train(tiny_recipe(an4, tmp_path / name, seed=seed), device="cpu")
        for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert_same_weights(first, second)
    assert not weights(first)["classifier.0.weight"].equal(weights(third)["classifier.0.weight"])


def test_feature_statistics_are_those_of_the_training_set(an4):
    corpus = read_corpus(an4, "train")
    extractor = fitted_feature_extractor(corpus, feature_size=20)
    collator = CTCCollator(Wav2Vec2Processor(extractor, build_tokenizer(["A"])), TextNormalizer())
    batch = collator(list(corpus))
    frames = batch["input_features"][batch["attention_mask"].bool()]
    torch.testing.assert_close(frames.mean(0), torch.zeros(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(frames.std(0), torch.ones(20), atol=1e-3, rtol=0)


# What CTC can learn


def test_utterances_that_ctc_cannot_learn_are_counted_and_named(processor, caplog):
    rows = [
        {"path": "good.wav", "text": "abba", "duration": 0.2},  # 4 labels and a repeat in 5 frames
        {"path": "short.wav", "text": "abba", "duration": 0.16},  # the same in 4
        {"path": "dots.wav", "text": "...", "duration": 3.0},
        {"path": "foreign.wav", "text": "ñandú", "duration": 3.0},
    ]
    config = ResNetBiGruConfig(time_reduction=4)
    usable = usable_for_ctc(datasets.Dataset.from_list(rows), config, processor, TextNormalizer())
    assert usable["path"] == ["good.wav"]
    assert caplog.messages == [
        "training: left out 3 of 4 rows:\n"
        "  short.wav: 5 labels, more than its 4 frames\n"
        "  dots.wav: no words\n"
        "  foreign.wav: characters outside the vocabulary: Ñ Ú"
    ]


def test_what_is_usable_has_a_finite_loss_and_what_is_not_has_none(processor):
    """The rule against the loss itself."""
    model = ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=len(processor.tokenizer), ctc_zero_infinity=False, **TINY))
    for text, samples in [("ABBA", 3200), ("ABBA", 2560), ("A B", 1920), ("A B", 1280), ("AAA", 2561), ("AAA", 2560)]:
        row = {"path": "x", "text": text, "duration": samples / 16_000}
        features = processor(torch.randn(samples), sampling_rate=16_000, return_tensors="pt")
        labels = torch.tensor([encode(processor.tokenizer, text)])
        loss = model(**features, labels=labels).loss
        if loss.isfinite():
            assert len(usable_for_ctc(datasets.Dataset.from_list([row]), model.config, processor, str)) == 1
        else:
            with pytest.raises(CorpusError, match="labels, more than its"):
                usable_for_ctc(datasets.Dataset.from_list([row]), model.config, processor, str)


def test_no_usable_utterance_is_an_error(processor):
    rows = datasets.Dataset.from_list([{"path": "a.wav", "text": "", "duration": 1.0}])
    with pytest.raises(CorpusError, match=r"not one utterance that CTC can learn \(a\.wav: no words\)"):
        usable_for_ctc(rows, ResNetBiGruConfig(), processor, TextNormalizer())


def test_a_long_list_of_left_out_utterances_is_shortened(processor, caplog):
    rows = [{"path": f"{i}.wav", "text": "A" if i == 0 else "", "duration": 1.0} for i in range(9)]
    usable_for_ctc(datasets.Dataset.from_list(rows), ResNetBiGruConfig(), processor, TextNormalizer())
    assert "left out 8 of 9" in caplog.text
    assert "5.wav: no words\n  … and 3 more" in caplog.text
    assert "6.wav" not in caplog.text


# Phones


@pytest.fixture
def spelled(an4, tmp_path) -> Path:
    """A lexicon that pronounces each word of the corpus as it is spelled."""
    words = {word for text in read_corpus(an4, "train")["text"] for word in text.split()}
    (tmp_path / "lexicon").write_text("".join(f"{word} {' '.join(word.lower())}\n" for word in sorted(words)))
    return tmp_path / "lexicon"


def test_a_lexicon_gives_a_second_head_and_goes_with_the_model(an4, spelled, tmp_path, caplog):
    (tmp_path / "LICENSE.dictionary").write_text("free for any use")
    folder = train(tiny_recipe(an4, tmp_path / "run", lexicon=str(spelled)), device="cpu")
    assert (folder / "LICENSE.dictionary").read_text() == "free for any use"
    model = ResNetBiGruForCTC.from_pretrained(folder)
    lexicon = read_lexicon(spelled)
    assert model.config.phones == phones_of(lexicon) == sorted(model.config.phones)
    assert lexicon_of(model) == lexicon
    head = model.phone_classifier[-1]
    assert head.weight.shape == (1 + len(model.config.phones), TINY["hidden_size"])
    (result,) = transcribe([read_corpus(an4, "train")["path"][0]], load_recognizer(folder, "cpu"), decoder=OfPhones())
    assert result.text == f"{1 + len(model.config.phones)} classes"

    # From there with the same words the head stays, without a lexicon it goes.
    again = {"model_name_or_path": str(folder), "learning_rate": 0.0, "model": {}, "features": {}}
    tuned = train(tiny_recipe(an4, tmp_path / "tuned", lexicon=str(spelled), **again), device="cpu")
    assert weights(tuned)["phone_classifier.3.weight"].equal(weights(folder)["phone_classifier.3.weight"])
    without = train(tiny_recipe(an4, tmp_path / "without", **again), device="cpu")
    assert not any(name.startswith("phone_classifier") for name in weights(without))
    assert "The head for phones is left out: the recipe has no lexicon." in caplog.messages
    assert not (without / "lexicon.txt.gz").exists()


def test_a_lexicon_is_spelled_as_the_transcripts_and_what_it_lacks_is_named(an4, spelled, tmp_path, caplog):
    lines = [line for line in spelled.read_text().splitlines() if not line.startswith("TWO ")]
    other = tmp_path / "lower"
    other.write_text("\n".join(f"{word.lower()} {phones}" for word, phones in (x.split(" ", 1) for x in lines)))
    folder = train(tiny_recipe(an4, tmp_path / "run", lexicon=str(other)), device="cpu")
    assert set(read_lexicon(folder / "lexicon.txt.gz")) == set(read_lexicon(spelled)) - {"TWO"}
    assert re.search(r"lower: \d+\.\d % of the words said are not in it \(TWO, …\)", caplog.text)
    other.write_text("xerxes Z ER")
    with pytest.raises(CorpusError, match="expected a lexicon of the transcripts' words, it has none of them"):
        train(tiny_recipe(an4, tmp_path / "none", lexicon=str(other)), device="cpu")


def test_a_new_run_does_not_keep_the_language_model_of_the_one_before(an4, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    files = [tmp_path / "run" / f"language_model.{suffix}" for suffix in ("arpa.gz", "json")]
    for file in files:
        file.write_text("{}")
    train(tiny_recipe(an4, tmp_path / "run", save_strategy="steps", save_steps=2), device="cpu")
    assert not any(file.exists() for file in files)
    assert "language_model.arpa.gz: removed, it was made for the model that is replaced" in caplog.text
    files[0].write_text("")
    train(tiny_recipe(an4, tmp_path / "run", max_steps=5), ["--resume_from_checkpoint", "true"], device="cpu")
    assert files[0].exists()


class OfPhones:
    """A decoder that counts the classes that it is given."""

    head = "phone_logits"

    def __call__(self, log_probs: torch.Tensor) -> str:
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(log_probs)))
        return f"{log_probs.shape[1]} classes"


def test_a_classifier_has_no_lexicon(speech_commands, tmp_path):
    with pytest.raises(ValueError, match="a lexicon and a normalizer are for recognisers"):
        tiny_recipe(speech_commands, tmp_path, task="classification", lexicon="x")


# Fine-tuning


def test_a_replaced_head_keeps_the_rows_of_shared_pieces(caplog):
    model = ResNetBiGruForCTC(ResNetBiGruConfig(vocab_size=6, num_mel_bins=20, **TINY))
    old = {"<pad>": 0, "|": 1, "<unk>": 2, "A": 3, "B": 4, "C": 5}
    new = {"<pad>": 0, "|": 1, "<unk>": 2, "B": 3, "D": 4}
    before = model.classifier[-1]
    replace_vocabulary(model, old, new)
    after = model.classifier[-1]
    for piece in ("<pad>", "|", "<unk>", "B"):
        assert after.weight[new[piece]].equal(before.weight[old[piece]])
        assert after.bias[new[piece]] == before.bias[old[piece]]
    assert not any(after.weight[new["D"]].equal(row) for row in before.weight)
    assert model.config.vocab_size == 5
    assert model(torch.randn(1, 8, 20)).logits.shape == (1, 2, 5)
    assert after.weight.requires_grad
    assert caplog.messages == [
        "The head is new: 5 classes, of which 4 keep the checkpoint's weights and 1 are initialised anew."
    ]


def fine_tuned(checkpoint, corpus, tmp_path, vocabulary=None, **changes):
    recipe = tiny_recipe(
        corpus, tmp_path / "tuned", model_name_or_path=str(checkpoint), vocabulary=vocabulary, **changes
    )
    return train(recipe, ["--max_steps", "2"], device="cpu")


def test_fine_tuning_keeps_vocabulary_and_weights_as_it_starts(checkpoint, an4, tmp_path):
    folder = fine_tuned(checkpoint, an4, tmp_path, learning_rate=0.0)
    assert_same_weights(folder, checkpoint)
    assert vocabulary(folder) == vocabulary(checkpoint)
    assert read_facts(folder)["training"]["started_from"] == f"PATH/{checkpoint.name}"


def test_fine_tuning_with_the_vocabulary_kept_leaves_out_foreign_characters(checkpoint, manifest, tmp_path, caplog):
    folder = fine_tuned(checkpoint, manifest("REPEAT", "ÉTÉ", "TWO"), tmp_path)
    assert vocabulary(folder) == vocabulary(checkpoint)
    assert "left out 1 of 3 rows" in caplog.text
    assert "characters outside the vocabulary: É" in caplog.text
    assert "stand, the recipe's do not apply" not in caplog.text
    assert not weights(folder)["classifier.3.bias"].equal(weights(checkpoint)["classifier.3.bias"])


def test_a_normaliser_that_does_not_apply_is_named(checkpoint, manifest, tmp_path, caplog):
    fine_tuned(checkpoint, manifest("REPEAT", "TWO"), tmp_path, normalizer={"case": "lower"})
    assert f"{checkpoint}: its own case stand, the recipe's do not apply" in caplog.messages


def test_fine_tuning_with_an_extended_vocabulary_keeps_every_old_class(checkpoint, manifest, tmp_path, caplog):
    folder = fine_tuned(checkpoint, manifest("REPEAT", "ÉTÉ", "TWO Ñ"), tmp_path, "extend", learning_rate=0.0)
    old, new = vocabulary(checkpoint), vocabulary(folder)
    assert new == old | {"É": len(old), "Ñ": len(old) + 1}
    head, old_head = weights(folder)["classifier.3.weight"], weights(checkpoint)["classifier.3.weight"]
    assert head.shape == (len(new), 16)
    assert head[: len(old)].equal(old_head)
    assert AutoModelForCTC.from_pretrained(folder).config.vocab_size == len(new)
    assert f"{len(old)} keep the checkpoint's weights and 2 are initialised anew" in caplog.text


def test_fine_tuning_with_a_replaced_vocabulary_takes_the_transcripts(checkpoint, manifest, tmp_path):
    folder = fine_tuned(checkpoint, manifest("ÉTÉ", "TE"), tmp_path, "char", learning_rate=0.0)
    old, new = vocabulary(checkpoint), vocabulary(folder)
    assert new == {"<pad>": 0, "|": 1, "<unk>": 2, "E": 3, "T": 4, "É": 5}
    head, old_head = weights(folder)["classifier.3.weight"], weights(checkpoint)["classifier.3.weight"]
    assert head[new["T"]].equal(old_head[old["T"]])
    encoder = "encoder.linear.weight"
    assert weights(folder)[encoder].equal(weights(checkpoint)[encoder])


def test_fine_tuning_can_change_the_normaliser_with_the_vocabulary(checkpoint, manifest, tmp_path):
    folder = fine_tuned(checkpoint, manifest("été", "te"), tmp_path, "char", normalizer={"case": "lower"})
    assert set(vocabulary(folder)) == {"<pad>", "|", "<unk>", "e", "t", "é"}
    stored = AutoModelForCTC.from_pretrained(folder).config.text_normalizer
    assert stored == TextNormalizer(case="lower").to_dict()


def test_fine_tuning_uses_the_checkpoints_feature_statistics(checkpoint, an4, tmp_path):
    folder = fine_tuned(checkpoint, an4, tmp_path)
    old, new = (Wav2Vec2Processor.from_pretrained(path).feature_extractor for path in (checkpoint, folder))
    assert old.feature_mean
    assert (new.feature_mean, new.feature_std) == (old.feature_mean, old.feature_std)


@pytest.mark.parametrize("damage", ["weights", "truncated", "config", "folder"])
def test_a_checkpoint_that_cannot_be_loaded_is_a_value_error_that_names_it(checkpoint, an4, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    if damage == "weights":
        (broken / "model.safetensors").unlink()
    elif damage == "truncated":
        (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
    elif damage == "config":
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(config | {"hidden_size": "big"}))
    else:
        shutil.rmtree(broken)
    with pytest.raises(ValueError, match="broken"):
        fine_tuned(broken, an4, tmp_path)
