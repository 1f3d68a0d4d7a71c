"""Features of other models: what they hold by hand and by the models' own calls, alone as in a batch, and in a recipe."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fsdlib.backbones import Colours, NetworkMaps, captioner_patches, clip_patches, mean_colours, network_maps
from fsdlib.features import Features, latents
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import ModelSet, untrained_backbone
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


@pytest.fixture(scope="module")
def network():
    return untrained_backbone("efficientnet-lite0")


def test_a_recipe_takes_a_networks_maps_and_a_picture_is_read_alone_as_in_a_batch(mini, scenes, vocabulary, network):
    models = replace(mini, backbone=network)
    recipe = PAPER.with_changes({"features": "network", "features.layer": -2})
    images = [scenes[0].image, scenes[1].image[:100]]
    first, second = segment_batch(images, models, recipe, vocabulary)
    (alone,) = segment_batch(images[1:], models, recipe, vocabulary)
    assert np.array_equal(alone.clusters, second.clusters) and len(np.unique(first.clusters)) == 4
    assert list(first.taps) == ["blocks.4 (112 channels, stride 16)"]


def test_a_networks_map_is_what_its_layers_give_one_after_another(scene, network):
    """By the modules' own calls, from pixels that are scaled by hand."""
    squashed = np.asarray(Image.fromarray(scene.image).resize((224, 224), Image.Resampling.BICUBIC), np.float64)
    model = network.model
    with torch.no_grad():
        x = torch.from_numpy((squashed / 255 - 0.5) / 0.5).float().permute(2, 0, 1)[None]
        x = model.blocks[:5](model.bn1(model.conv_stem(x)))
    found = network_maps([scene.image], network, layer=3)
    assert found.shape == (1, 112, 14, 14) and np.allclose(found, x.numpy(), atol=1e-3)


def test_a_transformers_map_is_of_its_patches_after_the_last_normalisation(scene):
    network = untrained_backbone("dino")
    found = network_maps([scene.image], network, side=112)
    with torch.no_grad():
        squashed = np.asarray(Image.fromarray(scene.image).resize((112, 112), Image.Resampling.BICUBIC), np.float32)
        scaled = (squashed / 255 - np.float32(network.mean)) / np.float32(network.deviation)
        tokens = network.model.forward_features(torch.from_numpy(scaled).permute(2, 0, 1)[None])
    assert network.places[-1] == "blocks.11 (384 channels, stride 16)"
    assert np.allclose(found[0].reshape(384, -1).T, tokens[0, 1:].numpy(), atol=1e-4)


def test_a_side_that_patches_do_not_fill_and_a_layer_that_is_not_there_are_refused(scene, network):
    with pytest.raises(ValueError, match="VisionTransformer has patches of 16 pixels, .* side of 225"):
        network_maps([scene.image], untrained_backbone("dino"), side=225)
    for layer in (5, -6):
        with pytest.raises(ValueError, match=f"layer {layer} .* 5 places: give -5 to 4"):
            network_maps([scene.image], network, layer)


def test_twice_the_side_is_twice_the_positions(scene, network):
    assert NetworkMaps(side=448).read([scene.image], _only(network))[1][0].shape == (1, 320, 14, 14)


def _only(network):
    return SimpleNamespace(backbone=network)


def test_models_without_a_backbone_are_told_how_to_get_one(mini, scene):
    with pytest.raises(
        ValueError, match="these models have no backbone to read: load them with backbone= one of scenes-mae, eff"
    ):
        NetworkMaps().read([scene.image], mini)


@pytest.mark.parametrize(
    "kind, name",
    [
        ("clip", "image tower, last layer (144 channels, stride 8)"),
        ("captioner", "vision tower, last layer (144 channels, stride 8)"),
        ("latents", "latent (4 channels, stride 4)"),
    ],
)
def test_a_place_is_named_with_its_channels_and_stride(mini, scene, kind, name):
    assert Features.model_validate(kind).read([scene.image], mini)[0] == [name]


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


def test_a_run_knows_which_backbone_it_read():
    recipe = PAPER.with_changes({"features": {"kind": "network"}})
    with_twin, without = (
        FreeSegDiff(ModelSet("mini", "cpu", backbone=name), recipe).configuration()["identity"]
        for name in ("scenes-mae-untrained", None)
    )
    assert with_twin == without | dict(backbone=with_twin["backbone"])
    assert with_twin["backbone"]["revision"] == "untrained, seed 0"


def test_a_run_knows_the_code_of_a_backbone(mini):
    plain, other = (
        FreeSegDiff(mini, PAPER.with_changes({"features": kind})).configuration() for kind in ("unet", "clip")
    )
    assert plain["code"] == FreeSegDiff(mini, PAPER).configuration()["code"] != other["code"]
