import csv
import functools
import http.server
import io
import json
import os
import tarfile
import tempfile
import threading
import zipfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from pycocotools import mask as codes
from torchvision.transforms.functional import center_crop

from fsdlib.measure.archives import Archive
from fsdlib.measure.benchmarks import DATASETS, download, instructions, main, open_dataset
from fsdlib.measure.datasets import IncompleteDataset, centre_square
from fsdlib.project import CLASSES
from fsdlib.vocabulary import VOID, Vocabulary, palette

# The colours of Pascal VOC's annotations, from its development kit.
OFFICIAL = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    5: (128, 0, 128),
    6: (0, 128, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    9: (192, 0, 0),
    10: (64, 128, 0),
    11: (192, 128, 0),
    12: (64, 0, 128),
    13: (192, 0, 128),
    14: (64, 128, 128),
    15: (192, 128, 128),
    16: (0, 64, 0),
    17: (128, 64, 0),
    18: (0, 192, 0),
    19: (128, 192, 0),
    20: (0, 64, 128),
    255: (224, 224, 192),
}

# For each dataset with masks in files: what stands in a file of two images' layouts, and the labels worked out by hand.
# COCO-Stuff: 0 person, 10 fire hydrant, 12 stop sign (11 was removed), 91 banner, 181 wood. Context's 459: 2 aeroplane, 397 table,
# 431 unknown, 458 wood, 255 and 459 without a class among the 59. Cityscapes: 7 road, 14 guard rail (no class), 33 bicycle.
MAPPED = {
    "scenes": ("scenes", [0, 1, 44, 255], [0, 1, 44, 255]),
    "voc12": ("voc", [0, 1, 20, 255], [0, 1, 20, 255]),
    "voc20": ("voc", [0, 1, 20, 255], [255, 1, 20, 255]),
    "coco_object_maps": ("coco_stuff", [0, 10, 12, 91, 181, 255], [1, 11, 12, 0, 0, 0]),
    "coco_stuff": ("coco_stuff", [0, 10, 12, 91, 181, 255], [1, 11, 12, 81, 171, 255]),
    "coco_stuff27": ("coco_stuff", [0, 10, 12, 91, 181, 255], [10, 9, 9, 18, 25, 255]),
    "context59": ("context_mat", [0, 2, 397, 431, 255, 458, 459], [255, 1, 50, 255, 255, 59, 255]),
    "context60": ("context_mat", [0, 2, 397, 431, 255, 458, 459], [0, 1, 50, 0, 0, 59, 0]),
    "context59 as PNG": ("context_png", [0, 1, 50, 59, 255], [255, 1, 50, 59, 255]),
    "context60 as PNG": ("context_png", [0, 1, 50, 59, 255], [0, 1, 50, 59, 255]),
    "ade20k": ("ade20k", [0, 1, 150, 255], [255, 1, 150, 255]),
    "cityscapes": ("cityscapes", [0, 6, 7, 8, 14, 33, 255], [255, 255, 1, 2, 255, 19, 255]),
    "folder": ("folder", [0, 1, 2, 255], [0, 1, 2, 255]),
}
# A value that stands for no label, for the same layouts.
STRANGE = {
    "scenes": 45,
    "voc12": 21,
    "voc20": 21,
    "coco_object_maps": 182,
    "coco_stuff": 11,
    "coco_stuff27": 182,
    "context59": 460,
    "context60": 460,
    "context59 as PNG": 60,
    "context60 as PNG": 60,
    "ade20k": 151,
    "cityscapes": 34,
    "folder": 3,
}
# (picture, mask, listing) by layout
FILES = {
    "scenes": ("JPEGImages/{}.png", "SegmentationClass/{}.png", "ImageSets/Segmentation/val.txt"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "ImageSets/Segmentation/val.txt"),
    "coco_stuff": ("val2017/{}.jpg", "stuffthingmaps/val2017/{}.png", None),
    "context_mat": ("JPEGImages/{}.jpg", "trainval/{}.mat", "ImageSets/Main/val.txt"),
    "context_png": ("JPEGImages/{}.jpg", "SegmentationClassContext/{}.png", "ImageSets/SegmentationContext/val.txt"),
    "ade20k": ("images/validation/{}.jpg", "annotations/validation/{}.png", None),
    "cityscapes": ("leftImg8bit/val/{city}/{}_leftImg8bit.png", "gtFine/val/{city}/{}_gtFine_labelIds.png", None),
    "folder": ("images/{}.jpg", "masks/{}.png", None),
}
IDS = ("ulm_1", "ulm_2", "bonn_3")


def path_of(root, kind, layout, name):
    path = root / FILES[layout][kind].format(name, city=name.split("_")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_mask(path, raw):
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"LabelMap": np.array(raw, np.uint16)})
    else:
        Image.fromarray(np.array(raw, np.uint8)).save(path)


def write(root, layout, raw, ids=IDS):
    """A dataset in miniature: pictures of 4 rows whose masks have `raw` in each row."""
    for name in ids:
        Image.new("RGB", (len(raw), 4), (9, 8, 7)).save(path_of(root, 0, layout, name))
        save_mask(path_of(root, 1, layout, name), [raw] * 4)
    if FILES[layout][2]:
        listing = root / FILES[layout][2]
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(ids) + "\n")
    if layout == "folder":
        (root / "classes.txt").write_text("cat\n\ndog\n")
    return root


@pytest.fixture
def small(tmp_path):
    """Three pictures in VOC's layout, and the folder that holds them."""
    return write(tmp_path / "VOC2012", "voc", [0, 20, 255])


@pytest.fixture
def own(tmp_path):
    return write(tmp_path / "mine", "folder", [0, 1, 2, 255])


# -- what labels mean


@pytest.mark.parametrize("case", MAPPED)
def test_the_values_in_the_files_become_labels_by_the_official_rules(tmp_path, case):
    layout, raw, expected = MAPPED[case]
    dataset = open_dataset(case.split(" ")[0], write(tmp_path, layout, raw))
    assert dataset.ids == tuple(sorted(IDS)) and dataset.has_labels
    for index in range(3):
        labels = dataset.labels(index)
        assert labels.dtype == np.uint8 and labels.tolist() == [expected] * 4
        assert dataset.image(index).shape == (4, len(raw), 3) and dataset.size(index) == (4, len(raw))
    assert dataset.picture(0) == path_of(tmp_path, 0, layout, "bonn_3")
    dataset.check()


@pytest.mark.parametrize("case", STRANGE)
def test_a_value_that_stands_for_no_label_is_an_error_that_names_the_file(tmp_path, case):
    layout = MAPPED[case][0]
    write(tmp_path, layout, [0, STRANGE[case]])
    mask = path_of(tmp_path, 1, layout, "ulm_1")
    dataset = open_dataset(case.split(" ")[0], tmp_path)
    with pytest.raises(ValueError, match=rf"{mask.name} holds values that are no labels of .* \(\[{STRANGE[case]}\]\)"):
        dataset.labels(1)
    with pytest.raises(IncompleteDataset, match="masks with labels out of range: 3 "):
        dataset.check()


def test_contexts_pngs_are_read_where_both_forms_are_there(tmp_path):
    write(tmp_path, "context_mat", [397, 0])
    assert open_dataset("context60", tmp_path).labels(0)[0].tolist() == [50, 0]
    write(tmp_path, "context_png", [7, 0])
    assert open_dataset("context60", tmp_path).labels(0)[0].tolist() == [7, 0]
    assert open_dataset("context60", tmp_path).expected == 5104


@pytest.mark.parametrize(
    "name, classes, background, val",
    [
        ("scenes", 44, True, None),
        ("voc12", 20, True, 1449),
        ("voc20", 20, False, 1449),
        ("coco_object", 80, True, 5000),
        ("coco_stuff", 171, False, 5000),
        ("coco_stuff27", 27, False, 5000),
        ("context59", 59, False, 5105),
        ("context60", 59, True, 5105),
        ("ade20k", 150, False, 2000),
        ("cityscapes", 19, False, 500),
    ],
)
def test_the_datasets_have_their_classes_and_their_official_size(name, classes, background, val):
    vocabulary = DATASETS[name].vocabulary()
    assert (
        len(vocabulary) == classes + 1
        and vocabulary.background == background
        and DATASETS[name].splits.get("val") == val
    )
    said = [word for words in vocabulary.synonyms for word in words]
    assert len(said) == len(set(said)) and all(word == word.strip() != "" for word in said)  # no word means two classes


def test_void_counts_as_background_where_the_release_counts_it_so():
    counted = {"scenes", "voc12", "coco_stuff27", "context60", "folder"}  # context60 and scenes: as Pascal VOC
    for name, (layout, raw, _) in MAPPED.items():
        with tempfile.TemporaryDirectory() as root:
            dataset = open_dataset(name.split(" ")[0], write(Path(root), layout, raw))
        assert dataset.void_is_background == (dataset.name in counted), name


def test_stuffs_groups_divide_its_classes():
    stuff, groups, objects = (
        list(csv.DictReader(open(CLASSES / f"{name}.csv")))[1:]
        for name in ("coco_stuff", "coco_stuff27", "coco_object")
    )
    removed = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}  # street sign, hat, shoe, ...: one below their category ids
    assert [int(row["official"]) for row in stuff] == [value for value in range(182) if value not in removed]
    assert sorted(int(value) for row in groups for value in row["official"].split(";")) == [
        int(row["official"]) for row in stuff
    ]
    assert [(row["name"], int(row["official"])) for row in objects] == [
        (row["name"], int(row["official"]) + 1) for row in stuff[:80]
    ]


def test_a_group_of_coco_is_named_with_its_classes(tmp_path):
    values = [0, 10, 12, 91, 181, 255]  # person, fire hydrant, stop sign, banner, wood-floor, void
    write(tmp_path, "coco_stuff", values)
    groups, stuff = (open_dataset(name, tmp_path) for name in ("coco_stuff27", "coco_stuff"))
    known = groups.vocabulary
    assert known.finer == stuff.vocabulary and len(known.groups) == 172 and set(known.groups) == set(range(28))
    fine, coarse = stuff.labels(0)[0][:-1], groups.labels(0)[0][:-1]
    assert [known.groups[label] for label in fine] == coarse.tolist() == [10, 9, 9, 18, 25]
    assert known.names[known.groups[known.finer.names.index("fire hydrant")]] == known.names[9]
    assert stuff.vocabulary.finer is None and stuff.vocabulary.groups == ()


# -- colours


def test_the_palette_is_pascal_vocs():
    colours = np.frombuffer(palette(), np.uint8).reshape(256, 3)
    assert {label: tuple(colours[label].tolist()) for label in OFFICIAL} == OFFICIAL
    assert Vocabulary.of(["cat"]).palette == palette() == DATASETS["voc20"].vocabulary().palette


@pytest.mark.parametrize(
    "name, known",
    [
        ("ade20k", {1: (120, 120, 120), 3: (6, 230, 230), 13: (150, 5, 61), 150: (92, 0, 255)}),
        ("cityscapes", {1: (128, 64, 128), 2: (244, 35, 232), 11: (70, 130, 180), 14: (0, 0, 142), 19: (119, 11, 32)}),
        ("coco_object", {1: (220, 20, 60), 3: (0, 0, 142), 16: (255, 77, 255), 80: (191, 162, 208)}),
    ],
)
def test_the_palettes_of_the_others_are_the_official_ones(name, known):
    colours = np.frombuffer(DATASETS[name].vocabulary().palette, np.uint8).reshape(256, 3)
    for label, colour in {**known, 0: (0, 0, 0), 255: (224, 224, 192)}.items():
        assert tuple(colours[label].tolist()) == colour


def test_the_palette_is_the_one_in_pascal_vocs_own_masks(voc_root):
    mask = next((voc_root / "SegmentationClass").glob("*.png"))
    assert bytes(Image.open(mask).getpalette()) == palette()


# -- class lists


def test_a_vocabulary_from_plain_names_puts_background_first():
    assert Vocabulary.of(["cat", "dog"]).names == ("background", "cat", "dog")
    assert Vocabulary.of(["background", "cat"]) == Vocabulary.of(["cat"])
    assert Vocabulary.of(["cat"]).background


def test_a_class_file_gives_names_and_synonyms_by_label(vocabulary):
    assert (
        vocabulary.names[20] == "tv monitor"
        and vocabulary.synonyms[20][0] == "tv monitor"
        and "television" in vocabulary.synonyms[20]
    )
    assert vocabulary.synonyms[3] == ("bird",)


def test_a_class_file_needs_no_more_than_names(tmp_path):
    (tmp_path / "classes.csv").write_text("index,name\n1,cat\n0,background\n")
    assert Vocabulary.read(tmp_path / "classes.csv", background=False) == Vocabulary(
        ("background", "cat"), (("background",), ("cat",)), background=False
    )


def test_colours_are_read_from_a_class_file(tmp_path):
    (tmp_path / "classes.csv").write_text("index,name,colour\n0,background,000000\n1,cat,ff8001\n")
    vocabulary = Vocabulary.read(tmp_path / "classes.csv")
    assert (
        vocabulary.colours == ((0, 0, 0), (255, 128, 1))
        and vocabulary.palette == bytes([0, 0, 0, 255, 128, 1]) + palette()[6:]
    )


@pytest.mark.parametrize(
    "rows, complaint",
    [
        ("index,name,synonyms\n0,background,\n2,cat,\n", "number the classes without gaps"),
        ("index,name\n0,background\n1,cat\n1,dog\n", "number the classes without gaps"),
        ("index,name\n0,background\none,cat\n", "number the classes without gaps"),
        ("index,name\n0,background\n1\n", "each with a name"),
        ("index,name,synonyms\n0,cat,\n1,dog,\n", "put it first"),
        ("index,name,synonyms\n0,background,\n1,cat,\n2,cat,\n", r"given twice: \['cat'\]"),
        ("label,name\n0,background\n", "no columns index and name"),
        ("index,name,colour\n0,background,000000\n1,cat,\n", "2 names and 1 colours"),
        ("index,name,colour\n0,background,000000\n1,cat,red\n", "not of the form rrggbb"),
        ("index,name,colour\n0,background,000000\n1,cat,ff00\n", "not of the form rrggbb"),
    ],
)
def test_a_class_file_that_makes_no_sense_is_refused(tmp_path, rows, complaint):
    (tmp_path / "classes.csv").write_text(rows)
    with pytest.raises(ValueError, match=complaint):
        Vocabulary.read(tmp_path / "classes.csv")


# -- files


def test_the_hundred_real_pictures_load_with_their_masks(voc_root):
    dataset = open_dataset("voc12", voc_root)
    assert len(dataset) == 100 and dataset.captions == {} and not dataset.complete and dataset.expected == 1449
    seen = set()
    for index in range(100):
        image, labels = dataset.image(index), dataset.labels(index)
        assert image.dtype == labels.dtype == np.uint8 and image.shape == (*labels.shape, 3) == (
            *dataset.size(index),
            3,
        )
        seen |= set(np.unique(labels).tolist())
    assert seen == {*range(21), VOID}
    dataset.check()
    objects = open_dataset("voc20", voc_root)
    assert not any((objects.labels(index) == 0).any() for index in range(100))


def test_a_picture_without_colour_is_read_as_rgb(small):
    Image.new("L", (6, 4), 50).save(small / "JPEGImages/ulm_1.jpg")
    assert open_dataset("voc12", small).image(1).shape == (4, 6, 3)


def test_a_palette_mask_is_read_by_its_numbers(small):
    mask = Image.fromarray(np.array([[0, 20, 255]], np.uint8))
    mask.putpalette(palette())
    mask.save(small / "SegmentationClass/ulm_1.png")
    assert open_dataset("voc12", small).labels(1).tolist() == [[0, 20, 255]]


def test_a_mask_in_black_and_white_has_the_labels_0_and_1(own):
    Image.fromarray(np.array([[False, True]])).save(own / "masks/ulm_1.png")
    labels = open_dataset("folder", own).labels(1)
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 1]]


def test_a_mask_in_colours_is_an_error(small):
    Image.new("RGB", (3, 4)).save(small / "SegmentationClass/ulm_1.png")
    with pytest.raises(ValueError, match=r"ulm_1.png has no single number a pixel but \(4, 3, 3\)"):
        open_dataset("voc12", small).labels(1)


def test_pictures_of_benchmarks_lie_as_they_are_stored(small):
    turned_by_exif(small / "JPEGImages/ulm_1.jpg", (3, 4))
    dataset = open_dataset("voc12", small)
    assert dataset.image(1).shape == (4, 3, 3) and dataset.size(1) == (4, 3)
    dataset.check()


def turned_by_exif(path, size):
    picture = Image.new("RGB", size)
    exif = picture.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    picture.save(path, exif=exif)


@pytest.mark.parametrize(
    "name, inside",
    [("voc12", "VOCdevkit/VOC2012"), ("context60", "VOCdevkit/VOC2010"), ("ade20k", "ADEChallengeData2016")],
)
def test_the_root_may_be_where_the_archives_were_unpacked(tmp_path, name, inside):
    layout, raw, _ = MAPPED[name]
    root = write(tmp_path / inside, layout, raw)
    assert open_dataset(name, tmp_path).root == open_dataset(name, root).root == root


def test_a_folder_can_be_given_relative_to_where_one_is(small, monkeypatch):
    monkeypatch.chdir(small)
    dataset = open_dataset("voc12", ".")
    assert len(dataset) == 3
    dataset.check()


def test_hidden_files_are_no_pictures(tmp_path):
    write(tmp_path, "ade20k", [1, 2])
    (tmp_path / "images/validation/._ulm_1.jpg").write_text("left by another system")
    assert len(open_dataset("ade20k", tmp_path)) == 3


def test_a_dataset_is_complete_when_it_has_the_official_number(tmp_path, monkeypatch):
    write(tmp_path, "ade20k", [1, 2])
    assert not open_dataset("ade20k", tmp_path).complete
    monkeypatch.setitem(DATASETS, "ade20k", replace(DATASETS["ade20k"], splits={"val": 3}))
    assert open_dataset("ade20k", tmp_path).complete


def test_a_rewritten_file_changes_the_fingerprint(small):
    before = open_dataset("voc12", small).fingerprint
    assert open_dataset("voc12", small).fingerprint == before
    Image.new("RGB", (30, 40), (1, 200, 3)).save(small / "JPEGImages/ulm_1.jpg")
    assert open_dataset("voc12", small).fingerprint != before


# -- ADE20K as published in 2021, whose class list is in the copy

SKY, CAR, SIGN, WHEEL = (
    (2420, "sky"),
    (401, "car, auto, automobile"),
    (2380, "sign, signboard"),
    (3001, "wheel"),
)


def ade20k_full(root, seg, objects, scene="urban/street", stem="ADE_val_00000001"):
    """One picture of the full release in miniature. seg: (H, W) numbers of objects; objects: their numbers and names."""
    folder = root / "ADE20K_2021_17_01/images/ADE/validation" / scene
    folder.mkdir(parents=True)
    seg = np.array(seg)
    instances = 10 * np.arange(seg.size).reshape(seg.shape) % 200  # the blue channel, which says nothing of classes
    Image.fromarray(np.stack([seg // 256 * 10, seg % 256, instances], -1).astype(np.uint8)).save(
        folder / f"{stem}_seg.png"
    )
    Image.new("RGB", seg.shape[::-1]).save(folder / f"{stem}.jpg")
    described = [
        dict(id=place, name=name, name_ndx=number, parts=dict(part_level=level))
        for place, (number, name, level) in enumerate(objects)
    ]
    (folder / f"{stem}.json").write_text(json.dumps(dict(annotation=dict(filename=f"{stem}.jpg", object=described))))
    (root / "ADE20K_2021_17_01/objects.txt").write_text("car, auto, automobile\t9\t7\nsky\t5\t5\nsign\t1\nfar\t0\n")
    return folder


@pytest.fixture
def full(tmp_path):
    ade20k_full(
        tmp_path, [[2420, 401, 401], [0, 2380, 401]], [(*CAR, 0), (*WHEEL, 1), (*SKY, 0), (*CAR, 0), (*SIGN, 0)]
    )
    return tmp_path


def test_ade20ks_numbers_are_objects_of_the_json_and_the_list_says_which_count(full):
    ade20k_full(full, [[401, 0]], [(*CAR, 0)], "home/garage", "ADE_val_00000000")
    dataset = open_dataset("ade20k_full", full)
    assert dataset.ids == ("ADE_val_00000000", "ADE_val_00000001") and not dataset.complete
    assert dataset.expected == 2000 and open_dataset("ade20k_full", full / "ADE20K_2021_17_01").ids == dataset.ids
    known = dataset.vocabulary
    assert known.names == ("background", "car", "sky", "sign", "far") and not known.background
    assert known.synonyms[1] == ("car", "auto", "automobile") and dataset.void_is_background
    # "sign, signboard" is another entry than "sign", and what is not annotated is nothing
    assert dataset.labels(0).tolist() == [[1, 255]]
    assert dataset.labels(1).tolist() == [[2, 1, 1], [255, 255, 1]] and dataset.labels(1).dtype == np.uint8
    dataset.check()


def test_ade20ks_list_is_its_first_150_lines_and_short_names_that_two_entries_share_stay_long(full):
    lines = ["bag\t3", "bag, handbag\t2", *(f"thing {number}, object\t1" for number in range(200))]
    (full / "ADE20K_2021_17_01/objects.txt").write_text("\n".join(lines))
    known = open_dataset("ade20k_full", full).vocabulary
    assert len(known) == 151 and known.names[1:4] == ("bag", "bag, handbag", "thing 0")
    assert known.names[-1] == "thing 147" and known.synonyms[2] == ("bag, handbag", "bag", "handbag")


def test_another_list_of_ade20k_is_another_dataset(full):
    before = open_dataset("ade20k_full", full).fingerprint
    (full / "ADE20K_2021_17_01/objects.txt").write_text("sky\t5\ncar, auto, automobile\t9\n")
    assert open_dataset("ade20k_full", full).fingerprint != before


def test_a_number_that_the_json_has_no_object_for_is_damage(full):
    folder = ade20k_full(full, [[401, 777]], [(*CAR, 0)], "home/garage", "ADE_val_00000002")
    dataset = open_dataset("ade20k_full", full)
    with pytest.raises(ValueError, match=r"ADE_val_00000002_seg.png cannot be read \(numbers \[777\] are no objects"):
        dataset.labels(1)
    (folder / "ADE_val_00000002.json").unlink()
    with pytest.raises(IncompleteDataset, match="missing masks: 1 "):
        dataset.check()


def test_ade20k_without_its_list_or_pictures_says_where_to_ask(full, tmp_path):
    (full / "ADE20K_2021_17_01/objects.txt").unlink()
    with pytest.raises(FileNotFoundError, match="lacks .*objects.txt.*request_data"):
        open_dataset("ade20k_full", full)


# -- centre crops


@pytest.mark.parametrize(
    "shape, rows, columns",
    [
        ((4, 7), (0, 3), (2, 5)),  # (7 - 3) / 2 = 2; (4 - 3) / 2 = 0.5 is rounded to the even 0
        ((8, 5), (2, 6), (0, 4)),
        ((6, 9), (0, 5), (2, 7)),
        ((375, 500), (0, 374), (63, 437)),
    ],
)
def test_a_centre_square_is_one_pixel_shorter_than_the_shorter_side(shape, rows, columns):
    places = np.arange(np.prod(shape)).reshape(shape)
    assert np.array_equal(centre_square(places), places[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("shape", [(375, 500), (334, 500), (500, 333), (480, 640), (8, 5), (7, 7)])
def test_a_centre_square_lies_where_torchvision_cuts_it(shape):
    places = np.arange(np.prod(shape)).reshape(shape)
    peer = center_crop(torch.from_numpy(places)[None], [min(shape) - 1] * 2)[0].numpy()
    assert np.array_equal(centre_square(places), peer)


def test_centre_crops_cut_pictures_and_labels_alike_and_are_checked_as_stored(small, own):
    for name, root in (("voc12", small), ("folder", own)):
        side = Image.open(open_dataset(name, root).picture(0)).width  # 3 and 4, the pictures 4 pixels high
        random = np.random.default_rng(0).integers(0, 3, (4, side)).astype(np.uint8)
        save_mask(open_dataset(name, root).masks[0], random)
        Image.fromarray(np.stack([100 * random] * 3, -1)).save(open_dataset(name, root).picture(0), "PNG")
        dataset = open_dataset(name, root, centre_crops=True)
        dataset.check()
        assert dataset.image(0).shape == (min(4, side) - 1,) * 2 + (3,)
        assert np.array_equal(dataset.image(0)[..., 0], 100 * dataset.labels(0))
        assert np.array_equal(dataset.labels(0), centre_square(random))


# -- what lacks


def test_check_lists_all_that_is_wrong_by_kind(tmp_path):
    root = write(tmp_path, "voc", [0, 20, 255], ids=[f"2007_{i}" for i in range(9)])
    dataset = open_dataset("voc12", root)
    dataset.check()
    for number in (0, 1, 2, 3):
        (root / f"JPEGImages/2007_{number}.jpg").unlink()
    (root / "JPEGImages/2007_4.jpg").write_bytes(b"no picture")
    (root / "SegmentationClass/2007_0.png").unlink()
    (root / "SegmentationClass/2007_5.png").write_bytes((root / "SegmentationClass/2007_5.png").read_bytes()[:50])
    save_mask(root / "SegmentationClass/2007_6.png", [[0, 20]])
    save_mask(root / "SegmentationClass/2007_7.png", [[0, 21, 99]] * 4)
    with pytest.raises(IncompleteDataset) as caught:
        dataset.check()
    lines = str(caught.value).split("\n")
    assert lines[0] == f"voc12 under {root} is damaged; replace these files:"
    assert sorted(lines[1:]) == [
        "  masks of another size than their picture: 1 (SegmentationClass/2007_6.png)",
        "  masks with labels out of range: 1 (SegmentationClass/2007_7.png)",
        "  missing masks: 1 (SegmentationClass/2007_0.png)",
        "  missing pictures: 4 (JPEGImages/2007_0.jpg, JPEGImages/2007_1.jpg, JPEGImages/2007_2.jpg, JPEGImages/2007_3.jpg)",
        "  unreadable masks: 1 (SegmentationClass/2007_5.png: image file is truncated)",
        "  unreadable pictures: 1 (JPEGImages/2007_4.jpg)",
    ]
    dataset.check(indices=[8])


def test_a_damaged_mask_is_an_error_that_names_the_file(tmp_path):
    write(tmp_path, "context_mat", [0, 2])
    (tmp_path / "trainval/ulm_1.mat").write_bytes(b"nothing MATLAB wrote")
    with pytest.raises(ValueError, match="ulm_1.mat cannot be read"):
        open_dataset("context60", tmp_path).labels(1)


def test_files_that_lack_a_partner_are_found_where_there_is_no_listing(tmp_path):
    write(tmp_path, "coco_stuff", [0, 1])
    (tmp_path / "val2017/ulm_1.jpg").unlink()
    (tmp_path / "stuffthingmaps/val2017/ulm_2.png").unlink()
    dataset = open_dataset("coco_stuff", tmp_path)
    assert len(dataset) == 3
    with pytest.raises(
        IncompleteDataset,
        match=r"(?s)missing pictures: 1 \(val2017/ulm_1.jpg\).*missing masks: 1 \(stuffthingmaps/val2017/ulm_2.png\)",
    ):
        dataset.check()


@pytest.mark.parametrize(
    "name, lacks",
    [
        ("voc12", ["ImageSets/Segmentation/val.txt", "JPEGImages", "SegmentationClass", "VOCtrainval_11-May-2012.tar"]),
        ("coco_object", ["val2017", "annotations/instances_val2017.json", "annotations_trainval2017.zip"]),
        ("coco_stuff", ["val2017", "stuffthingmaps/val2017", "stuffthingmaps_trainval2017.zip"]),
        ("context59", ["ImageSets/Main/val.txt", "JPEGImages", "trainval", "trainval.tar.gz"]),
        ("ade20k", ["images/validation", "annotations/validation", "ADEChallengeData2016.zip"]),
        ("cityscapes", ["leftImg8bit/val", "gtFine/val", "packageID=3"]),
    ],
)
def test_a_folder_that_is_no_dataset_is_reported_with_all_it_lacks_and_where_to_get_it(tmp_path, name, lacks):
    with pytest.raises(FileNotFoundError) as caught:
        open_dataset(name, tmp_path)
    assert all(lack in str(caught.value) for lack in lacks)


def test_more_classes_than_a_label_map_tells_apart_are_not_scored(own):
    with pytest.raises(ValueError, match="folder has 301 labels, which do not fit below 255"):
        open_dataset("folder", own, classes=[f"class {number}" for number in range(300)])


def test_empty_folders_are_no_dataset(tmp_path):
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no files"):
        open_dataset("ade20k", tmp_path)


def test_voc_without_a_folder_says_where_to_get_it():
    with pytest.raises(FileNotFoundError, match=r"'voc12' needs a root.*(?s:.)*VOCtrainval_11-May-2012.tar"):
        open_dataset("voc12")


def test_an_unknown_dataset_is_answered_with_those_there_are():
    for call in (open_dataset, instructions, lambda name: download(name, "nowhere")):
        with pytest.raises(ValueError, match="'ade'.*scenes, voc12"):
            call("ade")


# -- COCO's objects


def coco(root, annotations, height=4, width=6):
    """One picture, 7, with these annotations, and a caption."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    picture = dict(id=7, file_name="000000000007.jpg", height=height, width=width)
    categories = [
        dict(id=int(row["official"]), name=row["name"])
        for row in list(csv.DictReader(open(CLASSES / "coco_object.csv")))[1:]
    ]
    content = dict(images=[picture], annotations=annotations, categories=categories)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    (root / "annotations/captions_val2017.json").write_text(
        json.dumps(dict(images=[picture], annotations=[dict(image_id=7, caption="A cat.")]))
    )
    Image.new("RGB", (width, height)).save(root / "val2017/000000000007.jpg")
    return root


def drawn(number, category, segmentation, area, crowd=0):
    return dict(id=number, image_id=7, category_id=category, segmentation=segmentation, area=area, iscrowd=crowd)


def block(rows, columns):
    """A rectangle in a picture of 4 by 6, as a (4, 6) array."""
    mask = np.zeros((4, 6), np.uint8)
    mask[rows, columns] = 1
    return mask


def counts(mask):
    """The run-length code of a mask: runs of 0 and 1 in turn, column by column."""
    runs, now = [0], 0
    for value in mask.T.ravel().tolist():
        if value != now:
            runs.append(0)
            now = value
        runs[-1] += 1
    return dict(size=list(mask.shape), counts=runs)


def packed(mask):
    code = codes.encode(np.asfortranarray(mask))
    return dict(size=code["size"], counts=code["counts"].decode())


def test_objects_are_drawn_from_polygons_and_both_run_length_codes(tmp_path, capsys):
    root = coco(
        tmp_path,
        [
            drawn(1, 17, [[0, 0, 2, 0, 2, 2, 0, 2], [4, 0, 6, 0, 6, 1, 4, 1]], 6),  # cat, of two parts
            drawn(2, 90, counts(block(slice(3, 4), slice(0, 3))), 3),  # toothbrush
            drawn(3, 13, packed(block(slice(2, 4), slice(5, 6))), 2),  # stop sign
        ],
    )
    dataset = open_dataset("coco_object", root)
    assert dataset.ids == ("000000000007",) and dataset.captions == {"000000000007": ["A cat."]}
    assert dataset.labels(0).tolist() == [
        [16, 16, 0, 0, 16, 16],
        [16, 16, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 12],
        [80, 80, 80, 0, 0, 12],
    ]
    dataset.check()
    assert capsys.readouterr().out == ""


def test_crowds_lie_under_large_objects_and_these_under_small_ones(tmp_path):
    everything = slice(0, 4), slice(0, 6)
    root = coco(
        tmp_path,
        [
            drawn(5, 18, packed(block(slice(0, 2), slice(0, 2))), 4),  # dog, small
            drawn(6, 17, packed(block(slice(0, 2), slice(1, 3))), 4),  # cat, as small, annotated later
            drawn(7, 3, packed(block(slice(0, 3), slice(0, 5))), 15),  # car
            drawn(8, 1, counts(block(*everything)), 1, crowd=1),  # people, as far as can be seen, of a wrong small area
        ],
    )
    assert open_dataset("coco_object", root).labels(0).tolist() == [
        [17, 16, 16, 3, 3, 1],
        [17, 16, 16, 3, 3, 1],
        [3, 3, 3, 3, 3, 1],
        [1, 1, 1, 1, 1, 1],
    ]


def test_a_picture_without_objects_is_all_background(tmp_path):
    assert not open_dataset("coco_object", coco(tmp_path, [])).labels(0).any()


def test_faults_of_cocos_annotation_are_told_by_image(tmp_path):
    root = coco(tmp_path, [drawn(1, 12, counts(block(slice(0, 1), slice(0, 1))), 1)])  # a category that was removed
    with pytest.raises(
        ValueError,
        match=r"instances_val2017.json \(image 000000000007\) holds values that are no labels of coco_object \(\[12\]\)",
    ):
        open_dataset("coco_object", root).labels(0)
    Image.new("RGB", (5, 5)).save(root / "val2017/000000000007.jpg")
    with pytest.raises(IncompleteDataset, match="(?s)another size than their picture: 1 .*labels out of range: 1 "):
        open_dataset("coco_object", root).check()


@pytest.mark.parametrize("content", ["[]", "{", '{"images": [{}]}'])
def test_a_file_that_is_no_annotation_of_cocos_is_an_error_that_names_it(tmp_path, content):
    root = coco(tmp_path, [])
    (root / "annotations/instances_val2017.json").write_text(content)
    with pytest.raises(ValueError, match="instances_val2017.json is no annotation in COCO's form"):
        open_dataset("coco_object", root)


@pytest.mark.slow
def test_the_128_real_pictures_have_the_objects_that_pycocotools_draws(coco_root):
    dataset = open_dataset("coco_object", coco_root)
    assert len(dataset) == 128 and not dataset.complete and dataset.expected == 5000
    dataset.check()
    names = [category["name"] for category in dataset.annotations.dataset["categories"]]
    assert dataset.vocabulary.names[1:] == tuple(names)
    label_of = {
        category["id"]: dataset.vocabulary.names.index(category["name"])
        for category in dataset.annotations.dataset["categories"]
    }
    for index in range(128):
        labels = dataset.labels(index)
        assert labels.shape == dataset.size(index)
        objects = dataset.annotations.imgToAnns[int(dataset.ids[index])]
        masks = [dataset.annotations.annToMask(one) == 1 for one in objects]
        # at each pixel the smallest of the objects there, by areas alone
        smallest, expected = np.full(labels.shape, np.inf), np.zeros(labels.shape)
        for one, mask in zip(objects, masks, strict=True):
            wins = mask & (one["area"] <= smallest)
            smallest[wins], expected[wins] = one["area"], label_of[one["category_id"]]
        assert (labels == expected).all(), dataset.ids[index]


# -- a folder of one's own


def test_pictures_of_ones_own_may_lie_in_the_root_under_any_ending(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "b.PNG")
    Image.new("RGBA", (3, 2)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "c.JPeG")
    (tmp_path / "notes.md").write_text("not a picture")
    dataset = open_dataset("folder", tmp_path, classes=["cat"])
    assert dataset.ids == ("a", "b", "c") and dataset.split == "all" and dataset.complete and dataset.expected is None
    assert dataset.image(0).shape == (2, 3, 3) and not dataset.has_labels
    dataset.check()
    with pytest.raises(ValueError, match="no ground truth"):
        dataset.labels(0)


def test_the_classes_of_ones_own_come_from_a_list_or_a_file(own, tmp_path):
    assert open_dataset("folder", own).vocabulary == Vocabulary.of(["cat", "dog"])
    assert open_dataset("folder", own, classes=["hen", "pig"]).vocabulary.names == ("background", "hen", "pig")
    (own / "classes.csv").write_text("index,name,synonyms\n0,background,\n1,horse,pony\n2,cow,\n")
    assert open_dataset("folder", own).vocabulary.synonyms[1] == ("horse", "pony")
    (tmp_path / "other.txt").write_text("fox\r\nowl\n", encoding="utf-8-sig")
    assert open_dataset("folder", own, classes=tmp_path / "other.txt").vocabulary.names == ("background", "fox", "owl")


def test_a_folder_without_what_it_needs_says_so(own, tmp_path):
    with pytest.raises(ValueError, match="no path of a .csv or .txt"):
        open_dataset("folder", own, classes="cat, dog")
    with pytest.raises(ValueError, match="has its own classes"):
        open_dataset("voc12", own, classes=["cat"])
    (own / "classes.txt").write_text("\n")
    with pytest.raises(ValueError, match="list of classes .* is empty"):
        open_dataset("folder", own)
    (own / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match="pass classes="):
        open_dataset("folder", own)
    with pytest.raises(FileNotFoundError, match="lacks .*nowhere.*ROOT/images"):
        open_dataset("folder", tmp_path / "nowhere", classes=["cat"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures in .*empty"):
        open_dataset("folder", tmp_path / "empty", classes=["cat"])


def test_two_pictures_that_would_share_a_mask_are_refused(own):
    Image.new("RGB", (4, 4)).save(own / "images/ulm_1.png")
    with pytest.raises(ValueError, match="share the mask ulm_1.png"):
        open_dataset("folder", own)


def test_pictures_of_ones_own_stand_upright(own):
    turned_by_exif(own / "images/ulm_1.jpg", (4, 7))
    dataset = open_dataset("folder", own)
    assert dataset.image(1).shape == (4, 7, 3) and dataset.size(1) == (4, 7)


def test_other_classes_are_another_dataset(own):
    assert open_dataset("folder", own, classes=["a", "b"]).fingerprint != open_dataset("folder", own).fingerprint


# -- getting them


@pytest.mark.parametrize("name", DATASETS)
def test_the_instructions_name_every_archive_and_where_it_goes(name):
    text = instructions(name)
    for archive in DATASETS[name].archives:
        assert (
            archive.url.split("#")[0] in text
            and archive.file in text
            and archive.size in text
            and (archive.md5 or "") in text
        )
        assert f"{archive.file} -d {archive.folder}\n" in text or f"{archive.file} -C {archive.folder}\n" in text
    assert DATASETS[name].archives or DATASETS[name].source in text
    assert (f"{name} --download ROOT" in text) == (bool(DATASETS[name].archives) and name != "cityscapes")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A web server on this machine that has the scenes' layout in miniature in two archives, as dataset "voc12".

    Its folder, the paths it was asked for, and those whose next transfer it cuts short, which a test may fill.
    """
    made, shelf, asked, cuts = write(tmp_path / "made" / "VOC2012", "voc", [0, 20, 255]), tmp_path / "shelf", [], []
    shelf.mkdir()
    with tarfile.open(shelf / "pictures.tar.gz", "w:gz") as tar:
        for folder in ("JPEGImages", "ImageSets"):
            tar.add(made / folder, f"VOC2012/{folder}")
    with zipfile.ZipFile(shelf / "masks.zip", "w") as file:
        for mask in (made / "SegmentationClass").iterdir():
            file.write(mask, f"SegmentationClass/{mask.name}")
        file.writestr("readme.txt", "not needed")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in cuts:
                return super().do_GET()
            cuts.remove(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"half")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=shelf))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    archives = (
        Archive(
            f"{url}/pictures.tar.gz",
            "1 kB",
            md5((shelf / "pictures.tar.gz").read_bytes()).hexdigest(),
            ("VOC2012/JPEGImages", "VOC2012/ImageSets"),
        ),
        Archive(f"{url}/masks.zip", "1 kB", None, ("VOC2012/SegmentationClass",), folder="VOC2012"),
    )
    monkeypatch.setitem(
        DATASETS, "voc12", replace(DATASETS["voc12"], archives=archives, inside="VOC2012", splits={"val": 3})
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits before it tries again
    yield shelf, asked, cuts
    server.shutdown()
    server.server_close()


def test_a_download_can_be_opened_and_leaves_nothing_else(shop, tmp_path):
    root = download("voc12", tmp_path / "data")
    dataset = open_dataset("voc12", root)
    dataset.check()
    assert dataset.complete and dataset.labels(0)[0].tolist() == [0, 20, 255]
    assert os.listdir(root) == ["VOC2012"] and sorted(os.listdir(root / "VOC2012")) == [
        "ImageSets",
        "JPEGImages",
        "SegmentationClass",
    ]


def test_a_download_leaves_what_is_there(shop, tmp_path):
    own = tmp_path / "VOC2012/JPEGImages"
    own.mkdir(parents=True)
    (own / "mine.jpg").write_text("mine")
    download("voc12", tmp_path)
    assert os.listdir(own) == ["mine.jpg"] and (tmp_path / "VOC2012/ImageSets/Segmentation/val.txt").exists()
    asked = list(shop[1])
    download("voc12", tmp_path)
    assert shop[1] == asked == ["/pictures.tar.gz", "/masks.zip"]


def test_an_archive_with_a_wrong_checksum_is_not_unpacked(shop, tmp_path):
    (shop[0] / "pictures.tar.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="pictures.tar.gz came with the checksum"):
        download("voc12", tmp_path / "data")
    assert os.listdir(tmp_path / "data") == []


def test_a_transfer_that_was_cut_short_is_tried_again(shop, tmp_path):
    shop[2].extend(["/masks.zip"] * 2)  # which has no checksum
    open_dataset("voc12", download("voc12", tmp_path / "data")).check()
    assert shop[1] == ["/pictures.tar.gz", *["/masks.zip"] * 3]


def test_a_transfer_that_is_cut_short_every_time_is_not_unpacked(shop, tmp_path):
    shop[2].extend(["/pictures.tar.gz"] * 9)
    with pytest.raises(
        ValueError, match="pictures.tar.gz cannot be fetched .*4 bytes read, 5 more expected.*try again"
    ):
        download("voc12", tmp_path / "data")
    assert os.listdir(tmp_path / "data") == [] and len(shop[1]) == 4


def test_an_archive_that_is_not_there_is_an_error_that_names_it(shop, tmp_path):
    (shop[0] / "masks.zip").unlink()
    with pytest.raises(ValueError, match="masks.zip cannot be fetched .*404"):
        download("voc12", tmp_path / "data")


def test_an_archive_that_is_none_is_an_error_that_names_it(shop, tmp_path):
    (shop[0] / "masks.zip").write_text("<html>moved</html>")
    with pytest.raises(ValueError, match="masks.zip cannot be unpacked"):
        download("voc12", tmp_path / "data")


def test_an_archive_that_lacks_what_it_should_hold_is_not_kept(shop, tmp_path):
    with zipfile.ZipFile(shop[0] / "masks.zip", "w") as file:
        file.writestr("readme.txt", "moved")
    with pytest.raises(ValueError, match="masks.zip lacks VOC2012/SegmentationClass"):
        download("voc12", tmp_path / "data")
    assert sorted(os.listdir(tmp_path / "data/VOC2012")) == ["ImageSets", "JPEGImages"]


def test_an_archive_cannot_write_outside_its_folder(shop, tmp_path, monkeypatch):
    with tarfile.open(shop[0] / "pictures.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../../escaped.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"here"))
    benchmark = DATASETS["voc12"]
    monkeypatch.setitem(DATASETS, "voc12", replace(benchmark, archives=(replace(benchmark.archives[0], md5=None),)))
    with pytest.raises(ValueError, match="pictures.tar.gz cannot be unpacked .*outside the destination"):
        download("voc12", tmp_path / "data")
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize(
    "name, says", [("cityscapes", "packageID=1"), ("scenes", "make scenes"), ("folder", "ROOT/images")]
)
def test_what_needs_a_person_is_not_downloaded(tmp_path, name, says):
    with pytest.raises(ValueError, match=rf"{name} cannot be fetched without you(?s:.)*{says}"):
        download(name, tmp_path / "data")
    assert not (tmp_path / "data").exists()


# -- the command


def test_the_command_lists_explains_fetches_and_checks(shop, tmp_path, capsys):
    main([])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["name", *DATASETS]
    main(["coco_stuff"])
    assert capsys.readouterr().out == instructions("coco_stuff") + "\n"
    main(["voc12", "--download", str(tmp_path / "data"), "--check", str(tmp_path / "data")])
    assert capsys.readouterr().out == f"voc12 is in {tmp_path / 'data'}\ncomplete\n"


def test_the_command_says_what_is_wrong_with_a_copy(small, capsys):
    main(["voc12", "--check", str(small)])
    assert capsys.readouterr().out == "nothing is damaged, but these are 3 of the split's 1449 images\n"
    (small / "SegmentationClass/ulm_2.png").unlink()
    with pytest.raises(SystemExit, match="(?s)^error: .*missing masks: 1"):
        main(["voc12", "--check", str(small)])
    with pytest.raises(SystemExit, match="^error: .*lacks .*train.txt"):
        main(["voc12", "--check", str(small), "--split", "train"])
    with pytest.raises(SystemExit):
        main(["--check", str(small)])
    assert "which dataset?" in capsys.readouterr().err
