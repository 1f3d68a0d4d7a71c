"""Tables and figures over runs: protocols apart, what was told beside every number, the same files from the same runs."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fsdlib.measure import report
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.page import one_page
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.recipe import BEST, PAPER
from fsdlib.world.scenes import write_scenes

pytestmark = pytest.mark.slow  # five runs come before the first test


@pytest.fixture(scope="module")
def folder(mini, tmp_path_factory):
    """Four runs over three scenes, one that stopped before its end, and one over a part of what another is over."""
    dataset = open_dataset("scenes", write_scenes(tmp_path_factory.mktemp("scenes"), val=3, side=96))
    folder = tmp_path_factory.mktemp("runs")
    for recipe in (BEST, PAPER):
        for mode in ("open", "closed"):
            evaluate(
                dataset, FreeSegDiff(mini, recipe.with_changes({"vocabulary": mode})), folder / f"{recipe.name}-{mode}"
            )
    evaluate(dataset, FreeSegDiff(mini, PAPER), folder / "half", shard="0/2", batch_size=2)
    evaluate(dataset, FreeSegDiff(mini, PAPER.with_changes({"vocabulary": "closed"})), folder / "a-part", limit=2)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return report.find_runs(folder)


def as_dataset(run, name, tmp_path, **changes):
    """The same run as if it were of another dataset."""
    shutil.copytree(run.folder, tmp_path / name)
    summary = run.summary | dict(dataset=name) | changes
    (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    return report.Run(tmp_path / name, summary)


def test_a_part_of_a_split_is_called_one(runs, tmp_path):
    part, whole = dict(complete=False, images=2), dict(complete=True, images=3)
    run = runs[0]
    told = [run.summary | part, run.summary | part | dict(expected=9), run.summary | whole]
    assert [report.Run(run.folder, summary).whole for summary in told] == ["first 2", "2 of 9", "3"]


def test_finished_runs_are_found_in_one_order(runs):
    assert [(run.recipe, run.mode) for run in runs] == [
        ("paper", "closed"),
        ("paper", "open"),
        ("best", "closed"),
        ("best", "open"),
    ]


def test_a_table_beside_the_published_has_one_protocol(runs, tmp_path):
    run = as_dataset(runs[0], "voc12", tmp_path, expected=1449, complete=False)
    seen = {}
    for protocol in report.PROTOCOLS:
        table = report.beside_published([run, *runs], protocol)
        theirs = pd.read_csv(report.DATA / "published.csv").query("protocol == @protocol")
        assert set(table.protocol) == {protocol} and list(table.system[:-2]) == list(theirs.system)
        ours, empty = table.iloc[-2], table.iloc[-1]
        assert empty.voc21 == pytest.approx(100 * run.summary["empty"][protocol]) and 0 < empty.voc21 < 60
        assert ours.voc21 == pytest.approx(100 * run.summary["miou"][protocol]) and np.isnan(ours.coco_object)
        assert set(table.vocabulary[:-1]) <= {"closed", "given"} and ours.vocabulary == "closed"
        assert ours.told == "class list" and ours["presence from"] == "caption"
        assert "never seen a photograph" in ours.note and "3 of 1449 images" in ours.note
        assert ("whole pictures" in ours.note) == (protocol == "per_image_union")
        seen |= {row.system: (protocol, row.voc21) for row in table[:-2].itertuples()}
    assert seen["FreeSeg-Diff"] == ("per_image", 53.3) and seen["DiffCut+CLIP"] == ("per_image_union", 63.0)
    assert seen["SCLIP"] == ("dataset", 59.6) and len(seen) == len(report.published())


def test_published_rows_say_their_word_list_and_what_is_odd_about_them(runs):
    table = report.beside_published([], "dataset").set_index("system")
    assert "26 nouns for background" in table.loc["SCLIP", "word list"] and table.loc["ComCD", "word list"] == ""
    assert table.loc["ComCD"].note.startswith("full text; as published, but an outlier")


def test_a_run_on_centre_crops_has_a_row_of_its_own_that_says_so(runs, tmp_path):
    whole = as_dataset(runs[0], "voc12", tmp_path)
    squares = report.Run(whole.folder, whole.summary | dict(centre_crops=True))
    assert squares.whole == f"{whole.whole}, centre crops"
    table = report.beside_published([whole, squares], "per_image_union")
    assert [("whole pictures" in note, "centre crops" in note) for note in table.note[-3:-1]] == [
        (True, False),
        (False, True),
    ]


def test_coco_objects_drawn_from_instances_are_told_from_the_maps_of_the_literature(runs, tmp_path):
    drawn, maps = as_dataset(runs[0], "coco_object", tmp_path), as_dataset(runs[2], "coco_object_maps", tmp_path)
    table = report.beside_published([drawn, maps], "dataset").set_index("system")
    assert "drawn from instances" in table.loc["here: paper"].note and "drawn" not in table.loc["here: best"].note


def test_all_scores_name_the_vocabulary_and_hold_each_protocol_in_its_own_column(runs):
    table = report.all_scores(runs)
    assert list(table.vocabulary) == ["closed", "open", "closed", "open"] and set(table.images) == {"3"}
    for protocol in report.PROTOCOLS:
        assert list(table[f"mIoU {protocol}"]) == pytest.approx([100 * run.summary["miou"][protocol] for run in runs])
    other = report.other_scores(runs)
    assert list(other["empty dataset"]) == pytest.approx([100 * run.summary["empty"]["dataset"] for run in runs])


def test_the_tables_of_scores_fit_a_papers_page(runs):
    """At 8 points about 120 digits fit a page's width; LaTeX puts the room of three between two columns."""
    for table in (
        report.all_scores(runs),
        report.other_scores(runs).drop(columns="models"),
        report.paired(runs[1:], runs[0]).drop(columns="against"),
    ):
        cells = table.map(lambda cell: f"{cell:.1f}" if isinstance(cell, float) else str(cell))
        heads = [name for _, name in report.headed(table).columns]
        assert sum(max(len(head), cells.iloc[:, i].str.len().max()) + 3 for i, head in enumerate(heads)) <= 120


def test_paired_differences_are_those_of_the_images_and_need_the_same_ones(runs, tmp_path):
    first, other = runs[1], runs[0]  # the one that is told nothing, and the one that has the class list
    found = report.paired([other, first], first)
    assert found.against.tolist() == ["paper, open"] * 2 and found["difference per_image"][1] == 0
    for protocol in report.PROTOCOLS:
        apart = other.summary["miou"][protocol] - first.summary["miou"][protocol]
        assert found[f"difference {protocol}"][0] == pytest.approx(100 * apart)
        low, high = map(float, found[f"difference interval {protocol}"][0].split(" to "))
        assert low <= 100 * apart + 0.05 and high >= 100 * apart - 0.05
    # without the images' own files what the table of images has is left
    shutil.copytree(other.folder, tmp_path / "bare", ignore=shutil.ignore_patterns("images"))
    bare = report.paired([report.Run(tmp_path / "bare", other.summary)], first)
    assert bare["difference per_image"][0] == pytest.approx(found["difference per_image"][0])
    assert np.isnan(bare["difference dataset"][0]) and bare["difference interval dataset"][0] == ""
    fewer = as_dataset(other, "scenes", tmp_path)
    table = (fewer.folder / "images.csv").read_text().splitlines(keepends=True)
    (fewer.folder / "images.csv").write_text("".join(table[:-1]))
    with pytest.raises(ValueError, match="are not over the same images: compare runs that are"):
        report.paired([fewer], first)


def test_a_caption_says_what_is_in_its_table(runs):
    assert report.said(runs) == "scenes (3 images); vocabulary: closed, open; models: mini."


def test_notes_stand_below_a_latex_table_under_letters_and_its_csv_has_every_column(tmp_path):
    rows = [dict(name="a", value=1.0, why="5 % of it", seen=1), dict(name="b", value=2.0, why="", seen=2)]
    rows.append(dict(name="c", value=3.0, why="5 % of it", seen=3))
    csv, tex = report.save_table(pd.DataFrame(rows), tmp_path / "t", "What it is.", left_out=["seen"], notes=["why"])
    assert list(pd.read_csv(csv)) == ["name", "value", "why", "seen"]
    lines = tex.read_text().splitlines()
    assert [line for line in lines if line.startswith(("a ", "b ", "c "))] == [
        r"a [a] & 1.0 \\",
        r"b & 2.0 \\",
        r"c [a] & 3.0 \\",
    ]
    assert any(r"{[a] 5 \% of it}" in line for line in lines) and r"\begin{table*}" in lines


@pytest.mark.parametrize("with_pictures", [False, True])
def test_a_run_fits_one_page(runs, tmp_path, with_pictures):
    run = runs[0]
    labels = run.prediction(run.images.id[0])
    pictures = [("first", np.zeros((*labels.shape, 3), np.uint8), labels, labels)] * (2 * with_pictures)
    page = one_page(run, pictures)
    texts = [text.get_text() for part in page.subfigs for text in part.texts]
    assert texts[0] == "FreeSeg-Diff: paper, closed" and "never seen a photograph" in texts[1]
    assert run.summary["hash"][:12] in texts[2]
    png, pdf = report.save_figure(page, tmp_path / "page", cropped=False)
    assert pdf.read_bytes().count(b"/Type /Page\n") == 1 or b"/Count 1" in pdf.read_bytes()
    width, height = Image.open(png).size
    assert height / width == pytest.approx(2**0.5, rel=0.01)  # A4


def test_stage_scores_leave_out_what_a_mode_does_not_have(runs):
    table = report.stage_scores(runs)
    assert table["candidate recall"].isna().tolist() == [False, True, False, True]
    assert (
        table["true masks named right"].between(0, 100).all() and table["clusters: majority mIoU"].between(0, 100).all()
    )


def test_a_saved_table_is_read_back_from_its_csv_and_its_latex_has_one_decimal(tmp_path):
    csv, tex = report.save_table(pd.DataFrame([dict(name="a_b", value=1.23456)]), tmp_path / "t", "What it is.")
    assert pd.read_csv(csv).value.item() == 1.23456
    assert (
        "1.2" in tex.read_text()
        and r"a\_b" in tex.read_text()
        and "What it is." in tex.read_text()
        and "1.23" not in tex.read_text()
    )


def test_the_worst_confusions_are_the_pairs_with_most_pixels(runs):
    worst = report.worst_confusions(runs[0], 4)
    assert (worst.truth != worst.prediction).all() and "void" not in set(worst.truth)
    cells = runs[0].confusion.query("truth != prediction and truth != 'void'")
    assert worst.pixels.tolist() == sorted(cells.pixels, reverse=True)[:4]
    first = worst.iloc[0]
    assert first.share == pytest.approx(
        first.pixels / runs[0].confusion[runs[0].confusion.truth == first.truth].pixels.sum()
    )


def test_best_median_and_worst_are_by_the_images_own_score(runs):
    three = report.best_median_worst(runs[0], each=1)
    ordered = runs[0].images.miou.sort_values(ascending=False).tolist()
    assert three.miou.tolist() == [ordered[0], ordered[1], ordered[2]]
    assert list(three.place) == ["best", "median", "worst"]
    assert list(report.best_median_worst(runs[0], each=3).place) == [f"{number} of 3" for number in range(1, 4)]


def test_every_figure_is_drawn_at_a_columns_or_a_pages_width_and_written_twice(runs, tmp_path):
    report.paper_style()
    closed = [run for run in runs if run.mode == "closed"]
    axes = dict(
        modes=report.show_modes(runs),
        classes=report.show_classes(closed),
        confusions=report.show_confusions(closed[0]),
        number=report.show_by_number(closed),
        size=report.show_by_size(closed),
        stages=report.show_stages(runs),
    )
    for name, ax in axes.items():
        assert ax.figure.get_figwidth() <= report.PAGE
        png, pdf = report.save_figure(ax.figure, tmp_path / name)
        assert Image.open(png).width > 300 and pdf.read_bytes().startswith(b"%PDF")
    again = report.save_figure(report.show_modes(runs).figure, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [
        (tmp_path / f"modes.{ending}").read_bytes() for ending in ("png", "pdf")
    ]


def test_runs_without_timings_have_no_figure_of_them(runs, tmp_path):
    shutil.copytree(runs[0].folder, tmp_path / "run")
    (tmp_path / "run/timing.json").unlink()
    assert report.show_stages([report.Run(tmp_path / "run", runs[0].summary)]) is None


def test_the_bars_of_classes_are_the_stored_ious(runs):
    heights = [100 * value for value in runs[0].summary["iou_of_classes"].values() if value is not None]
    assert sorted(
        bar.get_height() for bar in report.show_classes(runs[:1]).patches if bar.get_width()
    ) == pytest.approx(sorted(heights))
