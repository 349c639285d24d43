"""Batches: padded features, masks and labels, and a run that goes on past a file that cannot be read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import RATE

from hf_speechrec import LogMelFeatureExtractor
from hf_speechrec.audio import AudioError, read_audio
from hf_speechrec.augmentation import Augmentation
from hf_speechrec.collator import MOST_FAILED_READS, AudioClassificationCollator, CTCCollator
from hf_speechrec.corpora import read_corpus
from hf_speechrec.labelled_corpora import read_labelled_corpus
from hf_speechrec.pronunciation import phone_ids
from hf_speechrec.text import TextNormalizer, encode

TWICE_AS_FAST = Augmentation(
    speeds=[2.0], gain_db=0.0, noise_probability=0.0, silence_probability=0.0, time_masks=0, mel_masks=0
)


@pytest.fixture
def collator(processor) -> CTCCollator:
    return CTCCollator(processor, TextNormalizer())


@pytest.fixture(scope="session")
def rows(an4) -> list[dict]:
    return read_corpus(an4, "test").to_list()


def frames_of(row: dict) -> int:
    return -(-len(read_audio(row["path"], RATE)) // 160)


def test_features_and_mask_have_the_frames_of_each_utterance(collator, rows):
    batch = collator(rows)
    frames = [frames_of(row) for row in rows]
    assert len(set(frames)) > 1
    assert batch["input_features"].shape == (8, max(frames), 80)
    assert batch["input_features"].dtype == torch.float32
    assert batch["attention_mask"].sum(-1).tolist() == frames
    for features, mask, row in zip(batch["input_features"], batch["attention_mask"], rows, strict=True):
        alone = collator([row])["input_features"][0]
        torch.testing.assert_close(features[mask.bool()], alone, atol=1e-4, rtol=0)
        assert not features[~mask.bool()].any()


def test_labels_are_the_tokenizers_and_padded_with_what_the_loss_ignores(collator, rows):
    labels = collator(rows)["labels"]
    expected = [encode(collator.processor.tokenizer, row["text"]) for row in rows]
    assert labels.shape == (8, max(map(len, expected)))
    assert labels.dtype == torch.long
    for row, ids, text in zip(labels.tolist(), expected, [row["text"] for row in rows], strict=True):
        assert row == ids + [-100] * (len(row) - len(ids))
        assert collator.processor.tokenizer.decode(ids, group_tokens=False) == text


def test_transcripts_are_normalised(collator, rows):
    spelled = collator([{**rows[0], "text": "Route sixty-six, don't stop!"}])["labels"]
    assert torch.equal(spelled, collator([{**rows[0], "text": "ROUTE SIXTY SIX DON'T STOP"}])["labels"])
    assert torch.equal(spelled, collator([{**rows[0], "text": "route 66 DON’T stop"}])["labels"])


def test_phones_are_labels_too_where_all_words_are_known(processor, rows):
    lexicon = {word: [["A", "B"]] for word in rows[0]["text"].split()}
    collator = CTCCollator(processor, TextNormalizer(), pronounce=lambda words: phone_ids(words, lexicon, ["A", "B"]))
    batch = collator([rows[0], {**rows[1], "text": "SOMETHING ELSE"}])
    words = len(rows[0]["text"].split())
    assert batch["phone_ids"].tolist() == [[1, 2] * words, [-100] * (2 * words)]
    assert "phone_ids" not in CTCCollator(processor, TextNormalizer())([rows[0]])


def test_rows_without_text_give_no_labels(collator, rows):
    batch = collator([{"path": row["path"]} for row in rows])
    assert set(batch) == {"input_features", "attention_mask"}


def test_rows_of_a_hub_data_set_carry_their_audio(collator, rows, an4_files):
    by_path = {str(path): path.read_bytes() for path in an4_files}
    carried = [{"audio": {"bytes": by_path[row["path"]], "path": None}, "text": row["text"]} for row in rows]
    batch, expected = collator(carried), collator(rows)
    for name in expected:
        assert torch.equal(batch[name], expected[name])


# Augmentation


JOINED = Augmentation(
    speeds=[1.0],
    gain_db=0.0,
    noise_probability=0.0,
    silence_probability=0.0,
    silence_seconds=0.5,
    time_masks=0,
    mel_masks=0,
    join_probability=1.0,
)


def test_joined_utterances_have_all_frames_and_words_in_order(processor, rows):
    collator = CTCCollator(processor, TextNormalizer(), JOINED)
    words = " ".join(row["text"] for row in rows).split()
    sizes = set()
    for seed in range(6):
        torch.manual_seed(seed)
        batch = collator([{**row, "augment": True} for row in rows])
        sizes.add(len(batch["labels"]))
        texts = [
            processor.tokenizer.decode([i for i in ids if i >= 0], group_tokens=False)
            for ids in batch["labels"].tolist()
        ]
        assert " ".join(texts).split() == words
        frames = sum(frames_of(row) for row in rows)
        assert frames - 8 <= int(batch["attention_mask"].sum()) <= frames + 50 * len(rows)
        assert len(batch["input_features"]) == len(batch["labels"])
    assert sizes == {2, 4}


def test_without_the_wish_nothing_is_joined(processor, rows):
    collator = CTCCollator(processor, TextNormalizer(), JOINED)
    assert len(collator(rows)["labels"]) == len(rows)
    collator = CTCCollator(processor, TextNormalizer(), replace(JOINED, join_probability=0.0))
    assert len(collator([{**row, "augment": True} for row in rows])["labels"]) == len(rows)


def test_a_recording_without_speech_has_no_words_among_the_joined(processor, rows, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_text("no audio")
    collator = CTCCollator(processor, TextNormalizer(), JOINED)
    torch.manual_seed(1)
    batch = collator([{"path": str(broken), "text": "NEVER SAID", "augment": True}, {**rows[0], "augment": True}])
    (ids,) = batch["labels"].tolist()
    assert processor.tokenizer.decode(ids, group_tokens=False) == rows[0]["text"]


def test_clips_of_one_label_cannot_be_joined(speech_commands):
    rows = read_labelled_corpus(speech_commands, "train").to_list()[:2]
    collator = AudioClassificationCollator(LogMelFeatureExtractor(), {"yes": 0, "no": 1, "_silence_": 2}, JOINED)
    with pytest.raises(ValueError, match="utterances of one label cannot be joined"):
        collator([{**row, "augment": True} for row in rows])


def test_only_rows_that_ask_for_it_are_augmented(processor, rows):
    collator = CTCCollator(processor, TextNormalizer(), TWICE_AS_FAST)
    asked = [{**row, "augment": i % 2 == 0} for i, row in enumerate(rows)]
    frames = collator(asked)["attention_mask"].sum(-1).tolist()
    for i, row in enumerate(rows):
        samples = len(read_audio(row["path"], RATE))
        assert frames[i] == (-(-samples // 320) if i % 2 == 0 else -(-samples // 160))
    # A corpus for evaluation has no such column.
    assert collator(rows)["attention_mask"].sum(-1).tolist() == [frames_of(row) for row in rows]


def test_the_first_epochs_hear_utterances_as_they_are(processor, rows):
    collator = CTCCollator(processor, TextNormalizer(), TWICE_AS_FAST)
    collator.plain_epochs = 2
    asked = [{**row, "augment": True} for row in rows]
    plain = [frames_of(row) for row in rows]
    for epoch, expected in ((0, plain), (1, plain), (2, None)):
        collator.epoch.fill_(epoch)
        frames = collator(asked)["attention_mask"].sum(-1).tolist()
        assert frames == expected if expected else sum(frames) < 0.6 * sum(plain)


def test_an_utterance_replaced_by_silence_has_no_words(processor, rows):
    nothing = replace(TWICE_AS_FAST, speeds=[1.0], empty_probability=1.0)
    batch = CTCCollator(processor, TextNormalizer(), nothing)([{**row, "augment": True} for row in rows])
    assert batch["labels"].numel() == 0
    assert batch["attention_mask"].sum(-1).tolist() == [frames_of(row) for row in rows]


def test_without_augmentation_the_column_changes_nothing(collator, rows):
    asked = [{**row, "augment": True} for row in rows]
    assert torch.equal(collator(asked)["input_features"], collator(rows)["input_features"])


def test_masks_lie_within_each_utterance_and_leave_the_padding_alone(processor, rows):
    masks = Augmentation(
        speeds=[1.0], gain_db=0.0, noise_probability=0.0, silence_probability=0.0, time_masks=2, mel_masks=2
    )
    plain = CTCCollator(processor, TextNormalizer())(rows)
    asked = [{**row, "augment": i != 0} for i, row in enumerate(rows)]
    masked = CTCCollator(processor, TextNormalizer(), masks)(asked)
    assert torch.equal(masked["attention_mask"], plain["attention_mask"])
    assert torch.equal(masked["input_features"][0], plain["input_features"][0])
    for features, before, mask in zip(
        masked["input_features"][1:], plain["input_features"][1:], plain["attention_mask"][1:].bool(), strict=True
    ):
        changed = features != before
        assert changed[mask].any()
        assert not changed[~mask].any()
        assert not features[changed].any()  # a mask is zero


# Files that cannot be read


@pytest.fixture
def spoiled(rows, tmp_path) -> list[dict]:
    """Eight rows, the fourth of which is a letter."""
    (tmp_path / "letter.wav").write_text("Dear Sir")
    return [*rows[:3], {**rows[3], "path": str(tmp_path / "letter.wav")}, *rows[4:]]


def test_an_unreadable_file_becomes_silence_without_words(collator, rows, spoiled):
    batch, whole = collator(spoiled), collator(rows)
    assert len(batch["input_features"]) == 8
    assert batch["labels"][3].eq(-100).all()
    assert batch["attention_mask"][3].sum() == 10  # a tenth of a second
    silence = collator.processor.feature_extractor(
        np.zeros(RATE // 10, np.float32), sampling_rate=RATE, return_tensors="pt"
    )["input_features"][0]
    torch.testing.assert_close(batch["input_features"][3, :10], silence)
    for i in (0, 1, 2, 4, 5, 6, 7):
        frames = int(whole["attention_mask"][i].sum())
        torch.testing.assert_close(batch["input_features"][i, :frames], whole["input_features"][i, :frames])
        ids = [label for label in batch["labels"][i].tolist() if label != -100]
        assert ids == [label for label in whole["labels"][i].tolist() if label != -100]


def test_an_unreadable_file_is_counted_each_time_and_named_once(collator, spoiled, caplog):
    for _ in range(3):
        collator(spoiled)
    ((message, count),) = collator.unreadable.items()
    assert count == int(collator.failed_reads) == 3
    assert message.startswith(spoiled[3]["path"])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert spoiled[3]["path"] in record.getMessage()


def test_a_batch_of_nothing_readable_still_has_its_shape(collator, spoiled):
    batch = collator([spoiled[3], spoiled[3]])
    assert batch["input_features"].shape == (2, 10, 80)
    assert batch["labels"].shape == (2, 0)


def test_many_recordings_in_a_row_that_cannot_be_read_are_an_error(collator, spoiled):
    bad = spoiled[3]
    collator([bad] * (MOST_FAILED_READS - 1))
    collator([spoiled[0], *[bad] * (MOST_FAILED_READS - 1)])  # one that can be read among them
    with pytest.raises(AudioError, match=rf"letter\.wav: .*; with it {MOST_FAILED_READS} recordings in a row"):
        collator([bad])


def test_an_unreadable_file_may_be_augmented(processor, spoiled):
    collator = CTCCollator(processor, TextNormalizer(), Augmentation(noise_probability=1.0))
    batch = collator([{**row, "augment": True} for row in spoiled])
    assert torch.isfinite(batch["input_features"]).all()
    assert batch["labels"][3].eq(-100).all()


def test_an_unreadable_file_without_text_gives_no_labels(collator, spoiled):
    unreadable_first = [{"path": spoiled[3]["path"]}, {"path": spoiled[0]["path"]}]
    assert set(collator(unreadable_first)) == {"input_features", "attention_mask"}


def test_a_row_of_a_stream_without_audio_becomes_silence(collator, rows):
    stream = [{"audio": {"bytes": None, "path": rows[0]["path"]}, "text": "HELLO"}, {"audio": None, "text": "GONE"}]
    batch = collator(stream)
    assert batch["attention_mask"].sum(-1).tolist() == [frames_of(rows[0]), 10]
    assert batch["labels"][1].eq(-100).all()
    assert list(collator.unreadable.values()) == [1]
