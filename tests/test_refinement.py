import numpy as np
import pytest
from PIL import Image
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels

from fsdlib.refinement import Crf, JointCrf, Pamr, Refinement, Unrefined, kernel, paint, pamr, pamr_weights


@pytest.fixture(scope="module")
def rough(scene):
    """A crop of a scene that is not square, with three rough masks: blocks, one object's, and one that is empty."""
    image, labels = scene.image[20:140, 10:190], scene.labels[20:140, 10:190]
    blocks = np.kron(np.random.default_rng(0).random((12, 18)) < 0.4, np.ones((10, 10))).astype(bool)
    return image, np.stack([blocks, np.roll(labels == np.unique(labels)[1], 6, axis=1), np.zeros_like(blocks)])


DEFAULT = dict(
    gt_prob=0.9,
    gaussian_sxy=20,
    gaussian_compat=5,
    bilateral_sxy=20,
    bilateral_srgb=20,
    bilateral_compat=100,
    iterations=10,
)
OTHER = dict(
    gt_prob=0.7, gaussian_sxy=3, gaussian_compat=6, bilateral_sxy=11, bilateral_srgb=7, bilateral_compat=4, iterations=2
)


def by_pydensecrf(
    image, mask, gt_prob, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat, iterations
):
    """A CRF of two labels for one mask, called as its documentation has it: (2, H, W), to be out and to be in."""
    height, width = mask.shape
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_from_labels(mask.astype(int), 2, gt_prob=gt_prob, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=np.array(image, order="C"), compat=bilateral_compat
    )
    return np.array(crf.inference(iterations)).reshape(2, height, width)


@pytest.mark.parametrize("options", [DEFAULT, OTHER])
def test_the_crf_is_pydensecrfs_called_directly(rough, options):
    image, masks = rough
    for mask, refined in zip(masks, Crf(**options).refine(image, masks)):
        out, into = by_pydensecrf(image, mask, **options)
        assert np.array_equal(refined, into > out)


def test_the_defaults_are_the_published_ones(rough):
    image, masks = rough
    assert np.array_equal(Crf().refine(image, masks), Crf(**DEFAULT).refine(image, masks))
    assert (Crf(**OTHER).refine(image, masks) != Crf().refine(image, masks)).any(axis=(1, 2)).tolist() == [
        True,
        True,
        False,
    ]


def test_masks_are_refined_each_for_itself(rough):
    image, masks = rough
    together = Crf().refine(image, masks)
    assert together.shape == masks.shape and together.dtype == bool
    assert all(np.array_equal(together[k], Crf().refine(image, masks[k : k + 1])[0]) for k in range(len(masks)))


def test_a_mask_grows_to_the_edge_of_what_has_its_colour():
    image = np.zeros((40, 40, 3), np.uint8)
    image[8:32, 8:32] = (220, 40, 40)
    inside = np.zeros((1, 40, 40), bool)
    inside[0, 10:30, 10:30] = True
    assert np.array_equal(Crf().refine(image, inside)[0], image[..., 0] > 100)


def test_unrefined_masks_are_as_they_came(rough):
    assert np.array_equal(Unrefined().refine(*rough), rough[1])


def test_no_masks_stay_no_masks(rough):
    assert Crf().refine(rough[0], rough[1][:0]).shape == (0, 120, 180)


def test_views_of_other_arrays_are_refined_as_their_copies(rough):
    image, masks = rough
    assert np.array_equal(
        Crf().refine(image[:, ::-1], masks[:1, :, ::-1]), Crf().refine(image[:, ::-1].copy(), masks[:1, :, ::-1].copy())
    )


def test_the_marginals_are_what_the_refined_masks_come_from(rough):
    image, masks = rough
    believed = Crf(**OTHER).marginals(image, masks)
    assert believed.shape == masks.shape and believed.dtype == np.float32
    assert np.array_equal(believed > 0.5, Crf(**OTHER).refine(image, masks))


@pytest.mark.parametrize("options", [DEFAULT, OTHER])
def test_the_marginals_of_more_masks_than_are_filtered_at_once_are_pydensecrfs(rough, options):
    image, (blocks, one, none) = rough
    masks = np.stack([blocks, one, none, ~blocks, ~one, blocks & one])
    believed = Crf(**options).marginals(image, masks)
    directly = np.stack([by_pydensecrf(image, mask, **options)[1] for mask in masks])
    assert np.abs(believed - directly).max() < 1e-3
    assert np.array_equal(believed > 0.5, directly > 0.5)


def by_brute_force(
    image, mask, gt_prob, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat, iterations
):
    """Mean field over all pairs of pixels, the kernels divided by the roots of both pixels' sums."""
    height, width = mask.shape
    smoothness, appearance = (
        np.stack([kernel(image, row, column, sxy, srgb).ravel() for row in range(height) for column in range(width)])
        for sxy, srgb in ((gaussian_sxy, None), (bilateral_sxy, bilateral_srgb))
    )
    smoothness, appearance = (k / np.sqrt(np.outer(k.sum(axis=1), k.sum(axis=1))) for k in (smoothness, appearance))
    unary = -np.log(np.where(np.stack([~mask, mask]).reshape(2, -1), gt_prob, 1 - gt_prob))
    believed = np.exp(-unary)
    for _ in range(iterations):
        believed = np.exp(-unary + gaussian_compat * believed @ smoothness + bilateral_compat * believed @ appearance)
        believed /= believed.sum(axis=0)
    return believed.reshape(2, height, width)


@pytest.mark.parametrize(
    "options",
    [
        dict(
            gt_prob=0.9,
            gaussian_sxy=3,
            gaussian_compat=1,
            bilateral_sxy=3,
            bilateral_srgb=20,
            bilateral_compat=1,
            iterations=1,
        ),
        dict(
            gt_prob=0.7,
            gaussian_sxy=2,
            gaussian_compat=1,
            bilateral_sxy=4,
            bilateral_srgb=40,
            bilateral_compat=1,
            iterations=10,
        ),
    ],
)
def test_the_crf_is_mean_field_over_all_pairs_with_symmetric_normalisation(options):
    """pydensecrf filters on a lattice, which is near the sum over all pairs and not equal to it."""
    image = np.full((8, 8, 3), (60, 60, 90), np.uint8)
    image[2:6, 2:6] = (200, 80, 60)
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:5] = mask[1, 1] = True
    assert (
        np.abs(by_brute_force(image, mask, **options)[1] - Crf(**options).marginals(image, mask[None])[0]).max() < 0.05
    )


def test_the_kernels_worked_by_hand():
    image = np.zeros((5, 5, 3), np.uint8)
    image[4, 3] = (0, 6, 8)  # 3 columns, 4 rows and 10 levels from (0, 0)
    assert kernel(image, 0, 0, sxy=5)[4, 3] == pytest.approx(np.exp(-0.5)) and kernel(image, 0, 0, sxy=5)[0, 0] == 1
    appearance = kernel(image, 0, 0, sxy=5, srgb=10)
    assert appearance[4, 3] == pytest.approx(np.exp(-1)) and appearance[3, 4] == pytest.approx(np.exp(-0.5))


# ------------------------------------------------------------------------------------------------- large pictures


def test_a_picture_above_the_limit_is_refined_at_a_smaller_size_by_hand(rough):
    image, masks = rough  # 120 x 180
    bounded = Crf(max_pixels=5400).refine(image, masks)  # a quarter of the pixels: half the sides
    small = np.asarray(Image.fromarray(image).resize((90, 60), Image.Resampling.BOX))
    by_hand = Crf(gaussian_sxy=10.0, bilateral_sxy=10.0).refine(small, masks[:, ::2, ::2])
    assert np.array_equal(bounded, by_hand.repeat(2, axis=1).repeat(2, axis=2))
    assert np.array_equal(Crf(max_pixels=120 * 180).refine(image, masks), Crf().refine(image, masks))


@pytest.mark.parametrize("way", [Crf(max_pixels=2000), Pamr(max_pixels=2000)])
def test_masks_of_a_large_picture_keep_its_size_and_none_stays_none(rough, way):
    image, masks = rough
    assert way.refine(image, masks).shape == masks.shape and way.refine(image, masks[:0]).shape == (0, 120, 180)


# ------------------------------------------------------------------------------------------------------------- PAMR


def test_pamr_on_one_row_worked_by_hand():
    # One row repeats above and below itself: a pixel averages three of its left, two of itself, three of its right.
    image, mask = np.zeros((1, 5, 3), np.uint8), np.array([[[0, 0, 1, 0, 0]]], bool)
    weights = pamr_weights(image, dilations=(1,))
    assert weights.shape == (8, 1, 5) and np.allclose(weights, 1 / 8)
    assert np.allclose(pamr(weights, mask, 1, (1,))[0, 0], [0, 3 / 8, 2 / 8, 3 / 8, 0])
    assert pamr(weights, mask, 2, (1,))[0, 0, 2] == pytest.approx((3 * 3 + 2 * 2 + 3 * 3) / 64)


def test_pamrs_weight_across_an_edge_worked_by_hand():
    # Around the second pixel: six values 0 and three 100, deviation 50; across the edge 100 / (0.1 * 50) = 20.
    image = np.repeat(np.array([[0, 0, 100, 100]], np.uint8)[..., None], 3, axis=2)
    weights = pamr_weights(image, dilations=(1,))[:, 0, 1]
    assert np.allclose(np.log(weights / weights[0]), [0, 0, -20, 0, -20, 0, 0, -20], atol=1e-4)


def test_pamrs_weights_sum_to_one_at_every_pixel(rough):
    weights = pamr_weights(rough[0])
    assert weights.shape == (48, 120, 180) and weights.min() >= 0 and np.allclose(weights.sum(axis=0), 1, atol=1e-5)


def test_on_a_constant_picture_pamr_leaves_a_masks_mean_as_long_as_it_is_off_the_border():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 15:22, 18:25] = True
    weights = pamr_weights(np.full((40, 40, 3), 90, np.uint8), (1, 2))
    assert pamr(weights, mask, 5, (1, 2)).mean() == pytest.approx(mask.mean(), rel=1e-5)


def test_an_empty_mask_and_a_full_one_are_fixed_points_of_pamr(rough):
    image, masks = rough
    uniform = np.stack([np.zeros_like(masks[0]), np.ones_like(masks[0])])
    assert np.array_equal(Pamr().refine(image, uniform), uniform)


def test_pamrs_threshold_is_a_share_of_the_masks_own_maximum():
    # One pixel of a row: after one mean 3/8, 2/8, 3/8 (as above), none above 0.5, but above half of 3/8 all three are.
    image, mask = np.zeros((1, 5, 3), np.uint8), np.array([[[0, 0, 1, 0, 0]]], bool)
    refined = Pamr(iterations=1, dilations=(1,)).refine(image, mask)
    assert refined.astype(int).tolist() == [[[0, 1, 1, 1, 0]]]


def test_pamr_respects_the_edge_between_two_colours():
    image = np.zeros((30, 30, 3), np.uint8)
    image[:, :15], image[:, 15:] = (220, 40, 40), (40, 40, 220)
    rough = np.random.default_rng(0).random((1, 30, 30)) < np.where(np.arange(30) < 15, 0.7, 0.2)
    assert np.array_equal(
        Pamr(dilations=(1, 2, 4)).refine(image, rough)[0], np.broadcast_to(np.arange(30) < 15, (30, 30))
    )


def test_pamr_refines_each_mask_for_itself_and_alike_every_time(rough):
    image, masks = rough
    together = Pamr().refine(image, masks)
    assert (
        together.shape == masks.shape
        and together.dtype == bool
        and np.array_equal(together, Pamr().refine(image.copy(), masks))
    )
    assert all(np.array_equal(together[k], Pamr().refine(image, masks[k : k + 1])[0]) for k in range(len(masks)))
    assert Pamr().refine(image, masks[:0]).shape == (0, 120, 180)


def test_row_10_worked_by_hand():
    # Three masks on a 2 x 3 picture, in cluster order, with the labels 7, 9 and 7.
    first = [[1, 1, 0], [0, 0, 0]]
    second = [[0, 1, 1], [0, 1, 0]]  # its (0, 1) is taken by the first
    third = [[1, 0, 1], [1, 1, 0]]  # (0, 0), (0, 2) and (1, 1) are taken; (1, 0) is left to it
    painted = paint(np.array([first, second, third], bool), [7, 9, 7])
    assert painted.tolist() == [[7, 7, 9], [7, 9, 0]] and painted.dtype == np.uint8


def test_where_nothing_is_background_unclaimed_pixels_stay_empty_or_keep_their_name_as_asked():
    class Shrunk(Refinement):
        """Each mask loses its last column."""

        def refine(self, image, masks):
            return np.concatenate([masks[..., :-1], np.zeros_like(masks[..., :1])], axis=-1)

    masks = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 1]]], bool)
    image = np.zeros((1, 4, 3), np.uint8)
    assert Shrunk().label_map(image, masks, [7, 9], background=False).tolist() == [[7, 7, 9, 0]]
    assert Shrunk(fill=True).label_map(image, masks, [7, 9], background=False).tolist() == [[7, 7, 9, 9]]
    assert Shrunk(fill=True).label_map(image, masks, [7, 9], background=True).tolist() == [[7, 7, 9, 0]]


def test_the_earlier_mask_wins_whatever_its_label():
    masks = np.ones((2, 1, 1), bool)
    assert paint(masks, [9, 3]).item() == 9 and paint(masks, [3, 9]).item() == 3


def test_without_masks_all_is_background():
    assert paint(np.zeros((0, 2, 3), bool), []).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_label_for_each_mask_is_demanded():
    with pytest.raises(ValueError):
        paint(np.ones((2, 1, 1), bool), [1])


# --------------------------------------------------------------------------------------------------- one CRF for all


def test_the_joint_crf_is_pydensecrfs_of_all_labels(rough):
    image, masks = rough
    labels = np.where(masks.any(axis=0), masks.argmax(axis=0) + 1, 0)
    crf = DenseCRF2D(image.shape[1], image.shape[0], len(masks) + 1)
    crf.setUnaryEnergy(unary_from_labels(labels, len(masks) + 1, 0.8, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=5, compat=3)
    crf.addPairwiseBilateral(sxy=20, srgb=13, rgbim=np.ascontiguousarray(image), compat=10)
    expected = np.argmax(crf.inference(4), axis=0).reshape(labels.shape)
    options = dict(gt_prob=0.8, gaussian_sxy=5.0, gaussian_compat=3.0, bilateral_srgb=13.0, bilateral_compat=10.0)
    found = JointCrf(**options, iterations=4).refine(image, masks)
    assert np.array_equal(paint(found, range(1, len(masks) + 1)), expected) and found.sum(axis=0).max() <= 1


def test_of_one_mask_the_joint_crf_is_the_crf(rough):
    image, masks = rough
    alone, joint = (way.refine(image, masks[:1]) for way in (Crf(), JointCrf()))
    assert (alone != joint).mean() < 1e-3


def test_the_earlier_of_masks_that_overlap_is_what_the_joint_crf_starts_from():
    image, masks = np.full((6, 6, 3), 128, np.uint8), np.ones((2, 6, 6), bool)
    assert JointCrf().refine(image, masks).mean(axis=(1, 2)).tolist() == [1, 0]
    assert JointCrf().refine(image, masks[:0]).shape == (0, 6, 6)
