import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import entropy
from sklearn import cluster
from sklearn.metrics import silhouette_score

from fsdlib.clusters import (
    Agglomerative,
    AgglomerativeThreshold,
    Cells,
    Clustering,
    Eigengap,
    KlMerging,
    KMeans,
    MeanShift,
    NormalisedCut,
    Pooled,
    Spectral,
    affinity,
    averaged,
    bisect,
    covered,
    cut_value,
    divergence,
    enlarged,
    inertia,
    masks,
    normalised_cut,
    proposals,
    silhouette,
)


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


@pytest.mark.parametrize("method", [KMeans, Agglomerative, Spectral])
def test_tight_groups_are_found_where_they_are(blobs, method):
    features, quadrant = blobs
    labels = method(count=4).group(features)
    assert labels.shape == (8, 8) and labels.dtype == np.uint8 and partition(labels) == partition(quadrant)


def test_k_means_is_scikit_learns():
    features = np.random.default_rng(1).normal(size=(12, 6, 7)).astype(np.float32)
    direct = cluster.KMeans(5, init="k-means++", n_init=3, random_state=11).fit(
        np.moveaxis(features, 0, -1).reshape(42, 12)
    )
    assert np.array_equal(KMeans(count=5, restarts=3).group(features, 11), direct.labels_.reshape(6, 7))


def test_agglomerative_clustering_is_scikit_learns_with_wards_linkage():
    features = np.random.default_rng(1).normal(size=(12, 6, 7)).astype(np.float32)
    direct = cluster.AgglomerativeClustering(5, linkage="ward").fit(np.moveaxis(features, 0, -1).reshape(42, 12))
    assert np.array_equal(Agglomerative(count=5).group(features), direct.labels_.reshape(6, 7))


def test_the_same_seed_gives_the_same_bytes_and_seeds_may_be_large():
    features = np.random.default_rng(2).normal(size=(4, 16, 16)).astype(np.float32)
    once, again = (KMeans(count=6).group(features, seed=2**40 + 3) for _ in range(2))
    assert once.tobytes() == again.tobytes()


def test_more_restarts_never_make_clusters_looser():
    features = np.random.default_rng(3).normal(size=(3, 16, 16)).astype(np.float32)

    def spread(labels):
        points = features.reshape(3, -1).T
        return sum(((points[labels.ravel() == k] - points[labels.ravel() == k].mean(0)) ** 2).sum() for k in range(8))

    one, ten = (spread(KMeans(count=8, restarts=restarts).group(features)) for restarts in (1, 10))
    assert ten <= one + 1e-3


@pytest.mark.parametrize("method", [KMeans, Agglomerative, Spectral])
def test_one_cluster_is_everything(blobs, method):
    assert np.all(method(count=1).group(blobs[0]) == 0)


def test_an_impossible_number_of_clusters_is_refused(blobs):
    with pytest.raises(ValueError, match="64 positions cannot make 65 clusters: ask for 1 to 64"):
        KMeans(count=65).group(blobs[0])
    with pytest.raises(ValidationError, match="count"):
        KMeans(count=0)


def test_clusters_are_as_many_more_as_there_are_candidates_where_that_is_asked(blobs):
    assert KMeans(count=2, plus_candidates=True).group(blobs[0], candidates=3).max() == 4
    assert KMeans(count=2).group(blobs[0], candidates=3).max() == 1


def test_the_normalised_cut_as_a_choice_is_the_function_with_its_options(blobs):
    assert np.array_equal(NormalisedCut(threshold=0.3, power=4).group(blobs[0]), normalised_cut(blobs[0], 0.3, 4))


def test_pooled_groupings_are_those_of_averaged_features_with_each_count(blobs):
    features, seed = np.random.default_rng(5).normal(size=(3, 8, 8)).astype(np.float32), 7
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth = np.mean([padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=0)
    np.testing.assert_allclose(averaged(features, 3), smooth, atol=1e-6)
    parts = Pooled(of=KMeans(restarts=2), counts=(2, 4), cells=(1, 3)).partitions(features, seed)
    direct = [
        KMeans(count=k, restarts=2).group(array, seed) for array in (features, averaged(features, 3)) for k in (2, 4)
    ]
    assert all(np.array_equal(one, other) for one, other in zip(parts, direct, strict=True))
    found = proposals(parts, 8, 8)
    assert {mask.tobytes() for mask in found} == {mask.tobytes() for part in parts for mask in masks(part, 8, 8)}
    assert np.array_equal(proposals(parts[1:2], 16, 16), masks(parts[1], 16, 16))
    # a blob stands apart at every number of clusters, and is proposed once
    separate = Pooled(counts=(2, 3), cells=(1,)).partitions(blobs[0])
    assert len(proposals(separate, 8, 8)) <= 5


def test_pooled_counts_and_cells_are_given_and_each_once():
    for wrong in (dict(counts=()), dict(cells=()), dict(counts=(3, 3)), dict(of="normalised_cut")):
        with pytest.raises(ValidationError):
            Pooled(**wrong)


def test_more_clusters_than_their_numbers_can_count_are_refused():
    with pytest.raises(ValueError, match="1024 positions cannot make 300 clusters: ask for 1 to 256"):
        KMeans(count=250, plus_candidates=True).group(np.zeros((1, 32, 32), np.float32), candidates=50)


def test_an_unknown_clustering_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'dbscan': choose one of kmeans, agglomerative, spectral, eigengap"):
        Clustering.model_validate("dbscan")


def test_the_silhouette_is_scikit_learns_and_undefined_for_one_cluster(blobs):
    features, quadrant = blobs
    halves = (quadrant % 2).astype(np.uint8)
    assert silhouette(features, halves) == pytest.approx(
        silhouette_score(np.moveaxis(features, 0, -1).reshape(64, 5), halves.ravel())
    )
    assert silhouette(features, quadrant) > 0.9 and np.isnan(silhouette(features, np.zeros((8, 8), np.uint8)))


def test_row_6_worked_by_hand():
    clusters = np.array([[0, 1], [2, 1]], np.uint8)
    of_one = masks(clusters, height=4, width=6)[1]
    assert of_one.tolist() == [[False] * 3 + [True] * 3] * 4
    # three rows of two cells: row 1 is of cell floor(1 * 2 / 3) = 0, though its middle lies on the border of both
    assert masks(clusters, height=3, width=2)[2].tolist() == [[False, False], [False, False], [True, False]]
    # 500 columns of 32 cells: cell 1 begins at column 16, since 15 * 32 / 500 = 0.96 and 16 * 32 / 500 = 1.02
    cells = enlarged(np.arange(32)[None], height=1, width=500)[0]
    assert cells[[0, 15, 16, 31, 32, 484, 485, 499]].tolist() == [0, 0, 1, 1, 2, 30, 31, 31]


@pytest.mark.parametrize("height, width", [(32, 32), (375, 500), (100, 33), (7, 9)])
def test_masks_share_the_picture_out_among_them(height, width):
    clusters = np.random.default_rng(4).integers(0, 5, (32, 32)).astype(np.uint8)
    parts = masks(clusters, height, width)
    assert parts.shape == (5, height, width) and parts.dtype == bool and np.all(parts.sum(axis=0) == 1)


def test_masks_at_the_clusters_own_size_are_the_clusters():
    clusters = np.random.default_rng(5).integers(0, 4, (32, 32)).astype(np.uint8)
    assert np.array_equal(masks(clusters, 32, 32).argmax(axis=0), clusters)


def test_inertia_is_what_k_means_says_it_reached():
    features = np.random.default_rng(6).normal(size=(4, 6, 6)).astype(np.float32)
    found = cluster.KMeans(3, n_init=2, random_state=0).fit(features.reshape(4, -1).T)
    assert inertia(features, found.labels_.reshape(6, 6)) == pytest.approx(found.inertia_, rel=1e-5)
    # two clusters on a line: 0, 2 around their mean 1, and 10 alone
    assert inertia(np.float32([[[0, 2, 10]]]), np.array([[0, 0, 1]])) == 2


# --------------------------------------------------------------------------------------------- normalised cut


@pytest.fixture
def chain():
    """Four nodes in a row, each tied to itself by 1: a - b by 1, b - c by 0.5, c - d by 1."""
    return np.array([[1, 1, 0, 0], [1, 1, 0.5, 0], [0, 0.5, 1, 1], [0, 0, 1, 1]])


def test_the_value_of_a_cut_worked_by_hand(chain):
    # degrees 2, 2.5, 2.5, 2. Between b and c 0.5 is severed and each side is tied to 4.5: 0.5 / 4.5 + 0.5 / 4.5 = 2 / 9.
    assert cut_value(chain, np.array([True, True, False, False])) == pytest.approx(2 / 9)
    # a alone: 1 is severed, a is tied to 2, the others to 7
    assert cut_value(chain, np.array([True, False, False, False])) == pytest.approx(1 / 2 + 1 / 7)
    # every second node: 2.5 is severed, and a and c are tied to 4.5, as b and d are
    assert cut_value(chain, np.array([True, False, True, False])) == pytest.approx(2 * 2.5 / 4.5)


def test_the_chain_is_cut_at_its_weakest_tie(chain):
    side, value = bisect(chain)
    assert side.tolist() in ([True, True, False, False], [False, False, True, True]) and value == pytest.approx(2 / 9)


def test_the_bisection_has_the_value_it_says_and_none_along_the_eigenvector_is_lower():
    random = np.random.default_rng(7)
    for _ in range(5):
        half = random.random((12, 12))
        weights = half + half.T
        side, value = bisect(weights)
        assert value == pytest.approx(cut_value(weights, side)) and 0 < side.sum() < 12
        degrees = weights.sum(axis=1)
        values, vectors = np.linalg.eig(
            np.diag(1 / degrees) @ weights
        )  # the largest but one here is the second smallest there
        order = vectors[:, values.real.argsort()[-2]].real.argsort()
        for size in range(1, 12):
            assert value <= cut_value(weights, np.isin(np.arange(12), order[:size])) + 1e-9


def test_equal_positions_are_not_worth_cutting():
    # of n equal nodes, any k: k (n - k) is severed, the sides are tied to k n and (n - k) n; the sum is 1
    assert bisect(np.ones((6, 6)))[1] == pytest.approx(1)
    assert not normalised_cut(np.ones((3, 4, 4), np.float32), threshold=0.99).any()


def test_affinity_is_the_cosine_to_a_power_without_negative_ones():
    features = np.float32(
        [[[2, 1, 0, -1]], [[0, 1, 3, 0]]]
    )  # four positions in the plane: at 0, 45, 90 and 180 degrees
    half = 0.5**0.5
    expected = np.array([[1, half**4, 0, 0], [half**4, 1, half**4, 0], [0, half**4, 1, 0], [0, 0, 0, 1]])
    assert np.allclose(affinity(features, power=4), expected, atol=2e-8) and affinity(features).min() > 0
    assert np.allclose(affinity(7 * features), affinity(features))  # lengths do not count


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_the_normalised_cut_finds_how_many_groups_there_are(groups):
    random = np.random.default_rng(8)
    truth = np.repeat(np.arange(groups), 12).reshape(groups, 12)
    features = np.eye(4)[truth] * 5 + random.normal(0, 0.2, (groups, 12, 4))
    found = normalised_cut(features.transpose(2, 0, 1).astype(np.float32))
    assert found.dtype == np.uint8 and np.array_equal(found, truth)  # numbered as they are met


def test_a_higher_threshold_cuts_more_finely_and_within_what_a_lower_one_left_together():
    features = np.random.default_rng(9).normal(size=(3, 8, 8)).astype(np.float32)
    coarse, middle, fine = (normalised_cut(features, threshold) for threshold in (0.05, 0.4, 0.8))
    assert coarse.max() < middle.max() < fine.max()
    assert all(len(np.unique(coarse[fine == k])) == 1 for k in np.unique(fine))


def test_the_normalised_cut_is_the_same_every_time_and_in_every_order():
    random = np.random.default_rng(10)
    features = random.normal(size=(4, 6, 6)).astype(np.float32)
    order = random.permutation(36)
    shuffled = features.reshape(4, 36)[:, order].reshape(4, 6, 6)
    labels, again, moved = normalised_cut(features, 0.7), normalised_cut(features, 0.7), normalised_cut(shuffled, 0.7)
    assert labels.tobytes() == again.tobytes() and labels.max() > 1
    assert partition(labels) == {frozenset(order[list(group)].tolist()) for group in partition(moved)}


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 2.0])
def test_thresholds_that_cut_nothing_or_everything_are_refused(blobs, threshold):
    with pytest.raises(ValueError, match=f"the threshold of a normalised cut is {threshold}: it lies between 0 and 1"):
        normalised_cut(blobs[0], threshold)


def test_more_segments_than_their_numbers_can_count_are_refused():
    features = (
        np.random.default_rng(11).normal(size=(300, 20, 20)).astype(np.float32)
    )  # nearly orthogonal, so that each stands alone
    with pytest.raises(ValueError, match="into 400 segments, more than 256: lower it"):
        normalised_cut(features, 0.9)


def test_spectral_clusters_are_seeded_and_follow_directions_not_lengths():
    random = np.random.default_rng(12)
    directions = np.eye(3)[np.repeat([0, 1, 2], 12)] + random.normal(0, 0.05, (36, 3))
    features = (directions * random.uniform(1, 20, (36, 1))).T.reshape(3, 6, 6).astype(np.float32)
    labels = Spectral(count=3).group(features, 5)
    assert (
        partition(labels) == partition(np.repeat([0, 1, 2], 12))
        and labels.tobytes() == Spectral(count=3).group(features, 5).tobytes()
    )


# ----------------------------------------------------------------------------------- ways that find the number


@pytest.mark.parametrize(
    "way", [Eigengap(), AgglomerativeThreshold(threshold=0.2), MeanShift()], ids=lambda way: way.kind
)
def test_the_number_of_tight_groups_is_found(blobs, way):
    features, quadrant = blobs
    labels = way.group(features)
    assert labels.dtype == np.uint8 and partition(labels) == partition(quadrant)
    first = np.unique(labels, return_index=True)[1]
    assert first.tolist() == sorted(first)  # numbered as they are met


def test_a_threshold_on_mean_cosine_distances_is_scikit_learns():
    features = np.random.default_rng(3).normal(size=(4, 5, 6))
    direct = cluster.AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=0.6
    ).fit(np.moveaxis(features, 0, -1).reshape(30, 4))
    assert partition(AgglomerativeThreshold(threshold=0.6).group(features)) == partition(direct.labels_)


def test_spectral_clusters_by_qr_are_scikit_learns(blobs):
    features, _ = blobs
    direct = cluster.SpectralClustering(3, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    expected = direct.fit_predict(affinity(features, 2.0))
    assert partition(Spectral(count=3, power=2.0, by="cluster_qr").group(features)) == partition(expected)


@pytest.mark.parametrize("way", [Eigengap(), AgglomerativeThreshold(), MeanShift(), Cells()], ids=lambda way: way.kind)
def test_positions_that_are_all_alike_and_a_single_one_are_grouped_too(way):
    assert way.group(np.ones((3, 1, 1))).tolist() == [[0]]
    assert len(np.unique(way.group(np.ones((3, 4, 4))))) in (1, 2, 16)


def test_every_cell_is_a_cluster_of_its_own_however_many():
    labels = Cells().group(np.zeros((1, 20, 20)))
    assert labels.ravel().tolist() == list(range(400)) and masks(labels, 40, 40).sum(axis=(1, 2)).tolist() == [4] * 400
    assert np.isnan(silhouette(np.random.default_rng(0).normal(size=(1, 20, 20)), labels))


# ------------------------------------------------------------------------------------------------- merged attention


def test_divergence_is_the_mean_of_scipys_of_both_directions():
    ones, others = (np.random.default_rng(seed).dirichlet(np.ones(6), 3) for seed in (0, 1))
    expected = [[(entropy(one, other) + entropy(other, one)) / 2 for other in others] for one in ones]
    np.testing.assert_allclose(divergence(ones, others), expected, rtol=1e-9)
    assert np.abs(divergence(ones, ones).diagonal()).max() < 1e-12


def looking(groups):
    """Attention maps of positions that look at all of their own group alike: (N, h, w)."""
    flat = groups.ravel()
    alike = (flat[:, None] == flat) + 1e-6
    return (alike / alike.sum(axis=1, keepdims=True)).T.reshape(-1, *groups.shape)


def test_maps_of_one_group_are_merged_and_the_groups_come_out():
    groups = np.kron([[0, 1], [2, 1]], np.ones((3, 3), int))
    for anchors in (2, 6, 16):
        assert partition(KlMerging(anchors=anchors).group(looking(groups))) == partition(groups)
    assert len(np.unique(KlMerging(anchors=6, threshold=100.0).group(looking(groups)))) == 1


def test_merging_worked_by_hand():
    """Three maps on 1 x 3 positions: the first two lie 0.11 apart, the third far away; a threshold between merges two."""
    maps = np.array([[0.6, 0.3, 0.1], [0.45, 0.45, 0.1], [0.1, 0.1, 0.8]])
    near = divergence(maps, maps)
    assert near[0, 1] < 0.1 < near[0, 2] and near[0, 1] < 0.1 < near[1, 2]
    assert KlMerging(anchors=3, threshold=0.1).group(maps.T.reshape(3, 1, 3)).tolist() == [[0, 0, 1]]
    assert KlMerging(anchors=3, threshold=0.001).group(maps.T.reshape(3, 1, 3)).tolist() == [[0, 1, 2]]


def test_features_that_are_no_attention_maps_cannot_be_merged():
    for features in (np.ones((3, 2, 2)), np.ones((4, 2, 2))):
        with pytest.raises(ValueError, match="no attention maps.*features='attention'"):
            KlMerging().group(features)


# ------------------------------------------------------------------------------------------------- the cut as DiffCut has it


def test_stretched_cosines_go_from_nought_to_one():
    features = np.random.default_rng(0).uniform(1, 2, (3, 2, 3))
    assert affinity(features, 1).min() > 0.5
    found = affinity(features, 1, stretched=True)
    assert found.min() <= 1e-8 and found.max() == 1 and np.array_equal(found, found.T)


def test_a_cut_of_a_coarse_map_gives_every_fine_position_the_part_it_is_most_like(blobs):
    features, quadrant = blobs
    fine = np.kron(features, np.ones((1, 3, 3), np.float32))
    assert partition(NormalisedCut(grid=8).group(fine)) == partition(np.kron(quadrant, np.ones((3, 3), int)))
    moved = fine.copy()
    moved[:, 0, 0] = features[:, 7, 7]  # one fine position that is of another part than its coarse cell
    assert NormalisedCut(grid=8).group(moved)[0, 0] == NormalisedCut(grid=8).group(moved)[-1, -1]
    assert np.array_equal(NormalisedCut(grid=8).group(features), NormalisedCut().group(features))


def test_covered_shares_are_those_of_the_cells():
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :2, :3] = True
    assert covered(mask, 2, 2).tolist() == [[[1.0, 0.5], [0.0, 0.0]]]
