import json

import pytest
from pydantic import ValidationError

from fsdlib.recipe import BACKGROUND_NAMES, BEST, PAPER, RECIPES, Recipe, get_recipe

# The published method, row by row of its description.
PUBLISHED = dict(
    # 1 caption
    caption_prompt="a picture of ",
    caption_beams=3,
    caption_min_tokens=10,
    caption_max_tokens=30,
    # 2 words: the scored mode is the closed one
    vocabulary_mode="closed",
    class_prompt="A photo of {}",
    # 3 diffusion: noised at t = 0, the prompt is the empty string
    timestep=0,
    prompt="",
    noise_samples=1,
    # 4 features: queries of the cross-attention in the 16x16 blocks, to 32x32, no normalisation
    taps="cross_attention_query",
    tap_blocks="all",
    tap_grid=16,
    feature_grid=32,
    normalise=False,
    # 5 clustering: k-means, ten initialisations, K = 4; the other two are for clusterings that are not the paper's
    clustering="kmeans",
    cluster_choice="fixed",
    clusters=4,
    restarts=10,
    ncut_threshold=0.5,
    ncut_power=10.0,
    # 7 name: black outside the mask, not cropped; bare class names
    view="black_frame",
    text_templates=("{}",),
    # 8 assign: one cluster a class, no background and no threshold
    assignment="one_cluster_per_class",
    background_names=(),
    background_threshold=0.0,
    # 9 refine: two-label dense CRF
    refinement="crf",
    crf_gt_prob=0.9,
    crf_gaussian_sxy=20.0,
    crf_gaussian_compat=5.0,
    crf_bilateral_sxy=20.0,
    crf_bilateral_srgb=20.0,
    crf_bilateral_compat=100.0,
    crf_iterations=10,
    # the alternative that the published method wires
    pamr_iterations=10,
    pamr_dilations=(1, 2, 4, 8, 12, 24),
)


def test_paper_is_the_published_method_and_has_no_other_option():
    assert PAPER.model_dump() == PUBLISHED | dict(name="paper")


def test_best_differs_from_paper_in_its_improvements_alone():
    differing = {key for key, value in BEST.model_dump().items() if value != PAPER.model_dump()[key]}
    merged = {"assignment"}
    normalised_and_chosen = {"normalise", "cluster_choice", "clusters"}
    crops = {"view"}
    background, noise = {"background_names"}, {"timestep", "noise_samples"}
    assert differing == {"name"} | merged | normalised_and_chosen | crops | background | noise
    assert (
        BEST.assignment == "merge" and BEST.normalise and BEST.cluster_choice == "candidates" and BEST.timestep == 100
    )


def test_the_background_list_has_25_to_60_nouns_each_once():
    assert 25 <= len(BACKGROUND_NAMES) <= 60 and len(set(BACKGROUND_NAMES)) == len(BACKGROUND_NAMES)


def test_recipes_are_got_by_name_and_an_unknown_one_is_answered_with_those_there_are():
    assert {name: get_recipe(name) for name in RECIPES} == {"paper": PAPER, "best": BEST}
    with pytest.raises(ValueError, match="'papper'.*paper, best"):
        get_recipe("papper")


def test_an_unknown_option_raises_and_is_named():
    with pytest.raises(ValidationError, match="klusters"):
        PAPER.with_changes(klusters=5)


@pytest.mark.parametrize(
    "option, value",
    [
        ("clusters", "4"),
        ("clusters", 4.5),
        ("clusters", True),
        ("normalise", 1),
        ("prompt", None),
        ("text_templates", "{}"),
        ("crf_gt_prob", "0.9"),
    ],
)
def test_a_value_of_another_type_raises_and_is_never_converted(option, value):
    with pytest.raises(ValidationError, match=option):
        PAPER.with_changes(**{option: value})


@pytest.mark.parametrize(
    "option, value",
    [
        ("clusters", 0),
        ("timestep", -1),
        ("timestep", 1000),
        ("crf_gt_prob", 1.0),
        ("crf_gt_prob", 0.0),
        ("crf_iterations", 0),
        ("background_threshold", -0.1),
        ("background_threshold", 1.1),
        ("noise_samples", 0),
        ("taps", "keys"),
        ("tap_blocks", "some"),
        ("clustering", "dbscan"),
        ("view", "blur"),
        ("assignment", "hungarian"),
        ("refinement", "grabcut"),
        ("pamr_iterations", 0),
        ("pamr_dilations", (0, 1)),
        ("vocabulary_mode", "half"),
        ("ncut_threshold", 0.0),
        ("ncut_threshold", 1.0),
        ("ncut_power", 0.0),
        ("ncut_power", -1.0),
        ("text_templates", ()),
        ("text_templates", ("a photo",)),
        ("class_prompt", "A photo of"),
        ("caption_min_tokens", 31),
    ],
)
def test_a_value_that_makes_no_sense_raises_and_is_named(option, value):
    with pytest.raises(ValidationError, match=option):
        PAPER.with_changes(**{option: value})


def test_a_variant_is_named_after_its_changes_and_leaves_the_original_alone():
    variant = PAPER.with_changes(clusters=6, normalise=True)
    assert variant.name == "paper-clusters=6-normalise=True" and variant.clusters == 6 and PAPER.clusters == 4
    assert PAPER.with_changes(clusters=6, name="six").name == "six"


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        PAPER.clusters = 5


def test_a_recipe_survives_json():
    assert (
        Recipe.model_validate_json(BEST.model_dump_json()) == BEST
        and json.loads(BEST.model_dump_json())["clusters"] == 6
    )


def test_a_printed_recipe_shows_every_option_with_its_value_and_meaning():
    rows = str(PAPER).splitlines()
    assert rows[0] == "recipe 'paper'"
    assert {row.split()[0] for row in rows[1:]} == set(PUBLISHED)
    assert any(row.split()[:2] == ["crf_iterations", "10"] and row.endswith("mean-field iterations") for row in rows)


@pytest.mark.parametrize(
    "option, values",
    [
        ("clustering", ["kmeans", "agglomerative", "spectral", "normalised_cut"]),
        ("view", ["black_frame", "crop", "dense"]),
    ],
)
def test_every_way_there_is_can_be_asked_for(option, values):
    assert [getattr(PAPER.with_changes(**{option: value}), option) for value in values] == values
