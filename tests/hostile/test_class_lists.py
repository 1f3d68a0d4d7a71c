"""Class lists that are not what they look like: the one obvious thing, or a refusal that says why."""

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.pipeline import segment
from fsdlib.project import CLASSES
from fsdlib.recipe import PAPER
from fsdlib.vocabulary import Vocabulary, class_rows


def folder(root, classes=None, masks=None, name="classes.csv"):
    """A folder of one's own with a picture for each mask, whose rows are all the numbers given."""
    for number, mask in enumerate(masks or [[0, 1]]):
        raw = np.array([mask] * 2, np.uint16 if max(mask) > 255 else np.uint8)
        for kind, content in (("images", Image.new("RGB", raw.shape[::-1])), ("masks", Image.fromarray(raw))):
            if kind == "images" or masks is not None:
                (root / kind).mkdir(parents=True, exist_ok=True)
                content.save(root / kind / f"{number}.png")
    if classes is not None:
        (root / name).write_text(classes)
    return root


@pytest.mark.parametrize("first", ["background", "Background", "BACKGROUND", " background "])
def test_background_in_any_letters_is_label_0_where_it_stands_first(first, tmp_path):
    """a list that begins with background, in any letters -> label 0"""
    assert Vocabulary.of([first, "cat"]) == Vocabulary.of(["cat"])
    root = folder(tmp_path, f"{first}\ncat\n", name="classes.txt")
    assert open_dataset("folder", root).vocabulary.names == ("background", "cat")
    (tmp_path / "list.csv").write_text(f"index,name\n0,{first.strip()}\n1,cat\n")
    assert Vocabulary.read(tmp_path / "list.csv").names == ("background", "cat")


@pytest.mark.parametrize("later", ["background", "Background"])
def test_background_after_other_classes_is_refused(later, tmp_path, mini):
    """background after other classes, in lists, CSVs and texts -> refused with its label"""
    says = f"the class with label 2 is called '{later}', which is label 0: take it out"
    with pytest.raises(ValueError, match=says):
        Vocabulary.of(["cat", later, "dog"])
    with pytest.raises(ValueError, match=says):
        Vocabulary.of(["background", "cat", later])
    with pytest.raises(ValueError, match=says):
        open_dataset("folder", folder(tmp_path, f"cat\n{later}\ndog\n", name="classes.txt"))
    (tmp_path / "list.csv").write_text(f"index,name\n0,background\n1,cat\n2,{later}\n")
    with pytest.raises(ValueError, match=says):
        Vocabulary.read(tmp_path / "list.csv")
    with pytest.raises(ValueError, match=says):
        segment(np.zeros((8, 8, 3), np.uint8), mini, PAPER, ["cat", later])


@pytest.mark.parametrize("names", ["cat, dog", "cat", None, 3, b"cat"])
def test_what_is_no_list_of_names_is_refused(names):
    """a text, bytes, a number or nothing for a list of names -> refused"""
    with pytest.raises(ValueError, match="and no list: write|name it in words"):
        Vocabulary.of(names)


@pytest.mark.parametrize("name", ["", "  ", "\t", None, 3, 2.5, float("nan"), b"cat", ["cat"]])
def test_a_name_that_is_no_text_or_blank_is_refused(name):
    """a name that is blank, a number, NaN, bytes or a list -> refused"""
    for names in (["cat", name], [name, "cat"], [name]):
        with pytest.raises(ValueError, match="a class is called .*: name it in words|is empty"):
            Vocabulary.of(names)
    with pytest.raises(ValueError, match="name it in words"):
        Vocabulary(("background", "cat"), (("background",), ("cat", name)))


def test_spaces_around_a_name_are_no_part_of_it():
    """names with spaces and line ends around them -> the names without"""
    assert Vocabulary.of([" cat ", "dog\n"]).names == ("background", "cat", "dog")
    assert Vocabulary.of(iter(["cat", "dog"])).names == ("background", "cat", "dog")


@pytest.mark.parametrize("names", [[], (), ["background"], ["void"]])
def test_a_list_without_a_class_is_refused(names):
    """an empty list, background alone, void alone -> refused"""
    with pytest.raises(ValueError, match="class list is empty"):
        Vocabulary.of(names)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"index,name\n0,background\n1, \n", "a class is called ' '"),
        (b"index,name\n0,background\n1,caf\xe9\n", "no table that can be read"),
        (b'index,name\n0,background\n1,"' + b"x" * 200_000 + b'"\n', "no table that can be read"),
        (b"index,name\n", "number the classes without gaps"),
        (b"", "no columns index and name"),
        (b"index,name\n1,cat\n2,dog\n", "number the classes without gaps"),
        (b"index,name,synonyms\n0,background,\n1,cat,kitten; \n", "a class is called ' '"),
    ],
)
def test_a_class_file_that_makes_no_sense_is_refused(tmp_path, content, says):
    """a CSV that is empty, with gaps, blank names, another encoding or a cell of 200,000 letters -> refused"""
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        Vocabulary.read(tmp_path / "list.csv")


def test_a_list_of_names_in_another_encoding_is_refused(tmp_path):
    """classes.txt in Latin-1 -> refused: save it in UTF-8"""
    folder(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="classes.txt is no text that can be read .*save it anew in UTF-8"):
        open_dataset("folder", tmp_path)


# -- a folder without background


def test_a_folder_says_with_void_that_it_has_no_background(tmp_path):
    """a list that begins with void, in each of its forms -> masks of 0 are void, and background is no class"""
    masks = [[0, 1, 2, 255]]
    for number, given in enumerate(
        (
            dict(classes="void\nroad\nsky\n", name="classes.txt"),
            dict(classes="index,name\n0,void\n1,road\n2,sky\n"),
            dict(),
        )
    ):
        root = folder(tmp_path / str(number), masks=masks, **given)
        dataset = open_dataset("folder", root, classes=None if given else ["Void", "road", "sky"])
        assert dataset.vocabulary.names == ("background", "road", "sky") and not dataset.vocabulary.background
        assert dataset.labels(0)[0].tolist() == [255, 1, 2, 255] and not dataset.void_is_background
        dataset.check()


def test_a_folder_with_and_without_background_are_two_datasets(tmp_path):
    """one folder with and without background -> two fingerprints"""
    root = folder(tmp_path, masks=[[0, 1, 255]])
    with_it, without = (open_dataset("folder", root, classes=[first, "road"]) for first in ("background", "void"))
    assert with_it.fingerprint != without.fingerprint and with_it.void_is_background
    assert with_it.labels(0)[0].tolist() == [0, 1, 255] and without.labels(0)[0].tolist() == [255, 1, 255]


# -- values of the masks


def test_the_official_values_of_a_folder_are_those_in_its_masks(tmp_path):
    """official values of a folder's masks up to 40,000, then one that is none -> the labels, then an error"""
    rows = "index,name,official\n0,background,7\n1,cat,30;31\n2,dog,0\n3,owl,\n4,elk,40000\n"
    dataset = open_dataset("folder", folder(tmp_path, rows, [[7, 30, 31], [0, 255, 40000]]))
    assert [dataset.labels(i)[0].tolist() for i in (0, 1)] == [[0, 1, 1], [2, 255, 4]]
    dataset.check()
    Image.fromarray(np.array([[7, 1]], np.uint8)).save(dataset.masks[0])  # the index of a class, no official value
    with pytest.raises(ValueError, match=r"no labels of folder \(\[1\]\)"):
        dataset.labels(0)


def test_official_values_without_background_leave_the_rest_to_void(tmp_path):
    """official values without background, 255 a class -> the rest is void"""
    rows = "index,name,official\n0,void,0;4\n1,road,1\n2,sky,255\n"
    dataset = open_dataset("folder", folder(tmp_path, rows, [[0, 4, 1, 255]]))
    assert dataset.labels(0)[0].tolist() == [255, 255, 1, 2]


def test_other_official_values_are_another_dataset(tmp_path):
    """the same files with other official values -> another fingerprint"""
    before = open_dataset("folder", folder(tmp_path, "index,name,official\n0,background,0\n1,cat,1\n", [[0, 1]]))
    after = open_dataset("folder", folder(tmp_path, "index,name,official\n0,background,1\n1,cat,0\n", [[0, 1]]))
    assert before.fingerprint != after.fingerprint


def test_an_empty_column_of_official_values_says_nothing(tmp_path):
    """an empty column of official values -> the numbers in the masks"""
    dataset = open_dataset("folder", folder(tmp_path, "index,name,official\n0,background,\n1,cat,\n", [[0, 1]]))
    assert dataset.labels(0)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "official, says",
    [
        ("one", "'one' in .* is no whole number from 0 to 65535"),
        ("-1", "'-1' in .* is no whole number"),
        ("1.5", "'1.5' in .* is no whole number"),
        ("65536", "'65536' in .* is no whole number"),
        ("0", "official value 0 in .* stands for two classes"),
    ],
)
def test_official_values_that_make_no_sense_are_refused(tmp_path, official, says):
    """official values that are words, too large, or given twice -> refused"""
    with pytest.raises(ValueError, match=says):
        open_dataset("folder", folder(tmp_path, f"index,name,official\n0,background,0\n1,cat,{official}\n"))


def test_the_lists_of_the_benchmarks_serve_a_folder(tmp_path):
    """Cityscapes' own list for a folder of masks that count as its do -> its labels"""
    rows = class_rows(CLASSES / "cityscapes.csv")
    road = next(row for row in rows if row["name"] == "road")
    root = folder(tmp_path, (CLASSES / "cityscapes.csv").read_text(), [[int(road["official"])]])
    assert open_dataset("folder", root).labels(0)[0].tolist() == [int(road["index"])]
