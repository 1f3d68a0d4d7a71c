"""A method of one's own may give labels in any integers; what is no prediction costs its image alone, in one sentence."""

import os
import re
import shlex
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fsdlib.measure import report
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import EvaluationFailed, evaluate
from fsdlib.measure.segmenters import Prediction
from fsdlib.project import ROOT


class Own:
    """Says "cat" where a picture is bright, and gives the label map as `given` makes it of that."""

    def __init__(self, given=lambda labels: labels, **told):
        self.given, self.told = given, told

    def configuration(self):
        return dict(method="own") | self.told

    def segment(self, images, vocabulary, present, seed):
        found = [np.where(image[..., 0] > 128, 1, 0) for image in images]
        return [Prediction(self.given(labels), labels[::2, ::2]) for labels in found]

    def name_masks(self, image, masks, vocabulary):
        return [1] * len(masks)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint16", "uint64", "bool", ">i4"])
def test_labels_of_any_integers_give_the_bytes_that_uint8_gives(kind, dataset, tmp_path, everything):
    """label maps of eight types, bool and another byte order among them -> the bytes of uint8"""
    evaluate(dataset, Own(lambda labels: labels.astype(np.uint8)), tmp_path / "uint8")
    run = evaluate(dataset, Own(lambda labels: labels.astype(kind)), tmp_path / kind)
    assert run.prediction("p0").dtype == np.uint8 and run.summary["images"] == len(dataset)
    for part in ("images", "labels"):
        assert everything(tmp_path / kind / part) == everything(tmp_path / "uint8" / part)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda labels: labels + 2, "the method's label map holds 2 to 3: give labels of 0 to 2"),
        (lambda labels: labels - 1, "the method's label map holds -1 to 0: give labels of 0 to 2"),
        (lambda labels: labels + 256, "the method's label map holds 256 to 257: give labels of 0 to 2"),
        (lambda labels: labels.astype(float), "the method's label map is of float64: give a NumPy array of integers"),
        (lambda labels: labels[:-1], "the method's label map has the shape (11, 16): give it the image's (12, 16)"),
        (lambda labels: labels[None], "the method's label map has the shape (1, 12, 16): give it the image's (12, 16)"),
        (lambda labels: labels.tolist(), "the method's label map is a list: give a NumPy array of integers"),
        (lambda labels: None, "the method's label map is a NoneType: give a NumPy array of integers"),
    ],
    ids=["too large", "negative", "beyond a byte", "floats", "a row too few", "an axis too many", "a list", "nothing"],
)
def test_what_is_no_label_map_is_its_images_failure_in_one_sentence(given, said, dataset, tmp_path):
    """a label map out of range, of floats, of another shape, a list, or none -> that image failed, in one sentence; the others are done"""

    def second(labels, seen=[]):  # noqa: B006 - it counts
        seen.append(labels)
        return given(labels) if len(seen) == 2 else labels

    run = evaluate(dataset, Own(second), tmp_path / "run", tolerated_failures=1)
    assert run.summary["failed"] == {"p1": f"ValueError: {said}"} and run.summary["images"] == len(dataset) - 1


class Few(Own):
    def segment(self, images, vocabulary, present, seed):
        return super().segment(images, vocabulary, present, seed)[:-1]


class Bare(Own):
    def segment(self, images, vocabulary, present, seed):
        return [one.labels for one in super().segment(images, vocabulary, present, seed)]


class Unnamed(Own):
    def name_masks(self, image, masks, vocabulary):
        return []


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Few(), r"the method gave 0 \(nothing\) for 1 images: give a list with a Prediction each"),
        (Bare(), r"the method gave 1 \(ndarray\) for 1 images: give a list with a Prediction each"),
        (Unnamed(), "name_masks gave 0 labels for 2 masks: give one each"),
    ],
    ids=["predictions", "bare arrays", "names"],
)
def test_too_few_of_anything_is_said(method, said, dataset, tmp_path):
    """a method that gives too few predictions, bare arrays, or too few names -> refused with how many of what to give"""
    with pytest.raises(EvaluationFailed, match=said):
        evaluate(dataset, method, tmp_path / "run")


def test_own_methods_stand_in_every_table_and_figure_under_their_names(dataset, tmp_path):
    """two methods of one name, and one with a recipe of its own -> told apart in every table and figure"""
    for folder, told in (
        ("a", dict(threshold=1)),
        ("b", dict(threshold=2)),
        ("c", dict(method="bright", models="none", vocabulary_mode="given", recipe="fast")),
    ):
        evaluate(dataset, Own(**told), tmp_path / folder)
    runs = report.find_runs(tmp_path)
    assert [(run.title, run.models) for run in runs] == [("own (a)", ""), ("own (b)", ""), ("bright, given", "none")]
    for table in (report.all_scores(runs), report.other_scores(runs), report.stage_scores(runs)):
        assert list(table.recipe) == ["own (a)", "own (b)", "bright"] and list(table.vocabulary) == ["", "", "given"]
    as_voc = [report.Run(run.folder, run.summary | dict(dataset="voc12"), run.marked) for run in runs]
    beside = report.beside_published(as_voc, "dataset").set_index("system")
    assert beside.loc["here: own (a)", "voc21"] == pytest.approx(100 * runs[0].summary["miou"]["dataset"])
    assert beside.loc["here: bright", "training-free"] == "" == beside.loc["here: own (b)", "told"]
    axes = report.show_modes(runs)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["given", "no modes"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["own (a)", "own (b)", "bright"]
    for show in (report.show_classes, report.show_by_number, report.show_by_size):
        titles = [text.get_text() for text in show(runs).get_legend().get_texts()]
        assert titles == ["own (a)", "own (b)", "bright, given"]
    assert report.show_confusions(runs[-1]).get_title() == "bright, given"
    plt.close("all")


def test_stages_that_only_a_method_of_ones_own_has_are_drawn(method, dataset, tmp_path):
    """a stage that this project does not have -> drawn under its name"""
    evaluate(dataset, method, tmp_path / "run")
    axes = report.show_stages(report.find_runs(tmp_path))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["look"]
    plt.close("all")


def test_a_run_without_scores_is_left_out_in_one_line(dataset, tmp_path):
    """a run over pictures without masks, to the report -> left out, with one warning"""
    for mask in (tmp_path / "pictures/masks").iterdir():
        mask.unlink()
    (tmp_path / "pictures/masks").rmdir()
    evaluate(open_dataset("folder", tmp_path / "pictures"), Own(), tmp_path / "runs/blind")
    with pytest.warns(UserWarning, match="a run is left out: .*blind.summary.json has no scores") as warned:
        assert report.find_runs(tmp_path / "runs") == []
    assert len(warned) == 1


@pytest.fixture
def followed(dataset, tmp_path):
    """What the worked example prints, done to the letter in a folder of its own."""
    program = re.search("```python\n(.*?)```", (ROOT / "docs/YOUR_OWN.md").read_text(), re.S)[1]
    dataset.root.rename(tmp_path / "my-pictures")
    environment = os.environ | dict(PYTHONPATH=str(ROOT), MPLBACKEND="agg")
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_worked_example_goes_from_a_function_to_the_report(followed, tmp_path):
    """the worked example for a method of one's own, to the letter -> the mIoU worked out by hand, in a table, and figures"""
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "my-pictures/masks").iterdir())]
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "my-pictures/images").iterdir())]
    dark = np.stack([picture.mean(axis=2) < 100 for picture in pictures])
    truth = np.stack(masks)
    ious = [
        (~dark & (truth == 0)).sum() / (~dark | (truth == 0)).sum(),
        (dark & (truth == 1)).sum() / (dark | (truth == 1)).sum(),
        0,
    ]
    assert followed.startswith(f"folder, 6 images: mIoU dataset {100 * np.mean(ious):.1f} %, per_image ")
    table = pd.read_csv(tmp_path / "report/scores.csv")
    assert table.recipe.tolist() == ["dark"] and table["mIoU dataset"].item() == pytest.approx(100 * np.mean(ious))
    assert {"classes.png", "classes.pdf"} <= {path.name for path in (tmp_path / "report").iterdir()}


@pytest.mark.slow
def test_the_reports_notebook_shows_a_method_of_ones_own(followed, tmp_path):
    """that method's run to the report's notebook -> its tables and figures; not beside published benchmarks"""
    line = next(line for line in (ROOT / "docs/YOUR_OWN.md").read_text().splitlines() if line.startswith("    python"))
    _, _, module, notebook, *rest = shlex.split(line)
    command = [sys.executable, "-m", module, str(ROOT / notebook), *rest]
    answer = subprocess.run(
        command, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "here: dark" not in (tmp_path / "report/tables/published_dataset.csv").read_text()  # it is no benchmark
    for table in ("scores", "stages"):
        assert pd.read_csv(tmp_path / f"report/tables/{table}.csv").recipe.tolist() == ["dark"]
    figures = {path.stem for path in (tmp_path / "report/figures").glob("*.png")}
    assert {"classes", "confusions", "vocabulary_modes", "number_of_objects", "object_size", "gallery"} <= figures
