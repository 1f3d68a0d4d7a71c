"""Diffusion transformers as backbones, of both kinds with small random weights: loading, and what is read by the modules' own sums."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from fsdlib.backbones import TransformerMaps, check_backbone
from fsdlib.features import image_seed
from fsdlib.measure.groupings import of_photographs
from fsdlib.models import (
    BACKBONES,
    Denoiser,
    DiffusionTransformer,
    ModelUnavailable,
    StraightNoise,
    load_transformer,
    sources,
)
from fsdlib.pipeline import segment_batch
from fsdlib.project import MINI
from fsdlib.recipe import PAPER

KINDS = ["pixart", "sd3"]


def autoencoder(channels, **options):
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **options,
    )


def saved(kind, folder):
    """A model of one kind with random weights in diffusers' layout."""
    torch.manual_seed(0)
    common = dict(sample_size=16, patch_size=2, num_layers=3, num_attention_heads=2, attention_head_dim=12)
    if kind == "pixart":
        transformer = PixArtTransformer2DModel(
            **common, cross_attention_dim=24, caption_channels=12, use_additional_conditions=True
        )
        autoencoder(4, scaling_factor=0.2).save_pretrained(folder / "vae")
        text = T5Config(vocab_size=7, d_model=12, d_kv=6, d_ff=24, num_layers=2, num_heads=2)
        T5EncoderModel(text).save_pretrained(folder / "text_encoder")
        DDPMScheduler(beta_start=1e-4, beta_end=0.02).save_pretrained(folder / "scheduler")
    else:
        transformer = SD3Transformer2DModel(
            **common,
            joint_attention_dim=40,
            caption_projection_dim=24,
            pooled_projection_dim=20,
            pos_embed_max_size=16,
            in_channels=16,
        )
        bare = dict(use_quant_conv=False, use_post_quant_conv=False)
        autoencoder(16, scaling_factor=1.5, shift_factor=0.06, **bare).save_pretrained(folder / "vae")
        for part, width in (("", 12), ("_2", 16)):
            of = dict(hidden_size=width, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2)
            text = CLIPTextConfig(**of, projection_dim=10, vocab_size=1000, max_position_embeddings=32)
            CLIPTextModelWithProjection(text).save_pretrained(folder / f"text_encoder{part}")
            shutil.copytree(MINI / "stable-diffusion" / "tokenizer", folder / f"tokenizer{part}")
        FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    transformer.save_pretrained(folder / "transformer")
    index = dict(transformer=["diffusers", type(transformer).__name__])
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def network(request, tmp_path_factory):
    return load_transformer(saved(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def models(mini, network):
    return replace(mini, backbone=network)


def test_places_have_channels_and_stride(network):
    attention = "attn" if network.flows else "attn1"
    assert network.side == 32 and network.grid == 8
    assert network.places == [
        f"transformer.transformer_blocks.{n}.{attention} (24 channels, stride 4)" for n in range(3)
    ]


@pytest.mark.parametrize(
    "kind, options, place",
    [
        (
            PixArtTransformer2DModel,
            dict(num_layers=28, num_attention_heads=16, attention_head_dim=72, caption_channels=4096),
            "transformer.transformer_blocks.14.attn1 (1152 channels, stride 16)",
        ),
        (
            SD3Transformer2DModel,
            dict(num_layers=24, num_attention_heads=24, attention_head_dim=64, caption_projection_dim=1536),
            "transformer.transformer_blocks.12.attn (1536 channels, stride 16)",
        ),
    ],
)
def test_places_of_the_published_sizes(kind, options, place):
    """The published transformers' shapes, without numbers, behind an autoencoder of stride 8."""
    with torch.device("meta"):
        unet = Denoiser(kind(sample_size=128, patch_size=2, **options))
    encoder = SimpleNamespace(config=SimpleNamespace(block_out_channels=(128, 256, 512, 512)))
    network = DiffusionTransformer(unet, encoder, [], [], None)
    block = int(TransformerMaps().tap(network).module.split(".")[2])
    assert network.side == 1024 and network.places[block] == place


def test_the_middle_block_is_read_where_none_is_named_and_one_that_is_not_there_is_refused(network):
    taps = [TransformerMaps(block=block).tap(network) for block in (None, 1, -2)]
    assert taps[0] == taps[1] == taps[2]
    assert (
        TransformerMaps(block=-1, of="keys")
        .tap(network)
        .module.endswith(".2.attn.to_k" if network.flows else ".2.attn1.to_k")
    )
    with pytest.raises(ValueError, match="block 3 is asked of a transformer that has 3: give -3 to 2, or none"):
        TransformerMaps(block=3).tap(network)


def prompt_of(network):
    return "a dog" if network.flows else ""


def by_hand(network, image, block, of, timestep):
    """A block's queries or keys of the picture's patches, (24, 8, 8), from what goes into that block."""
    pixels = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    posterior = network.encoder.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist
    drawn = [
        torch.randn(posterior.mean.shape[1:], generator=torch.Generator().manual_seed(image_seed(image, purpose)))
        for purpose in ("latent", "noise")
    ]
    config = network.encoder.config
    clean = (posterior.mean + posterior.std * drawn[0] - (config.shift_factor or 0)) * config.scaling_factor
    transformer, inputs = network.unet.transformer, {}
    hook = transformer.transformer_blocks[block].register_forward_pre_hook(
        lambda _, args, kwargs: inputs.update(kwargs, **({"hidden_states": args[0]} if args else {})), with_kwargs=True
    )
    if network.flows:
        passed = (1 - timestep / 1000) * clean + timestep / 1000 * drawn[1]
    else:
        kept = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)[timestep]
        passed = kept.sqrt() * clean + (1 - kept).sqrt() * drawn[1]
    transformer(passed, timestep=torch.tensor([timestep]), **network.condition(prompt_of(network), 1))
    hook.remove()
    layer, hidden = transformer.transformer_blocks[block], inputs["hidden_states"]
    if network.flows:
        shift, scale = layer.norm1.linear(F.silu(inputs["temb"])).chunk(6, dim=1)[:2]
        attention = layer.attn
    else:
        shift, scale = (layer.scale_shift_table[None] + inputs["timestep"].reshape(1, 6, -1)).unbind(1)[:2]
        attention = layer.attn1
    scaled = F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    projection = attention.to_q if of == "queries" else attention.to_k
    return (scaled @ projection.weight.T + projection.bias)[0].T.reshape(24, 8, 8).numpy()


@pytest.mark.parametrize("of", ["queries", "keys"])
@torch.no_grad()
def test_what_is_read_is_the_blocks_own_projection_of_what_goes_into_it(models, network, scene, of):
    way = TransformerMaps(block=2, of=of, timestep=300, prompt=prompt_of(network))
    names, (found,) = way.read([scene.image], models)
    wanted = by_hand(network, scene.image, 2, of, 300)
    assert found.shape == (1, 24, 8, 8) and np.allclose(found[0], wanted, atol=1e-4) and wanted.std() > 0.01
    attention = "attn" if network.flows else "attn1"
    projection = "to_q" if of == "queries" else "to_k"
    assert names == [f"transformer.transformer_blocks.2.{attention}.{projection} (24 channels, stride 4)"]


def test_a_recipe_takes_them_and_a_picture_is_read_alone_as_in_a_batch(models, scenes, vocabulary, network):
    recipe = PAPER.with_changes({"features": "transformer", "features.prompt": prompt_of(network)})
    images = [scenes[0].image, scenes[1].image[:100]]
    first, second = segment_batch(images, models, recipe, vocabulary)
    (alone,) = segment_batch(images[1:], models, recipe, vocabulary)
    assert np.array_equal(alone.clusters, second.clusters) and len(np.unique(first.clusters)) == 4


def test_a_prompt_and_the_noise_matter(models, scene, network):
    others = dict(timestep=500), dict(noise_samples=2), *([dict(prompt="a dog")] if network.flows else [])
    plain, again, *changed = (
        TransformerMaps(**options).read([scene.image], models)[1][0] for options in ({}, {}, *others)
    )
    assert np.array_equal(plain, again)
    assert all(not np.allclose(plain, other, atol=1e-5) for other in changed)


def test_noise_is_a_share_of_the_way_from_the_picture():
    clean, noise = torch.tensor([[2.0], [2.0]]), torch.tensor([[4.0], [4.0]])
    assert StraightNoise().add_noise(clean, noise, torch.tensor([0, 250])).tolist() == [[2.0], [2.5]]


@torch.no_grad()
def test_pixart_is_told_nothing_as_its_pipeline_tells_it(tmp_path):
    """Which pads the end of the empty text to 120 tokens and masks what it padded; here no padding is needed."""
    network = load_transformer(saved("pixart", tmp_path / "pixart"))
    (encoder,) = network.text_encoders
    ids = torch.zeros(1, 120, dtype=torch.long)
    ids[0, 0] = 1  # T5's end, as its class has it
    mask = (ids == 1).long()
    states = encoder(ids, attention_mask=mask).last_hidden_state
    own = network.condition("", 2)
    assert own["encoder_hidden_states"].shape == (2, 1, 12)
    assert torch.allclose(own["encoder_hidden_states"][1], states[0, :1], atol=1e-5)
    sizes = dict(resolution=torch.tensor([[32.0, 32.0]]), aspect_ratio=torch.tensor([[1.0]]))
    theirs = dict(encoder_hidden_states=states, encoder_attention_mask=mask, added_cond_kwargs=sizes)
    latent, times = torch.randn(1, 4, 16, 16), torch.tensor([100])
    both = [network.unet(latent, times, **one).sample for one in (theirs, network.condition("", 1))]
    assert torch.allclose(*both, atol=1e-4)
    with pytest.raises(
        ValueError, match="PixArt is read under no prompt, and 'a dog' is one: leave it empty, or take sd3"
    ):
        network.condition("a dog", 1)


@torch.no_grad()
def test_stable_diffusion_3_has_both_clips_side_by_side_and_zeros_in_t5s_places(tmp_path):
    network = load_transformer(saved("sd3", tmp_path / "sd3"))
    told = network.condition("a dog", 2)
    states, pooled = told["encoder_hidden_states"], told["pooled_projections"]
    assert states.shape == (2, 32 + 256, 40) and pooled.shape == (2, 20)
    assert states[:, :32, :28].abs().min() > 0 and not states[:, 32:].any() and not states[:, :, 28:].any()


def test_tensors_that_are_missing_and_other_kinds_are_refused(tmp_path):
    folder = saved("sd3", tmp_path / "sd3")
    (folder / "model_index.json").write_text(json.dumps(dict(transformer=["diffusers", "FluxTransformer2DModel"])))
    with pytest.raises(ModelUnavailable, match="holds a FluxTransformer2DModel, which cannot be read: take PixArt or"):
        load_transformer(folder)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="the diffusion transformer in .* cannot be loaded"):
        load_transformer(folder)
    (folder / "model_index.json").write_text(json.dumps(dict(transformer=["diffusers", "SD3Transformer2DModel"])))
    SD3Transformer2DModel(num_layers=1, num_attention_heads=2, attention_head_dim=8).save_pretrained(tmp_path / "other")
    weights = "transformer/diffusion_pytorch_model.safetensors"
    shutil.copy(tmp_path / "other" / "diffusion_pytorch_model.safetensors", folder / weights)
    with pytest.raises(ModelUnavailable, match="are not those of the whole SD3Transformer2DModel"):
        load_transformer(folder)


def test_the_wrong_kind_of_backbone_is_answered_with_the_right_ones(mini, models, scene):
    with pytest.raises(
        ValueError, match="no diffusion transformer to read: load them with backbone= one of pixart, sd3"
    ):
        TransformerMaps().read([scene.image], mini)
    with pytest.raises(ValueError, match="no backbone to read: load them with backbone= one of scenes-mae, "):
        PAPER.with_changes({"features": "network"}).features.read([scene.image], models)


@pytest.mark.parametrize("name", KINDS)
def test_features_and_backbone_must_belong_together(name):
    unet, network, transformer = (
        PAPER.with_changes({"features": kind}).features for kind in ("unet", "network", "transformer")
    )
    check_backbone(unet, None), check_backbone(network, "dino-untrained"), check_backbone(transformer, name)
    with pytest.raises(ValueError, match=f"features, unet, do not read the backbone '{name}': .* features=transformer"):
        check_backbone(unet, name)
    with pytest.raises(ValueError, match=f"features, network, do not read the backbone '{name}'"):
        check_backbone(network, name)
    with pytest.raises(ValueError, match="features, transformer, do not read the backbone 'dino': .* features=network"):
        check_backbone(transformer, "dino")
    with pytest.raises(ValueError, match="features=transformer needs a diffusion transformer to read"):
        check_backbone(transformer, None)
    with pytest.raises(ValueError, match=f"'{name}-untrained' cannot be made: .* take another backbone's twin"):
        sources("mini", backbone=f"{name}-untrained")
    assert sources("mini", backbone=name)["backbone"] is BACKBONES[name]


def test_they_stand_beside_other_backbones_on_photographs(models, network):
    found = of_photographs({"one": (models, None)})
    name, (way, _) = next(iter(found.items()))
    assert name == f"one, {network.places[1]}" and isinstance(way, TransformerMaps)
