import numpy as np
import pytest
import torch
from torchmetrics import JaccardIndex

from fsdlib.scores import confusion, dataset_iou, image_miou, iou_of_classes, majority_labels, matched_miou, miou


def counts_of(predictions, truths, classes):
    return [confusion(np.asarray(p), np.asarray(t), classes) for p, t in zip(predictions, truths)]


@pytest.mark.parametrize("seed", range(5))
def test_the_dataset_protocol_is_torchmetrics_jaccard_index(seed):
    random = np.random.default_rng(seed)
    peer, peer_by_class = (JaccardIndex(task="multiclass", num_classes=8, ignore_index=255, average=how) for how in ("macro", "none"))
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


# One picture of 2 x 3 pixels, worked by hand under both protocols.
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
    assert miou(counts_of([PREDICTION], [TRUTH], 3)) == pytest.approx(dict(dataset=1 / 3, per_image=1 / 4))


def test_false_positives_of_an_absent_class_count_in_the_dataset_alone():
    # background 3/4 in both; class 1 is in no truth: 0 in the dataset's mean, no part of the picture's
    assert miou(counts_of([[[0, 0, 0, 1]]], [[[0, 0, 0, 0]]], 3)) == pytest.approx(dict(dataset=(3 / 4 + 0) / 2, per_image=3 / 4))


def test_a_small_picture_weighs_as_much_as_a_large_one_per_image_alone():
    right, wrong = np.zeros((10, 10), int), np.ones((1, 1), int)
    # background 100 / 101 and class 1 0 / 1 in the dataset; pictures 1 and 0
    counts = counts_of([right, wrong], [right, 0 * wrong], 2)
    assert miou(counts) == pytest.approx(dict(dataset=(100 / 101 + 0) / 2, per_image=1 / 2))


def test_a_perfect_prediction_scores_one_under_both():
    truth = np.array([[0, 1, 2], [2, 1, 0]])
    assert miou(counts_of([truth], [truth], 5)) == dict(dataset=1.0, per_image=1.0)


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
    best = max(((np.array([a, b, c])[clusters] == truth) & (truth != 255)).sum() for a in range(3) for b in range(3) for c in range(3))
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
