"""Charts are tested by what they are drawn from."""

import itertools

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fsdlib.measure.charts import (
    show_class_iou,
    show_confusion,
    show_groupings,
    show_history,
    show_interval,
    show_limits,
    show_protocols,
    show_published,
    show_scores,
    show_shares,
    show_stages,
    show_tradeoffs,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_class_bars_are_sorted_and_leave_out_absent_classes():
    ax = show_class_iou({"a": 0.25, "b": 0.75, "c": None, "d": float("nan")})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in ax.patches] == [75, 25]


def test_a_confusion_matrix_shows_shares_of_each_row():
    ax = show_confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["cat", "dog", "cow"])
    shown = np.ma.filled(ax.collections[0].get_array().astype(float), np.nan).reshape(3, 3)
    assert shown[:2].tolist() == [[0.75, 0.25, 0], [0, 1, 0]] and np.isnan(shown[2]).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat", "dog", "cow"]


def test_scores_are_sorted_bars_with_one_that_stands_out():
    ax = show_scores(dict(rgb=0.25, diffusion=0.5), highlighted="diffusion")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["diffusion", "rgb"] and [
        bar.get_width() for bar in ax.patches
    ] == [0.5, 0.25]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor() and {t.get_text() for t in ax.texts} == {
        "0.500",
        "0.250",
    }


def test_protocols_stand_side_by_side_in_percent():
    table = dict(dataset=[0.5, 0.25], per_image=[0.75, -0.1], per_image_union=[0.625, 0])
    ax = show_protocols(pd.DataFrame(table, index=["one", "two"]))
    assert [[bar.get_width() for bar in bars] for bars in ax.containers] == [[50, 25], [75, -10], [62.5, 0]]
    edges = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bars in ax.containers for bar in bars)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(edges))  # no bar covers another
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(table)


def test_published_numbers_of_two_protocols_never_share_a_panel():
    table = pd.DataFrame(
        dict(
            system=["a", "b", "c"],
            protocol=["dataset", "per_image", "dataset"],
            voc21=[40.0, 50.0, 30.0],
            coco=[1.0, 2.0, np.nan],
        )
    )
    figure = show_published(table, dict(voc21="VOC", coco="COCO"))
    assert [ax.get_title() for ax in figure.axes] == ["protocol: dataset", "protocol: per_image"]
    assert [ax.lines[0].get_xdata().tolist() for ax in figure.axes] == [[30, 40], [50]] and figure.axes[1].lines[
        1
    ].get_xdata().tolist() == [2]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["c", "a"]


def test_an_interval_is_a_line_with_its_value_on_it():
    ax = show_interval(dict(best=(0.5, 0.4, 0.7), paper=(0.25, 0.2, 0.3)))
    assert [line.get_xdata()[0] if len(line.get_xdata()) == 1 else list(line.get_xdata()) for line in ax.lines] == [
        [40, 70],
        50,
        [20, 30],
        25,
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["best", "paper"]


def test_shares_are_bars_in_the_order_given_with_their_part_of_the_whole():
    ax = show_shares(dict(found=3, caption=1, names=0), unit="objects")
    assert [bar.get_width() for bar in ax.patches] == [3, 1, 0] and [
        label.get_text() for label in ax.get_yticklabels()
    ] == ["found", "caption", "names"]
    assert [text.get_text() for text in ax.texts] == ["3 (75 %)", "1 (25 %)", "0 (0 %)"]


def test_a_training_is_two_curves_against_steps():
    rows = [dict(step=1, train=3.0, validation=4.0, seconds=30), dict(step=5, train=1.0, validation=2.0, seconds=120)]
    ax = show_history(rows, title="CLIP")
    curves = {line.get_label(): tuple(map(list, line.get_data())) for line in ax.lines}
    assert curves == {"training": ([1, 5], [3, 1]), "held out": ([1, 5], [4, 2])} and ax.get_title() == "CLIP (2 min)"


def test_stages_are_in_order_without_their_sum_and_every_flow_has_its_bars():
    ax = show_stages({"plain": dict(caption=3, words=2, all=5), "ours": dict(caption=3, words=1, all=4)})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["caption", "words"]
    assert [bar.get_width() for bar in ax.patches] == [3, 2, 3, 1]


def test_a_limit_says_which_share_of_the_rate_was_reached_and_what_was_kept():
    of = dict(
        UNet=dict(ours=dict(gflop=5, least=50, milliseconds=100)),
        words=dict(ours=dict(gflop=0, least=0, milliseconds=0)),
    )
    ax = show_limits(of)
    assert [bar.get_width() for bar in ax.patches] == [100, 0, 50, 0]
    assert {text.get_text() for text in ax.texts} == {"50 % of the rate", "kept from before"}


def test_tradeoffs_are_points_with_their_names_and_the_frontier_is_a_line():
    recipes = {
        name: dict(milliseconds=ms, miou=miou) for name, ms, miou in [("a", 1, 0.1), ("b", 2, 0.1), ("c", 3, 0.4)]
    }
    ax = show_tradeoffs(recipes, ["a"], ["a", "c"])
    assert np.allclose(ax.lines[0].get_xydata(), [[1, 10], [3, 40]])
    assert {text.get_text().strip() for text in ax.texts} == {"a", "b", "c"}
    levels = sorted(text.get_position()[1] for text in ax.texts)
    assert min(np.diff(levels)) > 1  # no name upon another


def test_groupings_have_a_bar_and_an_interval_for_each_k_and_a_word_where_a_clustering_refused():
    row = dict(features="a", clustering="k-means, 4", k=4, majority=0.2, low=0.1, high=0.3)
    rows = [row, row | dict(k=8, majority=0.4, low=0.3, high=0.5), row | dict(features="b", majority=0.3)]
    missing = dict.fromkeys(("majority", "low", "high"), np.nan)
    table = pd.DataFrame([*rows, row | dict(k=None) | missing]).astype(dict(k="Int64"))
    ax = show_groupings(table)
    widths = sorted(round(bar.get_width(), 1) for bar in ax.patches if bar.get_width())
    assert widths == [20, 30, 40] and [text.get_text() for text in ax.texts] == ["refused"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]  # by their scores at the largest K
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["K = 4", "K = 8", "K is found"]
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [10, 10, 30]
