"""What features and attention are worth on scenes, on cases worked out by hand."""

import numpy as np
import pytest

from fsdlib.backbones import mean_colours
from fsdlib.clusters import KMeans, averaged
from fsdlib.features import image_seed
from fsdlib.measure.scores import matched_miou, miou
from fsdlib.recipe import BEST
from fsdlib.vocabulary import Vocabulary
from fsdlib.words import spoken_classes
from fsdlib.world.probes import (
    class_tokens,
    colour_score,
    feature_scores_at,
    masks_worth,
    matched_counts,
    pointed,
    pointing_game,
)


def test_features_that_are_the_labels_score_all_that_the_grid_allows(vocabulary):
    truth = np.zeros((32, 32), np.uint8)
    truth[8:16, 8:24] = 8
    coarse = truth[::2, ::2]  # on the 16 x 16 grid, whose cells the object fills
    array = np.eye(2, dtype=np.float32)[(coarse > 0).astype(int)].transpose(2, 0, 1)
    assert miou([matched_counts(array, truth, len(vocabulary), 0)])["dataset"] == 1.0


def test_a_cells_colour_is_the_mean_of_its_pixels():
    image = np.zeros((32, 32, 3), np.uint8)
    image[0, 0] = (255, 0, 51)  # one of the four pixels of the first cell
    found = mean_colours(image, 16)
    assert found.shape == (3, 16, 16) and found[:, 0, 0] == pytest.approx([64 / 255, 0, 13 / 255], abs=1 / 255)
    assert not found[:, 1:].any() and not found[:, :, 1:].any()


def test_colours_and_features_of_scenes_have_their_scores_the_same_at_every_call(mini, scenes):
    assert 0 < colour_score(scenes) == colour_score(scenes) < 1
    plain, smooth = feature_scores_at(mini.diffusion, scenes, 300)
    assert (plain, smooth) == feature_scores_at(mini.diffusion, scenes, 300) and plain != smooth
    assert 0 < plain < 1 and 0 < smooth < 1


# --------------------------------------------------------------------------------------------- the pointing game


def test_a_word_points_right_where_its_highest_cell_lies_on_the_object():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 4:8] = True  # on a 4 x 4 grid the cells of rows 0, 1 and columns 2, 3
    attention = np.zeros((4, 4))
    attention[1, 2], attention[2, 2] = 0.6, 0.5
    assert pointed(attention, mask) == (True, 4 / 16)
    attention[2, 2] = 0.7
    assert pointed(attention, mask) == (False, 4 / 16)


def test_an_object_that_no_cells_centre_lies_on_is_pointed_at_by_no_one():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True  # the centres are the odd pixels
    assert pointed(np.eye(4), mask) == (False, 0.0)


def test_an_attention_that_is_high_on_the_object_always_points_right(scenes):
    for scene in scenes:
        for label in set(np.unique(scene.labels)) - {0, 255}:
            mask = scene.labels == label
            step = scene.labels.shape[0] // 16
            hit, share = pointed(mask[step // 2 :: step, step // 2 :: step].astype(float), mask)
            assert hit and 0 < share < 1


@pytest.mark.parametrize(
    ("sentence", "places"),
    [
        ("a cat next to a bus", {"cat": [2], "bus": [6]}),
        ("two dogs on a plain floor", {"dog": [2]}),
        ("a dining table, two people", {"dining table": [2, 3], "person": [6]}),
        ("a cat and a cat", {"cat": [2, 5]}),
        ("a plain background", {}),
    ],
)
def test_class_words_stand_where_the_tokenizer_puts_them(mini, vocabulary, sentence, places):
    tokenizer = mini.diffusion.tokenizers[0]
    found = class_tokens(sentence, vocabulary, tokenizer)
    assert {vocabulary.names[label]: where for label, where in found.items()} == places


def test_a_longer_word_takes_the_tokens_of_a_shorter_one(mini):
    names = ("background", "bear", "teddy bear")
    vocabulary = Vocabulary(names, tuple((name,) for name in names))
    tokenizer = mini.diffusion.tokenizers[0]
    sentence = "a teddy bear"
    found = class_tokens(sentence, vocabulary, tokenizer)
    assert (
        found.keys() == {2} and len(found[2]) == len(tokenizer(sentence).input_ids) - 3
    )  # all but "a" and the two ends


def test_every_class_that_a_caption_names_plays(mini, scenes, vocabulary):
    spoken = [spoken_classes(scene.captions[0], vocabulary) for scene in scenes]
    found = pointing_game(mini.diffusion, scenes, vocabulary)
    assert found == pointing_game(mini.diffusion, scenes, vocabulary)
    assert found["pairs"] == sum(map(len, spoken)) and 0 <= found["right"] <= 1
    areas = [
        (scene.labels == vocabulary.names.index(name)).mean() for scene, names in zip(scenes, spoken) for name in names
    ]
    assert found["chance"] == pytest.approx(np.mean(areas), abs=0.01)  # the cells' centres stand for the pixels


def test_captions_without_class_words_are_no_game(mini, scenes):
    vocabulary = Vocabulary.of(["unicorn"])
    with pytest.raises(ValueError, match="no caption"):
        pointing_game(mini.diffusion, scenes[:1], vocabulary)


def test_masks_alone_are_worth_what_k_means_and_majority_classes_give_scene_by_scene(mini, scenes):
    reading = BEST.features
    expected = []
    for scene in scenes:
        array = averaged(reading.stacked([maps[0] for maps in reading.read([scene.image], mini)[1]]), 3)
        found = KMeans(count=len(np.unique(scene.labels))).group(array, image_seed(scene.image, "clusters"))
        expected.append(matched_miou(found, scene.labels))
    assert masks_worth(scenes, reading, mini, cells=3) == pytest.approx(np.mean(expected))
