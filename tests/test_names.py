import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from fsdlib.names import (
    BlackFrame,
    Crop,
    View,
    assign_best,
    assign_best_proposal,
    assign_one_cluster_per_class,
    encode_names,
    nearest_classes,
    pooled_patches,
    score,
    score_vectors,
    softened,
)
from fsdlib.vocabulary import Vocabulary

# --------------------------------------------------------------------------------------------------------- views


@pytest.fixture
def marked():
    """A grey 6 x 8 picture with a mask of 2 x 3 pixels in it, and an empty mask."""
    image = np.full((6, 8, 3), 90, np.uint8)
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 2:4, 3:6] = True
    masks[0, 2, 3] = False  # a corner of the box is not in the mask
    return image, masks


def test_a_black_frame_keeps_the_frame_and_blackens_what_is_outside(marked):
    image, masks = marked
    shown = BlackFrame().pictures(image, masks)[0]
    assert shown.shape == (6, 8, 3) and shown.dtype == np.uint8
    assert np.all(shown[masks[0]] == 90) and np.all(shown[~masks[0]] == 0) and np.all(image == 90)


def test_a_crop_is_the_masks_box_black_outside_the_mask(marked):
    shown = Crop().pictures(*marked)[0]
    assert shown[..., 0].tolist() == [[0, 90, 90], [90, 90, 90]]


def test_an_empty_mask_shows_a_black_frame(marked):
    for view in (BlackFrame(), Crop()):
        shown = view.pictures(*marked)[1]
        assert shown.shape == (6, 8, 3) and not shown.any()


def test_a_crop_with_a_margin_shows_more_of_the_surroundings(marked):
    image, masks = marked
    image = image + np.arange(8, dtype=np.uint8)[None, :, None]  # columns of 90 to 97
    shown = Crop(margin=0.5, outside="kept").pictures(image, masks)[0]
    assert shown[..., 0].tolist() == [[91, 92, 93, 94, 95, 96, 97]] * 4  # 1 row and 2 columns more on each side
    corner = Crop(margin=0.5).pictures(image, masks)[0]
    assert corner[..., 0].tolist()[1] == [0, 0, 0, 94, 95, 0, 0] and not corner[0].any()


def test_outside_the_mask_may_be_the_mean_colour_or_the_picture_blurred(marked):
    image, masks = marked
    image = image.copy()
    image[0] = 210  # a bright row: the mean is 110
    assert Crop(outside="mean").pictures(image, masks)[0][0, :, 0].tolist() == [110, 90, 90]
    blurred = Crop(outside="blurred", margin=1.0).pictures(image, masks)[0]
    assert blurred.shape == (6, 8, 3) and 90 <= blurred.min() and blurred[2, 4, 0] == 90 < blurred[0, 0, 0] <= 210


def test_an_unknown_view_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'blur': choose one of black_frame, crop, dense"):
        View.model_validate("blur")


# -------------------------------------------------------------------------------------------------------- scores


def test_scores_are_open_clips_own(mini, scenes):
    names = ["cat", "dog", "dining table", "striped background"]
    model, preprocess = mini.clip.model, mini.clip.preprocess
    pixels = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes])
    with torch.no_grad():
        image_features = model.encode_image(pixels)
        text_features = model.encode_text(mini.clip.tokenizer(names))
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
    assert np.allclose(score([scene.image for scene in scenes], names, mini.clip), probabilities.numpy(), atol=1e-5)


def test_scores_are_probabilities_over_all_names(mini, scenes):
    scores = score([scene.image for scene in scenes], ["cat", "dog", "bus"], mini.clip)
    assert scores.shape == (3, 3) and scores.dtype == np.float32 and np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    reordered = score([scene.image for scene in scenes], ["bus", "cat", "dog"], mini.clip)
    assert np.allclose(reordered[:, [1, 2, 0]], scores, atol=1e-5)


def test_templates_are_averaged_into_one_vector_of_unit_length(mini):
    one, other = (mini.clip.encode_text([template.format("cat")])[0] for template in ("{}", "a photo of a {}"))
    middle = (one + other) / np.linalg.norm(one + other)
    assert np.allclose(encode_names(["cat"], mini.clip, ("{}", "a photo of a {}"))[0], middle, atol=1e-6)


def test_masks_are_scored_as_the_views_of_them_are(mini, scene):
    names, masks = ["cat", "dog"], np.stack([scene.labels == label for label in np.unique(scene.labels)[:2]])
    for view in (BlackFrame(), Crop()):
        expected = score(view.pictures(scene.image, masks), names, mini.clip)
        assert np.array_equal(view.score(scene.image, masks, names, mini), expected)


def test_without_names_there_is_nothing_to_score(mini, marked):
    assert Crop().score(*marked, [], mini).shape == (2, 0)


def test_scores_of_vectors_are_the_softmax_of_scaled_cosines(mini):
    names = ["cat", "dog", "bus"]
    of_names = encode_names(names, mini.clip)
    logits = mini.clip.temperature * of_names[:2] @ of_names.T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(score_vectors(of_names[:2], names, mini.clip), expected, atol=1e-6)
    assert score_vectors(of_names, names, mini.clip).argmax(axis=1).tolist() == [0, 1, 2]  # a name is most like itself


def test_a_vector_of_zeros_is_like_every_name_alike(mini):
    assert np.allclose(
        score_vectors(np.zeros((1, len(encode_names(["cat"], mini.clip)[0]))), ["cat", "dog"], mini.clip), 0.5
    )


# ------------------------------------------------------------------------------------------------ pooled patches


def test_patches_are_pooled_by_the_share_a_mask_covers_worked_by_hand():
    # a 2 x 2 grid over a picture of 4 x 4; the mask covers all of the first patch and half of the second
    patches = np.float32([[[1, 0], [0, 1]], [[5, 5], [7, 7]]])
    mask = np.zeros((4, 4), bool)
    mask[:2, :3] = True
    assert np.allclose(pooled_patches(patches, mask[None]), np.array([[1, 0.5]]) / np.hypot(1, 0.5), atol=1e-6)


def test_pooling_reads_no_patch_that_the_mask_does_not_touch():
    random = np.random.default_rng(0)
    patches, mask = random.normal(size=(3, 5, 4)).astype(np.float32), np.zeros((30, 50), bool)
    mask[10:20, 30:40] = True  # exactly the patch in row 1, column 3
    assert np.allclose(pooled_patches(patches, mask[None])[0], patches[1, 3] / np.linalg.norm(patches[1, 3]), atol=1e-6)


def test_pooled_vectors_have_unit_length_and_an_empty_mask_has_none():
    patches, masks = np.random.default_rng(1).normal(size=(4, 4, 6)).astype(np.float32), np.zeros((3, 17, 9), bool)
    masks[0] = True
    masks[1, :5, :5] = True
    pooled = pooled_patches(patches, masks)
    assert (
        pooled.shape == (3, 6)
        and pooled.dtype == np.float32
        and np.allclose(np.linalg.norm(pooled, axis=1), [1, 1, 0], atol=1e-5)
    )


# ---------------------------------------------------------------------------------- row 8: one cluster per class


def test_row_8_worked_by_hand():
    #            cat   dog   car   tree
    scores = np.float32(
        [
            [0.50, 0.20, 0.20, 0.10],
            [0.30, 0.40, 0.20, 0.10],
            [0.10, 0.35, 0.50, 0.05],
            [0.25, 0.15, 0.40, 0.20],
        ]
    )
    # The caption speaks of cat, dog and tree: the car's scores become 0.
    # The cat's best mask is 0 (0.50), the dog's is 1 (0.40), the tree's is 3 (0.20); each class keeps that mask alone.
    # Mask 2 looked most like a car, then like a dog, but no class kept it: background.
    assert assign_one_cluster_per_class(scores, [0, 1, 3]).tolist() == [0, 1, -1, 3]


def test_a_mask_that_is_best_for_two_classes_takes_the_likelier_and_the_other_class_is_lost():
    scores = np.float32([[0.6, 0.4], [0.5, 0.3]])
    # both classes have their best mask in 0; it takes class 0, and class 1 is not handed on to mask 1
    assert assign_one_cluster_per_class(scores, [0, 1]).tolist() == [0, -1]


def test_with_no_class_in_the_caption_all_is_background():
    scores = np.float32([[0.6, 0.4], [0.5, 0.5]])
    assert assign_one_cluster_per_class(scores, []).tolist() == [-1, -1] and assign_best(scores, []).tolist() == [
        -1,
        -1,
    ]


def test_each_class_has_one_mask_at_most_and_only_candidates_are_given():
    random = np.random.default_rng(0)
    for _ in range(50):
        scores = random.dirichlet(np.ones(6), 5).astype(np.float32)
        eligible = random.choice(6, 3, replace=False).tolist()
        assigned = assign_one_cluster_per_class(scores, eligible)
        given = assigned[assigned >= 0]
        assert len(set(given)) == len(given) and set(given) <= set(eligible)
        best = np.unravel_index(scores[:, eligible].argmax(), (5, 3))
        assert assigned[best[0]] == eligible[best[1]]  # the likeliest pair of all always stands


# -------------------------------------------------------------------------------------------------- merge by name


def test_merged_masks_take_their_best_name_and_may_share_one():
    #            cat   dog   car   wall
    scores = np.float32(
        [
            [0.50, 0.20, 0.20, 0.10],
            [0.45, 0.35, 0.10, 0.10],
            [0.10, 0.12, 0.60, 0.18],
            [0.10, 0.25, 0.25, 0.40],
        ]
    )
    # cat and dog are candidates, the wall stands for background; the car can neither be given nor win
    assert assign_best(scores, [0, 1], [3]).tolist() == [0, 0, -1, -1]  # mask 2 is more of a wall than of a dog
    assert assign_best(scores, [0, 1], []).tolist() == [0, 0, 1, 1]


def test_a_mask_whose_best_name_is_below_the_threshold_is_background():
    scores = np.float32([[0.5, 0.3], [0.2, 0.15], [0.19, 0.1]])
    assert assign_best(scores, [0, 1], threshold=0.2).tolist() == [0, 0, -1]


def test_each_name_takes_the_surest_proposal_that_lies_apart_from_surer_ones():
    masks = np.zeros((4, 1, 10), bool)
    masks[0, 0, :6] = masks[1, 0, :5] = masks[2, 0, 5:] = masks[3, 0, 9:] = True
    #                    cat   dog   wall
    scores = np.array([[0.60, 0.30, 0.10], [0.90, 0.05, 0.05], [0.30, 0.50, 0.20], [0.10, 0.30, 0.60]])
    assert assign_best_proposal(scores, masks, [0, 1], [2]).tolist() == [-1, 0, 1, -1]
    assert assign_best_proposal(scores, masks, [0, 1], [2], threshold=0.6).tolist() == [-1, 0, -1, -1]
    # of the dog's five pixels one lies on the cat
    masks[1, 0, 5] = True
    assert assign_best_proposal(scores, masks, [0, 1], [2], overlap=0.2).tolist() == [-1, 0, -1, -1]
    assert assign_best_proposal(scores, masks, [0, 1], [2], overlap=0.21).tolist() == [-1, 0, 1, -1]
    # where nothing is background, what is left is given too
    assert assign_best_proposal(scores, masks, [0, 1], [], overlap=0.2).tolist() == [-1, 0, 1, 1]


def test_softened_scores_are_those_of_a_softmax_at_a_higher_temperature():
    logits = np.array([[3.0, 1.0, -2.0], [30.0, 0.0, 0.0]])
    np.testing.assert_allclose(softened(softmax(logits, axis=1), 3), softmax(logits / 3, axis=1), rtol=1e-6)
    assert softened(np.array([[1.0, 0.0]]), 3).tolist() == [[1.0, 0.0]]


# -------------------------------------------------------------------------------------------------- free names


class Compass:
    """A CLIP whose texts are directions in the plane, in degrees."""

    DEGREES = dict(cat=0, kitten=40, dog=90, puppy=50, wall=180, brick=170, background=270, animal=46)

    def encode_text(self, texts):
        angles = np.radians([self.DEGREES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


PETS = Vocabulary(("background", "cat", "dog"), (("background",), ("cat", "kitten"), ("dog", "puppy")))


def test_a_free_name_means_the_class_with_the_nearest_way_to_say_it():
    found = nearest_classes(["animal", "kitten", "brick"], PETS, Compass(), ["wall"])
    assert {name: label for name, (label, _) in found.items()} == dict(
        animal=2, kitten=1, brick=0
    )  # animal: 4 degrees from puppy, 6 from kitten
    assert found["animal"][1] == pytest.approx(np.cos(np.radians(4))) and found["kitten"][1] == pytest.approx(1)


def test_without_background_every_free_name_means_a_class():
    bare = Vocabulary(PETS.names, PETS.synonyms, background=False)
    assert (
        nearest_classes(["brick"], bare, Compass(), ["wall"])["brick"][0] == 2
        and nearest_classes([], bare, Compass()) == {}
    )


def test_a_name_that_is_both_a_class_and_of_the_background_means_the_class():
    assert nearest_classes(["dog"], PETS, Compass(), ["dog", "wall"])["dog"][0] == 2


def test_where_clusters_tie_exactly_for_a_class_all_of_them_keep_it():
    scores = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.2, 0.7, 0.1]])  # a softmax that saturates
    assert assign_one_cluster_per_class(scores, eligible=[0, 1]).tolist() == [0, 0, 1]
    scores[1] = [np.nextafter(1.0, 0.0), 0.0, 0.0]  # a tie no more: the second cluster has nothing left
    assert assign_one_cluster_per_class(scores, eligible=[0, 1]).tolist() == [0, -1, 1]
