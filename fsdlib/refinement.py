"""Stages 9 and 10, refine and paint: masks follow the picture's edges and are laid into one label map (RECIPE rows 9, 10)."""

from collections.abc import Sequence

import numpy as np
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels
from scipy.special import softmax

# How much sharper than the local standard deviation PAMR cuts: the factor of its authors' release.
_PAMR_SHARPNESS = 0.1


def refine(
    image: np.ndarray,
    masks: np.ndarray,
    gt_prob: float = 0.9,
    gaussian_sxy: float = 20,
    gaussian_compat: float = 5,
    bilateral_sxy: float = 20,
    bilateral_srgb: float = 20,
    bilateral_compat: float = 100,
    iterations: int = 10,
) -> np.ndarray:
    """Each mask refined by a dense CRF of two labels, in and out: (K, H, W) bool (Krähenbühl and Koltun, arXiv 1210.5644).

    image: (H, W, 3) uint8; masks: (K, H, W) bool. sxy in pixels, srgb in levels of 255.
    """
    options = (gt_prob, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat, iterations)
    refined = np.zeros_like(masks)
    for number, mask in enumerate(masks):
        refined[number] = np.argmax(marginals(image, mask, *options), axis=0)
    return refined


def marginals(
    image: np.ndarray,
    mask: np.ndarray,
    gt_prob: float = 0.9,
    gaussian_sxy: float = 20,
    gaussian_compat: float = 5,
    bilateral_sxy: float = 20,
    bilateral_srgb: float = 20,
    bilateral_compat: float = 100,
    iterations: int = 10,
) -> np.ndarray:
    """What the CRF's mean field believes of every pixel, (2, H, W) float32: the probability to be out of the mask, and in it.

    Takes one mask, (H, W) bool, and otherwise what `refine` takes.
    """
    height, width = mask.shape
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_from_labels(mask.astype(np.int32), 2, gt_prob, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    image = np.require(image, np.uint8, ["C", "W"])  # what pydensecrf takes
    crf.addPairwiseBilateral(sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=image, compat=bilateral_compat)
    return np.asarray(crf.inference(iterations), np.float32).reshape(2, height, width)


def kernel(image: np.ndarray, row: int, column: int, sxy: float = 20, srgb: float | None = None) -> np.ndarray:
    """How strongly one pixel is tied to every other, (H, W) float64, 1 at the pixel itself (Krähenbühl and Koltun, eq. 3, unnormalised).

    image: (H, W, 3) uint8; sxy in pixels. Without `srgb` the smoothness kernel, a Gaussian of the distance; with it, in
    levels of 255, the appearance kernel, which also falls with the difference in colour.
    """
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    exponent = ((rows - row) ** 2 + (columns - column) ** 2) / (2 * sxy**2)
    if srgb is not None:
        exponent = exponent + ((image.astype(float) - image[row, column]) ** 2).sum(axis=2) / (2 * srgb**2)
    return np.exp(-exponent)


def refine_pamr(
    image: np.ndarray,
    masks: np.ndarray,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
    threshold: float = 0.5,
) -> np.ndarray:
    """Each mask refined by pixel-adaptive mask refinement, PAMR: (K, H, W) bool (Araslanov and Roth, arXiv 2005.08104, section 3.3).

    image: (H, W, 3) uint8; masks: (K, H, W) bool. Every iteration replaces a pixel by the mean of its neighbours, weighted
    by `pamr_weights`; what ends above `threshold` is in.
    """
    return pamr(pamr_weights(image, dilations), masks, iterations, dilations) > threshold


def pamr(
    weights: np.ndarray, masks: np.ndarray, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)
) -> np.ndarray:
    """Masks as PAMR's weighted means leave them, (K, H, W) float32, 0 to 1; weights: from `pamr_weights` of the same dilations."""
    soft = masks.astype(np.float32)
    for _ in range(iterations):
        soft = sum(weight * neighbour for weight, neighbour in zip(weights, _neighbours(soft, dilations), strict=True))
    return soft


def pamr_weights(image: np.ndarray, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)) -> np.ndarray:
    """How much each neighbour counts in a pixel's mean, (8 * len(dilations), H, W) float32 that sum to 1 at every pixel.

    A softmax over the neighbours (eight at each dilation, row by row; beyond the border the border's pixel) of minus
    their difference in colour, divided by the standard deviation among them and the pixel, averaged over channels.
    """
    channels = np.moveaxis(image, 2, 0).astype(np.float32)
    around = np.stack(list(_neighbours(channels, dilations)))
    deviation = np.concatenate([around, np.stack([channels] * len(dilations))]).std(
        axis=0, ddof=1
    )  # each dilation's nine pixels
    affinity = -(np.abs(around - channels) / np.maximum(_PAMR_SHARPNESS * deviation, 1e-6)).mean(axis=1)
    return softmax(affinity, axis=0)


def _neighbours(arrays: np.ndarray, dilations: Sequence[int]):
    """For each of the eight neighbours at each dilation, (N, H, W) arrays moved so that it lies on the pixel itself."""
    height, width = arrays.shape[1:]
    for d in dilations:
        padded = np.pad(arrays, ((0, 0), (d, d), (d, d)), mode="edge")
        for top, left in [(0, 0), (0, d), (0, 2 * d), (d, 0), (d, 2 * d), (2 * d, 0), (2 * d, d), (2 * d, 2 * d)]:
            yield padded[:, top : top + height, left : left + width]


def paint(masks: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """One label map from masks in order, each only on pixels still empty: (H, W) uint8, 0 where no mask was laid.

    masks: (K, H, W) bool; labels: one a mask, 1 to 254 (0 is background, which is what stays empty).
    """
    canvas = np.zeros(masks.shape[1:], np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        canvas[mask & (canvas == 0)] = label
    return canvas
