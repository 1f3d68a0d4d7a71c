"""What every choice is worth on scenes: recipes and peers in all vocabulary modes, and `best` with one choice done otherwise.

`make ablations` writes reports/ablations.json, row by row, and goes on where it stopped. Numbers are the embedded models';
they say nothing about photographs.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import Models, load_models
from fsdlib.project import REPORTS, write_atomically
from fsdlib.recipe import BEST, RECIPES, Recipe
from fsdlib.stream import threads_of
from fsdlib.vocabulary import VOID

KEPT = REPORTS / "ablations.json"
MODES = ("closed", "given", "open", "oracle")
_MERGED: Mapping[str, Any] = {"kind": "merge", "background_names": BEST.assignment.background_names}
_CELLS: Mapping[str, Any] = {"clusters": "cells", "assignment": _MERGED, "view": "self_correlation"}
# `best` with one stage done otherwise: {stage: {name: changes}}. K is what `best` had before it pooled groupings.
CHOICES: dict[str, dict[str, Mapping[str, Any]]] = {
    "features": {
        "t = 0": {"features.timestep": 0},
        "t = 50": {"features.timestep": 50},
        "t = 300": {"features.timestep": 300},
        "one noise": {"features.noise_samples": 1},
        "self-attention's outputs": {"features.taps.of": "self_attention_output"},
        "the encoder's last block": {"features.taps": {"kind": "encoder_last", "of": "self_attention_output"}},
        "8 x 8 maps": {"features.taps.grid": 8},
        "not normalised": {"features.normalise": False},
        "attention maps": {"features": "attention"},
        "colours": {"features": "colours"},
        "latents": {"features": "latents"},
    },
    "clusters": {
        "k-means, candidates + 6": {"clusters": {"kind": "kmeans", "count": 6, "plus_candidates": True}},
        "ten starts of k-means": {"clusters.of.restarts": 10},
        "nine Ks": {"clusters.counts": (2, 3, 4, 5, 6, 8, 10, 12, 16)},
        "no averaging over cells": {"clusters.cells": (1,)},
        "pooled Ward": {"clusters.of": "agglomerative"},
        "spectral, candidates + 6": {"clusters": {"kind": "spectral", "count": 6, "plus_candidates": True}},
        "normalised cut": {"clusters": "normalised_cut"},
        "eigengap": {"clusters": "eigengap"},
        "mean shift": {"clusters": "mean_shift"},
        "agglomerative, threshold": {"clusters": "agglomerative_threshold"},
        "attention merged": {"features": "attention", "clusters": {"kind": "kl_merging", "threshold": 0.05}},
    },
    "names": {
        "black frame": {"view": "black_frame"},
        "crop with context": {"view": {"kind": "crop", "margin": 0.3, "outside": "kept"}},
        "crop, blurred outside": {"view": {"kind": "crop", "margin": 0.3, "outside": "blurred"}},
        "patches": {"view": "dense"},
        "patches, value path": {"view": "value_path"},
        "patches, self-correlation": {"view": "self_correlation"},
        "no background names": {"assignment.background_names": ()},
        "merged by name": {"assignment": _MERGED},
        "softmax as it is": {"assignment.softness": 1.0},
    },
    "spreading": {
        "positions named by CLIP": _CELLS,
        "the same, one step by likeness": {**_CELLS, "spreading": "affinity"},
        "the same, one step by attention": {**_CELLS, "features": "attention", "spreading": "attention"},
        "proposals, one step by likeness": {"spreading": "affinity"},
    },
    "refinement": {
        "none": {"refinement": "none"},
        "one joint CRF": {"refinement": "joint_crf"},
        "PAMR": {"refinement": "pamr"},
        "CRF, narrow": {"refinement.bilateral_sxy": 10.0, "refinement.gaussian_sxy": 3.0},
    },
}


def recipes() -> Iterator[tuple[str, str, Recipe]]:
    """What is compared: (part, name, recipe), `best` first, to which all others are compared."""
    yield "recipes", "best", BEST
    yield from (("recipes", name, recipe) for name, recipe in RECIPES.items() if recipe is not BEST)
    for part, choices in CHOICES.items():
        for name, changes in choices.items():
            yield part, name, BEST.with_changes(changes, name)
    for name, recipe in RECIPES.items():
        for mode in MODES:
            if mode != recipe.vocabulary.kind:
                yield "modes", name, recipe.with_changes({"vocabulary": mode}, name)


def counted(dataset: Dataset, models: Models, recipe: Recipe, count: int, batch: int = 8) -> list[np.ndarray]:
    """The confusion counts of the first so many images, as an evaluation has them, in any vocabulary mode."""
    segmenter, vocabulary = FreeSegDiff(models, recipe), dataset.vocabulary
    found = []
    for start in tqdm(range(0, count, batch), desc=recipe.name, leave=False):
        numbers = range(start, min(start + batch, count))
        truths = [dataset.labels(i) for i in numbers]
        present = [np.setdiff1d(truth, (0, VOID)).tolist() for truth in truths]
        predictions = segmenter.segment([dataset.image(i) for i in numbers], vocabulary, present, 0)
        found += [scores.confusion(one.labels, truth, len(vocabulary)) for one, truth in zip(predictions, truths)]
    return found


def row(counts: Sequence[np.ndarray], first: Sequence[np.ndarray], background: bool) -> dict:
    """mIoU under every protocol, and in `ahead` by how much it is above that of the first, with its interval (95 %)."""
    means, ahead = scores.miou(counts, background), scores.ahead(counts, first, background)
    return {name: round(value, 4) for name, value in means.items()} | dict(
        ahead={name: [round(value, 4) for value in values] for name, values in ahead.items()}
    )


def measured(
    compared: Sequence[tuple[str, str, Recipe]], dataset: Dataset, models: Models, count: int, path: Path | None = None
) -> list[dict]:
    """One row a recipe: part, name, what it was made with, and its scores beside the first one's.

    path: a JSON file in which rows are kept as they come; those of the same images, models, code and recipe are taken from
    there, so that the work goes on where it stopped.
    """
    kept = json.loads(path.read_text())["rows"] if path and path.exists() else []
    rows: list[dict] = []
    first: list[np.ndarray] = []
    for part, name, recipe in compared:
        asked = FreeSegDiff(models, recipe).configuration()
        about = dict(part=part, name=name, images=count, code=asked["code"], identity=models.identity)
        about |= dict(mode=asked["vocabulary_mode"], recipe=asked["recipe"])
        about = json.loads(json.dumps(about))
        known = [one for one in kept if one["asked"] == about]
        if not first or not known:
            counts = counted(dataset, models, recipe, count)
            first = first or counts
            known = [dict(asked=about, scores=row(counts, first, dataset.vocabulary.background))]
        rows.append(known[-1])
        if path:
            later = [one for one in kept if one["asked"] not in [have["asked"] for have in rows]]
            write_atomically(path, json.dumps(dict(rows=rows + later), indent=1) + "\n")
    return rows


def table(rows: Sequence[Mapping], part: str) -> pd.DataFrame:
    """The rows of one part, the best first, in percent: mode, the three protocols, and `ahead` with `low` and `high` (dataset)."""
    found = []
    for one in rows:
        if one["asked"]["part"] == part:
            ahead = dict(zip(("ahead", "low", "high"), one["scores"]["ahead"]["dataset"]))
            means = {protocol: one["scores"][protocol] for protocol in scores.PROTOCOLS}
            percent = {name: 100 * value for name, value in (means | ahead).items()}
            found.append(dict(name=one["asked"]["name"], mode=one["asked"]["mode"]) | percent)
    return pd.DataFrame(found).set_index("name").sort_values("dataset", ascending=False)


def as_text(rows: Sequence[Mapping]) -> str:
    """A table of rows, the dataset protocol's difference with its interval."""
    lines = [f"{'':<44}{'mode':<8}{'dataset':>8}{'per image':>11}   ahead of the first (dataset)"]
    for one in rows:
        about, found = one["asked"], one["scores"]
        difference, low, high = found["ahead"]["dataset"]
        lines.append(
            f"{about['part'] + ': ' + about['name']:<44}{about['mode']:<8}{found['dataset']:8.3f}{found['per_image']:11.3f}"
            f"   {difference:+.3f} ({low:+.3f} to {high:+.3f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.ablations", description="What every choice is worth, on the scenes' val split."
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--part", choices=["recipes", *CHOICES, "modes"], help="this part alone")
    asked = parser.parse_args()
    dataset = open_dataset("scenes")
    wanted = [one for i, one in enumerate(recipes()) if i == 0 or asked.part in (None, one[0])]
    with threads_of(1):
        found = measured(wanted, dataset, load_models("mini", "cpu"), min(asked.images, len(dataset)), KEPT)
    print(as_text(found))
