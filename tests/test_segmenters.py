"""The method as an evaluation asks for it: groups of classes are named by their classes."""

from dataclasses import replace

import numpy as np
import pytest

from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.names import nearest_classes
from fsdlib.pipeline import segment
from fsdlib.recipe import BACKGROUND_NAMES, PAPER
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import scene_of_split

ANIMALS = ("bird", "cat", "cow", "dog", "horse", "sheep", "elephant", "bear", "zebra", "giraffe")


@pytest.fixture(scope="module")
def grouped(vocabulary):
    """The scenes' classes in two groups: animals (1) and all else (2)."""
    groups = (0, *(1 if name in ANIMALS else 2 for name in vocabulary.names[1:]))
    return replace(Vocabulary.of(["animal", "thing"]), finer=vocabulary, groups=groups)


@pytest.fixture(scope="module")
def pictures():
    return [scene_of_split("val", number) for number in range(3)]


def found(mini, mode, vocabulary, image, present=()):
    return FreeSegDiff(mini, PAPER.with_changes({"vocabulary": mode})).segment([image], vocabulary, [present], 0)[0]


@pytest.mark.parametrize("mode", ["closed", "given"])
def test_groups_are_named_with_their_classes_which_then_become_groups(mode, mini, grouped, pictures):
    for picture in pictures:
        fine = segment(picture.image, mini, PAPER.with_changes({"vocabulary": mode}), grouped.finer)
        ours = found(mini, mode, grouped, picture.image)
        assert np.array_equal(ours.labels, np.array(grouped.groups)[fine.labels]) and ours.labels.dtype == np.uint8
        kept = {grouped.names[grouped.groups[one.label]] for one in fine.candidates if one.kept}
        assert set(ours.candidates) == kept and len(ours.candidates) == len(kept)
    assert ours.labels.any()


def test_all_classes_of_a_group_that_is_told_may_be_given_and_no_others(mini, grouped, scene):
    groups = np.array(grouped.groups)
    for told in (1, 2):
        ours = found(mini, "oracle", grouped, scene.image, [told])
        peer = segment(
            scene.image,
            mini,
            PAPER.with_changes({"vocabulary": "oracle"}),
            grouped.finer,
            present=np.flatnonzero(groups == told).tolist(),
        )
        assert np.array_equal(ours.labels, groups[peer.labels]) and set(np.unique(ours.labels)) <= {0, told}
        assert told in ours.labels


def test_free_names_are_taken_for_the_group_of_the_nearest_class(mini, grouped, scene):
    ours = found(mini, "open", grouped, scene.image)
    nearest = nearest_classes(list(ours.mapping), grouped.finer, mini.clip, BACKGROUND_NAMES)
    assert ours.mapping and {name: group for name, (group, _) in ours.mapping.items()} == {
        name: grouped.names[grouped.groups[label]] for name, (label, _) in nearest.items()
    }
    assert set(np.unique(ours.labels)) <= {0, *(grouped.names.index(group) for group, _ in ours.mapping.values())}


def test_true_masks_are_named_with_the_classes_of_groups(mini, grouped, scene):
    masks = scene.labels == np.setdiff1d(scene.labels, (0, 255))[:, None, None]
    method = FreeSegDiff(mini, PAPER)
    fine = method.name_masks(scene.image, masks, grouped.finer)
    assert method.name_masks(scene.image, masks, grouped) == [grouped.groups[label] for label in fine]


def test_a_list_without_groups_is_named_with_itself(mini, vocabulary, scene):
    ours = found(mini, "closed", vocabulary, scene.image)
    assert np.array_equal(ours.labels, segment(scene.image, mini, PAPER, vocabulary).labels)


def test_groups_that_make_no_sense_are_refused(vocabulary):
    with pytest.raises(ValueError, match="45 finer classes and 2 groups"):
        replace(Vocabulary.of(["animal"]), finer=vocabulary, groups=(0, 1))
    with pytest.raises(ValueError, match="groups reach 7, but there are 2 labels"):
        replace(Vocabulary.of(["animal"]), finer=vocabulary, groups=(0, *[7] * 44))


def test_refiners_change_no_result_and_are_not_sent_to_other_processes(mini, scenes, vocabulary):
    here, beside = FreeSegDiff(mini, PAPER), FreeSegDiff(mini, PAPER, refiners=2)
    images = [scene.image for scene in scenes[:2]]
    for one, other in zip(*(method.segment(images, vocabulary, [[], []], 0) for method in (here, beside)), strict=True):
        assert np.array_equal(one.labels, other.labels) and one.details == other.details
    assert here.configuration() == beside.configuration()
    sent = FreeSegDiff(*beside.__reduce__()[1])
    assert sent.refiners == 2 and "_pool" not in vars(sent)
