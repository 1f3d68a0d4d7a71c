"""What CONTRIBUTING says of adding a way to do a stage is followed to the letter."""

import re

import numpy as np

from fsdlib.pipeline import segment
from fsdlib.project import ROOT
from fsdlib.recipe import PAPER, Recipe

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_pages_clustering_can_be_added_and_used(mini, scene, vocabulary):
    section = PAGE.split("## Add a clustering, a view or a refinement")[1].split("\n## ")[0]
    defined, used = re.findall(r"```python\n(.*?)```", section, re.S)
    names: dict = dict(picture=scene.image, models=mini, classes=vocabulary, __name__="of_ones_own")
    exec(defined, names)
    exec(used, names)
    recipe, result = names["recipe"], names["result"]
    assert recipe.clusters == names["Gaussians"](count=5) and len(np.unique(result.clusters)) == 5
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    again = segment(scene.image, mini, PAPER.with_changes({"clusters": "gaussians", "clusters.count": 5}), vocabulary)
    assert np.array_equal(again.labels, result.labels)
