"""Stages 9 and 10, refine and paint: masks follow the picture's edges and are laid into one label map (RECIPE rows 9, 10)."""

from collections.abc import Sequence

import numpy as np
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels


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
    height, width = image.shape[:2]
    image = np.require(image, np.uint8, ["C", "W"])  # what pydensecrf takes
    refined = np.zeros_like(masks)
    for number, mask in enumerate(masks):
        crf = DenseCRF2D(width, height, 2)
        crf.setUnaryEnergy(unary_from_labels(mask.astype(np.int32), 2, gt_prob, zero_unsure=False))
        crf.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
        crf.addPairwiseBilateral(sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=image, compat=bilateral_compat)
        refined[number] = np.argmax(crf.inference(iterations), axis=0).reshape(height, width)
    return refined


def paint(masks: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """One label map from masks in order, each only on pixels still empty: (H, W) uint8, 0 where no mask was laid.

    masks: (K, H, W) bool; labels: one a mask, 1 to 254 (0 is background, which is what stays empty).
    """
    canvas = np.zeros(masks.shape[1:], np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        canvas[mask & (canvas == 0)] = label
    return canvas
