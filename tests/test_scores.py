import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torchmetrics import ConfusionMatrix, JaccardIndex

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.scores import (
    PROTOCOLS,
    VOID,
    _near,
    _resampled,
    ahead,
    areas,
    bootstrap,
    boundary_f,
    confusion,
    dataset_iou,
    hungarian_labels,
    image_iou,
    image_miou,
    image_union_iou,
    image_union_miou,
    iou_of_classes,
    majority_labels,
    matched_miou,
    metrics,
    miou,
    pieces,
    wholeness,
)


def counts_of(predictions, truths, classes):
    return [confusion(np.asarray(p), np.asarray(t), classes) for p, t in zip(predictions, truths)]


@pytest.mark.parametrize("seed", range(5))
def test_the_dataset_protocol_is_torchmetrics_jaccard_index(seed):
    random = np.random.default_rng(seed)
    peer, peer_by_class = (
        JaccardIndex(task="multiclass", num_classes=8, ignore_index=255, average=how) for how in ("macro", "none")
    )
    predictions, truths = [], []
    for size in ((5, 7), (3, 3), (10, 4)):
        truth = random.choice([0, 1, 2, 4, 6, 255], size)  # 3, 5 and 7 are in no truth
        prediction = np.where(random.random(size) < 0.5, truth, random.integers(0, 6, size)).astype(np.uint8)
        prediction[truth == 255] = random.integers(0, 8)  # what is said of void must not count
        prediction[prediction == 255] = 0
        truths.append(truth.astype(np.uint8)), predictions.append(prediction)
        for metric in (peer, peer_by_class):
            metric.update(torch.from_numpy(prediction.astype(int)).flatten(), torch.from_numpy(truth).flatten())
    counts = counts_of(predictions, truths, 8)
    assert miou(counts)["dataset"] == pytest.approx(peer.compute().item(), abs=1e-6)
    ours = dataset_iou(counts)
    assert np.isnan(ours[7]) and np.allclose(np.nan_to_num(ours), peer_by_class.compute().numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_per_image_union_protocol_is_torchmetrics_jaccard_index_of_each_picture(seed):
    """As DiffCut's evaluation takes it: one number a picture, void turned into background beforehand."""
    random = np.random.default_rng(seed)
    truths = [random.choice([0, 1, 2, 4, 255], (6, 5)) for _ in range(4)]
    predictions = [np.where(random.random((6, 5)) < 0.5, truth, random.integers(0, 6, (6, 5))) for truth in truths]
    predictions = [np.where(prediction == 255, 5, prediction) for prediction in predictions]
    peer = JaccardIndex(task="multiclass", num_classes=8)
    of_pictures = [
        peer(torch.from_numpy(prediction), torch.from_numpy(np.where(truth == 255, 0, truth))).item()
        for prediction, truth in zip(predictions, truths)
    ]
    assert miou(counts_of(predictions, truths, 8))["per_image_union"] == pytest.approx(np.mean(of_pictures), abs=1e-6)


# One picture of 2 x 3 pixels, worked by hand under all protocols.
TRUTH = [[0, 1, 255], [0, 1, 2]]
PREDICTION = [[0, 1, 1], [1, 1, 0]]


def test_the_confusion_worked_by_hand():
    assert confusion(np.array(PREDICTION), np.array(TRUTH), 3).tolist() == [
        [1, 1, 0],  # of two background pixels one is called 1
        [0, 2, 0],
        [1, 0, 0],  # the one pixel of class 2 is called background
        [0, 1, 0],  # the void pixel is called 1
    ]


def test_per_image_worked_by_hand():
    # void counts as background, which then has three pixels:
    # background 1 / (3 + 2 - 1) = 1/4, class 1 2 / (2 + 4 - 2) = 1/2, class 2 0: mean 1/4
    (counts,) = counts_of([PREDICTION], [TRUTH], 3)
    assert image_miou(counts) == pytest.approx(1 / 4)


def test_dataset_worked_by_hand_differs():
    # void is out: background 1 / (2 + 2 - 1) = 1/3, class 1 2 / (2 + 3 - 2) = 2/3, class 2 0: mean 1/3
    # no class is in the prediction alone, so that the two means over images agree
    assert miou(counts_of([PREDICTION], [TRUTH], 3)) == pytest.approx(
        dict(dataset=1 / 3, per_image=1 / 4, per_image_union=1 / 4)
    )


# Truth and prediction of notebook 07: a void pixel called 2, and a class 3 that the truth lacks.
SIXTEEN = [[1, 1, 0, 0], [1, 1, 0, 255], [0, 0, 2, 2], [0, 0, 2, 2]]
FOUND = [[1, 1, 1, 0], [1, 0, 0, 2], [0, 0, 2, 2], [0, 3, 2, 2]]


def test_three_protocols_give_sixteen_pixels_three_scores():
    # void out: 5/8, 3/5, 4/4 and 0/1; void as background: 5/9, 3/5, 4/5, and 0/1 where the union of classes counts
    assert miou(counts_of([FOUND], [SIXTEEN], 4)) == pytest.approx(
        dict(
            dataset=(5 / 8 + 3 / 5 + 1 + 0) / 4,
            per_image=(5 / 9 + 3 / 5 + 4 / 5) / 3,
            per_image_union=(5 / 9 + 3 / 5 + 4 / 5 + 0) / 4,
        )
    )


def test_a_class_in_the_prediction_alone_is_one_in_the_union():
    (counts,) = counts_of([[[0, 3]]], [[[0, 0]]], 5)
    ours = image_union_iou(counts)
    assert ours[[0, 3]].tolist() == [1 / 2, 0] and np.isnan(ours[[1, 2, 4]]).all()
    assert image_union_miou(counts) == 1 / 4 and image_miou(counts) == 1 / 2


def test_void_left_out_of_the_per_image_protocol_worked_by_hand():
    # background 1 / (2 + 2 - 1), class 1 2 / (2 + 3 - 2), class 2 0: the void pixel called 1 counts nowhere
    (counts,) = counts_of([PREDICTION], [TRUTH], 3)
    assert image_iou(counts, void_is_background=False).tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_void_as_background_makes_label_0_a_class_of_a_list_without_one():
    # three pixels of class 1, one of 2, two void; 0 is said of one void pixel and of one of class 1
    truth, prediction = np.array([[1, 1, 1, 2, 255, 255]]), np.array([[1, 1, 0, 2, 0, 2]])
    counts = confusion(prediction, truth, 4)
    # label 0: 1 of 3, class 1: 2 of 3, class 2: 1 of 2
    assert image_iou(counts, void_is_background=True)[:3].tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert miou([counts], background=False, void_is_background=True) == pytest.approx(
        dict(dataset=(2 / 3 + 1) / 2, per_image=(1 / 3 + 2 / 3 + 1 / 2) / 3, per_image_union=(2 / 3 + 1) / 2)
    )


def test_false_positives_of_an_absent_class_count_in_the_dataset_alone():
    # background 3/4 in both; class 1 is in no truth: 0 in the dataset's mean, no part of the picture's
    assert miou(counts_of([[[0, 0, 0, 1]]], [[[0, 0, 0, 0]]], 3)) == pytest.approx(
        dict(dataset=(3 / 4 + 0) / 2, per_image=3 / 4, per_image_union=(3 / 4 + 0) / 2)
    )


def test_a_small_picture_weighs_as_much_as_a_large_one_per_image_alone():
    right, wrong = np.zeros((10, 10), int), np.ones((1, 1), int)
    # background 100 / 101 and class 1 0 / 1 in the dataset; pictures 1 and 0, whatever classes of theirs are counted
    counts = counts_of([right, wrong], [right, 0 * wrong], 2)
    assert miou(counts) == pytest.approx(dict(dataset=(100 / 101 + 0) / 2, per_image=1 / 2, per_image_union=1 / 2))


def test_a_perfect_prediction_scores_one_under_all():
    truth = np.array([[0, 1, 2], [2, 1, 0]])
    assert miou(counts_of([truth], [truth], 5)) == dict.fromkeys(PROTOCOLS, 1.0)


def test_a_class_that_occurs_nowhere_has_no_iou():
    ious = iou_of_classes(np.diag([3, 0, 2]))
    assert ious[[0, 2]].tolist() == [1, 1] and np.isnan(ious[1])


def test_labels_of_uint8_are_counted_without_overflow():
    labels = np.full((300, 300), 200, np.uint8)
    assert confusion(labels, labels, 254)[200, 200] == 90_000


@pytest.mark.parametrize("prediction, truth", [([[3]], [[0]]), ([[0]], [[3]]), ([[255]], [[0]])])
def test_labels_beyond_the_classes_are_refused(prediction, truth):
    with pytest.raises(ValueError, match="but there are 3 classes"):
        confusion(np.array(prediction), np.array(truth), 3)


def test_maps_of_different_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and the truth \(3, 2\)"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)


def test_majority_labels_worked_by_hand():
    clusters = np.array([[0, 0, 0, 1], [2, 2, 1, 1]])
    truth = np.array([[5, 5, 0, 7], [255, 255, 255, 0]])
    # cluster 0: 5 twice, 0 once; cluster 1: 7 and 0 once each, a tie that goes to the lower; cluster 2: all void
    assert majority_labels(clusters, truth).tolist() == [[5, 5, 5, 0], [0, 0, 0, 0]]


def test_no_naming_of_the_clusters_has_more_pixels_right_than_the_majoritys():
    random = np.random.default_rng(0)
    clusters, truth = random.integers(0, 3, (12, 12)), random.choice([0, 1, 2, 255], (12, 12))
    best = max(
        ((np.array([a, b, c])[clusters] == truth) & (truth != 255)).sum()
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    assert ((majority_labels(clusters, truth) == truth) & (truth != 255)).sum() == best


def test_matched_miou_worked_by_hand():
    truth = np.uint8([[0, 0, 0, 3], [0, 0, 255, 3]])
    # left: four of background; right: one of background, one void, two of class 3, whose name it takes
    clusters = np.uint8([[0, 1]])
    # background: 4 of 5 right; class 3: 2 right, 1 too many; void counts nowhere
    assert matched_miou(clusters, truth) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert matched_miou(np.uint8([[0]]), truth) == pytest.approx(5 / 7 / 2)  # all is background, class 3 is missed


def test_matched_miou_does_not_care_for_the_numbers_of_clusters():
    truth = np.kron(np.uint8([[0, 1], [2, 1]]), np.ones((4, 4), np.uint8))
    assert matched_miou(np.uint8([[9, 4], [0, 4]]), truth) == 1


# --------------------------------------------------------------------------------------------- all that papers report


def check_against_peers(pairs, classes):
    """Ours from summed counts against torchmetrics and scikit-learn on the pixels themselves."""
    truth = np.concatenate([truth.ravel() for _, truth in pairs])
    prediction = np.concatenate([prediction.ravel() for prediction, _ in pairs]).astype(int)
    ours = metrics(np.sum([confusion(prediction, truth, classes) for prediction, truth in pairs], axis=0))
    arguments = torch.from_numpy(prediction), torch.from_numpy(truth.astype(int))
    peer = ConfusionMatrix(task="multiclass", num_classes=classes, ignore_index=VOID)(*arguments)
    assert (np.sum([confusion(*pair, classes) for pair in pairs], axis=0)[:-1] == peer.numpy()).all()
    for name, average in (("miou", "macro"), ("frequency_weighted_iou", "weighted")):
        peer = JaccardIndex(task="multiclass", num_classes=classes, ignore_index=VOID, average=average)
        assert ours[name] == pytest.approx(peer(*arguments).item(), abs=1e-6)
    known = truth != VOID
    assert ours["pixel_accuracy"] == pytest.approx(accuracy_score(truth[known], prediction[known]))
    with np.errstate(all="ignore"):
        assert ours["mean_accuracy"] == pytest.approx(balanced_accuracy_score(truth[known], prediction[known]))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(5))
def test_all_metrics_are_those_of_torchmetrics_and_scikit_learn(seed):
    random = np.random.default_rng(seed)
    truths = [random.choice([0, 1, 2, 4, 255], (9, 7)).astype(np.uint8) for _ in range(3)]
    check_against_peers(
        [
            (np.where((truth == 255) | (random.random(truth.shape) < 0.5), 3, truth).astype(np.uint8), truth)
            for truth in truths
        ],
        6,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_all_metrics_are_those_of_the_peers_on_real_label_maps(voc_root):
    voc = open_dataset("voc12", voc_root)
    pairs = []
    for i in range(12):  # each image's prediction is its truth, moved by some pixels, and the void filled
        truth = voc.labels(i)
        pairs.append((np.roll(np.where(truth == VOID, 7, truth), (9, 17), axis=(0, 1)), truth))
    check_against_peers(pairs, 21)


def test_metrics_without_background_worked_by_hand():
    # truth: 4 background, 2 of class 1, 2 of class 2; one background pixel is called 1, one pixel of 2 is called background
    truth, prediction = np.array([[0, 0, 0, 0, 1, 1, 2, 2]]), np.array([[1, 0, 0, 0, 1, 1, 0, 2]])
    found = metrics(confusion(prediction, truth, 3), background=False)
    mean_iou = (2 / 3 + 1 / 2) / 2
    assert found == pytest.approx(
        dict(miou=mean_iou, pixel_accuracy=3 / 4, mean_accuracy=(1 + 1 / 2) / 2, frequency_weighted_iou=mean_iou)
    )


def test_where_there_is_no_background_label_0_is_no_class_and_void_is_out_of_all_protocols():
    truth, prediction = np.array([[1, 1, 2, 255]]), np.array([[1, 0, 2, 2]])
    assert miou([confusion(prediction, truth, 3)], background=False) == pytest.approx(
        dict.fromkeys(PROTOCOLS, (1 / 2 + 1) / 2)
    )
    # as a class, background would be wrong once in the dataset's mean, and the void would count in the picture's
    assert miou([confusion(prediction, truth, 3)]) == pytest.approx(
        dict(
            dataset=(0 + 1 / 2 + 1) / 3,
            per_image=(0 + 1 / 2 + 1 / 2) / 3,
            per_image_union=(0 + 1 / 2 + 1 / 2) / 3,
        )
    )


# --------------------------------------------------------------------------------------------- intervals


def of_images(count, seed=0, classes=4):
    random = np.random.default_rng(seed)
    counts = []
    for _ in range(count):
        truth = random.integers(0, classes, (6, 6))
        counts.append(confusion(np.where(random.random((6, 6)) < 0.6, truth, 0), truth, classes))
    return np.stack([areas(one) for one in counts]), mious_of(counts), counts


def mious_of(counts):
    return dict(
        per_image=np.array([image_miou(one) for one in counts]),
        per_image_union=np.array([image_union_miou(one) for one in counts]),
    )


def test_an_interval_is_the_quantiles_of_what_resampled_images_score():
    """Two images: there are four draws, so that the distribution is known."""
    found, mious, counts = of_images(2)
    draws = [miou([counts[i] for i in draw]) for draw in itertools.product(range(2), repeat=2)]
    intervals, reached = bootstrap(found, mious, resamples=4000), miou(counts)
    for protocol, (low, high) in intervals.items():
        values = np.array([draw[protocol] for draw in draws])
        moved = reached[protocol] - values.mean()
        assert (low, high) == pytest.approx((values.min() + moved, values.max() + moved), abs=5e-3)


def test_rare_classes_that_no_draw_holds_do_not_lift_the_interval():
    # each image has a class of its own, all wrong but the common one: without them the mean would be higher in every draw
    counts = [confusion(np.array([[0, 0]]), np.array([[0, label]]), 11) for label in range(1, 11)]
    low, high = bootstrap(np.stack([areas(one) for one in counts]), mious_of(counts))["dataset"]
    assert low == pytest.approx(high) == pytest.approx(miou(counts)["dataset"])


def test_an_interval_of_a_mean_is_as_wide_as_statistics_say():
    found, mious, _ = of_images(200)
    low, high = bootstrap(found, mious, resamples=2000)["per_image"]
    values = mious["per_image"]
    expected = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(expected, rel=0.1) and low < values.mean() < high


def test_images_without_a_score_have_no_part_in_the_interval():
    found, _mious, _ = of_images(30)
    alone = bootstrap(np.repeat(found[:1], 30, axis=0), dict(per_image=np.where(np.arange(30) < 15, 0.25, np.nan)))
    assert alone["per_image"] == pytest.approx((0.25, 0.25))


def test_equal_images_have_an_interval_of_one_point_and_one_seed_gives_one_interval():
    found, mious, counts = of_images(1)
    repeated = {protocol: np.repeat(values, 20) for protocol, values in mious.items()}
    low, high = bootstrap(np.repeat(found, 20, axis=0), repeated)["dataset"]
    assert low == pytest.approx(high) == pytest.approx(miou(counts)["dataset"])
    many = of_images(20)[:2]
    assert bootstrap(*many, seed=3) == bootstrap(*many, seed=3) != bootstrap(*many, seed=4)


def test_an_interval_holds_the_score_where_rare_classes_pull_the_draws_below_it():
    """Forty classes, each in two images: ten pixels of it found in one, one pixel missed in the other. A draw of the second
    without the first, one in four, scores 0 for 10/11."""
    counts = []
    for label in range(1, 41):
        truth = np.full((1, 11), label)
        truth[0, 10] = 0
        counts.append(confusion(truth, truth, 41))
        missed = np.where(np.arange(11) == 0, label, 0)[None]
        counts.append(confusion(np.zeros_like(missed), missed, 41))
    of_images = np.stack([areas(one) for one in counts])
    low, high = bootstrap(of_images, {}, resamples=2000)["dataset"]
    reached = miou(counts)["dataset"]
    draws = _resampled(of_images, {}, True, 0, 2000)["dataset"]
    assert np.quantile(draws, 0.975) < reached and low < reached < high <= 1
    moved = np.quantile(draws, [0.025, 0.975]) + reached - np.mean(draws)
    assert (low, high) == pytest.approx(moved.clip(0, 1).tolist()) and moved[1] > 1  # no score is above 1


# --------------------------------------------------------------------------------------------- masks apart from names

HALVES = np.array([[0, 0, 1, 1, 2, 2]])


def test_hungarian_gives_a_class_one_cluster_where_majority_joins_all():
    truth = np.array([[5, 5, 5, 5, 0, 0]])
    assert majority_labels(HALVES, truth).tolist() == [[5, 5, 5, 5, 0, 0]]
    assert hungarian_labels(HALVES, truth).tolist() in ([[5, 5, 0, 0, 0, 0]], [[0, 0, 5, 5, 0, 0]])


def test_hungarian_finds_the_best_of_all_one_to_one_matchings():
    random = np.random.default_rng(0)
    for _ in range(20):
        clusters, truth = random.integers(0, 4, (5, 5)), random.choice([0, 1, 2, 255], (5, 5))
        found = hungarian_labels(clusters, truth)
        known = truth != 255

        def worth(labels_of_clusters):
            ious = []
            for cluster, label in enumerate(labels_of_clusters):
                ours, theirs = (clusters == cluster) & known, (truth == label) & known
                ious.append((ours & theirs).sum() / max(1, (ours | theirs).sum()) if label >= 0 else 0)
            return sum(ious)

        best = max(worth(labels) for labels in set(itertools.permutations([0, 1, 2, -1])))
        # clusters called 0 are the background's own match or none's; the best of both readings is what was matched
        given = [int(found[clusters == cluster][0]) if (clusters == cluster).any() else -1 for cluster in range(4)]
        zeros = [cluster for cluster, label in enumerate(given) if label == 0]
        readings = [
            [label if label or cluster == kept else -1 for cluster, label in enumerate(given)] for kept in zeros
        ] or [given]
        assert max(worth(reading) for reading in readings) == pytest.approx(best)


def test_hungarian_gives_void_no_vote():
    truth = np.array([[255, 255, 255, 1, 2, 2]])
    assert hungarian_labels(HALVES, truth).tolist() == [[0, 0, 1, 1, 2, 2]]


def square(size, place, width=12):
    labels = np.zeros((size, size), np.uint8)
    labels[place : place + width, place : place + width] = 3
    return labels


def test_boundaries_that_agree_score_1_whatever_their_names():
    truth = square(60, 20)
    assert boundary_f(truth, truth) == boundary_f(np.where(truth == 3, 0, 9), truth) == 1
    assert boundary_f(np.zeros_like(truth), np.zeros_like(truth)) == 1 and boundary_f(np.zeros_like(truth), truth) == 0


def test_a_boundary_within_the_tolerance_is_right_and_beyond_it_wrong():
    truth, moved = square(400, 100, 80), square(400, 106, 80)  # the diagonal is 566, of which 0.75 % are 4.2 pixels
    assert boundary_f(square(400, 103, 80), truth) == 1
    # thick boundaries: of the square's sides, which are 6 pixels off, 5 to the nearer edge, only the ends near crossings count
    assert boundary_f(moved, truth) < 0.2 and boundary_f(moved, truth, tolerance=0.02) == 1


def test_a_boundary_f_worked_by_hand():
    # the truth has one vertical edge, the prediction that one and another far away: precision 1/2, recall 1
    truth, ours = np.zeros((40, 200), np.uint8), np.zeros((40, 200), np.uint8)
    truth[:, 50:] = 1
    ours[:, 50:] = 1
    ours[:, 150:] = 2
    assert boundary_f(ours, truth) == pytest.approx(2 * 0.5 / 1.5)


@pytest.mark.parametrize("cells", [2, 5, 20, 90])  # from a few long boundaries to nothing else
@pytest.mark.parametrize("reach", [1.0, 2**0.5, 3.7, 5.0])
def test_what_is_near_is_what_a_distance_transform_says(cells, reach):
    """5 is also the distance of (3, 4), and the diagonal that of (1, 1): on the edge, within."""
    generator = np.random.default_rng(cells)
    ours, theirs = (
        find_boundaries(
            np.kron(generator.integers(0, 9, (cells, cells)), np.ones((90 // cells,) * 2, int)), mode="thick"
        )
        for _ in range(2)
    )
    near = distance_transform_edt(~theirs)[ours] <= reach
    assert near.size and np.array_equal(_near(ours, theirs, reach), near)


def test_a_boundary_within_the_void_is_right():
    truth = square(60, 20)
    outlined = truth.copy()
    outlined[19:33, 19:33] = np.where(square(60, 21, 10)[19:33, 19:33] == 3, 3, 255)
    assert boundary_f(truth, outlined) == 1 and np.isnan(boundary_f(truth, np.full_like(truth, 255)))


# An object of ten pixels, and a void one, over three clusters that hold 6, 3 and 1 of the ten.
SPLIT = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 2]])
OBJECT = np.array([[5, 5, 5, 5, 5, 5], [5, 5, 5, 0, 255, 5]])


@pytest.mark.parametrize(("share", "expected"), [(0.6, 1), (0.61, 2), (0.9, 2), (0.91, 3), (1.0, 3)])
def test_the_pieces_of_an_object_worked_by_hand(share, expected):
    assert pieces(SPLIT, OBJECT == 5, share) == expected


def test_the_numbers_of_clusters_do_not_matter_to_pieces_nor_what_else_they_hold():
    assert pieces(7 - SPLIT, OBJECT == 5) == pieces(SPLIT, OBJECT == 5) == 2
    assert pieces(np.zeros((50, 50), int), square(50, 3) == 3) == 1


def test_an_object_that_is_not_there_has_no_pieces():
    with pytest.raises(ValueError, match="no pixels"):
        pieces(SPLIT, OBJECT == 9)


def test_the_wholeness_of_an_object_worked_by_hand():
    found = wholeness(SPLIT.astype(np.uint8), OBJECT.astype(np.uint8), 5)
    # of the ten, the first cluster holds 6 and nothing else; the second 3 and one other pixel, the void one not counted
    assert found["pieces"] == 2 and found["iou"] == pytest.approx(6 / 10)


def test_an_object_that_is_a_cluster_is_whole_and_one_joined_with_its_ground_is_not():
    truth = np.zeros((60, 60), np.uint8)
    truth[20:40, 20:40], truth[:10] = 3, 7
    alone, joined = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    alone[2:4, 2:4] = 1
    joined[2:4] = 1  # with the ground to both sides: a third of the cluster is the object
    assert wholeness(alone, truth, 3) == dict(pieces=1, iou=1.0, boundary_f=1.0)
    found = wholeness(joined, truth, 3)
    assert found["pieces"] == 1 and found["iou"] == pytest.approx(1 / 3) and found["boundary_f"] < 0.6


# ------------------------------------------------------------------------------------------- one method beside another


def test_a_method_is_ahead_of_itself_by_nothing_and_of_another_by_the_difference_of_their_scores():
    random = np.random.default_rng(0)
    ours, others = random.integers(0, 50, (2, 30, 4, 3))
    same = ahead(list(ours), list(ours))
    assert all(values == (0, 0, 0) for values in same.values())
    found, back = ahead(list(ours), list(others)), ahead(list(others), list(ours))
    for protocol, (difference, low, high) in found.items():
        assert difference == pytest.approx(miou(list(ours))[protocol] - miou(list(others))[protocol])
        assert low <= difference <= high
        assert back[protocol] == pytest.approx((-difference, -high, -low), abs=1e-9)


def test_what_void_is_makes_a_difference_of_two_methods_too():
    """Void is named by one method and not by the other: it counts where void is background, and not where it is out."""
    truth = np.array([[1, 1, VOID, VOID]])
    ours, others = ([confusion(np.array([[1, 1, one, one]]), truth, 2)] for one in (0, 1))
    assert ahead(ours, others)["per_image"] == pytest.approx([0.75] * 3)  # 1, and the mean of 0 and 1/2
    assert ahead(ours, others, void_is_background=False)["per_image"] == (0, 0, 0)


def test_an_interval_of_paired_images_is_narrower_than_of_unpaired_ones():
    """Every image is a tenth better: how hard images are does not show in the difference."""
    right = np.linspace(10, 80, 40).astype(int)
    counts = [[np.array([[n + more, 100 - n - more], [0, 0], [0, 0]]) for n in right] for more in (10, 0)]
    difference, low, high = ahead(*counts)["per_image"]
    assert (low, high) == pytest.approx((difference, difference)) and difference == pytest.approx(0.1)
