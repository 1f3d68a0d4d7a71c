import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.project import ROOT
from fsdlib.world.scenes import PATTERNS, STYLES, VOID, close_up, scene_of_split, sprites, world_classes, write_scenes

CLASSES = {c.name: c for c in world_classes()}
ADJECTIVES = {"plain": "plain", "spots": "spotted", "stripes": "striped", "checks": "checked"}
PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "fish": "fish",
    "butterfly": "butterflies",
    "bus": "buses",
    "couch": "couches",
}


def files_of(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), train=2, val=3, seed=5, side=96)


@pytest.fixture(scope="module")
def many():
    return [scene_of_split("val", number, seed=3, side=96) for number in range(40)]


def test_the_same_arguments_give_the_same_scene_whatever_was_drawn_before(scene):
    scene_of_split("train", 9)
    again = scene_of_split("val", 1)
    assert again.image.tobytes() == scene.image.tobytes() and again.labels.tobytes() == scene.labels.tobytes()
    assert again.captions == scene.captions and again.objects == scene.objects


@pytest.mark.parametrize("other", [dict(split="train"), dict(number=2), dict(seed=1)])
def test_another_split_number_or_seed_gives_another_scene(scene, other):
    drawn = scene_of_split(**(dict(split="val", number=1) | other))
    assert (drawn.image != scene.image).mean() > 0.5


def test_another_process_writes_the_same_bytes(written, tmp_path):
    code = f"from fsdlib.world.scenes import write_scenes; write_scenes({str(tmp_path / 'again')!r}, train=2, val=3, seed=5, side=96)"
    environment = os.environ | dict(PYTHONPATH=str(ROOT), PYTHONHASHSEED="7")
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert files_of(tmp_path / "again") == files_of(written)


def test_a_dataset_that_is_there_is_left_alone_and_one_made_otherwise_is_replaced(tmp_path):
    root = write_scenes(tmp_path / "d", val=1, side=64)
    picture = root / "JPEGImages" / "val_000000.png"
    before, time = picture.read_bytes(), picture.stat().st_mtime_ns
    write_scenes(root, val=1, side=64)
    assert picture.stat().st_mtime_ns == time
    write_scenes(root, val=1, side=64, seed=1)
    assert picture.read_bytes() != before


def test_a_rewrite_that_is_cut_short_does_not_pass_for_finished(tmp_path, monkeypatch):
    root = write_scenes(tmp_path / "d", val=1, side=64)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fsdlib.world.scenes.scene_of_split", interrupted)
        write_scenes(root, val=2, side=64)
    write_scenes(root, val=2, side=64)
    assert len(open_dataset("scenes", root)) == 2


def test_the_folder_opens_as_a_dataset_with_pictures_masks_and_captions(written):
    dataset = open_dataset("scenes", written)
    drawn = scene_of_split("val", 2, seed=5, side=96)
    assert (
        dataset.ids == ("val_000000", "val_000001", "val_000002") and len(open_dataset("scenes", written, "train")) == 2
    )
    assert np.array_equal(dataset.labels(2), drawn.labels)
    assert np.array_equal(dataset.image(2), drawn.image)  # stored without loss
    assert tuple(dataset.captions["val_000002"]) == drawn.captions


def test_masks_are_palette_pictures_in_vocs_colours(written):
    mask = Image.open(written / "SegmentationClass" / "val_000000.png")
    assert (
        mask.mode == "P"
        and mask.getpalette()[3 * 15 : 3 * 16] == [192, 128, 128]
        and mask.getpalette()[3 * VOID :] == [224, 224, 192]
    )


def test_captions_are_in_cocos_form(written):
    content = json.loads((written / "captions.json").read_text())
    pictures = {picture["id"]: picture for picture in content["images"]}
    assert (
        len(pictures) == 5
        and len(content["annotations"]) == 15
        and len({a["id"] for a in content["annotations"]}) == 15
    )
    assert all(a["image_id"] in pictures and a["caption"] for a in content["annotations"])
    assert all(
        Image.open(written / "JPEGImages" / p["file_name"]).size == (p["width"], p["height"]) for p in pictures.values()
    )


def test_the_mask_holds_exactly_the_objects_that_were_drawn(many):
    for drawn in many:
        assert set(np.unique(drawn.labels)) - {0, VOID} == {CLASSES[name].index for name in drawn.objects}


def test_scenes_hold_one_to_four_objects_and_sometimes_two_of_a_kind(many):
    assert {len(drawn.objects) for drawn in many} == {1, 2, 3, 4}
    assert any(len(set(drawn.objects)) < len(drawn.objects) for drawn in many)


def test_every_caption_names_every_object_and_how_many_there_are(many):
    for drawn in many:
        for caption in drawn.captions:
            for name in set(drawn.objects):
                words = [name, *CLASSES[name].synonyms]
                if drawn.objects.count(name) > 1:
                    words = [f"two {PLURALS.get(word, word + 's')}" for word in words]
                assert any(re.search(rf"\b{word}\b", caption) for word in words), (caption, name)


def test_every_caption_names_the_pattern_that_covers_most(many):
    for drawn in many:
        most = PATTERNS[np.bincount(drawn.patterns.ravel()).argmax()]
        assert all(re.search(rf"\b{ADJECTIVES[most]} (background|wall|floor)\b", caption) for caption in drawn.captions)


def test_captions_come_in_several_forms(many):
    captions = [caption for drawn in many for caption in drawn.captions]
    assert {caption.split()[-1] for caption in captions} >= {"background", "wall", "floor"}
    assert any(re.match(r"a \w+ wall behind ", caption) for caption in captions) and any(
        re.match(r"a \w+ background with ", caption) for caption in captions
    )


def test_objects_are_told_from_left_to_right(many):
    for drawn in many:
        if len(drawn.objects) == 2 and len(set(drawn.objects)) == 2:
            centres = [np.nonzero(drawn.labels == CLASSES[name].index)[1].mean() for name in drawn.objects]
            assert centres[0] < centres[1] + 10  # pixels; the drawing need not be centred in its box


def test_a_void_line_parts_whatever_differs(many):
    for drawn in many:
        for a, b in ((drawn.labels[1:], drawn.labels[:-1]), (drawn.labels[:, 1:], drawn.labels[:, :-1])):
            assert np.all((a == b) | (a == VOID) | (b == VOID))
        assert 0 < (drawn.labels == VOID).mean() < 0.2


def test_two_of_a_kind_that_touch_are_parted_too():
    from fsdlib.world.scenes import _borders

    instances = np.array([[1, 1, 2, 2]], np.uint8)  # one class, two objects
    assert _borders(instances).tolist() == [[False, True, True, False]]


def test_every_class_has_a_visible_drawing_in_every_style():
    for name, drawings in sprites().items():
        assert len(drawings) == len(STYLES) * len(CLASSES[name].drawings)
        for drawing in drawings:
            assert drawing.dtype == np.uint8 and drawing.shape[2] == 4 and 60 < max(drawing.shape[:2]) <= 144
            assert (drawing[..., 3] > 127).mean() > 0.1


def test_the_two_styles_draw_differently():
    first, second = sprites(("twemoji",)), sprites(("openmoji",))
    assert all(a.shape != b.shape or (a != b).any() for name in first for a, b in zip(first[name], second[name]))


def test_the_world_has_vocs_classes_first_and_twenty_others_at_least(vocabulary):
    from fsdlib.project import CLASSES as folder
    from fsdlib.vocabulary import Vocabulary

    assert vocabulary.names[:21] == Vocabulary.read(folder / "voc12.csv").names
    assert len(vocabulary) >= 41 and list(CLASSES) == list(vocabulary.names[1:])


def square(path, colour):
    Image.fromarray(np.full((40, 30, 4), (*colour, 255), np.uint8)).save(path)


def test_a_close_up_frames_one_object_and_names_it_alone(many):
    for number, whole in enumerate(many):
        close = close_up(whole, np.random.default_rng(number))
        side = len(close.labels)
        assert (
            close.image.shape == (side, side, 3)
            and close.labels.shape == close.patterns.shape == (side, side)
            and len(whole.labels) // 4 <= side <= len(whole.labels)
        )
        (name,) = close.objects
        subject = next(c.index for c in world_classes() if c.name == name)
        assert name in whole.objects and (close.labels == subject).sum() > 0.6 * (whole.labels == subject).sum()
        words = (name, *next(c.synonyms for c in world_classes() if c.name == name))
        assert len(close.captions) == 3 and all(any(word in caption for word in words) for caption in close.captions)
        again = close_up(whole, np.random.default_rng(number))
        assert np.array_equal(close.image, again.image) and close.captions == again.captions


def test_a_folder_of_sprites_takes_the_place_of_the_drawings(tmp_path):
    square(tmp_path / "cat__red.png", (255, 0, 0))
    square(tmp_path / "potted plant__blue.png", (0, 0, 255))
    found = set()
    for number in range(6):
        drawn = scene_of_split("val", number, side=64, folder=tmp_path)
        found |= set(drawn.objects)
        red, _, blue = drawn.image[drawn.labels == CLASSES[drawn.objects[0]].index].mean(axis=0)
        assert red > blue + 50 if drawn.objects[0] == "cat" else blue > red + 50
    assert found == {"cat", "potted plant"}


def test_a_folder_without_sprites_says_how_to_name_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="CLASS__anything.png"):
        scene_of_split("val", 0, folder=tmp_path)


def test_sprites_of_an_unknown_class_are_refused_by_name(tmp_path):
    square(tmp_path / "unicorn__1.png", (9, 9, 9))
    with pytest.raises(ValueError, match="unicorn.*scenes.csv"):
        scene_of_split("val", 0, folder=tmp_path)
