"""What time costs in mIoU: recipes, and single choices that are quicker than those of `best`, on scenes.

`make tradeoffs` writes reports/tradeoffs.json. Times are this machine's, and with the embedded models: what a choice saves
with others is another share, and what it costs on photographs is not said.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.speed import machine
from fsdlib.models import Models, load_models
from fsdlib.pipeline import segment_batch
from fsdlib.project import REPORTS, write_atomically
from fsdlib.recipe import BEST, FAST, PAPER, Recipe
from fsdlib.stream import threads_of
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import scene_of_split

KEPT = REPORTS / "tradeoffs.json"
# Single choices, each another way for one stage of `best`.
CHOICES: dict[str, Mapping[str, Any]] = {
    "greedy caption": {"caption.beams": 1},
    "one noise": {"features.noise_samples": 1},
    "ten starts of k-means": {"clusters.of.restarts": 10},
    "one smoothing": {"clusters.cells": (5,)},
    "five CRF iterations": {"refinement.iterations": 5},
    "CRF at half the side": {"refinement.max_pixels": 9216},  # of scenes of 192 x 192 pixels
    "no CRF": {"refinement": "none"},
}


def compared(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    models: Models,
    vocabulary: Vocabulary,
    recipes: Mapping[str, Recipe],
    batch: int = 8,
) -> dict[str, dict]:
    """Every recipe on the same pictures, beside the first one.

    images: (H, W, 3) uint8; truths: (H, W) uint8 label maps of the vocabulary. Of each recipe: `milliseconds` of the
    processor a picture, in batches; `miou` as the protocol `dataset` has it; `agreement`, the share of pixels that have the
    first recipe's label; and `difference`, its mIoU less that of the first, with the interval of 95 % that draws of the
    same pictures give (`interval`).
    """
    labels: dict[str, list[np.ndarray]] = {}
    counts: dict[str, list[np.ndarray]] = {}
    found: dict[str, dict] = {}
    for name, recipe in recipes.items():
        segment_batch(images[:batch], models, recipe, vocabulary)  # not counted: the class list is encoded here
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        results = [result for part in parts for result in segment_batch(part, models, recipe, vocabulary)]
        labels[name] = [result.labels for result in results]
        counts[name] = [scores.confusion(one, truth, len(vocabulary)) for one, truth in zip(labels[name], truths)]
        taken = [sum(result.processor_seconds.values()) for result in results]
        found[name] = dict(milliseconds=round(1000 * float(np.mean(taken)), 1))
    first = next(iter(recipes))
    for name, one in found.items():
        same = sum(int((a == b).sum()) for a, b in zip(labels[name], labels[first], strict=True))
        miou = scores.miou(counts[name], vocabulary.background)["dataset"]
        difference, low, high = scores.ahead(counts[name], counts[first], vocabulary.background)["dataset"]
        one |= dict(miou=round(miou, 4), agreement=round(same / sum(map(np.size, truths)), 4))
        one |= dict(difference=round(difference, 4), interval=[round(low, 4), round(high, 4)])
    return found


def frontier(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The names that nothing else beats in both time and mIoU, the quickest first (Pareto's).

    >>> frontier(dict(a=dict(milliseconds=1, miou=0.2), b=dict(milliseconds=2, miou=0.1), c=dict(milliseconds=3, miou=0.4)))
    ['a', 'c']
    """
    kept: list[str] = []
    for name in sorted(found, key=lambda name: (found[name]["milliseconds"], -found[name]["miou"])):
        if not kept or found[name]["miou"] > found[kept[-1]]["miou"]:
            kept.append(name)
    return kept


def candidates() -> dict[str, Recipe]:
    """`best`, each single choice in its place, `paper` and `fast`; peers are compared by `fsdlib.world.ablations`."""
    single = {name: BEST.with_changes(changes, name) for name, changes in CHOICES.items()}
    return {"best": BEST} | single | {"paper": PAPER, "fast": FAST}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.tradeoffs", description="Recipes and quicker choices: time and mIoU on scenes."
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument(
        "--train", action="store_true", help="scenes of the train split, to choose on; nothing is written"
    )
    asked = parser.parse_args()
    with threads_of(1):
        models, val = load_models("mini", "cpu"), open_dataset("scenes")
        if asked.train:
            scenes = [scene_of_split("train", number) for number in range(asked.images)]
            pictures, truths = [scene.image for scene in scenes], [scene.labels for scene in scenes]
        else:
            numbers = range(min(asked.images, len(val)))
            pictures, truths = [val.image(i) for i in numbers], [val.labels(i) for i in numbers]
        found = compared(pictures, truths, models, val.vocabulary, candidates())
        about = machine()
    for name, one in found.items():
        low, high = one["interval"]
        print(
            f"{name:<24}{one['milliseconds']:7.1f} ms  mIoU {one['miou']:.3f}  {one['difference']:+.3f} ({low:+.3f} to {high:+.3f})  "
            f"{100 * one['agreement']:.1f} % of pixels as under best"
        )
    print("nothing is both quicker and better than:", ", ".join(frontier(found)))
    if not asked.train:
        kept = dict(images=len(pictures), recipes=found, machine=about)
        print(write_atomically(KEPT, json.dumps(kept, indent=1) + "\n"))
