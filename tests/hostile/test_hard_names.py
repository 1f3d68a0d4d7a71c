"""A run over pictures whose ids are hard to write as files keeps every result within its folder, one file an image."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import EvaluationFailed, evaluate

HARD = ["a b", "a%20b", "a\nb", ".", "x" * 245, "\udcff", "猫", "$HOME", "'\""]


def write_own(root, names):
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        for number, name in enumerate(names):
            values = np.full((6, 8), 1 + number % 2, np.uint8)
            picture = Image.fromarray(values if kind == "masks" else np.dstack([100 * values] * 3))
            picture.save(root / kind / f"{name}.png")
    (root / "classes.txt").write_text("cat\ndog\n")
    return open_dataset("folder", root)


def test_results_of_any_name_are_kept_once_read_again_and_never_taken_for_anothers(method, tmp_path, everything):
    """ids with spaces, line ends, quotes, percent signs, no UTF-8, 245 letters -> a file an image, all read again"""
    names = [name for name in HARD if name != "."]  # which as a file is hidden
    dataset = write_own(tmp_path / "pictures", names)
    before = everything(tmp_path / "pictures")
    run = evaluate(dataset, method, tmp_path / "run", batch_size=2)
    assert run.summary["images"] == len(names) == len(list((tmp_path / "run/images").iterdir()))
    assert set(run.table.id) == set(dataset.ids) >= {"\\udcff"} and all(
        run.prediction(one) is not None for one in dataset.ids
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "run"]
    kept = everything(tmp_path / "run")
    evaluate(dataset, method, tmp_path / "run", batch_size=2)
    assert everything(tmp_path / "run") == kept and everything(tmp_path / "pictures") == before


@pytest.mark.parametrize("form", ["../../truth", "{outside}/truth", "../../run/labels/victim"])
def test_a_list_that_leads_out_has_nothing_read_or_written_outside(method, tmp_path, everything, form):
    """a listing with ids that lead out of the root -> that image failed, nothing outside read or written"""
    root, outside = tmp_path / "VOC2012", tmp_path / "truth"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(root / "JPEGImages/good.jpg")
    Image.new("L", (8, 6)).save(root / "SegmentationClass/good.png")
    Image.new("RGB", (8, 6), (1, 2, 3)).save(f"{outside}.jpg")
    Image.new("L", (8, 6), 1).save(f"{outside}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text(f"good\n{form.format(outside=tmp_path)}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    dataset = open_dataset("voc12", root)
    with pytest.raises(EvaluationFailed, match="OutsideRoot"):
        evaluate(dataset, method, tmp_path / "run")
    run = evaluate(dataset, method, tmp_path / "run", tolerated_failures=1)
    assert len(run.summary["failed"]) == 1 and run.summary["images"] == 1
    after = {path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "run" not in path.parents}
    assert after == set(before) and all(path.read_bytes() == content for path, content in before.items())
    failed = next(p for p in (tmp_path / "run/images").iterdir() if p.name != "good.json")
    assert "leads out of" in json.loads(failed.read_text())["failed"]


def test_a_name_that_no_path_can_have_is_refused_before_anything_looks_for_it(tmp_path):
    """a listing with one name of 40 million letters -> refused at once, with how many it has"""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("good\n" + "y" * 40_000_000)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="lists a picture by 40,000,000 characters, and no path has so many"):
        open_dataset("voc12", tmp_path)
    assert time.monotonic() - begun < 10
