"""What holds for all inputs and not only for those that somebody thought of, on drawn ones that are the same every time."""

import csv
import itertools
import json
import string
import tempfile
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as codes

from fsdlib import names, oracles, pictures
from fsdlib.clusters import (
    Agglomerative,
    AgglomerativeThreshold,
    Cells,
    Eigengap,
    KMeans,
    MeanShift,
    NormalisedCut,
    Pooled,
    Spectral,
    affinity,
    bisect,
    cut_value,
    enlarged,
    inertia,
    masks,
    silhouette,
)
from fsdlib.features import stack
from fsdlib.measure import scores
from fsdlib.measure.datasets import _outline, centre_square, file_stem
from fsdlib.measure.summary import dense, label_map_hash, read_row, sealed, sparse
from fsdlib.measure.worker import counted
from fsdlib.refinement import Crf, Pamr, Unrefined, paint, pamr, pamr_weights
from fsdlib.vocabulary import VOID, Vocabulary

always = settings(database=None, deadline=None, derandomize=True, max_examples=60)
seldom = settings(always, max_examples=15)  # for what takes milliseconds

CLASSES = 6
SIDES = st.integers(1, 9)


def labels(shape, most=CLASSES - 1, void=False):
    """(H, W) uint8 of labels up to `most`, with void among them where asked for."""
    return arrays(np.uint8, shape, elements=st.sampled_from([*range(most + 1), *[VOID] * void]))


@st.composite
def pairs(draw, void=True):
    """A prediction and a truth of one size."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, max_side=9))
    return draw(labels(shape)), draw(labels(shape, void=void))


@st.composite
def partitions(draw, most=8):
    """Disjoint masks, (K, H, W) bool, in which every pixel is in one."""
    regions = draw(labels(draw(array_shapes(min_dims=2, max_dims=2, max_side=9)), most - 1))
    return masks(regions, *regions.shape)


SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=9)
ORDERS = st.permutations(range(1, CLASSES)).map(lambda others: np.array([0, *others]))  # background stays 0


def renamed(array, order):
    """Labels under their new numbers; void stays void."""
    return np.where(array == VOID, VOID, order[np.where(array == VOID, 0, array)]).astype(np.uint8)


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, equal_nan=True)


# ------------------------------------------------------------------------------------------------- scores


@always
@given(pairs())
def test_a_confusion_counts_every_pixel_once(pair):
    prediction, truth = pair
    counts = scores.confusion(prediction, truth, CLASSES)
    assert counts.sum() == truth.size and counts[-1].sum() == (truth == VOID).sum()
    assert np.array_equal(counts.sum(axis=0), np.bincount(prediction.ravel(), minlength=CLASSES))
    assert np.array_equal(counts[:-1].sum(axis=1), np.bincount(truth[truth != VOID], minlength=CLASSES))
    assert np.array_equal(dense(json.loads(json.dumps(sparse(counts))), CLASSES), counts)


@always
@given(pairs(), st.integers(0, 9))
def test_counts_of_pictures_add_up_to_those_of_one_that_holds_both(pair, where):
    left, right = ([array[:, part] for array in pair] for part in (slice(where), slice(where, None)))
    counts = [scores.confusion(*half, CLASSES) for half in (left, right)]
    whole = scores.confusion(*pair, CLASSES)
    assert np.array_equal(sum(counts), whole) and np.array_equal(sum(map(scores.areas, counts)), scores.areas(whole))
    same(scores.dataset_iou(counts), scores.dataset_iou([whole]))


@always
@given(st.lists(pairs(), min_size=1, max_size=4), ORDERS, st.booleans(), st.booleans())
def test_renumbered_classes_change_no_mean_and_move_each_classs_own_score_along(images, order, background, folds):
    before = [scores.confusion(*pair, CLASSES) for pair in images]
    after = [scores.confusion(*(renamed(array, order) for array in pair), CLASSES) for pair in images]
    rows = np.array([*order, CLASSES])  # the last is void's
    for old, new in zip(before, after):
        assert np.array_equal(new[np.ix_(rows, order)], old)
        same(scores.image_iou(new, folds)[order], scores.image_iou(old, folds))
        same(scores.image_union_iou(new, background)[order], scores.image_union_iou(old, background))
    same(scores.dataset_iou(after, background)[order], scores.dataset_iou(before, background))
    for score in (scores.miou(before, background, folds), scores.metrics(sum(before), background)):
        other = scores.miou(after, background, folds) if "dataset" in score else scores.metrics(sum(after), background)
        assert other == pytest.approx(score, rel=1e-12, nan_ok=True)


@always
@given(pairs(), st.booleans())
def test_every_score_lies_between_0_and_1_and_the_truth_itself_has_1(pair, background):
    counts = scores.confusion(*pair, CLASSES)
    found = [*scores.miou([counts], background).values(), *scores.metrics(counts, background).values()]
    assert all(np.isnan(value) or 0 <= value <= 1 for value in found)
    truth = pair[1]
    perfect = scores.confusion(np.where(truth == VOID, 0, truth).astype(np.uint8), truth, CLASSES)
    best = scores.miou([perfect], background)
    assert all(np.isnan(value) or value == 1 for value in best.values())
    assert not best["dataset"] < scores.miou([counts], background)["dataset"]


@seldom
@given(st.lists(pairs(), min_size=1, max_size=5), st.integers(0, 10**6))
def test_intervals_are_in_order_and_of_equal_pictures_a_point(images, seed):
    counts = [scores.confusion(*pair, CLASSES) for pair in images]
    of_images = np.stack([scores.areas(one) for one in counts])
    own = {"per_image": np.array([scores.image_miou(one) for one in counts])}
    assume(not np.isnan(scores.mean(scores.dataset_iou(counts))))
    for low, high in scores.bootstrap(of_images, own, seed=seed, resamples=100).values():
        assert 0 <= low <= high <= 1
    alike = np.repeat(of_images[:1], 4, axis=0)
    value = scores.mean(scores.dataset_iou(counts[:1]))
    if not np.isnan(value):
        same(scores.bootstrap(alike, {}, seed=seed, resamples=100)["dataset"], (value, value))


@always
@given(pairs(), st.lists(st.integers(0, CLASSES - 1), min_size=CLASSES, max_size=CLASSES))
def test_no_naming_of_clusters_has_more_right_pixels_than_the_majority(pair, naming):
    clusters, truth = pair
    known = truth != VOID
    best = (scores.majority_labels(clusters, truth) == truth)[known].sum()
    assert best >= (np.array(naming)[clusters] == truth)[known].sum()


@always
@given(labels((4, 4), most=3), labels((4, 4), most=3, void=True))
def test_no_one_to_one_matching_has_a_higher_sum_of_iou_than_the_hungarian(clusters, truth):
    known = truth != VOID
    assume(known.any())
    ious = np.zeros((4, 4))
    for cluster, label in itertools.product(range(4), range(4)):
        ours, theirs = (clusters == cluster) & known, (truth == label) & known
        ious[cluster, label] = (ours & theirs).sum() / max(1, (ours | theirs).sum())
    matched = scores.hungarian_labels(clusters, truth)
    given = {int(cluster): int(matched[clusters == cluster][0]) for cluster in np.unique(clusters[known])}
    taken = [label for label in given.values() if label]
    assert len(set(taken)) == len(taken), "a class takes one cluster at most"
    # clusters without a class are called background too, which one of them at most was matched with, the nearest to it
    rest = sorted(ious[cluster, 0] for cluster, label in given.items() if not label)[:-1]
    reached = sum(ious[cluster, label] for cluster, label in given.items()) - sum(rest)
    tried = [sum(ious[cluster, label] for cluster, label in enumerate(way)) for way in itertools.permutations(range(4))]
    assert reached == pytest.approx(max(tried))


@always
@given(pairs(), st.permutations(range(CLASSES)))
def test_what_masks_are_worth_apart_from_names_does_not_ask_for_their_numbers(pair, order):
    clusters, truth = pair
    other = np.array(order, np.uint8)[clusters]
    assert np.array_equal(scores.majority_labels(other, truth), scores.majority_labels(clusters, truth))
    same(scores.boundary_f(other, truth), scores.boundary_f(clusters, truth))
    same(scores.matched_miou(other, truth), scores.matched_miou(clusters, truth))


@always
@given(pairs(void=False))
def test_agreement_of_boundaries_is_symmetric_and_whole_with_oneself(pair):
    found = scores.boundary_f(*pair)
    assert 0 <= found <= 1 and scores.boundary_f(pair[0], pair[0]) == 1
    same(scores.boundary_f(*pair[::-1]), found)


@always
@given(pairs(), st.floats(0.05, 1))
def test_an_object_falls_into_no_more_pieces_than_there_are_clusters_in_it(pair, share):
    clusters, truth = pair
    target = truth == truth.flat[0]
    pieces = scores.pieces(clusters, target, share)
    assert 1 <= pieces <= len(np.unique(clusters[target])) == scores.pieces(clusters, target, 1)


@always
@given(arrays(np.uint8, (3, 3), elements=st.sampled_from([0, 1, 2, 254, 255])), labels((6, 6), void=True))
def test_the_best_cluster_fits_an_object_as_well_as_any(clusters, truth):
    label, known, regions = int(truth[truth != VOID].max(initial=0)), truth != VOID, enlarged(clusters, 6, 6)
    assume((truth == label).any())
    found = scores.wholeness(clusters, truth, label)
    ious = [
        ((regions == number) & (truth == label)).sum() / (((regions == number) & known) | (truth == label)).sum()
        for number in np.unique(regions)
    ]  # the numbers of 256 clusters reach 255, and one more is none in uint8
    same(found["iou"], max(ious))
    assert 1 <= found["pieces"] <= len(ious)


@always
@given(pairs())
def test_a_row_says_of_label_map_and_truth_what_the_scores_say(pair):
    prediction, truth = pair
    vocabulary = Vocabulary.of(list(string.ascii_lowercase[: CLASSES - 1]))
    row = json.loads(json.dumps(counted(prediction, truth, vocabulary)))
    assert np.array_equal(dense(row["counts"], CLASSES), scores.confusion(prediction, truth, CLASSES))
    assert len(row["present"]) == len(set(truth.flat) - {0, VOID}) and row["regions"] >= len(row["present"])
    for matched in row["masks"]["painted"].values():
        assert not isinstance(matched, list) or dense(matched, CLASSES).sum() == truth.size


# ------------------------------------------------------------------------------------------------- maps and masks


@always
@given(labels((3, 4), most=255), st.integers(1, 20), st.integers(1, 20))
def test_an_enlarged_map_has_each_cell_at_its_share_of_the_pixels_in_its_place(cells, height, width):
    numbered = np.arange(cells.size).reshape(cells.shape)
    found = enlarged(numbered, height, width)
    assert np.array_equal(enlarged(cells, height, width), cells.ravel()[found])
    for axis, (pixels, count) in enumerate(((height, 3), (width, 4))):
        places = (found // 4 if axis == 0 else found % 4).take(0, axis=1 - axis)
        sizes = np.bincount(places, minlength=count)
        assert (np.diff(places) >= 0).all() and (np.abs(sizes - pixels / count) < 1).all()


@always
@given(labels(SHAPES), st.integers(1, 4), st.integers(1, 4))
def test_whole_multiples_keep_every_share_and_compose(cells, first, second):
    height, width = cells.shape
    once = enlarged(cells, first * height, first * width)
    assert np.array_equal(np.bincount(once.ravel()), first**2 * np.bincount(cells.ravel()))
    both = first * second
    assert np.array_equal(enlarged(once, both * height, both * width), enlarged(cells, both * height, both * width))


@always
@given(labels(SHAPES, most=255), st.integers(1, 20), st.integers(1, 20))
def test_masks_of_clusters_part_the_picture(clusters, height, width):
    found = masks(clusters, height, width)
    assert found.shape == (int(clusters.max()) + 1, height, width) and (found.sum(axis=0) == 1).all()
    assert np.array_equal(found.argmax(axis=0), enlarged(clusters, height, width))


@always
@given(labels(SHAPES, void=True))
def test_true_masks_part_the_picture_with_void_in_the_background(truth):
    found = oracles.true_masks(truth)
    assert (found.sum(axis=0) == 1).all() and found.any(axis=(1, 2)).all()
    filled = np.unique(np.where(truth == VOID, 0, truth))[found.argmax(axis=0)]
    assert np.array_equal(filled[truth != VOID], truth[truth != VOID]) and not filled[truth == VOID].any()


@always
@given(partitions(most=6), st.data())
def test_no_union_of_masks_fits_better_than_the_best(parts, data):
    target, known = (data.draw(arrays(bool, parts.shape[1:])) for _ in range(2))
    assume((target & known).any())
    best = oracles.best_union(parts, target, known)
    for size in range(1, len(parts) + 1):
        for chosen in itertools.combinations(parts, size):
            union = np.any(chosen, axis=0)
            assert (union & target & known).sum() / ((union | target) & known).sum() <= best + 1e-12


@always
@given(arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12), st.just(3))))
def test_a_centre_square_lies_in_the_middle(picture):
    square = centre_square(picture)
    assert square.shape[0] == square.shape[1] == min(picture.shape[:2]) - 1 and square.base is not None
    numbered = np.arange(picture.shape[0] * picture.shape[1]).reshape(picture.shape[:2])
    rows, columns = (axis[[0, -1]] for axis in (centre_square(numbered)[:, 0], centre_square(numbered)[0]))
    before, after = rows[0] // picture.shape[1], picture.shape[0] - 1 - rows[1] // picture.shape[1]
    left, right = columns[0] % picture.shape[1], picture.shape[1] - 1 - columns[1] % picture.shape[1]
    assert abs(before - after) <= 1 and abs(left - right) <= 1


# ------------------------------------------------------------------------------------------------- clusters


FEATURES = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(2, 4)),
                  elements=st.floats(-9, 9, width=16))  # fmt: skip
WAYS = [KMeans(count=3), Agglomerative(count=3), Spectral(count=3), Pooled(counts=(2, 3))]
WAYS += [NormalisedCut(), Eigengap(), AgglomerativeThreshold(), MeanShift(), Cells()]


@seldom
@given(FEATURES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.kind)
@pytest.mark.filterwarnings("ignore")  # of scikit-learn, about positions that are all alike
def test_every_position_has_one_cluster_and_the_same_again(way, features):
    clusters = way.group(features, seed=1)
    assert clusters.shape == features.shape[1:] and clusters.dtype == np.uint8
    assert np.array_equal(clusters, way.group(features, seed=1))
    if WAYS.index(way) > 3:  # those that find the number, and number clusters as they are met
        assert np.unique(clusters, return_index=True)[1].tolist() == sorted(np.unique(clusters, return_index=True)[1])
    else:
        assert clusters.max() < 3
    worth = silhouette(features, clusters) if 1 < len(np.unique(clusters)) < clusters.size else 0
    assert -1 <= worth <= 1 and inertia(features, clusters) <= inertia(features, np.zeros_like(clusters)) * (1 + 1e-9)


@always
@given(FEATURES, st.floats(0.1, 10))
def test_affinities_are_symmetric_shares_that_no_strength_changes(features, strength):
    found = affinity(features)
    assert np.array_equal(found, found.T) and 0 < found.min() and found.max() <= 1 + 1e-9
    lengths = np.linalg.norm(features.reshape(len(features), -1).astype(float), axis=0)
    assume((lengths == 0).any() or lengths.min() > 1e-3)
    np.testing.assert_allclose(affinity(features * np.float64(strength)), found, rtol=1e-6, atol=1e-9)


@always
@given(FEATURES)
def test_a_bisection_has_two_sides_and_is_worth_what_it_says(features):
    affinities = affinity(features)
    side, value = bisect(affinities)
    assert 0 < side.sum() < len(side)
    assert value == pytest.approx(cut_value(affinities, side), abs=1e-6) and 0 <= value <= 2


@always
@given(st.lists(FEATURES, min_size=1, max_size=3), st.integers(1, 6))
def test_stacked_maps_stay_within_their_range_and_apart(maps, grid):
    found = stack(maps, grid)
    assert found.shape == (sum(map(len, maps)), grid, grid)
    for array, resized in zip(maps, np.split(found, np.cumsum([len(array) for array in maps])[:-1])):
        low, high = array.min(axis=(1, 2)), array.max(axis=(1, 2))
        assert (resized.min(axis=(1, 2)) >= low - 1e-4).all() and (resized.max(axis=(1, 2)) <= high + 1e-4).all()


# ------------------------------------------------------------------------------------------------- names


@st.composite
def scored(draw):
    """Scores of masks, (K, names) float32 of which many are equal, and the names that may be given."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 5)))
    found = draw(arrays(np.float32, shape, elements=st.sampled_from([0, 0.125, 0.25, 0.5, 0.75])))
    return found, sorted(draw(st.sets(st.integers(0, shape[1] - 1))))


@always
@given(scored(), st.randoms(use_true_random=False))
def test_one_cluster_a_class_gives_each_name_to_its_best_mask_alone(drawn, random):
    found, eligible = drawn
    assigned = names.assign_one_cluster_per_class(found, eligible)
    assert set(assigned.tolist()) <= {-1, *eligible}
    for mask, name in enumerate(assigned):
        own = [other for other in eligible if 0 < found[mask, other] == found[:, other].max()]
        assert (name == -1) == (not own) and (name == -1 or found[mask, name] == max(found[mask, own]))
    order = random.sample(range(len(found)), len(found))
    assert np.array_equal(names.assign_one_cluster_per_class(found[order], eligible), assigned[order])


@always
@given(scored(), st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_best_name_is_no_worse_than_any_other(drawn, threshold, random):
    found, eligible = drawn
    rest = [name for name in range(found.shape[1]) if name not in eligible][:1]
    assigned = names.assign_best(found, eligible, rest, threshold)
    assert set(assigned.tolist()) <= {-1, *eligible}
    for row, name in zip(found, assigned):
        if name >= 0:
            assert row[name] == row[eligible + rest].max() and row[name] >= threshold
        elif eligible:
            assert row[eligible].max() < threshold or row[rest].max() > row[eligible].max()
    order = random.sample(range(len(found)), len(found))
    assert np.array_equal(names.assign_best(found[order], eligible, rest, threshold), assigned[order])


@always
@given(partitions(), st.data())
@pytest.mark.parametrize(
    "way", [names.Merge(), names.OneClusterPerClass(), names.BestProposal()], ids=lambda way: way.kind
)
def test_regions_hold_the_pixels_of_their_masks_and_no_others(way, parts, data):
    assigned = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=len(parts), max_size=len(parts))))
    regions, given = way.regions(parts, assigned)
    assert len(regions) == len(given) and (regions.sum(axis=0) <= 1).all()  # the parts are disjoint
    for name in range(4):
        own = regions[[other == name for other in given]].any(axis=0)
        assert np.array_equal(own, parts[assigned == name].any(axis=0))
    if way.kind != "one_cluster_per_class":
        assert len(set(given)) == len(given)


@always
@given(st.lists(partitions(), min_size=1, max_size=3), st.data())
def test_proposals_that_take_names_lie_apart_and_without_a_background_no_pixel_is_left(several, data):
    shape = several[0].shape[1:]
    masks = np.concatenate([parts for parts in several if parts.shape[1:] == shape])
    found = data.draw(arrays(np.float64, (len(masks), 4), elements=st.floats(0.01, 1)))
    assigned = names.assign_best_proposal(found, masks, [0, 1, 2], [3], overlap=0.2)
    taken = assigned >= 0
    assert len(set(assigned[taken].tolist())) == taken.sum()
    for k in np.flatnonzero(taken):
        surer = taken & (found[np.arange(len(found)), assigned] > found[k, assigned[k]])
        assert (
            found[k, assigned[k]] == found[k].max()
            and (masks[k] & masks[surer].any(axis=0)).sum() < 0.2 * masks[k].sum()
        )
    everywhere = names.assign_best_proposal(found, masks, [0, 1, 2], [], overlap=0.2)
    assert masks[everywhere >= 0].any(axis=0).all()


@always
@given(arrays(np.float32, (3, 2, 4), elements=st.floats(-2, 2, width=16)), partitions())
def test_pooled_patches_are_of_unit_length_or_nothing(patches, parts):
    lengths = np.linalg.norm(names.pooled_patches(patches, parts), axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-4) | (lengths < 1e-4))


# ------------------------------------------------------------------------------------------------- refining and painting


@always
@given(arrays(bool, st.tuples(st.integers(1, 5), SIDES, SIDES)), st.data())
def test_painting_gives_each_pixel_to_the_first_mask_that_holds_it(found, data):
    given = data.draw(st.lists(st.integers(1, VOID - 1), min_size=len(found), max_size=len(found)))
    canvas = paint(found, given)
    held = found.any(axis=0)
    assert np.array_equal(canvas, np.where(held, np.array(given)[found.argmax(axis=0)], 0))
    assert np.bincount(canvas.ravel()).sum() == canvas.size


@always
@given(partitions(), st.randoms(use_true_random=False), st.booleans())
def test_masks_that_part_a_picture_are_painted_in_any_order(parts, random, fill):
    given, order = list(range(1, len(parts) + 1)), random.sample(range(len(parts)), len(parts))
    canvas = paint(parts, given)
    assert canvas.all() and np.array_equal(paint(parts[order], [given[i] for i in order]), canvas)
    picture = np.zeros((*canvas.shape, 3), np.uint8)
    assert np.array_equal(Unrefined(fill=fill).label_map(picture, parts, given, background=False), canvas)


@st.composite
def pictured(draw):
    shape = draw(st.tuples(st.integers(2, 8), st.integers(2, 8)))
    found = draw(arrays(bool, (draw(st.integers(1, 3)), *shape)))
    return draw(arrays(np.uint8, (*shape, 3))), found


@seldom
@given(pictured())
@pytest.mark.parametrize(
    "way", [Crf(), Pamr(), Crf(max_pixels=9), Pamr(max_pixels=9), Unrefined()], ids=lambda way: repr(way)[:4]
)
def test_masks_are_refined_each_for_itself(way, drawn):
    picture, found = drawn
    refined = way.refine(picture, found)
    assert refined.shape == found.shape and refined.dtype == bool
    for one, alone in zip(refined, found):
        assert np.array_equal(one, way.refine(picture, alone[None])[0])
    painted = way.label_map(picture, found, list(range(1, len(found) + 1)), background=True)
    assert np.array_equal(painted > 0, refined.any(axis=0))


@seldom
@given(pictured())
@pytest.mark.parametrize("way", [Crf(fill=True), Pamr(fill=True)], ids=lambda way: way.kind)
def test_filling_leaves_no_pixel_of_a_mask_empty_and_changes_none_that_was_painted(way, drawn):
    picture, found = drawn
    given = list(range(1, len(found) + 1))
    filled = way.label_map(picture, found, given, background=False)
    plain = way.label_map(picture, found, given, background=True)
    assert np.array_equal(filled[plain > 0], plain[plain > 0]) and filled[found.any(axis=0)].all()


@seldom
@given(pictured())
def test_pamr_takes_means_that_stay_between_0_and_1(drawn):
    picture, found = drawn
    weights = pamr_weights(picture, dilations=(1, 2))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    soft = pamr(weights, found, iterations=3, dilations=(1, 2))
    assert soft.min() >= 0 and soft.max() <= 1 + 1e-5
    rest = pamr(weights, ~found, iterations=3, dilations=(1, 2))
    np.testing.assert_allclose(soft + rest, 1, atol=1e-4)  # what leaves a mask is taken in by the rest


# ------------------------------------------------------------------------------------------------- files


TEXTS = st.text(st.characters(codec=None), max_size=300)  # lone surrogates too, as names that are no UTF-8 have them


@settings(always, max_examples=300)
@given(TEXTS, TEXTS)
def test_names_of_files_are_one_to_one(first, second):
    stems = [file_stem(one) for one in (first, second)]
    assert (stems[0] == stems[1]) == (first == second)
    for one, stem in zip((first, second), stems):
        assert set(stem) <= {*string.ascii_letters, *string.digits, *"_-.%~"} and len(stem) <= 165
        assert not stem.startswith(".")
        assert "~" in stem or urllib.parse.unquote_to_bytes(stem).decode("utf-8", "surrogatepass") == one


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# an image of which no file is there


@seldom
@given(st.dictionaries(st.text(), JSON, max_size=4), st.integers(0), st.integers(1, 255))
def test_a_sealed_row_is_read_as_it_was_and_changed_not_at_all(content, where, change):
    assume("row_sha256" not in content)
    row = content | dict(id="one", run="digest", files="content") | label_map_hash(b"a map")
    row.pop("failed", None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in ("images", "labels"):
            (folder / kind).mkdir()
        path, text = folder / "images/one.json", sealed(row).encode()
        path.write_bytes(text)
        (folder / "labels/one.png").write_bytes(b"a map")
        assert (
            read_row(folder, "one", "digest", "content") == row
            and read_row(folder, "one", "another", "content") is None
        )
        spoiled = bytearray(text)
        spoiled[where % len(text)] ^= change
        path.write_bytes(spoiled)
        found = read_row(folder, "one", "digest", "content")
        assert found is None or found == row  # 1e5 and 1E5 are one number
        path.write_bytes(text[: where % len(text)])
        assert read_row(folder, "one", "digest", "content") is None
        path.write_bytes(text)
        (folder / "labels/one.png").write_bytes(b"another")
        assert read_row(folder, "one", "digest", "content") is None


@always
@given(arrays(bool, st.tuples(SIDES, SIDES)))
def test_run_length_codes_of_any_mask_are_drawn_as_the_mask(mask):
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    plain = dict(size=list(mask.shape), counts=[0] * bool(flat[0]) + runs)
    packed = codes.encode(np.asfortranarray(mask.astype(np.uint8)))
    for code in (plain, dict(size=plain["size"], counts=packed["counts"].decode())):
        assert np.array_equal(_outline(code, *mask.shape), mask)


@always
@given(arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(4))))
def test_a_picture_is_the_same_with_and_without_what_says_nothing(layers):
    plain = Image.fromarray(layers[..., :3])
    full = layers.copy()
    full[..., 3] = 255
    assert np.array_equal(pictures.rgb(plain), layers[..., :3])
    assert np.array_equal(pictures.rgb(Image.fromarray(full)), layers[..., :3])
    grey = Image.fromarray(layers[..., 0])
    assert np.array_equal(pictures.rgb(grey), pictures.rgb(grey.convert("RGB")))
    seen = pictures.rgb(Image.fromarray(layers)).astype(int)
    assert (seen[layers[..., 3] == 0] == 255).all() and (seen >= layers[..., :3].astype(int) - 1).all()


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=9).filter(
        lambda name: name.strip() and name.casefold() not in ("background", "void")
    ),
    min_size=1,
    max_size=6,
    unique=True,
)


@always
@given(NAMES)
def test_a_class_list_is_the_same_from_names_and_from_a_file(listed):
    vocabulary = Vocabulary.of(listed)
    assert vocabulary.names == ("background", *listed) == Vocabulary.of(["background", *listed]).names
    assert len(vocabulary.palette) == 768
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("index", "name"), *enumerate(vocabulary.names)])
        assert Vocabulary.read(path) == vocabulary
