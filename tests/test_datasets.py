import shutil

import numpy as np
import pytest
from PIL import Image

from fsdlib.datasets import VOID, Vocabulary, open_dataset, palette

# The colours of Pascal VOC's annotations, from its development kit.
OFFICIAL = {
    0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 5: (128, 0, 128), 6: (0, 128, 128),
    7: (128, 128, 128), 8: (64, 0, 0), 9: (192, 0, 0), 10: (64, 128, 0), 11: (192, 128, 0), 12: (64, 0, 128),
    13: (192, 0, 128), 14: (64, 128, 128), 15: (192, 128, 128), 16: (0, 64, 0), 17: (128, 64, 0), 18: (0, 192, 0),
    19: (128, 192, 0), 20: (0, 64, 128), 255: (224, 224, 192),
}  # fmt: skip


@pytest.fixture
def small(tmp_path):
    """Two pictures in VOC's layout, and the folder that holds them."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_1\n2007_2\n")
    for name in ("2007_1", "2007_2"):
        Image.new("RGB", (6, 4), (9, 8, 7)).save(root / f"JPEGImages/{name}.jpg")
        save_mask(root, name, np.array([[0, 20, 255]], np.uint8))
    return root


def save_mask(root, name, labels, mode="P"):
    mask = Image.fromarray(labels)
    if mode == "P":
        mask.putpalette(palette())
    mask.convert(mode).save(root / f"SegmentationClass/{name}.png")


def test_the_palette_is_pascal_vocs():
    colours = np.frombuffer(palette(), np.uint8).reshape(256, 3)
    assert {label: tuple(colours[label].tolist()) for label in OFFICIAL} == OFFICIAL


def test_the_palette_is_the_one_in_pascal_vocs_own_masks(voc_root):
    mask = next((voc_root / "SegmentationClass").glob("*.png"))
    assert bytes(Image.open(mask).getpalette()) == palette()


def test_the_hundred_real_pictures_load_with_their_masks(voc_root):
    dataset = open_dataset("voc12", voc_root)
    assert len(dataset) == 100 and dataset.captions == {}
    seen = set()
    for index in range(100):
        image, labels = dataset.image(index), dataset.labels(index)
        assert image.dtype == labels.dtype == np.uint8 and image.shape == (*labels.shape, 3)
        seen |= set(np.unique(labels).tolist())
    assert seen == {*range(21), VOID}


def test_labels_are_the_numbers_in_the_file(small):
    dataset = open_dataset("voc12", str(small))
    assert dataset.labels(1).tolist() == [[0, 20, 255]] and dataset.image(0).shape == (4, 6, 3)


def test_a_picture_without_colour_is_read_as_rgb(small):
    Image.new("L", (6, 4), 50).save(small / "JPEGImages/2007_1.jpg")
    assert open_dataset("voc12", small).image(0).shape == (4, 6, 3)


def test_a_folder_can_be_given_relative_to_where_one_is(small, monkeypatch):
    monkeypatch.chdir(small)
    assert len(open_dataset("voc12", ".")) == 2


def test_missing_files_are_reported_together_with_where_to_get_them(small):
    (small / "JPEGImages/2007_2.jpg").unlink()
    shutil.rmtree(small / "SegmentationClass")
    with pytest.raises(FileNotFoundError, match=r"lacks 3 of 4 files under .*VOC2012, first 2007_1.png: get VOCtrainval"):
        open_dataset("voc12", small)


def test_a_folder_that_is_no_dataset_is_reported_with_the_file_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match="val.txt: get VOCtrainval"):
        open_dataset("voc12", tmp_path)


def test_voc_without_a_folder_says_where_to_get_it():
    with pytest.raises(FileNotFoundError, match="Pascal VOC 2012 site"):
        open_dataset("voc12")


def test_an_unknown_dataset_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'ade'.*scenes, voc12"):
        open_dataset("ade")


def test_a_label_that_no_class_has_is_an_error_that_names_the_file(small):
    save_mask(small, "2007_1", np.array([[0, 21, 255]], np.uint8))
    with pytest.raises(ValueError, match="2007_1.png .* labels below 21"):
        open_dataset("voc12", small).labels(0)


def test_a_mask_in_colours_is_an_error(small):
    save_mask(small, "2007_1", np.array([[0, 20, 255]], np.uint8), mode="RGB")
    with pytest.raises(ValueError, match="no palette mask"):
        open_dataset("voc12", small).labels(0)


def test_a_vocabulary_from_plain_names_puts_background_first():
    assert Vocabulary.of(["cat", "dog"]).names == ("background", "cat", "dog")
    assert Vocabulary.of(["cat", "background"]) == Vocabulary.of(["cat"])


def test_a_class_file_gives_names_and_synonyms_by_label(vocabulary):
    assert vocabulary.names[20] == "tv monitor" and vocabulary.synonyms[20][0] == "tv monitor" and "television" in vocabulary.synonyms[20]
    assert vocabulary.synonyms[3] == ("bird",)


@pytest.mark.parametrize(
    "rows, complaint",
    [
        ("0,background,\n2,cat,\n", "number the classes without gaps"),
        ("0,cat,\n1,dog,\n", "put it first"),
        ("0,background,\n1,cat,\n2,cat,\n", r"given twice: \['cat'\]"),
    ],
)
def test_a_class_file_that_makes_no_sense_is_refused(tmp_path, rows, complaint):
    (tmp_path / "classes.csv").write_text("index,name,synonyms\n" + rows)
    with pytest.raises(ValueError, match=complaint):
        Vocabulary.read(tmp_path / "classes.csv")
