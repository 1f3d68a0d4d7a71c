"""Between stages 7 and 8: scores of masks spread over the picture, to where positions are alike or look at each other.

The paper has nothing of the kind; peers that start from a few sure positions have (METHOD, row 12).
"""

from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from fsdlib.choice import Choice
from fsdlib.clusters import affinity, covered


class Spreading(Choice):
    """How the scores of masks reach masks whose positions belong together."""

    def spread(self, scores: np.ndarray, masks: np.ndarray, features: np.ndarray) -> np.ndarray:
        """The scores of masks once they are spread: (K, names) floats to the same.

        masks: (K, H, W) bool; features: (C, h, w), of the positions that scores go over: a position has the mean of the
        scores of the masks on it, and a mask in the end the mean over its positions.
        """
        raise NotImplementedError


class Unspread(Spreading):
    """Scores as they come.

    >>> Unspread().spread(np.array([[0.7, 0.3]]), np.ones((1, 2, 2), bool), np.zeros((3, 2, 2)))
    array([[0.7, 0.3]])
    """

    kind: Literal["none"] = "none"

    def spread(self, scores: np.ndarray, masks: np.ndarray, features: np.ndarray) -> np.ndarray:
        return scores


class _Walk(Spreading):
    """A walk from position to position, whose steps go to where a position is alike, or looks."""

    steps: PositiveInt = Field(1, description="how often scores take a step")
    keep_range: bool = Field(
        False, description="each name's scores reach from its least to its highest again, which steps draw together"
    )

    def spread(self, scores: np.ndarray, masks: np.ndarray, features: np.ndarray) -> np.ndarray:
        on = covered(masks, *features.shape[1:]).reshape(len(masks), -1).astype(np.float64)
        walked = (on.T @ scores) / np.maximum(on.sum(axis=0), 1e-12)[:, None]
        transition = self.transition(features)
        least, highest = walked.min(axis=0), walked.max(axis=0)
        for _ in range(self.steps):
            walked = transition @ walked
        if self.keep_range:
            between = (walked - walked.min(axis=0)) / np.maximum(np.ptp(walked, axis=0), 1e-12)
            walked = least + (highest - least) * between
        return ((on @ walked) / np.maximum(on.sum(axis=1), 1e-12)[:, None]).astype(scores.dtype)

    def transition(self, features: np.ndarray) -> np.ndarray:
        """How much of each position's new score comes from each other: (h * w, h * w), every row of 1 in all."""
        raise NotImplementedError


class AffinitySpreading(_Walk):
    """Steps go to positions whose features are alike (see `fsdlib.clusters.affinity`).

    >>> halves = np.array([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]])  # 2 channels, 1 x 4 positions
    >>> masks = np.eye(4, dtype=bool)[:, None]  # one a position
    >>> AffinitySpreading().spread(np.array([[1.0], [0.0], [0.0], [0.0]]), masks, halves).ravel().round(2).tolist()
    [0.5, 0.5, 0.0, 0.0]
    """

    kind: Literal["affinity"] = "affinity"
    power: PositiveFloat = Field(10.0, description="power of the cosine affinity")

    def transition(self, features: np.ndarray) -> np.ndarray:
        found = affinity(features, self.power)
        return found / found.sum(axis=1, keepdims=True)


class AttentionSpreading(_Walk):
    """Steps go to where a position looks: features are the self-attention maps themselves, `AttentionMaps`.

    One step is DiffSegmenter's (arXiv 2309.02773), several steps of sharpened attention iSeg's (arXiv 2409.03209), which
    sharpens by descending the entropy and not by a power. Raises ValueError for features that are no attention maps.

    >>> looks = np.array([[0.9, 0.1], [0.1, 0.9]]).T.reshape(2, 1, 2)  # of 1 x 2 positions, each mostly at itself
    >>> masks = np.eye(2, dtype=bool)[:, None]
    >>> AttentionSpreading(sharpness=1).spread(np.array([[1.0], [0.0]]), masks, looks).ravel().round(2).tolist()
    [0.9, 0.1]
    """

    kind: Literal["attention"] = "attention"
    sharpness: PositiveFloat = Field(1.0, description="power that attention is taken to, then made of 1 in all again")

    def transition(self, features: np.ndarray) -> np.ndarray:
        channels, height, width = features.shape
        if channels != height * width or features.min() < 0:
            raise ValueError(
                f"features of shape {features.shape} are no attention maps, which have one channel a position: take "
                "features='attention' for spreading='attention'"
            )
        looks = features.reshape(channels, -1).T.astype(np.float64) ** self.sharpness
        return looks / looks.sum(axis=1, keepdims=True)
