"""Training by a recipe: what it reads, what it leaves out, what it saves, and that it learns."""

import json
import logging
import shutil
import time
from itertools import pairwise
from types import SimpleNamespace

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCTC, Trainer, TrainerCallback, TrainingArguments, Wav2Vec2Processor
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_speechrec import LogMelFeatureExtractor, ResNetBiGruConfig, ResNetBiGruForCTC
from hf_speechrec.augmentation import Augmentation
from hf_speechrec.collator import CTCCollator
from hf_speechrec.corpora import CorpusError, read_corpus
from hf_speechrec.evaluation import evaluate_recognizer
from hf_speechrec.recipe import Recipe
from hf_speechrec.text import TextNormalizer, build_tokenizer, encode
from hf_speechrec.trainer import PARTIAL, EpochSampler, SpeechTrainer, plot_history, training_arguments
from hf_speechrec.training import fitted_feature_extractor, replace_vocabulary, train, usable_for_ctc
from hf_speechrec.transcription import load_recognizer

TINY = {"conv_channels": 2, "num_residual_blocks": 1, "hidden_size": 16, "num_hidden_layers": 1}
PNG = b"\x89PNG\r\n\x1a\n"


def tiny_recipe(corpus, output_dir, **changes) -> Recipe:
    """A recipe that takes a moment; what is not the recipe's goes to its training arguments."""
    recipe = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    return Recipe(
        corpus=str(corpus),
        train_split="train",
        **{"model": TINY, "features": {"feature_size": 20}} | recipe,
        training={
            "output_dir": str(output_dir),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
        }
        | changes,
    )


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(folder, other) -> None:
    expected = weights(other)
    assert weights(folder).keys() == expected.keys()
    assert [name for name, weight in weights(folder).items() if not weight.equal(expected[name])] == []


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
def test_overfit_eight_utterances_are_learnt_to_wer_0_in_under_a_minute(an4, manifest, tmp_path):
    eight = read_corpus(manifest(*read_corpus(an4, "train")["text"][:8]))
    recipe = Recipe(
        corpus=str(tmp_path / "manifest.jsonl"),
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


def test_held_out_speakers_can_be_listed_in_a_file(an4, tmp_path):
    (tmp_path / "speakers.txt").write_text("mcel\nmrab\n")
    recipe = tiny_recipe(an4, tmp_path / "model", held_out="speakers.txt", folder=tmp_path)
    results = json.loads((train(recipe, device="cpu") / "all_results.json").read_text())
    assert results["train_utterances"] == 8
    for names in ("nobody", " ".join(read_corpus(an4, "train")["speaker"])):
        (tmp_path / "speakers.txt").write_text(names)
        with pytest.raises(CorpusError, match="some of the corpus' speakers, but not all"):
            train(recipe, device="cpu")
    recipe.held_out = "missing.txt"
    with pytest.raises(CorpusError, match=r"missing\.txt: expected a file of held-out speakers or a share"):
        train(recipe, device="cpu")


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


# Recipes


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
        ("corpus: a\nmodle: {}\n", "a recipe has no modle; it has augmentation, corpus"),
        ("corpus: a\nfolder: b\n", "a recipe has no folder"),
        ("- corpus\n- model\n", r"expected a recipe \(YAML keys and values\), got list"),
        ("", r"expected a recipe \(YAML keys and values\), got NoneType"),
        ("corpus: [a\n", "not a recipe that can be read"),
        ("train_split: train\n", "expected a corpus"),
        ("corpus: a\nmodel: 3\n", "expected model to be a section .* got 3"),
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
    ],
)
def test_a_mistake_in_a_section_is_a_value_error_that_names_it(an4, tmp_path, section, values, message):
    with pytest.raises(ValueError, match=message):
        train(tiny_recipe(an4, tmp_path / "model", **{section: values}), device="cpu")
    assert not list(tmp_path.rglob("*.safetensors"))


# Training arguments


def test_an_unknown_argument_of_a_recipe_is_named():
    with pytest.raises(ValueError, match=r"TrainingArguments has no learning_rat$"):
        training_arguments({"learning_rat": 1e-3})


def test_an_unknown_argument_of_the_command_line_is_named():
    with pytest.raises(ValueError, match=r"neither an option of this command nor of .*: --learning-rates 1"):
        training_arguments({}, ["--learning-rates", "1"])


def test_a_value_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"num-train-epochs.*'many'"):
        training_arguments({}, ["--num-train-epochs", "many"])
    with pytest.raises(ValueError, match=r"num_train_epochs.*many"):
        training_arguments({"num_train_epochs": "many"})


@pytest.mark.parametrize("name", ["--num-train-epochs", "--num_train_epochs"])
def test_either_spelling_of_an_argument_goes_before_the_recipe(tmp_path, name):
    values = {"num_train_epochs": 60, "seed": 5, "output_dir": str(tmp_path)}
    args = training_arguments(values, [name, "3"], "cpu")
    assert (args.num_train_epochs, args.seed) == (3, 5)


def test_yaml_strings_become_numbers_and_our_defaults_stand_behind(tmp_path):
    # YAML 1.1 reads 1e-3, without a point, as a string.
    args = training_arguments({"learning_rate": "1e-4", "output_dir": str(tmp_path)}, device="cpu")
    assert args.learning_rate == 1e-4
    assert args.remove_unused_columns is False
    assert (args.metric_for_best_model, args.greater_is_better) == ("wer", False)
    assert (args.max_grad_norm, args.warmup_steps) == (1.0, 0.05)
    assert args.device.type == "cpu"


def test_switches_can_be_turned_off(tmp_path):
    values = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    arguments = ["--load_best_model_at_end", "false", "--output-dir", str(tmp_path)]
    assert training_arguments(values, arguments, "cpu").load_best_model_at_end is False


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_named(device):
    if device in ("cuda", "mps") and getattr(torch.backends if device == "mps" else torch, device).is_available():
        pytest.skip(f"{device} is there")
    with pytest.raises(ValueError, match=f"expected a device among cpu.* got {device}"):
        training_arguments({}, device=device)


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
        "Left out 3 of 4 utterances:\n"
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
    assert "Left out 8 of 9" in caplog.text
    assert "5.wav: no words\n  … and 3 more" in caplog.text
    assert "6.wav" not in caplog.text


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


def test_fine_tuning_with_the_vocabulary_kept_leaves_out_foreign_characters(checkpoint, manifest, tmp_path, caplog):
    folder = fine_tuned(checkpoint, manifest("REPEAT", "ÉTÉ", "TWO"), tmp_path)
    assert vocabulary(folder) == vocabulary(checkpoint)
    assert "Left out 1 of 3 utterances" in caplog.text
    assert "characters outside the vocabulary: É" in caplog.text
    assert not weights(folder)["classifier.3.bias"].equal(weights(checkpoint)["classifier.3.bias"])


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


# Checkpoints


def checkpointing(an4, folder, **changes) -> Recipe:
    """Eight steps over 10 utterances in batches of 4, saved in mid-epoch, with every source of chance."""
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "augmentation": {}}
    return tiny_recipe(an4, folder, **options | changes)


WHOLE = {
    "config.json",
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
    "vocab.json",
    "processor_config.json",
}


@pytest.fixture(scope="module")
def unbroken(an4, tmp_path_factory):
    return train(checkpointing(an4, tmp_path_factory.mktemp("unbroken") / "model"), device="cpu")


def test_each_checkpoint_is_whole_and_nothing_partial_is_left(unbroken):
    checkpoints = sorted(unbroken.glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-4", "checkpoint-8"]
    for path in checkpoints:
        assert {file.name for file in path.iterdir()} >= WHOLE
        state = json.loads((path / "trainer_state.json").read_text())
        assert f"checkpoint-{state['global_step']}" == path.name
        assert AutoModelForCTC.from_pretrained(path).num_parameters() > 0
    assert not list(unbroken.rglob("*.partial*"))
    assert not (unbroken / PARTIAL).exists()


def test_only_the_newest_checkpoints_are_kept(an4, tmp_path):
    folder = train(checkpointing(an4, tmp_path / "model", save_steps=2, save_total_limit=2), device="cpu")
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("method", ["_save_optimizer_and_scheduler", "_save_rng_state", "save_model"])
def test_a_crash_while_saving_leaves_no_half_written_checkpoint_and_is_resumed(
    an4, unbroken, tmp_path, monkeypatch, method
):
    folder, whole = tmp_path / "model", getattr(SpeechTrainer, method)

    def cut_at_step_8(self, *args, **kwargs):
        if self.state.global_step == 8:
            raise PowerCutError
        whole(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SpeechTrainer, method, cut_at_step_8)
        with pytest.raises(PowerCutError):
            train(checkpointing(an4, folder), device="cpu")
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    assert {file.name for file in (folder / "checkpoint-4").iterdir()} >= WHOLE
    assert not (folder / "model.safetensors").exists()

    train(checkpointing(an4, folder), ["--resume_from_checkpoint", "true"], device="cpu")
    assert_same_weights(folder, unbroken)
    assert not (folder / PARTIAL).exists()


def test_a_crash_while_the_final_model_is_saved_leaves_the_checkpoints(an4, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr("hf_speechrec.trainer.plot_history", lambda *_: (_ for _ in ()).throw(PowerCutError))
        with pytest.raises(PowerCutError):
            train(checkpointing(an4, folder), device="cpu")
    assert not (folder / "model.safetensors").exists()
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


def test_a_resumed_run_gives_the_weights_and_the_curve_of_an_unbroken_one(an4, unbroken, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(unbroken / "checkpoint-4", folder / "checkpoint-4")
    train(checkpointing(an4, folder), ["--resume_from_checkpoint", "true"], device="cpu")
    assert_same_weights(folder, unbroken)
    assert not weights(folder / "checkpoint-4")["classifier.3.bias"].equal(weights(folder)["classifier.3.bias"])
    curves = [
        [
            (entry["step"], entry["loss"], entry["learning_rate"])
            for entry in json.loads((path / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for path in (folder, unbroken)
    ]
    assert len(curves[1]) == 8
    assert curves[0] == curves[1]


def test_the_order_of_utterances_follows_from_seed_and_epoch_alone():
    lengths = [float(i % 7) for i in range(50)]

    def order(seed: int, epoch: float) -> list[int]:
        trainer = SimpleNamespace(args=SimpleNamespace(seed=seed), state=SimpleNamespace(epoch=epoch))
        return list(EpochSampler(LengthGroupedSampler(4, lengths=lengths), trainer))

    first = order(1, 2.0)
    torch.manual_seed(99)
    assert order(1, 2.6) == first  # resumed in the middle of epoch 2
    assert sorted(first) == list(range(50))
    assert order(1, 3.0) != first
    assert order(2, 2.0) != first
    # Similar lengths come together: at random, neighbours differ by 2.3 on average.
    assert sum(abs(lengths[a] - lengths[b]) for a, b in pairwise(first)) < 49 * 1.2


def test_augmentation_follows_from_seed_epoch_and_utterances_alone(an4, processor):
    rows = [row | {"augment": True} for row in read_corpus(an4, "train").select(range(2))]
    collator = CTCCollator(processor, TextNormalizer(), Augmentation(), seed=1)
    before = torch.get_rng_state()
    first = collator(rows)["input_features"]
    assert torch.get_rng_state().equal(before)  # the model's dropout goes on as if nothing had been drawn
    torch.manual_seed(99)
    assert collator(rows)["input_features"].equal(first)
    collator.epoch.fill_(1)
    assert not torch.equal(collator(rows)["input_features"], first)


def test_workers_of_the_data_loader_change_nothing(an4, unbroken, tmp_path):
    folder = train(checkpointing(an4, tmp_path / "model", dataloader_num_workers=2), device="cpu")
    assert_same_weights(folder, unbroken)


class StepRecorder(TrainerCallback):
    def __init__(self):
        self.trainer, self.steps, self.epochs = None, [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)
        self.epochs.append(int(self.trainer.data_collator.epoch))


@pytest.fixture
def taken(monkeypatch) -> StepRecorder:
    """The steps that a training run really takes."""
    recorder, original = StepRecorder(), SpeechTrainer.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(recorder)
        recorder.trainer = self

    monkeypatch.setattr(SpeechTrainer, "__init__", init)
    return recorder


def test_resuming_takes_the_newest_checkpoint(an4, unbroken, tmp_path, taken):
    folder = tmp_path / "model"
    # By number, not by name or time: as a string 10 comes before 4.
    shutil.copytree(unbroken / "checkpoint-8", folder / "checkpoint-10")
    shutil.copytree(unbroken / "checkpoint-4", folder / "checkpoint-4")
    (folder / "checkpoint-best").mkdir()
    train(checkpointing(an4, folder, max_steps=9), ["--resume_from_checkpoint", "true"], device="cpu")
    assert taken.steps == [9]


def test_resuming_takes_the_checkpoint_that_is_named(an4, unbroken, tmp_path, taken):
    named = str(unbroken / "checkpoint-4")
    train(checkpointing(an4, tmp_path / "model"), ["--resume_from_checkpoint", named], device="cpu")
    assert taken.steps == [5, 6, 7, 8]
    assert taken.epochs == [1, 1, 2, 2]  # of three steps each


def test_resuming_without_a_checkpoint_starts_anew_with_a_notice(an4, tmp_path, caplog, taken):
    train(tiny_recipe(an4, tmp_path / "model"), ["--resume_from_checkpoint", "true"], device="cpu")
    assert taken.steps == [1, 2, 3, 4]
    assert "no checkpoint to resume from yet, starting anew" in caplog.text


def test_resuming_from_what_is_no_checkpoint_is_an_error(an4, tmp_path):
    with pytest.raises(ValueError, match="nowhere: expected a checkpoint folder to resume from"):
        train(tiny_recipe(an4, tmp_path / "model"), ["--resume_from_checkpoint", str(tmp_path / "nowhere")], "cpu")


# Plot


def test_a_history_is_drawn(tmp_path):
    history = [
        {"epoch": 1.0, "loss": 3.0},
        {"epoch": 1.0, "eval_loss": 2.5, "eval_wer": 0.9},
        {"epoch": 2.0, "loss": 1.0},
        {"epoch": 2.0, "eval_loss": 1.5, "eval_wer": 0.4},
    ]
    plot_history(history, tmp_path / "full.png")
    plot_history(history[:1], tmp_path / "short.png")
    full, short = ((tmp_path / name).read_bytes() for name in ("full.png", "short.png"))
    assert full.startswith(PNG)
    assert short.startswith(PNG)
    assert len(full) > len(short)


def test_a_history_without_a_figure_is_drawn_too(tmp_path):
    plot_history([{"train_runtime": 1.0}], tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(PNG)


@pytest.fixture(autouse=True)
def package_log(caplog):
    caplog.set_level(logging.WARNING, logger="hf_speechrec")
