"""What time costs: every recipe beside the first, on cases that can be counted by hand."""

import numpy as np
import pytest

from fsdlib.recipe import BEST, FAST, PAPER
from fsdlib.world.tradeoffs import CHOICES, candidates, compared, frontier


def test_a_recipe_beside_itself_loses_nothing_and_another_is_measured_as_the_scores_say(mini, scenes, vocabulary):
    images, truths = [scene.image for scene in scenes], [scene.labels for scene in scenes]
    found = compared(images, truths, mini, vocabulary, {"best": BEST, "again": BEST, "paper": PAPER}, batch=2)
    for name in ("best", "again"):
        assert (found[name]["agreement"], found[name]["difference"], found[name]["interval"]) == (1, 0, [0, 0])
    paper = found["paper"]
    assert paper["difference"] == pytest.approx(paper["miou"] - found["best"]["miou"], abs=1e-4)
    assert paper["interval"][0] <= paper["difference"] <= paper["interval"][1] and 0 < paper["agreement"] < 1
    assert all(one["milliseconds"] > 0 for one in found.values())


def test_the_frontier_holds_what_nothing_beats_in_both():
    points = dict(a=(5, 0.5), b=(4, 0.5), c=(1, 0.1), d=(2, 0.1), e=(9, 0.6))
    found = {name: dict(milliseconds=ms, miou=miou) for name, (ms, miou) in points.items()}
    assert frontier(found) == ["c", "b", "e"]


def test_every_recipe_and_every_single_choice_is_compared_with_best_first():
    found = candidates()
    assert next(iter(found)) == "best" and set(found) == {"best", "paper", "fast"} | set(CHOICES)
    assert all(recipe == BEST.with_changes(CHOICES[name], name) for name, recipe in found.items() if name in CHOICES)
    assert FAST.with_option("name", "best") != BEST and np.all([recipe.name == name for name, recipe in found.items()])
