"""Features of other models: what they hold by hand and by the models' own calls, alone as in a batch, and in a recipe."""

import numpy as np
import pytest
import torch
from PIL import Image

from fsdlib.backbones import Colours, captioner_patches, clip_patches, mean_colours
from fsdlib.features import Features, latents
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.pipeline import segment, segment_batch
from fsdlib.recipe import PAPER

KINDS = ["clip", "captioner", "latents", "colours"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_takes_any_and_a_picture_is_read_alone_as_in_a_batch(mini, scenes, vocabulary, kind):
    recipe = PAPER.with_changes({"features": kind})
    images = [scenes[0].image, scenes[1].image[:100]]
    (alone,), (first, second) = (
        segment_batch(images[1:], mini, recipe, vocabulary),
        segment_batch(images, mini, recipe, vocabulary),
    )
    assert first.clusters.shape == (32, 32) and len(np.unique(first.clusters)) == 4 and first.taps
    assert np.array_equal(alone.clusters, second.clusters)
    assert np.array_equal(segment(images[0], mini, recipe, vocabulary).labels, first.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_of_every_picture_and_come_out_on_the_grid(mini, scenes, kind):
    way = Features.model_validate({"kind": kind, "grid": 8})
    names, maps = way.read([scene.image for scene in scenes], mini)
    assert len(names) == len(maps) and all(len(array) == len(scenes) and array.dtype == np.float32 for array in maps)
    assert way.stacked([array[0] for array in maps]).shape[1:] == (8, 8)


def test_patches_are_the_towers_last_layer(mini, scene):
    """Both towers, called as their libraries do, without the class token."""
    with torch.no_grad():
        inputs = mini.captioner.processor(images=Image.fromarray(scene.image), return_tensors="pt")
        states = mini.captioner.model.vision_model(inputs.pixel_values).last_hidden_state[0, 1:]
    found = captioner_patches([scene.image], mini.captioner)[0]
    assert np.array_equal(found.reshape(len(found), -1).T, states.numpy())
    visual = mini.clip.model.visual
    held = {}
    hook = visual.ln_post.register_forward_hook(lambda _, __, output: held.update(tokens=output))
    mini.clip.encode_images([scene.image])
    hook.remove()
    patches = clip_patches([scene.image], mini.clip)[0]
    assert np.allclose(patches.reshape(len(patches), -1).T, held["tokens"][0, 1:].numpy(), atol=1e-5)


def test_colours_by_hand_with_and_without_the_position(mini):
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, 2:] = 255
    assert mean_colours(image, 2).tolist() == [[[0, 1], [0, 0]]] * 3
    way = Colours(grid=2, position=0.5)
    found = way.stacked([array[0] for array in way.read([image], mini)[1]])
    assert found[:3].tolist() == [[[0, 1], [0, 0]]] * 3
    assert found[3:].tolist() == [[[0, 0], [0.5, 0.5]], [[0, 0.5], [0, 0.5]]]


def test_latents_are_those_that_the_unet_would_see(mini, scene):
    way = Features.model_validate("latents")
    assert np.array_equal(way.read([scene.image], mini, seed=3)[1][0], latents([scene.image], mini.diffusion, 3))


def test_a_run_knows_the_code_of_a_backbone(mini):
    plain, other = (
        FreeSegDiff(mini, PAPER.with_changes({"features": kind})).configuration() for kind in ("unet", "clip")
    )
    assert plain["code"] == FreeSegDiff(mini, PAPER).configuration()["code"] != other["code"]
