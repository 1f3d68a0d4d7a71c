"""Nothing outside a dataset's root is read, and no id names a file of a run outside its folder."""

import json
import os
import string

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import IncompleteDataset, OutsideRoot, file_stem

SECRET = (1, 2, 3)


@pytest.fixture
def voc(tmp_path):
    """A function that writes VOC's folders with these ids in the list, and a picture and a mask beside the root."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for place in (root / "JPEGImages/good.jpg", tmp_path / "secret.jpg"):
        Image.new("RGB", (4, 3), SECRET).save(place)
    for place in (root / "SegmentationClass/good.png", tmp_path / "secret.png"):
        Image.fromarray(np.ones((3, 4), np.uint8)).save(place)

    def write(*ids):
        listing = "\n".join(["good", *ids]) + "\n"
        (root / "ImageSets/Segmentation/val.txt").write_bytes(listing.encode("utf-8", "surrogateescape"))
        return root

    return write


def leads_out(dataset, image_id):
    index = dataset.ids.index(image_id)
    for read in (dataset.image, dataset.size, dataset.labels):
        with pytest.raises(OutsideRoot, match="leads out of .* give the folder that holds all of them as root"):
            read(index)


@pytest.mark.parametrize(
    "form", ["../../secret", "{outside}/secret", "../JPEGImages/../../secret", "a/../../../secret"]
)
def test_an_id_that_leads_out_is_not_read_and_is_found_by_check(voc, tmp_path, form):
    """a listing with `..` and absolute paths -> not read, found by check(); the others are read"""
    image_id = form.format(outside=tmp_path)
    dataset = open_dataset("voc12", voc(image_id))
    leads_out(dataset, image_id)
    with pytest.raises(IncompleteDataset, match=r"files that lead out of this folder, by a link, .*: 2 \(.*secret"):
        dataset.check()
    assert dataset.image(dataset.ids.index("good")).shape == (3, 4, 3)


def test_links_that_leave_the_root_are_not_followed_and_those_that_stay_are(voc, tmp_path):
    """links that leave the root, stay in it, or go round -> the first and last are not followed"""
    root = voc("out", "stays", "round")
    for folder, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (root / folder / f"out.{ending}").symlink_to(tmp_path / f"secret.{ending}")
        (root / folder / f"stays.{ending}").symlink_to(f"good.{ending}")
        (root / folder / f"round.{ending}").symlink_to(f"round.{ending}")
    dataset = open_dataset("voc12", root)
    leads_out(dataset, "out")
    assert dataset.labels(dataset.ids.index("stays")).all()
    with pytest.raises(
        IncompleteDataset, match=r"files that lead out .*: 4 \(JPEGImages/out.jpg, SegmentationClass/out"
    ):
        dataset.check()


def test_a_root_that_is_a_link_itself_is_a_root(voc, tmp_path):
    """a root that is a link itself -> read"""
    (tmp_path / "link").symlink_to(voc(), target_is_directory=True)
    dataset = open_dataset("voc12", tmp_path / "link")
    dataset.check()
    assert dataset.image(0).shape[2] == 3


def test_a_folder_of_pictures_that_lies_elsewhere_is_refused(tmp_path):
    """images/ that is a link to another folder -> not read, found by check()"""
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (4, 3), SECRET).save(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    dataset = open_dataset("folder", tmp_path / "mine", classes=["cat"])
    with pytest.raises(OutsideRoot):
        dataset.image(0)
    with pytest.raises(IncompleteDataset, match="files that lead out"):
        dataset.check()


@pytest.mark.parametrize("name", ["classes.csv", "classes.txt"])
def test_a_class_list_of_a_folder_is_not_read_elsewhere(tmp_path, name):
    """a class list that is a link to a secret -> refused, and not a word of it in the message"""
    (tmp_path / "secrets").write_text("index,name\n0,background\n1,password\n")
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "mine/a.jpg")
    (tmp_path / "mine" / name).symlink_to(tmp_path / "secrets")
    with pytest.raises(OutsideRoot) as caught:
        open_dataset("folder", tmp_path / "mine")
    assert "password" not in str(caught.value)


def test_a_listing_is_not_read_elsewhere(voc, tmp_path):
    """a listing that is a link to elsewhere -> refused"""
    root = voc()
    (tmp_path / "words.txt").write_text("good\n")
    (root / "ImageSets/Segmentation/train.txt").symlink_to(tmp_path / "words.txt")
    with pytest.raises(OutsideRoot):
        open_dataset("voc12", root, "train")


def test_the_json_beside_a_picture_and_captions_are_not_read_elsewhere(voc, tmp_path):
    """captions that are a link to elsewhere -> refused"""
    root = voc()
    (tmp_path / "captions.json").write_text(json.dumps(dict(images=[], annotations=[])))
    (root / "captions.json").symlink_to(tmp_path / "captions.json")
    with pytest.raises(OutsideRoot):
        _ = open_dataset("voc12", root).captions


@pytest.mark.parametrize("split", ["../val", "/etc", "a/b", "..", ".", "", "val\0", None, 3])
@pytest.mark.parametrize("name", ["voc12", "coco_object", "ade20k", "cityscapes", "context60"])
def test_a_split_is_a_plain_name(tmp_path, name, split):
    """a split called ../val, /etc, a zero byte, nothing, a number -> refused"""
    with pytest.raises(ValueError, match="is no plain name: give one such as 'train'"):
        open_dataset(name, tmp_path, split)


def test_all_that_lead_out_are_counted_and_the_first_twenty_named(voc):
    """thirty ids that lead out -> all counted, the first twenty files named"""
    outside = [f"../../secret{number:02}" for number in range(30)]
    with pytest.raises(IncompleteDataset) as caught:
        open_dataset("voc12", voc(*outside)).check()
    [line] = [line for line in str(caught.value).splitlines() if "lead out" in line]
    assert ": 60 (" in line and line.endswith(", ...)") and line.count("secret") == 20


def test_ids_that_are_hard_to_write_are_read_where_they_lie_within(voc):
    """ids with a folder, a percent sign, no UTF-8, 245 letters, within the root -> read"""
    hard = ["sub/good", "x" * 245, "\udcff-latin", "na%me", "猫"]
    root = voc(*hard)
    (root / "JPEGImages/sub").mkdir()
    (root / "SegmentationClass/sub").mkdir()
    for one in hard:
        os.link(root / "JPEGImages/good.jpg", root / f"JPEGImages/{one}.jpg")
        os.link(root / "SegmentationClass/good.png", root / f"SegmentationClass/{one}.png")
    dataset = open_dataset("voc12", root)
    assert set(dataset.ids) == {"good", "\\udcff-latin", *hard} - {"\udcff-latin"}  # tables take text alone
    dataset.check()
    assert all(dataset.labels(i).all() for i in range(len(dataset))) and dataset.fingerprint


def test_names_that_no_file_can_have_are_damage_and_nothing_worse(voc):
    """ids of 400 letters or with a zero byte -> damage that check() finds"""
    dataset = open_dataset("voc12", voc("y" * 400, "nothing\0more"))
    assert dataset.fingerprint
    with pytest.raises(IncompleteDataset, match="File name too long"):
        dataset.check()


def test_two_pictures_of_one_id_are_refused(tmp_path):
    """two pictures of one id -> refused"""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    images = [dict(id=n, file_name=f"{folder}/7.jpg", height=4, width=6) for n, folder in enumerate(("a", "b"))]
    content = json.dumps(dict(images=images, annotations=[], categories=[]))
    (tmp_path / "annotations/instances_val2017.json").write_text(content)
    with pytest.raises(ValueError, match=r"several pictures called \['7'\]: rename all but one"):
        open_dataset("coco_object", tmp_path)


# -- what the files of an image are called


HARD = [
    "..", ".", "", ".hidden", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "a\nb", "a b", "a%20b", "a%2520b", "a~b",
    "猫", "é", "e\u0301", "\udcff", "\ud800", "ÿ", "a\0", "CON:", "x" * 160, "x" * 161, "x" * 245, "x" * 244 + "y",
    "%" * 100, "猫" * 81, "猫" * 80 + "犬", "$HOME", "{}", "'\"", *string.punctuation, *map(chr, range(32)),
]  # fmt: skip


def test_names_of_files_are_one_to_one_plain_and_short():
    """hard ids as names of results' files -> one to one, of plain letters, short, none hidden"""
    names = {file_stem(one): one for one in HARD}
    assert len(names) == len(set(HARD))
    for name in names:
        assert set(name) <= {*string.ascii_letters, *string.digits, *"_-.%~"} and len(name) <= 165
        assert not name.startswith(".")


def test_ids_of_the_benchmarks_are_names_as_they_are():
    """ids as the benchmarks have them -> names as they are"""
    for one in ("2008_000533", "000000000139", "val_000012", "ADE_val_00000001", "frankfurt_000000_000294", "a-b.c"):
        assert file_stem(one) == one
    assert file_stem("my cat/1") == "my%20cat%2F1"


def test_the_name_of_a_file_is_that_of_no_other_file():
    """an id that is the name of another id's file, a long one's too -> another name"""
    assert file_stem(file_stem("x" * 200)) != file_stem("x" * 200)
    assert len({file_stem("a b"), file_stem("a%20b"), file_stem(file_stem("a b"))}) == 2


def test_a_file_can_be_written_under_any_name_and_none_takes_anothers_place(tmp_path):
    """a file under the name of each hard id -> all there, none in another's place"""
    for one in HARD:
        (tmp_path / f"{file_stem(one)}.json").write_text(repr(one))
    written = [path.read_text() for path in tmp_path.rglob("*") if path.parent == tmp_path]
    assert sorted(written) == sorted({repr(one) for one in HARD})
