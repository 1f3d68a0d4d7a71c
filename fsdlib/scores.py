"""Scores: one confusion count an image, and both protocols of mIoU from the same counts.

`dataset`: one confusion matrix over the split, void pixels out, the mean over classes that occur in truth or prediction:
what the literature reports. `per_image`: IoU averaged over the classes present in an image's truth, then over images,
void counted as background: what FreeSeg-Diff reports (RECIPE row 11). The two differ by many points on one prediction.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

VOID = 255


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixel counts, (classes + 1, classes) int64: rows the truth, the last row void; columns the prediction.

    prediction, truth: (H, W) integers below `classes`, truth also 255 for void. Raises ValueError for other shapes or labels.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape} and the truth {truth.shape}: compare them at the truth's size")
    highest = max(truth[truth != VOID].max(initial=0), prediction.max(initial=0))
    if highest >= classes:
        raise ValueError(f"labels reach {highest}, but there are {classes} classes: is this the right class list?")
    rows = np.where(truth == VOID, classes, truth).astype(np.int64)
    counts = np.bincount(rows.ravel() * classes + prediction.ravel(), minlength=(classes + 1) * classes)
    return counts.reshape(classes + 1, classes)


def iou_of_classes(counts: np.ndarray) -> np.ndarray:
    """IoU of every class from (classes, classes) counts without void: (classes,) float64, nan where a class occurs nowhere."""
    hit = np.diag(counts).astype(float)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def dataset_iou(counts: Sequence[np.ndarray]) -> np.ndarray:
    """IoU of every class over a split, void out; its nanmean is the `dataset` mIoU. counts: from `confusion`, one an image."""
    return iou_of_classes(np.sum(counts, axis=0)[:-1])


def image_miou(counts: np.ndarray) -> float:
    """One image's mIoU over the classes present in its truth, void as background; counts: from `confusion`."""
    folded = counts[:-1].copy()
    folded[0] += counts[-1]
    return float(iou_of_classes(folded)[folded.sum(axis=1) > 0].mean())


def miou(counts: Sequence[np.ndarray]) -> dict[str, float]:
    """Both protocols over a split: {"dataset": ..., "per_image": ...}, 0 to 1."""
    return dict(dataset=float(np.nanmean(dataset_iou(counts))), per_image=float(np.mean([image_miou(one) for one in counts])))


def majority_labels(clusters: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each cluster takes the class most of its pixels have in the truth: what masks are worth apart from naming.

    clusters, truth: (H, W) integers, truth with 255 for void, which has no vote; a cluster all void is background.
    """
    labels = np.zeros(int(clusters.max()) + 1, np.uint8)
    for number in np.unique(clusters):
        votes = truth[(clusters == number) & (truth != VOID)]
        if len(votes):
            labels[number] = np.bincount(votes).argmax()
    return labels[clusters]


def matched_miou(clusters: np.ndarray, truth: np.ndarray) -> float:
    """What one picture's masks are worth apart from naming, 0 to 1: mIoU with void out, every cluster given its majority class.

    clusters: (h, w) uint8, enlarged to the truth by nearest neighbour; truth: (H, W) integers, 255 for void.
    """
    enlarged = np.asarray(Image.fromarray(clusters).resize(truth.shape[::-1], Image.Resampling.NEAREST))
    classes = int(truth[truth != VOID].max(initial=0)) + 1
    return float(np.nanmean(dataset_iou([confusion(majority_labels(enlarged, truth), truth, classes)])))
