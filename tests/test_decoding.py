"""Decoding: paths whose text is known, words that only a language model can tell, and hotwords."""

import sys

import pytest
import torch

from hf_speechrec.decoding import BeamSearchDecoder, GreedyDecoder, load_decoder
from hf_speechrec.language_model import LanguageModelError, build_language_model, write_weights
from hf_speechrec.loading import load_recognizer
from hf_speechrec.pronunciation import phones_of
from hf_speechrec.text import build_tokenizer, tokenizer_from_pieces

pytest.importorskip("flashlight", reason="the extra lm is not installed")

SENTENCES = ["SEE THE SEA", "THE SEA", "THE SEA IS RED", "THE RED BOOK", "I READ THE BOOK"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([*SENTENCES, "XYZ"])


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    build_language_model(SENTENCES, path)
    return path


def spoken(tokenizer, path: str, doubt: dict[int, str] | None = None) -> torch.Tensor:
    """Log-probabilities of a path, a character a frame (- is the blank); `doubt`: frames that are as likely another."""
    vocab = tokenizer.get_vocab() | {"-": tokenizer.pad_token_id}
    probabilities = torch.full((len(path), len(vocab) - 1), 0.001)
    for frame, character in enumerate(path):
        probabilities[frame, vocab[character]] = 0.9
        if frame in (doubt or {}):
            probabilities[frame, vocab[doubt[frame]]] = 0.8
    return (probabilities / probabilities.sum(-1, keepdim=True)).log()


def test_greedy_merges_repeats_drops_blanks_and_parts_words(tokenizer):
    decoder = GreedyDecoder(tokenizer)
    assert decoder(spoken(tokenizer, "-SS-E-E-|-T-H-EE--|S-E-AA-")) == "SEE THE SEA"
    assert decoder(spoken(tokenizer, "|-|S-E-A||")) == "SEA"
    assert decoder(spoken(tokenizer, "-----")) == ""


def test_the_language_model_decides_where_the_sound_does_not(tokenizer, arpa):
    # "THE REA|" is no word that was ever written; RED is one, and as likely a sound.
    log_probs = spoken(tokenizer, "T-H-E-|R-E-A-", {11: "D"})
    assert GreedyDecoder(tokenizer)(log_probs) == "THE REA"
    assert BeamSearchDecoder(tokenizer, arpa)(log_probs) == "THE RED"


def test_a_clear_sound_is_believed(tokenizer, arpa):
    for text in ("SEE THE SEA", "I READ THE BOOK"):
        path = "-".join(text.replace(" ", "|"))
        assert BeamSearchDecoder(tokenizer, arpa)(spoken(tokenizer, path)) == text


def test_a_hotword_is_written_though_nobody_ever_wrote_it(tokenizer, arpa):
    log_probs = spoken(tokenizer, "T-H-E-|-X-Y-Z-")
    assert "XYZ" not in BeamSearchDecoder(tokenizer, arpa)(log_probs)
    assert BeamSearchDecoder(tokenizer, arpa, hotwords=["XYZ"])(log_probs) == "THE XYZ"


def test_the_bonus_tips_the_balance(tokenizer, arpa):
    log_probs = spoken(tokenizer, "T-H-E-|S-E-E-", {11: "A"})
    assert BeamSearchDecoder(tokenizer, arpa)(log_probs) == "THE SEA"
    assert BeamSearchDecoder(tokenizer, arpa, hotwords=["SEE"], hotword_bonus=3)(log_probs) == "THE SEE"


def test_word_pieces_are_searched_too(arpa):
    tokenizer = tokenizer_from_pieces([*"ABDEHIKORST", "TH", "RE"])
    log_probs = torch.full((7, 16), -8.0)
    for frame, piece in enumerate(["TH", "E", "|", "<pad>", "RE", "D", "<pad>"]):
        log_probs[frame, tokenizer.convert_tokens_to_ids(piece)] = -0.01
    assert BeamSearchDecoder(tokenizer, arpa)(log_probs) == "THE RED"


def test_silence_has_no_words(tokenizer, arpa):
    assert BeamSearchDecoder(tokenizer, arpa)(spoken(tokenizer, "-" * 40)) == ""
    assert BeamSearchDecoder(tokenizer, arpa)(spoken(tokenizer, "-")) == ""


def test_tuned_weights_are_used_unless_others_are_given(tokenizer, tmp_path):
    build_language_model(SENTENCES, tmp_path / "lm.arpa.gz")
    write_weights(tmp_path / "lm.arpa.gz", 0.5, 2.0)
    decoder = BeamSearchDecoder(tokenizer, tmp_path / "lm.arpa.gz")
    assert (decoder.lm_weight, decoder.word_score) == (0.5, 2.0)
    decoder = BeamSearchDecoder(tokenizer, tmp_path / "lm.arpa.gz", lm_weight=1.5)
    assert (decoder.lm_weight, decoder.word_score) == (1.5, 2.0)


def test_another_alphabet_is_said(tokenizer, tmp_path):
    build_language_model(["ПРИВЕТ МИР", "МИР THE"], tmp_path / "ru.arpa")
    with pytest.raises(
        LanguageModelError, match=r"words in the recogniser's alphabet, but 2 of 3 are not \(such as '\w+'\)"
    ):
        BeamSearchDecoder(tokenizer, tmp_path / "ru.arpa")


def test_a_hotword_that_cannot_be_spelled_is_said(tokenizer, arpa):
    with pytest.raises(LanguageModelError, match="hotword 'ÉTÉ': the recogniser does not know"):
        BeamSearchDecoder(tokenizer, arpa, hotwords=["RED", "ÉTÉ"])


def test_a_broken_file_is_said(tokenizer, arpa, tmp_path, capfd):
    lines = arpa.read_text().splitlines()
    (tmp_path / "cut.arpa").write_text("\n".join(lines[: len(lines) // 2]))
    with pytest.raises(LanguageModelError, match="not an n-gram model that KenLM can read"):
        BeamSearchDecoder(tokenizer, tmp_path / "cut.arpa")
    (tmp_path / "repeated.arpa").write_text(
        "\n".join(line for line in lines for _ in range(40 if "\tRED\t" in line else 1))
    )
    with pytest.raises(LanguageModelError, match="not an n-gram model that KenLM can read"):
        BeamSearchDecoder(tokenizer, tmp_path / "repeated.arpa")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("missing", ["torchaudio.models.decoder", "flashlight.lib.text.decoder.kenlm"])
def test_without_the_extra_the_message_names_it(tokenizer, arpa, monkeypatch, missing):
    """flashlight-text without kenlm is no flaw of the file."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LanguageModelError, match=r"needs the extra lm: pip install 'hf_speechrec\[lm\]'"):
        BeamSearchDecoder(tokenizer, arpa)


def pronounced(phones: list[str], sounds: str) -> torch.Tensor:
    """Log-probabilities of phones, each in a frame behind a blank."""
    log_probs = torch.full((2 * len(sounds.split()), 1 + len(phones)), -8.0)
    log_probs[::2, 0] = -0.01
    for i, phone in enumerate(sounds.split()):
        log_probs[2 * i + 1, 1 + phones.index(phone)] = -0.01
    return log_probs


def test_words_are_found_by_their_sound(tokenizer, arpa):
    lexicon = {
        "SEE": [["S", "IY"]],
        "SEA": [["S", "IY"]],
        "THE": [["DH", "AH"], ["DH", "IY"]],
        "RED": [["R", "EH", "D"]],
    }
    lexicon |= {"IS": [["IH", "Z"]], "BOOK": [["B", "UH", "K"]], "XYZ": [["Z", "IH", "Z"]]}
    phones = phones_of(lexicon)
    decoder = BeamSearchDecoder(tokenizer, arpa, lexicon=lexicon, phones=phones)
    assert decoder.head == "phone_logits"
    assert BeamSearchDecoder(tokenizer, arpa).head == "logits"

    # Two words sound alike: the language model has seen one behind THE.
    assert decoder(pronounced(phones, "DH IY S IY")) == "THE SEA"
    assert decoder(pronounced(phones, "DH AH R EH D B UH K")) == "THE RED BOOK"
    boosted = BeamSearchDecoder(tokenizer, arpa, lexicon=lexicon, phones=phones, hotwords=["XYZ"])
    assert boosted(pronounced(phones, "DH AH Z IH Z")) == "THE XYZ"
    with pytest.raises(LanguageModelError, match=r"hotword 'ZEBRA': not in the lexicon"):
        BeamSearchDecoder(tokenizer, arpa, lexicon=lexicon, phones=phones, hotwords=["ZEBRA"])
    with pytest.raises(LanguageModelError, match=r"expected words of the lexicon, but . of . are not"):
        BeamSearchDecoder(tokenizer, arpa, lexicon={"RED": [["R", "EH", "D"]]}, phones=["D", "EH", "R"])


def test_a_hotword_may_bring_its_phones(arpa):
    recognizer = load_recognizer("librispeech-mini", "cpu")
    phones = recognizer.model.config.phones
    decoder = load_decoder(recognizer, arpa, hotwords=["Xyzzy=Z IH1 Z IY0", "voice", ""])
    assert decoder.head == "phone_logits"
    assert decoder.lexicon["XYZZY"] == [["Z", "IH", "Z", "IY"]]
    assert decoder(pronounced(phones, "DH AH Z IH Z IY")) == "THE XYZZY"
    # Of a word that the lexicon has it is one more way, and the first.
    decoder = load_decoder(recognizer, arpa, hotwords=["the=Z IH", "the=Z AA"])
    assert decoder.lexicon["THE"][:2] == [["Z", "IH"], ["Z", "AA"]]
    assert ["DH", "AH"] in decoder.lexicon["THE"]
    for hotword, message in [
        ("Xyzzy", "hotword 'XYZZY': not in the lexicon: expected its phones, too, as in 'XYZZY=W IY D AH'"),
        ("Xyzzy=Z II", r"hotword 'XYZZY': expected phones of the recogniser \(AA AE .* ZH\), got 'II'"),
        ("Xyzzy=", "hotword 'XYZZY=': expected one word and its phones, as in 'OUIDA=W IY D AH'"),
        ("Mary Ann=M EH", "hotword 'MARY ANN=M EH': expected one word and its phones"),
    ]:
        with pytest.raises(LanguageModelError, match=message):
            load_decoder(recognizer, arpa, hotwords=[hotword])
    with pytest.raises(LanguageModelError, match="hotword 'SEE': expected the word alone, as the model has no phones"):
        BeamSearchDecoder(recognizer.tokenizer, arpa, hotwords=["SEE=S IY"])
