import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import silhouette_score

from fsdlib.clusters import cluster, masks, silhouette


@pytest.fixture(scope="module")
def blobs():
    """(5, 8, 8) features of which each quadrant is one tight group."""
    random = np.random.default_rng(0)
    quadrant = np.kron([[0, 1], [2, 3]], np.ones((4, 4), int))
    centres = random.normal(0, 10, (4, 5))
    return (centres[quadrant] + random.normal(0, 0.1, (8, 8, 5))).transpose(2, 0, 1).astype(np.float32), quadrant


def partition(labels):
    """What a clustering says whatever its numbers: the set of sets of positions."""
    return {frozenset(np.flatnonzero(labels.ravel() == k).tolist()) for k in np.unique(labels)}


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_tight_groups_are_found_where_they_are(blobs, method):
    features, quadrant = blobs
    labels = cluster(features, 4, seed=0, method=method)
    assert labels.shape == (8, 8) and labels.dtype == np.uint8 and partition(labels) == partition(quadrant)


def test_k_means_is_scikit_learns():
    features = np.random.default_rng(1).normal(size=(12, 6, 7)).astype(np.float32)
    direct = KMeans(5, init="k-means++", n_init=3, random_state=11).fit(np.moveaxis(features, 0, -1).reshape(42, 12))
    assert np.array_equal(cluster(features, 5, seed=11, restarts=3), direct.labels_.reshape(6, 7))


def test_agglomerative_clustering_is_scikit_learns_with_wards_linkage():
    features = np.random.default_rng(1).normal(size=(12, 6, 7)).astype(np.float32)
    direct = AgglomerativeClustering(5, linkage="ward").fit(np.moveaxis(features, 0, -1).reshape(42, 12))
    assert np.array_equal(cluster(features, 5, seed=0, method="agglomerative"), direct.labels_.reshape(6, 7))


def test_the_same_seed_gives_the_same_bytes_and_seeds_may_be_large():
    features = np.random.default_rng(2).normal(size=(4, 16, 16)).astype(np.float32)
    assert cluster(features, 6, seed=2**40 + 3).tobytes() == cluster(features, 6, seed=2**40 + 3).tobytes()


def test_more_restarts_never_make_clusters_looser():
    features = np.random.default_rng(3).normal(size=(3, 16, 16)).astype(np.float32)

    def spread(labels):
        points = features.reshape(3, -1).T
        return sum(((points[labels.ravel() == k] - points[labels.ravel() == k].mean(0)) ** 2).sum() for k in range(8))

    assert spread(cluster(features, 8, seed=0, restarts=10)) <= spread(cluster(features, 8, seed=0, restarts=1)) + 1e-3


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_one_cluster_is_everything(blobs, method):
    assert np.all(cluster(blobs[0], 1, seed=0, method=method) == 0)


@pytest.mark.parametrize("count", [0, 65])
def test_an_impossible_number_of_clusters_is_refused(blobs, count):
    with pytest.raises(ValueError, match=f"64 positions cannot make {count} clusters: ask for 1 to 64"):
        cluster(blobs[0], count, seed=0)


def test_more_clusters_than_their_numbers_can_count_are_refused():
    with pytest.raises(ValueError, match="1024 positions cannot make 300 clusters: ask for 1 to 256"):
        cluster(np.zeros((1, 32, 32), np.float32), 300, seed=0)


def test_an_unknown_clustering_is_answered_with_those_there_are(blobs):
    with pytest.raises(ValueError, match="'dbscan': choose kmeans or agglomerative"):
        cluster(blobs[0], 2, seed=0, method="dbscan")


def test_the_silhouette_is_scikit_learns_and_undefined_for_one_cluster(blobs):
    features, quadrant = blobs
    halves = (quadrant % 2).astype(np.uint8)
    assert silhouette(features, halves) == pytest.approx(silhouette_score(np.moveaxis(features, 0, -1).reshape(64, 5), halves.ravel()))
    assert silhouette(features, quadrant) > 0.9 and np.isnan(silhouette(features, np.zeros((8, 8), np.uint8)))


def test_masks_are_enlarged_to_the_nearest_cell():
    clusters = np.array([[0, 1], [2, 1]], np.uint8)
    of_one = masks(clusters, height=4, width=6)[1]
    assert of_one.tolist() == [[False] * 3 + [True] * 3] * 4
    # three rows: the middle one lies on the border of the two cells and goes to the lower
    assert masks(clusters, height=3, width=2)[2].tolist() == [[False, False], [True, False], [True, False]]


@pytest.mark.parametrize("height, width", [(32, 32), (375, 500), (100, 33), (7, 9)])
def test_masks_share_the_picture_out_among_them(height, width):
    clusters = np.random.default_rng(4).integers(0, 5, (32, 32)).astype(np.uint8)
    parts = masks(clusters, height, width)
    assert parts.shape == (5, height, width) and parts.dtype == bool and np.all(parts.sum(axis=0) == 1)


def test_masks_at_the_clusters_own_size_are_the_clusters():
    clusters = np.random.default_rng(5).integers(0, 4, (32, 32)).astype(np.uint8)
    assert np.array_equal(masks(clusters, 32, 32).argmax(axis=0), clusters)
