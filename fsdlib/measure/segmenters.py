"""What can be evaluated: the project's own method, and what any other needs to be measured beside it."""

import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from fsdlib import caption as captioning
from fsdlib import clusters, features, pipeline, refinement, words
from fsdlib import names as naming
from fsdlib.measure.scores import rounded
from fsdlib.models import Models, ModelSet, ModelUnavailable
from fsdlib.recipe import BACKGROUND_NAMES, Recipe
from fsdlib.stream import processes
from fsdlib.vocabulary import Vocabulary


@dataclass(frozen=True)
class Prediction:
    """One image's result as an evaluation takes it.

    labels: (H, W) of any integers, labels of the dataset's vocabulary, 0 for background or no name. clusters: (h, w), 0 to
    65535, the regions before they had names, of any size. details: whatever else is worth keeping, ready for JSON. mapping: for
    free names, the class that each was taken for and the similarity. Raises TypeError or ValueError where these are not
    fit for JSON, which knows no NaN.
    """

    labels: np.ndarray
    clusters: np.ndarray
    caption: str = ""
    candidates: tuple[str, ...] | None = (
        None  # the classes said to be present before anything was segmented, where the method says any
    )
    mapping: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    details: dict = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        json.dumps([self.caption, self.candidates, self.mapping, self.details, self.seconds], allow_nan=False)
        for stage, seconds in self.seconds.items():
            if type(seconds) is bool or not isinstance(seconds, int | float):
                raise ValueError(f"the seconds of {stage!r} are {seconds!r}: give a number")

    def fitted(self, height: int, width: int, classes: int) -> "Prediction":
        """With the label map as uint8 and clusters as uint16; raises ValueError for what is no prediction of so large an image."""
        return replace(
            self,
            labels=_whole_numbers("label map", self.labels, (height, width), classes),
            clusters=_whole_numbers("map of clusters", self.clusters, None, 2**16),
        )


def one_each(found: object, images: int) -> list[Prediction]:
    """What a method gave for so many images, as a list; raises ValueError where it is not a Prediction each."""
    given = list(found) if isinstance(found, Iterable) else [found]
    predictions = [one for one in given if isinstance(one, Prediction)]
    if len(given) == len(predictions) == images:
        return predictions
    kinds = ", ".join(sorted({type(one).__name__ for one in given})) or "nothing"
    raise ValueError(f"the method gave {len(given)} ({kinds}) for {images} images: give a list with a Prediction each")


def _whole_numbers(what: str, found: object, shape: tuple[int, int] | None, count: int) -> np.ndarray:
    """(H, W) of integers below `count`, as uint8 or, of more than 256, uint16; raises ValueError for anything else. shape: any where None."""
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iub":
        kind = f"of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        raise ValueError(f"the method's {what} is {kind}: give a NumPy array of integers")
    if found.ndim != 2 or not found.size or shape not in (None, found.shape):
        right = f"the image's {shape}" if shape else "height and width"
        raise ValueError(f"the method's {what} has the shape {found.shape}: give it {right}")
    if found.min() < 0 or found.max() >= count:
        raise ValueError(f"the method's {what} holds {found.min()} to {found.max()}: give labels of 0 to {count - 1}")
    return found.astype(np.uint8 if count <= 256 else np.uint16)


class Segmenter(Protocol):
    """A method that can be evaluated. `FreeSegDiff` is this project's; another one needs no more than this.

    It is sent to workers by pickle, and loads what it needs there when first asked. ModelUnavailable, raised where that
    cannot be loaded, ends the run; any other error is taken for one of the image's and costs that image alone.
    """

    def configuration(self) -> dict:
        """All that its results depend on, ready for JSON, without loading anything."""

    def segment(
        self, images: Sequence[np.ndarray], vocabulary: Vocabulary, present: Sequence[Sequence[int]], seed: int
    ) -> list[Prediction]:
        """One prediction an image, (H, W, 3) uint8. present: the labels truly there, for the `oracle` mode alone."""

    def name_masks(self, image: np.ndarray, masks: np.ndarray, vocabulary: Vocabulary) -> Sequence[int]:
        """The label given to each of (K, H, W) bool masks, among all classes: naming apart from masks."""


@dataclass(frozen=True)
class FreeSegDiff:
    """The project's method: models and a recipe, whose vocabulary mode says what the method is told.

    closed: the class list; the caption predicts which classes are present. given: the class list. oracle: the classes
    truly present. open: nothing; the names are the caption's words, and each is taken for the class of the dataset
    nearest to it by CLIP's similarity of texts, or for the background.
    Where the dataset's classes are groups, masks are named with the finer classes, and all of a group that is told to be
    present may be given; what comes out are groups.

    refiners: processes that refine masks while the models work, for each worker of a run; without any it does so itself.
    """

    models: Models | ModelSet
    recipe: Recipe
    refiners: int = 0

    def configuration(self) -> dict:
        identity = self.models.identity
        return dict(
            method="FreeSeg-Diff",
            models=self.models.name,
            identity=identity,
            recipe=self.recipe.model_dump(mode="json"),
            vocabulary_mode=self.recipe.vocabulary.kind,
            code=_code(self.recipe),
        )

    @cached_property
    def loaded(self) -> Models:
        if isinstance(self.models, Models):
            return self.models
        try:
            return self.models.load()
        except ModelUnavailable:
            raise
        except Exception as error:  # each library has its own for a file that is not what it should be
            folders = ", ".join(sorted({str(folder) for folder in self.models.folders.values()}))
            raise ModelUnavailable(
                f"model set {self.models.name!r} cannot be loaded from {folders} ({type(error).__name__}: "
                f"{' '.join(str(error).split())}): delete the file that is damaged and run `make fetch` again, or, where "
                f"memory does not hold the models, take another device"
            ) from error

    def __reduce__(self):
        return FreeSegDiff, (self.models, self.recipe, self.refiners)  # without what was loaded here

    def segment(
        self, images: Sequence[np.ndarray], vocabulary: Vocabulary, present: Sequence[Sequence[int]], seed: int
    ) -> list[Prediction]:
        free = isinstance(self.recipe.vocabulary, words.Open)
        named, groups = _named_with(vocabulary)
        told = [np.flatnonzero(np.isin(groups, labels)).tolist() for labels in present]
        arguments = images, self.loaded, self.recipe, None if free else named, seed, told, self._pool
        return [self._prediction(finish(), vocabulary, free) for finish in pipeline.begin_batch(*arguments)]

    @cached_property
    def _pool(self) -> Executor | None:
        return processes(self.refiners) if self.refiners else None

    def _prediction(self, result: pipeline.Result, vocabulary: Vocabulary, free: bool) -> Prediction:
        named, groups = _named_with(vocabulary)
        found = naming.nearest_classes(result.names[1:], named, self.loaded.clip, BACKGROUND_NAMES) if free else {}
        nearest = {name: (int(groups[label]), similarity) for name, (label, similarity) in found.items()}
        label_of = [0, *(nearest[name][0] for name in result.names[1:])] if free else groups
        told = [vocabulary.names[label] for label in np.unique(groups[words.present(result.candidates)])]
        segments = [
            dict(
                name=result.names[label],
                score=rounded(row.max(initial=0) if text < 0 else row[text]),
            )
            for text, label, row in zip(result.assigned, result.cluster_labels, result.scores)
        ]
        return Prediction(
            np.array(label_of, np.uint8)[result.labels],
            result.clusters,
            result.caption,
            None if free else tuple(told),
            {name: (vocabulary.names[label], rounded(similarity)) for name, (label, similarity) in nearest.items()},
            dict(segments=segments, silhouette=rounded(result.silhouette))
            | (dict(notes=list(result.notes)) if result.notes else {}),
            result.seconds,
        )

    def name_masks(self, image: np.ndarray, masks: np.ndarray, vocabulary: Vocabulary) -> list[int]:
        named, groups = _named_with(vocabulary)
        found = self.recipe.view.score(image, masks, self.recipe.wording.texts(named), self.loaded)
        return groups[found.argmax(axis=1) + 1].tolist()


def _named_with(vocabulary: Vocabulary) -> tuple[Vocabulary, np.ndarray]:
    """The class list that masks are named with, and for each of its labels that of `vocabulary`."""
    if vocabulary.finer is None:
        return vocabulary, np.arange(len(vocabulary))
    return vocabulary.finer, np.array(vocabulary.groups)


def _code(recipe: Recipe) -> str:
    """A hash over the stages' source and that of choices written elsewhere, so that an older version's results are not taken for this one's."""
    modules = (words, captioning, features, clusters, naming, refinement, pipeline)
    own = [Path(inspect.getfile(module)).read_bytes() for module in modules]
    known = {module.__name__ for module in modules}
    elsewhere = [type(choice) for choice in recipe.parts() if type(choice).__module__ not in known]
    for way in (
        elsewhere
    ):  # in the project what else its file holds belongs to it, in a notebook a file is none of a way's own
        ours = way.__module__.startswith("fsdlib.")
        own.append(Path(inspect.getfile(way)).read_bytes() if ours else inspect.getsource(way).encode())
    return hashlib.sha256(b"".join(own)).hexdigest()
