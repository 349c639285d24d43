"""On an NVIDIA GPU: what a CPU computes, written, trained and resumed there. Skipped where there is none."""

import json

import numpy as np
import pytest
import torch
from small_runs import tiny_recipe, weights

from hf_speechrec import LogMelFeatureExtractor
from hf_speechrec.audio import read_audio
from hf_speechrec.classification import classify
from hf_speechrec.collator import AudioClassificationCollator, CTCCollator
from hf_speechrec.corpora import read_corpus
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.loading import load_classifier, load_model, load_recognizer
from hf_speechrec.model_card import read_facts
from hf_speechrec.streaming import StreamingRecognizer
from hf_speechrec.text import TextNormalizer
from hf_speechrec.training import train
from hf_speechrec.transcription import transcribe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """cuDNN's TensorFloat-32, which is on by default, keeps three digits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def test_features_are_those_of_a_cpu(speech):
    extractor = LogMelFeatureExtractor()
    on_cpu, on_gpu = (
        extractor([speech, speech[:8000]], sampling_rate=16_000, return_tensors="pt", device=device)
        for device in ("cpu", "cuda")
    )
    assert on_gpu["input_features"].is_cuda
    torch.testing.assert_close(on_gpu["input_features"].cpu(), on_cpu["input_features"], rtol=1e-3, atol=1e-3)
    assert on_gpu["attention_mask"].cpu().equal(on_cpu["attention_mask"])


@pytest.mark.parametrize("task", ["ctc", "classification"])
def test_loss_and_gradients_are_those_of_a_cpu(task, an4, speech_commands):
    """Where a CPU trains by functions of its own, a GPU has cuDNN's."""
    name = "an4" if task == "ctc" else "speech-commands"
    model, processor = load_model(name)
    if task == "ctc":
        collator = CTCCollator(processor, TextNormalizer(**model.config.text_normalizer))
        rows = list(read_corpus(an4, "train"))[:4]
    else:
        collator = AudioClassificationCollator(processor, model.config.label2id)
        rows = list(read_labelled_corpus(speech_commands, "train"))[:4]
    batch = collator(rows)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.LSTM):
            module.dropout = 0.0
    model.train()
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        torch.manual_seed(0)
        loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({key: p.grad.cpu().clone() for key, p in model.named_parameters() if p.grad is not None})
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        assert (gradients[1][key] - expected).norm() <= 1e-2 * expected.norm() + 1e-6, key


def test_recordings_get_the_words_of_a_cpu(an4_files):
    on_cpu, on_gpu = (
        list(transcribe(an4_files, load_recognizer("an4", device), word_times=True)) for device in ("cpu", "cuda")
    )
    assert [transcript.text for transcript in on_gpu] == [transcript.text for transcript in on_cpu]
    assert any(transcript.text for transcript in on_gpu)
    for here, there in zip(on_gpu, on_cpu, strict=True):
        assert [word.start for word in here.words] == pytest.approx([word.start for word in there.words], abs=0.021)


def test_a_stream_gets_the_words_of_a_cpu(speech):
    texts = []
    for device in ("cpu", "cuda"):
        recognizer = load_recognizer("an4", device)
        stream = StreamingRecognizer(recognizer.model, recognizer)
        words = [word for piece in np.array_split(speech, 9) for word in stream.feed(piece).words]
        texts.append([word.word for word in [*words, *stream.flush().words]])
    assert texts[0] == texts[1] != []


def test_clips_get_the_labels_of_a_cpu(speech_commands):
    clips = sorted(speech_commands.glob("*/*.opus"))
    on_cpu, on_gpu = (list(classify(clips, load_classifier("speech-commands", device))) for device in ("cpu", "cuda"))
    assert [result.labels[0]["label"] for result in on_gpu] == [result.labels[0]["label"] for result in on_cpu]
    best = [[result.labels[0]["score"] for result in results] for results in (on_gpu, on_cpu)]
    assert best[0] == pytest.approx(best[1], abs=1e-3)


@pytest.mark.parametrize("task", ["ctc", "classification"])
def test_training_takes_the_gpu_by_itself_and_learns(task, an4, speech_commands, tmp_path):
    options = {"max_steps": 60, "learning_rate": 1e-2, "augmentation": None}
    if task == "classification":
        options |= {"task": task, "per_device_train_batch_size": 9}
    folder = train(tiny_recipe(an4 if task == "ctc" else speech_commands, tmp_path / "model", **options))
    assert read_facts(folder)["training"]["hardware"].startswith(f"cuda ({torch.cuda.get_device_name()}")
    state = json.loads((folder / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:2])
    model, _ = load_model(str(folder))
    assert model.device.type == "cpu"
    assert all(weight.isfinite().all() for weight in model.state_dict().values())


def test_a_run_resumed_on_a_gpu_ends_as_the_unbroken_one(an4, tmp_path):
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "augmentation": {}}
    unbroken = train(tiny_recipe(an4, tmp_path / "unbroken", **options), device="cuda")
    resumed = train(
        tiny_recipe(an4, tmp_path / "resumed", **options),
        ["--resume_from_checkpoint", str(unbroken / "checkpoint-4")],
        device="cuda",
    )
    expected = weights(unbroken)
    for name, weight in weights(resumed).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)


def test_samples_of_any_kind_reach_the_gpu(an4_files):
    recognizer = load_recognizer("an4", "cuda")
    samples = read_audio(an4_files[0], 16_000)
    of_file, of_array = transcribe([an4_files[0], samples], recognizer)
    assert of_array.text == of_file.text != ""
