"""Figures are tested by what they are drawn from."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fsdlib.features import Layer, Tap
from fsdlib.figures import caption_strip, gallery, label_colours, overlay, picture_grid, principal_colours, show_anatomy, show_caption, show_class_iou
from fsdlib.figures import show_confusion, show_distances, show_overlay, show_scores, show_similarity
from fsdlib.words import words


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_overlay_tints_labelled_pixels_with_their_colour_and_only_those():
    image = np.full((2, 2, 3), 100, np.uint8)
    tinted = overlay(image, np.array([[0, 1], [0, 0]], np.uint8), strength=1.0)
    assert tinted[0, 1].tolist() == label_colours(np.array([[1]], np.uint8))[0, 0].tolist()
    assert len(np.unique(tinted[[0, 1, 1], [0, 0, 1]], axis=0)) == 1


def test_the_legend_names_what_the_label_map_holds():
    ax = show_overlay(np.zeros((4, 4, 3), np.uint8), np.array([[0, 2, 2, 255]] * 4, np.uint8), ("background", "cat", "dog"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dog"]


def test_a_picture_with_nothing_named_says_so():
    ax = show_overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), ("background",))
    assert "nothing named" in [text.get_text() for text in ax.texts]


def test_a_captions_kept_words_are_marked_and_no_other_letters():
    ax = show_caption("a black cat", words("a black cat"))
    marked = "".join(text.get_text() for text in ax.texts if text.get_weight() == "bold")
    assert marked == "blackcat"


def test_class_bars_are_sorted_and_leave_out_absent_classes():
    ax = show_class_iou({"a": 0.25, "b": 0.75, "c": None, "d": float("nan")})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in ax.patches] == [75, 25]


def test_a_gallery_has_a_panel_for_every_picture_truth_and_prediction():
    images, maps = [np.zeros((4, 4, 3), np.uint8)] * 3, [np.zeros((4, 4), np.uint8)] * 3
    figure = gallery(images, maps, ("background",), maps, columns=2)
    assert sum(bool(ax.images) for ax in figure.axes) == 9


def test_principal_colours_part_what_the_features_part():
    features = np.zeros((5, 4, 4), np.float32)
    features[2, :, 2:] = 1  # one direction varies, between the left half and the right
    features[3, 0, 0] = 0.01
    left_right = principal_colours([features, features])
    assert [p.shape for p in left_right] == [(4, 4, 3)] * 2 and np.array_equal(*left_right)
    red = left_right[0][..., 0].astype(int)
    assert abs(red[1, 1] - red[1, 3]) == 255 and np.ptp(red[1:, :2]) == 0


def test_a_confusion_matrix_shows_shares_of_each_row():
    ax = show_confusion(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["cat", "dog", "cow"])
    shown = np.ma.filled(ax.collections[0].get_array().astype(float), np.nan).reshape(3, 3)
    assert shown[:2].tolist() == [[0.75, 0.25, 0], [0, 1, 0]] and np.isnan(shown[2]).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat", "dog", "cow"]


def test_scores_are_sorted_bars_with_one_that_stands_out():
    ax = show_scores(dict(rgb=0.25, diffusion=0.5), highlighted="diffusion")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["diffusion", "rgb"] and [bar.get_width() for bar in ax.patches] == [0.5, 0.25]
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor() and {t.get_text() for t in ax.texts} == {"0.500", "0.250"}


def test_a_grid_of_pictures_shows_every_cell_under_its_titles():
    picture, heat = np.zeros((4, 4, 3), np.uint8), np.arange(4.0).reshape(2, 2)
    figure = picture_grid([[picture, heat], [heat]], ["first", "second"], ["a", "b"], limits=(0, 9), unit="share")
    shown = [ax.images[0] for ax in figure.axes[:4] if ax.images]
    assert len(shown) == 3 and np.array_equal(shown[1].get_array(), heat) and shown[1].get_clim() == (0, 9)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"] and figure.axes[-1].get_ylabel() == "share"
    assert [figure.axes[number].texts[0].get_text() for number in (0, 2)] == ["first", "second"]


def test_a_strip_marks_the_words_of_every_caption():
    sentences = ["a black cat", "two dogs and a pizza on a plain background", "it"]
    figure = caption_strip([np.zeros((4, 4, 3), np.uint8)] * 3, sentences, [words(s) for s in sentences], columns=2)
    assert sum(bool(ax.images) for ax in figure.axes) == 3
    marked = "".join(text.get_text() for ax in figure.axes for text in ax.texts if text.get_weight() == "bold")
    assert marked == "blackcat" + "dogspizzaplainbackground"


def test_distances_mark_each_words_nearest_class():
    ax = show_distances(np.array([[0.5, 0.25], [0.1, 0.9]]), ["puppy", "kitten"], ["cat", "dog"])
    assert [text.get_text() for text in ax.texts] == ["", "0.25", "0.10", ""]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog"] and [t.get_text() for t in ax.get_yticklabels()] == ["puppy", "kitten"]


def test_the_anatomy_has_a_bar_a_layer_and_a_star_a_tap():
    kinds = ["convolution", "residual", "downsampling", "residual", "attention", "upsampling", "residual", "convolution"]
    modules = ["conv_in", "down_blocks.0.resnets.0", "down_blocks.0.downsamplers.0", "mid_block.resnets.0", "up_blocks.0.attentions.0",
               "up_blocks.0.upsamplers.0", "up_blocks.1.resnets.0", "conv_out"]  # fmt: skip
    layers = [Layer(m, k, 8 + i, grid) for i, (m, k, grid) in enumerate(zip(modules, kinds, (16, 16, 8, 8, 8, 16, 16, 16)))]
    ax = show_anatomy(layers, [Tap("up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q", 8)])
    heights = {round(bar.get_x() + bar.get_width() / 2): round(bar.get_y() + bar.get_height() / 2) for group in ax.containers for bar in group}
    assert heights == {0: 0, 1: 0, 2: -1, 3: -1, 4: -1, 5: 0, 6: 0, 7: 0}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["16 x 16", "8 x 8"]
    (star,) = [c for c in ax.collections if c.get_label() == "tap"]
    assert star.get_offsets()[:, 0].tolist() == [4]
    assert [str(8 + i) for i in range(8)] + ["conv_in", "down_blocks.0", "mid_block", "up_blocks.0", "up_blocks.1", "conv_out"] == [t.get_text() for t in ax.texts if t.get_text()]


def test_a_similarity_map_is_shown_beside_the_picture_with_its_point_in_both():
    similarity = np.array([[1.0, 0.5], [-0.25, 0.0]])
    axes = show_similarity(np.zeros((8, 8, 3), np.uint8), similarity, 0, 1)
    assert np.array_equal(axes[1].images[0].get_array(), similarity) and axes[1].images[0].get_clim() == (-0.25, 1)
    assert all(line.get_xydata().tolist() == [[1, 0]] for ax in axes for line in ax.lines)
