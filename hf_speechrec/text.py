"""Transcripts: the normaliser that training and scoring share, and the tokenizer built from what it leaves."""

import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import Wav2Vec2CTCTokenizer

BLANK = "<pad>"  # transformers' CTC tokenizers take the pad token for the blank
WORD_DELIMITER = "|"
UNKNOWN = "<unk>"


@dataclass(frozen=True)
class TextNormalizer:
    """
    The policy that makes a transcript what the model writes. It is stored in the model's config, so that references
    are scored by the very rules that training followed.

    Args:
        case: `"upper"`, `"lower"` or `"keep"`.
        punctuation: `"remove"` (each mark becomes a space, but those in `kept_marks`) or `"keep"`.
        kept_marks: marks that are spelling rather than punctuation; they survive inside a word only.
        digits: `"keep"`, `"remove"`, or `"spell"` (42 → forty-two, in `language`, by num2words).
        language: language code for spelled numbers.
    """

    case: str = "upper"
    punctuation: str = "remove"
    kept_marks: str = "'"
    digits: str = "spell"
    language: str = "en"

    def __post_init__(self):
        allowed = {
            "case": ("upper", "lower", "keep"),
            "punctuation": ("remove", "keep"),
            "digits": ("keep", "remove", "spell"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"text normaliser: expected {name} to be one of {values}, got {getattr(self, name)!r}")

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        if self.digits == "spell":
            text = re.sub(r"\d+(?:[.,]\d+)*", self._spell, text)
        elif self.digits == "remove":
            text = re.sub(r"\d", "", text)
        # Typographic apostrophes are the plain one: otherwise DON'T is two words of the vocabulary.
        text = text.replace("\u2019", "'")
        if self.punctuation == "remove":
            text = "".join(self._mark_to_space(text, i) for i in range(len(text)))
        if self.case != "keep":
            text = text.upper() if self.case == "upper" else text.lower()
        # Case mapping can decompose (İ in lower case), so compose again; the delimiter must not occur in a text.
        return " ".join(unicodedata.normalize("NFC", text).replace(WORD_DELIMITER, " ").split())

    def _spell(self, match: re.Match) -> str:
        from num2words import num2words

        number = match[0]
        if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", number):
            number = number.replace(",", "")
        parts = re.split("[.,]", number)
        # More than one mark: a date or an address, hence several numbers.
        numbers = [".".join(parts)] if len(parts) <= 2 else parts
        try:
            words = [num2words(part, lang=self.language) for part in numbers]
        except OverflowError:
            words = [num2words(digit, lang=self.language) for digit in number if digit.isdigit()]
        except NotImplementedError:
            raise ValueError(
                f"text normaliser: num2words cannot spell {number} in {self.language!r}: expected digits 'keep' or "
                "'remove', or another language"
            ) from None
        return f" {' '.join(words)} "

    def _mark_to_space(self, text: str, i: int) -> str:
        character = text[i]
        if unicodedata.category(character)[0] not in "PS":
            return character
        neighbours = text[max(i - 1, 0) : i] + text[i + 1 : i + 2]
        # M: a vowel sign or an accent that has no composed form ends a letter, too.
        inside_word = len(neighbours) == 2 and all(unicodedata.category(c)[0] in "LNM" for c in neighbours)
        return character if character in self.kept_marks and inside_word else " "

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def build_tokenizer(texts: Iterable[str], vocabulary: str = "char") -> Wav2Vec2CTCTokenizer:
    """
    A CTC tokenizer whose vocabulary comes from normalised transcripts.

    Args:
        texts: normalised transcripts, words separated by blanks.
        vocabulary: `"char"`, or `"bpe:500"` for SentencePiece byte-pair pieces, 500 classes in all.

    Returns:
        transformers' own tokenizer, so that the pipelines' timestamps work. The word delimiter is a class of its own
        in both cases; pieces lie within words and are matched longest first.

    Raises:
        ValueError: for an empty text, an unknown kind, or a size that the text does not allow.
    """
    words = [word for text in texts for word in text.split()]
    if not words:
        raise ValueError("expected transcripts to build a vocabulary from, every one is empty after normalising")
    characters = sorted(set("".join(words)))
    kind, _, size = vocabulary.partition(":")
    if kind == "char" and not size:
        pieces = characters
    elif kind == "bpe" and size.isdigit():
        pieces = characters + _bpe_pieces(words, int(size) - 3 - len(characters), len(characters))
    else:
        raise ValueError(f"expected a vocabulary 'char' or 'bpe:SIZE', got {vocabulary!r}")
    return tokenizer_from_pieces(pieces)


def tokenizer_from_pieces(pieces: list[str]) -> Wav2Vec2CTCTokenizer:
    """The tokenizer whose classes are the blank, the word delimiter, the unknown character, then `pieces`."""
    vocab = {piece: i for i, piece in enumerate([BLANK, WORD_DELIMITER, UNKNOWN, *pieces])}
    with tempfile.TemporaryDirectory() as folder:
        vocab_file = Path(folder, "vocab.json")
        vocab_file.write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            vocab_file,
            bos_token=None,
            eos_token=None,
            unk_token=UNKNOWN,
            pad_token=BLANK,
            word_delimiter_token=WORD_DELIMITER,
        )


def encode(tokenizer: Wav2Vec2CTCTokenizer, text: str) -> list[int]:
    """Label ids of a normalised transcript, without special tokens."""
    # The delimiter is put in here: tokens of several characters swallow the blanks around them in transformers.
    return tokenizer(text.replace(" ", WORD_DELIMITER)).input_ids


def _bpe_pieces(words: list[str], number: int, num_characters: int) -> list[str]:
    import sentencepiece

    if number < 1:
        raise ValueError(f"expected a bpe vocabulary of more than {num_characters + 3} classes for this alphabet")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=model,
            model_type="bpe",
            vocab_size=number + num_characters + 1,  # and its unknown piece
            character_coverage=1.0,
            add_dummy_prefix=False,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"the transcripts do not allow a bpe vocabulary of that size: {error}") from None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [piece for i in range(pieces.get_piece_size()) if len(piece := pieces.id_to_piece(i)) > 1 and i != 0]
