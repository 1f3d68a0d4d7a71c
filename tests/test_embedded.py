"""The measures of the embedded world, on cases worked out by hand."""

import numpy as np
import pytest

from fsdlib.datasets import Vocabulary
from fsdlib.embedded import as_text, caption_scores, matched_counts, spoken_classes
from fsdlib.project import CLASSES
from fsdlib.scenes import scene_of_split
from fsdlib.scores import miou

SCENES = Vocabulary.read(CLASSES / "scenes.csv")


@pytest.mark.parametrize(
    ("sentence", "classes"),
    [
        ("a cat and two dogs on a striped background", {"cat", "dog"}),
        ("a dining table next to a potted plant", {"dining table", "potted plant"}),
        ("three people, two buses with a couch", {"person", "bus", "sofa"}),
        ("two sheep and butterflies in front of a plain wall", {"sheep", "butterfly"}),
        ("a catalogue on a scar", set()),  # no class word stands alone
    ],
)
def test_a_caption_speaks_of_the_classes_whose_words_it_holds(sentence, classes):
    assert spoken_classes(sentence, SCENES) == classes


@pytest.mark.parametrize("number", range(20))
def test_the_worlds_own_captions_speak_of_just_the_objects_in_the_scene(number):
    scene = scene_of_split("val", number)
    assert all(spoken_classes(sentence, SCENES) == set(scene.objects) for sentence in scene.captions)


def test_recall_and_precision_count_over_all_pictures():
    # present 1 + 3, spoken 2 + 1, right 1 + 1
    assert caption_scores(["a cat and a dog", "a cow"], [{"cat"}, {"cow", "bus", "car"}], SCENES) == dict(recall=2 / 4, precision=2 / 3)


def test_features_that_are_the_labels_score_all_that_the_grid_allows():
    truth = np.zeros((32, 32), np.uint8)
    truth[8:16, 8:24] = 8
    coarse = truth[::2, ::2]  # on the 16 x 16 grid, whose cells the object fills
    assert miou([matched_counts(np.eye(2, dtype=np.float32)[(coarse > 0).astype(int)].transpose(2, 0, 1) + 0.0, truth, len(SCENES), 0)])["dataset"] == 1.0


def test_the_report_prints_both_protocols_of_each_recipe():
    content = dict(
        scenes=dict(count=200), captions=dict(recall=0.5, precision=0.25), naming=dict(accuracy=0.75, accuracy_on_crops=0.5), features=dict(diffusion=0.125),
        end_to_end=dict(paper=dict(dataset=0.111, per_image=0.222), best=dict(dataset=0.333, per_image=0.444)),
    )  # fmt: skip
    lines = [line.split() for line in as_text(content).splitlines()]
    assert ["paper", "0.111", "0.222"] in lines and ["best", "0.333", "0.444"] in lines and ["mIoU", "dataset", "per_image"] in lines
