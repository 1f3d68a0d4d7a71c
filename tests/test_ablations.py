"""Ablations: every choice fits its recipe, rows say what was measured, and what was measured once is not measured again."""

import json

import numpy as np
import pytest

from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.pipeline import segment_batch
from fsdlib.recipe import BEST, PAPER, RECIPES
from fsdlib.world import ablations
from fsdlib.world.ablations import as_text, counted, measured, recipes, row

COMPARED = [("recipes", "best", BEST), ("recipes", "paper", PAPER)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset("scenes")


def test_best_comes_first_and_every_row_is_another_recipe_or_mode():
    found = list(recipes())
    assert found[0] == ("recipes", "best", BEST)
    assert {name for part, name, _ in found if part == "recipes"} == set(RECIPES)
    made = [recipe.model_dump_json(exclude={"name"}) for _, _, recipe in found]
    # `best_sd` differs from `diffcut` in its mode and its background: in another mode one may be the other
    assert len(made) - len(set(made)) <= 1 and len(
        {(part, name, recipe.vocabulary.kind) for part, name, recipe in found}
    ) == len(found)


def test_counts_are_those_of_the_recipe_on_the_first_images(dataset, mini):
    found = counted(dataset, mini, PAPER, 3, batch=2)
    alone = segment_batch([dataset.image(i) for i in range(3)], mini, PAPER, dataset.vocabulary)
    expected = [scores.confusion(one.labels, dataset.labels(i), len(dataset.vocabulary)) for i, one in enumerate(alone)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("mode", ["open", "oracle"])
def test_every_mode_can_be_counted(dataset, mini, mode):
    (counts,) = counted(dataset, mini, PAPER.with_changes({"vocabulary": mode}), 1)
    assert counts.sum() == dataset.labels(0).size


def test_a_row_is_beside_the_first():
    right, wrong = np.array([[50, 0], [0, 50], [0, 0]]), np.array([[50, 0], [50, 0], [0, 0]])
    counts = [right, wrong]
    found = row([counts[1]], [counts[0]], True)
    assert found["dataset"] == 0.25 and found["ahead"]["dataset"] == [-0.75, -0.75, -0.75]
    assert row([counts[0]], [counts[0]], True)["ahead"]["per_image"] == [0, 0, 0]


def test_rows_are_kept_and_taken_again_and_others_stay(dataset, mini, tmp_path, monkeypatch):
    path = tmp_path / "ablations.json"
    first = measured(COMPARED, dataset, mini, 2, path)
    assert json.loads(path.read_text())["rows"] == first and [one["asked"]["name"] for one in first] == [
        "best",
        "paper",
    ]
    assert first[0]["scores"]["ahead"]["dataset"] == [0, 0, 0]
    third = ("clusters", "eigengap", BEST.with_changes({"clusters": "eigengap"}))
    done = []
    monkeypatch.setattr(ablations, "counted", lambda *a: done.append(a[2].name) or counted(*a))
    again = measured([*COMPARED, third], dataset, mini, 2, path)
    assert again[:2] == first and done == ["best", third[2].name]  # the first, since others are compared to it
    done.clear()
    assert measured(COMPARED[:1], dataset, mini, 2, path) == first[:1]
    assert len(json.loads(path.read_text())["rows"]) == 3


def test_rows_are_printed_as_a_table(dataset, mini):
    text = as_text(measured(COMPARED[:1], dataset, mini, 1))
    assert "recipes: best" in text and "closed" in text and "+0.000 (+0.000 to +0.000)" in text
