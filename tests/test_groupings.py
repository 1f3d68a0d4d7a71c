"""What features are worth apart from names: by hand, by the scores themselves, and whatever the order of the pictures."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fsdlib.backbones import Colours
from fsdlib.clusters import Clustering, KMeans, NormalisedCut
from fsdlib.features import image_seed
from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.groupings import (
    KEPT,
    ON_SCENES,
    THE_PICTURE,
    as_rows,
    compared,
    crossed,
    joined,
    measured,
    of_photographs,
    of_recorded,
    of_scenes,
    of_unets,
    scored,
    superpixels,
    table,
)
from fsdlib.models import BACKBONES, load_backbone, untrained_backbone
from fsdlib.world.scenes import write_scenes

VOID = 255


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset("scenes", write_scenes(tmp_path_factory.mktemp("scenes"), val=4))


@pytest.fixture(scope="module")
def colours(mini):
    return {"colours": (Colours(), mini), "colours and position": (Colours(position=1.0), mini)}


def test_a_picture_worked_by_hand():
    """Six pixels of class 1, one of them in the other cluster, one pixel void; two of the background."""
    truth = np.array([[1, 1, 1], [1, 1, 1], [0, 0, VOID]])
    clusters = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]])
    one = scored(clusters, truth, classes=2)
    assert one.majority.tolist() == [[2, 5], [2, 6], [3, 5]]  # right, in the truth, said
    assert one.hungarian.tolist() == one.majority.tolist() and one.clusters == 2


def test_two_halves_of_one_object_add_up_by_majority_and_not_under_the_hungarian_matching():
    truth = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    one = scored(np.array([[1, 1, 2, 2], [0, 0, 0, 0]]), truth, classes=2)
    found = table({("f", "c", 3): [one]})
    assert found.majority[0] == 1 and found.hungarian[0] == pytest.approx((2 / 4 + 4 / 6) / 2)


def test_clusters_of_a_coarse_grid_are_enlarged_to_the_truth():
    truth = np.kron(np.array([[0, 1]]), np.ones((4, 3), int))
    one = scored(np.array([[0, 1]]), truth, classes=2)
    assert one.boundary_f == 1 and table({("f", "c", 2): [one]}).majority[0] == 1


def test_the_table_is_what_the_scores_say_of_all_pictures(dataset, colours):
    found = compared(dataset, colours, {"k-means, 4": KMeans(count=4)}, counts=(4,)).set_index("features")
    counts, boundaries = [], []
    for index in range(len(dataset)):
        image, truth = dataset.image(index), dataset.labels(index)
        array = Colours().stacked([Colours().read([image], None)[1][0][0]])
        clusters = KMeans(count=4).group(array, image_seed(image, "clusters"))
        regions = np.kron(clusters, np.ones((6, 6), np.uint8))  # of scenes of 192 x 192 pixels
        counts.append(scores.confusion(scores.majority_labels(regions, truth), truth, len(dataset.vocabulary)))
        boundaries.append(scores.boundary_f(regions, truth))
    row = found.loc["colours"]
    assert row.majority == pytest.approx(scores.miou(counts)["dataset"]) and row.low <= row.majority <= row.high
    assert row.boundary_f == pytest.approx(np.mean(boundaries)) and (row.k, row.clusters, row.images) == (4, 4, 4)
    assert list(found.index) == ["colours", "colours and position", THE_PICTURE]


def test_the_order_of_the_pictures_changes_nothing_and_neither_does_a_second_time(dataset, colours):
    backwards = replace(dataset, **{name: getattr(dataset, name)[::-1] for name in ("ids", "pictures", "masks")})
    found = [compared(one, colours) for one in (dataset, dataset, backwards)]
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)
    pd.testing.assert_frame_equal(found[0], found[2], check_exact=True)


def test_only_the_first_pictures_are_asked_for_with_a_limit(dataset, colours):
    first = replace(dataset, **{name: getattr(dataset, name)[:2] for name in ("ids", "pictures", "masks")})
    pd.testing.assert_frame_equal(compared(dataset, colours, limit=2), compared(first, colours))
    with pytest.raises(ValueError, match="scenes has 0 pictures to compare on"):
        compared(dataset, colours, limit=0)
    with pytest.raises(ValueError, match="or no truth"):
        compared(replace(dataset, masks=()), colours)


class Choosy(Clustering):
    """Refuses dark pictures, as the normalised cut refuses features that fall into too many parts."""

    def group(self, features, seed=0, candidates=0):
        if features.mean() < 0.5:
            raise ValueError("too dark")
        return np.zeros(features.shape[1:], np.uint8)


def test_where_a_clustering_refuses_a_picture_there_is_no_score_and_the_table_says_of_how_many(dataset, colours):
    found = compared(dataset, colours, {"choosy": Choosy()}, counts=())
    dark = sum(dataset.image(index).mean() < 127.5 for index in range(len(dataset)))
    assert 0 < dark < 4 and found.refused[0] == dark and found.k.isna().all()
    assert found[["majority", "low", "hungarian", "boundary_f", "clusters"]].loc[0].isna().all()
    assert as_rows(found)[0]["majority"] is None and as_rows(found)[0]["k"] is None


def test_the_cut_may_be_of_fewer_pictures(dataset, colours):
    found = crossed(dataset, colours, limit=2, cut=1)
    cut = found[found.clustering == "normalised cut"]
    assert set(cut.images) == {1} and set(found.drop(cut.index).images) == {2} and cut.k.isna().all()
    array = Colours().stacked([Colours().read([dataset.image(0)], None)[1][0][0]])
    assert cut.clusters.iloc[0] == NormalisedCut().group(array).max() + 1


def test_superpixels_part_a_picture_of_four_colours_and_are_no_more_than_asked_for(scene):
    quarters = np.kron(np.array([[0, 90], [170, 255]], np.uint8), np.ones((16, 16), np.uint8))
    found = superpixels(np.stack([quarters] * 3, axis=2), 4)
    pairs = np.unique(np.stack([found.ravel(), quarters.ravel()]), axis=1)
    assert found.shape == (32, 32) and pairs.shape == (2, 4)  # each patch of one colour, each colour of one patch
    assert len(np.unique(superpixels(scene.image, 8))) <= 9
    assert np.array_equal(superpixels(scene.image, 8), superpixels(scene.image, 8))


def test_what_is_read_of_scenes_and_of_photographs_can_be_read(mini, scene):
    other = replace(mini, backbone=untrained_backbone("efficientnet-lite0"))
    of_network = of_photographs({"lite0": (other, other)}, layers=(-1,))
    assert "lite0 untrained, blocks.6 (320 channels, stride 32)" in of_network
    for way, models in (of_scenes(mini) | of_network).values():
        names, maps = way.read([scene.image], models)
        assert len(names) == 1 or len(names) == len(maps)
        assert way.stacked([array[0] for array in maps]).shape[1:] == (32, 32)


def test_the_embedded_backbone_and_its_twin_are_read_where_the_models_have_it(mini, scene):
    models = replace(mini, backbone=load_backbone(BACKBONES[ON_SCENES].folder))
    own = of_scenes(models).keys() - of_scenes(mini).keys()
    assert own == {"masked autoencoder", "masked autoencoder, untrained"}
    maps = {name: of_scenes(models)[name][0].read([scene.image], of_scenes(models)[name][1])[1][0] for name in own}
    assert {one.shape for one in maps.values()} == {(1, 128, 16, 16)} and not np.allclose(*maps.values(), atol=0.1)


def test_unets_of_model_sets_stand_beside_their_untrained_twins(mini, scene):
    found = of_unets({"mini": mini})
    assert list(found) == ["mini, UNet, queries at 16x16", "mini, UNet untrained, queries at 16x16"]
    both = found["mini, UNet, queries at 16x16"], of_scenes(mini)["UNet, queries at 16x16"]
    same, own = (way.read([scene.image], models)[1] for way, models in both)
    assert all(np.array_equal(one, other) for one, other in zip(same, own))


def test_rows_measured_anew_take_the_old_ones_place_and_others_stay():
    old = [dict(features=name, k=k, majority=0) for k in (4, None) for name in ("a", "c")]
    new = [dict(features=name, k=k, majority=1) for name in ("b", "c") for k in (4, None)]
    found = [(row["features"], row["k"], row["majority"]) for row in joined(old, new, ["a", "b", "c"])]
    assert found == [("a", 4, 0), ("b", 4, 1), ("c", 4, 1), ("a", None, 0), ("b", None, 1), ("c", None, 1)]


def test_photographs_need_a_backbone(mini):
    with pytest.raises(ValueError, match="the models of dino have no backbone: load them with backbone='dino'"):
        of_photographs({"dino": (mini, mini)})


@pytest.mark.slow
def test_the_recorded_clusters_stand_beside_features_of_the_same_pictures(released_root, colours):
    known, found = of_recorded(released_root, colours)
    assert known == ["2008_000533", "2008_001379"] and set(found.images) == {2}
    best = found.set_index("features").majority
    assert best.idxmax() == "Stable Diffusion 1.4, recorded" and best.max() > 0.8


def test_the_report_is_read_as_it_was_written():
    kept, content = measured(), json.loads(KEPT.read_text())
    assert set(kept) == {"scenes", "voc12", "coco_object", "recorded"} and "photographs" in content["about"]
    for name, one in kept.items():
        assert as_rows(one["table"]) == content[name]["rows"]
        scored_rows = one["table"].dropna(subset="majority")
        assert (scored_rows.low <= scored_rows.high).all() and (scored_rows.low <= scored_rows.majority).all()
    told = {name for one in kept.values() for name in one["table"].query("told_classes").features}
    assert {"CLIP's image tower", "captioner's vision tower"} < told and all("untrained" not in name for name in told)
    assert not told & {"UNet, queries at 16x16", "masked autoencoder", "colours", "Stable Diffusion 1.4, recorded"}
    assert (
        kept["scenes"]["models"]["backbone"]["repository"] == "fsdlib/mini"
        and kept["voc12"]["models"]["efficientnet-lite0"]["sha256"]
    )
