"""Other hands: what they may change in a drawing, and what has to stay."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fsdlib.world.scenes import STYLES, rasterise, redrawn, scene_of_split, sprites, world_classes
from fsdlib.world.styles import UNSEEN, pencil, relief, reshape, vary

# a red square with a black eye and an outline, and four small shapes
FACE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><path fill="#dd2e44" stroke="#000" stroke-width="2"
d="M4 4h64v64h-64z"/><circle cx="20" cy="20" r="6" fill="#111"/><circle cx="50" cy="20" r="6" fill="#fff"/>
<rect x="20" y="50" width="30" height="4" fill="#ffcc4d"/><rect x="30" y="40" width="5" height="4" fill="#5c913b"/></svg>"""
PLAIN = FACE.replace(' stroke="#000" stroke-width="2"', "")


def many(svg, count=300):
    return [vary(svg, np.random.default_rng(seed)) for seed in range(count)]


def silhouette(sprite, side=64):
    """Where a drawing is opaque, cut to its box and brought to one size."""
    return np.asarray(Image.fromarray(sprite[..., 3]).resize((side, side))) > 127


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_a_varied_drawing_is_an_svg_of_the_same_size_and_depends_on_the_seed_alone():
    found = many(FACE)
    assert found == many(FACE) and len(set(found)) > 250
    for svg in found:
        root = ElementTree.fromstring(svg)
        assert root.get("viewBox") == "0 0 72 72" and "#dd2e44z" not in svg


def test_every_kind_of_variation_comes_and_none_always():
    """Of 300: outlines gone, or of another width; dark eyes kept; gradients; a shape less, never the square."""
    found = many(FACE)
    shares = {
        "no outline": sum('stroke="none"' in svg for svg in found),
        "another width": sum("stroke-width" in svg and 'stroke-width="2"' not in svg for svg in found),
        "eye kept": sum("#111" in svg for svg in found),
        "gradients": sum("linearGradient" in svg for svg in found),
        "a shape less": sum(len(re.findall("<(?:path|circle|rect)", svg)) == 4 for svg in found),
        "as it was": sum("#dd2e44" in svg for svg in found),
    }
    assert all(30 < count < 270 for count in shares.values()), shares
    assert all("M4 4h64v64h-64z" in svg for svg in found)
    outlined = sum("stroke-width" in svg for svg in many(PLAIN))  # added where there were none
    assert 60 < outlined < 200


@pytest.mark.parametrize("style", STYLES)
def test_every_drawing_of_every_class_can_be_drawn_and_the_additional_ones_too(style):
    for one in world_classes():
        for drawing in one.more_drawings:
            assert drawing not in one.drawings and (rasterise(drawing, style)[..., 3] > 127).sum() > 500


def test_another_hand_keeps_what_a_drawing_shows():
    """The square stays most of a square, however it is stretched and bent; and every class can be redrawn."""
    square = np.zeros((100, 100, 4), np.uint8)
    square[10:90, 10:90] = (200, 30, 40, 255)
    bent = [reshape(square, np.random.default_rng(seed)) for seed in range(60)]
    alike = [overlap(silhouette(_cut(one)), np.ones((64, 64), bool)) for one in bent]
    assert min(alike) > 0.5 and np.median(alike) > 0.85 and len({one.shape for one in bent}) > 20
    for number, one in enumerate(world_classes()):
        drawn = redrawn(np.random.default_rng(number), one.name)
        assert drawn.dtype == np.uint8 and drawn.shape[2] == 4 and (drawn[..., 3] > 127).mean() > 0.1
        assert np.array_equal(drawn, redrawn(np.random.default_rng(number), one.name))


def _cut(sprite):
    rows, columns = (np.flatnonzero((sprite[..., 3] > 127).any(axis)) for axis in (1, 0))
    return sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("style", UNSEEN)
def test_a_style_never_trained_on_keeps_the_shape(style):
    for one in world_classes()[::6]:
        drawing = rasterise(one.drawings[0], "openmoji")
        restyled = UNSEEN[style](drawing)
        shapes = [silhouette(_cut(sprite)) for sprite in (drawing, restyled)]
        assert overlap(*shapes) > 0.8, one.name


def test_pencil_has_no_colour_and_lines_at_edges_and_relief_no_lines():
    """A black ring around a flat disc: the pencil draws on light paper; clay hardly shows the ring, and its lamp stands upper left."""
    y, x = np.mgrid[:100, :100] - 50
    radius = np.hypot(x, y)
    disc = np.zeros((100, 100, 4), np.uint8)
    disc[radius < 45] = (40, 120, 220, 255)
    disc[(radius < 45) & (radius > 42)] = (0, 0, 0, 255)
    drawn = pencil(disc).astype(int)
    assert np.ptp(drawn[..., :3], axis=2).max() <= 10
    assert drawn[54, 54, 0] > 180 and drawn[54, 10:18, 0].min() < 90  # the middle, and across the rim
    clay = relief(disc).astype(int)
    assert clay[26:30, 26:30, :3].mean() > 1.3 * clay[80:84, 80:84, :3].mean()
    assert clay[56, 56, 2] > clay[56, 56, 0]  # still blue


def test_scenes_of_the_val_split_are_drawn_by_the_worlds_two_hands_alone():
    assert np.array_equal(scene_of_split("val", 3).image, scene_of_split("val", 3, redrawn_share=0).image)
    own, others = (scene_of_split("train", 5, redrawn_share=share) for share in (0, 1))
    assert not np.array_equal(own.image, others.image)
    assert {len(drawings) for drawings in sprites(("relief",)).values()} == {
        2 * len(one.drawings) for one in world_classes()
    }
