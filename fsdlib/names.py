"""Stages 7 and 8, name and assign: CLIP scores every mask against every name; scores become one name a mask (RECIPE rows 7, 8)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fsdlib.models import Clip
from fsdlib.vocabulary import Vocabulary


def views(image: np.ndarray, masks: np.ndarray, view: str = "black_frame") -> list[np.ndarray]:
    """What CLIP is shown of each mask, (H, W, 3) uint8: the image, black outside the mask; with "crop", cut to the mask's box.

    image: (H, W, 3) uint8; masks: (K, H, W) bool. An empty mask shows a black frame.
    """
    if view not in ("black_frame", "crop"):
        raise ValueError(f"no view is called {view!r}: choose black_frame or crop, or dense where masks are scored")
    shown = []
    for mask in masks:
        frame = image * mask[..., None]
        if view == "crop" and mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            frame = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        shown.append(frame)
    return shown


def encode_names(names: Sequence[str], clip: Clip, templates: Sequence[str] = ("{}",)) -> np.ndarray:
    """One unit vector a name, the mean over templates: (len(names), D) float32."""
    vectors = np.mean([clip.encode_text([template.format(name) for name in names]) for template in templates], axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def score(
    pictures: Sequence[np.ndarray], names: Sequence[str], clip: Clip, templates: Sequence[str] = ("{}",)
) -> np.ndarray:
    """The probability of each name for each picture, softmax over all names: (len(pictures), len(names)) float32."""
    return score_vectors(clip.encode_images(pictures), names, clip, templates)


def score_masks(
    image: np.ndarray,
    masks: np.ndarray,
    names: Sequence[str],
    clip: Clip,
    view: str = "black_frame",
    templates: Sequence[str] = ("{}",),
) -> np.ndarray:
    """The probability of each name for each mask, softmax over all names: (K, len(names)) float32.

    view: "black_frame" and "crop" show CLIP one picture a mask (see `views`); "dense" shows it the whole picture once and
    pools its patches under each mask (see `pooled_patches`), which needs an image tower that has them.
    """
    if view == "dense":
        return score_vectors(pooled_patches(clip.encode_patches([image])[0], masks), names, clip, templates)
    return score(views(image, masks, view), names, clip, templates)


def pooled_patches(patches: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The mean of the patches under each mask, of unit length: (K, D) float32; zeros for an empty mask.

    patches: (h, w, D), of one picture, as `Clip.encode_patches` returns them; masks: (K, H, W) bool. A patch counts as
    much as the share of it that the mask covers.
    """
    height, width, _ = patches.shape
    covered = [
        np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
        for mask in masks
    ]
    sums = np.reshape(covered, (len(masks), -1)) @ patches.reshape(height * width, -1)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def score_vectors(
    vectors: np.ndarray, names: Sequence[str], clip: Clip, templates: Sequence[str] = ("{}",)
) -> np.ndarray:
    """The probability of each name for each vector, (N, D) of unit length in CLIP's space; softmax over all names: (N, len(names)) float32."""
    logits = clip.temperature * vectors @ encode_names(names, clip, templates).T
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (logits / logits.sum(axis=1, keepdims=True)).astype(np.float32)


def assign_one_cluster_per_class(scores: np.ndarray, eligible: Sequence[int]) -> np.ndarray:
    """The name of each mask, (K,) int, an index into the names or -1 for background (row 8).

    scores: (K, names); eligible: the indices that may be given. Other names' scores count as 0; each name keeps only its
    single best mask; each mask takes the best name left to it; a mask with none is background.
    """
    allowed = np.zeros_like(scores)
    allowed[:, list(eligible)] = scores[:, list(eligible)]
    kept = np.zeros_like(allowed)
    best, columns = allowed.argmax(axis=0), np.arange(scores.shape[1])
    kept[best, columns] = allowed[best, columns]
    return np.where(kept.max(axis=1) > 0, kept.argmax(axis=1), -1)


def assign_best(
    scores: np.ndarray, eligible: Sequence[int], background: Sequence[int] = (), threshold: float = 0.0
) -> np.ndarray:
    """The name of each mask, (K,) int, an index into the names or -1 for background; several masks may share one.

    Each mask takes its best name among `eligible` and `background`; it is background where that is one of `background`
    or where the best eligible probability is below `threshold`.
    """
    eligible, contenders = list(eligible), list(eligible) + list(background)
    if not eligible:
        return np.full(len(scores), -1)
    winner = np.array(contenders)[scores[:, contenders].argmax(axis=1)]
    named = np.isin(winner, eligible) & (scores[:, eligible].max(axis=1) >= threshold)
    return np.where(named, winner, -1)


def nearest_classes(
    names: Sequence[str], vocabulary: Vocabulary, clip: Clip, background_names: Sequence[str] = ()
) -> dict[str, tuple[int, float]]:
    """The class that each free name means, by the similarity of CLIP's texts: {name: (label, cosine similarity)}.

    A class is as near as the nearest way to say it (its name and synonyms). Where the vocabulary has a background, label
    0 may be meant too, by its own name and by `background_names` that are no class's.
    """
    forms = [(form, label) for label, synonyms in enumerate(vocabulary.synonyms) if label for form in synonyms]
    if vocabulary.background:
        taken = {form for form, _ in forms}
        forms += [
            (form, 0) for form in dict.fromkeys((*vocabulary.synonyms[0], *background_names)) if form not in taken
        ]
    if not names:
        return {}
    similarity = clip.encode_text(list(names)) @ clip.encode_text([form for form, _ in forms]).T
    return {
        name: (forms[best][1], float(row[best]))
        for name, row, best in zip(names, similarity, similarity.argmax(axis=1))
    }
