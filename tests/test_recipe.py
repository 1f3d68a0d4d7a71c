import json
from typing import Literal

import numpy as np
import pytest
from pydantic import Field, PositiveInt

from fsdlib.caption import BeamSearch, Captioning
from fsdlib.clusters import Clustering, KMeans, NormalisedCut
from fsdlib.features import AtGrid, EncoderLast, Features, Taps, UNetFeatures
from fsdlib.names import Assignment, BestProposal, BlackFrame, Crop, OneClusterPerClass, View
from fsdlib.pipeline import segment
from fsdlib.recipe import (
    BACKGROUND_NAMES,
    BEST,
    BEST_SD,
    FAST,
    PAPER,
    PEERS,
    RECIPES,
    Recipe,
    get_recipe,
    parse_changes,
)
from fsdlib.refinement import Crf, Pamr, Refinement
from fsdlib.spreading import Spreading, Unspread
from fsdlib.words import ClassStrings, Closed, VocabularyMode, Wording

# The published method, stage by stage.
PUBLISHED = Recipe(
    name="paper",
    caption=BeamSearch(prompt="a picture of ", beams=3, min_tokens=10, max_tokens=30, divide_by="whole"),
    # the scored mode is the closed one
    vocabulary=Closed(),
    # a class is one string, encoded word for word
    wording=ClassStrings(class_prompt="A photo of {}"),
    # noised at t = 0 under the empty string; queries of the cross-attention in the 16x16 blocks, to 32x32, not normalised
    features=UNetFeatures(
        taps=AtGrid(of="cross_attention_query", grid=16),
        timestep=0,
        prompt="",
        noise_samples=1,
        grid=32,
        normalise=False,
    ),
    # k-means, ten initialisations, K = 4
    clusters=KMeans(count=4, plus_candidates=False, restarts=10),
    # black outside the mask, not cropped; bare class names
    view=BlackFrame(templates=("{}",)),
    # one cluster a class, no background and no threshold
    spreading=Unspread(),
    assignment=OneClusterPerClass(background_names=(), threshold=0.0),
    refinement=Crf(
        gt_prob=0.9,
        gaussian_sxy=20,
        gaussian_compat=5,
        bilateral_sxy=20,
        bilateral_srgb=20,
        bilateral_compat=100,
        iterations=10,
        fill=False,
        max_pixels=4_000_000,
    ),
)
STAGES = (Captioning, Wording, VocabularyMode, Features, Taps, Clustering, View, Spreading, Assignment, Refinement)


def test_paper_is_the_published_method_and_has_no_other_option():
    assert PAPER == PUBLISHED
    named = [set(choice.option_names()) == choice.model_fields_set for choice in (PUBLISHED, *PUBLISHED.parts())]
    assert all(named)  # the table above names every option there is


def test_best_differs_from_paper_in_its_improvements_alone():
    back = {
        "assignment": "one_cluster_per_class",  # the best proposal of each name, with an explicit background
        "view": "black_frame",  # crops
        "wording": "strings",  # names and their synonyms
        "refinement.fill": False,
        "clusters": "kmeans",  # several groupings, coarse and fine
        "features.normalise": False,
        "features.timestep": 0,
        "features.noise_samples": 1,
    }
    assert BEST.with_changes(back, name="paper") == PAPER
    assert all(BEST.with_changes({path: value}) != BEST for path, value in back.items())
    assert BEST.assignment == BestProposal(background_names=BACKGROUND_NAMES) and BEST.view == Crop()


def test_the_background_list_has_25_to_60_nouns_each_once():
    assert 25 <= len(BACKGROUND_NAMES) <= 60 and len(set(BACKGROUND_NAMES)) == len(BACKGROUND_NAMES)


def test_recipes_are_got_by_name_and_an_unknown_one_is_answered_with_those_there_are():
    assert all(get_recipe(name) is recipe and recipe.name == name for name, recipe in RECIPES.items())
    assert RECIPES == {"paper": PAPER, "best": BEST, "fast": FAST, "best_sd": BEST_SD} | PEERS
    with pytest.raises(ValueError, match="'papper'.*paper, best"):
        get_recipe("papper")


@pytest.mark.parametrize("recipe", [*RECIPES.values(), PAPER.with_changes({"refinement": Pamr(dilations=(1, 2))})])
def test_a_recipe_goes_through_json_and_back_and_hashes_the_same(recipe):
    text = recipe.model_dump_json()
    again = Recipe.model_validate_json(text)
    assert again == recipe and hash(again) == hash(recipe) and again.model_dump_json() == text
    assert Recipe.model_validate(json.loads(text)) == recipe  # lists for tuples
    assert json.loads(text)["clusters"]["kind"] == recipe.clusters.kind


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_way_to_do_a_stage_can_be_asked_for_by_its_kind(stage):
    assert stage.kinds()
    for kind, way in stage.kinds().items():
        assert type(stage.model_validate(kind)) is way and stage.model_validate({"kind": kind}) == way()
        assert way.__doc__ and all(way.model_fields[option].description for option in way.option_names())


# ------------------------------------------------------------------------------------------------------- changes


def test_options_are_changed_by_path_and_the_variant_is_named_after_them():
    variant = PAPER.with_changes({"clusters.count": 6, "features.taps.grid": 8, "refinement": "none"})
    assert variant.clusters == KMeans(count=6) and variant.features.taps == AtGrid(grid=8)
    assert variant.name == "paper-clusters.count=6-features.taps.grid=8-refinement=none"
    assert PAPER.clusters.count == 4 and PAPER.with_changes({"clusters.count": 6}, name="six").name == "six"


def test_a_stage_takes_a_choice_a_kind_or_a_mapping():
    cut = NormalisedCut(threshold=0.4)
    for value in (cut, {"kind": "normalised_cut", "threshold": 0.4}):
        assert PAPER.with_changes({"clusters": value}).clusters == cut
    assert PAPER.with_changes({"clusters": "normalised_cut", "clusters.threshold": 0.4}).clusters == cut
    assert PAPER.with_changes({"features.taps": "encoder_last"}).features.taps == EncoderLast()


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("klusters", 5, "no option 'klusters'.* name, caption, wording, vocabulary, features, clusters"),
        (
            "clusters.number",
            5,
            "no option 'clusters.number': clusters is KMeans with the options count, plus_candidates",
        ),
        ("clusters.threshold", 0.5, "threshold is an option of agglomerative_threshold, kl_merging, normalised_cut"),
        ("clusters.count.most", 5, "no option 'clusters.count.most': clusters.count is 4"),
        ("features.taps.size", 5, "features.taps is AtGrid with the options of, grid"),
        ("clusters", "dbscan", "'dbscan': choose one of kmeans, agglomerative, spectral, eigengap"),
        ("clusters", 4, "the kind of Clustering is 4: choose one of"),
        ("clusters", {"count": 4}, "the kind of Clustering is left out: choose one of"),
        ("clusters", Crf(), "instance of Clustering"),
        ("refinement", None, "the kind of Refinement is None: choose one of crf, joint_crf, pamr, none"),
        ("vocabulary", "half", "choose one of open, closed, given, oracle"),
        ("features.taps.of", "keys", "'cross_attention_query' or 'self_attention_output'"),
    ],
)
def test_a_wrong_path_or_kind_is_answered_with_what_there_is(path, value, said):
    with pytest.raises(ValueError, match=said):
        PAPER.with_changes({path: value})


@pytest.mark.parametrize(
    "path, value",
    [
        ("clusters.count", "4"), ("clusters.count", 4.5), ("clusters.count", True), ("clusters.count", 0),
        ("features.normalise", 1), ("features.prompt", None), ("features.timestep", -1), ("features.timestep", 1000),
        ("features.noise_samples", 0), ("view.templates", "{}"), ("view.templates", ()), ("view.templates", ("a photo",)),
        ("refinement.gt_prob", "0.9"), ("refinement.gt_prob", 1.0), ("refinement.gt_prob", 0.0),
        ("refinement.iterations", 0), ("refinement", {"kind": "pamr", "iterations": 0}),
        ("refinement", {"kind": "pamr", "dilations": (0, 1)}), ("assignment.threshold", -0.1),
        ("assignment.threshold", 1.1), ("clusters", {"kind": "normalised_cut", "threshold": 0.0}),
        ("clusters", {"kind": "normalised_cut", "threshold": 1.0}), ("clusters", {"kind": "spectral", "power": 0.0}),
        ("wording.class_prompt", "A photo of"), ("caption.min_tokens", 31),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_without_sense_is_refused_and_named(path, value):
    with pytest.raises(ValueError, match=path):
        PAPER.with_changes({path: value})


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        PAPER.clusters = KMeans()


def test_a_printed_recipe_shows_every_option_with_its_value_and_meaning():
    rows = str(BEST).splitlines()
    assert rows[0] == "recipe 'best'"
    options = [option for choice in (BEST, *BEST.parts()) for option in choice.option_names()]
    assert sorted([row.split()[0] for row in rows[1:]] + ["name"]) == sorted(options)
    assert any(row.split()[:2] == ["iterations", "10"] and row.endswith("mean-field iterations") for row in rows)
    assert any(row.split()[:2] == ["clusters", "Pooled"] for row in rows)


@pytest.mark.parametrize(
    "text, changes",
    [
        ("", {}),
        ("clusters.count=8 refinement=none", {"clusters.count": 8, "refinement": "none"}),
        ("features.normalise=true assignment.threshold=0.2", {"features.normalise": True, "assignment.threshold": 0.2}),
        ('{"features.prompt": "a photo", "clusters": {"kind": "spectral"}}',
         {"features.prompt": "a photo", "clusters": {"kind": "spectral"}}),
    ],
)  # fmt: skip
def test_changes_are_read_as_a_shell_has_them(text, changes):
    assert parse_changes(text) == changes


@pytest.mark.parametrize("text", ["clusters.count", '{"clusters.count": 8'])
def test_changes_that_cannot_be_read_say_how_they_are_written(text):
    with pytest.raises(ValueError, match="write"):
        parse_changes(text)


# ------------------------------------------------------------------------------------------- a way of one's own


def test_a_clustering_of_ones_own_is_a_class_and_no_more(mini, scene, vocabulary):
    class Stripes(Clustering):
        """Columns of equal width."""

        kind: Literal["stripes"] = "stripes"
        count: PositiveInt = Field(2, description="how many")

        def group(self, features, seed=0, candidates=0):
            height, width = features.shape[1:]
            return np.tile(np.arange(width) * self.count // width, (height, 1)).astype(np.uint8)

    recipe = PAPER.with_changes({"clusters": "stripes", "clusters.count": 3})
    assert recipe.clusters == Stripes(count=3)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    result = segment(scene.image, mini, recipe, vocabulary)
    assert np.array_equal(result.clusters[0], np.repeat([0, 1, 2], [11, 11, 10]))
