"""The whole method: a picture in, a label map with names out. Composes the stages; adds nothing to them."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fsdlib import caption as captioning
from fsdlib import clusters as clustering
from fsdlib import names as naming
from fsdlib import refinement, words
from fsdlib.datasets import Vocabulary, palette
from fsdlib.features import features, find_taps, image_seed, latents, stack
from fsdlib.models import Models
from fsdlib.project import write_atomically
from fsdlib.recipe import Recipe


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

    @property
    def found(self) -> tuple[str, ...]:
        """The names that some pixel carries, in the order of their labels."""
        return tuple(self.names[label] for label in np.unique(self.labels) if label)

    def as_dict(self) -> dict:
        """All but the label map and the masks, ready for JSON."""
        return dict(
            caption=self.caption,
            words=[dict(text=w.text, part_of_speech=w.part_of_speech, head=w.head) for w in self.words],
            candidates=[dict(word=c.word, name=c.name, distance=c.distance, kept=c.kept) for c in self.candidates],
            found=list(self.found),
            names=list(self.names),
            segments=[
                dict(cluster=k, name=self.texts[a] if a >= 0 else "background", score=float(self.scores[k].max(initial=0) if a < 0 else self.scores[k, a]))
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


def segment(image: np.ndarray, models: Models, recipe: Recipe, vocabulary: Vocabulary | Sequence[str] | None = None, seed: int = 0) -> Result:
    """Segment one picture, (H, W, 3) uint8 RGB.

    vocabulary: the classes to choose from (a list of names will do); None leaves the names to the caption. Raises
    ValueError where the image is not of that form.
    """
    return segment_batch([image], models, recipe, vocabulary, seed)[0]


def segment_batch(
    images: Sequence[np.ndarray], models: Models, recipe: Recipe, vocabulary: Vocabulary | Sequence[str] | None = None, seed: int = 0
) -> list[Result]:
    """Segment several pictures of any sizes; captions and features run as one batch, and each result is as if it ran alone."""
    for number, image in enumerate(images):
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"image {number} of the batch is {what}: pass RGB as a (height, width, 3) array of uint8")
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(vocabulary)
    captions = captioning.caption(
        images, models.captioner, recipe.caption_prompt, recipe.caption_beams, recipe.caption_min_tokens, recipe.caption_max_tokens
    )
    taps = find_taps(models.diffusion, recipe.taps, recipe.tap_blocks, recipe.tap_grid)
    latent = latents(images, models.diffusion, seed)
    noise_seeds = [image_seed(image, "noise", seed) for image in images]
    maps = features(latent, models.diffusion, taps, noise_seeds, recipe.timestep, recipe.prompt, recipe.noise_samples)
    return [
        _from_features(image, captions[i], [array[i] for array in maps], taps, models, recipe, vocabulary, seed) for i, image in enumerate(images)
    ]


def _from_features(image, sentence, maps, taps, models, recipe, vocabulary, seed) -> Result:
    found = words.words(sentence)
    eligible, texts, background, names, chosen = _choices(found, models, recipe, vocabulary)
    seeds = {purpose: image_seed(image, purpose, seed) for purpose in ("latent", "noise", "clusters")}
    stacked = stack(maps, recipe.feature_grid, recipe.normalise)
    if recipe.clustering == "normalised_cut":
        clusters = clustering.normalised_cut(stacked, recipe.ncut_threshold, recipe.ncut_power)
    else:
        count = recipe.clusters + (len(eligible) if recipe.cluster_choice == "candidates" else 0)
        clusters = clustering.cluster(stacked, count, seeds["clusters"], recipe.clustering, recipe.restarts, recipe.ncut_power)
    masks = clustering.masks(clusters, *image.shape[:2])
    scores = naming.score_masks(image, masks, texts, models.clip, recipe.view, recipe.text_templates) if texts else np.zeros((len(masks), 0), np.float32)
    labels_of_texts = {index: names.index(texts[index]) for index in eligible}
    if not eligible:
        assigned = np.full(len(masks), -1)
    elif recipe.assignment == "merge":
        assigned = naming.assign_best(scores, eligible, background, recipe.background_threshold)
    else:
        assigned = naming.assign_one_cluster_per_class(scores, eligible)
        assigned = np.where(_probability(scores, assigned) >= recipe.background_threshold, assigned, -1)
    regions, labels = _regions(masks, assigned, labels_of_texts, merge=recipe.assignment == "merge")
    if recipe.refinement == "crf":
        regions = refinement.refine(
            image, regions, recipe.crf_gt_prob, recipe.crf_gaussian_sxy, recipe.crf_gaussian_compat,
            recipe.crf_bilateral_sxy, recipe.crf_bilateral_srgb, recipe.crf_bilateral_compat, recipe.crf_iterations,
        )  # fmt: skip
    return Result(
        labels=refinement.paint(regions, labels), names=names, caption=sentence, words=tuple(found), candidates=tuple(chosen),
        clusters=clusters, silhouette=clustering.silhouette(stacked, clusters), masks=masks, texts=tuple(texts), scores=scores,
        assigned=assigned, taps=tuple(map(str, taps)), seeds=seeds, recipe=recipe, models=models.identity,
    )  # fmt: skip


def _choices(found, models, recipe, vocabulary):
    """What CLIP chooses among: (eligible indices, texts, background indices, names by label, candidates).

    Closed: the texts are the class list, the classes that the caption speaks of are eligible. Open: the caption's words
    are eligible; the classes, where given, stand beside them in the softmax (row 2b).
    """
    classes = list(vocabulary.names[1:]) if vocabulary is not None else []
    chosen: list[words.Candidate] = []
    if vocabulary is not None and recipe.vocabulary_mode == "closed":
        chosen = words.candidates(found, vocabulary, models.diffusion, recipe.class_prompt)
        eligible, names = [label - 1 for label in words.present(chosen)], vocabulary.names
        texts = classes
    else:
        own = [name for name in words.open_names(found) if name != "background"]  # which is label 0 already
        texts = classes + [name for name in own if name not in classes]
        eligible, names = [texts.index(name) for name in own], ("background", *own)
    own_texts = len(texts)
    texts = texts + [name for name in recipe.background_names if name not in texts]
    taken = {texts[i] for i in eligible}
    background = [i for i, text in enumerate(texts) if i >= own_texts or (text in recipe.background_names and text not in taken)]
    return eligible, texts, background, names, chosen


def _probability(scores: np.ndarray, assigned: np.ndarray) -> np.ndarray:
    return scores[np.arange(len(scores)), np.maximum(assigned, 0)]


def _regions(masks, assigned, labels_of_texts, merge: bool) -> tuple[np.ndarray, list[int]]:
    """The masks to paint with their labels: those with a name in cluster order, or their unions by name."""
    if not merge:
        named = [k for k, text in enumerate(assigned) if text >= 0]
        return masks[named], [labels_of_texts[int(assigned[k])] for k in named]
    texts = sorted({int(text) for text in assigned if text >= 0})
    unions = [masks[assigned == text].any(axis=0) for text in texts]
    return (np.stack(unions) if unions else masks[:0]), [labels_of_texts[text] for text in texts]
