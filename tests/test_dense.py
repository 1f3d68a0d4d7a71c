"""Views that read names off a whole picture: CLIP's own last layer out of its parts, peers' by hand, attention to a name."""

import numpy as np
import open_clip
import pytest
import torch

from fsdlib.clusters import Cells, masks
from fsdlib.dense import (
    CrossAttention,
    Neighbours,
    SelfCorrelation,
    ValuePath,
    last_layer_patches,
    name_attention,
    softmax_of,
)
from fsdlib.features import cross_attention_maps, features, find_taps, image_seed, latents
from fsdlib.models import Clip
from fsdlib.names import View
from fsdlib.pipeline import segment
from fsdlib.recipe import PEERS

WAYS = [ValuePath(), SelfCorrelation(), Neighbours()]


def own(query, key, value, grid):
    return softmax_of(query, key) @ value


def test_with_its_own_attention_the_last_layer_is_the_towers(mini, scenes):
    images = [scenes[0].image, scenes[1].image[:100]]
    found = last_layer_patches(images, mini.clip, own)
    assert np.allclose(found, mini.clip.encode_patches(images), atol=1e-4)
    assert not np.allclose(found, last_layer_patches(images, mini.clip, own, whole=False), atol=1e-2)


def test_no_patch_looks_at_another_on_the_value_path():
    value = torch.randn(1, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert ValuePath().attend(value + 1, value + 2, value, (2, 2)) is value


def test_patches_of_like_queries_and_keys_are_looked_at():
    alike = torch.tensor([[[[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]]])  # the first and the third token are alike
    value = torch.tensor([[[[1.0], [0.0], [0.0]]]])
    found = SelfCorrelation().attend(alike, alike, value, (1, 2)).ravel()
    assert np.allclose(found, [1, 0, 1], atol=1e-3)  # a half by queries and a half by keys


def test_near_patches_are_looked_at_more():
    key = torch.zeros(1, 1, 4, 2)  # a class token and 1 x 3 patches, all alike
    found = Neighbours(deviation=1.0).attend(key, key, torch.eye(4)[None, None], (1, 3))[0, 0].numpy()
    near = np.exp([[0, 0, 0, 0], [0, 1, np.exp(-0.5), np.exp(-2)], [0, np.exp(-0.5), 1, np.exp(-0.5)]])
    assert np.allclose(found[:3], near / near.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.kind)
def test_masks_are_scored_alone_as_together(mini, scene, vocabulary, way):
    cells = masks(Cells().group(np.zeros((1, 4, 4))), *scene.labels.shape)
    found = way.score(scene.image, cells, vocabulary.names[1:], mini)
    assert found.shape == (16, len(vocabulary.names) - 1) and np.allclose(found.sum(axis=1), 1, atol=1e-4)
    assert np.allclose(way.score(scene.image, cells[5:6], vocabulary.names[1:], mini), found[5:6], atol=1e-5)
    assert type(View.model_validate(way.kind)) is type(way)


def test_another_image_tower_is_refused_in_one_sentence(mini, scene):
    class Other:
        model = torch.nn.Module()

    Other.model.visual = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity, has no values of patches: take a CLIP"):
        last_layer_patches([scene.image], Other, own)


# ----------------------------------------------------------------------------------------------- attention to a name


def test_attention_to_a_name_is_that_of_its_tokens(mini, scene):
    diffusion, prompt = mini.diffusion, "a photo of a hot dog."
    ids = diffusion.tokenizers[0](prompt).input_ids
    name = diffusion.tokenizers[0]("hot dog").input_ids[1:-1]
    (first,) = [i for i in range(len(ids)) if ids[i : i + len(name)] == name]
    taps = find_taps(diffusion)
    seeds = [image_seed(scene.image, "noise")]
    queries = features(latents([scene.image], diffusion), diffusion, taps, seeds, 100, prompt)
    maps = [cross_attention_maps(array, tap, diffusion, prompt)[0] for array, tap in zip(queries, taps)]
    expected = np.mean(maps, axis=0)[first : first + len(name)].mean(axis=0)
    assert np.allclose(name_attention(scene.image, prompt, "hot dog", diffusion), expected, atol=1e-6)


@pytest.mark.parametrize("prompt", ["a photo of a cat", "thing " * 100 + "dog"])
def test_a_name_that_is_not_read_is_refused(mini, scene, prompt):
    with pytest.raises(ValueError, match="'dog' is not in what is read"):
        name_attention(scene.image, prompt, "dog", mini.diffusion)


def test_names_that_may_not_be_given_have_no_attention_and_others_reach_from_nought_to_one(mini, scene):
    cells = masks(Cells().group(np.zeros((1, 32, 32))), *scene.labels.shape)
    found = CrossAttention().score(scene.image, cells, ["dog", "pizza", "cat"], mini, eligible=(0, 1))
    assert found.shape == (1024, 3) and not found[:, 2].any()
    assert np.allclose(found.min(axis=0), 0) and np.allclose(found[:, :2].max(axis=0), 1)
    assert CrossAttention().score(scene.image, cells, [], mini).shape == (1024, 0)


# ------------------------------------------------------------------------------------------------------------- peers


@pytest.mark.parametrize("recipe", PEERS.values(), ids=PEERS)
def test_a_peer_segments_a_scene_and_the_same_again(mini, scene, vocabulary, recipe):
    first, again = (segment(scene.image, mini, recipe, vocabulary) for _ in range(2))
    assert first.labels.shape == scene.labels.shape and np.array_equal(first.labels, again.labels)
    assert first.as_dict()["recipe"]["name"] == recipe.name and first.masks.any(axis=0).all()


def test_the_value_path_is_maskclips_arithmetic(mini, scene):
    """The last layer's values through the output projection, added to what came in, then the feed-forward part."""
    visual = mini.clip.model.visual
    held = {}
    last = visual.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda _, arguments: held.update(tokens=arguments[0]))
    with torch.no_grad():
        visual(mini.clip.squashed([scene.image]))
        hook.remove()
        width = last.attn.embed_dim
        value = (
            last.ln_1(held["tokens"]) @ last.attn.in_proj_weight[2 * width :].T + last.attn.in_proj_bias[2 * width :]
        )
        found = held["tokens"] + last.attn.out_proj(value)
        found = found + last.mlp(last.ln_2(found))
        expected = (visual.ln_post(found)[0, 1:] @ visual.proj).numpy()
    ours = last_layer_patches([scene.image], mini.clip, ValuePath().attend)[0]
    assert np.allclose(ours.reshape(len(expected), -1), expected, atol=1e-4)


@pytest.mark.slow
def test_the_last_layer_of_the_published_clip_in_full_size_is_taken_apart_alike(scene):
    """ViT-B/32 and ViT-B/16 with random weights: with its own attention the last layer gives the tower's patches."""
    for name, side in (("ViT-B-32-quickgelu", 7), ("ViT-B-16", 14)):
        torch.manual_seed(0)
        model = open_clip.create_model(name).eval()
        clip = Clip(
            model, open_clip.image_transform(224, is_train=False), open_clip.get_tokenizer(name), torch.device("cpu")
        )
        found = last_layer_patches([scene.image], clip, own)
        assert found.shape == (1, side, side, 512) and np.allclose(found, clip.encode_patches([scene.image]), atol=1e-3)
