"""What a climb is: whom it certifies, what all its rungs share, and what a rung is."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm import tqdm

from fsdlib import pictures
from fsdlib.choice import Several
from fsdlib.clusters import Clustering
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import (
    Models,
    ModelSet,
    Source,
    default_device,
    default_dtype,
    sources,
)
from fsdlib.pipeline import Perception, Result, perceive, segment_perceived
from fsdlib.project import DATA, REPORTS
from fsdlib.recipe import PAPER, Recipe
from fsdlib.vocabulary import Vocabulary

OWN = Path(__file__).parent  # the code of the rungs


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
        path = self.subject.record.with_suffix(".safetensors")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): restore it from version control") from error

    @cached_property
    def datasets(self) -> dict[Goal, Dataset]:
        """The goals' datasets, as far as they are asked for. Raises FileNotFoundError where one is not there."""
        first = self.subject.goals[0]
        asked = [goal for goal in self.subject.goals if goal is first or self.roots.get(goal.dataset)]
        return {goal: open_dataset(goal.dataset, self.roots.get(goal.dataset)) for goal in asked}

    @property
    def paths(self) -> dict[str, Path]:
        """The files of the recorded pictures, by id; they lie beside those of the split, which need not list them."""
        like = self.datasets[self.subject.goals[0]].pictures[0]
        return {image_id: like.with_name(f"{image_id}{like.suffix}") for image_id in self.record["pictures"]}

    @cached_property
    def perceptions(self) -> dict[str, Perception]:
        """What captioner and UNet make of each recorded picture, by id."""
        return {
            image_id: perceive([pictures.read(path, as_stored=True)], self.loaded, self.recipe, self.seed)[0]
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
            rungs=hashlib.sha256(b"".join(path.read_bytes() for path in sorted(OWN.glob("*.py")))).hexdigest(),
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
        image = pictures.read(climb.paths[image_id], as_stored=True)
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


def cells(rows: Sequence[str]) -> np.ndarray:
    """A recorded map, one string a row, as characters: (h, w)."""
    return np.array([list(row) for row in rows])
