"""CTC log-probabilities → text: the best class of each frame, or a beam search with a language model."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .audio import first_line
from .language_model import LANGUAGE_MODEL, LanguageModelError, read_weights, read_words, write_with_hotwords
from .pronunciation import Lexicon, lexicon_of
from .text import TextNormalizer, encode

BEAM_SIZE = 2000  # of tens of thousands of words many begin alike: 100 cost librispeech-mini a seventh of its words
BEAM_CLASSES = 5  # that are tried in a frame, the likeliest; ten give the same words in twice the time
BEAM_THRESHOLD = 25.0  # how far behind the best one a hypothesis may be, in its score
HOTWORD_BONUS = 5.0  # in powers of ten of probability
BLANK = "-"  # beside phones, whose names are letters; silence is blank, too


class GreedyDecoder:
    """
    The best class of each frame, repeats merged, blanks dropped.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, log_probs: torch.Tensor) -> str:
        """(frames, vocab) → text."""
        return " ".join(self.tokenizer.decode(log_probs.argmax(-1)).split())


class BeamSearchDecoder:
    """
    The best words under acoustics, an n-gram model and its lexicon: torchaudio's `ctc_decoder` (flashlight; Kahn et
    al., 2022). It writes words of the language model, and hotwords, and no others.

    Args:
        tokenizer: the recogniser's.
        language_model: an ARPA file, possibly with `.gz`, such as `build_language_model` writes.
        lm_weight: weight of the language model's log-probabilities (base 10). By default what `tune_decoder` has left
            beside the file, or 1.
        word_score: is added for every word; the higher, the more words. The default is found likewise, or 0.
        beam_size: hypotheses that are kept from frame to frame; 300 take a quarter of the default's time.
        hotwords: words that are to be found though the language model may not know them or think them rare; for a
            search through a lexicon that lacks one also how it is said: "OUIDA=W IY D AH".
        hotword_bonus: log10-probability that they get beyond what they have; an unknown one starts as a word that was
            seen once.
        lexicon, phones: how words are said, and the classes of the model's head for phones (its config's `phones`): the
            search then reads `phone_logits`, and finds words by their sound and not by their spelling.

    Attributes:
        head: the model's output that it reads.
        lexicon: the words that it can find, and how they are said; none where it reads characters.

    Raises:
        LanguageModelError: where the extra `lm` is not installed, for a file that is not ARPA, one whose words cannot
            be spelled in the recogniser's alphabet (or are not in the lexicon), and a hotword that cannot.
    """

    def __init__(
        self,
        tokenizer,
        language_model: str | PathLike,
        *,
        lm_weight: float | None = None,
        word_score: float | None = None,
        beam_size: int = BEAM_SIZE,
        hotwords: Iterable[str] = (),
        hotword_bonus: float = HOTWORD_BONUS,
        lexicon: Lexicon | None = None,
        phones: list[str] | None = None,
    ):
        try:
            import flashlight.lib.text.decoder.kenlm  # noqa: F401  without kenlm torchaudio would blame the file
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise LanguageModelError(
                f"a language model needs the extra lm: pip install 'hf_speechrec[lm]' ({reason})"
            ) from None
        weights = read_weights(language_model)
        self.lm_weight = weights.get("lm_weight", 1.0) if lm_weight is None else lm_weight
        self.word_score = weights.get("word_score", 0.0) if word_score is None else word_score
        words = list(dict.fromkeys(read_words(language_model)))
        hotwords, pronunciations = _said_as(hotwords)
        self.head = "logits" if lexicon is None else "phone_logits"
        self.delimiter = None
        self.lexicon: Lexicon | None = None
        self.phones = phones or []
        if lexicon is None:
            if pronunciations:
                word = next(iter(pronunciations))
                raise LanguageModelError(f"hotword {word!r}: expected the word alone, as the model has no phones")
            vocab = tokenizer.get_vocab()
            tokens, blank, silence = (
                sorted(vocab, key=vocab.__getitem__),
                tokenizer.pad_token,
                tokenizer.word_delimiter_token,
            )
            self.delimiter = tokenizer.word_delimiter_token_id
            units = {word: [spelling] for word in [*words, *hotwords] if (spelling := _spelling(tokenizer, word))}
        else:
            tokens, blank, silence = [BLANK, *self.phones], BLANK, BLANK
            units = self.lexicon = _sounds([*words, *hotwords], lexicon, pronunciations, self.phones)
        if len(units) < len(words) / 2:
            example = next(word for word in words if word not in units)
            expected = "words in the recogniser's alphabet" if lexicon is None else "words of the lexicon"
            raise LanguageModelError(
                f"{language_model}: expected {expected}, but {len(words) - len(units)} of {len(words)} are not "
                f"(such as {example!r})"
            )
        if unknown := [word for word in hotwords if word not in units]:
            reason = (
                "the recogniser does not know all of its characters"
                if lexicon is None
                else f"not in the lexicon: expected its phones, too, as in '{unknown[0]}=W IY D AH'"
            )
            raise LanguageModelError(f"hotword {unknown[0]!r}: {reason}")
        word_bonus = 0.0
        with tempfile.TemporaryDirectory() as folder:
            entries = Path(folder, "lexicon.txt")
            lines = [f"{word} {' '.join(classes)}\n" for word, ways in units.items() for classes in ways]
            entries.write_text("".join(lines), encoding="utf-8")
            if hotwords:
                boosted = Path(folder, "hotwords.arpa")
                write_with_hotwords(language_model, boosted, hotwords, hotword_bonus)
                language_model = boosted
                word_bonus = self.lm_weight * hotword_bonus  # what all other words lack now
            try:
                with _kenlm_quiet():
                    self._decoder = ctc_decoder(
                        lexicon=str(entries),
                        tokens=tokens,
                        lm=str(language_model),
                        lm_weight=self.lm_weight,
                        word_score=self.word_score + word_bonus,
                        beam_size=beam_size,
                        beam_size_token=min(BEAM_CLASSES, len(tokens)),
                        beam_threshold=BEAM_THRESHOLD,
                        blank_token=blank,
                        sil_token=silence,
                        unk_word=tokenizer.unk_token,
                    )
            except (RuntimeError, ValueError) as error:
                raise LanguageModelError(
                    f"{language_model}: not an n-gram model that KenLM can read ({first_line(error)})"
                ) from None

    def __call__(self, log_probs: torch.Tensor) -> str:
        """(frames, vocab) → text."""
        if self.delimiter is not None:
            # Every word of the lexicon ends with the delimiter, which nobody says after the last one.
            end = torch.full_like(log_probs[:1], -30.0)
            end[:, self.delimiter] = 0.0
            log_probs = torch.cat([log_probs, end])
        (hypotheses,) = self._decoder(log_probs[None].contiguous())
        return " ".join(hypotheses[0].words) if hypotheses else ""


def carried_language_model(recognizer: Any) -> Path:
    """The file of the language model that a recogniser's folder carries, whether there is one or not."""
    return Path(recognizer.model.name_or_path, LANGUAGE_MODEL)


def load_decoder(
    recognizer: Any, language_model: str | PathLike, *, hotwords: Iterable[str] = (), **options
) -> BeamSearchDecoder:
    """
    The search that suits a recogniser: by sound where its folder has a lexicon, else by spelling.

    Args:
        recognizer: from `load_recognizer`.
        language_model: an ARPA file, or "model" for the one that the recogniser's folder carries.
        hotwords: as `BeamSearchDecoder` takes them, in any spelling: the recogniser's normaliser is applied.
        options: others of `BeamSearchDecoder`.

    Raises:
        LanguageModelError: as `BeamSearchDecoder`, and for a model without a language model of its own.
    """
    config = recognizer.model.config
    if language_model == "model":
        language_model = carried_language_model(recognizer)
        if not language_model.is_file():
            raise LanguageModelError(f"the model carries no language model: expected {language_model}")
    normalizer = TextNormalizer(**(config.text_normalizer or {}))
    parts = [hotword.partition("=") for hotword in hotwords]
    return BeamSearchDecoder(
        recognizer.tokenizer,
        language_model,
        hotwords=[f"{normalizer(words)}{equals}{phones}" for words, equals, phones in parts],
        lexicon=lexicon_of(recognizer.model),
        phones=config.phones,
        **options,
    )


def _said_as(hotwords: Iterable[str]) -> tuple[list[str], Lexicon]:
    """Hotwords, and how those are said that come with their phones ("OUIDA=W IY D AH")."""
    words: list[str] = []
    pronunciations: Lexicon = {}
    for hotword in hotwords:
        spelling, equals, phones = hotword.partition("=")
        words += spelling.split()
        if equals:
            # A dictionary's marks of stress are dropped, as `read_lexicon` does.
            way = [re.sub(r"\d$", "", phone) for phone in phones.split()]
            if len(spelling.split()) != 1 or not way:
                raise LanguageModelError(
                    f"hotword {hotword!r}: expected one word and its phones, as in 'OUIDA=W IY D AH'"
                )
            pronunciations.setdefault(spelling.strip(), []).append(way)
    return words, pronunciations


def _sounds(words: Iterable[str], lexicon: Lexicon, pronunciations: Lexicon, phones: list[str]) -> Lexicon:
    """
    How words are said, as far as it is known; `pronunciations` come before the lexicon's. Raises `LanguageModelError`
    for phones that the recogniser does not have.
    """
    sounds = {word: [*pronunciations.get(word, []), *lexicon.get(word, [])] for word in words}
    sounds = {word: ways for word, ways in sounds.items() if ways}
    for word, ways in sounds.items():
        if strange := [phone for way in ways for phone in way if phone not in phones]:
            source = f"hotword {word!r}" if word in pronunciations else "the lexicon"
            raise LanguageModelError(
                f"{source}: expected phones of the recogniser ({' '.join(phones)}), got {strange[0]!r}"
            )
    return sounds


@contextlib.contextmanager
def _kenlm_quiet() -> Iterator[None]:
    """KenLM draws a progress bar on the process' own stderr, which Python cannot redirect."""
    with Path(os.devnull).open("w") as nowhere:
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _spelling(tokenizer, word: str) -> list[str] | None:
    """The classes of a word and of the delimiter behind it; none where the tokenizer does not know a character."""
    tokens = encode(tokenizer, word)
    if tokenizer.unk_token_id in tokens:
        return None
    return [*tokenizer.convert_ids_to_tokens(tokens), tokenizer.word_delimiter_token]


__all__ = ["BeamSearchDecoder", "GreedyDecoder", "load_decoder"]
