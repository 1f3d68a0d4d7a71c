"""Stages 5 and 6, clusters and masks: positions with like features become regions of the picture."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.linalg
import sklearn.cluster
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt, SerializeAsAny, field_validator
from scipy.ndimage import uniform_filter
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from fsdlib.choice import Choice, Several


class Clustering(Choice):
    """How positions with like features are grouped."""

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        """Group the positions of (C, h, w) features: (h, w) uint8, the number of each one's cluster, from 0.

        Of more than 256 clusters, which `Cells` alone has, the numbers are uint16. candidates: how many things are expected in the picture, for ways that use it. Raises ValueError where the
        features cannot be grouped as asked, which NaN and infinity never can.
        """
        raise NotImplementedError

    def partitions(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> list[np.ndarray]:
        """The groupings whose clusters are proposed as masks, each as `group` gives it, which is here the only one."""
        return [self.group(features, seed, candidates)]


class Counted(Clustering):
    """A clustering into a number of clusters that is known beforehand."""

    count: PositiveInt = Field(4, le=256, description="K, the number of clusters")
    plus_candidates: bool = Field(False, description="K is this many more than there are candidate names")

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        count = self.count + (candidates if self.plus_candidates else 0)
        _check(features)
        channels, height, width = features.shape
        most = min(height * width, 256)  # the numbers of the clusters are uint8
        if count > most:
            raise ValueError(f"{height * width} positions cannot make {count} clusters: ask for 1 to {most}")
        if count == 1:
            return np.zeros((height, width), np.uint8)
        labels = self._labels(features, features.reshape(channels, -1).T, count, seed % 2**32)
        return labels.reshape(height, width).astype(np.uint8)

    def _labels(self, features: np.ndarray, positions: np.ndarray, count: int, seed: int) -> np.ndarray:
        """The cluster of each of (N, C) positions, which are those of the features: (N,)."""
        raise NotImplementedError


class KMeans(Counted):
    """K-means: k-means++, Euclidean distances, the best of several starts (METHOD, row 5).

    >>> left, right = np.zeros((3, 4, 2)), np.ones((3, 4, 2))  # 3 channels, a map of 4 x 4 positions
    >>> KMeans(count=2).group(np.concatenate([left, right], axis=2), seed=0)[0]
    array([0, 0, 1, 1], dtype=uint8)
    """

    kind: Literal["kmeans"] = "kmeans"
    restarts: PositiveInt = Field(10, description="k-means++ initialisations")

    def _labels(self, features: np.ndarray, positions: np.ndarray, count: int, seed: int) -> np.ndarray:
        settings = dict(init="k-means++", n_init=self.restarts, random_state=seed)
        return sklearn.cluster.KMeans(count, **settings).fit_predict(positions)


class Agglomerative(Counted):
    """Ward's agglomerative clustering, which joins the two groups that are least apart until K are left; needs no seed."""

    kind: Literal["agglomerative"] = "agglomerative"

    def _labels(self, features: np.ndarray, positions: np.ndarray, count: int, seed: int) -> np.ndarray:
        return sklearn.cluster.AgglomerativeClustering(count).fit_predict(positions)


class Spectral(Counted):
    """K-means on the eigenvectors of the positions' graph, whose edges are `affinity`."""

    kind: Literal["spectral"] = "spectral"
    restarts: PositiveInt = Field(10, description="k-means++ initialisations")
    power: PositiveFloat = Field(10.0, description="power of the cosine affinity")
    by: Literal["kmeans", "cluster_qr"] = Field(
        "kmeans", description="how eigenvectors become clusters; cluster_qr needs no start"
    )

    def _labels(self, features: np.ndarray, positions: np.ndarray, count: int, seed: int) -> np.ndarray:
        settings = dict(affinity="precomputed", n_init=self.restarts, random_state=seed, assign_labels=self.by)
        return sklearn.cluster.SpectralClustering(count, **settings).fit_predict(affinity(features, self.power))


class Eigengap(Clustering):
    """Spectral clustering that takes as many clusters as the graph has small eigenvalues before the widest gap.

    >>> halves = np.array([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]])  # 2 channels, 1 x 4 positions
    >>> Eigengap(most=3).group(halves)
    array([[0, 0, 1, 1]], dtype=uint8)
    """

    kind: Literal["eigengap"] = "eigengap"
    most: int = Field(12, ge=2, le=256, description="the most clusters that may come out; the fewest are 2")
    power: PositiveFloat = Field(10.0, description="power of the cosine affinity")

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        affinities = affinity(features, self.power)
        most = min(self.most, len(affinities) - 1)
        if most < 2:
            return np.zeros(features.shape[1:], np.uint8)
        degrees = affinities.sum(axis=1)
        walk = affinities / np.sqrt(np.outer(degrees, degrees))
        values = -scipy.linalg.eigvalsh(-walk, subset_by_index=(0, most))
        count = int(np.argmax(values[1:-1] - values[2:])) + 2
        found = Spectral(count=count, power=self.power, by="cluster_qr").group(features, seed)
        return _numbered(found)


class AgglomerativeThreshold(Clustering):
    """Agglomerative clustering by the mean cosine distance between groups, which stops at a threshold: the number is found.

    >>> halves = np.array([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]])  # 2 channels, 1 x 4 positions
    >>> AgglomerativeThreshold().group(halves)
    array([[0, 0, 1, 1]], dtype=uint8)
    """

    kind: Literal["agglomerative_threshold"] = "agglomerative_threshold"
    threshold: float = Field(
        0.5, gt=0, le=2, description="groups farther apart than this, 1 minus the cosine, stay two"
    )

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        _check(features)
        positions = features.reshape(len(features), -1).T
        if len(positions) < 2:
            return np.zeros(features.shape[1:], np.uint8)
        unit = positions / np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-12)
        distances = np.clip(1 - unit @ unit.T, 0, 2)
        settings = dict(n_clusters=None, metric="precomputed", linkage="average")
        tree = sklearn.cluster.AgglomerativeClustering(**settings, distance_threshold=self.threshold)
        return _numbered(tree.fit_predict(distances).reshape(features.shape[1:]))


class MeanShift(Clustering):
    """Mean shift on the first principal components: positions climb to the peaks of their density, whose number is found."""

    kind: Literal["mean_shift"] = "mean_shift"
    components: PositiveInt = Field(8, description="principal components that are kept, if the features have so many")
    quantile: float = Field(0.2, gt=0, le=1, description="which share of all distances the bandwidth is as large as")

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        _check(features)
        positions = features.reshape(len(features), -1).T.astype(np.float64)
        if len(positions) < 2:
            return np.zeros(features.shape[1:], np.uint8)
        kept = min(self.components, *positions.shape)
        reduced = PCA(kept, svd_solver="full").fit_transform(positions)
        bandwidth = sklearn.cluster.estimate_bandwidth(reduced, quantile=self.quantile, random_state=seed % 2**32)
        if bandwidth <= 0:  # most positions are alike
            return np.zeros(features.shape[1:], np.uint8)
        found = sklearn.cluster.MeanShift(bandwidth=bandwidth, bin_seeding=True).fit_predict(reduced)
        return _numbered(found.reshape(features.shape[1:]))


class KlMerging(Clustering):
    """Attention maps merged while they are alike, by their Kullback-Leibler divergence (DiffSeg, arXiv 2308.12469, section 3.2).

    Features are distributions over the positions themselves, as `fsdlib.features.AttentionMaps` gives them: one channel
    a position. Maps at a grid of anchors are averaged with all that are near to them, then with each other; every position
    belongs to the merged map that looks at it most. Raises ValueError for other features.

    >>> to_left, to_right = [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]  # where each of 2 x 2 positions looks
    >>> KlMerging(anchors=2).group(np.array([to_left, to_left, to_right, to_right]).T.reshape(4, 2, 2))
    array([[0, 0],
           [1, 1]], dtype=uint8)
    """

    kind: Literal["kl_merging"] = "kl_merging"
    anchors: PositiveInt = Field(16, description="anchors a side, evenly spread over the positions")
    threshold: PositiveFloat = Field(1.0, description="maps are merged while their divergence is below this")
    iterations: PositiveInt = Field(3, description="how often maps are merged, the anchors' first time among them")

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        _check(features)
        channels, height, width = features.shape
        if channels != height * width or features.min() < 0 or not np.allclose(features.sum(axis=0), 1, atol=1e-3):
            raise ValueError(
                f"features of shape {features.shape} are no attention maps, which hold one distribution over all "
                "positions at each: take features='attention' for clusters='kl_merging'"
            )
        looks = features.reshape(channels, -1).T.astype(np.float64)
        rows, columns = (_spread(side, self.anchors) for side in (height, width))
        near = divergence(looks[(rows[:, None] * width + columns).ravel()], looks) < self.threshold
        merged = near @ looks / near.sum(axis=1, keepdims=True)
        for _ in range(self.iterations - 1):
            near, taken, fewer = divergence(merged, merged) < self.threshold, np.zeros(len(merged), bool), []
            for i, alike in enumerate(near):
                if not taken[i]:
                    taken |= alike
                    fewer.append(merged[alike].mean(axis=0))
            merged = np.array(fewer)
        return _numbered(merged.argmax(axis=0).reshape(height, width))


class Cells(Clustering):
    """No grouping: every position is a mask of its own, for ways that name each for itself (MaskCLIP, arXiv 2112.01071).

    >>> Cells().group(np.zeros((3, 2, 2)))
    array([[0, 1],
           [2, 3]], dtype=uint8)
    """

    kind: Literal["cells"] = "cells"

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        _check(features)
        height, width = features.shape[1:]
        numbers = np.arange(height * width).reshape(height, width)
        return numbers.astype(np.uint8 if numbers.size <= 256 else np.uint16)


class Pooled(Clustering):
    """Several groupings at once, coarse and fine, each of whose clusters is proposed as a mask: no K has to be right.

    Features are averaged over a few cells first, which keeps clusters whole. `group` gives the finest grouping.

    >>> ramp = np.arange(16.0).reshape(1, 4, 4)
    >>> [int(part.max()) + 1 for part in Pooled(counts=(2, 3), cells=(1,)).partitions(ramp)]
    [2, 3]
    """

    kind: Literal["pooled"] = "pooled"
    of: SerializeAsAny[Counted] = Field(
        KMeans(restarts=1), description="how positions are grouped, with each number of clusters"
    )
    counts: Several[PositiveInt] = Field((3, 5, 8, 12), description="numbers of clusters, one grouping each")
    cells: Several[PositiveInt] = Field(
        (5, 9), description="sides of the squares of cells that features are averaged over"
    )

    @field_validator("counts", "cells")
    @classmethod
    def _some(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"{numbers} are no distinct numbers: give at least one, and none twice")
        return numbers

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        return self._ways(max(self.counts)).group(averaged(features, self.cells[0]), seed, candidates)

    def partitions(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> list[np.ndarray]:
        smooth = [averaged(features, cells) for cells in self.cells]
        return [self._ways(count).group(array, seed, candidates) for array in smooth for count in self.counts]

    def _ways(self, count: int) -> Clustering:
        return self.of.with_option("count", count)


class NormalisedCut(Clustering):
    """The recursive normalised cut, which finds the number of clusters itself (see `normalised_cut`)."""

    kind: Literal["normalised_cut"] = "normalised_cut"
    threshold: float = Field(0.5, gt=0, lt=1, description="a part is cut while its best cut's value is at most this")
    power: PositiveFloat = Field(10.0, description="power of the cosine affinity")
    stretched: bool = Field(False, description="cosines go from their least to their highest, in place of from 0 to 1")
    grid: PositiveInt | None = Field(
        None,
        description="cells a side at which the graph is cut; the finer map's positions join the part most like them",
    )

    def group(self, features: np.ndarray, seed: int = 0, candidates: int = 0) -> np.ndarray:
        coarse = features if self.grid is None else _shrunk(features, self.grid)
        parts = normalised_cut(coarse, self.threshold, self.power, self.stretched)
        return parts if coarse is features else _most_like(features, coarse, parts)


def _check(features: np.ndarray) -> None:
    if not features.size:
        raise ValueError(
            f"features of shape {features.shape} have nothing to group: give some for at least one position"
        )
    if not np.isfinite(features).all():
        raise ValueError("features hold numbers that are not finite: read them again in float32")


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Clusters numbered as they are met, row by row: the same shape, uint8. Raises ValueError for more than 256."""
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    if len(first) > 256:  # their numbers are uint8
        raise ValueError(f"the features fall into {len(first)} clusters, more than 256: raise the threshold")
    return first.argsort().argsort().astype(np.uint8)[number].reshape(labels.shape)


def _spread(side: int, count: int) -> np.ndarray:
    """Indices evenly spread over a side, as many as asked for or as there are, as far from one end as from the other."""
    count = min(count, side)
    step = (side - 1) // max(1, count - 1)
    return (side - 1 - step * (count - 1)) // 2 + step * np.arange(count)


def _shrunk(features: np.ndarray, grid: int) -> np.ndarray:
    """Features averaged over the cells of a coarser grid, (C, grid, grid); as they are where they have no more cells."""
    if min(features.shape[1:]) <= grid:
        return features
    edges = [np.arange(grid) * side // grid for side in features.shape[1:]]
    sums = np.add.reduceat(np.add.reduceat(features, edges[0], axis=1), edges[1], axis=2)
    sizes = [np.diff([*edge, side]) for edge, side in zip(edges, features.shape[1:])]
    return sums / np.outer(*sizes)


def _most_like(features: np.ndarray, coarse: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The part whose mean direction, over the coarse map, each position of the fine map is most like: (h, w) uint8."""
    fine, positions = (
        array.reshape(len(array), -1) / np.maximum(np.linalg.norm(array.reshape(len(array), -1), axis=0), 1e-12)
        for array in (features, coarse)
    )
    means = np.stack([positions[:, parts.ravel() == part].mean(axis=1) for part in range(int(parts.max()) + 1)])
    return _numbered((means @ fine).argmax(axis=0).reshape(features.shape[1:]))


def divergence(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The Kullback-Leibler divergence of distributions, the mean of both directions, each of one side with each of the other.

    ones: (N, P) that sum to 1, others: (M, P); (N, M) float64, 0 for equal ones. Shares below 1e-12 count as that.

    >>> divergence(np.array([[0.5, 0.5]]), np.array([[0.5, 0.5], [0.9, 0.1]])).round(2)
    array([[0.  , 0.44]])
    """
    ones, others = (np.maximum(array.astype(np.float64), 1e-12) for array in (ones, others))
    log_ones, log_others = np.log(ones), np.log(others)
    within = (ones * log_ones).sum(axis=1)[:, None] + (others * log_others).sum(axis=1)
    return np.maximum((within - ones @ log_others.T - log_ones @ others.T) / 2, 0)


def averaged(features: np.ndarray, cells: int) -> np.ndarray:
    """Each position's mean over a square of so many cells a side around it, the border's cells repeated beyond it: (C, h, w) floats.

    >>> averaged(np.array([[[0.0, 3.0, 6.0]]]), cells=3)  # 1 channel, 1 x 3 positions
    array([[[1., 3., 5.]]])
    """
    return uniform_filter(features, (0, cells, cells), mode="nearest") if cells > 1 else features


def affinity(features: np.ndarray, power: float = 10, stretched: bool = False) -> np.ndarray:
    """How alike the positions of (C, h, w) features are, 0 to 1: the cosine, negative ones as 0, to a power; (h * w, h * w) float64.

    A high power keeps near neighbours alone (DiffCut, arXiv 2406.02842, has 10). stretched: cosines are first moved and
    scaled so that the picture's least is 0 and its highest 1. Nothing is below 1e-8, so that the graph is connected,
    without which its second eigenvector is not defined.

    >>> affinity(np.array([[[1.0, 1.0]], [[0.0, 1.0]]]), power=2).round(2)  # 2 channels, 1 x 2 positions at 45 degrees
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    _check(features)
    positions = features.reshape(len(features), -1).T.astype(np.float64)
    unit = positions / np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    if stretched:
        cosines = (cosines - cosines.min()) / max(cosines.max() - cosines.min(), 1e-12)
    return np.maximum(np.maximum(cosines, 0) ** power, 1e-8)


def cut_value(affinities: np.ndarray, side: np.ndarray) -> float:
    """The normalised cut between the nodes of one side and the others (Shi and Malik, 2000): what the cut parts, as a share of
    all that each side is tied to, summed over both sides.

    affinities: (N, N), symmetric; side: (N,) bool, neither all nor none. Near 0 for groups that stand apart, 1 where all
    nodes are alike.

    >>> round(cut_value(np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([True, False])), 2)
    0.67
    """
    severed, degrees = affinities[side][:, ~side].sum(), affinities.sum(axis=1)
    return float(severed / degrees[side].sum() + severed / degrees[~side].sum())


def bisect(affinities: np.ndarray) -> tuple[np.ndarray, float]:
    """The best of the normalised cuts along the graph's second generalised eigenvector: one side, (N,) bool, and the cut's value.

    affinities: (N, N) with N of 2 or more, symmetric, every degree above 0. All N - 1 places to split the eigenvector are tried.

    >>> pairs = np.kron(np.eye(2), np.ones((2, 2))) + 0.01  # two pairs of nodes that hardly know each other
    >>> side, value = bisect(pairs)
    >>> int(side.sum()), bool(side[0] == side[1]), round(value, 2)
    (2, True, 0.02)
    """
    degrees = affinities.sum(axis=1)
    laplacian = np.diag(degrees) - affinities
    vector = scipy.linalg.eigh(laplacian, np.diag(degrees), subset_by_index=(1, 1))[1][:, 0]
    order = vector.argsort(kind="stable")
    # one side grows node by node: what it is tied to, and what of that lies within it
    tied = degrees[order].cumsum()[:-1]
    ordered = affinities[np.ix_(order, order)]
    within = (2 * np.tril(ordered, -1).sum(axis=1) + np.diag(ordered)).cumsum()[:-1]
    values = (tied - within) / tied + (tied - within) / (degrees.sum() - tied)
    best = int(values.argmin())
    side = np.zeros(len(degrees), bool)
    side[order[: best + 1]] = True
    return side, float(values[best])


def normalised_cut(
    features: np.ndarray, threshold: float = 0.5, power: float = 10, stretched: bool = False
) -> np.ndarray:
    """Group the positions of (C, h, w) features by cutting their graph in two again and again: (h, w) uint8, numbered as they are met.

    The number of segments is found, not given: a part is cut while its best cut's value is at most `threshold`, which is
    above 0 and below 1 (recursive normalised cut as in DiffCut, arXiv 2406.02842, section 3). Raises ValueError for other
    thresholds and where more than 256 segments come out.

    >>> normalised_cut(np.array([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]))  # 2 channels, 1 x 4 positions
    array([[0, 0, 1, 1]], dtype=uint8)
    """
    if not 0 < threshold < 1:
        raise ValueError(
            f"the threshold of a normalised cut is {threshold}: it lies between 0 and 1, the value at which even equal positions are cut apart"
        )
    affinities = affinity(features, power, stretched)
    waiting, segments = [np.arange(len(affinities))], []
    while waiting:
        part = waiting.pop()
        side, value = bisect(affinities[np.ix_(part, part)]) if len(part) > 1 else (np.ones(1, bool), np.inf)
        if value <= threshold:
            waiting += [part[side], part[~side]]
        else:
            segments.append(part)
    if len(segments) > 256:  # their numbers are uint8
        raise ValueError(
            f"a threshold of {threshold} cuts the features into {len(segments)} segments, more than 256: lower it"
        )
    labels = np.zeros(len(affinities), np.uint8)
    for number, segment in enumerate(sorted(segments, key=min)):
        labels[segment] = number
    return labels.reshape(features.shape[1:])


def inertia(features: np.ndarray, clusters: np.ndarray) -> float:
    """What k-means makes small: the squared distances of positions to the mean of their cluster, summed.

    features: (C, h, w); clusters: (h, w) integers, of any method.

    >>> inertia(np.array([[[0.0, 2.0, 9.0]]]), np.array([[0, 0, 1]]))  # 1 channel, 1 x 3 positions
    2.0
    """
    positions, labels = features.reshape(len(features), -1).T.astype(np.float64), clusters.ravel()
    return float(
        sum(((positions[labels == k] - positions[labels == k].mean(axis=0)) ** 2).sum() for k in np.unique(labels))
    )


def silhouette(features: np.ndarray, clusters: np.ndarray) -> float:
    """How much nearer positions are to their own cluster than to the next, -1 to 1; nan where there is one, or one a position.

    >>> silhouette(np.array([[[0.0, 0.0, 9.0, 9.0]]]), np.array([[0, 0, 1, 1]]))
    1.0
    """
    if not 1 < len(np.unique(clusters)) < clusters.size:
        return float("nan")
    return float(silhouette_score(features.reshape(len(features), -1).T, clusters.ravel()))


def masks(clusters: np.ndarray, height: int, width: int) -> np.ndarray:
    """One binary mask a cluster at the image's size: (K, height, width) bool, in cluster order (METHOD, row 6).

    >>> masks(np.array([[0, 1]], np.uint8), height=2, width=4).astype(int).tolist()
    [[[1, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 1, 1], [0, 0, 1, 1]]]
    """
    return enlarged(clusters, height, width) == np.arange(int(clusters.max()) + 1)[:, None, None]  # 256 in uint8 is 0


def covered(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """The share of each cell of a coarser grid that a mask covers: (K, H, W) bool to (K, height, width) float32.

    >>> covered(np.array([[[True, True, True, False]]]), height=1, width=2)
    array([[[1. , 0.5]]], dtype=float32)
    """
    shrunk = [
        np.asarray(Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX))
        for mask in masks
    ]
    return np.reshape(shrunk, (len(masks), height, width)).astype(np.float32)


def proposals(partitions: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The masks of several groupings of one picture, each mask once: (K, height, width) bool, in their order.

    >>> proposals([np.array([[0, 0, 1]]), np.array([[0, 1, 2]])], height=1, width=3).astype(int).tolist()
    [[[1, 1, 0]], [[0, 0, 1]], [[1, 0, 0]], [[0, 1, 0]]]
    """
    found = np.concatenate([masks(clusters, height, width) for clusters in partitions])
    return found if len(partitions) == 1 else np.array(list({mask.tobytes(): mask for mask in found}.values()))


def enlarged(clusters: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of (h, w) cells at the image's size: (height, width), the cell of pixel x being floor(x * w / width).

    So OpenCV's nearest neighbour has it, whose cells begin a little earlier than those of the pixels' centres, as PIL
    counts them, where a cell is no whole number of pixels (METHOD, row 6).

    >>> enlarged(np.array([[3, 7]]), height=1, width=5)  # the middle pixel's centre lies on the edge between the cells
    array([[3, 3, 3, 7, 7]])
    """
    if not clusters.size:
        raise ValueError(f"a map of shape {clusters.shape} has no cells to enlarge: give at least one")
    rows, columns = (
        np.arange(pixels) * cells // pixels for pixels, cells in zip((height, width), clusters.shape, strict=True)
    )
    return clusters[np.ix_(rows, columns)]
