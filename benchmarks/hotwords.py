"""Words that the language model has never seen: found greedily, with the model, and as hotwords, and at what price.

    pip install -e '.[lm]'
    hf-speechrec build-lm PATH/an4 dev.arpa.gz --model an4 --split train \\
        --exclude-speakers recipes/splits/an4-dev-speakers.txt
    hf-speechrec tune-lm runs/an4 dev.arpa.gz PATH/an4 --split train --speakers recipes/splits/an4-dev-speakers.txt
    hf-speechrec build-lm PATH/an4 an4.arpa.gz --model an4 --split train && cp dev.json an4.json
    python benchmarks/hotwords.py an4 an4.arpa.gz PATH/an4 --split test
    python benchmarks/hotwords.py an4 an4.arpa.gz PATH/an4 --split test --words OCTOBER NINTH

The decoder finds the tuned weights in an4.json; without that file they are 1 and 0. They are chosen on speakers whom
neither model has heard, hence on `runs/an4` (`recipes/an4.yaml` as it is): the bundled model has heard all of them.

The hotwords are, unless given, the words of the corpus that the language model lacks: what a user would add who knows
the names. A false insertion is a hotword in a text more often than it was said. WER is of the whole corpus.
"""

import argparse
from collections import Counter
from pathlib import Path

from hf_speechrec.audio import row_source
from hf_speechrec.corpora import read_corpus
from hf_speechrec.corpus_rows import read_speakers
from hf_speechrec.decoding import BeamSearchDecoder
from hf_speechrec.evaluation import error_rates
from hf_speechrec.language_model import read_words
from hf_speechrec.loading import load_recognizer
from hf_speechrec.text import TextNormalizer
from hf_speechrec.transcription import transcribe

BONUSES = (1.0, 2.0, 3.0, 5.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled name, a folder or a Hub id")
    parser.add_argument("language_model", help="an ARPA file")
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--speakers", type=Path, help="only the speakers in this file")
    parser.add_argument("--words", nargs="+", help="hotwords, in place of those that the language model lacks")
    arguments = parser.parse_args()

    recognizer = load_recognizer(arguments.model, "cpu")
    normalizer = TextNormalizer(**recognizer.model.config.text_normalizer)
    names = read_speakers(arguments.speakers) if arguments.speakers else None
    corpus = read_corpus(arguments.corpus, arguments.split, speakers=names)
    references = [normalizer(text) for text in corpus["text"]]
    known = set(read_words(arguments.language_model))
    hotwords = arguments.words or sorted({word for text in references for word in text.split()} - known)
    lacking = [word for word in hotwords if word not in known]
    print(f"hotwords: {', '.join(hotwords)}; the language model lacks: {', '.join(lacking) or 'none of them'}")

    def report(name: str, decoder) -> None:
        sources = [row_source(row) for row in corpus]
        texts = [transcript.text for transcript in transcribe(sources, recognizer, decoder=decoder)]
        said = found = false = 0
        for reference, text in zip(references, texts, strict=True):
            wanted = Counter(word for word in reference.split() if word in hotwords)
            heard = Counter(word for word in text.split() if word in hotwords)
            said += wanted.total()
            found += (wanted & heard).total()
            false += (heard - wanted).total()
        wer = error_rates(references, texts)["wer"]
        print(f"{name:28s} found {found} of {said}, inserted falsely {false}, WER {wer:.2%}", flush=True)

    report("greedy", None)
    report("language model", BeamSearchDecoder(recognizer.tokenizer, arguments.language_model))
    for bonus in BONUSES:
        decoder = BeamSearchDecoder(
            recognizer.tokenizer, arguments.language_model, hotwords=hotwords, hotword_bonus=bonus
        )
        report(f"hotwords, bonus {bonus}", decoder)


if __name__ == "__main__":
    main()
