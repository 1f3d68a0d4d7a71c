"""Figures are tested by what they are drawn from."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fsdlib.features import Layer, Tap
from fsdlib.figures import (
    ADDED,
    CLUSTER_COLOURS,
    REMOVED,
    caption_strip,
    gallery,
    innermost,
    label_colours,
    numbered_alike,
    overlay,
    picture_grid,
    principal_colours,
    show_anatomy,
    show_caption,
    show_cells,
    show_clusters,
    show_clusters_on,
    show_difference,
    show_distances,
    show_map,
    show_mask,
    show_overlay,
    show_points,
    show_refinement,
    show_score_matrix,
    show_similarity,
    show_stages,
)
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


def written(ax) -> dict[str, tuple[int, int]]:
    """The names on the masks, each with the pixel, (column, row), that it is written at."""
    return {text.get_text(): text.xy for text in ax.texts if hasattr(text, "xy")}


def listed(ax) -> list[str]:
    """The legend's texts."""
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


NAMES = ("background", "cat", "dog", "bird", "cow")
MAP = np.zeros(
    (60, 90), np.uint8
)  # a large cat in the shape of an L, whose middle is not in it; a dog at the edge; a speck of a bird
MAP[5:55, 5:20] = 1
MAP[45:55, 5:70] = 1
MAP[10:40, 60:90] = 2
MAP[2, 40] = 3
MAP[:, 30:32] = 255


def test_a_name_stands_on_its_mask_and_a_tiny_mask_is_named_below():
    ax = show_overlay(np.zeros((60, 90, 3), np.uint8), MAP, NAMES, letters=12)
    assert {name: MAP[row, column] for name, (column, row) in written(ax).items()} == {"cat": 1, "dog": 2}
    assert listed(ax) == ["bird"]


def test_the_innermost_point_is_the_deepest_and_of_several_the_one_in_the_middle():
    assert innermost(MAP == 2) == (24, 74, 15.0)  # 15 pixels from the mask's sides, one of which is the picture's
    row, column, depth = innermost(MAP == 1)
    assert MAP[row, column] == 1 and depth > 7.5  # in the corner of the L, deeper than its arms are half wide


def test_names_are_drawn_within_the_picture_and_clear_of_each_other():
    labels = np.repeat(np.array([[1, 2]], np.uint8), 20, axis=0).repeat(10, axis=1)
    ax = show_overlay(
        np.zeros((20, 20, 3), np.uint8), labels, ("", "a long-haired cat", "a short-haired dog"), letters=30
    )
    ax.figure.canvas.draw()
    one, other = (text.get_window_extent() for text in ax.texts)
    inside = ax.get_window_extent().padded(3)
    assert not one.overlaps(other)
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in (one, other))


def test_what_is_there_and_was_missed_is_listed_and_void_is_not():
    truth = np.where(MAP == 2, 4, MAP)
    image = np.zeros((60, 90, 3), np.uint8)
    assert listed(show_overlay(image, np.where(MAP == 3, 0, MAP), NAMES, truth=truth)) == [
        "missed: bird",
        "missed: cow",
    ]
    assert listed(show_overlay(image, MAP, NAMES, truth=MAP, letters=12)) == ["bird"]
    assert listed(show_overlay(image, MAP, NAMES, truth=truth, legend=False)) == []


def test_masks_have_an_outline_that_parts_them_from_the_rest_and_specks_have_none():
    labels = np.zeros((60, 90), np.uint8)
    labels[10:40, 60:90] = 2  # at the picture's right edge
    labels[5, 5] = 2
    ax = show_overlay(np.zeros((60, 90, 3), np.uint8), labels, NAMES)
    (outline,) = ax.collections
    corners = np.concatenate([path.vertices for path in outline.get_paths()])
    assert corners.min(axis=0).tolist() == [59.5, 9.5] and corners.max(axis=0).tolist() == [89.5, 39.5]
    assert ax.get_xlim() == (-0.5, 89.5) and ax.get_ylim() == (59.5, -0.5)  # the picture fills its axes as before
    ax.figure.canvas.draw()
    drawn = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]
    x, y = ax.transData.transform((59.5, 25))
    around = drawn[len(drawn) - int(y), int(x) - 3 : int(x) + 4]
    assert around.max() > 200 and around.min() < 60  # a light line with a dark rim


def test_a_class_has_one_colour_in_every_figure():
    image, alone = np.full((60, 90, 3), 90, np.uint8), np.zeros((60, 90), np.uint8)
    alone[45:55, 5:70] = 1
    assert np.array_equal(overlay(image, alone)[50, 10], overlay(image, MAP)[50, 10])


def test_clusters_keep_their_numbers_as_k_grows():
    two = np.repeat(np.array([[0] * 6 + [1] * 6]), 4, axis=0)
    three = np.repeat(np.array([[2] * 4 + [1] * 2 + [0] * 6]), 4, axis=0)  # the left one loses a part
    four = np.repeat(np.array([[3] * 4 + [0] * 2 + [1] * 4 + [2] * 2]), 4, axis=0)  # and then the right one
    first, second, third = numbered_alike([two, three, four])
    assert first[0].tolist() == [0] * 6 + [1] * 6
    assert second[0].tolist() == [0] * 4 + [2] * 2 + [1] * 6
    assert third[0].tolist() == [0] * 4 + [2] * 2 + [1] * 4 + [3] * 2
    again = numbered_alike([four, two])[1]  # fewer clusters than before: each takes the number of its larger part
    assert again[0].tolist() == [3] * 6 + [1] * 6


def test_the_names_of_clusters_stand_on_them_or_below_where_they_are_too_small():
    ax = show_clusters(np.array([[0, 2]]), names={0: "tree", 1: "dog", 2: "bird"})
    assert written(ax) == {"tree": (0, 0), "bird": (1, 0)} and listed(ax) == []
    clusters = np.zeros((99, 99), int)
    clusters[0, 0] = 2
    ax = show_clusters(clusters, names={0: "tree", 2: "bird"})
    (patch,) = ax.get_legend().get_patches()
    assert [*written(ax)] == ["tree"] and listed(ax) == ["bird"]
    assert np.allclose(patch.get_facecolor()[:3], CLUSTER_COLOURS[2])


def test_square_maps_of_a_wide_picture_are_drawn_as_wide():
    image, square = np.zeros((20, 60, 3), np.uint8), np.zeros((8, 8))
    ax = show_map(square, proportions=image.shape)
    assert ax.get_aspect() == pytest.approx(1 / 3)
    figure = picture_grid([[image, square]], proportions=image.shape)
    assert [ax.get_aspect() for ax in figure.axes] == pytest.approx([1, 1 / 3])


def test_a_picture_with_nothing_named_says_so():
    ax = show_overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), ("background",))
    assert "nothing named" in [text.get_text() for text in ax.texts]


def test_a_captions_kept_words_are_marked_and_no_other_letters():
    ax = show_caption("a black cat", words("a black cat"))
    marked = "".join(text.get_text() for text in ax.texts if text.get_weight() == "bold")
    assert marked == "blackcat"


def test_a_gallery_has_a_panel_for_every_picture_truth_and_prediction():
    images, maps = [np.zeros((4, 4, 3), np.uint8)] * 3, [np.zeros((4, 4), np.uint8)] * 3
    figure = gallery(images, maps, ("background",), maps, columns=2)
    assert sum(bool(ax.images) for ax in figure.axes) == 9


def test_a_gallery_and_the_strip_of_stages_list_what_was_missed_where_the_truth_is_given():
    image = np.zeros((60, 90, 3), np.uint8)
    result = SimpleNamespace(
        names=NAMES, caption="", clusters=np.eye(2, dtype=int), coarse=MAP, labels=np.zeros_like(MAP)
    )
    strip = show_stages(image, result, np.random.default_rng(0).random((5, 2, 2), np.float32), MAP).axes
    assert listed(strip[4]) == ["missed: cat", "missed: dog", "missed: bird"]
    assert [ax.get_aspect() for ax in strip[:2]] == pytest.approx([1, 2 / 3])  # square features of a wide picture
    assert strip[2].images[0].get_array().shape == image.shape  # and its clusters, enlarged to it
    panels = gallery([image], [np.where(MAP == 1, 0, MAP)], NAMES, [MAP], columns=1).axes
    assert "missed: cat" in listed(panels[-1]) and listed(gallery([image], [MAP], NAMES, columns=1).axes[-1]) != [
        "missed: cat"
    ]


def test_principal_colours_part_what_the_features_part():
    features = np.zeros((5, 4, 4), np.float32)
    features[2, :, 2:] = 1  # one direction varies, between the left half and the right
    features[3, 0, 0] = 0.01
    left_right = principal_colours([features, features])
    assert [p.shape for p in left_right] == [(4, 4, 3)] * 2 and np.array_equal(*left_right)
    red = left_right[0][..., 0].astype(int)
    assert abs(red[1, 1] - red[1, 3]) == 255 and np.ptp(red[1:, :2]) == 0


BEFORE, AFTER = np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]])


def test_a_difference_paints_what_came_and_what_went():
    ax = show_difference(np.full((2, 2, 3), 100, np.uint8), BEFORE, AFTER)
    drawn = ax.images[0].get_array() / 255
    assert np.allclose(drawn[1, 0], to_rgb(ADDED), atol=0.01) and np.allclose(drawn[0, 1], to_rgb(REMOVED), atol=0.01)
    assert drawn[0, 0].mean() < drawn[1, 1].mean()  # what stayed is darker than what was never in
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["added 1 px", "removed 1 px"]


def test_a_mask_keeps_its_colours_and_pales_the_rest():
    image = np.array([[[200, 0, 0]] * 2] * 2, np.uint8)
    drawn = show_mask(image, BEFORE).images[0].get_array()
    assert drawn[0, 0].tolist() == [200, 0, 0] and len(set(drawn[1, 0].tolist())) == 1


def test_a_map_shows_its_values_on_the_scale_it_is_given_and_marks_the_point():
    ax = show_map(np.array([[0.0, 0.25], [0.5, 1.0]]), point=(1, 0), unit="probability")
    assert ax.images[0].get_array().tolist() == [[0, 0.25], [0.5, 1]] and ax.images[0].get_clim() == (0, 1)
    assert ax.lines[0].get_xydata().tolist() == [[0, 1]]


def test_refinement_is_shown_with_the_iou_of_both_masks_where_the_truth_is_known():
    image = np.zeros((2, 2, 3), np.uint8)
    assert [ax.get_title() for ax in show_refinement(image, BEFORE, AFTER, BEFORE).axes] == [
        "before, IoU 1.00",
        "after, IoU 0.33",
        "what changed",
    ]
    assert [ax.get_title() for ax in show_refinement(image, BEFORE, AFTER).axes] == ["before", "after", "what changed"]


def test_the_strip_of_stages_shows_each_and_the_caption():
    result = SimpleNamespace(
        names=("background", "cat"),
        caption="a cat",
        masks=np.zeros((2, 4, 4), bool),
        clusters=np.eye(2, dtype=np.uint8),
        coarse=np.ones((4, 4), np.uint8),
        labels=np.eye(4, dtype=np.uint8),
    )
    image, maps = np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0).random((5, 2, 2), np.float32)
    figure = show_stages(image, result, maps, np.full((4, 4), 255, np.uint8), title="worst")
    assert [ax.get_title() for ax in figure.axes] == [
        "picture",
        "features (PCA)",
        "2 clusters",
        "named",
        "refined",
        "truth",
    ]
    assert figure.get_suptitle() == 'worst | "a cat"' and len(show_stages(image, result, maps).axes) == 5


def test_cells_are_written_with_their_labels():
    ax = show_cells(np.array([[0, 1], [2, 255]], np.uint8))
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2", "V"]
    assert np.array_equal(ax.images[0].get_array(), label_colours(np.array([[0, 1], [2, 255]])))


def test_points_and_centres_have_the_colours_of_their_clusters():
    ax = show_points(
        np.float32([[0, 0], [1, 1], [2, 0]]), np.array([0, 1, 1]), centres=np.float32([[0, 0], [1.5, 0.5]])
    )
    points, centres = ax.collections
    assert points.get_offsets().tolist() == [[0, 0], [1, 1], [2, 0]] and centres.get_offsets().tolist() == [
        [0, 0],
        [1.5, 0.5],
    ]
    assert np.array_equal(points.get_facecolors()[[0, 1]], centres.get_facecolors()) and not np.array_equal(
        *centres.get_facecolors()
    )


def test_points_may_have_colours_of_their_own():
    ax = show_points(np.zeros((2, 2)), np.array([[255, 0, 0], [0, 0, 255]], np.uint8))
    assert ax.collections[0].get_facecolors()[:, :3].tolist() == [[1, 0, 0], [0, 0, 1]] and len(ax.collections) == 1


def test_clusters_on_a_picture_tint_it_and_have_a_white_border():
    image, clusters = np.full((8, 8, 3), 200, np.uint8), np.array([[0, 1]], np.uint8)
    drawn = show_clusters_on(image, clusters, strength=1.0).images[0].get_array()
    assert np.array_equal(drawn[:, 0], np.tile((CLUSTER_COLOURS[0] * 255).astype(np.uint8), (8, 1))) and np.all(
        drawn[:, 4] == 255
    )
    assert np.array_equal(drawn[0, 7], (CLUSTER_COLOURS[1] * 255).astype(np.uint8))


def test_a_map_carries_its_unit_and_its_limits():
    ax = show_map(np.arange(6.0).reshape(2, 3), unit="length", limits=(0, 10))
    assert ax.images[0].get_array().tolist() == [[0, 1, 2], [3, 4, 5]] and ax.images[0].get_clim() == (0, 10)
    assert "length" in [other.get_ylabel() for other in ax.figure.axes]


def test_a_score_matrix_shows_every_score_and_the_best_of_each_row_in_bold():
    ax = show_score_matrix(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), ["mask 0", "mask 1"], ["cat", "dog", "bus"])
    assert [t.get_text() for t in ax.texts] == ["0.70", "0.20", "0.10", "0.10", "0.30", "0.60"]
    assert [t.get_text() for t in ax.texts if t.get_fontweight() == "bold"] == ["0.70", "0.60"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "bus"] and [
        t.get_text() for t in ax.get_yticklabels()
    ] == ["mask 0", "mask 1"]


def test_a_grid_of_pictures_shows_every_cell_under_its_titles():
    picture, heat = np.zeros((4, 4, 3), np.uint8), np.arange(4.0).reshape(2, 2)
    figure = picture_grid([[picture, heat], [heat]], ["first", "second"], ["a", "b"], limits=(0, 9), unit="share")
    shown = [ax.images[0] for ax in figure.axes[:4] if ax.images]
    assert len(shown) == 3 and np.array_equal(shown[1].get_array(), heat) and shown[1].get_clim() == (0, 9)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"] and figure.axes[-1].get_ylabel() == "share"
    assert [figure.axes[number].texts[0].get_text() for number in (0, 2)] == ["first", "second"]
    titled = picture_grid([[heat, heat], [heat]], columns=[["a", "b"], ["c"]])
    assert [ax.get_title() for ax in titled.axes] == ["a", "b", "c", ""]


def test_a_strip_marks_the_words_of_every_caption():
    sentences = ["a black cat", "two dogs and a pizza on a plain background", "it"]
    figure = caption_strip([np.zeros((4, 4, 3), np.uint8)] * 3, sentences, [words(s) for s in sentences], columns=2)
    assert sum(bool(ax.images) for ax in figure.axes) == 3
    marked = "".join(text.get_text() for ax in figure.axes for text in ax.texts if text.get_weight() == "bold")
    assert marked == "blackcat" + "dogspizzaplainbackground"


def test_distances_mark_each_words_nearest_class():
    ax = show_distances(np.array([[0.5, 0.25], [0.1, 0.9]]), ["puppy", "kitten"], ["cat", "dog"])
    assert [text.get_text() for text in ax.texts] == ["", "0.25", "0.10", ""]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog"] and [
        t.get_text() for t in ax.get_yticklabels()
    ] == ["puppy", "kitten"]


def test_the_anatomy_has_a_bar_a_layer_and_a_star_a_tap():
    kinds = [
        "convolution",
        "residual",
        "downsampling",
        "residual",
        "attention",
        "upsampling",
        "residual",
        "convolution",
    ]
    modules = [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.downsamplers.0",
        "mid_block.resnets.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.resnets.0",
        "conv_out",
    ]
    layers = [
        Layer(m, k, 8 + i, grid) for i, (m, k, grid) in enumerate(zip(modules, kinds, (16, 16, 8, 8, 8, 16, 16, 16)))
    ]
    ax = show_anatomy(layers, [Tap("up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q", 8)])
    heights = {
        round(bar.get_x() + bar.get_width() / 2): round(bar.get_y() + bar.get_height() / 2)
        for group in ax.containers
        for bar in group
    }
    assert heights == {0: 0, 1: 0, 2: -1, 3: -1, 4: -1, 5: 0, 6: 0, 7: 0}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["16 x 16", "8 x 8"]
    (star,) = [c for c in ax.collections if c.get_label() == "tap"]
    assert star.get_offsets()[:, 0].tolist() == [4]
    assert [str(8 + i) for i in range(8)] + [
        "conv_in",
        "down_blocks.0",
        "mid_block",
        "up_blocks.0",
        "up_blocks.1",
        "conv_out",
    ] == [t.get_text() for t in ax.texts if t.get_text()]


def test_a_similarity_map_is_shown_beside_the_picture_with_its_point_in_both():
    similarity = np.array([[1.0, 0.5], [-0.25, 0.0]])
    axes = show_similarity(np.zeros((8, 8, 3), np.uint8), similarity, 0, 1)
    assert np.array_equal(axes[1].images[0].get_array(), similarity) and axes[1].images[0].get_clim() == (-0.25, 1)
    assert all(line.get_xydata().tolist() == [[1, 0]] for ax in axes for line in ax.lines)
