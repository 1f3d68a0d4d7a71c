import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fsdlib.clusters import KMeans, silhouette
from fsdlib.features import (
    AttentionMaps,
    Layer,
    Tap,
    UNetFeatures,
    anatomy,
    cross_attention_maps,
    decode,
    features,
    find_taps,
    image_seed,
    latents,
    noised,
    self_attention_maps,
    similarity_map,
    spanned,
    stack,
)
from fsdlib.models import Diffusion, load_autoencoder, load_diffusion
from fsdlib.project import MINI, ROOT

SD14 = ROOT / "data" / "rehearsal" / "CompVis--stable-diffusion-v1-4"
# What differs from SD-1.4 in the UNet configurations of these two, as their repositories have them; of SSD-1B the depths
# of the transformers, which it pruned block by block.
SD21 = dict(
    sample_size=96,
    attention_head_dim=[5, 10, 20, 20],
    cross_attention_dim=1024,
    use_linear_projection=True,
    upcast_attention=True,
)
SSD1B = dict(
    sample_size=128,
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    use_linear_projection=True,
    block_out_channels=[320, 640, 1280],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    mid_block_type="UNetMidBlock2D",
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block=[1, [2, 2], [4, 4]],
    reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1],
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


@pytest.fixture(scope="module")
def four_levels(mini):
    """A diffusion model whose UNet is SD-1.4's made small, with random weights, and whose text encoder is the embedded one."""
    configuration = json.loads((SD14 / "unet" / "config.json").read_text())
    small = dict(
        sample_size=16,
        block_out_channels=[16, 32, 64, 64],
        norm_num_groups=8,
        cross_attention_dim=mini.diffusion.unet.config.cross_attention_dim,
    )
    torch.manual_seed(0)
    return replace(mini.diffusion, unet=UNet2DConditionModel.from_config(configuration | small).eval())


def published(**changes):
    """A diffusion model with SD-1.4's UNet, changed, on the meta device, where weights take no memory."""
    configuration = json.loads((SD14 / "unet" / "config.json").read_text()) | changes
    with torch.device("meta"):
        return Diffusion(UNet2DConditionModel.from_config(configuration), None, [], [], None)


# ---------------------------------------------------------------------------------------------------- which taps


def test_sd14_is_tapped_at_the_five_queries_of_its_16x16_blocks_in_order():
    diffusion = published()
    taps = find_taps(diffusion)
    assert taps == [
        Tap("down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_q", 16),
        Tap("down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_q", 16),
        Tap("up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q", 16),
        Tap("up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q", 16),
        Tap("up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_q", 16),
    ]
    assert [diffusion.unet.get_submodule(tap.module).out_features for tap in taps] == [8 * 160] * 5


def test_sd14s_larger_maps_can_be_tapped():
    assert {tap.module.split(".attentions")[0] for tap in find_taps(published(), grid=32)} == {
        "down_blocks.1",
        "up_blocks.2",
    }
    assert {tap.module.split(".attentions")[0] for tap in find_taps(published(), grid=64)} == {
        "down_blocks.0",
        "up_blocks.3",
    }


def test_the_last_blocks_of_encoder_and_decoder_are_one_tap_each():
    assert find_taps(published(), "self_attention_output", "encoder_last") == [
        Tap("down_blocks.2.attentions.1.transformer_blocks.0.attn1", 16)
    ]
    assert find_taps(published(), blocks="decoder_last") == [
        Tap("up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_q", 16)
    ]


def test_sd21_has_no_16x16_block_and_is_tapped_at_24x24():
    taps = find_taps(published(**SD21))
    assert len(taps) == 5 and {tap.grid for tap in taps} == {24}
    assert taps[0].module.startswith("down_blocks.2") and taps[-1].module.startswith("up_blocks.1")


def test_ssd1b_is_tapped_at_32x32_in_the_last_transformer_of_each_block():
    assert find_taps(published(**SSD1B), "self_attention_output") == [
        Tap("down_blocks.2.attentions.0.transformer_blocks.3.attn1", 32),
        Tap("down_blocks.2.attentions.1.transformer_blocks.3.attn1", 32),
        Tap("up_blocks.0.attentions.0.transformer_blocks.3.attn1", 32),
        Tap("up_blocks.0.attentions.1.transformer_blocks.3.attn1", 32),
        Tap("up_blocks.0.attentions.2.transformer_blocks.9.attn1", 32),
    ]


def test_of_two_equally_near_resolutions_the_coarser_is_tapped():
    kinds = [
        "CrossAttnDownBlock2D",
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ]  # attention at 32 and 8 cells
    mirrored = ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"]
    taps = find_taps(published(sample_size=32, down_block_types=kinds, up_block_types=mirrored))
    assert {(tap.module.split(".attentions")[0], tap.grid) for tap in taps} == {
        ("down_blocks.2", 8),
        ("up_blocks.1", 8),
    }


def test_the_embedded_model_has_taps_of_every_kind_that_hold_what_they_say(mini, scene):
    latent = latents([scene.image], mini.diffusion)
    for kind in ("cross_attention_query", "self_attention_output", "self_attention_query"):
        for blocks in ("all", "encoder_last", "decoder_last"):
            taps = find_taps(mini.diffusion, kind, blocks)
            maps = features(latent, mini.diffusion, taps, [0])
            assert (
                taps
                and [a.shape[2:] for a in maps] == [(tap.grid, tap.grid) for tap in taps]
                and all(np.isfinite(a).all() for a in maps)
            )


@pytest.mark.parametrize("wrong", [dict(kind="keys"), dict(blocks="middle")])
def test_taps_of_an_unknown_kind_are_refused_with_those_there_are(mini, wrong):
    with pytest.raises(
        ValueError,
        match="cross_attention_query, self_attention_output, self_attention_query; blocks are all, encoder_last, decoder_last",
    ):
        find_taps(mini.diffusion, **wrong)


def test_every_resolution_can_be_tapped_at_once():
    taps = find_taps(published(), grid=None)
    assert [tap.grid for tap in taps] == [64] * 2 + [32] * 2 + [16] * 2 + [16] * 3 + [32] * 3 + [64] * 3
    assert set(find_taps(published())) < set(taps)


# ------------------------------------------------------------------------------------------------------- anatomy


def test_the_embedded_models_anatomy_is_what_a_forward_pass_meets(mini, scene):
    unet, met = mini.diffusion.unet, []
    layers = anatomy(mini.diffusion.unet.config)
    hooks = [
        unet.get_submodule(layer.module).register_forward_hook(
            lambda _, __, out, name=layer.module: met.append(
                (name, tuple((out if torch.is_tensor(out) else out[0]).shape))
            )
        )
        for layer in layers
    ]
    features(latents([scene.image], mini.diffusion), mini.diffusion, find_taps(mini.diffusion), [0], to_the_end=True)
    for hook in hooks:
        hook.remove()
    assert met == [(layer.module, (1, layer.channels, layer.grid, layer.grid)) for layer in layers]
    assert hooks_of(unet) == 0
    side, widths = unet.config.sample_size, unet.config.block_out_channels
    assert layers[0] == Layer("conv_in", "convolution", widths[0], side) and layers[-1] == Layer(
        "conv_out", "convolution", 4, side
    )
    assert len({layer.grid for layer in layers}) == len(widths)


def test_a_four_level_unets_anatomy_is_sd14s(four_levels):
    """A small one with weights and SD-1.4 itself, as shapes: the same layers at other sizes."""
    small, large = anatomy(four_levels.unet.config), anatomy(json.loads((SD14 / "unet" / "config.json").read_text()))
    assert [(layer.module, layer.kind) for layer in small] == [(layer.module, layer.kind) for layer in large]
    assert [layer.channels for layer in small] == [layer.channels // 20 if layer.channels > 4 else 4 for layer in large]
    assert [layer.grid * 4 for layer in small] == [layer.grid for layer in large]
    count = {
        kind: sum(layer.kind == kind for layer in large)
        for kind in ("residual", "attention", "downsampling", "upsampling", "convolution")
    }
    assert count == dict(residual=8 + 2 + 12, attention=6 + 1 + 9, downsampling=3, upsampling=3, convolution=2)
    rows = dict.fromkeys(
        (layer.block, layer.grid, layer.channels) for layer in large if layer.kind in ("residual", "attention")
    )
    assert list(rows) == [
        ("down_blocks.0", 64, 320),
        ("down_blocks.1", 32, 640),
        ("down_blocks.2", 16, 1280),
        ("down_blocks.3", 8, 1280),
        ("mid_block", 8, 1280),
        ("up_blocks.0", 8, 1280),
        ("up_blocks.1", 16, 1280),
        ("up_blocks.2", 32, 640),
        ("up_blocks.3", 64, 320),
    ]


def test_ssd1b_has_an_anatomy_too():
    layers = anatomy(published(**SSD1B).unet.config)
    assert {tap.module.split(".transformer_blocks")[0] for tap in find_taps(published(**SSD1B), grid=None)} == {
        layer.module for layer in layers if layer.kind == "attention"
    }


# ------------------------------------------------------------------------------------------------------- latents


def test_a_latent_is_drawn_from_the_autoencoders_posterior_and_scaled(mini, scenes):
    diffusion = mini.diffusion
    whole = AutoencoderKL.from_pretrained(MINI / "stable-diffusion", subfolder="vae", torch_dtype=torch.float32).eval()
    images = [scene.image for scene in scenes]
    pixels = np.stack(
        [np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)) for image in images]
    )
    with torch.no_grad():
        posterior = whole.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    drawn = latents(images, diffusion) / whole.config.scaling_factor
    normal = (drawn - posterior.mean.numpy()) / posterior.std.numpy()
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05  # 3,072 numbers
    assert (latents(images, diffusion, seed=1) != latents(images, diffusion)).mean() > 0.99


def test_pictures_are_squashed_whatever_their_sides(mini, scene):
    wide = np.ascontiguousarray(scene.image[:100])
    assert latents([scene.image, wide], mini.diffusion).shape == (2, 4, 16, 16)


def test_a_latent_decodes_to_its_picture(mini, scene):
    small = np.asarray(Image.fromarray(scene.image).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    (back,) = decode(latents([scene.image], mini.diffusion), load_autoencoder("mini", device="cpu"))
    assert back.shape == small.shape and back.dtype == np.uint8
    assert np.abs(back - small).mean() < 0.5 * np.abs(small - small.mean()).mean()


def test_the_order_of_pictures_changes_nothing(mini, scenes):
    images = [scene.image for scene in scenes]
    assert np.allclose(latents(images[::-1], mini.diffusion)[::-1], latents(images, mini.diffusion), atol=1e-5)


def test_a_pictures_seed_depends_on_its_pixels_its_purpose_and_the_runs_seed(scene):
    other = scene.image.copy()
    other[0, 0, 0] ^= 1
    seeds = [
        image_seed(scene.image, "noise"),
        image_seed(scene.image, "latent"),
        image_seed(scene.image, "noise", 1),
        image_seed(other, "noise"),
    ]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**32 for seed in seeds)
    assert image_seed(scene.image[:, ::-1], "noise") == image_seed(np.ascontiguousarray(scene.image[:, ::-1]), "noise")


# ------------------------------------------------------------------------------------------------------ features


@pytest.fixture(scope="module")
def encoded(mini, scenes):
    return latents([scene.image for scene in scenes], mini.diffusion), find_taps(mini.diffusion)


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


def test_noise_is_added_as_the_schedule_says(mini, encoded):
    latent, kept = encoded[0][:2], mini.diffusion.scheduler.alphas_cumprod.numpy()
    noise = np.stack(
        [torch.randn(latent[0].shape, generator=torch.Generator().manual_seed(seed)).numpy() for seed in (3, 4)]
    )
    for timestep in (0, 300, 999):
        expected = kept[timestep] ** 0.5 * latent + (1 - kept[timestep]) ** 0.5 * noise
        assert np.allclose(noised(latent, mini.diffusion, [3, 4], timestep), expected, atol=1e-6)


@pytest.mark.parametrize("blocks", ["all", "encoder_last", "decoder_last"])
def test_leaving_the_unet_early_gives_the_very_same_features(mini, encoded, blocks):
    latent, taps = encoded[0], find_taps(mini.diffusion, "self_attention_output", blocks)
    assert same(
        features(latent, mini.diffusion, taps, [1, 2, 3]),
        features(latent, mini.diffusion, taps, [1, 2, 3], to_the_end=True),
    )


def test_the_unet_is_left_at_the_last_tap(mini, encoded):
    latent, taps = encoded[0], find_taps(mini.diffusion, blocks="encoder_last")
    reached = []
    hooks = [
        getattr(mini.diffusion.unet, name).register_forward_hook(lambda *_, name=name: reached.append(name))
        for name in ("conv_in", "mid_block", "conv_out")
    ]
    features(latent, mini.diffusion, taps, [1, 2, 3])
    features(latent, mini.diffusion, taps, [1, 2, 3], to_the_end=True)
    for hook in hooks:
        hook.remove()
    assert reached == ["conv_in", "conv_in", "mid_block", "conv_out"]


def test_features_are_those_of_a_noised_latent_under_the_prompt(mini, encoded):
    """The same through diffusers alone, with the first tap's input times its weights."""
    latent, taps = encoded
    diffusion, seen = mini.diffusion, {}
    noise = torch.randn(latent[0].shape, generator=torch.Generator().manual_seed(7))[None]
    scheduler = PNDMScheduler.from_pretrained(MINI / "stable-diffusion", subfolder="scheduler")
    noised = scheduler.add_noise(torch.from_numpy(latent[:1]), noise, torch.tensor([300]))
    layer = diffusion.unet.get_submodule(taps[0].module)
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.update(q=inputs[0] @ layer.weight.T))
    with torch.no_grad():
        diffusion.unet(noised, 300, encoder_hidden_states=torch.from_numpy(diffusion.encode_text(["a cat"])))
    hook.remove()
    (ours, *_) = features(latent[:1], diffusion, taps, [7], timestep=300, prompt="a cat")
    cells = ours[0].reshape(len(ours[0]), -1).T  # row by row
    assert np.allclose(cells, seen["q"][0].numpy(), atol=1e-4)


def test_batching_changes_nothing(mini, encoded):
    latent, taps = encoded
    together = features(latent, mini.diffusion, taps, [1, 2, 3], timestep=50)
    for i in range(3):
        alone = features(latent[i : i + 1], mini.diffusion, taps, [i + 1], timestep=50)
        assert all(np.allclose(a[i], b[0], atol=1e-4) for a, b in zip(together, alone))


def test_timestep_noise_and_prompt_are_what_they_say(mini, encoded):
    latent, taps = encoded
    base = features(latent, mini.diffusion, taps, [1, 2, 3], timestep=300)
    assert same(base, features(latent, mini.diffusion, taps, [1, 2, 3], timestep=300))
    for change in (dict(timestep=200), dict(seeds=[4, 2, 3]), dict(prompt="a cat")):
        changed = features(latent, mini.diffusion, taps, **(dict(seeds=[1, 2, 3], timestep=300) | change))
        assert not same(base, changed)
        if "seeds" in change:
            assert np.allclose(base[0][1:], changed[0][1:], atol=1e-5)  # the other pictures keep their noise


def test_several_noises_are_averaged(mini, encoded):
    latent, taps = encoded
    singles = [features(latent, mini.diffusion, taps, [seed] * 3, timestep=300) for seed in (5, 6, 7)]
    averaged = features(latent, mini.diffusion, taps, [5] * 3, timestep=300, noise_samples=3)
    assert all(np.allclose(a, np.mean(b, axis=0), atol=1e-5) for a, b in zip(averaged, zip(*singles)))


def hooks_of(unet):
    return sum(len(module._forward_hooks) for module in unet.modules())


def test_no_hook_is_left_behind_even_after_an_error(mini, encoded):
    latent, taps = encoded
    features(latent, mini.diffusion, taps, [1, 2, 3])
    assert hooks_of(mini.diffusion.unet) == 0
    with pytest.raises(RuntimeError):
        features(latent[:, :3], mini.diffusion, taps, [1, 2, 3])  # a channel is missing: the UNet itself fails
    assert hooks_of(mini.diffusion.unet) == 0


# ------------------------------------------------------------------------------- cross-attention and similarity


class Recorder(AttnProcessor):
    """diffusers' own attention, which remembers its probabilities."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        query, key = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)))
        self.probabilities = attn.get_attention_scores(query, key)
        return super().__call__(attn, hidden_states, encoder_hidden_states, **kwargs)


@pytest.mark.parametrize("which", ["mini", "four_levels"])
def test_cross_attention_maps_are_the_probabilities_that_diffusers_computes(which, mini, four_levels, encoded):
    diffusion, latent, prompt = mini.diffusion if which == "mini" else four_levels, encoded[0][:2], "a dog and a pizza"
    unet, before = diffusion.unet, diffusion.unet.attn_processors
    taps = find_taps(diffusion, grid=None)
    recorders = {name: Recorder() if "attn2" in name else AttnProcessor() for name in before}
    unet.set_attn_processor(dict(recorders))
    with torch.no_grad():
        unet(torch.from_numpy(noised(latent, diffusion, [1, 2], 100)), 100, **diffusion.condition(prompt, 2))
    unet.set_attn_processor(before)
    for tap, queries in zip(taps, features(latent, diffusion, taps, [1, 2], timestep=100, prompt=prompt)):
        theirs = recorders[tap.module.replace("to_q", "processor")].probabilities  # image and head, position, token
        theirs = theirs.unflatten(0, (2, -1)).mean(dim=1).transpose(1, 2).unflatten(2, (tap.grid, tap.grid)).numpy()
        ours = cross_attention_maps(queries, tap, diffusion, prompt)
        assert ours.shape == theirs.shape == (2, diffusion.tokenizers[0].model_max_length, tap.grid, tap.grid)
        assert np.allclose(ours, theirs, atol=1e-5) and np.allclose(ours.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("which", ["mini", "four_levels"])
def test_self_attention_maps_are_what_the_block_itself_mixes_its_values_by(which, mini, four_levels, encoded):
    """Values mixed by head give the block's own output; the mean over heads is what diffusers' probabilities have."""
    diffusion, latent = mini.diffusion if which == "mini" else four_levels, encoded[0][:2]
    unet, before = diffusion.unet, diffusion.unet.attn_processors
    taps = find_taps(diffusion, "self_attention_query", grid=None)

    class OfSelf(AttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
            query, key = (attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(hidden_states)))
            self.probabilities = attn.get_attention_scores(query, key)
            return super().__call__(attn, hidden_states, encoder_hidden_states, **kwargs)

    recorders = {name: OfSelf() if "attn1" in name else AttnProcessor() for name in before}
    unet.set_attn_processor(dict(recorders))
    with torch.no_grad():
        unet(torch.from_numpy(noised(latent, diffusion, [1, 2], 100)), 100, **diffusion.condition("", 2))
    unet.set_attn_processor(before)
    for tap, ours in zip(taps, self_attention_maps(latent, diffusion, taps, [1, 2], timestep=100)):
        theirs = recorders[tap.module.replace("to_q", "processor")].probabilities  # image and head, from, to
        theirs = theirs.unflatten(0, (2, -1)).mean(dim=1).transpose(1, 2).unflatten(2, (tap.grid, tap.grid)).numpy()
        assert ours.shape == (2, tap.grid**2, tap.grid, tap.grid)
        assert np.allclose(ours, theirs, atol=1e-5) and np.allclose(ours.sum(axis=1), 1, atol=1e-4)


def test_attention_maps_of_several_noises_are_averaged_and_of_other_taps_refused(mini, encoded):
    taps = find_taps(mini.diffusion, "self_attention_query", blocks="decoder_last")
    one, two, both = (
        self_attention_maps(encoded[0][:1], mini.diffusion, taps, [seed], 300, noise_samples=count)[0]
        for seed, count in ((5, 1), (6, 1), (5, 2))
    )
    assert np.allclose((one + two) / 2, both, atol=1e-6)
    with pytest.raises(ValueError, match="no query of self-attention"):
        self_attention_maps(encoded[0][:1], mini.diffusion, find_taps(mini.diffusion), [0])


def test_attention_maps_are_brought_to_one_grid_by_hand():
    """Of 1 x 1 and 2 x 2 positions, to 2 x 2: the one looks everywhere alike and counts a third."""
    alone = np.ones((1, 1, 1), np.float32)
    itself = np.eye(4, dtype=np.float32).reshape(4, 2, 2)
    found = AttentionMaps(grid=2).stacked([alone, itself]).reshape(4, 4)
    assert np.allclose(found, np.eye(4) * 2 / 3 + 1 / 12)
    assert np.allclose(AttentionMaps(grid=1).stacked([itself]), 1)


@pytest.mark.parametrize("grid", [8, 16, 32])
def test_attention_stays_a_distribution_on_any_grid(mini, scene, grid):
    way = AttentionMaps(grid=grid)
    places, maps = way.read([scene.image], mini)
    found = way.stacked([array[0] for array in maps])
    assert found.shape == (grid**2, grid, grid) and len(places) == len(maps) and found.min() >= 0
    assert np.allclose(found.sum(axis=0), 1, atol=1e-4)
    assert len(AttentionMaps(grids=(8,)).read([scene.image], mini)[0]) < len(places)


def test_maps_of_a_tap_that_is_no_query_are_refused(mini):
    with pytest.raises(ValueError, match="attn1 is no query of cross-attention"):
        cross_attention_maps(
            np.zeros((1, 64, 16, 16), np.float32),
            find_taps(mini.diffusion, "self_attention_output")[0],
            mini.diffusion,
            "",
        )


def test_similarity_is_the_cosine_with_one_position():
    array = np.float32([[[3, 0], [6, -3]], [[4, 2], [8, -4]]])  # vectors (3, 4), (0, 2), (6, 8), (-3, -4)
    assert np.allclose(similarity_map(array, 0, 0), [[1, 0.8], [1, -1]])
    assert np.allclose(similarity_map(array, 0, 1), [[0.8, 1], [0.8, -0.8]])


# --------------------------------------------------------------------------------------------------------- stack


def test_maps_are_resized_bilinearly_and_concatenated():
    small, large = np.float32([[[0, 4]], [[8, 8]]]).reshape(2, 1, 2).repeat(2, axis=1), np.ones((3, 4, 4), np.float32)
    stacked = stack([small, large], grid=4)
    assert stacked.shape == (5, 4, 4) and stacked.dtype == np.float32
    assert stacked[0].tolist() == [[0, 1, 3, 4]] * 4 and np.all(stacked[1] == 8) and np.all(stacked[2:] == 1)


def test_normalised_maps_have_unit_length_at_every_position():
    maps = [np.random.default_rng(k).normal(0, 10.0**k, (6, 8, 8)).astype(np.float32) for k in (0, 3)]
    stacked = stack(maps, grid=16, normalise=True)
    assert np.allclose(np.linalg.norm(stacked[:6], axis=0), 1, atol=1e-5) and np.allclose(
        np.linalg.norm(stacked[6:], axis=0), 1, atol=1e-5
    )


# ------------------------------------------------------------------------------------------------- large shapes


@pytest.fixture(scope="module")
def full_size():
    """SD-1.4's UNet in full size with random weights; layers with the same number of inputs share theirs, which saves 3 GB."""
    diffusion = published()
    unet, generator, drawn = diffusion.unet.eval(), torch.Generator().manual_seed(0), {}
    most = {}
    for parameter in unet.parameters():
        inputs = parameter[0].numel()
        most[inputs] = max(parameter.numel(), most.get(inputs, 0))
    for module in unet.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            inputs = parameter[0].numel()
            if parameter.ndim == 1:
                value = torch.full(parameter.shape, float(name == "weight"))
            else:
                if inputs not in drawn:
                    drawn[inputs] = (
                        torch.empty(most[inputs]).uniform_(-1, 1, generator=generator).mul_((3 / inputs) ** 0.5)
                    )
                value = drawn[inputs][: parameter.numel()].view(parameter.shape)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    diffusion.scheduler = DDPMScheduler.from_pretrained(SD14, subfolder="scheduler")
    diffusion._encoded[""] = (
        torch.zeros(77, 768),
        torch.randn(77, 768, generator=torch.Generator().manual_seed(1)),
        None,
    )
    return diffusion


@pytest.mark.slow
def test_sd14_in_full_size_gives_five_maps_of_1280_channels_at_512_pixels(full_size):
    latent = np.random.default_rng(0).standard_normal((1, 4, 64, 64), np.float32)
    maps = features(latent, full_size, find_taps(full_size), [0])
    assert [a.shape for a in maps] == [(1, 1280, 16, 16)] * 5
    assert stack([a[0] for a in maps]).shape == (6400, 32, 32) and all(0.1 < a.std() < 10 for a in maps)


@pytest.mark.slow
def test_sd14_in_full_size_gives_attention_that_is_brought_to_one_grid(full_size):
    latent = np.random.default_rng(0).standard_normal((1, 4, 64, 64), np.float32)
    taps = [tap for tap in find_taps(full_size, "self_attention_query", grid=None) if tap.grid < 64]
    maps = self_attention_maps(latent, full_size, taps, [0], timestep=300)
    assert [a.shape for a in maps] == [(1, tap.grid**2, tap.grid, tap.grid) for tap in taps] and len(taps) == 10
    found = AttentionMaps().stacked([a[0] for a in maps])
    assert found.shape == (1024, 32, 32) and np.allclose(found.sum(axis=0), 1, atol=1e-3)


@pytest.mark.slow
def test_sd14_in_full_size_is_left_early_with_the_very_same_features(full_size):
    latent = np.random.default_rng(0).standard_normal(
        (1, 4, 16, 16), np.float32
    )  # a quarter of the side, for the time it takes
    taps = [Tap(tap.module, 4) for tap in find_taps(full_size)]
    assert same(features(latent, full_size, taps, [0]), features(latent, full_size, taps, [0], to_the_end=True))


@pytest.fixture(scope="module")
def small_sdxl(tmp_path_factory):
    """A diffusion model of SDXL's kind with small numbers, saved as the hub lays it out and loaded from there."""
    folder = tmp_path_factory.mktemp("sdxl")
    torch.manual_seed(0)
    size = len(CLIPTokenizer.from_pretrained(MINI / "stable-diffusion" / "tokenizer"))
    text = dict(intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=32)
    text |= dict(vocab_size=size, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1)
    CLIPTextModel(CLIPTextConfig(hidden_size=32, **text)).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=48, projection_dim=40, **text)).save_pretrained(
        folder / "text_encoder_2"
    )
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=32 + 48,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=40 + 6 * 8,
    ).save_pretrained(folder / "unet")
    for part, kept in (("vae", ()), ("scheduler", ()), ("tokenizer", ("tokenizer_2",))):
        for name in (part, *kept):
            (folder / name).mkdir()
            for file in (MINI / "stable-diffusion" / part).iterdir():
                (folder / name / file.name).write_bytes(file.read_bytes())
    return load_diffusion(folder)


def test_a_model_of_sdxls_kind_is_conditioned_on_both_encoders_and_on_sizes(small_sdxl):
    arguments = small_sdxl.condition("a cat", 2)
    assert arguments["encoder_hidden_states"].shape == (2, 32, 32 + 48)
    added = arguments["added_cond_kwargs"]
    assert added["text_embeds"].shape == (2, 40) and added["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]] * 2
    first, second = small_sdxl.text_encoders
    ids = small_sdxl.tokenizers[0](["a cat"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = [encoder(ids, output_hidden_states=True).hidden_states[-2] for encoder in (first, second)]
        pooled = second(ids).text_embeds
    assert torch.allclose(arguments["encoder_hidden_states"][0], torch.cat(states, dim=-1)[0], atol=1e-6)
    assert torch.allclose(added["text_embeds"][1], pooled[0], atol=1e-6)


def test_a_model_of_sdxls_kind_gives_features(small_sdxl, scenes):
    images = [scene.image for scene in scenes]
    taps = find_taps(small_sdxl)
    maps = features(latents(images, small_sdxl), small_sdxl, taps, [1, 2, 3])
    assert taps[0] == Tap("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_q", 8)
    assert [a.shape for a in maps] == [(3, 64, 8, 8)] * 3
    assert same(maps, features(latents(images, small_sdxl), small_sdxl, taps, [1, 2, 3], to_the_end=True))


def test_words_of_a_model_of_sdxls_kind_are_encoded_by_its_first_encoder(small_sdxl):
    assert small_sdxl.encode_text(["a cat", "a dog"]).shape == (2, 32, 32)


# ------------------------------------------------------------------------------------------------- coordinates


def of_many_channels(sizes=((500, 8), (400, 8), (300, 16))):
    """Maps with more channels than positions, but for the last, whose channels differ in strength as a UNet's do."""
    generator = np.random.default_rng(0)
    return [
        (generator.standard_normal((channels, side, side)) * generator.exponential(5, (channels, 1, 1))).astype(
            np.float32
        )
        for channels, side in sizes
    ]


def test_a_map_has_as_many_coordinates_as_positions():
    many, _, few = of_many_channels()
    assert spanned(many).shape == (64, 8, 8) and spanned(many).dtype == np.float32
    inner = np.tensordot(many, many.astype(np.float64), (0, 0))
    assert np.allclose(np.tensordot(spanned(many), spanned(many), (0, 0)), inner, atol=1e-5 * inner.max())
    assert (
        spanned(few).shape == (256, 16, 16)
        and spanned(few[:255]) is not few
        and np.array_equal(spanned(few[:9]), few[:9])
    )


@pytest.mark.parametrize("normalise", [False, True])
def test_clusters_of_coordinates_are_those_of_the_stacked_features(normalise):
    maps = of_many_channels()
    whole, turned = stack(maps, 32, normalise), UNetFeatures(normalise=normalise).stacked(maps)
    assert len(whole) == 1200 and len(turned) == (64 + 64 + 256 if normalise else 64 + 256)
    for seed in range(3):
        assert np.array_equal(KMeans(count=5).group(whole, seed), KMeans(count=5).group(turned, seed))
    assert silhouette(turned, KMeans().group(whole)) == pytest.approx(
        silhouette(whole, KMeans().group(whole)), abs=1e-6
    )
