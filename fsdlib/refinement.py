"""Stages 9 and 10, refine and paint: masks follow the picture's edges and are laid into one label map."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels
from scipy.special import expit, logit, softmax

from fsdlib.choice import Choice, Several
from fsdlib.clusters import enlarged
from fsdlib.vocabulary import VOID

# How much sharper than the local standard deviation PAMR cuts: the factor of its authors' release.
_PAMR_SHARPNESS = 0.1
# Masks that a CRF filters at once: its filter works on four numbers at a time, and each more takes memory a pixel.
_MASKS_TOGETHER = 4


class Refinement(Choice):
    """How masks are fitted to the picture's edges, and what becomes of pixels that none of them claims."""

    fill: bool = Field(
        False, description="without a background class, pixels that no refined mask claims keep their cluster's name"
    )

    def label_map(self, image: np.ndarray, masks: np.ndarray, labels: Sequence[int], background: bool) -> np.ndarray:
        """The masks refined and painted, (H, W) uint8, 0 where none was laid (METHOD, row 10).

        image: (H, W, 3) uint8; masks: (K, H, W) bool in the order of painting; labels: one a mask; background: whether
        label 0 is a class. Where it is none, `fill` says what becomes of pixels that only an unrefined mask claims.
        """
        painted = paint(self.refine(image, masks), labels)
        return np.where(painted == 0, paint(masks, labels), painted) if self.fill and not background else painted

    def refine(self, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Each mask refined for itself, (K, H, W) bool; image: (H, W, 3) uint8; masks: (K, H, W) bool."""
        raise NotImplementedError


class _Bounded(Refinement):
    """A refinement whose memory and time grow with the picture: a larger one is refined at a smaller size, then enlarged."""

    max_pixels: PositiveInt = Field(
        4_000_000,
        description="larger pictures are refined at this many pixels, distances with them, and masks enlarged",
    )

    def refine(self, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        if not masks.size:
            return masks
        height, width = image.shape[:2]
        scale = (self.max_pixels / (height * width)) ** 0.5
        if scale >= 1:
            return self.refine_at(1.0, image, masks)
        small = max(1, int(height * scale)), max(1, int(width * scale))
        picture = np.asarray(Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX))
        fewer = np.stack([enlarged(mask, *small) for mask in masks])
        refined = self.refine_at(scale, picture, fewer)
        return np.stack([enlarged(mask, height, width) for mask in refined])

    def refine_at(self, scale: float, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """As `refine`, of a picture that was made so much smaller; distances in pixels are of the whole one."""
        raise NotImplementedError


class _DenseCrf(_Bounded):
    """A dense CRF's energies (Krähenbühl and Koltun, arXiv 1210.5644)."""

    gt_prob: float = Field(0.90, gt=0, lt=1, description="certainty of the unary")
    gaussian_sxy: PositiveFloat = Field(20.0, description="position deviation of the smoothness term, pixels")
    gaussian_compat: PositiveFloat = Field(5.0, description="weight of the smoothness term")
    bilateral_sxy: PositiveFloat = Field(20.0, description="position deviation of the appearance term, pixels")
    bilateral_srgb: PositiveFloat = Field(20.0, description="colour deviation of the appearance term, levels of 255")
    bilateral_compat: PositiveFloat = Field(100.0, description="weight of the appearance term")
    iterations: PositiveInt = Field(10, description="mean-field iterations")

    def pairwise(self, crf: DenseCRF2D, image: np.ndarray, scale: float) -> None:
        """Give a CRF the terms that tie pixels to each other; scale: how much smaller the picture is than it was."""
        crf.addPairwiseGaussian(sxy=scale * self.gaussian_sxy, compat=self.gaussian_compat)
        image = np.require(image, np.uint8, ["C", "W"])  # what pydensecrf takes
        appearance = dict(sxy=scale * self.bilateral_sxy, srgb=self.bilateral_srgb, compat=self.bilateral_compat)
        crf.addPairwiseBilateral(rgbim=image, **appearance)


class Crf(_DenseCrf):
    """A dense CRF of two labels a mask, in and out (Krähenbühl and Koltun, arXiv 1210.5644; METHOD, row 9).

    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> image[:, 4:] = 255  # a white half
    >>> masks = np.zeros((1, 8, 8), bool)
    >>> masks[0, :, 3:] = True  # one column too many
    >>> Crf().refine(image, masks)[0, 0].astype(int)
    array([0, 0, 0, 0, 1, 1, 1, 1])
    """

    kind: Literal["crf"] = "crf"

    def refine_at(self, scale: float, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return self.marginals(image, masks, scale) > 0.5

    def marginals(self, image: np.ndarray, masks: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """What the mean field believes of every pixel: how probably it is in each mask, (K, H, W) float32.

        masks: (K, H, W) bool, each refined for itself. scale: how much smaller the picture is than the one whose pixels
        the deviations are in.
        """
        count, (height, width) = len(masks), image.shape[:2]
        together = min(count, _MASKS_TOGETHER)
        crf = DenseCRF2D(width, height, together)
        crf.setUnaryEnergy(np.zeros((together, height * width), np.float32))
        self.pairwise(crf, image, scale)
        # pydensecrf filters every label's map for itself, so the labels of one CRF may be several masks, each by its
        # belief to be in; the messages of being out follow, since both beliefs are one together and filters are linear
        belief, message, compatible = (crf.startInference()[0] for _ in range(3))
        beliefs, messages = np.asarray(belief), np.asarray(message)
        beliefs[:] = 1
        crf.stepInference(belief, message, compatible)
        of_both = messages[0].copy()
        certain = logit(np.float32(self.gt_prob))
        marginals = np.zeros((count, height * width), np.float32)
        for start in range(0, count, together):
            group = masks[start : start + together].reshape(-1, height * width)
            unary = np.where(group, certain, -certain)
            beliefs[:] = 0
            beliefs[: len(group)] = expit(unary)
            for _ in range(self.iterations):
                crf.stepInference(belief, message, compatible)
                beliefs[: len(group)] = expit(unary + 2 * messages[: len(group)] - of_both)
            marginals[start : start + together] = beliefs[: len(group)]
        return marginals.reshape(masks.shape)


class JointCrf(_DenseCrf):
    """One dense CRF over all masks and what none of them claims, in place of one for each mask: every pixel has one label.

    Energies are those of `Crf`, at the same strengths; masks that overlap are painted in their order first.

    >>> image = np.zeros((8, 8, 3), np.uint8)
    >>> image[:, 4:] = 255  # a white half
    >>> masks = np.zeros((1, 8, 8), bool)
    >>> masks[0, :, 3:] = True  # one column too many
    >>> JointCrf().refine(image, masks)[0, 0].astype(int)
    array([0, 0, 0, 0, 1, 1, 1, 1])
    """

    kind: Literal["joint_crf"] = "joint_crf"

    def refine_at(self, scale: float, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        (height, width), count = image.shape[:2], len(masks) + 1  # none of the masks is a label of its own
        claimed = masks.any(axis=0)
        labels = np.where(claimed, masks.argmax(axis=0) + 1, 0)
        crf = DenseCRF2D(width, height, count)
        crf.setUnaryEnergy(unary_from_labels(labels, count, self.gt_prob, zero_unsure=False))
        self.pairwise(crf, image, scale)
        found = np.argmax(crf.inference(self.iterations), axis=0).reshape(height, width)
        return found == np.arange(1, count)[:, None, None]


class Pamr(_Bounded):
    """Pixel-adaptive mask refinement, PAMR (Araslanov and Roth, arXiv 2005.08104, section 3.3; METHOD, row 9).

    Every iteration replaces a pixel by the mean of its neighbours, weighted by `pamr_weights`. What ends above the
    threshold's share of the mask's own maximum is in: means spread a small mask so thin that it would vanish otherwise.
    """

    kind: Literal["pamr"] = "pamr"
    iterations: PositiveInt = Field(10, description="how often a pixel becomes the mean of its neighbours")
    dilations: Several[PositiveInt] = Field((1, 2, 4, 8, 12, 24), description="distances of the neighbours, pixels")
    max_pixels: PositiveInt = Field(
        1_000_000,
        description="larger pictures are refined at this many pixels: every neighbour is a map of its own in memory",
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="what ends above this share of the maximum is in the mask")

    def refine_at(self, scale: float, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        dilations = [max(1, round(scale * distance)) for distance in self.dilations]
        soft = pamr(pamr_weights(image, dilations), masks, self.iterations, dilations)
        return soft > self.threshold * soft.max(axis=(1, 2), keepdims=True)


class Unrefined(Refinement):
    """Masks as they come."""

    kind: Literal["none"] = "none"

    def refine(self, image: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return masks


def kernel(image: np.ndarray, row: int, column: int, sxy: float = 20, srgb: float | None = None) -> np.ndarray:
    """How strongly one pixel is tied to every other, (H, W) float64, 1 at the pixel itself (Krähenbühl and Koltun, eq. 3, unnormalised).

    image: (H, W, 3) uint8; sxy in pixels. Without `srgb` the smoothness kernel, a Gaussian of the distance; with it, in
    levels of 255, the appearance kernel, which also falls with the difference in colour.

    >>> kernel(np.zeros((1, 3, 3), np.uint8), row=0, column=0, sxy=1).round(2)
    array([[1.  , 0.61, 0.14]])
    """
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    exponent = ((rows - row) ** 2 + (columns - column) ** 2) / (2 * sxy**2)
    if srgb is not None:
        exponent = exponent + ((image.astype(float) - image[row, column]) ** 2).sum(axis=2) / (2 * srgb**2)
    return np.exp(-exponent)


def pamr(
    weights: np.ndarray, masks: np.ndarray, iterations: int = 10, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)
) -> np.ndarray:
    """Masks as PAMR's weighted means leave them, (K, H, W) float32, 0 to 1; weights: from `pamr_weights` of the same dilations.

    >>> weights = pamr_weights(np.zeros((4, 4, 3), np.uint8), dilations=(1,))
    >>> pamr(weights, np.ones((1, 4, 4), bool), iterations=2, dilations=(1,)).round(4).min()
    np.float32(1.0)
    """
    soft = masks.astype(np.float32)
    for _ in range(iterations):
        soft = sum(weight * neighbour for weight, neighbour in zip(weights, _neighbours(soft, dilations), strict=True))
    return soft


def pamr_weights(image: np.ndarray, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24)) -> np.ndarray:
    """How much each neighbour counts in a pixel's mean, (8 * len(dilations), H, W) float32 that sum to 1 at every pixel.

    A softmax over the neighbours (eight at each dilation, row by row; beyond the border the border's pixel) of minus
    their difference in colour, divided by the standard deviation among them and the pixel, averaged over channels.

    >>> weights = pamr_weights(np.zeros((4, 4, 3), np.uint8), dilations=(1, 2))
    >>> weights.shape, weights.sum(axis=0).round(4).min()
    ((16, 4, 4), np.float32(1.0))
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
    """One label map from masks in order, each only on pixels still empty: (H, W) uint8, 0 where no mask was laid (METHOD, row 10).

    masks: (K, H, W) bool; labels: one a mask, 1 to 254 (0 is background, which is what stays empty).

    >>> masks = np.array([[[True, True, False]], [[False, True, True]]])  # two masks of a 1 x 3 picture
    >>> paint(masks, [5, 7])
    array([[5, 5, 7]], dtype=uint8)
    """
    if not all(0 <= label < VOID for label in labels):
        raise ValueError(f"labels reach from {min(labels)} to {max(labels)}: a label map holds 0 to {VOID - 1}")
    canvas = np.zeros(masks.shape[1:], np.uint8)
    for mask, label in zip(masks, labels, strict=True):
        canvas[mask & (canvas == 0)] = label
    return canvas
