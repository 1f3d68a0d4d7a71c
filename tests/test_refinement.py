import numpy as np
import pytest
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels

from fsdlib.refinement import paint, refine


@pytest.fixture(scope="module")
def rough(scene):
    """A crop of a scene that is not square, with three rough masks: blocks, one object's, and one that is empty."""
    image, labels = scene.image[20:140, 10:190], scene.labels[20:140, 10:190]
    blocks = np.kron(np.random.default_rng(0).random((12, 18)) < 0.4, np.ones((10, 10))).astype(bool)
    return image, np.stack([blocks, np.roll(labels == np.unique(labels)[1], 6, axis=1), np.zeros_like(blocks)])


DEFAULT = dict(gt_prob=0.9, gaussian_sxy=20, gaussian_compat=5, bilateral_sxy=20, bilateral_srgb=20, bilateral_compat=100, iterations=10)
OTHER = dict(gt_prob=0.7, gaussian_sxy=3, gaussian_compat=6, bilateral_sxy=11, bilateral_srgb=7, bilateral_compat=4, iterations=2)


def directly(image, mask, gt_prob, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat, iterations):
    height, width = mask.shape
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_from_labels(mask.astype(int), 2, gt_prob=gt_prob, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    crf.addPairwiseBilateral(sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=np.array(image, order="C"), compat=bilateral_compat)
    marginals = np.array(crf.inference(iterations)).reshape(2, height, width)
    return marginals[1] > marginals[0]


@pytest.mark.parametrize("options", [DEFAULT, OTHER])
def test_the_crf_is_pydensecrfs_called_directly(rough, options):
    image, masks = rough
    for mask, refined in zip(masks, refine(image, masks, **options)):
        assert np.array_equal(refined, directly(image, mask, **options))


def test_the_defaults_are_the_published_ones(rough):
    image, masks = rough
    assert np.array_equal(refine(image, masks), refine(image, masks, **DEFAULT))
    assert (refine(image, masks, **OTHER) != refine(image, masks)).any(axis=(1, 2)).tolist() == [True, True, False]


def test_masks_are_refined_each_for_itself(rough):
    image, masks = rough
    together = refine(image, masks)
    assert together.shape == masks.shape and together.dtype == bool
    assert all(np.array_equal(together[k], refine(image, masks[k : k + 1])[0]) for k in range(len(masks)))


def test_a_mask_grows_to_the_edge_of_what_has_its_colour():
    image = np.zeros((40, 40, 3), np.uint8)
    image[8:32, 8:32] = (220, 40, 40)
    inside = np.zeros((1, 40, 40), bool)
    inside[0, 10:30, 10:30] = True
    assert np.array_equal(refine(image, inside)[0], image[..., 0] > 100)


def test_no_masks_stay_no_masks(rough):
    assert refine(rough[0], rough[1][:0]).shape == (0, 120, 180)


def test_views_of_other_arrays_are_refined_as_their_copies(rough):
    image, masks = rough
    assert np.array_equal(refine(image[:, ::-1], masks[:1, :, ::-1]), refine(image[:, ::-1].copy(), masks[:1, :, ::-1].copy()))


def test_row_10_worked_by_hand():
    # Three masks on a 2 x 3 picture, in cluster order, with the labels 7, 9 and 7.
    first = [[1, 1, 0], [0, 0, 0]]
    second = [[0, 1, 1], [0, 1, 0]]  # its (0, 1) is taken by the first
    third = [[1, 0, 1], [1, 1, 0]]  # (0, 0), (0, 2) and (1, 1) are taken; (1, 0) is left to it
    painted = paint(np.array([first, second, third], bool), [7, 9, 7])
    assert painted.tolist() == [[7, 7, 9], [7, 9, 0]] and painted.dtype == np.uint8


def test_the_earlier_mask_wins_whatever_its_label():
    masks = np.ones((2, 1, 1), bool)
    assert paint(masks, [9, 3]).item() == 9 and paint(masks, [3, 9]).item() == 3


def test_without_masks_all_is_background():
    assert paint(np.zeros((0, 2, 3), bool), []).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_label_for_each_mask_is_demanded():
    with pytest.raises(ValueError):
        paint(np.ones((2, 1, 1), bool), [1])
