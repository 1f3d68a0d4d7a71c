from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from transformers import CLIPTextModel, CLIPTokenizer

from fsdlib.models import Newest
from fsdlib.project import CLASSES, MINI
from fsdlib.vocabulary import Vocabulary
from fsdlib.words import (
    ClassStrings,
    NamesAndSynonyms,
    Open,
    Word,
    candidates,
    open_names,
    present,
    spoken_classes,
    words,
)


def told(caption):
    return [(word.text, word.part_of_speech, word.head) for word in words(caption)]


# ------------------------------------------------------------- which words, on captions the published release shows


def test_nouns_and_adjectives_are_kept_with_their_heads():
    assert told("a small bird perched on a branch of a tree") == [
        ("small", "ADJ", "bird"),
        ("bird", "NOUN", "bird"),
        ("branch", "NOUN", "on"),
        ("tree", "NOUN", "of"),
    ]


def test_stop_words_are_dropped_even_where_they_are_nouns():
    # "front" is a noun here and a stop word
    assert [word for word, *_ in told("a little girl sitting in a chair in front of a computer")] == [
        "little",
        "girl",
        "chair",
        "computer",
    ]


def test_verbs_and_articles_are_dropped():
    assert [word for word, *_ in told("a group of men standing next to a train")] == ["group", "men", "train"]


def test_each_word_knows_where_it_stands():
    caption = "a brown and white dog standing on a kitchen floor"
    found = words(caption)
    assert [word.text for word in found] == ["brown", "white", "dog", "kitchen", "floor"]
    assert all(caption[word.start : word.start + len(word.text)] == word.text for word in found)


def test_an_adjective_counts_as_its_head_or_as_itself_with_its_head():
    small = words("a small bird perched on a branch of a tree")[0]
    assert small.as_class_word == "bird" and small.as_open_name == "small bird"


def test_open_names_come_in_order_and_as_often_as_they_are_said():
    assert open_names(words("a red ball next to a ball and a tree")) == ["red ball", "ball", "ball", "tree"]


def test_a_repeated_word_stands_twice_among_clips_texts_but_once_where_it_is_a_class():
    found = words("a red ball next to a ball and two trees and a cat near a tree and a cat")
    choices = Open().choices(found, Vocabulary.of(["cat", "dog"]), diffusion=None)
    assert choices.texts == ("cat", "dog", "red ball", "ball", "ball", "trees", "tree")
    assert choices.names == ("background", "red ball", "ball", "trees", "cat", "tree")
    assert choices.labels == (4, 0, 1, 2, 2, 3, 5) and choices.eligible == (0, 2, 3, 4, 5, 6)
    assert choices.expected == 5


def test_a_caption_without_such_words_gives_none():
    assert words("") == words("it is on it") == []


# --------------------------------------------------------------------------------------------- which classes


class HandMade:
    """A text encoder of two positions and eight channels whose vectors one can work with by hand."""

    store = None

    # four directions at right angles, each with zero mean, so that Pearson's r is the cosine
    A, B, C, E = np.float32(
        [
            [1, -1, 1, -1, 1, -1, 1, -1],
            [1, 1, -1, -1, 1, 1, -1, -1],
            [1, 1, 1, 1, -1, -1, -1, -1],
            [1, -1, -1, 1, 1, -1, -1, 1],
        ]
    )
    vectors = {
        "A photo of cat": A + E,
        "A photo of feline": A - E,  # the mean of both is A
        "A photo of dog": B,
        "A photo of car": C,
        "kitten": 0.8 * A + 0.6 * E,  # r = 0.8 with cat: distance 0.2
        "puppy": 5 * B + 3,  # r = 1 with dog, whatever its scale and offset: distance 0
        "wheel": 7 * C + 24 * E,  # r = 7 / 25 with car: distance 0.72
    }

    of_classes = property(lambda self: Newest(0))  # keeps nothing

    def encode_text(self, texts):
        halves = np.linspace(-1, 1, 8, dtype=np.float32)  # cancels in the mean over the two positions
        return np.stack([[self.vectors[text] + halves, self.vectors[text] - halves] for text in texts])


ANIMALS = Vocabulary(
    ("background", "cat", "dog", "car"),
    (("background",), ("cat", "feline"), ("dog",), ("car",)),
    strings=("background", "cat feline", "dog", "car"),
)


def nouns(*texts):
    return [Word(text, "NOUN", text, 0) for text in texts]


def test_a_class_is_kept_when_a_word_is_no_farther_than_the_words_are_on_average():
    # distances 0.2, 0, 0.72; their mean is 0.3067, and the wheel is beyond it
    found = candidates(nouns("kitten", "puppy", "wheel"), ANIMALS, HandMade())
    assert [(c.word, c.label) for c in found] == [("kitten", 1), ("puppy", 2), ("wheel", 3)]
    assert [c.distance for c in found] == pytest.approx([0.2, 0.0, 0.72], abs=1e-6)
    assert [c.kept for c in found] == [True, True, False] and present(found) == [1, 2]


def test_a_single_word_is_its_own_average_and_always_kept():
    assert present(candidates(nouns("wheel"), ANIMALS, HandMade())) == [3]


def test_a_word_that_is_told_twice_counts_twice():
    # over the five words the mean is 0.184, below the kitten's 0.2; over the three different ones it would be 0.3067
    found = candidates(nouns("puppy", "puppy", "kitten", "puppy", "wheel"), ANIMALS, HandMade())
    assert [(c.word, c.kept) for c in found] == [
        ("puppy", True),
        ("puppy", True),
        ("kitten", False),
        ("puppy", True),
        ("wheel", False),
    ]
    assert present(found) == [2]


def test_an_adjective_is_compared_as_its_head():
    found = candidates([Word("fluffy", "ADJ", "kitten", 0), *nouns("puppy")], ANIMALS, HandMade())
    assert [c.word for c in found] == ["kitten", "puppy"]


def test_a_class_with_synonyms_is_the_mean_of_their_encodings():
    assert np.allclose(NamesAndSynonyms().encodings(ANIMALS, HandMade())[0], HandMade.A)


def test_a_class_string_is_encoded_word_for_word_and_read_whole_by_clip():
    listed = Vocabulary.of(["pet", "dog"])
    listed = replace(listed, strings=("background", "cat feline", "dog"))
    assert np.allclose(ClassStrings().encodings(listed, HandMade()), [HandMade.A, HandMade.B])
    assert ClassStrings().texts(listed) == ("cat feline", "dog") and NamesAndSynonyms().texts(listed) == ("pet", "dog")


def test_a_name_of_several_words_is_a_string_of_several():
    assert ClassStrings().ways(Vocabulary.of(["hot dog", "dog"])) == [["hot", "dog"], ["dog"]]
    assert NamesAndSynonyms().ways(Vocabulary.of(["hot dog", "dog"])) == [("hot dog",), ("dog",)]


def test_the_papers_list_of_voc_has_its_strings():
    voc = Vocabulary.read(CLASSES / "voc12.csv")
    strings = dict(zip(voc.names, voc.strings))
    assert strings["potted plant"] == "potted plant" and strings["tv monitor"] == "tvmonitor"
    assert strings["person"] == " ".join(voc.synonyms[15]) and strings["aeroplane"] == "aeroplane"


def test_no_words_give_no_candidates():
    assert candidates([], ANIMALS, HandMade()) == [] and present([]) == []


def test_candidates_on_the_embedded_models_are_those_of_scipy_and_transformers(mini, vocabulary):
    folder = MINI / "stable-diffusion"
    encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")

    def encoded(text):
        with torch.no_grad():
            ids = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
            return encoder(ids).last_hidden_state[0].mean(dim=0).numpy()

    asked = ["cat", "chair", "striped", "zebra"]
    classes = [
        np.mean([encoded(f"A photo of {word}") for word in name.split(" ")], axis=0) for name in vocabulary.names[1:]
    ]
    distances = cdist([encoded(word) for word in asked], classes, "correlation")
    found = candidates(nouns(*asked), vocabulary, mini.diffusion)
    assert [c.label for c in found] == (distances.argmin(axis=1) + 1).tolist()
    assert np.allclose([c.distance for c in found], distances.min(axis=1), atol=1e-5)
    assert [c.kept for c in found] == (distances.min(axis=1) <= distances.min(axis=1).mean()).tolist()


@pytest.mark.parametrize(
    "sentence, spoken",
    [
        ("two women and a puppy beside a hot dog", {"person", "dog", "hot dog"}),
        ("a photo of knives, buses and mice", {"knife", "bus", "mouse"}),
        ("a catalogue of dogma", set()),
        ("a hot dog", {"hot dog"}),
    ],
)
def test_classes_are_spoken_of_by_any_form_and_the_longest_one_first(sentence, spoken):
    forms = dict(person=("woman",), dog=("puppy",), **{"hot dog": ()}, knife=(), bus=(), mouse=(), cat=())
    listed = Vocabulary(("background", *forms), (("background",), *((name, *others) for name, others in forms.items())))
    assert spoken_classes(sentence, listed) == spoken
