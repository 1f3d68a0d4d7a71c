"""Nothing, too much, and labels that there are not: one sentence each, in place of what a library makes of it."""

import numpy as np
import pytest

from fsdlib import names, refinement
from fsdlib.caption import caption
from fsdlib.clusters import Agglomerative, KMeans, NormalisedCut, Spectral, masks, normalised_cut
from fsdlib.features import latents
from fsdlib.pipeline import perceive, segment, segment_batch
from fsdlib.recipe import PAPER
from fsdlib.vocabulary import Vocabulary

EMPTY = [(0, 5, 3), (5, 0, 3), (0, 0, 3)]
NO_PIXELS = r"a picture of shape \(\d, \d, 3\) has no pixels: leave it out"
PETS = Vocabulary.of(["cat", "dog"])
ORACLE = PAPER.with_changes({"vocabulary": "oracle"})


def nothing(shape, kind=np.uint8):
    return np.zeros(shape, kind)


# ------------------------------------------------------------------------------------------------- nothing


@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("stage", ["segment", "perceive", "caption", "latents", "encode_images", "encode_patches"])
def test_a_picture_without_pixels_is_refused_wherever_pictures_are_taken(mini, scene, shape, stage):
    """pictures without rows or columns, to every stage that takes pictures -> refused"""
    stages = dict(
        segment=lambda pictures: segment_batch(pictures, mini, PAPER, PETS),
        perceive=lambda pictures: perceive(pictures, mini, PAPER),
        caption=lambda pictures: caption(pictures, mini.captioner),
        latents=lambda pictures: latents(pictures, mini.diffusion),
        encode_images=mini.clip.encode_images,
        encode_patches=mini.clip.encode_patches,
    )
    with pytest.raises(ValueError, match=NO_PIXELS):
        stages[stage]([scene.image, nothing(shape)])


def test_no_picture_at_all_is_an_empty_list_of_results_and_no_picture_for_a_model(mini):
    """no picture at all -> no results; refused by the models"""
    assert segment_batch([], mini, PAPER) == perceive([], mini, PAPER) == []
    for stage in (
        lambda: caption([], mini.captioner),
        lambda: latents([], mini.diffusion),
        lambda: names.score([], ["cat"], mini.clip),
    ):
        with pytest.raises(ValueError, match="no picture is given: give at least one"):
            stage()


def test_no_text_is_refused_by_both_text_encoders(mini):
    """no text at all, to both text encoders -> refused"""
    for stage in (
        lambda: mini.diffusion.encode_text([]),
        lambda: mini.clip.encode_text([]),
        lambda: names.encode_names([], mini.clip),
    ):
        with pytest.raises(ValueError, match="no text is given to be encoded: give at least one"):
            stage()


@pytest.mark.parametrize("way", [KMeans(), Agglomerative(), Spectral(), NormalisedCut()], ids=lambda way: way.kind)
@pytest.mark.parametrize("shape", [(3, 0, 0), (3, 0, 4), (0, 4, 4)])
def test_features_of_nothing_are_refused(way, shape):
    """features without positions or channels, to every clustering -> refused"""
    with pytest.raises(ValueError, match="have nothing to group: give some for at least one position"):
        way.group(nothing(shape, np.float32))


def test_a_map_without_cells_has_no_masks():
    """a cluster map without cells -> refused"""
    with pytest.raises(ValueError, match=r"a map of shape \(0, 0\) has no cells"):
        masks(nothing((0, 0)), 4, 4)


@pytest.mark.parametrize("way", [refinement.Crf(), refinement.Pamr(), refinement.Unrefined()], ids=lambda way: way.kind)
@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 0, 4), (2, 4, 0)])
def test_nothing_refined_is_nothing(way, shape):
    """no masks, masks without pixels, to every refinement -> as they came"""
    refined = way.refine(nothing((*shape[1:], 3)), nothing(shape, bool))
    assert refined.shape == shape and refined.dtype == bool


def test_no_mask_takes_no_name():
    """no masks, to both assignments -> no names"""
    scores = nothing((0, 2), np.float32)
    for assign in (names.assign_one_cluster_per_class, names.assign_best):
        assert assign(scores, [0, 1]).shape == (0,)


@pytest.mark.parametrize("mode", ["closed", "given", "open", "oracle"])
def test_an_empty_class_list_is_refused_in_every_mode(mini, scene, mode):
    """an empty class list in every vocabulary mode -> refused"""
    recipe = PAPER.with_changes({"vocabulary": mode})
    for empty in ([], (), ["background"]):
        with pytest.raises(
            ValueError, match="a class list is empty: give at least one class beside the background, or no"
        ):
            segment(scene.image, mini, recipe, empty, present=[])


# ------------------------------------------------------------------------------------------------- too much


@pytest.mark.parametrize("count", [257, 300, 10**9])
@pytest.mark.parametrize("way", ["kmeans", "agglomerative", "spectral"])
def test_more_clusters_than_a_map_can_number_are_refused_by_the_recipe(way, count):
    """257 clusters and more -> refused by the recipe"""
    with pytest.raises(ValueError, match=f"clusters.count={count} does not fit recipe .*less than or equal to 256"):
        PAPER.with_changes({"clusters": way}).with_changes({"clusters.count": count})


def test_more_clusters_with_candidates_are_refused_by_the_stage():
    """256 clusters and as many more as there are candidates -> refused by the stage"""
    features = np.random.default_rng(0).normal(size=(3, 32, 32))
    with pytest.raises(ValueError, match="1024 positions cannot make 259 clusters: ask for 1 to 256"):
        KMeans(count=256, plus_candidates=True).group(features, candidates=3)


def test_256_clusters_have_256_masks():
    """256 clusters -> 256 masks"""
    assert masks(np.arange(256, dtype=np.uint8).reshape(16, 16), 16, 16).sum(axis=(1, 2)).tolist() == [1] * 256


def test_a_cut_into_more_than_256_segments_is_refused():
    """features that a cut parts into 300 segments -> refused"""
    features = np.eye(300).reshape(300, 15, 20)  # every position at right angles to all others
    with pytest.raises(ValueError, match="cuts the features into 300 segments, more than 256: lower it"):
        normalised_cut(features, threshold=0.999)


@pytest.mark.parametrize("label", [255, 256, 300, -1])
def test_a_label_that_a_map_cannot_hold_is_not_painted(label):
    """labels of 255, 256, 300, -1 to paint -> refused"""
    with pytest.raises(ValueError, match=f"labels reach from .*{label}.*: a label map holds 0 to 254"):
        refinement.paint(np.ones((2, 2, 2), bool), [1, label])


# ------------------------------------------------------------------------------------------------- labels there are not


@pytest.mark.parametrize("label", [0, 3, -1, 255, 1.0, "cat", None])
def test_labels_that_the_class_list_has_not_are_not_taken_for_others(mini, scene, label):
    """labels that the class list has not, for the mode oracle -> refused"""
    with pytest.raises(ValueError, match=f"present holds {label!r}: the labels of this class list are 1 to 2"):
        segment(scene.image, None, ORACLE, PETS, present=[1, label])  # no model is asked


def test_as_many_lists_of_labels_as_pictures(mini, scene):
    """more lists of labels than pictures -> refused"""
    with pytest.raises(ValueError, match="present is of 2 pictures, and there are 1: give the labels of each"):
        segment_batch([scene.image], mini, ORACLE, PETS, present=[[1], [2]])


def test_labels_of_numpy_are_labels(mini, scene):
    """labels as NumPy's integers -> taken"""
    present = np.unique(np.array([2, 1], np.uint8))
    assert segment(scene.image, mini, ORACLE, PETS, present=present).names == ("background", "cat", "dog")


def test_features_on_a_grid_that_no_memory_holds(mini):
    """features on 100,000 x 100,000 cells -> refused with the recipe, by the field's name and its limit"""
    with pytest.raises(ValueError, match=r"features\.grid|features\.unet\.grid"):
        PAPER.with_changes({"features.grid": 100_000})
