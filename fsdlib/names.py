"""Stages 7 and 8, name and assign: CLIP scores every mask against every name; scores become one name a mask."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from fsdlib.choice import Choice, Several
from fsdlib.clusters import covered
from fsdlib.models import Clip, Models, NotFinite, of_class_list
from fsdlib.vocabulary import Vocabulary


class View(Choice):
    """What CLIP is shown of a mask, and the texts it compares that with."""

    templates: Several[str] = Field(("{}",), description="templates for CLIP's texts, averaged")

    @field_validator("templates")
    @classmethod
    def _with_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if not templates or any("{}" not in template for template in templates):
            raise ValueError(f"the templates are {templates}: give at least one, each with a {{}} where the name goes")
        return templates

    def score(
        self,
        image: np.ndarray,
        masks: np.ndarray,
        names: Sequence[str],
        models: Models,
        eligible: Sequence[int] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """The probability of each name for each mask, softmax over all names: (K, len(names)) float32.

        image: (H, W, 3) uint8; masks: (K, H, W) bool. Without names there is nothing to choose from: (K, 0). eligible: the
        indices of names that may be given (None: all), for views that do more for each; seed: for those that draw noise.
        """
        if not names:
            return np.zeros((len(masks), 0), np.float32)
        return score_vectors(self.vectors(image, masks, models.clip), names, models.clip, self.templates)

    def vectors(self, image: np.ndarray, masks: np.ndarray, clip: Clip) -> np.ndarray:
        """What CLIP makes of each mask: (K, D) float32, of unit length."""
        raise NotImplementedError


class _Pictured(View):
    """A view that shows CLIP one picture a mask."""

    def vectors(self, image: np.ndarray, masks: np.ndarray, clip: Clip) -> np.ndarray:
        return clip.encode_images(self.pictures(image, masks))

    def pictures(self, image: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
        """What CLIP is shown, (H, W, 3) uint8 each."""
        raise NotImplementedError


class BlackFrame(_Pictured):
    """The whole picture, black outside the mask (METHOD, row 7).

    >>> picture, masks = np.full((2, 3, 3), 200, np.uint8), np.array([[[True, False, False], [False, False, False]]])
    >>> BlackFrame().pictures(picture, masks)[0][..., 0]
    array([[200,   0,   0],
           [  0,   0,   0]], dtype=uint8)
    """

    kind: Literal["black_frame"] = "black_frame"

    def pictures(self, image: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
        return [image * mask[..., None] for mask in masks]


class Crop(_Pictured):
    """The picture cut to the mask's box, in which a small object is large, black outside the mask; of an empty mask a black frame.

    With `margin` the box is wider, and outside the mask may be the mask's surroundings: their mean colour, blurred, or as they are.

    >>> picture, masks = np.full((2, 3, 3), 200, np.uint8), np.array([[[True, True, False], [False, False, False]]])
    >>> Crop().pictures(picture, masks)[0].shape
    (1, 2, 3)
    """

    kind: Literal["crop"] = "crop"
    margin: NonNegativeFloat = Field(
        0.0, description="how much wider the box is on each side, as a share of its own side"
    )
    outside: Literal["black", "mean", "blurred", "kept"] = Field("black", description="what is shown outside the mask")

    def pictures(self, image: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
        around = self._around(image)
        shown = []
        for mask in masks:
            frame = np.where(mask[..., None], image, around)
            if mask.any():
                frame = frame[tuple(_box(mask.any(axis=1 - axis), self.margin) for axis in (0, 1))]
            shown.append(frame)
        return shown

    def _around(self, image: np.ndarray) -> np.ndarray:
        """What is shown where no mask is, of the image's shape."""
        if self.outside == "mean":
            return np.broadcast_to(image.mean(axis=(0, 1)).round().astype(np.uint8), image.shape)
        if self.outside == "blurred":
            deviation = min(image.shape[:2]) / 20
            return gaussian_filter(image, (deviation, deviation, 0))
        return image if self.outside == "kept" else np.zeros_like(image)


def _box(inside: np.ndarray, margin: float) -> slice:
    """The indices from the first to the last that is inside, and so much more on both sides as a share of them."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    more = round(margin * (last + 1 - first))
    return slice(max(0, first - more), last + 1 + more)


class Dense(View):
    """The whole picture once, its patches pooled under each mask (see `pooled_patches`); needs an image tower that has them."""

    kind: Literal["dense"] = "dense"

    def vectors(self, image: np.ndarray, masks: np.ndarray, clip: Clip) -> np.ndarray:
        return pooled_patches(clip.encode_patches([image])[0], masks)


def encode_names(names: Sequence[str], clip: Clip, templates: Sequence[str] = ("{}",)) -> np.ndarray:
    """One unit vector a name, the mean over templates: (len(names), D) float32.

    >>> encode_names(["cat", "dog"], models.clip, ("{}", "a photo of a {}")).shape
    (2, 128)
    """

    def encoded() -> np.ndarray:
        said = ([template.format(name) for name in names] for template in templates)
        vectors = np.mean([clip.encode_text(texts) for texts in said], axis=0)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return of_class_list(clip, (tuple(names), tuple(templates)), encoded)


def score(
    pictures: Sequence[np.ndarray], names: Sequence[str], clip: Clip, templates: Sequence[str] = ("{}",)
) -> np.ndarray:
    """The probability of each name for each picture, softmax over all names: (len(pictures), len(names)) float32 (METHOD, row 7).

    >>> score([picture], ["dog", "cat", "bus"], models.clip).shape
    (1, 3)
    """
    return score_vectors(clip.encode_images(pictures), names, clip, templates)


def pooled_patches(patches: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The mean of the patches under each mask, of unit length: (K, D) float32; zeros for an empty mask.

    patches: (h, w, D), of one picture, as `Clip.encode_patches` returns them; masks: (K, H, W) bool. A patch counts as
    much as the share of it that the mask covers.

    >>> patches = np.array([[[1.0, 0.0], [0.0, 1.0]]])  # 1 x 2 patches, 2 dimensions
    >>> left = np.array([[[True, True, False, False]]])  # one mask of a 1 x 4 picture
    >>> pooled_patches(patches, left)
    array([[1., 0.]], dtype=float32)
    """
    height, width, _ = patches.shape
    sums = covered(masks, height, width).reshape(len(masks), -1) @ patches.reshape(height * width, -1)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def score_vectors(
    vectors: np.ndarray, names: Sequence[str], clip: Clip, templates: Sequence[str] = ("{}",)
) -> np.ndarray:
    """The probability of each name for each vector, (N, D) of unit length in CLIP's space; softmax over all names: (N, len(names)) float32.

    Raises NotFinite where a number is not finite: no name would win, as if nothing were found.

    >>> vectors = models.clip.encode_text(["dog", "bus"])
    >>> score_vectors(vectors, ["bus", "dog"], models.clip).argmax(axis=1)
    array([1, 0])
    """
    logits = clip.temperature * vectors @ encode_names(names, clip, templates).T
    if not np.isfinite(logits).all():
        raise NotFinite("similarities to names are not finite: load the models with dtype=torch.float32")
    return softmax(logits, axis=1).astype(np.float32)


def assign_one_cluster_per_class(scores: np.ndarray, eligible: Sequence[int]) -> np.ndarray:
    """The name of each mask, (K,) int, an index into the names or -1 for background.

    scores: (K, names); eligible: the indices that may be given. Other names' scores count as 0; each name keeps only its
    single best mask, or all that tie for it exactly, as where a softmax saturates; each mask takes the best name left to
    it; a mask with none is background (METHOD, row 8).

    >>> scores = np.array([[0.6, 0.4], [0.7, 0.3]])  # both masks like the first name best
    >>> assign_one_cluster_per_class(scores, eligible=[0, 1])
    array([1, 0])
    """
    if not len(scores):
        return np.zeros(0, int)
    allowed = np.zeros_like(scores)
    allowed[:, list(eligible)] = scores[:, list(eligible)]
    kept = np.where(allowed == allowed.max(axis=0), allowed, 0)
    return np.where(kept.max(axis=1) > 0, kept.argmax(axis=1), -1)


def assign_best(
    scores: np.ndarray, eligible: Sequence[int], background: Sequence[int] = (), threshold: float = 0.0
) -> np.ndarray:
    """The name of each mask, (K,) int, an index into the names or -1 for background; several masks may share one.

    Each mask takes its best name among `eligible` and `background`; it is background where that is one of `background`
    or where the best eligible probability is below `threshold`.

    >>> scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]])
    >>> assign_best(scores, eligible=[0, 1], background=[2])
    array([ 0, -1])
    """
    eligible, contenders = list(eligible), list(eligible) + list(background)
    if not eligible:
        return np.full(len(scores), -1)
    winner = np.array(contenders)[scores[:, contenders].argmax(axis=1)]
    named = np.isin(winner, eligible) & (scores[:, eligible].max(axis=1) >= threshold)
    return np.where(named, winner, -1)


def assign_best_proposal(
    scores: np.ndarray,
    masks: np.ndarray,
    eligible: Sequence[int],
    background: Sequence[int] = (),
    overlap: float = 0.2,
    threshold: float = 0.0,
) -> np.ndarray:
    """The name of each mask, (K,) int, an index into the names or -1 for none; each name has one mask, the surest of it.

    masks: (K, H, W) bool, which may overlap. A mask speaks for its best name among `eligible` and `background`, as in
    `assign_best`. The surest mask comes first and takes its name, unless the name is taken or `overlap` or more of the mask
    lies on masks that took one before. Where nothing stands for background, so that every pixel has a class, masks then
    take names that are taken, first under the same rule, at last wherever a pixel of theirs has no name.

    >>> masks = np.array([[[True, True, False]], [[True, False, False]], [[False, False, True]]])
    >>> scores = np.array([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.4, 0.6, 0.0]])
    >>> assign_best_proposal(scores, masks, eligible=[0, 1], background=[2])
    array([-1,  1, -1])
    """
    named = assign_best(scores, eligible, background, threshold)
    assigned, taken = np.full(len(scores), -1), np.zeros(masks.shape[1:], bool)
    sure = scores[np.arange(len(scores)), named]
    rounds = [(False, overlap)] if len(background) else [(False, overlap), (True, overlap), (True, 1.0)]
    for repeated, most in rounds:
        for k in np.argsort(-sure, kind="stable"):
            on_others = np.count_nonzero(masks[k] & taken)
            free = named[k] >= 0 and (repeated or named[k] not in assigned)
            if free and on_others < most * np.count_nonzero(masks[k]):
                assigned[k] = named[k]
                taken |= masks[k]
    return assigned


class Assignment(Choice):
    """How scores become one name a mask, and which masks are then regions of their own."""

    background_names: Several[str] = Field((), description="names that stand for background")
    threshold: NonNegativeFloat = Field(
        0.0, le=1, description="a mask whose best probability is below this is background"
    )

    def assign(
        self, scores: np.ndarray, eligible: Sequence[int], background: Sequence[int], masks: np.ndarray
    ) -> np.ndarray:
        """The name of each mask, (K,) int, an index into the names or -1 for background.

        scores: (K, names); masks: (K, H, W) bool; eligible, background: the indices of names that may be given, and that stand for background.
        """
        raise NotImplementedError

    def regions(self, masks: np.ndarray, assigned: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """What is refined and painted, (regions, H, W) bool in the order of painting, and the name of each, an index."""
        raise NotImplementedError


class OneClusterPerClass(Assignment):
    """Each name keeps its single best mask (see `assign_one_cluster_per_class`); each mask is a region (METHOD, row 8)."""

    kind: Literal["one_cluster_per_class"] = "one_cluster_per_class"

    def assign(
        self, scores: np.ndarray, eligible: Sequence[int], background: Sequence[int], masks: np.ndarray
    ) -> np.ndarray:
        if not eligible:
            return np.full(len(scores), -1)
        assigned = assign_one_cluster_per_class(scores, eligible)
        return np.where(scores[np.arange(len(scores)), np.maximum(assigned, 0)] >= self.threshold, assigned, -1)

    def regions(self, masks: np.ndarray, assigned: np.ndarray) -> tuple[np.ndarray, list[int]]:
        named = [k for k, name in enumerate(assigned) if name >= 0]
        return masks[named], [int(assigned[k]) for k in named]


class Merge(Assignment):
    """Every mask takes its best name (see `assign_best`); masks of one name are joined.

    >>> masks = np.eye(3, dtype=bool)[:, None]  # three masks of one pixel each, of a picture of 1 x 3
    >>> regions, names = Merge().regions(masks, np.array([1, -1, 1]))
    >>> regions.astype(int).tolist(), names
    ([[[1, 0, 1]]], [1])
    """

    kind: Literal["merge"] = "merge"

    def assign(
        self, scores: np.ndarray, eligible: Sequence[int], background: Sequence[int], masks: np.ndarray
    ) -> np.ndarray:
        return assign_best(scores, eligible, background, self.threshold)

    def regions(self, masks: np.ndarray, assigned: np.ndarray) -> tuple[np.ndarray, list[int]]:
        names = sorted({int(name) for name in assigned if name >= 0})
        unions = [masks[assigned == name].any(axis=0) for name in names]
        return (np.stack(unions) if unions else masks[:0]), names


class BestProposal(Assignment):
    """Each name takes the one mask that is surest of it, of many that overlap (see `assign_best_proposal`).

    >>> masks = np.array([[[True, True, True]], [[True, False, False]]])
    >>> regions, names = BestProposal().regions(masks, np.array([4, 2]))
    >>> regions.astype(int).tolist(), names  # the smaller lies on the larger
    ([[[1, 0, 0]], [[1, 1, 1]]], [2, 4])
    """

    kind: Literal["best_proposal"] = "best_proposal"
    overlap: float = Field(0.2, gt=0, le=1, description="a mask of which so much lies on surer masks takes no name")
    softness: PositiveFloat = Field(
        3.0,
        description="of how many parts CLIP's temperature is one: softmax saturates, and all masks would be as sure",
    )

    def assign(
        self, scores: np.ndarray, eligible: Sequence[int], background: Sequence[int], masks: np.ndarray
    ) -> np.ndarray:
        return assign_best_proposal(
            softened(scores, self.softness), masks, eligible, background, self.overlap, self.threshold
        )

    def regions(self, masks: np.ndarray, assigned: np.ndarray) -> tuple[np.ndarray, list[int]]:
        unions, names = Merge().regions(masks, assigned)
        smallest_first = np.argsort(unions.sum(axis=(1, 2)), kind="stable")
        return unions[smallest_first], [names[i] for i in smallest_first]


def softened(scores: np.ndarray, softness: float) -> np.ndarray:
    """Probabilities as a softmax at a temperature so many times as high would have had them: (K, names) to the same.

    >>> softened(np.array([[0.8, 0.2]]), softness=2).round(3)  # roots, made to sum to one again
    array([[0.667, 0.333]])
    """
    roots = scores ** (1 / softness)
    return roots / np.maximum(roots.sum(axis=1, keepdims=True), 1e-12)


def nearest_classes(
    names: Sequence[str], vocabulary: Vocabulary, clip: Clip, background_names: Sequence[str] = ()
) -> dict[str, tuple[int, float]]:
    """The class that each free name means, by the similarity of CLIP's texts: {name: (label, cosine similarity)}.

    A class is as near as the nearest way to say it (its name and synonyms). Where the vocabulary has a background, label
    0 may be meant too, by its own name and by `background_names` that are no class's.

    >>> nearest = nearest_classes(["kitten"], Vocabulary.of(["dog", "cat"]), models.clip)
    >>> sorted(nearest)
    ['kitten']
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
