import pytest

from fsdlib.project import CLASSES
from fsdlib.vocabulary import Vocabulary, plural


@pytest.mark.parametrize(
    "word, words",
    [
        ("cat", "cats"),
        ("bus", "buses"),
        ("wine glass", "wine glasses"),
        ("couch", "couches"),
        ("butterfly", "butterflies"),
        ("boy", "boys"),
        ("woman", "women"),
        ("sheep", "sheep"),
        ("scissors", "scissors"),
        ("chest of drawers", "chest of drawers"),
        ("people", "people"),
        ("shelf", "shelves"),
        ("wolf", "wolves"),
        ("leaf", "leaves"),
        ("loaf", "loaves"),
        ("calf", "calves"),
        ("half", "halves"),
        ("butter knife", "butter knives"),
        ("wife", "wives"),
        ("life", "lives"),
        ("scarf", "scarves"),
        ("bookshelf", "bookshelves"),
        *((word, word + "s") for word in ("roof", "chief", "giraffe", "cliff", "reef", "gulf", "pouf", "safe")),
    ],
)
def test_plurals_are_those_of_english(word, words):
    assert plural(word) == words


def test_of_all_classes_in_s_only_the_singulars_take_an_ending():
    said = {word for path in CLASSES.glob("*.csv") for words in Vocabulary.read(path).synonyms for word in words}
    changed = {word.split()[-1] for word in said if word.endswith("s") and plural(word) != word}
    buses = {"bus", "autobus", "motorbus", "omnibus"}
    assert changed == {"dress", "glass", "grass", "moss", "press", "wineglass"} | buses
