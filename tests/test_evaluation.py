"""Runs over a dataset: complete, resumable, never mixed."""

import json

import numpy as np
import pytest
from PIL import Image

from fsdlib import scores
from fsdlib.datasets import open_dataset
from fsdlib.evaluation import evaluate
from fsdlib.recipe import BEST, PAPER
from fsdlib.scenes import write_scenes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset("scenes", write_scenes(tmp_path_factory.mktemp("scenes"), val=3, side=96))


@pytest.fixture(scope="module")
def run(dataset, mini, tmp_path_factory):
    return evaluate(dataset, mini, PAPER, tmp_path_factory.mktemp("runs") / "paper")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timing.json"}


def test_the_summary_follows_from_the_stored_label_maps(run, dataset):
    counts = [scores.confusion(run.prediction(i), dataset.labels(n), len(dataset.vocabulary)) for n, i in enumerate(dataset.ids)]
    assert run.summary["miou"] == scores.miou(counts)
    assert json.loads((run.folder / "summary.json").read_text()) == run.summary


def test_the_table_has_one_row_an_image_with_its_own_miou(run):
    assert list(run.table.id) == ["val_000000", "val_000001", "val_000002"]
    assert run.table.miou.mean() == pytest.approx(run.summary["miou"]["per_image"])


def test_a_run_that_lost_an_image_ends_with_the_same_bytes(run, dataset, mini):
    before = contents(run.folder)
    (run.folder / "images" / "val_000001.json").unlink()
    (run.folder / "labels" / "val_000001.png").unlink()
    (run.folder / "summary.json").unlink()
    evaluate(dataset, mini, PAPER, run.folder)
    assert contents(run.folder) == before


def test_another_batch_size_gives_the_same_label_maps(run, dataset, mini, tmp_path):
    alone = evaluate(dataset, mini, PAPER, tmp_path / "alone", batch_size=1)
    assert np.mean([(alone.prediction(i) == run.prediction(i)).mean() for i in dataset.ids]) > 0.999


def test_a_folder_refuses_another_configuration_and_replaces_it_when_told_to(run, dataset, mini, tmp_path):
    folder = tmp_path / "run"
    evaluate(dataset, mini, PAPER, folder, limit=1)
    with pytest.raises(ValueError, match="another configuration"):
        evaluate(dataset, mini, BEST, folder, limit=1)
    assert evaluate(dataset, mini, BEST, folder, limit=1, replace=True).summary["recipe"]["name"] == "best"
    assert json.loads((folder / "images" / "val_000000.json").read_text())["run"] != run.summary["hash"]


def test_free_names_are_not_scored_against_classes(dataset, mini, tmp_path):
    with pytest.raises(ValueError, match="vocabulary_mode='closed'"):
        evaluate(dataset, mini, PAPER.with_changes(vocabulary_mode="open"), tmp_path / "open")


def test_real_photographs_go_through_at_their_own_sizes(mini, voc_root, tmp_path):
    voc = open_dataset("voc12", voc_root)
    run = evaluate(voc, mini, BEST, tmp_path / "voc", limit=2)
    assert [run.prediction(i).shape for i in voc.ids[:2]] == [voc.labels(n).shape for n in range(2)]
    assert Image.open(run.folder / "labels" / f"{voc.ids[0]}.png").mode == "P"
