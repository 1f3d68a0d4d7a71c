"""Oracles: the pipeline with stages replaced by the truth, which says what each stage costs and what mending it is worth.

Closed vocabulary only: the truth knows classes, not words.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fsdlib import clusters as clustering
from fsdlib import pipeline, refinement, words
from fsdlib.features import image_seed
from fsdlib.models import Models
from fsdlib.pipeline import Result
from fsdlib.recipe import Recipe
from fsdlib.vocabulary import VOID, Vocabulary

if TYPE_CHECKING:
    import pandas

STAGES = ("caption", "masks", "names", "refinement")
# Nothing mended, each stage alone, then one after the other in the pipeline's order.
ALONE = ((), *((stage,) for stage in STAGES))
TOGETHER = tuple(STAGES[:count] for count in range(len(STAGES) + 1))


def segment_with(
    image: np.ndarray,
    truth: np.ndarray,
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary,
    perfect: Sequence[str] = (),
    seed: int = 0,
    known: dict | None = None,
) -> np.ndarray:
    """The label map, (H, W) uint8, that the pipeline makes where the stages in `perfect` know the truth; with none of them, `segment`'s.

    caption: the candidates are the classes truly present. masks: one mask for each class of the truth and one for the
    background (with the void) stand in for the clusters. names: each mask has the class that most of its pixels have, or
    background; of masks that overlap, a class has the one of these alone that fits it best. refinement: a named region becomes the true mask of its class where most of the one lies in the other,
    so that its edges move and its missing parts come, but nothing is found that was not; other regions are refined as
    the recipe says, and painted after those.

    image: (H, W, 3) uint8; truth: (H, W) labels, 255 for void. known: a dict for what was computed before for this picture,
    models, recipe and seed; calls that are given the same one compute each thing once ("perception" may be put in from
    `fsdlib.pipeline.perceive`). Raises ValueError for other stages and for an open vocabulary.

    >>> from fsdlib.recipe import PAPER
    >>> truth, classes = np.zeros(picture.shape[:2], np.uint8), Vocabulary.of(["dog", "pizza"])
    >>> truth[50:150, 50:150] = 1
    >>> np.unique(segment_with(picture, truth, models, PAPER, classes, perfect=STAGES))
    array([0, 1], dtype=uint8)
    """
    unknown = [stage for stage in perfect if stage not in STAGES]
    if unknown:
        raise ValueError(f"no stage is called {unknown[0]!r}: choose from {', '.join(STAGES)}")
    if not isinstance(recipe.vocabulary, words.Closed):
        raise ValueError(
            f"recipe {recipe.name!r} has the vocabulary mode {recipe.vocabulary.kind!r}: the oracles know what 'closed' "
            "leaves to the caption, so take that"
        )
    known = {} if known is None else known
    perception = _once(known, "perception", lambda: pipeline.perceive([image], models, recipe, seed)[0])
    found = words.words(perception.caption)
    mode = words.Oracle() if "caption" in perfect else recipe.vocabulary
    present = np.setdiff1d(truth, (0, VOID)).tolist()
    names = recipe.assignment.background_names
    choices = mode.choices(found, vocabulary, models.diffusion, names, present, recipe.wording)

    # all that the masks depend on, beside the picture
    source: str | int = "truth" if "masks" in perfect else choices.expected
    features = _once(known, "features", lambda: recipe.features.stacked(perception.maps))
    if "masks" in perfect:
        masks = true_masks(truth)
    else:
        own_seed = image_seed(image, "clusters", seed)
        partitions = _once(
            known, ("clusters", source), lambda: recipe.clusters.partitions(features, own_seed, choices.expected)
        )
        masks = clustering.proposals(partitions, *truth.shape)

    if "names" in perfect:
        assigned = _true_names(masks, truth) - 1  # the texts are the classes in the order of their labels, from 1
    else:
        eligible = choices.eligible
        scores = _once(
            known,
            ("scores", source, tuple(eligible)),
            lambda: recipe.spreading.spread(
                recipe.view.score(image, masks, choices.texts, models, eligible, seed), masks, features
            ),
        )
        assigned = recipe.assignment.assign(scores, choices.eligible, choices.background, masks)

    regions, texts = recipe.assignment.regions(masks, assigned)
    labels = [choices.label(text) for text in texts]
    mended = [
        "refinement" in perfect and _mostly_within(region, truth == label) for region, label in zip(regions, labels)
    ]

    def refined(region: np.ndarray) -> np.ndarray:
        return _once(known, ("refined", region.tobytes()), lambda: recipe.refinement.refine(image, region[None])[0])

    final = [truth == label if true else refined(region) for region, label, true in zip(regions, labels, mended)]
    order = sorted(range(len(final)), key=lambda i: not mended[i])
    return refinement.paint(
        np.array([final[i] for i in order], bool).reshape(-1, *truth.shape), [labels[i] for i in order]
    )


def _once(known: dict, key, compute):
    """What `known` holds under the key, computed where it is not there yet."""
    if key not in known:
        known[key] = compute()
    return known[key]


def true_masks(truth: np.ndarray) -> np.ndarray:
    """One mask for the background, void included, where there is any, then one for each class: (N, H, W) bool, every pixel in one.

    >>> true_masks(np.array([[0, 3, 255]])).astype(int).tolist()
    [[[1, 0, 1]], [[0, 1, 0]]]
    """
    filled = np.where(truth == VOID, 0, truth)
    return filled == np.unique(filled)[:, None, None]


def diagnose(result: Result, truth: np.ndarray) -> "pandas.DataFrame":
    """Where each true class of a picture was lost, one row a class: IoU after each stage, and the first stage that lost it.

    in_caption: whether the class was a candidate. best_clusters: the IoU of the union of clusters that fits it best.
    named: the IoU of what carries its name before refinement. final: the IoU of what is painted. lost_at: "" where
    `final` is above 0.5, else the first of "caption" (no candidate), "clusters" (best_clusters at most 0.5), "names"
    (named at most 0.5) and "refinement". The void counts for nothing. truth: (H, W) labels, 255 for void.

    >>> from fsdlib.recipe import PAPER
    >>> result = pipeline.segment(picture, models, PAPER, ["dog", "pizza"])
    >>> list(diagnose(result, np.ones(picture.shape[:2], np.uint8)).name)
    ['dog']
    """
    import pandas  # comes with the extra `measure`

    known = truth != VOID
    candidates = {candidate.label for candidate in result.candidates if candidate.kept}
    rows = []
    for label in np.setdiff1d(truth, (0, VOID)):
        target = truth == label
        row = dict(
            name=result.names[label],
            in_caption=bool(label in candidates),
            best_clusters=best_union(result.masks, target, known),
            named=_iou(result.coarse == label, target, known),
            final=_iou(result.labels == label, target, known),
        )
        lost = dict(
            caption=not row["in_caption"],
            clusters=row["best_clusters"] <= 0.5,
            names=row["named"] <= 0.5,
            refinement=True,
        )
        rows.append(
            row | dict(lost_at="" if row["final"] > 0.5 else next(stage for stage, here in lost.items() if here))
        )
    return pandas.DataFrame(rows, columns=["name", "in_caption", "best_clusters", "named", "final", "lost_at"])


def best_union(masks: np.ndarray, target: np.ndarray, known: np.ndarray | None = None) -> float:
    """The highest IoU that a union of masks, (K, H, W) bool, can have with the target, (H, W) bool.

    Only pixels in `known` count. The best union takes masks in the order of their share of target pixels, as far as the IoU
    rises: of masks that are disjoint, that is. Of masks that overlap, what comes out is reached by such a union or by one
    mask alone, and may be less than the highest.

    >>> masks = np.array([[[True, True, False, False]], [[False, False, True, False]], [[False, False, False, True]]])
    >>> best_union(masks, np.array([[True, True, True, False]]))
    1.0
    """
    known = np.ones_like(target) if known is None else known
    inside, outside = (masks & target & known).sum(axis=(1, 2)), (masks & ~target & known).sum(axis=(1, 2))
    order = np.argsort(-inside / np.maximum(inside + outside, 1), kind="stable")
    unions = np.logical_or.accumulate(masks[order], axis=0)
    return max(_iou(found, target, known) for found in (*unions, *masks))


def _iou(found: np.ndarray, target: np.ndarray, known: np.ndarray) -> float:
    return float((found & target & known).sum() / ((found | target) & known).sum())


def _majority(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The label that most of each mask's pixels have, (K,) int; void has no vote."""
    votes = [np.bincount(truth[mask & (truth != VOID)], minlength=1) for mask in masks]
    return np.array([vote.argmax() for vote in votes])


def _true_names(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The label of each mask where names are perfect, (K,) int, 0 for background."""
    labels = _majority(masks, truth)
    if masks.sum(axis=0).max(initial=0) < 2:
        return labels
    fit = np.array([_iou(mask, truth == label, truth != VOID) if label else 0 for mask, label in zip(masks, labels)])
    return np.where([label and fit[k] == fit[labels == label].max() for k, label in enumerate(labels)], labels, 0)


def _mostly_within(region: np.ndarray, target: np.ndarray) -> bool:
    """Whether most of the one lies in the other."""
    return bool(2 * (region & target).sum() > min(region.sum(), target.sum()))
