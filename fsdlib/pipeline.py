"""The whole method: a picture in, a label map with names out. Composes the stages; adds nothing to them."""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fsdlib import caption as captioning
from fsdlib import clusters as clustering
from fsdlib import names as naming
from fsdlib import refinement, words
from fsdlib.features import Tap, features, find_taps, image_seed, latents, stack
from fsdlib.models import Models
from fsdlib.project import write_atomically
from fsdlib.recipe import Recipe
from fsdlib.vocabulary import Vocabulary, palette


@dataclass(frozen=True)
class Result:
    """What was found in one picture, with all that led there.

    labels: (H, W) uint8, indices into `names`, 0 for background. clusters: (h, w) uint8. masks: (K, H, W) bool, one a
    cluster, before refinement. texts: what CLIP chose among; scores: (K, len(texts)) float32, probabilities.
    assigned: (K,) int, an index into texts or -1 for background.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    caption: str
    words: tuple[words.Word, ...]
    candidates: tuple[words.Candidate, ...]
    clusters: np.ndarray
    silhouette: float
    masks: np.ndarray
    texts: tuple[str, ...]
    scores: np.ndarray
    assigned: np.ndarray
    taps: tuple[str, ...]
    seeds: dict[str, int]
    recipe: Recipe
    models: dict
    seconds: dict[str, float] = field(default_factory=dict, compare=False)  # what each stage took

    @property
    def coarse(self) -> np.ndarray:
        """The label map before refinement, every cluster with the name it was given: (H, W) uint8."""
        labels = [self.names.index(self.texts[text]) if text >= 0 else 0 for text in self.assigned]
        return np.array(labels, np.uint8)[self.masks.argmax(axis=0)]

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
                    name=self.texts[a] if a >= 0 else "background",
                    score=float(self.scores[k].max(initial=0) if a < 0 else self.scores[k, a]),
                )
                for k, a in enumerate(self.assigned)
            ],
            silhouette=None if np.isnan(self.silhouette) else self.silhouette,
            clusters=self.clusters.tolist(),
            texts=list(self.texts),
            scores=self.scores.tolist(),
            taps=list(self.taps),
            seeds=self.seeds,
            recipe=self.recipe.model_dump(mode="json"),
            models=self.models,
        )

    def save(self, stem: Path | str) -> tuple[Path, Path]:
        """Write `stem`.png (palette PNG of the labels, VOC's colours) and `stem`.json (everything else); returns both paths."""
        stem = Path(stem)
        picture = Image.fromarray(self.labels, "P")
        picture.putpalette(palette())
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return (
            write_atomically(stem.with_name(stem.name + ".png"), buffer.getvalue()),
            write_atomically(stem.with_name(stem.name + ".json"), json.dumps(self.as_dict(), indent=1)),
        )

    def show(self, image: np.ndarray, ax=None):
        """Draw the named masks over the picture with a legend; returns the matplotlib axes."""
        from fsdlib.figures import show_overlay  # matplotlib is only needed to look

        return show_overlay(image, self.labels, self.names, ax=ax)


def segment(
    image: np.ndarray,
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    seed: int = 0,
    present: Sequence[int] | None = None,
) -> Result:
    """Segment one picture, (H, W, 3) uint8 RGB.

    vocabulary: the classes to choose from (a list of names will do); None leaves the names to the caption. present: the
    labels truly there, which a recipe with vocabulary_mode "oracle" asks for. Raises ValueError where the image is not
    of that form, or the recipe's vocabulary mode lacks what it needs.
    """
    return segment_batch([image], models, recipe, vocabulary, seed, None if present is None else [present])[0]


def segment_batch(
    images: Sequence[np.ndarray],
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    seed: int = 0,
    present: Sequence[Sequence[int]] | None = None,
) -> list[Result]:
    """Segment several pictures of any sizes; captions and features run as one batch, and each result is as if it ran alone.

    present: for each picture the labels truly there, for vocabulary_mode "oracle" alone.
    """
    for number, image in enumerate(images):
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image {number} of the batch is {what}: pass RGB as a (height, width, 3) array of uint8")
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(vocabulary)
    present = [None] * len(images) if present is None else present
    return [
        segment_perceived(image, perception, models, recipe, vocabulary, seed, labels)
        for image, perception, labels in zip(images, perceive(images, models, recipe, seed), present, strict=True)
    ]


@dataclass(frozen=True)
class Perception:
    """What the large models make of a picture before anything is decided: its caption, and its features, one (C, grid, grid) array a tap."""

    caption: str
    taps: tuple[Tap, ...]
    maps: tuple[np.ndarray, ...]
    seconds: dict[str, float] = field(
        default_factory=dict, compare=False
    )  # its share of what its batch took, stage by stage


class Stopwatch:
    """Seconds from one `lap` to the next, by stage. Every stage ends with arrays in main memory, so a GPU's work is within its lap."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._since = now - self._since, now


def perceive(images: Sequence[np.ndarray], models: Models, recipe: Recipe, seed: int = 0) -> list[Perception]:
    """Caption several pictures and read their features, as one batch."""
    watch = Stopwatch()
    captions = captioning.caption(
        images,
        models.captioner,
        recipe.caption_prompt,
        recipe.caption_beams,
        recipe.caption_min_tokens,
        recipe.caption_max_tokens,
    )
    watch.lap("caption")
    taps = find_taps(models.diffusion, recipe.taps, recipe.tap_blocks, recipe.tap_grid)
    latent = latents(images, models.diffusion, seed)
    noise_seeds = [image_seed(image, "noise", seed) for image in images]
    maps = features(latent, models.diffusion, taps, noise_seeds, recipe.timestep, recipe.prompt, recipe.noise_samples)
    watch.lap("features")
    share = {stage: seconds / len(images) for stage, seconds in watch.seconds.items()}
    return [
        Perception(sentence, tuple(taps), tuple(array[i] for array in maps), share)
        for i, sentence in enumerate(captions)
    ]


def segment_perceived(
    image: np.ndarray,
    perception: Perception,
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | None,
    seed: int = 0,
    present: Sequence[int] | None = None,
) -> Result:
    """Segment a picture from what `perceive` found in it with the same recipe and seed; otherwise as `segment`."""
    watch = Stopwatch()
    found = words.words(perception.caption)
    chosen = closed_candidates(found, models, recipe, vocabulary)
    spoken = words.present(chosen)
    choice = choices(found, allowed(spoken, recipe, vocabulary, present), recipe, vocabulary)
    watch.lap("words")
    stacked = stack(perception.maps, recipe.feature_grid, recipe.normalise)
    # a whole class list says nothing about how much is to be told apart in this picture, its caption does
    expected = len(spoken) if recipe.vocabulary_mode == "given" else len(choice.eligible)
    clusters = grouped(stacked, image, expected, recipe, seed)
    silhouette = clustering.silhouette(stacked, clusters)
    masks = clustering.masks(clusters, *image.shape[:2])
    watch.lap("clusters")
    scores = scored(image, masks, choice, models, recipe)
    assigned = assign(scores, choice, recipe)
    watch.lap("names")
    regions, labels = named_regions(masks, assigned, choice, recipe)
    painted = refinement.paint(refined(image, regions, recipe), labels)
    if (
        vocabulary is not None and not vocabulary.background
    ):  # where nothing is background, a pixel that no refined mask claims keeps its cluster's name
        painted = np.where(painted == 0, refinement.paint(regions, labels), painted)
    watch.lap("refinement")
    return Result(
        labels=painted,
        names=choice.names,
        caption=perception.caption,
        words=tuple(found),
        candidates=tuple(chosen),
        clusters=clusters,
        silhouette=silhouette,
        masks=masks,
        texts=choice.texts,
        scores=scores,
        assigned=assigned,
        taps=tuple(map(str, perception.taps)),
        seeds={purpose: image_seed(image, purpose, seed) for purpose in ("latent", "noise", "clusters")},
        recipe=recipe,
        models=models.identity,
        seconds=perception.seconds | watch.seconds,
    )


@dataclass(frozen=True)
class Choices:
    """What CLIP chooses among: texts, the indices of those that may be given and of those that stand for background, and the names by label."""

    texts: tuple[str, ...]
    eligible: tuple[int, ...]
    background: tuple[int, ...]
    names: tuple[str, ...]


def closed_candidates(
    found: Sequence[words.Word], models: Models, recipe: Recipe, vocabulary: Vocabulary | None
) -> list[words.Candidate]:
    """The classes a caption's words speak of (row 2a); none where the names are the words themselves."""
    if vocabulary is None or recipe.vocabulary_mode == "open":
        return []
    return words.candidates(found, vocabulary, models.diffusion, recipe.class_prompt)


def allowed(
    spoken: Sequence[int], recipe: Recipe, vocabulary: Vocabulary | None, present: Sequence[int] | None = None
) -> Sequence[int]:
    """The labels that the recipe's vocabulary mode lets a mask have: those the caption speaks of, the whole list, or those truly present.

    Raises ValueError where the mode needs a class list or the classes present, and none is given.
    """
    if recipe.vocabulary_mode in ("given", "oracle") and vocabulary is None:
        raise ValueError(
            f"vocabulary_mode {recipe.vocabulary_mode!r} chooses from a class list: pass a vocabulary, or take vocabulary_mode='open'"
        )
    if recipe.vocabulary_mode == "oracle":
        if present is None:
            raise ValueError(
                "vocabulary_mode 'oracle' needs the labels truly present: pass present, or take another mode where the truth is not known"
            )
        return sorted(set(present))
    return range(1, len(vocabulary)) if recipe.vocabulary_mode == "given" else spoken


def choices(
    found: Sequence[words.Word], present: Sequence[int], recipe: Recipe, vocabulary: Vocabulary | None
) -> Choices:
    """What CLIP chooses among.

    Open, or without a class list: the caption's words are eligible; the classes, where given, stand beside them in the
    softmax (row 2b). Else the texts are the class list, and the classes with a label in `present` are eligible. The
    recipe's names for the background stand beside either, unless the class list says that there is none.
    """
    classes = list(vocabulary.names[1:]) if vocabulary is not None else []
    if vocabulary is not None and recipe.vocabulary_mode != "open":
        eligible, names = [label - 1 for label in present], vocabulary.names
        texts = classes
    else:
        own = [name for name in words.open_names(found) if name != "background"]  # which is label 0 already
        texts = classes + [name for name in own if name not in classes]
        eligible, names = [texts.index(name) for name in own], ("background", *own)
    own_texts = len(texts)
    of_background = recipe.background_names if vocabulary is None or vocabulary.background else ()
    texts = texts + [name for name in of_background if name not in texts]
    taken = {texts[i] for i in eligible}
    background = [i for i, text in enumerate(texts) if i >= own_texts or (text in of_background and text not in taken)]
    return Choices(tuple(texts), tuple(eligible), tuple(background), names)


def grouped(stacked: np.ndarray, image: np.ndarray, candidates: int, recipe: Recipe, seed: int) -> np.ndarray:
    """Clusters of (C, grid, grid) features, (grid, grid) uint8, as many as the recipe asks for with that number of candidates."""
    if recipe.clustering == "normalised_cut":
        return clustering.normalised_cut(stacked, recipe.ncut_threshold, recipe.ncut_power)
    count = recipe.clusters + (candidates if recipe.cluster_choice == "candidates" else 0)
    return clustering.cluster(
        stacked, count, image_seed(image, "clusters", seed), recipe.clustering, recipe.restarts, recipe.ncut_power
    )


def scored(image: np.ndarray, masks: np.ndarray, choice: Choices, models: Models, recipe: Recipe) -> np.ndarray:
    """CLIP's probabilities of every text for every mask, (K, texts) float32."""
    if not choice.texts:
        return np.zeros((len(masks), 0), np.float32)
    return naming.score_masks(image, masks, choice.texts, models.clip, recipe.view, recipe.text_templates)


def assign(scores: np.ndarray, choice: Choices, recipe: Recipe) -> np.ndarray:
    """The text of each mask, (K,) int, or -1 for background, by the recipe's assignment."""
    if not choice.eligible:
        return np.full(len(scores), -1)
    if recipe.assignment == "merge":
        return naming.assign_best(scores, choice.eligible, choice.background, recipe.background_threshold)
    assigned = naming.assign_one_cluster_per_class(scores, choice.eligible)
    return np.where(_probability(scores, assigned) >= recipe.background_threshold, assigned, -1)


def _probability(scores: np.ndarray, assigned: np.ndarray) -> np.ndarray:
    return scores[np.arange(len(scores)), np.maximum(assigned, 0)]


def named_regions(
    masks: np.ndarray, assigned: np.ndarray, choice: Choices, recipe: Recipe
) -> tuple[np.ndarray, list[int]]:
    """The masks to refine and paint, (regions, H, W) bool, with their labels: those with a name in cluster order, or their unions by name."""
    if recipe.assignment != "merge":
        named = [k for k, text in enumerate(assigned) if text >= 0]
        return masks[named], [choice.names.index(choice.texts[assigned[k]]) for k in named]
    texts = sorted({int(text) for text in assigned if text >= 0})
    unions = [masks[assigned == text].any(axis=0) for text in texts]
    return (np.stack(unions) if unions else masks[:0]), [choice.names.index(choice.texts[text]) for text in texts]


def refined(image: np.ndarray, regions: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Regions, (N, H, W) bool, refined each for itself as the recipe says."""
    if recipe.refinement == "crf":
        return refinement.refine(
            image,
            regions,
            recipe.crf_gt_prob,
            recipe.crf_gaussian_sxy,
            recipe.crf_gaussian_compat,
            recipe.crf_bilateral_sxy,
            recipe.crf_bilateral_srgb,
            recipe.crf_bilateral_compat,
            recipe.crf_iterations,
        )
    if recipe.refinement == "pamr":
        return refinement.refine_pamr(image, regions, recipe.pamr_iterations, recipe.pamr_dilations)
    return regions
