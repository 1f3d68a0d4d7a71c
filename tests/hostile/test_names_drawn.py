"""Names of pictures and classes, whatever their letters, are drawn to the letter and stand so in every table."""

import csv
import json
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from fsdlib import figures
from fsdlib.__main__ import main
from fsdlib.figures import legible
from fsdlib.measure import report
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.charts import show_class_iou, show_confusion, show_scores
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import Prediction
from fsdlib.vocabulary import Vocabulary

CLASSES = ["$x^2$ and $y", "{a} \"b\" 'c'", "50% #1 \\textbf{a} ~^_&<b>", "_🐈 猫", "NA", "007"]
DRAWN = ["$x^2$ and $y", "{a} \"b\" 'c'", "50% #1 \\textbf{a} ~^_&<b>", " _[cat] [U+732B]", "NA", "007"]


@pytest.fixture(autouse=True)
def nothing_is_left_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
    plt.close("all")


class Shifted:
    """Gives every pixel the class after the true one where the picture is dark."""

    def configuration(self):
        return dict(method="$shifted$ 🐈", models="a_b")

    def segment(self, images, vocabulary, present, seed):
        maps = [np.where(image[..., 0] > 90, image[..., 1], image[..., 1] % 6 + 1) for image in images]
        return [Prediction(labels, labels, "", seconds={"$look$": 0.1, "_🐈": 0.1}) for labels in maps]

    def name_masks(self, image, masks, vocabulary):
        return [1] * len(masks)


@pytest.fixture
def runs(tmp_path):
    root, random = tmp_path / "pictures", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for name in ("007", "NA", "$a$ {b} 🐈"):
        labels = random.integers(1, 7, (12, 16), np.uint8)
        Image.fromarray(labels).save(root / "masks" / f"{name}.png")
        Image.fromarray(np.dstack([random.integers(0, 256, labels.shape, np.uint8), labels, labels])).save(
            root / "images" / f"{name}.png"
        )
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    evaluate(open_dataset("folder", root), Shifted(), tmp_path / "runs/one")
    return report.find_runs(tmp_path / "runs")


def seen(texts):
    """What stands in a figure once it is drawn, dollars as they are."""
    plt.gcf().canvas.draw()
    assert not [text for text in texts if re.search(r"(?<!\\)\$", text.get_text())]
    return [text.get_text().replace(r"\$", "$") for text in texts]


def on_masks_or_below(axes):
    """The names that stand on masks, at least one, and those in the legend below for want of room; sorted."""
    assert axes.texts
    return sorted(seen(axes.texts) + seen(axes.get_legend().get_texts()))


def test_every_figure_of_the_report_is_drawn_and_saved(runs, tmp_path):
    """classes and a method with dollars, braces, backslashes, percent signs and an emoji, in the figures -> drawn to the letter, the emoji by its name; no warning"""
    for show in (report.show_modes, report.show_by_number, report.show_by_size, report.show_stages):
        axes = show(runs)
        title = "look" if show is report.show_stages else "$shifted$ [cat]"
        assert title in " ".join(seen(axes.get_legend().get_texts()))
        report.save_figure(axes.figure, tmp_path / "figure")
    assert set(seen(report.show_classes(runs).get_xticklabels())) == set(DRAWN)
    axes = report.show_confusions(runs[0], 30)
    assert seen(axes.get_xticklabels()) == DRAWN == seen(axes.get_yticklabels())


def test_tables_are_read_as_they_were_written(runs, tmp_path):
    """pictures and classes called 007, NA, and LaTeX -> the same names in tables, HTML and LaTeX"""
    run = runs[0]
    assert set(run.images.id) == {"007", "NA", "$a$ {b} 🐈"} and set(run.objects["class"]) == set(CLASSES)
    assert set(report.worst_confusions(run, 99).truth) == set(CLASSES) and run.images.miou.dtype == float
    assert all(run.prediction(image_id) is not None for image_id in report.best_median_worst(run, 1).id)
    table = report.worst_confusions(run, 99)
    html = report.shown(table).data
    assert "<b>" not in html and "~^_&amp;&lt;b&gt;" in html
    written, latex = report.save_table(table, tmp_path / "t", "What it is.")
    assert [row["truth"] for row in csv.DictReader(written.open())] == list(table.truth)
    told = latex.read_text()
    assert r"50\% \#1 \textbackslash textbf\{a\} \textasciitilde \textasciicircum \_\&<b>" in told
    assert r"\$x\textasciicircum 2\$ and \$y" in told and r"\{a\} " in told


def test_galleries_legends_and_charts_are_drawn_to_the_letter(tmp_path):
    """the same names in legends, titles, galleries and charts -> drawn to the letter, the emoji by its name; no warning"""
    names = ["background", *CLASSES]
    labels, image = np.arange(7, dtype=np.uint8).reshape(1, 7), np.zeros((1, 7, 3), np.uint8)
    axes = figures.show_overlay(image, labels, names, title="$a$ 🐈 $")
    assert on_masks_or_below(axes) == sorted(DRAWN) and seen([axes.title]) == ["$a$ [cat] $"]
    small = figures.show_overlay(image, labels, names, letters=300)
    assert seen(small.get_legend().get_texts()) == DRAWN
    clusters = figures.show_clusters(labels, names=dict(enumerate(CLASSES)))
    assert on_masks_or_below(clusters) == sorted(DRAWN)
    figures.gallery([image], [labels], names, titles=["$a$\n🐈 $"]).savefig(tmp_path / "gallery.png")
    assert set(seen(show_class_iou(dict.fromkeys(CLASSES, 0.5), title="$a$ 🐈 $").get_yticklabels())) == set(DRAWN)
    assert seen(show_scores(dict.fromkeys(CLASSES, 0.5)).get_yticklabels()) == DRAWN
    assert seen(show_confusion(np.eye(6, dtype=int), CLASSES).get_xticklabels()) == DRAWN
    assert seen(figures.show_score_matrix(np.eye(6), CLASSES, CLASSES).get_xticklabels()) == DRAWN
    assert seen(figures.show_distances(np.eye(6), CLASSES, CLASSES).get_xticklabels()) == DRAWN


def test_plain_names_are_left_alone():
    """plain names, also with accents or in Cyrillic -> the same names"""
    for plain in ("potted plant", "hot-dog (cooked)", "Äpfel ñ ß", "кошка", "a\nb"):
        assert legible(plain) == plain


def test_the_command_takes_hard_names_and_paths(tmp_path, capsys):
    """hard words, a hard path and a hard output folder to the command -> the picture's three files, with the words to the letter"""
    picture = tmp_path / "in {x} $y" / "my \"cat\" $a$ 'b' #1 100% 🐈.png"
    picture.parent.mkdir()
    Image.new("RGB", (64, 48), (200, 90, 30)).save(picture)
    out = tmp_path / "out {x} $y$ 🐈"
    words = ["$x^2$ and $y", "{a} \"b\" 'c'", "_🐈 猫"]
    assert main([str(picture), "--words", ", ".join(words), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{picture.stem}{end}" for end in (".png", ".json", "_overlay.png")
    )
    assert json.loads((out / f"{picture.stem}.json").read_text())["names"][1:] == words


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\tb\x00", "\x1b[31mred"])
def test_a_class_with_a_line_break_is_refused(name):
    """a class with a line break, a null byte or an escape code -> refused: name it in words, in one line"""
    with pytest.raises(ValueError, match="a class is called .*: name it in words, in one line"):
        Vocabulary.of(["cat", name])
