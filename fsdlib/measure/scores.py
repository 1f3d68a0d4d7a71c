"""Scores: one confusion count an image, and from those every number the field reports.

Three protocols, which differ by many points on one prediction (METHOD, row 11):

`dataset`: one confusion matrix over the split, void pixels out, the mean over classes that occur in truth or
prediction: what the literature reports.
`per_image`: IoU averaged over the classes present in an image's truth, then over images: what FreeSeg-Diff reports. What
becomes of void there is a fact of the benchmark (`Benchmark.void_is_background`).
`per_image_union`: IoU averaged over the classes that occur in an image's truth or prediction, then over images, void
counted as background: what DiffCut reports for its open vocabulary. Its public evaluation
(github.com/PaulCouairon/DiffCut, eval_diffcut_openvoc.py, commit aa16df4) calls torchmetrics' JaccardIndex anew for
each image, whose macro average leaves out classes that neither map holds, sums those numbers and divides by the number
of images; unlabelled and void pixels are label 0 there, a class. It does so on centre squares of the pictures, which
the model sees alone: `open_dataset(..., centre_crops=True)`.

Label 0 is the background. Where a class list has none (`background=False`) label 0 is a pixel without a name: it is no
class in any mean, though a class's missed pixels still count against it, and void is out, but for the benchmarks whose
`per_image` protocol says otherwise.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from skimage.segmentation import find_boundaries

from fsdlib.clusters import enlarged

VOID = 255
# Of the pixels: where more lie on boundaries, distances of all pixels together come sooner than those of each.
_DENSE = 0.1
PROTOCOLS = ("dataset", "per_image", "per_image_union")


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixel counts, (classes + 1, classes) int64: rows the truth, the last row void; columns the prediction.

    prediction, truth: (H, W) integers below `classes`, truth also 255 for void. Raises ValueError for other shapes or
    labels.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"the prediction is {prediction.shape} and the truth {truth.shape}: compare them at the truth's size"
        )
    highest = max(truth[truth != VOID].max(initial=0), prediction.max(initial=0))
    if highest >= classes:
        raise ValueError(f"labels reach {highest}, but there are {classes} classes: is this the right class list?")
    rows = np.where(truth == VOID, classes, truth).astype(np.int64)
    counts = np.bincount(rows.ravel() * classes + prediction.ravel(), minlength=(classes + 1) * classes)
    return counts.reshape(classes + 1, classes)


# --------------------------------------------------------------------------------------------- the three protocols


def iou_of_classes(counts: np.ndarray) -> np.ndarray:
    """IoU of every class from (classes, classes) counts without void: (classes,) float64, nan for absent ones."""
    return iou_of_areas(areas(np.vstack([counts, np.zeros_like(counts[:1])])))


def areas(counts: np.ndarray) -> np.ndarray:
    """Pixels of every class that are right, in the truth, in the prediction, void out: (3, classes) int64.

    Sums over images add up.
    """
    return np.stack([np.diag(counts), counts[:-1].sum(axis=1), counts[:-1].sum(axis=0)])


def iou_of_areas(found: np.ndarray) -> np.ndarray:
    """IoU from `areas`, (..., 3, classes): (..., classes) float64, nan where a class occurs nowhere."""
    right, union = found[..., 0, :].astype(float), found[..., 1, :] + found[..., 2, :] - found[..., 0, :]
    return np.divide(right, union, out=np.full(right.shape, np.nan), where=union > 0)


def dataset_iou(counts: Sequence[np.ndarray], background: bool = True) -> np.ndarray:
    """IoU of every class over a split, void out; its nanmean is the `dataset` mIoU.

    counts: from `confusion`, one an image, or their sum as the only one.
    """
    found = iou_of_classes(np.sum(counts, axis=0)[:-1])
    found[: 0 if background else 1] = np.nan
    return found


def image_iou(counts: np.ndarray, void_is_background: bool = True) -> np.ndarray:
    """One image's IoU of the classes present in its truth: (classes,) float64, nan for all others.

    counts: from `confusion`. void_is_background: whether void counts as label 0, which then is a class even where the
    class list has no background; void is left out otherwise.
    """
    folded = _folded(counts, void_is_background)
    found = iou_of_classes(folded)
    found[folded.sum(axis=1) == 0] = np.nan
    return found


def image_miou(counts: np.ndarray, void_is_background: bool = True) -> float:
    """The mean of `image_iou`; nan for an image whose truth is void alone and has no class."""
    return mean(image_iou(counts, void_is_background))


def image_union_iou(counts: np.ndarray, background: bool = True) -> np.ndarray:
    """One image's IoU of the classes in its truth or prediction, void as background: (classes,) float64, nan for others.

    counts: from `confusion`. Without a background, which no published figure of this protocol is over, void is out.
    """
    found = iou_of_classes(_folded(counts, background))
    found[: 0 if background else 1] = np.nan
    return found


def image_union_miou(counts: np.ndarray, background: bool = True) -> float:
    """The mean of `image_union_iou`; nan where no class occurs."""
    return mean(image_union_iou(counts, background))


def _folded(counts: np.ndarray, void_is_background: bool) -> np.ndarray:
    """(classes, classes) counts, the void row added to the background's or left out."""
    folded = counts[:-1].copy()
    if void_is_background:
        folded[0] += counts[-1]
    return folded


def mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of what is not nan; nan where nothing is left."""
    kept = np.asarray(values, float)
    kept = kept[~np.isnan(kept)]
    return float(kept.mean()) if len(kept) else float("nan")


def rounded(value: float, digits: int = 6) -> float | None:
    """For JSON, which knows neither nan nor infinity."""
    return None if not np.isfinite(value) else round(float(value), digits)


def miou(
    counts: Sequence[np.ndarray], background: bool = True, void_is_background: bool | None = None
) -> dict[str, float]:
    """All protocols over a split: {"dataset": ..., "per_image": ..., "per_image_union": ...}, 0 to 1.

    void_is_background: in `per_image` (see `image_iou`); as `background` by default.
    """
    folds = background if void_is_background is None else void_is_background
    return dict(
        dataset=mean(dataset_iou(counts, background)),
        per_image=mean([image_miou(one, folds) for one in counts]),
        per_image_union=mean([image_union_miou(one, background) for one in counts]),
    )


def metrics(total: np.ndarray, background: bool = True) -> dict[str, float]:
    """What one confusion matrix over a split says, void out, 0 to 1. total: the sum of `confusion` over images.

    miou: IoU, the mean over classes that occur in truth or prediction. pixel_accuracy: the share of pixels that are
    right.
    mean_accuracy: each class's share of right pixels, the mean over classes in the truth. frequency_weighted_iou: IoU
    weighted by the classes' pixels in the truth (Long et al., CVPR 2015, section 5). With background=False all four
    are over the other classes' pixels in the truth; what is wrongly said of the background's still lowers IoU.
    """
    first = 0 if background else 1
    right, in_truth, _ = areas(total)[:, first:]
    iou, pixels = iou_of_areas(areas(total))[first:], max(1, in_truth.sum())
    accuracy = np.divide(right, in_truth, out=np.full(len(right), np.nan), where=in_truth > 0)
    return dict(
        miou=mean(iou),
        pixel_accuracy=float(right.sum() / pixels),
        mean_accuracy=mean(accuracy),
        frequency_weighted_iou=float((np.nan_to_num(iou) * in_truth).sum() / pixels),
    )


def bootstrap(
    of_images: np.ndarray,
    image_mious: dict[str, np.ndarray],
    background: bool = True,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Intervals of all protocols' mIoU from resampled images: {protocol: (low, high)}.

    of_images: (N, 3, classes), `areas` of each image; image_mious: for each protocol that is a mean over images, (N,),
    nan where an image has none. Images are drawn with replacement, N of them, `resamples` times; all protocols see the
    same draws. A class that no drawn image holds keeps its IoU over all images: left out, rare classes, which are often
    the worst, would lift the mean of the draws. An interval is the middle of the draws (Efron, 1979), moved so that their
    mean is the score: a class of few images, which many draws hold in part, pulls the draws below the score, at times all
    of them.
    """
    found = _resampled(of_images, image_mious, background, seed, resamples)
    over_all = iou_of_areas(of_images.sum(axis=0, dtype=np.int64))[0 if background else 1 :]
    reached = {"dataset": mean(over_all)} | {protocol: mean(values) for protocol, values in image_mious.items()}
    intervals = {protocol: _interval(values, reached[protocol], level) for protocol, values in found.items()}
    return {protocol: tuple(np.clip(interval, 0.0, 1.0).tolist()) for protocol, interval in intervals.items()}


def ahead(
    ours: Sequence[np.ndarray],
    others: Sequence[np.ndarray],
    background: bool = True,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    void_is_background: bool | None = None,
) -> dict[str, tuple[float, float, float]]:
    """By how much one method's mIoU is above another's on the same images: {protocol: (difference, low, high)}.

    ours, others: `confusion` counts, one an image, in the same order. The interval is that of the difference where both
    are drawn alike (as in `bootstrap`): images that are hard for both do not widen it. void_is_background: as in `miou`.
    """
    folds = background if void_is_background is None else void_is_background
    means = [miou(counts, background, folds) for counts in (ours, others)]
    drawn = []
    for counts in (ours, others):
        of_images = {
            "per_image": np.array([image_miou(one, folds) for one in counts]),
            "per_image_union": np.array([image_union_miou(one, background) for one in counts]),
        }
        drawn.append(_resampled(np.stack([areas(one) for one in counts]), of_images, background, seed, resamples))
    found = {}
    for protocol in means[0]:
        difference = means[0][protocol] - means[1][protocol]
        draws = np.subtract(drawn[0][protocol], drawn[1][protocol])
        found[protocol] = (difference, *_interval(draws, difference, level))
    return found


def _interval(draws: Sequence[float] | np.ndarray, reached: float, level: float) -> tuple[float, float]:
    """The middle of the draws, moved so that their mean is what was reached; nan without any draw."""
    found = np.asarray(draws, float)
    found = found[~np.isnan(found)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]) + (reached - found.mean())
    return float(low), float(high)


def _resampled(
    of_images: np.ndarray, image_mious: dict[str, np.ndarray], background: bool, seed: int, resamples: int
) -> dict[str, list[float]]:
    """All protocols' mIoU of each draw of the images."""
    random, count = np.random.default_rng(seed), len(of_images)
    first = 0 if background else 1
    over_all = iou_of_areas(of_images.sum(axis=0, dtype=np.int64))[first:]
    flat = of_images.reshape(count, -1).astype(np.float64)
    found: dict[str, list[float]] = {protocol: [] for protocol in ("dataset", *image_mious)}
    for start in range(0, resamples, 50):  # in portions, so that memory does not grow with the number of resamples
        times = random.multinomial(count, np.full(count, 1 / count), size=min(50, resamples - start)).astype(np.float64)
        iou = iou_of_areas((times @ flat).reshape(len(times), *of_images.shape[1:]))[:, first:]
        found["dataset"] += [mean(row) for row in np.where(np.isnan(iou), over_all, iou)]
        for protocol, values in image_mious.items():
            found[protocol] += (times @ np.nan_to_num(values) / np.maximum(times @ ~np.isnan(values), 1)).tolist()
    return found


# --------------------------------------------------------------------------------------------- masks apart from names


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


def hungarian_labels(clusters: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each class takes one cluster at most, so that the sum of IoU is highest; clusters without a class are background.

    The matching of DiffSeg and DiffCut, harsher than `majority_labels`: parts of one object do not add up. clusters,
    truth: (H, W) integers, truth with 255 for void, which counts for nothing.
    """
    known = truth != VOID
    classes, truth_at = np.unique(truth[known], return_inverse=True)
    numbers, cluster_at = np.unique(clusters[known], return_inverse=True)
    labels = np.zeros(int(clusters.max()) + 1, np.uint8)
    if len(classes):
        common = np.bincount(cluster_at * len(classes) + truth_at, minlength=len(numbers) * len(classes)).reshape(
            len(numbers), len(classes)
        )
        union = common.sum(axis=1, keepdims=True) + common.sum(axis=0) - common
        rows, columns = linear_sum_assignment(common / union, maximize=True)
        labels[numbers[rows]] = classes[columns]
    return labels[clusters]


def boundary_f(regions: np.ndarray, truth: np.ndarray, tolerance: float = 0.0075) -> float:
    """How well boundaries between regions lie on boundaries of the truth, names apart: F1, 0 to 1.

    A boundary pixel is right where one of the other map is within `tolerance` times the picture's diagonal (Csurka et
    al., BMVC 2013, who take 0.75 %). Void, which lies around objects in Pascal VOC, first takes the nearest label. Two
    maps without any boundary agree. regions, truth: (H, W) integers, truth with 255 for void.
    """
    void = truth == VOID
    if void.all():
        return float("nan")
    if void.any():
        truth = truth[tuple(distance_transform_edt(void, return_distances=False, return_indices=True))]
    reach = max(1.0, tolerance * np.hypot(*truth.shape))
    ours, theirs = (find_boundaries(labels.astype(np.int32), mode="thick") for labels in (regions, truth))
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision, recall = _near(ours, theirs, reach).mean(), _near(theirs, ours, reach).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _near(pixels: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """Which of some pixels, in their order, have one of the others within `reach`; both (H, W) bool, neither empty."""
    if others.mean() > _DENSE:
        return distance_transform_edt(~others)[pixels] <= reach
    # a search from pixel to pixel takes the time of the boundaries' lengths, not of the picture's area
    distances, _ = cKDTree(np.argwhere(others)).query(
        np.argwhere(pixels), distance_upper_bound=np.nextafter(reach, np.inf)
    )
    return distances <= reach


def pieces(clusters: np.ndarray, target: np.ndarray, share: float = 0.9) -> int:
    """Into how many pieces an object falls: the fewest clusters that together hold `share` of its pixels.

    What else they hold is not asked: a single cluster holds every object in one piece. clusters: (H, W) integers from 0;
    target: (H, W) bool. Raises ValueError for an object without pixels.
    """
    if not target.any():
        raise ValueError("the object has no pixels: ask only of objects that are in the picture")
    held = np.sort(np.bincount(clusters[target]))[::-1].cumsum()
    return int((held < share * held[-1]).sum()) + 1


def wholeness(clusters: np.ndarray, truth: np.ndarray, label: int) -> dict[str, float]:
    """How whole the clusters find one object: its pieces, and its best cluster, the one with the highest IoU.

    `pieces` counts as above; `iou`, 0 to 1, is the best cluster's, and `boundary_f`, 0 to 1, says how well that cluster's
    outline lies on the object's. Void is out. clusters: (h, w) integers from 0, enlarged to the truth as the pipeline's
    masks are; truth: (H, W) integers, 255 for void, and `label` at the object.
    """
    regions, target, known = enlarged(clusters, *truth.shape), truth == label, truth != VOID
    held, sizes = (np.bincount(regions[pixels], minlength=int(regions.max()) + 1) for pixels in (target, known))
    iou = held / (sizes + target.sum() - held)
    outlines = regions == iou.argmax(), np.where(known, target, VOID)
    return dict(pieces=pieces(regions, target), iou=float(iou.max()), boundary_f=boundary_f(*outlines))


def matched_miou(clusters: np.ndarray, truth: np.ndarray) -> float:
    """What one picture's masks are worth apart from naming, 0 to 1: mIoU with void out, clusters of their majority class.

    clusters: (h, w) uint8, enlarged to the truth as the pipeline's masks are; truth: (H, W) integers, 255 for void.
    """
    classes = int(truth[truth != VOID].max(initial=0)) + 1
    return mean(dataset_iou([confusion(majority_labels(enlarged(clusters, *truth.shape), truth), truth, classes)]))
