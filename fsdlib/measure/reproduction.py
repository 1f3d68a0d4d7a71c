"""The certificate of a reproduction: a ladder from the machine to the published figure, which says where a rung breaks.

`make reproduce MODELS=sd14 VOC=... COCO=...` climbs it and writes reports/reproduction.md and .json anew after every rung.

1. preflight: the machine, its arithmetic, the hub, every tensor of the weights, every file of the datasets
2. class vectors: the diffusion model's text encoder against recorded vectors
3. captions: against the recorded ones
4. clusters: the diffusion model's features against recorded cluster maps
5. label maps: all stages, under the recorded captions, against recorded label maps
6. sample: the first images of the first dataset, and what the rest will take
7. a dataset as a whole, beside the published figure

What is held to what is data (`SUBJECTS`). For sd14 the record is what the method's authors recorded with the real models
(data/released.json); for the mini models it is what an earlier version of themselves gave (`--record`).

A rung that passed with the same models, code, record and pictures is not climbed again, but for the first, which looks
at the machine at hand; evaluations go on where they were.
"""

import argparse
import dataclasses
import datetime
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import sklearn.cluster
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import cohen_kappa_score
from tqdm import tqdm

from fsdlib.choice import Several
from fsdlib.clusters import Clustering
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import Dataset, IncompleteDataset
from fsdlib.measure.run import EvaluationFailed, evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.measure.summary import Evaluation
from fsdlib.models import (
    REHEARSAL,
    Diffusion,
    Models,
    ModelSet,
    ModelUnavailable,
    Source,
    default_device,
    default_dtype,
    sources,
)
from fsdlib.pipeline import Perception, Result, as_array, perceive, segment_perceived
from fsdlib.project import DATA, REPORTS, write_atomically
from fsdlib.recipe import PAPER, Recipe
from fsdlib.vocabulary import Vocabulary
from fsdlib.words import open_names, words

# The thresholds lie between what random weights reach and what the real ones do. Of the latter two things are known: the
# record, and that the authors, who seeded nothing, ran four of its pictures again.

# The text encoder is not random at all: vectors of the same strings differ in the last digits of float16. Those of
# neighbouring readings (a position more or less) have a cosine of 0.92, those of random weights about 0. One string in
# ten may be another than the authors' (that of "person" surely is).
COSINE, SHARE_OF_VECTORS = 0.95, 0.9
# A caption with fewer different words names nothing, or one thing again and again, as a broken captioner does.
DIFFERENT_WORDS = 3
# Two of the authors' runs agree in 0.74, 1.00, 0.76 and 0.66 of the cells of those pictures, in the mean 0.79. K-means on
# colours and places, which needs no model, agrees with the record in 0.52 of them, random weights of sd14's shapes in
# 0.49. The former is measured beside, and must be beaten by so much.
ABOVE_COLOURS = 0.1
# float16 rounds to 0.0005, and sums of a few dozen such numbers keep well below this.
ROUNDING = 0.02
# Cohen's kappa, agreement beyond what the names' shares of the picture give by chance, from the recorded captions and
# clusters, so that nothing in it is drawn: 1 but for names that CLIP all but ties ("bird" and "small bird"), which cost
# about 0.2 where all of those fall the other way. Of sixteen CLIPs with random weights the best had 0.35, the mean 0.09.
KAPPA = 0.6

GIB = 2**30


# --------------------------------------------------------------------------------------------- what is certified


@dataclass(frozen=True)
class Goal:
    """A dataset, and the column of data/published.csv that holds FreeSeg-Diff's figure on it, if there is one."""

    dataset: str
    published: str | None = None


@dataclass(frozen=True)
class Subject:
    """What a model set is held to.

    record: the stem of a JSON file with captions, cluster and label maps of a few pictures and of a safetensors file with
    class vectors. goals: the datasets; the recorded pictures are among the JPEGImages of the first. disk, memory: GiB that
    its files and a run need.
    """

    record: Path
    goals: tuple[Goal, ...]
    disk: float
    memory: float


SUBJECTS = {
    "mini": Subject(DATA / "recorded" / "mini", (Goal("scenes"),), disk=0.1, memory=1),
    "sd14": Subject(
        DATA / "released", (Goal("voc12", "voc21"), Goal("coco_object", "coco_object")), disk=6.5, memory=7
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What a rung came to: whether it holds (None where there is nothing to hold it to), in a sentence, and its numbers."""

    holds: bool | None
    sentence: str
    numbers: dict = field(default_factory=dict)


@dataclass
class Climb:
    """All that the rungs share: models, record, datasets, and what was found in the recorded pictures. Made when asked for.

    roots: of the datasets, by name. runs: the folder of the evaluations' folders. sample: images of the first one.
    """

    models: ModelSet
    subject: Subject
    roots: Mapping[str, Path | None]
    runs: Path = REPORTS / "runs"
    sample: int = 100
    recipe: Recipe = PAPER
    seed: int = 0

    @property
    def device(self) -> str:
        return self.models.device or default_device()

    @property
    def dtype(self) -> torch.dtype:
        return self.models.dtype or default_dtype(self.device)

    @property
    def sources(self) -> dict[str, Source]:
        return sources(self.models.name, self.models.captioner, self.models.clip)

    @cached_property
    def loaded(self) -> Models:
        return self.models.load()

    @cached_property
    def record(self) -> dict:
        return json.loads(self.subject.record.with_suffix(".json").read_text())

    @cached_property
    def recorded_vectors(self) -> dict[str, np.ndarray]:
        return load_file(self.subject.record.with_suffix(".safetensors"))

    @cached_property
    def datasets(self) -> dict[Goal, Dataset]:
        """The goals' datasets, as far as they are asked for. Raises FileNotFoundError where one is not there."""
        first = self.subject.goals[0]
        asked = [goal for goal in self.subject.goals if goal is first or self.roots.get(goal.dataset)]
        return {goal: open_dataset(goal.dataset, self.roots.get(goal.dataset)) for goal in asked}

    @property
    def paths(self) -> dict[str, Path]:
        """The files of the recorded pictures, by id."""
        folder = self.datasets[self.subject.goals[0]].root / "JPEGImages"
        return {image_id: folder / f"{image_id}.jpg" for image_id in self.record["pictures"]}

    @cached_property
    def perceptions(self) -> dict[str, Perception]:
        """What captioner and UNet make of each recorded picture, by id."""
        return {
            image_id: perceive([as_array(path)], self.loaded, self.recipe, self.seed)[0]
            for image_id, path in tqdm(self.paths.items(), desc="recorded pictures", unit="picture")
        }

    @cached_property
    def results(self) -> dict[str, Result]:
        """Each recorded picture segmented, by id: free names, those of the recorded caption, beside the recorded class list."""
        return segmented(self, {image_id: one["caption"] for image_id, one in self.record["pictures"].items()})

    def configuration(self) -> dict:
        """What the rungs' verdicts depend on: models, recipe, the code of the stages and of this file, the record, the machine."""
        stem = self.subject.record
        files = [stem.with_suffix(ending) for ending in (".json", ".safetensors")]
        return FreeSegDiff(self.models, self.recipe).configuration() | dict(
            record=hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest(),
            rungs=hashlib.sha256(inspect.getsource(sys.modules[__name__]).encode()).hexdigest(),
            seed=self.seed,
            machine=machine(self.device),
            versions=versions(),
        )


class Recorded(Clustering):
    """The clusters of one picture that a record holds. It has no kind, since no recipe for all pictures can ask for it."""

    rows: Several[str]

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        return cells(self.rows).astype(np.uint8)


def segmented(
    climb: Climb, captions: Mapping[str, str], clusters: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Result]:
    """The recorded pictures segmented with free names, those of the given captions, by id; with the given clusters, if any."""
    beside, found = Vocabulary.of(climb.record["classes"]), {}
    for image_id, caption in captions.items():
        changes = {"vocabulary": "open"} | ({"clusters": Recorded(rows=tuple(clusters[image_id]))} if clusters else {})
        recipe = climb.recipe.with_changes(changes, name="open")
        perception = dataclasses.replace(climb.perceptions[image_id], caption=caption)
        image = as_array(climb.paths[image_id])
        found[image_id] = segment_perceived(image, perception, climb.loaded, recipe, beside, climb.seed)
    return found


def machine(device: str) -> dict:
    """The machine at hand: the processor's kind, its cores, main memory, and the GPU if it is the device."""
    about: dict = dict(system=platform.platform(), processor=platform.machine(), cores=os.cpu_count(), device=device)
    if torch.device(device).type == "cuda":
        about |= dict(gpu=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
    return about


def versions() -> dict[str, str]:
    """Of Python and of the libraries that the numbers depend on."""
    names = ("torch", "diffusers", "transformers", "open_clip_torch", "spacy", "scikit-learn", "numpy", "pillow")
    return dict(python=platform.python_version()) | {name: importlib.metadata.version(name) for name in names}


# --------------------------------------------------------------------------------------------- the rungs


class Rung:
    """One thing that must hold before the next is worth its time."""

    name: str
    always = False  # climbed again though it held before

    def settings(self, climb: Climb) -> dict:
        """What its verdict depends on besides the climb's configuration."""
        return {}

    def run(self, climb: Climb) -> Verdict:
        """Its verdict; what it raises is a verdict too."""
        raise NotImplementedError


class Preflight(Rung):
    """The machine, its arithmetic, the files of models and datasets. Weights come from the hub here, if they must."""

    name = "preflight"
    always = True

    def run(self, climb: Climb) -> Verdict:
        numbers: dict = dict(machine=machine(climb.device), dtype=str(climb.dtype).removeprefix("torch."))
        faults: list[str] = []
        for look in (self._space, self._arithmetic, self._datasets, self._files, self._weights):
            if not faults:  # from what costs nothing to what may fetch gigabytes
                found, said = look(climb)
                faults += found
                numbers |= said
        if faults:
            return Verdict(False, "; ".join(faults), numbers)
        rehearsed = "; THE CACHE IS A REHEARSAL OF RANDOM NUMBERS, so the rungs above must break"
        return Verdict(
            True,
            f"{numbers['tensors']} tensors are whole and finite, {numbers['dtype']} works on {numbers['machine'].get('gpu', climb.device)}, "
            f"weights from {' and '.join(sorted(set(numbers['found'].values())))}, every file of {', '.join(numbers['images'])} is there"
            + (rehearsed if numbers["rehearsal"] else ""),
            numbers,
        )

    def _space(self, climb: Climb) -> tuple[list[str], dict]:
        cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
        cached = not any(map(_lacking, climb.sources.values()))
        disk = shutil.disk_usage(existing).free / GIB
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB if hasattr(os, "sysconf") else None
        said = dict(free_disk_gib=round(disk, 1), memory_gib=None if memory is None else round(memory, 1))
        faults, subject = [], climb.subject
        if not cached and disk < subject.disk:
            faults.append(
                f"{existing} has {disk:.1f} GiB free and the weights take {subject.disk}: set HF_HOME elsewhere"
            )
        if torch.device(climb.device).type == "cuda":
            free, total = torch.cuda.mem_get_info(climb.device)
            said |= dict(gpu_memory_gib=round(total / GIB, 1), free_gpu_memory_gib=round(free / GIB, 1))
        elif memory is not None and memory < subject.memory:
            faults.append(
                f"there are {memory:.1f} GiB of memory and a run takes {subject.memory}: take a larger machine"
            )
        return faults, said

    def _arithmetic(self, climb: Climb) -> tuple[list[str], dict]:
        error = arithmetic_error(climb.device, climb.dtype)
        if error < ROUNDING:
            return [], dict(arithmetic_error=float(f"{error:.2g}"))
        return [f"{climb.dtype} on {climb.device} is off by {error:.3g} of the largest number: mend the driver"], {}

    def _files(self, climb: Climb) -> tuple[list[str], dict]:
        """Finds the weights, or fetches them; reads the header of each file, which says how long it must be."""
        found, faults, cache = {}, [], Path(huggingface_hub.constants.HF_HUB_CACHE)
        for part, source in climb.sources.items():
            lacking = _lacking(source)
            found[part] = "this project" if source.folder else "the hub" if lacking else "the cache"
            if lacking:
                tqdm.write(
                    f"  {source.repository}: {len(lacking)} of {len(source.files)} files are not in {cache}, asking the hub"
                )
        for part, folder in climb.models.folders.items():
            for path in (folder / name for name in climb.sources[part].files if name.endswith(".safetensors")):
                try:
                    with safe_open(path, "np") as file:
                        file.keys()
                except SafetensorError as error:
                    faults.append(f"{path} is damaged ({error}): delete it and fetch it again")
        return faults, dict(
            found=found,
            cache=str(cache),
            offline=bool(huggingface_hub.constants.HF_HUB_OFFLINE),
            rehearsal=(cache / REHEARSAL).is_file() and "the cache" in found.values(),
        )

    def _weights(self, climb: Climb) -> tuple[list[str], dict]:
        """Loading refuses a tensor that is missing or has another shape; here each must also be finite, in the run's precision."""
        numbers, faults = 0, []
        for part, model in _modules(climb.loaded):
            for name, tensor in model.state_dict().items():
                numbers += 1
                if not torch.isfinite(tensor).all():
                    faults.append(
                        f"{name} of the {part} holds numbers that are not finite: delete its file and fetch it again"
                    )
        return faults[:3], dict(tensors=numbers)

    def _datasets(self, climb: Climb) -> tuple[list[str], dict]:
        faults = [
            f"the recorded picture {path} is missing: unpack the whole archive"
            for path in climb.paths.values()
            if not path.is_file()
        ]
        for dataset in climb.datasets.values():
            dataset.check()
        return faults, dict(images={dataset.name: len(dataset) for dataset in climb.datasets.values()})


def arithmetic_error(device: str, dtype: torch.dtype) -> float:
    """How far a matrix product, a convolution and attention are off in a precision on a device, as a share of the largest number.

    They are held to float64 on the CPU; nan or inf where a number is not finite.
    """
    drawn = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def computed(numbers: torch.Tensor) -> list[torch.Tensor]:
        kernel = numbers[:, None, :3, :3]
        attended = torch.nn.functional.scaled_dot_product_attention(numbers, numbers, numbers)
        return [numbers @ numbers, torch.nn.functional.conv2d(numbers[:, None], kernel, padding=1), attended]

    ours = [one.double().cpu() for one in computed(drawn.to(device, dtype))]
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, computed(drawn))]
    return float(np.max(errors))  # which hands on a nan, as max does not


def _lacking(source: Source) -> list[str]:
    """The files of a source that are not in the hub's cache."""
    if source.folder is not None:
        return []
    return [
        name
        for name in source.files
        if not isinstance(
            huggingface_hub.try_to_load_from_cache(source.repository, name, revision=source.revision), str
        )
    ]


def _modules(models: Models) -> Iterator[tuple[str, torch.nn.Module]]:
    yield "captioner", models.captioner.model
    yield "UNet", models.diffusion.unet
    yield "latent encoder", models.diffusion.encoder
    for encoder in models.diffusion.text_encoders:
        yield "text encoder", encoder
    yield "CLIP", models.clip.model


class ClassVectors(Rung):
    """The diffusion model's text encoder gives the recorded class vectors."""

    name = "class vectors"

    def run(self, climb: Climb) -> Verdict:
        cosines: dict[str, dict[str, float]] = {}
        for group, names in climb.record["class_vectors"].items():
            ours, theirs = (
                class_vectors(names, climb.loaded.diffusion),
                climb.recorded_vectors[group].astype(np.float32),
            )
            if ours.shape != theirs.shape:
                return Verdict(
                    False,
                    f"our class vectors are {ours.shape} and the recorded {theirs.shape}: this is another text encoder",
                )
            lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
            cosines[group] = dict(zip(names, np.round((ours * theirs).sum(axis=1) / lengths, 4).tolist()))
        values = np.array([value for of_group in cosines.values() for value in of_group.values()])
        median, share = float(np.median(values)), float((values >= COSINE).mean())
        low = [
            f"{name} {value:.2f}" for of_group in cosines.values() for name, value in of_group.items() if value < COSINE
        ]
        return Verdict(
            median >= COSINE and share >= SHARE_OF_VECTORS,
            f"median cosine {median:.4f}, {share:.0%} of {len(values)} at {COSINE} or above (asked: {SHARE_OF_VECTORS:.0%})"
            + (f"; below it {', '.join(low[:4])}{', ...' if len(low) > 4 else ''}" if low else ""),
            dict(median=round(median, 4), share=round(share, 4), cosines=cosines),
        )


def class_vectors(names: Sequence[str], diffusion: Diffusion) -> np.ndarray:
    """The vectors that the authors stored for class names: (len(names), D) float32.

    A name's parts between spaces are each put into "A photo of ", encoded and averaged; then the mean is taken over
    positions 1 to n, where n is one more than the whole name has tokens. That may have been meant for the name's own
    tokens, which begin at position 4: one-token names all have the same vector.
    """
    found = []
    for name in names:
        states = diffusion.encode_text([f"A photo of {part}" for part in name.split()]).mean(axis=0)
        found.append(states[1 : len(diffusion.tokenizers[0](name).input_ids)].mean(axis=0))
    return np.stack(found)


class _OfPictures(Rung):
    """A rung whose verdict is on the recorded pictures."""

    def settings(self, climb: Climb) -> dict:
        return dict(pictures={image_id: path.stat().st_size for image_id, path in climb.paths.items()})


class Captions(_OfPictures):
    """The captioner says something. What the authors' said is set beside it, since theirs was finetuned otherwise."""

    name = "captions"

    def run(self, climb: Climb) -> Verdict:
        rows, empty, shared, asked = {}, [], 0, 0
        for image_id, recorded in climb.record["pictures"].items():
            caption = climb.perceptions[image_id].caption
            ours, theirs = set(open_names(words(caption))), set(recorded["words"])
            rows[image_id] = dict(caption=caption, recorded=recorded["caption"])
            shared, asked = shared + len(ours & theirs), asked + len(theirs)
            if len(set(caption.split())) < DIFFERENT_WORDS:
                empty.append(f"{image_id}: {caption!r}")
        same = sum(row["caption"] == row["recorded"] for row in rows.values())
        if empty:
            return Verdict(
                False,
                f"captions with fewer than {DIFFERENT_WORDS} different words: {', '.join(empty)}",
                dict(pictures=rows),
            )
        return Verdict(
            True,
            f"{same} of {len(rows)} captions are the recorded ones, {shared} of {asked} recorded names are in ours (differences do not count)",
            dict(same=same, shared=shared, recorded=asked, pictures=rows),
        )


class Clusters(_OfPictures):
    """K-means on the diffusion model's features gives the recorded clusters, well above k-means on colours and places."""

    name = "clusters"

    def run(self, climb: Climb) -> Verdict:
        rows = {}
        for image_id, path in climb.paths.items():
            recorded = cells(climb.record["pictures"][image_id]["clusters"]).astype(int)
            count = int(recorded.max()) + 1
            positions = colours_and_places(as_array(path), recorded.shape)
            without = sklearn.cluster.KMeans(count, n_init=10, random_state=climb.seed).fit_predict(positions)
            rows[image_id] = dict(
                agreement=round(agreement(climb.results[image_id].clusters, recorded), 4),
                colours=round(agreement(without.reshape(recorded.shape), recorded), 4),
            )
        ours, theirs = (float(np.mean([row[key] for row in rows.values()])) for key in ("agreement", "colours"))
        return Verdict(
            ours >= theirs + ABOVE_COLOURS,
            f"{ours:.3f} of the cells agree under the best matching of numbers (asked: {theirs + ABOVE_COLOURS:.3f}, which is {ABOVE_COLOURS} "
            "above k-means on colours and places)",
            dict(agreement=round(ours, 4), colours=round(theirs, 4), pictures=rows),
        )


def cells(rows: Sequence[str]) -> np.ndarray:
    """A recorded map, one string a row, as characters: (h, w)."""
    return np.array([list(row) for row in rows])


def agreement(clusters: np.ndarray, others: np.ndarray) -> float:
    """The share of cells that agree under the one-to-one matching of numbers that is best for it, 0 to 1. Both (h, w) integers."""
    if clusters.shape != others.shape:
        raise ValueError(f"the clusters are {clusters.shape} and the recorded {others.shape}: this is another grid")
    common = np.zeros((int(clusters.max()) + 1, int(others.max()) + 1), int)
    np.add.at(common, (clusters.ravel(), others.ravel()), 1)
    return float(common[linear_sum_assignment(common, maximize=True)].sum() / clusters.size)


def colours_and_places(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What a picture's cells are without any model: red, green, blue, and half of row and column, all 0 to 1; (h * w, 5)."""
    height, width = shape
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), float) / 255
    places = np.stack(np.meshgrid(np.linspace(0, 0.5, height), np.linspace(0, 0.5, width), indexing="ij"), axis=-1)
    return np.concatenate([small, places], axis=-1).reshape(-1, 5)


class LabelMaps(_OfPictures):
    """CLIP, assignment and refinement give the recorded label maps from the recorded captions and clusters.

    Neither captioner nor UNet can spoil this or make up for it. What comes out with our own clusters stands beside: in that
    the authors' own runs differ much.
    """

    name = "label maps"

    def run(self, climb: Climb) -> Verdict:
        pictures = {image_id: one for image_id, one in climb.record["pictures"].items() if "labels" in one}
        if not pictures:
            return Verdict(None, "no label maps are recorded")
        captions = {image_id: one["caption"] for image_id, one in pictures.items()}
        given = segmented(climb, captions, {image_id: one["clusters"] for image_id, one in pictures.items()})
        rows = {}
        for image_id, recorded in pictures.items():
            ours, theirs = named_alike(given[image_id], recorded)
            own, _ = named_alike(climb.results[image_id], recorded)
            rows[image_id] = dict(
                equal=share_of(ours == theirs),
                kappa=round(kappa(ours, theirs), 4),
                equal_with_our_clusters=share_of(own == theirs),
            )
        equal, beyond, own_share = (
            float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))
        )
        return Verdict(
            beyond >= KAPPA,
            f"{equal:.3f} of the cells have the recorded name, with our own clusters {own_share:.3f}; beyond chance kappa is {beyond:.3f} "
            f"(asked: {KAPPA})",
            dict(
                equal=round(equal, 4),
                kappa=round(beyond, 4),
                equal_with_our_clusters=round(own_share, 4),
                pictures=rows,
            ),
        )


def named_alike(result: Result, recorded: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """The names in a label map and in a recorded one, cell by cell, where the latter is known: two (N,) of str."""
    grid = cells(recorded["labels"])
    names = {"-": "background"} | recorded["named"]
    known = grid != "?"
    return at_cells(result, grid.shape)[known], np.array([names[cell] for cell in grid[known]])


def share_of(equal: np.ndarray) -> float:
    """The share that is true, rounded for the report."""
    return round(float(equal.mean()), 4)


def at_cells(result: Result, shape: tuple[int, ...]) -> np.ndarray:
    """The name painted at the middle of each cell of a grid laid over the label map: (h, w) of str."""
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(int) for count, side in zip(shape, result.labels.shape)
    )
    return np.array(result.names)[result.labels[np.ix_(rows, columns)]]


def kappa(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Cohen's kappa of two lists of names (Educational and Psychological Measurement, 1960); 1 where all are one and the same."""
    return 1.0 if (ours == theirs).all() else float(cohen_kappa_score(ours, theirs))


@dataclass(frozen=True)
class Sample(Rung):
    """The first images of a dataset: both protocols, and what the rest will take."""

    goal: Goal
    name = "sample"

    def settings(self, climb: Climb) -> dict:
        return dict(files=climb.datasets[self.goal].fingerprint, limit=climb.sample)

    def run(self, climb: Climb) -> Verdict:
        run, dataset = evaluated(climb, self.goal, climb.sample), climb.datasets[self.goal]
        timing = json.loads((run.folder / "timing.json").read_text())
        rest = max(0, len(dataset) - climb.sample)
        hours = rest * sum(timing["seconds_an_image"].values()) / 3600
        gib = {key: round(timing[key] / 1024, 1) for key in ("memory_mib", "gpu_memory_mib") if key in timing}
        said = " and ".join(
            f"{value} GiB{' of the GPU' if key.startswith('gpu') else ''}" for key, value in gib.items()
        )
        empty, ours = run.summary["empty"], run.summary["miou"]
        return Verdict(
            ours["per_image"] > empty["per_image"],
            f"{scored(run)} over {run.summary['images']} images (an empty label map: {_percent(empty)}); the other {rest} of {len(dataset)} take "
            f"about {hours:.1f} h and {said}",
            dict(
                miou=ours,
                intervals=run.summary["intervals"],
                empty=empty,
                images=run.summary["images"],
                hours_for_the_rest=round(hours, 2),
                **gib,
            ),
        )


@dataclass(frozen=True)
class Whole(Rung):
    """A dataset as a whole, beside the published figure."""

    goal: Goal

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"the whole of {self.goal.dataset}"

    def settings(self, climb: Climb) -> dict:
        return dict(files=climb.datasets[self.goal].fingerprint)

    def run(self, climb: Climb) -> Verdict:
        run, dataset = evaluated(climb, self.goal), climb.datasets[self.goal]
        numbers = {key: run.summary[key] for key in ("miou", "intervals", "empty", "images")}
        numbers |= dict(run=run.folder.name, run_hash=run.summary["hash"])
        said = f"{scored(run)} over {run.summary['images']} images"
        if self.goal.published is None:
            return Verdict(
                None, f"{said}; no figure is published on {dataset.name}, so there is none to compare with", numbers
            )
        protocol, figure = published(self.goal.published)
        if not run.summary["complete"]:
            return Verdict(
                None, f"{said} of {dataset.expected}, so the published {figure} is no figure to compare with", numbers
            )
        holds, sentence = beside(
            figure, 100 * run.summary["miou"][protocol], [100 * x for x in run.summary["intervals"][protocol]]
        )
        return Verdict(
            holds, f"{said}; {sentence} (protocol {protocol})", numbers | dict(published=figure, protocol=protocol)
        )


def evaluated(climb: Climb, goal: Goal, limit: int | None = None) -> Evaluation:
    """The run over a goal's first images, in the folder that `make eval` gives it; goes on where it was."""
    folder = climb.runs / f"{goal.dataset}-{climb.models.name}-{climb.recipe.name}"
    return evaluate(climb.datasets[goal], FreeSegDiff(climb.loaded, climb.recipe), folder, limit, climb.seed)


def scored(run: Evaluation) -> str:
    """Both protocols with their intervals, in percent."""
    summary = run.summary
    return ", ".join(
        f"{protocol} {100 * summary['miou'][protocol]:.1f} [{', '.join(f'{100 * x:.1f}' for x in summary['intervals'][protocol])}]"
        for protocol in ("per_image", "dataset")
    )


def _percent(of_protocols: Mapping[str, float]) -> str:
    return ", ".join(f"{protocol} {100 * of_protocols[protocol]:.1f}" for protocol in ("per_image", "dataset"))


def published(column: str) -> tuple[str, float]:
    """FreeSeg-Diff's figure on a benchmark in data/published.csv, in percent, and the protocol it is of."""
    row = pd.read_csv(DATA / "published.csv").set_index("system").loc["FreeSeg-Diff"]
    return row.protocol, float(row[column])


def beside(figure: float, ours: float, interval: Sequence[float]) -> tuple[bool, str]:
    """Whether a published figure is reached, and the one sentence that may be said; all in percent."""
    low, high = interval
    if low <= figure <= high:
        return True, f"the published {figure} is within the interval"
    if ours > figure:
        return True, f"above the published {figure} by {ours - figure:.1f}"
    return False, f"below the published {figure} by {figure - ours:.1f}"


# --------------------------------------------------------------------------------------------- the climb


def ladder(climb: Climb) -> list[Rung]:
    """The rungs from the ground; datasets that were not asked for have none."""
    first, *others = climb.subject.goals
    asked = [first, *(goal for goal in others if climb.roots.get(goal.dataset))]
    return [Preflight(), ClassVectors(), Captions(), Clusters(), LabelMaps(), Sample(first), *map(Whole, asked)]


def reproduce(climb: Climb, out: Path = REPORTS, climb_on: bool = False, rungs: int | None = None) -> dict:
    """Climb the ladder to where a rung breaks, or all of it (`climb_on`), or its first `rungs`.

    Writes `out`/reproduction.md and .json after every rung; what they hold of rungs that passed under the same
    configuration is kept. Returns what is in the latter.
    """
    path, steps = out / "reproduction.json", ladder(climb)[:rungs]
    kept = {row["name"]: row for row in json.loads(path.read_text())["rungs"]} if path.exists() else {}
    rows: list[dict] = []
    content: dict = {}
    for number, rung in enumerate(steps, 1):
        tqdm.write(f"{number} of {len(steps)}, {rung.name} ...")
        started, row, digest = time.perf_counter(), kept.get(rung.name), None
        try:
            configured = climb.configuration() | rung.settings(climb) if not rung.always else {}
            digest = hashlib.sha256(json.dumps(configured, sort_keys=True).encode()).hexdigest()
            if rung.always or row is None or row["configuration"] != digest or not row["holds"]:
                row = dataclasses.asdict(rung.run(climb))
        except (ModelUnavailable, EvaluationFailed, IncompleteDataset, FileNotFoundError) as error:  # clear sentences
            row = dataclasses.asdict(Verdict(False, str(error)))
        except Exception as error:  # whatever breaks a rung is its verdict, and where it did is for whoever mends it
            traceback.print_exc()
            row = dataclasses.asdict(Verdict(False, f"{type(error).__name__}: {error}"))
        if "name" not in row:
            row |= dict(name=rung.name, configuration=digest, seconds=round(time.perf_counter() - started, 1))
        rows.append(row)
        tqdm.write(f"  {OUTCOMES[row['holds']]}: {row['sentence']}")
        content = certificate(climb, rows, len(steps), len(ladder(climb)))
        write_atomically(path, json.dumps(content, indent=1) + "\n")
        write_atomically(out / "reproduction.md", as_markdown(content))
        if row["holds"] is False and not climb_on:
            break
    return content


OUTCOMES = {True: "holds", False: "BROKEN", None: "nothing to compare with"}


def certificate(climb: Climb, rows: Sequence[dict], asked: int, in_all: int) -> dict:
    """All that the report says, ready for JSON."""
    try:
        identity = climb.models.identity
    except Exception as error:  # the models may be what is missing
        identity = {"missing": str(error)}
    return dict(
        models=climb.models.name,
        identity=identity,
        recipe=climb.recipe.name,
        record=climb.subject.record.name,
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(climb.device),
        versions=versions(),
        verdict=verdict(rows, asked, in_all),
        rungs=list(rows),
    )


def verdict(rows: Sequence[dict], asked: int, in_all: int) -> str:
    """What the rungs come to, in a sentence."""
    broken = [row["name"] for row in rows if row["holds"] is False]
    if broken:
        return f"broken: {', '.join(broken)}"
    open_ones = [row["name"] for row in rows if row["holds"] is None]
    said = f"{len(rows) - len(open_ones)} of {in_all} rungs hold"
    said += f", nothing to compare with: {', '.join(open_ones)}" if open_ones else ""
    return said if len(rows) == asked else f"{said}, still climbing"


def as_markdown(content: dict) -> str:
    """The certificate as a page, fit for an issue."""
    c = content
    about = c["machine"] | c["versions"]
    parts = [
        f"{part}: {i['repository']} at {i.get('commit') or i.get('sha256')}"
        for part, i in c["identity"].items()
        if isinstance(i, dict)
    ]
    lines = [
        f"# Reproduction of FreeSeg-Diff with models `{c['models']}`",
        "",
        f"**{c['verdict']}** (recipe `{c['recipe']}`, record `{c['record']}`, {c['written']})",
        "",
        "| rung | | verdict | seconds |",
        "|---|---|---|---|",
        *(
            f"| {number} {row['name']} | {OUTCOMES[row['holds']]} | {_in_a_cell(row['sentence'])} | {row['seconds']} |"
            for number, row in enumerate(c["rungs"], 1)
        ),
        "",
        *(f"- {part}" for part in parts or [str(c["identity"])]),
        f"- {', '.join(f'{name} {value}' for name, value in about.items())}",
    ]
    pictures: dict[str, dict] = {}
    for row in c["rungs"]:
        for image_id, found in row["numbers"].get("pictures", {}).items():
            pictures.setdefault(image_id, {}).update(found)
    if pictures:
        columns = list(dict.fromkeys(key for found in pictures.values() for key in found))
        lines += ["", f"| picture | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
        lines += [
            f"| {image_id} | {' | '.join(_in_a_cell(str(found.get(key, ''))) for key in columns)} |"
            for image_id, found in pictures.items()
        ]
    return "\n".join([*lines, ""])


def _in_a_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


# --------------------------------------------------------------------------------------------- the record of the mini models


def record(climb: Climb, count: int = 5) -> dict:
    """Record the first `count` pictures of the first dataset, and the class vectors, as the subject's new record; returns its JSON.

    Two files are written; what `released.json` holds for the real models, they hold for these.
    """
    dataset = climb.datasets[climb.subject.goals[0]]
    names = list(dataset.vocabulary.names[1:])
    content: dict = dict(
        origin=f"Recorded by fsdlib.measure.reproduction with models {climb.models.name!r}; says nothing about photographs.",
        classes=names,
        class_vectors={dataset.name: names},
        pictures={image_id: {} for image_id in dataset.ids[:count]},
    )
    climb.record = content
    for image_id, result in segmented(climb, {i: p.caption for i, p in climb.perceptions.items()}).items():
        content["pictures"][image_id] = described(result)
    vectors = {dataset.name: class_vectors(names, climb.loaded.diffusion).astype(np.float16)}
    write_atomically(climb.subject.record.with_suffix(".safetensors"), save(vectors))
    write_atomically(climb.subject.record.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    return content


def described(result: Result) -> dict:
    """What a record says of a picture: caption, kept words, cluster map, label map in the same cells and what its digits are named."""
    digits = {result.texts[text]: str(k) for k, text in reversed(list(enumerate(result.assigned))) if text >= 0}
    painted = at_cells(result, result.clusters.shape)
    return dict(
        caption=result.caption,
        words=open_names(result.words),
        clusters=["".join(map(str, row)) for row in result.clusters],
        labels=["".join(digits.get(name, "-") for name in row) for row in painted],
        named={digit: name for name, digit in sorted(digits.items(), key=lambda pair: pair[1])},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.reproduction",
        description="Climb from the machine to the published figure; say where a rung breaks.",
    )
    parser.add_argument("--models", default="mini", choices=SUBJECTS)
    parser.add_argument("--voc", type=Path, metavar="ROOT", help="Pascal VOC 2012, whole: .../VOCdevkit/VOC2012")
    parser.add_argument("--coco", type=Path, metavar="ROOT", help="COCO 2017, for the last rung")
    parser.add_argument(
        "--scenes", type=Path, metavar="ROOT", help="the scenes, if not where `make scenes` writes them"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: the GPU where there is one")
    parser.add_argument("--sample", type=int, default=100, help="images of the sixth rung")
    parser.add_argument("--rungs", type=int, help="climb these many; default: all")
    parser.add_argument("--climb-on", action="store_true", help="do not stop where a rung breaks")
    parser.add_argument(
        "--out", type=Path, default=REPORTS, help="folder of reproduction.md, reproduction.json and runs/"
    )
    parser.add_argument(
        "--record", action="store_true", help="instead: make what the mini models give now their record"
    )
    a = parser.parse_args(arguments)
    roots = dict(voc12=a.voc, coco_object=a.coco, scenes=a.scenes)
    climb = Climb(ModelSet(a.models, a.device), SUBJECTS[a.models], roots, a.out / "runs", a.sample)
    if a.record:
        if a.models != "mini":
            parser.error("only the mini models record themselves; what the real ones are held to is their authors'")
        record(climb)
        print(f"recorded in {climb.subject.record}.json and .safetensors")
        return
    content = reproduce(climb, a.out, a.climb_on, a.rungs)
    print(f"{content['verdict']}; {a.out / 'reproduction.md'} is fit for an issue")
    if any(row["holds"] is False for row in content["rungs"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
