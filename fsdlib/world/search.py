"""The search for `best`: one choice after another on scenes of the train split, never on those that it is reported on.

`make search` goes on from what data/training/search.json holds: a recipe that was measured there under the same models,
code and scenes is not measured again.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import Models, load_models
from fsdlib.pipeline import segment_batch
from fsdlib.project import TRAINING, write_atomically
from fsdlib.recipe import Recipe, get_recipe
from fsdlib.stream import threads_of
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import Scene, scene_of_split

KEPT = TRAINING / "search.json"
# One set alone misleads by several points, so a value has to be better on both.
STARTS = (0, 3000)
# What is tried, in this order: from readout to refinement. A value that fits only some of the ways to do a stage is
# skipped where it fits not.
VALUES: dict[str, tuple[Any, ...]] = {
    "features.timestep": (0, 50, 100, 200, 300),
    "features.noise_samples": (1, 3),
    "features.taps.of": ("cross_attention_query", "self_attention_output"),
    "clusters": (
        {"kind": "kmeans", "count": 6, "plus_candidates": True},
        {"kind": "spectral", "count": 6, "plus_candidates": True},
        "normalised_cut",
        "pooled",
    ),
    "clusters.counts": ((3, 5, 8), (2, 4, 8, 16), (3, 5, 8, 12, 16), (2, 3, 4, 5, 6, 8, 10, 12, 16)),
    "clusters.cells": ((1,), (5,), (9,), (3, 5, 9)),
    "clusters.of": ({"kind": "kmeans", "restarts": 10}, "agglomerative", "spectral"),
    "view": ("black_frame", "crop", "dense"),
    "assignment.softness": (1.0, 3.0, 6.0),
    "assignment.overlap": (0.1, 0.2, 0.3, 0.5),
    "assignment.threshold": (0.0, 0.1, 0.2),
    "refinement": ("crf", "joint_crf", "pamr", "none"),
    "refinement.gaussian_sxy": (3.0, 20.0),
    "refinement.bilateral_sxy": (10.0, 20.0, 40.0),
    "refinement.bilateral_srgb": (10.0, 20.0, 35.0),
}


def scored(scenes: Sequence[Scene], models: Models, recipe: Recipe, vocabulary: Vocabulary, batch: int = 8) -> float:
    """The mIoU of the protocol `dataset` that a recipe reaches on scenes."""
    counts = []
    for start in range(0, len(scenes), batch):
        part = scenes[start : start + batch]
        found = segment_batch([scene.image for scene in part], models, recipe, vocabulary)
        counts += [scores.confusion(one.labels, scene.labels, len(vocabulary)) for one, scene in zip(found, part)]
    return scores.miou(counts, vocabulary.background)["dataset"]


def search(
    start: Recipe, values: Mapping[str, Sequence[Any]], measure: Callable[[Recipe], Sequence[float]]
) -> tuple[Recipe, list[dict]]:
    """The recipe that coordinate search ends at, and the steps there, one row a value that was tried.

    measure: the scores of a recipe, one a set of scenes. Path by path in the order of `values` every value is put in the
    place of the one there; it stays if every set is better for it, and of several such values the best mean counts. Values
    that do not fit the recipe as it is then are left out. Rows: path, value, scores, taken.

    >>> worth = {3: (0.2, 0.2), 4: (0.1, 0.4), 8: (0.3, 0.3)}
    >>> found, steps = search(Recipe(), {"clusters.count": (3, 8)}, lambda recipe: worth[recipe.clusters.count])
    >>> found.clusters.count, [step["taken"] for step in steps]  # 3 is better on one set alone, and so is 8
    (4, [False, False])
    """
    reached, steps = start, []
    best = measure(reached)
    for path, tried in values.items():
        rows = []
        for value in tried:
            try:
                variant = reached.with_changes({path: value}, name=start.name)
            except ValueError:
                continue
            if variant != reached:
                rows.append((variant, dict(path=path, value=value, scores=list(measure(variant)), taken=False)))
        better = [row for row in rows if all(np.greater(row[1]["scores"], best))]
        if better:
            reached, row = max(better, key=lambda pair: np.mean(pair[1]["scores"]))
            row["taken"], best = True, row["scores"]
        steps += [row for _, row in rows]
    return reached, steps


def remembered(
    measure: Callable[[Recipe], Sequence[float]], about: Mapping[str, Any], path: Path
) -> Callable[[Recipe], list[float]]:
    """`measure`, whose answers are kept in a JSON file as they come; those that were kept about something else count for nothing.

    about: what, beside the recipe, the answers depend on: ready for JSON.
    """
    kept = json.loads(path.read_text()) if path.exists() else []

    def answered(recipe: Recipe) -> list[float]:
        asked = json.loads(json.dumps(dict(about, recipe=recipe.model_dump(mode="json", exclude={"name"}))))
        known = [row["scores"] for row in kept if {key: row[key] for key in row if key != "scores"} == asked]
        if known:
            return known[-1]
        found = [float(value) for value in measure(recipe)]
        kept.append(asked | dict(scores=found))
        write_atomically(path, json.dumps(kept, indent=1) + "\n")
        return found

    return answered


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.search",
        description="Search a recipe on scenes of the train split, choice by choice.",
    )
    parser.add_argument("--recipe", default="best", help="where the search starts")
    parser.add_argument("--scenes", type=int, default=60, help="of each of the two sets")
    asked = parser.parse_args()
    models, vocabulary = load_models("mini", "cpu"), open_dataset("scenes").vocabulary
    sets = [[scene_of_split("train", first + i) for i in range(asked.scenes)] for first in STARTS]

    def of_sets(recipe: Recipe) -> list[float]:
        return [scored(scenes, models, recipe, vocabulary) for scenes in tqdm(sets, desc="sets", leave=False)]

    start = get_recipe(asked.recipe)
    code = FreeSegDiff(models, start).configuration()["code"]
    about = dict(models=models.identity, code=code, scenes=asked.scenes, starts=STARTS)
    with threads_of(1):
        found, steps = search(start, VALUES, remembered(of_sets, about, KEPT))
    for step in steps:
        a, b = step["scores"]
        print(f"{'->' if step['taken'] else '  '} {step['path']:<28}{step['value']!s:<60}{a:.3f}  {b:.3f}")
    print(found)
