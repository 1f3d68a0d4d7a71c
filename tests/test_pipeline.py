import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fsdlib.clusters import KMeans, NormalisedCut, masks
from fsdlib.features import EncoderLast, UNetFeatures, image_seed
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.names import BlackFrame, Merge, pooled_patches, score, score_vectors
from fsdlib.pipeline import as_array, perceive, segment, segment_batch, segment_perceived
from fsdlib.recipe import BEST, PAPER, Recipe
from fsdlib.refinement import Pamr, paint
from fsdlib.vocabulary import Vocabulary, palette

RECIPES = [
    PAPER,
    BEST,
    PAPER.with_changes(
        {
            "features": UNetFeatures(
                taps=EncoderLast(of="self_attention_output"), timestep=300, noise_samples=2, normalise=True
            ),
            "view": "crop",
            "clusters": "agglomerative",
            "refinement": "none",
        },
        name="other",
    ),
    PAPER.with_changes({"view": "dense", "clusters": "normalised_cut", "refinement": "none"}, name="cut"),
    PAPER.with_changes({"clusters": "spectral", "refinement": "none"}, name="spectral"),
]


@pytest.fixture(scope="module")
def result(mini, scene, vocabulary):
    return segment(scene.image, mini, PAPER, vocabulary)


def bytes_of(result, folder):
    return [path.read_bytes() for path in result.save(folder / "r")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("given", [True, False], ids=["closed", "open"])
def test_any_recipe_segments_with_and_without_a_class_list(mini, scene, vocabulary, recipe, given):
    result = segment(scene.image, mini, recipe, vocabulary if given else None)
    assert (
        result.labels.shape == scene.labels.shape
        and result.labels.dtype == np.uint8
        and result.labels.max() < len(result.names)
    )
    # every grouping's masks cover the picture; a mask of two groupings is there once
    groupings = len(recipe.clusters.cells) * len(recipe.clusters.counts) if recipe.clusters.kind == "pooled" else 1
    assert result.masks.shape[1:] == scene.labels.shape and 1 <= result.masks.sum(axis=0).min()
    assert result.masks.sum(axis=0).max() <= groupings
    assert np.isin(np.arange(result.clusters.max() + 1), result.clusters).all()
    assert result.scores.shape == (len(result.masks), len(result.texts)) and np.allclose(
        result.scores.sum(axis=1), 1, atol=1e-4
    )
    assert result.recipe == recipe and result.models == mini.identity and result.caption
    assert result.found == tuple(result.names[label] for label in sorted(set(result.labels.ravel().tolist()) - {0}))
    if given:
        assert result.names == vocabulary.names and set(result.found) <= {
            vocabulary.names[c.label] for c in result.candidates if c.kept
        }
    else:
        assert result.candidates == () and set(result.found) <= {word.as_open_name for word in result.words}


def test_the_stages_called_one_by_one_give_what_segment_gives(mini, scene, vocabulary, result):
    """From the features on; the stages before are held to their peers in their own tests."""
    assert np.array_equal(masks(result.clusters, *scene.labels.shape), result.masks)
    again = score(BlackFrame().pictures(scene.image, result.masks), vocabulary.names[1:], mini.clip)
    assert np.allclose(again, result.scores, atol=1e-5) and result.texts == vocabulary.names[1:]
    assert result.clusters.shape == (32, 32) and set(np.unique(result.clusters)) == {0, 1, 2, 3}
    assert -1 <= result.silhouette <= 1 and result.taps[0].endswith("attn2.to_q (16x16)")


def test_under_paper_each_name_has_one_cluster(result):
    given = result.assigned[result.assigned >= 0]
    assert len(given) == len(set(given.tolist())) and len(result.masks) == 4


def test_under_best_masks_are_those_of_every_grouping_each_once_and_each_name_has_one(mini, scene, vocabulary):
    result = segment(scene.image, mini, BEST, vocabulary)
    most = sum(BEST.clusters.counts) * len(BEST.clusters.cells)
    assert max(BEST.clusters.counts) < len(result.masks) <= most
    assert len({mask.tobytes() for mask in result.masks}) == len(result.masks)
    assert result.clusters.max() + 1 == max(BEST.clusters.counts)
    given = result.assigned[result.assigned >= 0].tolist()
    assert given and len(given) == len(set(given))
    assert result.texts[: len(vocabulary) - 1] == vocabulary.names[1:] and set(BEST.assignment.background_names) <= set(
        result.texts
    )


def test_merged_clusters_carry_one_label_without_refinement(mini, scene):
    recipe = BEST.with_changes({"refinement": "none", "assignment": Merge(), "clusters": KMeans(count=6)})
    result = segment(scene.image, mini, recipe, ["cat"])
    assert result.found == ("cat",) and np.all(result.labels == 1)  # the only name there is takes every cluster


def test_a_threshold_of_one_leaves_background_alone(mini, scene, vocabulary):
    for recipe in (PAPER, BEST):
        result = segment(scene.image, mini, recipe.with_changes({"assignment.threshold": 1.0}), vocabulary)
        assert result.found == () and not result.labels.any() and np.all(result.assigned == -1)


def test_without_refinement_the_labels_are_the_named_clusters(mini, scene, vocabulary):
    result = segment(scene.image, mini, PAPER.with_changes({"refinement": "none"}), vocabulary)
    for mask, text in zip(result.masks, result.assigned):
        assert np.all(result.labels[mask] == (0 if text < 0 else vocabulary.names.index(result.texts[text])))


def test_the_coarse_labels_are_those_of_an_unrefined_run(mini, scene, vocabulary, result):
    assert np.array_equal(
        result.coarse, segment(scene.image, mini, PAPER.with_changes({"refinement": "none"}), vocabulary).labels
    )


def test_pamr_refines_the_named_regions_with_the_recipes_options(mini, scene, vocabulary):
    pamr = Pamr(iterations=3, dilations=(1, 2))
    recipe = BEST.with_changes({"refinement": pamr})
    result = segment(scene.image, mini, recipe, vocabulary)
    labels = [label for label in np.unique(result.coarse) if label]
    regions = np.array([result.coarse == label for label in labels])
    assert np.array_equal(result.labels, paint(pamr.refine(scene.image, regions), labels))


def test_what_was_perceived_once_is_segmented_as_from_the_start(mini, scene, vocabulary, result):
    again = segment_perceived(scene.image, perceive([scene.image], mini, PAPER)[0], mini, PAPER, vocabulary)
    assert (
        np.array_equal(again.labels, result.labels) and again.caption == result.caption and again.seeds == result.seeds
    )


def test_a_list_of_names_works_as_a_vocabulary(mini, scene):
    names = ["cat", "hat", "banana"]
    listed, typed = segment(scene.image, mini, PAPER, names), segment(scene.image, mini, PAPER, Vocabulary.of(names))
    assert (
        listed.names == ("background", *names)
        and np.array_equal(listed.labels, typed.labels)
        and listed.texts == tuple(names)
    )


@pytest.mark.parametrize("mode", ["closed", "given"])
def test_a_list_may_have_more_names_than_a_map_has_labels(mini, scene, vocabulary, mode, tmp_path):
    """Eight hundred names beside the scenes' own: every cluster has the name of the text it was given, in a map of bytes."""
    recipe = PAPER.with_changes({"vocabulary": mode})
    long = segment(scene.image, mini, recipe, [*(f"{number} {number}" for number in range(800)), *vocabulary.names[1:]])
    assert long.labels.dtype == np.uint8 and len(long.names) < 255 and set(long.found) == set(long.names[1:])
    given = [long.names[label] for label in long.cluster_labels]
    assert given == [long.texts[text] if text >= 0 else "background" for text in long.assigned]
    assert set(given) >= set(long.found) and long.found
    long.save(tmp_path / "long")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "long.png")), long.labels)


def test_an_open_vocabulary_with_classes_scores_against_both_and_names_by_the_caption_alone(mini, scene, vocabulary):
    result = segment(scene.image, mini, PAPER.with_changes({"vocabulary": "open"}), vocabulary)
    own = list(dict.fromkeys(word.as_open_name for word in result.words))
    assert result.texts[: len(vocabulary) - 1] == vocabulary.names[1:]
    assert set(result.texts) == set(vocabulary.names[1:]) | set(own) - {"background"}
    assert {result.texts[a] for a in result.assigned if a >= 0} <= set(own)


def test_a_given_class_list_lets_a_mask_have_any_class_and_takes_the_number_of_clusters_from_the_caption(
    mini, scene, vocabulary
):
    recipe = PAPER.with_changes({"vocabulary": "given", "clusters": KMeans(count=2, plus_candidates=True)})
    result = segment(scene.image, mini, recipe, vocabulary)
    assert result.texts == vocabulary.names[1:]
    kept = {c.label for c in result.candidates if c.kept}
    assert len(result.masks) == len(kept) + 2
    best = result.scores.argmax(axis=1)  # one cluster a class, so of clusters with the same best class one has it
    assert set(result.assigned[result.assigned >= 0]) >= set(best)


def test_oracle_finds_nothing_but_what_it_is_told(mini, scene, vocabulary):
    recipe = PAPER.with_changes({"vocabulary": "oracle"})
    told = [vocabulary.names.index("pizza")]
    assert segment(scene.image, mini, recipe, vocabulary, present=told).found == ("pizza",)
    assert segment(scene.image, mini, recipe, vocabulary, present=[]).found == ()


def test_a_vocabulary_mode_without_what_it_needs_says_so(mini, scene, vocabulary):
    with pytest.raises(ValueError, match="pass present"):
        segment(scene.image, mini, PAPER.with_changes({"vocabulary": "oracle"}), vocabulary)
    for mode in ("given", "oracle"):
        with pytest.raises(ValueError, match="pass a vocabulary"):
            segment(scene.image, mini, PAPER.with_changes({"vocabulary": mode}))


def test_without_background_no_name_stands_for_it_and_every_pixel_of_a_named_mask_has_a_name(mini, scene, vocabulary):
    bare = Vocabulary(vocabulary.names, vocabulary.synonyms, background=False)
    result = segment(scene.image, mini, BEST.with_changes({"vocabulary": "given"}), bare)
    assert result.texts == vocabulary.names[1:] and (result.labels > 0).all()


def test_every_stage_has_its_seconds(result):
    assert (
        set(result.seconds) == {"caption", "features", "words", "clusters", "names", "refinement"}
        and min(result.seconds.values()) > 0
    )
    assert "seconds" not in result.as_dict()


def test_a_caption_without_words_leaves_background_alone_and_can_be_saved(mini, scene, tmp_path):
    result = segment(
        scene.image, mini, PAPER.with_changes({"caption.min_tokens": 0, "caption.max_tokens": 5})
    )  # the prompt and one word, "a"
    assert result.words == () and result.found == () and not result.labels.any() and result.texts == ()
    assert json.loads(result.save(tmp_path / "empty")[1].read_text())["found"] == []


def test_a_caption_of_one_word_gives_that_words_class_and_one_of_none_gives_background(mini, scene, vocabulary):
    """A closed run with no word finds nothing; with one, whose distance is the mean of itself, always one class."""
    perceived = perceive([scene.image], mini, PAPER)[0]
    for said, kept in (("", 0), ("it is on it", 0), ("a dog", 1), ("a wall", 1)):
        result = segment_perceived(scene.image, replace(perceived, caption=said), mini, PAPER, vocabulary)
        assert len([one for one in result.candidates if one.kept]) == kept
        assert bool(result.labels.any()) == (kept > 0)


# --------------------------------------------------------------------------------------- the same, and any picture


def test_the_same_call_gives_the_same_bytes(mini, scene, vocabulary, result, tmp_path):
    again = segment(scene.image.copy(), mini, PAPER, vocabulary)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert bytes_of(result, tmp_path / "a") == bytes_of(again, tmp_path / "b")


def test_another_seed_draws_other_noise_and_is_recorded(mini, scene, vocabulary, result):
    other = segment(scene.image, mini, PAPER, vocabulary, seed=1)
    assert all(other.seeds[purpose] != result.seeds[purpose] for purpose in ("latent", "noise", "clusters"))
    assert result.seeds == {purpose: image_seed(scene.image, purpose, 0) for purpose in ("latent", "noise", "clusters")}


def test_a_picture_is_segmented_alike_alone_and_in_any_batch(mini, scenes, vocabulary, result):
    images = [scene.image for scene in scenes]
    forwards, backwards = (
        segment_batch(images, mini, PAPER, vocabulary),
        segment_batch(images[::-1], mini, PAPER, vocabulary)[::-1],
    )
    for one, other in zip(forwards, backwards):
        assert one.caption == other.caption and one.seeds == other.seeds and np.array_equal(one.labels, other.labels)
    assert forwards[1].caption == result.caption and np.array_equal(forwards[1].labels, result.labels)


def test_a_picture_that_is_not_square_keeps_its_size_in_a_batch_of_others(mini, scenes, vocabulary):
    tall = np.ascontiguousarray(scenes[0].image[:, 40:121])
    for result, shape in zip(segment_batch([scenes[1].image, tall], mini, PAPER, vocabulary), [(192, 192), (192, 81)]):
        assert result.labels.shape == shape and result.masks.shape[1:] == shape and result.clusters.shape == (32, 32)


def test_a_mirrored_view_is_segmented_as_its_copy(mini, scene):
    view = scene.image[:, ::-1]
    assert np.array_equal(segment(view, mini, PAPER, ["cat"]).labels, segment(view.copy(), mini, PAPER, ["cat"]).labels)


def test_a_real_photograph_goes_through(mini, voc_root):
    dataset = open_dataset("voc12", voc_root)
    image = dataset.image(0)
    result = segment(image, mini, PAPER, dataset.vocabulary)
    assert result.labels.shape == image.shape[:2] and result.names == dataset.vocabulary.names


@pytest.mark.parametrize(
    "image, what",
    [
        (np.zeros((8, 8, 3)), r"float64 of shape \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 of shape \(8, 8, 4\)"),
    ],
)
def test_what_is_no_rgb_array_is_refused_with_what_it_is_and_what_to_pass(mini, image, what):
    with pytest.raises(ValueError, match=f"a picture is {what}: pass RGB as a .height, width, 3. array of uint8"):
        segment_batch([np.zeros((8, 8, 3), np.uint8), image], mini, PAPER)


def test_a_path_and_a_pil_image_are_segmented_as_their_pixels(mini, scene, vocabulary, result, tmp_path):
    picture = Image.fromarray(scene.image)
    picture.save(tmp_path / "scene.png")
    for form in (tmp_path / "scene.png", str(tmp_path / "scene.png"), picture, picture.convert("RGBA")):
        assert np.array_equal(segment(form, mini, PAPER, vocabulary).labels, result.labels)


def test_a_file_is_turned_upright(scene, tmp_path):
    lying = Image.fromarray(scene.image[:100])
    exif = lying.getexif()
    exif[274] = 6  # turn by a quarter, clockwise
    lying.save(tmp_path / "lying.png", exif=exif)
    assert np.array_equal(as_array(tmp_path / "lying.png"), np.rot90(scene.image[:100], -1))


def test_what_is_no_picture_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FileNotFoundError, match="no file 'cat.jpg': give the path"):
        as_array("cat.jpg")
    with pytest.raises(ValueError, match="text.png' is no picture that can be read"):
        as_array(tmp_path / "text.png")
    with pytest.raises(ValueError, match="not int: pass one of these"):
        as_array(3)


# ------------------------------------------------------------------------------------------------ saved results


def test_a_saved_result_reads_back(result, tmp_path):
    picture, table = result.save(tmp_path / "new folder" / "2008_000533")
    assert (picture.name, table.name) == ("2008_000533.png", "2008_000533.json")
    mask = Image.open(picture)
    assert (
        mask.mode == "P" and bytes(mask.getpalette()) == palette() and np.array_equal(np.asarray(mask), result.labels)
    )
    content = json.loads(table.read_text())
    assert Recipe.model_validate_json(json.dumps(content["recipe"])) == PAPER and content["models"] == result.models
    assert (
        content["caption"] == result.caption
        and content["seeds"] == result.seeds
        and content["names"] == list(result.names)
    )
    assert np.array_equal(content["clusters"], result.clusters) and np.allclose(content["scores"], result.scores)
    assert content["taps"] == list(result.taps) and math.isclose(content["silhouette"], result.silhouette)
    assert [word["text"] for word in content["words"]] == [word.text for word in result.words]
    assert [c["name"] for c in content["candidates"]] == [result.names[c.label] for c in result.candidates]


def test_a_saved_result_tells_each_segments_name_and_score(result):
    content = result.as_dict()
    assert [part["cluster"] for part in content["segments"]] == [0, 1, 2, 3]
    for part, text, row in zip(content["segments"], result.assigned, result.scores):
        assert part["name"] == ("background" if text < 0 else result.texts[text])
        assert text < 0 or part["score"] == pytest.approx(row[text])


def test_a_name_with_a_dot_keeps_it(result, tmp_path):
    assert result.save(tmp_path / "v1.5")[0].name == "v1.5.png"


def test_the_normalised_cut_finds_the_number_of_clusters(mini, scene, vocabulary):
    counts = [
        len(
            segment(
                scene.image,
                mini,
                PAPER.with_changes({"clusters": NormalisedCut(threshold=threshold), "refinement": "none"}),
                vocabulary,
            ).masks
        )
        for threshold in (0.2, 0.8, 0.9)
    ]
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_dense_scores_are_those_of_the_patches_under_each_mask(mini, scene, vocabulary):
    result = segment(scene.image, mini, PAPER.with_changes({"view": "dense", "refinement": "none"}), vocabulary)
    pooled = pooled_patches(mini.clip.encode_patches([scene.image])[0], result.masks)
    assert np.allclose(score_vectors(pooled, vocabulary.names[1:], mini.clip), result.scores, atol=1e-5)
