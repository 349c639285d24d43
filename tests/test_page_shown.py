"""What the page shows of words and labels."""

from xml.etree import ElementTree

from hf_speechrec.alignment import Word
from hf_speechrec.classification import Classification
from hf_speechrec.page.shown import named_labels, words_as_html


def test_words_show_how_sure_the_model_is_and_where_they_are():
    shown = ElementTree.fromstring(words_as_html([Word("A<B", 0.5, 1.25, 0.93), Word("C", 1.3, 1.5, 0.4)]))
    sure, unsure = shown.findall(".//button")
    assert (sure.text, unsure.text) == ("A<B", "C")
    assert (sure.get("data-start"), sure.get("data-end")) == ("0.5", "1.25")
    assert sure.get("title") == "0.50 to 1.25 s, 93% sure"
    assert [button.get("class") for button in (sure, unsure)] == ["word", "word unsure"]  # not by its colour alone
    assert "less than 70% sure" in "".join(shown.itertext())


def test_labels_are_named_as_people_call_them():
    labels = [
        {"label": "_unknown_", "score": 0.4},
        {"label": "_silence_", "score": 0.3},
        {"label": "go", "score": 0.299},
    ]
    labels.append({"label": "up", "score": 0.001})
    shown, doubt = named_labels(Classification("x.wav", labels, is_confident=False))
    assert shown == {"(another word)": 0.4, "(silence)": 0.3, "go": 0.299}
    assert "Not sure" in doubt
    assert named_labels(Classification("x.wav", labels[2:], is_confident=True)) == ({"go": 0.299}, "")
    # The best one is shown, however little the model thinks of it.
    assert named_labels(Classification("x.wav", labels[3:]))[0] == {"up": 0.001}
