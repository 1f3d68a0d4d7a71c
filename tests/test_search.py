"""The search for a recipe: what it takes, what it leaves, and that nothing is measured twice."""

import json

from fsdlib.recipe import BEST, PAPER
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import scene_of_split, world_classes
from fsdlib.world.search import VALUES, remembered, scored, search


def test_a_value_stays_only_where_every_set_is_better_for_it_and_the_best_mean_counts():
    # K counts, and so does the number of restarts, which is tried after it and beside the K that was taken
    def measure(recipe):
        k, starts = recipe.clusters.count, recipe.clusters.restarts
        return {4: (0.3, 0.3), 5: (0.4, 0.2), 6: (0.35, 0.35), 8: (0.36, 0.4)}[k][0] + starts / 100, {
            4: 0.3, 5: 0.2, 6: 0.35, 8: 0.4}[k] + starts / 100  # fmt: skip

    values = {"clusters.count": (4, 5, 6, 8), "clusters.threshold": (0.1,), "clusters.restarts": (1, 20)}
    found, steps = search(PAPER, values, measure)
    assert (found.clusters.count, found.clusters.restarts, found.name) == (8, 20, "paper")
    assert [(step["path"], step["value"], step["taken"]) for step in steps] == [
        ("clusters.count", 5, False), ("clusters.count", 6, False), ("clusters.count", 8, True),
        ("clusters.restarts", 1, False), ("clusters.restarts", 20, True)]  # fmt: skip


def test_what_was_measured_is_kept_and_counts_only_about_the_same(tmp_path):
    asked, path = [], tmp_path / "kept.json"

    def measure(recipe):
        asked.append(recipe)
        return 0.25, 0.5

    once = remembered(measure, dict(code="a", starts=(0, 9)), path)
    assert once(PAPER) == once(PAPER) == [0.25, 0.5] and len(asked) == 1
    assert once(PAPER.with_changes({}, name="another name")) == [0.25, 0.5] and len(asked) == 1
    again = remembered(measure, dict(code="a", starts=(0, 9)), path)
    assert again(PAPER) == [0.25, 0.5] and len(asked) == 1  # of an earlier process
    assert again(BEST) == [0.25, 0.5] and len(asked) == 2
    assert remembered(measure, dict(code="b", starts=(0, 9)), path)(PAPER) == [0.25, 0.5] and len(asked) == 3
    assert len(json.loads(path.read_text())) == 3


def test_values_that_are_tried_fit_the_recipe_that_the_search_starts_from():
    for path, values in VALUES.items():
        for value in values:
            assert BEST.with_changes({path: value}).name.startswith(f"best-{path}=")


def test_a_recipe_is_scored_on_scenes_as_an_evaluation_would(mini):
    from fsdlib.measure.scores import confusion, miou
    from fsdlib.pipeline import segment

    scenes, vocabulary = (
        [scene_of_split("train", number) for number in (0, 1, 2)],
        Vocabulary.of([one.name for one in world_classes()]),
    )
    labels = [segment(scene.image, mini, PAPER, vocabulary).labels for scene in scenes]
    counts = [confusion(one, scene.labels, len(vocabulary)) for one, scene in zip(labels, scenes)]
    assert scored(scenes, mini, PAPER, vocabulary, batch=2) == miou(counts)["dataset"]
