"""What features are worth apart from names: whose group a picture's objects best?

Features, clusterings and pictures are crossed, every cluster is given its class by the truth, and the result is scored: no
caption, no name of CLIP's and no CRF is in it. `make backbones` writes reports/backbones.json.

K is fixed, or found by the normalised cut. As many clusters as a picture has classes would be an oracle, since nobody tells
the method that number.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.segmentation import slic
from tqdm import tqdm

from fsdlib import pictures
from fsdlib.backbones import CaptionerPatches, ClipPatches, Colours, Latents, NetworkMaps, TransformerMaps
from fsdlib.clusters import Clustering, KMeans, NormalisedCut, enlarged
from fsdlib.features import Features, UNetFeatures, image_seed
from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import Dataset
from fsdlib.models import (
    BACKBONES,
    MODEL_SETS,
    UNTRAINED,
    DiffusionTransformer,
    Models,
    ModelUnavailable,
    is_transformer,
    load_models,
    untrained,
    untrained_backbone,
)
from fsdlib.project import DATA, REPORTS, write_atomically
from fsdlib.stream import threads_of

KEPT = REPORTS / "backbones.json"
ABOUT = (
    "What features are worth apart from names: clusters with their majority class. The rows of `scenes` are of the mini "
    "models and say nothing about photographs; those of the other sets are of photographs, and of no diffusion model but in "
    "`recorded`, which is two pictures."
)
CLUSTERINGS: dict[str, Clustering] = {"k-means, 4": KMeans(count=4), "k-means, 8": KMeans(count=8)}
# Takes ten times as long as a k-means: in the report it is of fewer pictures.
CUT: dict[str, Clustering] = {"normalised cut": NormalisedCut()}
SUPERPIXELS = (4, 8)
THE_PICTURE = "pixels, SLIC"  # what SLIC groups, in place of features
ON_SCENES = "scenes-mae"  # the backbone of the embedded world
# How the names of features begin whose networks were told what class a picture, or a patch of it, shows.
TOLD_CLASSES = ("CLIP's image tower", "captioner's vision tower", "efficientnet-lite0,", "vit,", "resnet50,")

# Features and the models they are read from, by name.
ByName = Mapping[str, tuple[Features, Models]]


@dataclass(frozen=True)
class Grouping:
    """One picture's clusters, scored against its truth.

    order: from what the picture is, so that sums over pictures do not depend on the order they came in. majority,
    hungarian: `fsdlib.measure.scores.areas`, (3, classes) int64, with each cluster's majority class and with one cluster a
    class. boundary_f: 0 to 1, nan where all is void. clusters: their number.
    """

    order: int
    majority: np.ndarray
    hungarian: np.ndarray
    boundary_f: float
    clusters: int


# By features, clustering and k the groupings of all pictures, None where the clustering refused one.
Found = dict[tuple[str, str, int | None], list[Grouping | None]]


def scored(clusters: np.ndarray, truth: np.ndarray, classes: int, order: int = 0) -> Grouping:
    """A picture's clusters, (h, w) integers, enlarged to its truth, (H, W) integers with 255 for void, and scored."""
    regions = enlarged(clusters, *truth.shape)
    labels = [way(regions, truth) for way in (scores.majority_labels, scores.hungarian_labels)]
    majority, hungarian = (scores.areas(scores.confusion(one, truth, classes)) for one in labels)
    return Grouping(order, majority, hungarian, scores.boundary_f(regions, truth), len(np.unique(clusters)))


def superpixels(image: np.ndarray, count: int) -> np.ndarray:
    """About so many patches of like colour and near place (SLIC, Achanta et al., 2012, scikit-image's): (H, W) integers from 0.

    They are made of pixels, not of 32 x 32 positions, so that their edges are finer than those of any features here.
    """
    return slic(image, n_segments=count, start_label=0, channel_axis=-1, enforce_connectivity=False)


def compared(
    dataset: Dataset,
    features: ByName,
    clusterings: Mapping[str, Clustering] | None = None,
    limit: int | None = None,
    counts: Sequence[int] = SUPERPIXELS,
) -> pd.DataFrame:
    """Every features with every clustering over the dataset's first pictures, and SLIC of the pictures themselves.

    features: by name, each with the models it is read from. clusterings: CLUSTERINGS by default. limit: so many pictures;
    all by default. counts: of SLIC's patches; none where empty. One row (features, clustering, k): `k`, the number of
    clusters that was asked for, missing where it is found; `images`; `clusters`, the mean number there were; from 0 to 1
    `majority`, the mIoU of the protocol `dataset` with each cluster's majority class, and `low` to `high`, its interval (see
    `fsdlib.measure.scores.bootstrap`); `hungarian`, the same with one cluster a class; `boundary_f`, the pictures' mean.
    `refused`: in how many pictures the clustering raised ValueError, as the normalised cut does beyond 256 parts; then the
    scores are missing, since the others' would be of easier pictures. The order of the pictures changes nothing. Raises
    ValueError for a dataset without truth or pictures.
    """
    clusterings = CLUSTERINGS if clusterings is None else clusterings
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if not count or not dataset.has_labels:
        raise ValueError(
            f"{dataset.name} has {count} pictures to compare on, or no truth for them: give a dataset with both"
        )
    found: Found = {}
    for index in tqdm(range(count), desc="groupings"):
        image, truth = dataset.image(index), dataset.labels(index)
        for key, clusters in _groupings(image, features, clusterings, counts):
            order, classes = image_seed(image, "order"), len(dataset.vocabulary)
            one = None if clusters is None else scored(clusters, truth, classes, order)
            found.setdefault(key, []).append(one)
    return table(found, dataset.vocabulary.background)


def _groupings(image: np.ndarray, features: ByName, clusterings: Mapping[str, Clustering], counts: Sequence[int]):
    """One picture's clusters, by features, clustering and k; None where the clustering refuses the features."""
    seed = image_seed(image, "clusters")
    for name, (way, models) in features.items():
        _, maps = way.read([image], models)
        array = way.stacked([of_place[0] for of_place in maps])
        for called, clustering in clusterings.items():
            try:
                clusters = clustering.group(array, seed)
            except ValueError:
                clusters = None
            yield (name, called, getattr(clustering, "count", None)), clusters
    for number in counts:
        yield (THE_PICTURE, f"SLIC, {number}", number), superpixels(image, number)


def table(found: Found, background: bool = True) -> pd.DataFrame:
    """One row (features, clustering, k), as `compared` describes it, from the groupings of all pictures."""
    rows = []
    for (name, clustering, k), groupings in found.items():
        ordered = sorted(filter(None, groupings), key=lambda one: one.order)
        row: dict[str, Any] = dict(features=name, clustering=clustering, k=k)
        row |= dict(images=len(groupings), refused=len(groupings) - len(ordered))
        rows.append(row)
        if row["refused"]:
            row |= dict.fromkeys(("clusters", "majority", "low", "high", "hungarian", "boundary_f"), np.nan)
            continue
        majority, hungarian = (np.stack([getattr(one, way) for one in ordered]) for way in ("majority", "hungarian"))
        low, high = scores.bootstrap(majority, {}, background)["dataset"]
        row |= dict(
            clusters=float(np.mean([one.clusters for one in ordered])),
            majority=_miou(majority, background),
            low=low,
            high=high,
            hungarian=_miou(hungarian, background),
            boundary_f=scores.mean([one.boundary_f for one in ordered]),
        )
    return pd.DataFrame(rows).astype(dict(k="Int64"))


def _miou(of_images: np.ndarray, background: bool) -> float:
    return scores.mean(scores.iou_of_areas(of_images.sum(axis=0))[0 if background else 1 :])


# --------------------------------------------------------------------------------------------- what is compared here


def crossed(
    dataset: Dataset, features: ByName, limit: int, cut: int, counts: Sequence[int] = SUPERPIXELS
) -> pd.DataFrame:
    """`compared` with k-means and SLIC over the first `limit` pictures, and with the normalised cut over the first `cut`."""
    both = compared(dataset, features, CLUSTERINGS, limit, counts), compared(dataset, features, CUT, cut, counts=())
    return pd.concat(both, ignore_index=True)


def of_scenes(models: Models) -> dict[str, tuple[Features, Models]]:
    """What is read of scenes: the mini models' features, those of their untrained twins, and what needs no model.

    Among them, where the models have it, the backbone ON_SCENES, and its twin.
    """
    queries, random = UNetFeatures(timestep=100, normalise=True), untrained(models)
    own: dict[str, tuple[Features, Models]] = {}
    if models.backbone is not None:
        twin = replace(models, backbone=untrained_backbone(ON_SCENES))
        own = {"masked autoencoder": (NetworkMaps(), models), "masked autoencoder, untrained": (NetworkMaps(), twin)}
    return {
        "UNet, queries at 16x16": (queries, models),
        "UNet, untrained": (queries, random),
        **own,
        "CLIP's image tower": (ClipPatches(), models),
        "captioner's vision tower": (CaptionerPatches(), models),
        "captioner's, untrained": (CaptionerPatches(), random),
        "latents": (Latents(), models),
    } | of_colours(models)


def of_photographs(
    backbones: Mapping[str, tuple[Models, Models | None]], layers: Sequence[int] = (-3, -2, -1)
) -> dict[str, tuple[Features, Models]]:
    """What is read of photographs: backbones at some of their layers, the same untrained, and what needs no model.

    backbones: by name, at least one, each the models with it and those with its untrained twin, or None where there is
    none. Pictures are squashed to 448 pixels a side, so that maps have some 28 positions a side at the stride of 16 which
    most networks come to; a diffusion transformer keeps its own side, and is read in the middle of its blocks.
    """
    found: dict[str, tuple[Features, Models]] = {}
    for name, both in backbones.items():
        for models, called in zip(both, (name, f"{name} untrained")):
            if models is None:
                continue
            if models.backbone is None:
                raise ValueError(f"the models of {called} have no backbone: load them with backbone={name!r}")
            places = models.backbone.places
            if isinstance(models.backbone, DiffusionTransformer):
                found[f"{called}, {places[len(places) // 2]}"] = (TransformerMaps(), models)
                continue
            for layer in layers:
                found[f"{called}, {places[layer]}"] = (NetworkMaps(layer=layer, side=448), models)
    return found | of_colours(next(iter(backbones.values()))[0])


def of_unets(sets: Mapping[str, Models]) -> dict[str, tuple[Features, Models]]:
    """The UNets of model sets, by name, and the same UNets untrained, read as the mini models' is on scenes."""
    queries = UNetFeatures(timestep=100, normalise=True)
    both = {name: (models, untrained(models)) for name, models in sets.items()}
    return {
        f"{name}, UNet{kind}, queries at 16x16": (queries, models)
        for name, pair in both.items()
        for kind, models in zip(("", " untrained"), pair)
    }


def of_colours(models: Models) -> dict[str, tuple[Features, Models]]:
    """What needs no model: mean colours, without and with the position."""
    return {"colours": (Colours(), models), "colours and position": (Colours(position=1.0), models)}


def of_recorded(folder: Path | str, features: ByName) -> tuple[list[str], pd.DataFrame]:
    """The clusters that the method's authors recorded with the real Stable Diffusion 1.4, where their pictures' truth is at hand.

    folder: with ID.jpg and ID_truth.png, VOC's labels. The other features with k-means, 4, on the same pictures, stand
    beside. Returns which pictures these were (two, of the five that were recorded), and the table.
    """
    recorded = json.loads((DATA / "released.json").read_text())["pictures"]
    known = [one for one in recorded if (Path(folder) / f"{one}_truth.png").is_file()]
    found: Found = {}
    for one in known:
        image = pictures.read(Path(folder) / f"{one}.jpg", as_stored=True)
        truth, order = np.asarray(Image.open(Path(folder) / f"{one}_truth.png")), image_seed(image, "order")
        clusters = np.array([list(map(int, row)) for row in recorded[one]["clusters"]], np.uint8)
        theirs = (("Stable Diffusion 1.4, recorded", "k-means, 4", 4), clusters)
        for key, clusters in (theirs, *_groupings(image, features, {"k-means, 4": KMeans(count=4)}, (4,))):
            found.setdefault(key, []).append(scored(clusters, truth, 21, order))
    return known, table(found)


def as_rows(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows ready for JSON, numbers from 0 to 1 with four digits, null where there is none."""
    rows = measured.astype(object).where(measured.notna(), None).to_dict("records")
    return [{key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows]


def joined(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """The report's rows with those of some features measured anew: in the features' order, where K is found last.

    >>> joined([dict(features="b", k=4), dict(features="a", k=4)], [dict(features="b", k=8)], ["a", "b"])
    [{'features': 'a', 'k': 4}, {'features': 'b', 'k': 8}]
    """
    anew = {row["features"] for row in new}
    rows = [row for row in old if row["features"] not in anew] + list(new)
    return sorted(rows, key=lambda row: (row["k"] is None, order.index(row["features"])))


def measured(path: Path | str = KEPT) -> dict[str, dict]:
    """What is in the report, by set of pictures: `images`, and the `table` as `compared` returns it."""
    content = json.loads(Path(path).read_text())
    return {
        name: one | dict(table=pd.DataFrame(one["rows"]).astype(dict(k="Int64")))
        for name, one in content.items()
        if isinstance(one, dict)
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.groupings", description="What features are worth apart from names."
    )
    parser.add_argument("--scenes", type=int, default=200, help="scenes of the val split; 0 leaves them as they were")
    parser.add_argument("--voc", type=Path, help="Pascal VOC 2012, for photographs")
    parser.add_argument("--coco", type=Path, help="COCO 2017, for photographs")
    parser.add_argument(
        "--recorded", type=Path, help="a folder with the pictures of data/released.json and their truth"
    )
    parser.add_argument("--images", type=int, default=128, help="photographs of each dataset, at most")
    parser.add_argument(
        "--cut", type=int, default=40, help="scenes for the normalised cut, and half as many photographs, at most"
    )
    parser.add_argument("--only", nargs="+", help="features of scenes that are measured anew; the other rows stay")
    parser.add_argument("--backbones", nargs="+", default=["efficientnet-lite0"], choices=BACKBONES)
    parser.add_argument(
        "--models", nargs="+", default=[], choices=MODEL_SETS, help="model sets whose UNets see photographs too"
    )
    asked = parser.parse_args()

    def keep(name: str, images: int | list[str], identity: dict, rows: pd.DataFrame, order: Sequence[str] = ()) -> None:
        print(f"{name}: {images} pictures\n{rows.round(3).to_string(index=False)}")
        told = rows.assign(told_classes=[one.startswith(TOLD_CLASSES) for one in rows.features])
        # read only now, since another process may have measured other rows meanwhile
        content: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
        content["about"] = ABOUT
        old = content[name]["rows"] if order else []
        content[name] = dict(images=images, models=identity, rows=joined(old, as_rows(told), order or [*rows.features]))
        write_atomically(KEPT, json.dumps(content, indent=1) + "\n")

    with threads_of(1):
        if asked.scenes:
            scenes, mini = open_dataset("scenes"), load_models("mini", "cpu", backbone=ON_SCENES)
            every = of_scenes(mini)
            wanted = {name: every[name] for name in every if not asked.only or name in asked.only}
            if asked.only and len(wanted) < len(asked.only):
                raise SystemExit(f"error: --only takes {', '.join(map(repr, every))}")
            counts, order = ((), [*every, THE_PICTURE]) if asked.only else (SUPERPIXELS, [])
            rows = crossed(scenes, wanted, asked.scenes, asked.cut, counts)
            keep("scenes", min(asked.scenes, len(scenes)), mini.identity, rows, order)
        roots = {name: root for name, root in (("voc12", asked.voc), ("coco_object", asked.coco)) if root}
        if roots or asked.recorded:
            try:
                pairs: dict[str, tuple[Models, Models | None]] = {}
                for name in asked.backbones:
                    trained = load_models("mini", "cpu", backbone=name)
                    twin = None if is_transformer(name) else load_models("mini", "cpu", backbone=name + UNTRAINED)
                    pairs[name] = trained, twin
                sets = {name: load_models(name) for name in asked.models}
            except ModelUnavailable as error:
                raise SystemExit(f"error: {error}") from error
            read = of_photographs(pairs) | of_unets(sets)
            used = {name: models.identity["backbone"] for name, (models, _) in pairs.items()}
            used |= {name: models.identity["diffusion"] for name, models in sets.items()}
        for name, root in roots.items():
            dataset = open_dataset(name, root)
            keep(name, min(asked.images, len(dataset)), used, crossed(dataset, read, asked.images, asked.cut // 2))
        if asked.recorded:
            known, rows = of_recorded(asked.recorded, read)
            keep("recorded", known, used, rows)
