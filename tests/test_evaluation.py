"""Runs over a dataset: complete, resumable, never mixed, and the same bytes whoever did them in whatever order."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics import JaccardIndex

from fsdlib.measure import scores
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import EvaluationFailed, configuration, evaluate
from fsdlib.measure.segmenters import FreeSegDiff, Prediction
from fsdlib.project import ROOT
from fsdlib.recipe import BEST, PAPER
from fsdlib.vocabulary import VOID
from fsdlib.world.scenes import write_scenes

SCENES = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset("scenes", write_scenes(tmp_path_factory.mktemp("scenes"), val=SCENES, side=96))


@pytest.fixture(scope="module")
def paper(mini):
    return FreeSegDiff(mini, PAPER)


@pytest.fixture(scope="module")
def run(dataset, paper, tmp_path_factory):
    """A run that was never stopped."""
    return evaluate(dataset, paper, tmp_path_factory.mktemp("runs") / "paper", batch_size=2)


def agreement(run, other, ids):
    return np.mean([(run.prediction(i) == other.prediction(i)).mean() for i in ids])


# --------------------------------------------------------------------------------------------- what a summary says


def test_the_summary_follows_from_the_stored_label_maps(run, dataset):
    counts = [
        scores.confusion(run.prediction(i), dataset.labels(n), len(dataset.vocabulary))
        for n, i in enumerate(dataset.ids)
    ]
    assert run.summary["miou"] == pytest.approx(scores.miou(counts))
    assert (run.confusion == np.sum(counts, axis=0)).all()
    assert json.loads((run.folder / "summary.json").read_text()) == run.summary


def test_the_dataset_protocol_is_what_torchmetrics_makes_of_the_stored_label_maps(run, dataset):
    peer = JaccardIndex(task="multiclass", num_classes=len(dataset.vocabulary), ignore_index=VOID)
    for number, image_id in enumerate(dataset.ids):
        peer.update(
            torch.from_numpy(run.prediction(image_id).astype(int)).flatten(),
            torch.from_numpy(dataset.labels(number).astype(int)).flatten(),
        )
    assert run.summary["miou"]["dataset"] == pytest.approx(peer.compute().item(), abs=1e-6)


def test_the_per_image_union_protocol_is_what_torchmetrics_makes_of_each_stored_label_map(run, dataset):
    peer = JaccardIndex(task="multiclass", num_classes=len(dataset.vocabulary))
    of_images = []
    for number, image_id in enumerate(dataset.ids):
        truth = dataset.labels(number).astype(int)
        arguments = run.prediction(image_id).astype(int), np.where(truth == VOID, 0, truth)
        of_images.append(peer(*(torch.from_numpy(labels) for labels in arguments)).item())
    assert run.summary["miou"]["per_image_union"] == pytest.approx(np.mean(of_images), abs=1e-6)


def test_on_centre_crops_the_method_sees_and_is_scored_on_squares_and_the_run_is_another(run, dataset, paper, tmp_path):
    squares = replace(dataset, centre_crops=True)
    found = evaluate(squares, paper, tmp_path, limit=1)
    assert found.prediction(dataset.ids[0]).shape == squares.image(0).shape[:2] == (95, 95)
    assert found.confusion.sum() == 95 * 95 and found.summary["centre_crops"] and not run.summary["centre_crops"]
    with pytest.raises(ValueError, match="results of another configuration"):
        evaluate(dataset, paper, tmp_path, limit=1)


def test_the_tables_have_a_row_an_image_and_a_row_an_object(run, dataset):
    assert list(run.table.id) == list(dataset.ids)
    assert run.table.miou.mean() == pytest.approx(run.summary["miou"]["per_image"])
    present = [len(np.setdiff1d(dataset.labels(i), (0, VOID))) for i in range(SCENES)]
    assert list(run.table.classes) == present and len(run.objects) == sum(present)
    first = run.objects.iloc[0]
    label = dataset.vocabulary.names.index(first["class"])
    assert first["share"] == pytest.approx((dataset.labels(0) == label).mean())


def test_the_intervals_hold_the_value_and_every_score_is_a_share(run):
    for low, high in run.summary["intervals"].values():
        assert 0 <= low <= high <= 1
    assert (
        run.summary["intervals"]["per_image"][0]
        <= run.summary["miou"]["per_image"]
        <= run.summary["intervals"]["per_image"][1]
    )
    for of_partition in run.summary["masks"].values():
        assert all(0 <= value <= 1 for value in of_partition.values())
        assert of_partition["majority_miou"] > 0.1
    assert 0.5 < run.summary["naming"]["accuracy"] <= 1 and 0.5 < run.summary["caption"]["spoken"]["recall"] <= 1


def test_the_row_says_which_configuration_it_is_of(run, dataset, paper):
    row = json.loads((run.folder / "images" / "val_000000.json").read_text())
    assert row["run"] == run.summary["hash"] == configuration(dataset, paper)["hash"]
    assert (run.folder / "timings" / "val_000000.json").exists()


# --------------------------------------------------------------------------------------------- vocabulary modes


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["given", "oracle", "open"])
def test_the_vocabulary_mode_says_which_classes_may_be_found(mode, dataset, mini, run, tmp_path):
    found = evaluate(dataset, FreeSegDiff(mini, PAPER.with_changes({"vocabulary": mode})), tmp_path, batch_size=2)
    rows = [json.loads((tmp_path / "images" / f"{i}.json").read_text()) for i in dataset.ids]
    assert found.summary["vocabulary_mode"] == mode and found.summary["hash"] != run.summary["hash"]
    if mode == "oracle":
        assert all(set(row["found"]) <= set(row["present"]) for row in rows)
    if mode == "given":  # no caption stands between a mask and any class
        assert any(set(row["found"]) - set(row["candidates"]) for row in rows)
    if mode == "open":
        assert all(
            row["candidates"] is None and set(row["found"]) <= {label for label, _ in row["mapping"].values()}
            for row in rows
        )
        mapping = (tmp_path / "mapping.csv").read_text().splitlines()
        assert mapping[0] == "name,taken_for,similarity,images" and len(mapping) > 4
        assert "candidates" not in found.summary["caption"]
    else:
        assert not (tmp_path / "mapping.csv").exists()


# --------------------------------------------------------------------------------------------- the same bytes


def test_a_run_that_lost_an_image_ends_with_the_same_bytes(run, dataset, paper, contents):
    before = contents(run.folder)
    (run.folder / "images" / "val_000001.json").unlink()
    (run.folder / "labels" / "val_000002.png").unlink()
    (run.folder / "summary.json").unlink()
    evaluate(dataset, paper, run.folder, batch_size=2)
    assert contents(run.folder) == before


@pytest.mark.slow  # another process, which loads everything again
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(run, dataset, paper, tmp_path, contents):
    program = (
        "import sys; from fsdlib.measure.benchmarks import open_dataset; from fsdlib.measure.run import evaluate; from fsdlib.models import ModelSet;"
        "from fsdlib.recipe import PAPER; from fsdlib.measure.segmenters import FreeSegDiff;"
        f"evaluate(open_dataset('scenes', {str(dataset.root)!r}), FreeSegDiff(ModelSet('mini', 'cpu'), PAPER), {str(tmp_path)!r}, batch_size=2)"
    )
    elsewhere = os.environ | dict(
        OMP_NUM_THREADS="2"
    )  # a machine that would use more threads: a worker uses as many as it is told
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=elsewhere, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("images/val*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(list(tmp_path.glob("images/val*.json")))
    assert 0 < done < SCENES and not (tmp_path / "summary.json").exists()
    (tmp_path / ".running" / ".val_000003.png.a1b2c3d4").write_bytes(
        b"\x89PNG"
    )  # what a kill between two writes leaves
    evaluate(dataset, paper, tmp_path, batch_size=2)
    assert contents(tmp_path) == contents(run.folder)


def test_shards_in_any_order_make_the_same_bytes_as_one_run(run, dataset, paper, tmp_path, contents):
    part = evaluate(dataset, paper, tmp_path, batch_size=2, shard="1/2")
    assert (
        not part.finished
        and list(part.table.id) == ["val_000002", "val_000003"]
        and not (tmp_path / "summary.json").exists()
    )
    whole = evaluate(dataset, paper, tmp_path, batch_size=2, shard="0/2")
    assert whole.finished and contents(tmp_path) == contents(run.folder)


def test_a_run_over_the_first_images_leaves_what_the_whole_run_would(run, dataset, paper, tmp_path, contents):
    first = evaluate(dataset, paper, tmp_path, limit=3, batch_size=2)
    assert first.summary["images"] == 3 and not first.summary["complete"]
    evaluate(dataset, paper, tmp_path, batch_size=2)
    assert contents(tmp_path) == contents(run.folder)


def test_a_look_at_the_first_images_of_a_finished_run_leaves_it_as_it_is(run, dataset, paper, contents):
    before = contents(run.folder)
    look = evaluate(dataset, paper, run.folder, limit=2, batch_size=2)
    assert look.summary["images"] == 2 and look.finished and contents(run.folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_another_batch_size_gives_the_same_label_maps(size, run, dataset, paper, tmp_path):
    other = evaluate(dataset, paper, tmp_path, batch_size=size)
    assert agreement(run, other, dataset.ids) > 0.999


@pytest.mark.parametrize("shard", ["2/2", "1", "-1/2", "0/0"])
def test_a_shard_that_makes_no_sense_is_refused(shard, dataset, paper, tmp_path):
    with pytest.raises(ValueError, match="write i/n"):
        evaluate(dataset, paper, tmp_path, shard=shard)


def test_oracle_needs_masks(mini, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "pictures" / "a.png")
    mine = open_dataset("folder", tmp_path / "pictures", classes=["cat", "dog"])
    with pytest.raises(ValueError, match="no masks to say"):
        evaluate(mine, FreeSegDiff(mini, PAPER.with_changes({"vocabulary": "oracle"})), tmp_path / "run")


def test_an_unknown_engine_is_refused(dataset, paper, tmp_path):
    with pytest.raises(ValueError, match="local or ray"):
        evaluate(dataset, paper, tmp_path, engine="spark")


def test_a_folder_refuses_another_configuration_and_replaces_it_when_told_to(run, dataset, mini, paper, tmp_path):
    other = FreeSegDiff(mini, PAPER.with_changes({"vocabulary": "open"}))
    evaluate(dataset, paper, tmp_path, limit=1)
    with pytest.raises(ValueError, match="another configuration"):
        evaluate(dataset, other, tmp_path, limit=1)
    assert evaluate(dataset, other, tmp_path, limit=1, replace=True).summary["vocabulary_mode"] == "open"
    assert json.loads((tmp_path / "images" / "val_000000.json").read_text())["run"] != run.summary["hash"]


# --------------------------------------------------------------------------------------------- what goes wrong


def test_a_bad_image_costs_its_own_row_and_is_tried_again(dataset, paper, run, tmp_path):
    root = write_scenes(tmp_path / "scenes", val=SCENES, side=96)
    picture = root / "JPEGImages" / "val_000002.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    damaged = open_dataset("scenes", root)
    found = evaluate(damaged, paper, tmp_path / "run", batch_size=2, tolerated_failures=0.3)
    assert (
        list(found.summary["failed"]) == ["val_000002"]
        and found.summary["images"] == SCENES - 1
        and not found.summary["complete"]
    )
    assert "val_000002" not in set(found.table.id)
    assert json.loads((tmp_path / "run/images/val_000002.json").read_text())["failed"]
    with pytest.raises(EvaluationFailed, match="1 of 4 images failed.*val_000002.*mend them and run again"):
        evaluate(damaged, paper, tmp_path / "run", batch_size=2)
    picture.write_bytes(whole)
    mended = evaluate(damaged, paper, tmp_path / "run", batch_size=2)
    assert mended.summary["failed"] == {} and mended.summary["images"] == SCENES and mended.summary["complete"]
    assert agreement(run, mended, dataset.ids) == 1  # val_000003 too, which first ran alone


class Stubborn(FreeSegDiff):
    """The method, but it cannot do with one picture."""

    def segment(self, images, vocabulary, present, seed):
        if any((image == self.hated).all() for image in images):
            raise FloatingPointError("this one")
        return super().segment(images, vocabulary, present, seed)


def test_an_image_that_makes_the_method_fail_takes_none_of_its_batch_with_it(dataset, mini, tmp_path):
    method = Stubborn(mini, PAPER)
    object.__setattr__(method, "hated", dataset.image(1))
    found = evaluate(dataset, method, tmp_path, batch_size=4, tolerated_failures=0.5)
    assert found.summary["failed"] == {"val_000001": "FloatingPointError: this one"} and found.summary["images"] == 3


def test_memory_that_runs_out_halves_the_batch_and_says_so(dataset, paper, mini, tmp_path, run, capsys):
    sizes = []

    def full(module, arguments, keywords):
        sizes.append(len(arguments[0] if arguments else keywords["sample"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = mini.diffusion.unet.register_forward_pre_hook(full, with_kwargs=True)
    try:
        found = evaluate(dataset, paper, tmp_path, batch_size=4)
    finally:
        hook.remove()
    printed = "".join(capsys.readouterr())
    assert (
        "out of memory with a batch of 4: going on with 2" in printed
        and "out of memory with a batch of 2: going on with 1" in printed
    )
    assert found.summary["failed"] == {} and agreement(run, found, dataset.ids) > 0.999
    assert json.loads((tmp_path / "timing.json").read_text())["batches"][-1] == 1


# --------------------------------------------------------------------------------------------- other datasets


@pytest.mark.slow
def test_real_photographs_go_through_at_their_own_sizes(mini, voc_root, tmp_path):
    voc = open_dataset("voc12", voc_root)
    run = evaluate(voc, FreeSegDiff(mini, BEST), tmp_path / "voc", limit=2)
    assert [run.prediction(i).shape for i in voc.ids[:2]] == [voc.labels(n).shape for n in range(2)]
    assert Image.open(run.folder / "labels" / f"{voc.ids[0]}.png").mode == "P"
    assert run.summary["expected"] == 1449 and not run.summary["complete"]


@pytest.mark.slow
def test_a_class_list_without_background_leaves_no_pixel_unnamed_by_a_merging_recipe(mini, dataset, tmp_path):
    bare = replace(dataset, vocabulary=replace(dataset.vocabulary, background=False))
    run = evaluate(bare, FreeSegDiff(mini, BEST.with_changes({"vocabulary": "given"})), tmp_path, limit=1)
    assert (run.prediction(dataset.ids[0]) > 0).all()
    assert "with_background" not in run.summary and run.summary["iou_of_classes"]["background"] is None


# --------------------------------------------------------------------------------------------- size

TINY = """
import resource, sys
import numpy as np
from dataclasses import dataclass
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import Prediction
from fsdlib.vocabulary import Vocabulary
from pathlib import Path


@dataclass(frozen=True)
class Numbers(Dataset):
    def content(self, i):
        return str(i)

    def image(self, i):
        return np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)

    def labels(self, i):
        return np.random.default_rng(i).integers(0, 4, (8, 8), dtype=np.uint8)


class Noise:
    def configuration(self):
        return dict(method="noise")

    def segment(self, images, vocabulary, present, seed):
        return [Prediction(image[..., 0] // 64, image[..., 1] // 26) for image in images]

    def name_masks(self, image, masks, vocabulary):
        return [1] * len(masks)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


count, folder = int(sys.argv[1]), sys.argv[2]
vocabulary = Vocabulary.of([f"class {k}" for k in range(20)])
dataset = Numbers("numbers", Path("."), "val", vocabulary, tuple(f"{i:06d}" for i in range(count)), pictures=(), masks=(Path("m"),), lookup=None)
before = peak()
run = evaluate(dataset, Noise(), folder, batch_size=100)
print(run.summary["images"], peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path):
    """20,000 tiny images through everything but the models, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", TINY, "20000", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    images, grown = done.stdout.split()
    assert int(images) == 20000 and float(grown) < 1024


def test_another_method_is_measured_by_the_same_run(dataset, tmp_path):
    class Background:
        def configuration(self):
            return dict(method="background")

        def segment(self, images, vocabulary, present, seed):
            return [Prediction(np.zeros(image.shape[:2], np.uint8), np.zeros((2, 2), np.uint8)) for image in images]

        def name_masks(self, image, masks, vocabulary):
            return [1] * len(masks)

    run = evaluate(dataset, Background(), tmp_path)
    background = np.mean([(dataset.labels(i)[dataset.labels(i) != VOID] == 0).mean() for i in range(SCENES)])
    assert run.summary["with_background"]["pixel_accuracy"] == pytest.approx(background, abs=0.02)
    assert run.summary["empty"] == pytest.approx(
        run.summary["miou"]
    )  # every summary says what finding nothing would score
    assert run.summary["without_background"]["miou"] == 0


# What stands in the masks' files, one row of four pixels; what is said; then `per_image` and `dataset` by hand, the
# latter with void out everywhere. On VOC void is background: 2 of 3 pixels and 1 of 2. Of COCO's fine classes void is
# left out: 1 of 2 and 1 of 1. With groups (10 person, 9 outdoor) void is label 0, a class there: 1 of 2, beside 1 of 2
# and 1 of 1.
VOIDS = {
    "voc12": ([1, 1, 0, 255], [1, 0, 0, 0], (2 / 3 + 1 / 2) / 2, (1 / 2 + 1 / 2) / 2),
    "coco_stuff": ([0, 0, 10, 255], [1, 0, 11, 0], (1 / 2 + 1) / 2, (1 / 2 + 1) / 2),
    "coco_stuff27": ([0, 0, 10, 255], [10, 0, 9, 0], (1 / 2 + 1 / 2 + 1) / 3, (1 / 2 + 1) / 2),
}


@pytest.mark.parametrize("name", VOIDS)
def test_what_void_is_in_the_per_image_protocol_is_a_fact_of_the_benchmark(name, tmp_path):
    raw, said, by_hand, dataset = VOIDS[name]
    pictures, masks = ("JPEGImages", "SegmentationClass") if name == "voc12" else ("val2017", "stuffthingmaps/val2017")
    for folder in (pictures, masks, "ImageSets/Segmentation"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    Image.new("RGB", (4, 1)).save(tmp_path / "data" / pictures / "one.jpg")
    Image.fromarray(np.uint8([raw])).save(tmp_path / "data" / masks / "one.png")
    (tmp_path / "data/ImageSets/Segmentation/val.txt").write_text("one\n")

    class Said:
        def configuration(self):
            return dict(method="said")

        def segment(self, images, vocabulary, present, seed):
            return [Prediction(np.uint8([said]), np.uint8([[0, 1]])) for _ in images]

        def name_masks(self, image, masks, vocabulary):
            return [1] * len(masks)

    summary = evaluate(open_dataset(name, tmp_path / "data"), Said(), tmp_path / "run").summary
    assert summary["miou"]["per_image"] == pytest.approx(by_hand)
    assert summary["intervals"]["per_image"] == pytest.approx((by_hand, by_hand))
    assert summary["miou"]["dataset"] == pytest.approx(dataset)
