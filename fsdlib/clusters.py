"""Stages 5 and 6, clusters and masks: positions with like features become regions of the picture (RECIPE rows 5, 6)."""

import numpy as np
from PIL import Image
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import silhouette_score


def cluster(features: np.ndarray, count: int, seed: int, method: str = "kmeans", restarts: int = 10) -> np.ndarray:
    """Group the positions of (C, h, w) features into `count` clusters: (h, w) uint8, numbered from 0.

    method: "kmeans" (k-means++, Euclidean, the best of `restarts`) or "agglomerative" (Ward, which needs no seed).
    Raises ValueError for other methods and where `count` exceeds the number of positions or 256.
    """
    channels, height, width = features.shape
    positions = features.reshape(channels, -1).T
    most = min(len(positions), 256)  # the numbers of the clusters are uint8
    if not 1 <= count <= most:
        raise ValueError(f"{len(positions)} positions cannot make {count} clusters: ask for 1 to {most}")
    if method == "kmeans":
        labels = KMeans(count, init="k-means++", n_init=restarts, random_state=seed % 2**32).fit_predict(positions)
    elif method == "agglomerative":
        labels = AgglomerativeClustering(count).fit_predict(positions) if count > 1 else np.zeros(len(positions))
    else:
        raise ValueError(f"no clustering is called {method!r}: choose kmeans or agglomerative")
    return labels.reshape(height, width).astype(np.uint8)


def silhouette(features: np.ndarray, clusters: np.ndarray) -> float:
    """How much nearer positions are to their own cluster than to the next, -1 to 1; nan where there is one cluster."""
    if len(np.unique(clusters)) < 2:
        return float("nan")
    return float(silhouette_score(features.reshape(len(features), -1).T, clusters.ravel()))


def masks(clusters: np.ndarray, height: int, width: int) -> np.ndarray:
    """One binary mask a cluster at the image's size, nearest neighbour: (K, height, width) bool, in cluster order."""
    enlarged = np.asarray(Image.fromarray(clusters).resize((width, height), Image.Resampling.NEAREST))
    return enlarged == np.arange(clusters.max() + 1)[:, None, None]
