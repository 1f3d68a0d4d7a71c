"""Scores that are spread: walks worked by hand, and what no walk may change."""

import numpy as np
import pytest

from fsdlib.clusters import affinity
from fsdlib.pipeline import segment
from fsdlib.recipe import PAPER
from fsdlib.spreading import AffinitySpreading, AttentionSpreading, Spreading, Unspread

ONE_EACH = np.eye(4, dtype=bool).reshape(4, 2, 2)  # a mask for each of 2 x 2 pixels


@pytest.fixture
def looks():
    """Attention of 2 x 2 positions: half at itself, half at the next."""
    rows = (np.eye(4) + np.roll(np.eye(4), 1, axis=1)) / 2
    return rows.T.reshape(4, 2, 2)


def test_a_step_goes_where_a_position_looks(looks):
    scores = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    once = AttentionSpreading().spread(scores, ONE_EACH, looks)
    assert once.tolist() == [[0.5, 0.0], [0.0, 0.5], [0.0, 0.5], [0.5, 0.0]]
    twice = AttentionSpreading(steps=2).spread(scores, ONE_EACH, looks)
    assert twice.tolist() == [[0.25, 0.25], [0.0, 0.5], [0.25, 0.25], [0.5, 0.0]]


def test_sharper_attention_keeps_the_strongest_look():
    rows = np.array([[0.8, 0.2], [0.2, 0.8]])
    masks = np.eye(2, dtype=bool)[:, None]
    found = AttentionSpreading(sharpness=2.0).spread(np.array([[1.0], [0.0]]), masks, rows.T.reshape(2, 1, 2))
    assert np.allclose(found.ravel(), [16 / 17, 1 / 17])


def test_the_range_is_kept_where_that_is_asked(looks):
    scores = np.array([[0.9], [0.1], [0.1], [0.1]])
    found = AttentionSpreading(keep_range=True).spread(scores, ONE_EACH, looks).ravel()
    assert np.allclose(found, [0.9, 0.1, 0.1, 0.9])


def test_steps_by_likeness_are_by_the_affinitys_shares():
    features = np.random.default_rng(0).normal(size=(3, 2, 2))
    scores = np.random.default_rng(1).random((4, 5))
    shares = affinity(features, 4)
    expected = shares / shares.sum(axis=1, keepdims=True) @ scores
    assert np.allclose(AffinitySpreading(power=4.0).spread(scores, ONE_EACH, features), expected)


def test_masks_have_the_mean_over_their_positions(looks):
    halves = np.array([[[True, True], [False, False]], [[False, False], [True, True]]])
    found = AttentionSpreading().spread(np.array([[1.0], [0.0]]), halves, looks)
    assert np.allclose(found.ravel(), [0.75, 0.25])  # 1 and a half above, a half of the last below


@pytest.mark.parametrize(
    "way", [Unspread(), AffinitySpreading(), AttentionSpreading(steps=3)], ids=lambda way: way.kind
)
def test_scores_that_are_the_same_everywhere_stay_so(way, looks):
    scores = np.tile(np.array([[0.2, 0.7]], np.float32), (4, 1))
    found = way.spread(scores, ONE_EACH, looks)
    assert np.allclose(found, scores) and found.dtype == np.float32
    assert way.spread(scores[:, :0], ONE_EACH, looks).shape == (4, 0)


def test_attention_is_asked_for_where_features_are_none():
    with pytest.raises(ValueError, match="no attention maps.*features='attention'"):
        AttentionSpreading().spread(np.ones((4, 1)), ONE_EACH, np.ones((3, 2, 2)))
    with pytest.raises(ValueError, match="'heat': choose one of none, affinity, attention"):
        Spreading.model_validate("heat")


def test_a_recipe_spreads_what_its_view_says(mini, scene, vocabulary):
    plain, spread = (
        segment(scene.image, mini, PAPER.with_changes({"spreading": way}), vocabulary) for way in ("none", "affinity")
    )
    assert np.array_equal(plain.masks, spread.masks)
    features = PAPER.features.stacked([array[0] for array in PAPER.features.read([scene.image], mini)[1]])
    assert np.allclose(spread.scores, AffinitySpreading().spread(plain.scores, plain.masks, features), atol=1e-6)
