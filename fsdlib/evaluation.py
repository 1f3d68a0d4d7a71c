"""A recipe on a dataset: one file an image, written once and whole, and a summary with both protocols.

A run that was stopped goes on where it was; its folder belongs to one configuration and refuses another.
"""

import hashlib
import importlib.metadata
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from fsdlib import caption as captioning
from fsdlib import clusters, features, pipeline, refinement, scores, words
from fsdlib import names as naming
from fsdlib.datasets import Dataset
from fsdlib.models import Models
from fsdlib.project import write_atomically
from fsdlib.recipe import Recipe


@dataclass(frozen=True)
class Evaluation:
    """What a run found. table: one row an image; counts: one confusion count an image; summary: as in summary.json."""

    folder: Path
    table: pd.DataFrame
    counts: list[np.ndarray]
    summary: dict

    def prediction(self, image_id: str) -> np.ndarray:
        """The stored label map of one image, (H, W) uint8."""
        return np.asarray(Image.open(self.folder / "labels" / f"{image_id}.png"))


def configuration(dataset: Dataset, models: Models, recipe: Recipe, seed: int = 0) -> dict:
    """All that a run's results depend on, the stages' own source included, and the hash of it."""
    content = dict(
        dataset=dataset.name, split=dataset.split, files=dataset.fingerprint, models=models.name, identity=models.identity, recipe=recipe.model_dump(mode="json"), seed=seed,
        vocabulary_mode=recipe.vocabulary_mode, code=_code(),
    )  # fmt: skip
    return content | dict(hash=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def evaluate(
    dataset: Dataset, models: Models, recipe: Recipe, folder: Path | str, limit: int | None = None, seed: int = 0, batch_size: int = 4,
    replace: bool = False,
) -> Evaluation:
    """Segment the dataset's first `limit` images (all by default) and score them; results are kept under `folder`.

    Raises ValueError where the folder holds results of another configuration, unless `replace` says to delete those,
    and for an open vocabulary, whose free names have no class to be scored against.
    """
    if recipe.vocabulary_mode == "open":
        raise ValueError(f"recipe {recipe.name!r} gives free names, which the classes of {dataset.name!r} cannot score: use vocabulary_mode='closed'")
    folder, settings = Path(folder), configuration(dataset, models, recipe, seed)
    digest = settings["hash"]
    stamp = folder / "run.json"
    if stamp.exists() and json.loads(stamp.read_text())["hash"] != digest:
        if replace:
            for name in ("images", "labels"):
                shutil.rmtree(folder / name, ignore_errors=True)
        else:
            raise ValueError(f"{folder} holds results of another configuration: choose another output folder, or replace them with replace=True")
    write_atomically(stamp, json.dumps(settings, indent=1))

    wanted = range(len(dataset) if limit is None else min(limit, len(dataset)))
    missing = {i for i in wanted if not (folder / "images" / f"{dataset.ids[i]}.json").exists()}
    began = time.monotonic()
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc=f"{dataset.name} {recipe.name}", unit="image") as bar:
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            if missing.isdisjoint(batch):
                continue
            # the whole batch again, though only part of it may be missing: rounding depends on who is in a batch
            results = pipeline.segment_batch([dataset.image(i) for i in batch], models, recipe, dataset.vocabulary, seed)
            for i, result in zip(batch, results, strict=True):
                if i in missing:
                    _write(folder, dataset, i, result, digest)
                    bar.update()
    if missing:
        write_atomically(folder / "timing.json", json.dumps(dict(images=len(missing), seconds=round(time.monotonic() - began, 2))))
    return _gather(folder, dataset, wanted, settings)


def _code() -> str:
    """A hash over the stages' source, so that results of an older version are not taken for this one's."""
    modules = (words, captioning, features, clusters, naming, refinement, pipeline, scores)
    return hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest()


def _write(folder: Path, dataset: Dataset, index: int, result, digest: str) -> None:
    truth = dataset.labels(index)
    counts = scores.confusion(result.labels, truth, len(dataset.vocabulary))
    cells = np.argwhere(counts)
    image_id = dataset.ids[index]
    result.save(folder / "labels" / image_id)
    row = dict(
        id=image_id, run=digest, caption=result.caption,
        present=[dataset.vocabulary.names[label] for label in np.unique(truth) if label not in (0, scores.VOID)],
        found=[name for name in result.found], counts=[[int(r), int(c), int(counts[r, c])] for r, c in cells],
    )  # fmt: skip
    write_atomically(folder / "images" / f"{image_id}.json", json.dumps(row))


def _gather(folder: Path, dataset: Dataset, wanted: range, settings: dict) -> Evaluation:
    classes = len(dataset.vocabulary)
    rows, counts = [], []
    for i in wanted:
        row = json.loads((folder / "images" / f"{dataset.ids[i]}.json").read_text())
        if row["run"] != settings["hash"]:
            raise ValueError(f"{folder}/images/{dataset.ids[i]}.json is of another configuration: delete it and run again")
        count = np.zeros((classes + 1, classes), np.int64)
        for truth, prediction, pixels in row["counts"]:
            count[truth, prediction] = pixels
        counts.append(count)
        rows.append(dict(id=row["id"], miou=scores.image_miou(count), present=", ".join(row["present"]), found=", ".join(row["found"]), caption=row["caption"]))
    of_classes = scores.dataset_iou(counts)
    summary = settings | dict(
        images=len(rows),
        classes=classes,
        miou=scores.miou(counts),
        iou_of_classes={name: None if np.isnan(value) else float(value) for name, value in zip(dataset.vocabulary.names, of_classes)},
        versions={name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "open_clip_torch", "scikit-learn", "numpy")},
    )
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    table = pd.DataFrame(rows)
    write_atomically(folder / "images.csv", table.to_csv(index=False))
    return Evaluation(folder, table, counts, summary)
