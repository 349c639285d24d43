"""Transcripts: what the normaliser leaves in any script, and vocabularies that give it back."""

import json
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2CTCTokenizer

from hf_speechrec.text import BLANK, UNKNOWN, WORD_DELIMITER, TextNormalizer, build_tokenizer, encode

# The normaliser


@pytest.mark.parametrize(
    ("policy", "text", "expected"),
    [
        ({}, "Hello, world!", "HELLO WORLD"),
        ({"case": "lower"}, "Hello, World!", "hello world"),
        ({"case": "keep"}, "Hello, World!", "Hello World"),
        ({"punctuation": "keep"}, "Hello, world!", "HELLO, WORLD!"),
        ({}, "  tabs\tand\nlines  ", "TABS AND LINES"),
        ({}, "", ""),
        ({}, "…?!", ""),
        # Marks that are spelling survive inside a word only, whichever apostrophe was typed.
        ({}, "don't 'quote' rock 'n' roll dogs'", "DON'T QUOTE ROCK N ROLL DOGS"),
        ({}, "don’t", "DON'T"),
        ({"kept_marks": "'-"}, "well-known - isn't", "WELL-KNOWN ISN'T"),
        ({"kept_marks": ""}, "don't", "DON T"),
        ({"kept_marks": "·"}, "col·legi · vell", "COL·LEGI VELL"),
        # The tokenizer's word delimiter must not occur in a text.
        ({"punctuation": "keep"}, "a|b | c", "A B C"),
        ({"digits": "keep"}, "route 66", "ROUTE 66"),
        ({"digits": "remove"}, "route 66 b2b", "ROUTE BB"),
        ({}, "route 66", "ROUTE SIXTY SIX"),
        ({"punctuation": "keep"}, "66", "SIXTY-SIX"),
        ({}, "b2b", "B TWO B"),
        ({}, "1,250 or 1,000,000.5", "ONE THOUSAND TWO HUNDRED AND FIFTY OR ONE MILLION POINT FIVE"),
        ({}, "at 10:30, 5% of 2.5", "AT TEN THIRTY FIVE OF TWO POINT FIVE"),
        ({}, "on 1.2.2003 from 10.0.0.7", "ON ONE TWO TWO THOUSAND AND THREE FROM TEN ZERO ZERO SEVEN"),
        ({"language": "de"}, "42 und 1,5", "ZWEIUNDVIERZIG UND EINS KOMMA FÜNF"),
        ({"language": "ru", "case": "lower"}, "7 раз", "семь раз"),
        ({}, "४२ ٤٢", "FORTY TWO FORTY TWO"),  # Devanagari and Arabic digits
    ],
)
def test_policies(policy, text, expected):
    assert TextNormalizer(**policy)(text) == expected


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("upper", "Straße, groß – Äpfel!", "STRASSE GROSS ÄPFEL"),
        ("lower", "ÄPFEL, Öl", "äpfel öl"),
        ("lower", "Çağrı, şişe ve ışık!", "çağrı şişe ve ışık"),
        ("lower", "İstanbul’da", "i\u0307stanbul'da"),  # a dot that no composed letter holds
        ("upper", "Съешь ещё, «йод»!", "СЪЕШЬ ЕЩЁ ЙОД"),
        ("lower", "ΟΔΥΣΣΕΎΣ· τι;", "οδυσσεύς τι"),  # the final sigma and the Greek question mark
        ("upper", "ΐ ώς", "Ϊ\u0301 ΏΣ"),
        ("upper", "हिन्दी में, लिखो। क्षि", "हिन्दी में लिखो क्षि"),  # vowel signs and the virama
        ("upper", "مَرْحَبًا، يا صديق؟", "مَرْحَبًا يا صديق"),  # vowel marks
        ("upper", "ที่นี่", "ที่นี่"),
        ("lower", "Tiếng Việt!", "tiếng việt"),
        ("lower", "X̌AX̱", "x̌ax̱"),  # no composed form
        ("upper", "क्षि'क", "क्षि'क"),  # a kept mark behind a vowel sign is inside the word, too
        ("upper", "こんにちは、世界。", "こんにちは 世界"),
    ],
)
def test_any_script_keeps_its_letters_and_marks(case, text, expected):
    assert TextNormalizer(case=case)(text) == expected


@pytest.mark.parametrize("composed", ["\u00e9", "\u0451", "\u015f", "\u1ebf", "\u0958", "\uac00", "\u03ac"])
def test_composed_and_decomposed_spelling_are_the_same(composed):
    normalize = TextNormalizer()
    decomposed = unicodedata.normalize("NFD", composed)
    assert len(decomposed) > len(composed)
    assert normalize(decomposed) == normalize(composed) == unicodedata.normalize("NFC", composed).upper()


normalizers = st.builds(
    TextNormalizer,
    case=st.sampled_from(["upper", "lower", "keep"]),
    punctuation=st.sampled_from(["remove", "keep"]),
    kept_marks=st.sampled_from(["'", "'-", ""]),
    digits=st.sampled_from(["keep", "remove", "spell"]),
)
texts = st.one_of(st.text(), st.text(alphabet="aİıßΣσςΐŉǰक्षिé'’-.,|12१ \t\u0301\u0307\u0338\u0345"))


@settings(max_examples=400)
@given(normalizers, texts)
@example(TextNormalizer(case="lower"), "İ'x")
@example(TextNormalizer(), "9" * 400)
@example(TextNormalizer(), "1.2.3,4")
def test_normalising_twice_changes_nothing_more(normalize, text):
    once = normalize(text)
    assert normalize(once) == once


@settings(max_examples=200)
@given(normalizers, texts)
@example(TextNormalizer(), "a=\u0338b")  # composed it is one symbol, which goes with its stroke
def test_any_text_may_come_decomposed(normalize, text):
    assert normalize(unicodedata.normalize("NFD", text)) == normalize(unicodedata.normalize("NFC", text))


@settings(max_examples=200)
@given(normalizers, texts)
def test_what_is_left_is_composed_single_spaced_and_without_the_delimiter(normalize, text):
    left = normalize(text)
    assert unicodedata.is_normalized("NFC", left)
    assert left == " ".join(left.split())
    assert WORD_DELIMITER not in left
    if normalize.punctuation == "remove":
        assert all(unicodedata.category(c)[0] not in "PS" or c in normalize.kept_marks for c in left)
    if normalize.digits != "keep":
        assert not any(character.isdecimal() for character in left)


def test_the_policy_survives_storage():
    normalizer = TextNormalizer(case="lower", kept_marks="'·", digits="keep", language="ca")
    assert TextNormalizer(**json.loads(json.dumps(normalizer.to_dict()))) == normalizer


@pytest.mark.parametrize("name", ["case", "punctuation", "digits"])
def test_an_unknown_policy_is_an_error_that_names_the_choices(name):
    with pytest.raises(ValueError, match=rf"expected {name} to be one of \(.*'keep'.*\), got 'sometimes'"):
        TextNormalizer(**{name: "sometimes"})


def test_a_language_that_cannot_be_spelled_is_an_error():
    normalize = TextNormalizer(language="xx")
    assert normalize("no number") == "NO NUMBER"
    with pytest.raises(ValueError, match="cannot spell 5 in 'xx'"):
        normalize("5 numbers")


# Vocabularies

ENGLISH = ["HELLO WORLD", "HELP THE WORLD", "THE WORLDS HELD", "DON'T HOLD THE BALL"]
RUSSIAN = ["съешь ещё этих мягких французских булок", "да выпей же чаю", "ещё булок ещё чаю"]
HINDI = ["हिन्दी में लिखो", "हिन्दी में पढ़ो", "क्षि क्षिप्रा में"]


@pytest.mark.parametrize("transcripts", [ENGLISH, RUSSIAN, HINDI], ids=["English", "Russian", "Hindi"])
@pytest.mark.parametrize("vocabulary", ["char", "bpe:48"])
def test_every_transcript_comes_back_from_its_labels(transcripts, vocabulary):
    tokenizer = build_tokenizer(transcripts, vocabulary)
    for text in transcripts:
        ids = encode(tokenizer, text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids, group_tokens=False) == text


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ABELLOHWRD", min_size=1, max_size=8), min_size=1, max_size=6).map(" ".join))
@pytest.mark.parametrize("vocabulary", ["char", "bpe:30"])
def test_unseen_words_of_the_alphabet_come_back(vocabulary, text):
    tokenizer = build_tokenizer([*ENGLISH, "ABELLOHWRD"], vocabulary)
    assert tokenizer.decode(encode(tokenizer, text), group_tokens=False) == text


def test_characters_are_the_classes_after_blank_delimiter_and_unknown():
    tokenizer = build_tokenizer(["BA C", "CAB"])
    assert tokenizer.get_vocab() == {BLANK: 0, WORD_DELIMITER: 1, UNKNOWN: 2, "A": 3, "B": 4, "C": 5}
    assert encode(tokenizer, "BA C") == [4, 3, 1, 5]
    assert encode(tokenizer, "BAZ") == [4, 3, tokenizer.unk_token_id]


@pytest.mark.parametrize("size", [20, 30, 40])
def test_bpe_has_the_classes_that_were_asked_for_and_writes_shorter(size):
    tokenizer = build_tokenizer(ENGLISH, f"bpe:{size}")
    assert len(tokenizer) == size
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    assert set("".join(ENGLISH)) - {" "} <= set(tokenizer.get_vocab())
    # Pieces lie within words: the delimiter is a class of its own.
    assert not any(WORD_DELIMITER in piece or " " in piece for piece in tokenizer.get_vocab() if len(piece) > 1)
    assert encode(tokenizer, "THE WORLD").count(tokenizer.word_delimiter_token_id) == 1
    assert len(encode(tokenizer, "THE WORLD")) < len("THE WORLD")


@pytest.mark.parametrize("vocabulary", ["char", "bpe:30"])
def test_frames_collapse_to_text_as_ctc_has_it(vocabulary):
    tokenizer = build_tokenizer(ENGLISH, vocabulary)
    frames = [0]
    for label in encode(tokenizer, "HELLO BALL"):
        frames += [label, label, 0]  # the blank keeps double letters apart
    assert tokenizer.decode(frames) == "HELLO BALL"


def test_offsets_of_bpe_pieces_and_words_are_the_frames_they_were_written_in():
    tokenizer = build_tokenizer(["HELLO WORLD", "HELP WORD WORLDS HELD"], "bpe:20")
    vocab = tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "HELLO WORLD")) == ["HEL", "LO", "|", "WORLD"]
    frames = [0, vocab["HEL"], vocab["HEL"], 0, vocab["LO"], 0, 0, vocab["|"], 0, vocab["WORLD"], vocab["WORLD"], 0]
    decoded = tokenizer.decode(frames, output_char_offsets=True, output_word_offsets=True)
    pieces = [(piece["char"], piece["start_offset"], piece["end_offset"]) for piece in decoded.char_offsets]
    words = [(word["word"], word["start_offset"], word["end_offset"]) for word in decoded.word_offsets]
    assert pieces == [("HEL", 1, 3), ("LO", 4, 5), (" ", 7, 8), ("WORLD", 9, 11)]
    assert words == [("HELLO", 1, 5), ("WORLD", 9, 11)]


@pytest.mark.parametrize("transcripts", [ENGLISH, HINDI], ids=["English", "Hindi"])
@pytest.mark.parametrize("vocabulary", ["char", "bpe:40"])
def test_a_saved_tokenizer_is_the_same_when_loaded(tmp_path, transcripts, vocabulary):
    tokenizer = build_tokenizer(transcripts, vocabulary)
    tokenizer.save_pretrained(tmp_path)
    loaded = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.pad_token, loaded.word_delimiter_token, loaded.unk_token) == (BLANK, WORD_DELIMITER, UNKNOWN)
    for text in transcripts:
        assert encode(loaded, text) == encode(tokenizer, text)
        assert loaded.decode(encode(loaded, text), group_tokens=False) == text


@pytest.mark.parametrize("transcripts", [[], ["", " "]])
def test_no_text_gives_no_vocabulary(transcripts):
    with pytest.raises(ValueError, match="every one is empty after normalising"):
        build_tokenizer(transcripts)


@pytest.mark.parametrize("vocabulary", ["", "word", "char:30", "bpe", "bpe:", "bpe:-5", "bpe:many"])
def test_an_unknown_kind_of_vocabulary_is_an_error(vocabulary):
    with pytest.raises(ValueError, match=f"expected a vocabulary 'char' or 'bpe:SIZE', got '{vocabulary}'"):
        build_tokenizer(ENGLISH, vocabulary)


def test_a_bpe_size_that_the_text_does_not_allow_is_an_error():
    letters = len(set("".join(ENGLISH)) - {" "})
    with pytest.raises(ValueError, match=f"more than {letters + 3} classes for this alphabet"):
        build_tokenizer(ENGLISH, f"bpe:{letters + 3}")
    with pytest.raises(ValueError, match="do not allow a bpe vocabulary of that size"):
        build_tokenizer(ENGLISH, "bpe:5000")
