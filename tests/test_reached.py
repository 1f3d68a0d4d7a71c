"""The measures of the embedded world, on cases worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.project import CLASSES
from fsdlib.vocabulary import Vocabulary, plural
from fsdlib.words import spoken_classes
from fsdlib.world.reached import (
    accuracy,
    as_text,
    caption_scores,
    drawn_again,
    feature_scores,
    losses_under_captions,
    naming_confusion,
    open_words,
    painted_right,
    retrieval,
    samples,
    style_transfer,
)
from fsdlib.world.scenes import close_up, scene_of_split, write_scenes
from fsdlib.world.training import Settings

SCENES = Vocabulary.read(CLASSES / "scenes.csv")


@pytest.mark.parametrize(
    ("sentence", "classes"),
    [
        ("a cat and two dogs on a striped background", {"cat", "dog"}),
        ("a dining table next to a potted plant", {"dining table", "potted plant"}),
        ("three people, two buses with a couch", {"person", "bus", "sofa"}),
        ("two sheep and butterflies in front of a plain wall", {"sheep", "butterfly"}),
        ("a catalogue on a scar", set()),  # no class word stands alone
    ],
)
def test_a_caption_speaks_of_the_classes_whose_words_it_holds(sentence, classes):
    assert spoken_classes(sentence, SCENES) == classes


@pytest.mark.parametrize("number", range(20))
def test_the_worlds_own_captions_speak_of_just_the_objects_in_the_scene(number):
    scene = scene_of_split("val", number)
    assert all(spoken_classes(sentence, SCENES) == set(scene.objects) for sentence in scene.captions)


def test_recall_and_precision_count_over_all_pictures():
    # present 1 + 3, spoken 2 + 1, right 1 + 1
    assert caption_scores(["a cat and a dog", "a cow"], [{"cat"}, {"cow", "bus", "car"}], SCENES) == dict(
        recall=2 / 4, precision=2 / 3
    )


def test_names_are_counted_by_what_the_masks_are(mini, tmp_path):
    dataset = open_dataset("scenes", write_scenes(tmp_path, val=3))
    counts = naming_confusion(dataset, 3, mini.clip)
    present = np.concatenate([np.setdiff1d(dataset.labels(i), (0, 255)) for i in range(3)])
    assert counts.shape == (44, 44) and np.array_equal(counts.sum(axis=1), np.bincount(present - 1, minlength=44))
    assert accuracy(np.array([[3, 1], [0, 4]])) == 7 / 8


def test_retrieval_is_perfect_where_texts_are_the_pictures_own_and_else_chance(mini, tmp_path):
    dataset = open_dataset("scenes", write_scenes(tmp_path, val=4))
    vectors = mini.clip.encode_images([dataset.image(i) for i in range(4)])
    texts = [f"text {i}" for i in range(4)]

    def clip_with(order):
        clip = replace(mini.clip)  # which has encoded nothing yet
        clip._encoded.update({text: torch.from_numpy(vectors[k]) for text, k in zip(texts, order)})
        return clip

    assert retrieval(dataset, texts, clip_with([0, 1, 2, 3])) == dict(caption_at_1=1.0, scene_at_1=1.0)
    assert retrieval(dataset, texts, clip_with([0, 1, 3, 2])) == dict(caption_at_1=0.5, scene_at_1=0.5)


def test_a_word_outside_the_list_counts_only_where_the_object_carries_it(mini, tmp_path, monkeypatch):
    from fsdlib.world import reached

    dataset = open_dataset("scenes", write_scenes(tmp_path, val=6))
    held = [set(np.unique(dataset.labels(i))) - {0, 255} for i in range(6)]
    left_out = {dataset.vocabulary.names[min(labels)] for labels in held[:3]}

    def painted(says):
        def segment_batch(images, models, recipe, vocabulary, seed):
            assert recipe.vocabulary.kind == "open" and not left_out & set(vocabulary.names)
            names = ("background", *dataset.vocabulary.names[1:])
            of_image = {
                dataset.image(i).tobytes(): np.where(dataset.labels(i) == 255, 0, dataset.labels(i)) for i in range(6)
            }
            return [
                SimpleNamespace(labels=of_image[image.tobytes()], names=tuple(map(says, names))) for image in images
            ]

        return segment_batch

    monkeypatch.setattr(reached, "segment_batch", painted(plural))
    found = open_words(dataset, 6, mini, sorted(left_out))
    assert found["named_right"] == 1.0 and found["scenes"] >= 3
    monkeypatch.setattr(reached, "segment_batch", painted(lambda name: "thing"))
    assert open_words(dataset, 6, mini, sorted(left_out))["named_right"] == 0.0


def test_every_kind_of_features_gets_its_score(mini, tmp_path):
    dataset = open_dataset("scenes", write_scenes(tmp_path, val=1))
    found = feature_scores(dataset, 1, mini)
    assert set(found) == {
        "diffusion",
        "self_attention",
        "untrained",
        "rgb",
        "rgb_position",
        "latents",
        "clip",
        "captioner",
    }
    assert all(0 < value <= 1 for value in found.values())


@pytest.mark.slow  # trains
def test_a_style_is_measured_on_both(tmp_path):
    settings = Settings.tiny(
        scenes=16,
        held_out=8,
        vision_steps=2,
        captioner_steps=2,
        clip_steps=2,
        clip_batch=8,
        captioner_batch=4,
        vision_batch=8,
    )
    found = style_transfer("openmoji", settings, tmp_path, count=2)
    assert (
        found["trained_on"] == "openmoji"
        and found["settings"]["styles"] == ["openmoji"]
        and set(found["measured"]) == {"twemoji", "openmoji"}
    )
    pictures = [open_dataset("scenes", tmp_path / style).image(0) for style in ("twemoji", "openmoji")]
    assert not np.array_equal(*pictures) and all(0 <= row["naming"] <= 1 for row in found["measured"].values())


def test_samples_are_pictures_that_depend_on_caption_and_seed_alone(mini):
    first, second = samples(["a cat on a plain background", "a bus on a plain background"], steps=2)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    alone = samples(["a bus on a plain background"], steps=2)[0]
    assert np.abs(alone.astype(int) - second).max() <= 1  # rounding depends on who is in a batch
    assert np.abs(first.astype(int) - second).mean() > 1


def test_the_report_prints_both_protocols_of_each_recipe():
    content = dict(
        scenes=dict(count=200),
        captions=dict(recall=0.5, precision=0.25),
        naming=dict(accuracy=0.75, accuracy_on_crops=0.5),
        features=dict(diffusion=0.125),
        retrieval=dict(caption_at_1=0.5, scene_at_1=0.25),
        open_vocabulary=dict(scenes=10, named_right=0.5),
        attention=dict(pairs=8, right=0.625, chance=0.1),
        losses={f"{told}_{t}": 0.5 + 0.05 * (told == "wrong") for told in ("right", "wrong") for t in (300, 500, 800)},
        painting=dict(pictures=4, named_right=0.75, chance=0.02),
        end_to_end=dict(paper=dict(dataset=0.111, per_image=0.222), best=dict(dataset=0.333, per_image=0.444)),
    )
    lines = [line.split() for line in as_text(content).splitlines()]
    assert (
        ["paper", "0.111", "0.222"] in lines
        and ["best", "0.333", "0.444"] in lines
        and ["mIoU", "dataset", "per_image"] in lines
    )
    said = as_text(content)
    assert "a wrong caption costs 10.0, 10.0, 10.0 % of the loss at t = 300, 500, 800" in said
    assert "0.750 of 4 samples are named as prompted" in said and "0.625 of class words" in said


def test_scenes_are_drawn_again_as_they_were_written(tmp_path):
    dataset = open_dataset("scenes", write_scenes(tmp_path, val=2, seed=5, side=96, styles=("openmoji",)))
    for i, scene in enumerate(drawn_again(dataset, 2)):
        assert np.array_equal(scene.image, dataset.image(i)) and np.array_equal(scene.labels, dataset.labels(i))
        assert list(scene.captions) == list(dataset.captions[dataset.ids[i]])


def test_painted_pictures_count_as_right_where_clip_says_the_prompts_class(mini, monkeypatch):
    """CLIP is asked of real close-ups in the place of painted ones, of which it knows nine in ten, and of pictures of nothing."""
    from fsdlib.world import reached

    real = [close_up(scene_of_split("val", i), np.random.default_rng([0, i])) for i in range(40)]
    shown = {one.captions[0]: one.image for one in real}
    monkeypatch.setattr(reached, "samples", lambda captions, *_, **__: [shown[caption] for caption in captions])
    found = painted_right(mini.clip, SCENES, 20)
    assert found["pictures"] == 20 and found["chance"] == 1 / 44 and found["named_right"] >= 0.8
    monkeypatch.setattr(
        reached, "samples", lambda captions, *_, **__: np.full((len(captions), 64, 64, 3), 128, np.uint8)
    )
    assert painted_right(mini.clip, SCENES, 20)["named_right"] <= 0.2


def test_losses_under_captions_are_those_of_the_models_own_scheduler_and_text_encoder(mini):
    """One scene, its own caption as the wrong one too: right and wrong agree, and t = 800 is harder to foretell than t = 300."""
    found = losses_under_captions(mini.diffusion, [scene_of_split("val", 0)])
    assert found["right_500"] == found["wrong_500"] != found["none_500"]
    assert 0 < found["right_300"] < found["right_800"] < 1.5
