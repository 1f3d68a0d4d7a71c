"""The whole method: a picture in, a label map with names out. Composes the stages; adds nothing to them."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fsdlib import clusters as clustering
from fsdlib import pictures, words
from fsdlib.features import image_seed
from fsdlib.models import Models, NotFinite
from fsdlib.project import write_atomically
from fsdlib.recipe import Recipe
from fsdlib.refinement import paint
from fsdlib.stopwatch import Stopwatch, timed
from fsdlib.vocabulary import Vocabulary
from fsdlib.words import Candidate, Word

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Result:
    """What was found in one picture, with all that led there.

    labels: (H, W) uint8, indices into `names`, 0 for background. names: the class list's, or, where those are more than 254,
    those given to a mask alone. clusters: (h, w) unsigned integers, of the finest grouping. masks: (K, H, W) bool, one a
    cluster of any grouping, before refinement. texts: what CLIP chose among; text_labels: the label that each of them gives, 0 for none.
    scores: (K, len(texts)) float32, probabilities. assigned: (K,) int, an index into texts or -1 for background. notes:
    what was done otherwise than for other pictures.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    caption: str
    words: tuple[Word, ...]
    candidates: tuple[Candidate, ...]
    clusters: np.ndarray
    silhouette: float
    masks: np.ndarray
    texts: tuple[str, ...]
    text_labels: tuple[int, ...]
    scores: np.ndarray
    assigned: np.ndarray
    taps: tuple[str, ...]
    seeds: dict[str, int]
    recipe: Recipe
    models: dict
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # what each stage took
    processor_seconds: dict[str, float] = field(default_factory=dict, compare=False)  # of all cores that it used

    @property
    def coarse(self) -> np.ndarray:
        """The label map before refinement, every region with the name it was given: (H, W) uint8."""
        regions, texts = self.recipe.assignment.regions(self.masks, self.assigned)
        return paint(regions, [self.text_labels[text] for text in texts])

    @property
    def cluster_labels(self) -> np.ndarray:
        """The label that each mask was given, 0 for background: (K,) uint8."""
        return np.array([self.text_labels[text] if text >= 0 else 0 for text in self.assigned], np.uint8)

    @property
    def found(self) -> tuple[str, ...]:
        """The names that some pixel carries, in the order of their labels."""
        return tuple(self.names[label] for label in np.unique(self.labels) if label)

    def as_dict(self) -> dict:
        """All but the label map, the masks and the timings, ready for JSON."""
        return dict(
            caption=self.caption,
            words=[dict(text=w.text, part_of_speech=w.part_of_speech, head=w.head) for w in self.words],
            candidates=[dict(word=c.word, name=c.name, distance=c.distance, kept=c.kept) for c in self.candidates],
            found=list(self.found),
            names=list(self.names),
            segments=[
                dict(
                    cluster=k,
                    name=self.names[label],
                    score=float(self.scores[k].max(initial=0) if a < 0 else self.scores[k, a]),
                )
                for k, (a, label) in enumerate(zip(self.assigned, self.cluster_labels))
            ],
            silhouette=None if np.isnan(self.silhouette) else self.silhouette,
            clusters=self.clusters.tolist(),
            texts=list(self.texts),
            scores=self.scores.tolist(),
            taps=list(self.taps),
            seeds=self.seeds,
            recipe=self.recipe.model_dump(mode="json"),
            models=self.models,
            notes=list(self.notes),
        )

    def save(self, stem: Path | str) -> tuple[Path, Path]:
        """Write `stem`.png (palette PNG of the labels, VOC's colours) and `stem`.json (everything else); returns both paths."""
        stem = Path(stem)
        return (
            write_atomically(stem.with_name(stem.name + ".png"), pictures.label_png(self.labels)),
            write_atomically(
                stem.with_name(stem.name + ".json"), json.dumps(self.as_dict(), indent=1, allow_nan=False)
            ),
        )

    def show(self, image: np.ndarray, ax=None):
        """Draw the named masks over the picture with a legend; returns the matplotlib axes."""
        from fsdlib.figures import show_overlay  # matplotlib is only needed to look

        return show_overlay(image, self.labels, self.names, ax=ax)


def segment(
    picture: Picture,
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    seed: int = 0,
    present: Sequence[int] | None = None,
) -> Result:
    """Segment one picture: a path, a PIL image, or RGB as a (H, W, 3) array of uint8.

    vocabulary: the classes to choose from (a list of names will do); None leaves the names to the caption. present: the
    labels truly there, which the vocabulary mode "oracle" asks for. Raises ValueError where the picture is none of those
    forms, or the recipe's vocabulary mode lacks what it needs.

    >>> from fsdlib import get_recipe, load_models
    >>> result = segment(np.full((40, 60, 3), 128, np.uint8), load_models("mini"), get_recipe("paper"), ["cat", "dog"])
    >>> result.labels.shape, result.labels.dtype, result.names
    ((40, 60), dtype('uint8'), ('background', 'cat', 'dog'))
    """
    return segment_batch([picture], models, recipe, vocabulary, seed, None if present is None else [present])[0]


def segment_batch(
    pictures: Sequence[Picture],
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    seed: int = 0,
    present: Sequence[Sequence[int]] | None = None,
) -> list[Result]:
    """Segment several pictures of any sizes; captions and features run as one batch, each result is as if it ran alone.

    present: for each picture the labels truly there, for the vocabulary mode "oracle" alone.

    >>> from fsdlib.recipe import PAPER
    >>> [result.labels.shape for result in segment_batch([picture, picture[:90]], models, PAPER, ["dog", "pizza"])]
    [(192, 192), (90, 192)]
    """
    return [finish() for finish in begin_batch(pictures, models, recipe, vocabulary, seed, present)]


def begin_batch(
    pictures: Sequence[Picture],
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    seed: int = 0,
    present: Sequence[Sequence[int]] | None = None,
    refiners: Executor | None = None,
) -> list[Callable[[], Result]]:
    """As `segment_batch`, but masks are refined by `refiners`, an executor of processes: for each picture a call that waits for its result.

    Without refiners, and where their processes have died, a picture is refined when its result is asked for.

    >>> from fsdlib.recipe import PAPER
    >>> (finish,) = begin_batch([picture], models, PAPER, ["dog", "pizza"])
    >>> finish().labels.shape
    (192, 192)
    """
    images = [as_array(picture) for picture in pictures]
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(vocabulary)
    known: Sequence[Sequence[int] | None] = [None] * len(images) if present is None else present
    if len(known) != len(images):
        raise ValueError(f"present is of {len(known)} pictures, and there are {len(images)}: give the labels of each")
    for labels in known:
        recipe.vocabulary.check(vocabulary, labels)
    return [
        _begin(image, perception, models, recipe, vocabulary, seed, labels, refiners)
        for image, perception, labels in zip(images, perceive(images, models, recipe, seed), known, strict=True)
    ]


def as_array(picture: Picture) -> np.ndarray:
    """A picture as RGB, (H, W, 3) uint8: of a file, turned upright as EXIF says, of a PIL image, or an array as it is.

    Files and PIL images go through `fsdlib.pictures`. Raises FileNotFoundError for a path where nothing is, and ValueError
    for a file or an image that is no single picture and for an array of another form.

    >>> as_array(Image.new("L", (4, 2), 128)).shape
    (2, 4, 3)
    """
    if isinstance(picture, (str, Path)):
        return pictures.read(picture)
    if isinstance(picture, Image.Image):
        return pictures.rgb(picture)
    if not isinstance(picture, np.ndarray):
        raise ValueError(
            f"a picture is a path, a PIL image or an array, not {type(picture).__name__}: pass one of these"
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture is {picture.dtype} of shape {picture.shape}: pass RGB as a (height, width, 3) array of uint8"
        )
    return picture


@dataclass(frozen=True)
class Perception:
    """What the large models make of a picture before anything is decided: its caption, and its features, one (C, h, w) array a place that is read.

    notes: what was done otherwise than for other pictures.
    """

    caption: str
    taps: tuple[str, ...]
    maps: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()
    # its share of what its batch took, stage by stage, by the clock and of the processor
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    processor_seconds: dict[str, float] = field(default_factory=dict, compare=False)


def perceive(images: Sequence[np.ndarray], models: Models, recipe: Recipe, seed: int = 0) -> list[Perception]:
    """Caption several pictures, (H, W, 3) uint8, and read their features, as one batch.

    Where half precision overflows, the picture is read again in float32, with a note. Raises NotFinite where that does not
    help either.

    >>> from fsdlib.recipe import PAPER
    >>> perception = perceive([picture], models, PAPER)[0]
    >>> len(perception.maps) == len(perception.taps), perception.maps[0].shape[1:]
    (True, (16, 16))
    """
    if not images:
        return []
    watch = Stopwatch()
    captions = recipe.caption.caption(images, models.captioner)
    watch.lap("caption")
    places, maps = recipe.features.read(images, models, seed)
    precision, overflown = models.diffusion.unet.dtype, _overflown(maps)
    if overflown and precision != torch.float32:
        whole = replace(models, diffusion=models.diffusion.in_float32())
        for array, again in zip(maps, recipe.features.read([images[i] for i in overflown], whole, seed)[1]):
            array[overflown] = again
    if _overflown(maps):
        raise NotFinite(
            f"the features of {len(_overflown(maps))} of {len(images)} pictures are not finite, in float32 either: leave them out"
        )
    note = f"features overflow in {str(precision).removeprefix('torch.')}: read again in float32"
    watch.lap("features")
    shares = [
        {stage: seconds / len(images) for stage, seconds in taken.items()}
        for taken in (watch.seconds, watch.processor_seconds)
    ]
    return [
        Perception(sentence, tuple(places), tuple(array[i] for array in maps), (note,) * (i in overflown), *shares)
        for i, sentence in enumerate(captions)
    ]


def _overflown(maps: Sequence[np.ndarray]) -> list[int]:
    """The pictures of a batch of whose features some number is not finite."""
    finite = [np.isfinite(array).all(axis=(1, 2, 3)) for array in maps]
    return np.flatnonzero(~np.all(finite, axis=0)).tolist()


def segment_perceived(
    image: np.ndarray,
    perception: Perception,
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | None,
    seed: int = 0,
    present: Sequence[int] | None = None,
) -> Result:
    """Segment a picture from what `perceive` found in it with the same recipe and seed; otherwise as `segment`.

    >>> from fsdlib.recipe import PAPER
    >>> perception, classes = perceive([picture], models, PAPER)[0], Vocabulary.of(["dog", "pizza"])
    >>> segment_perceived(picture, perception, models, PAPER, classes).clusters.shape
    (32, 32)
    """
    return _begin(image, perception, models, recipe, vocabulary, seed, present, None)()


def _begin(
    image: np.ndarray,
    perception: Perception,
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | None,
    seed: int,
    present: Sequence[int] | None,
    refiners: Executor | None,
) -> Callable[[], Result]:
    watch = Stopwatch()
    found = words.words(perception.caption)
    names = recipe.assignment.background_names
    choices = recipe.vocabulary.choices(found, vocabulary, models.diffusion, names, present, recipe.wording)
    watch.lap("words")

    features = recipe.features.stacked(perception.maps)
    partitions = recipe.clusters.partitions(features, image_seed(image, "clusters", seed), choices.expected)
    clusters = max(partitions, key=np.max)
    masks = clustering.proposals(partitions, *image.shape[:2])
    silhouette = clustering.silhouette(features, clusters)
    watch.lap("clusters")

    scores = recipe.view.score(image, masks, choices.texts, models, choices.eligible, seed)
    scores = recipe.spreading.spread(scores, masks, features)
    assigned = recipe.assignment.assign(scores, choices.eligible, choices.background, masks)
    choices = choices.fitted(assigned)
    watch.lap("names")

    regions, texts = recipe.assignment.regions(masks, assigned)
    labels = [choices.label(text) for text in texts]
    arguments = image, regions, labels, vocabulary is None or vocabulary.background
    painted = _elsewhere(refiners, timed, "refinement", recipe.refinement.label_map, *arguments)

    def finish() -> Result:
        label_map, last = painted()
        return Result(
            labels=label_map,
            names=choices.names,
            caption=perception.caption,
            words=tuple(found),
            candidates=choices.candidates,
            clusters=clusters,
            silhouette=silhouette,
            masks=masks,
            texts=choices.texts,
            text_labels=choices.labels,
            scores=scores,
            assigned=assigned,
            taps=perception.taps,
            seeds={purpose: image_seed(image, purpose, seed) for purpose in ("latent", "noise", "clusters")},
            recipe=recipe,
            models=models.identity,
            notes=perception.notes,
            seconds=perception.seconds | watch.seconds | last.seconds,
            processor_seconds=perception.processor_seconds | watch.processor_seconds | last.processor_seconds,
        )

    return finish


def _elsewhere(executor: Executor | None, call: Callable, *arguments) -> Callable:
    """Begin a call in an executor; what comes back waits for it, or, without one and where its processes have died, does it."""
    try:
        future = executor.submit(call, *arguments) if executor else None
    except BrokenExecutor:
        future = None

    def wait():
        try:
            return future.result() if future else call(*arguments)
        except BrokenExecutor:
            return call(*arguments)

    return wait
