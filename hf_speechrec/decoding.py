"""CTC log-probabilities → text: the best class of each frame, or a beam search with a language model."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import torch

from .language_model import LanguageModelError, read_weights, read_words, write_with_hotwords
from .pronunciation import Lexicon
from .text import encode

BEAM_SIZE = 100
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
        beam_size: hypotheses that are kept from frame to frame.
        hotwords: words that are to be found though the language model may not know them or think them rare.
        hotword_bonus: log10-probability that they get beyond what they have; an unknown one starts as a word that was
            seen once.
        lexicon, phones: how words are said, and the classes of the model's head for phones (its config's `phones`): the
            search then reads `phone_logits`, and finds words by their sound and not by their spelling.

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
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, RuntimeError) as error:
            raise LanguageModelError(
                f"a language model needs the extra lm: pip install 'hf_speechrec[lm]' ({error})"
            ) from None
        weights = read_weights(language_model)
        self.lm_weight = weights.get("lm_weight", 1.0) if lm_weight is None else lm_weight
        self.word_score = weights.get("word_score", 0.0) if word_score is None else word_score
        words = list(dict.fromkeys(read_words(language_model)))
        hotwords = [word for phrase in hotwords for word in phrase.split()]
        self.head = "logits" if lexicon is None else "phone_logits"
        self.delimiter = None
        if lexicon is None:
            vocab = tokenizer.get_vocab()
            tokens, blank, silence = (
                sorted(vocab, key=vocab.__getitem__),
                tokenizer.pad_token,
                tokenizer.word_delimiter_token,
            )
            self.delimiter = tokenizer.word_delimiter_token_id
            units = {word: [spelling] for word in [*words, *hotwords] if (spelling := _spelling(tokenizer, word))}
        else:
            tokens, blank, silence = [BLANK, *(phones or [])], BLANK, BLANK
            units = {word: lexicon[word] for word in [*words, *hotwords] if word in lexicon}
            said = {phone for ways in units.values() for way in ways for phone in way}
            if strange := sorted(said - set(tokens)):
                raise LanguageModelError(f"the lexicon: expected phones of the recogniser, got {strange[0]!r}")
        if len(units) < len(words) / 2:
            example = next(word for word in words if word not in units)
            expected = "words in the recogniser's alphabet" if lexicon is None else "words of the lexicon"
            raise LanguageModelError(
                f"{language_model}: expected {expected}, but {len(words) - len(units)} of {len(words)} are not "
                f"(such as {example!r})"
            )
        if unknown := [word for word in hotwords if word not in units]:
            reason = "the recogniser does not know all of its characters"
            raise LanguageModelError(f"hotword {unknown[0]!r}: {reason if lexicon is None else 'not in the lexicon'}")
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
                        blank_token=blank,
                        sil_token=silence,
                        unk_word=tokenizer.unk_token,
                    )
            except (RuntimeError, ValueError) as error:
                raise LanguageModelError(
                    f"{language_model}: not an n-gram model that KenLM can read ({str(error).splitlines()[0]})"
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


__all__ = ["BeamSearchDecoder", "GreedyDecoder"]
