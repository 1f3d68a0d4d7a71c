"""Other models' features in the place of the UNet's: whose features group objects best?

Each reads maps of a picture as `UNetFeatures` does, so that any recipe takes them: `features` is then "network",
"transformer", "clip", "captioner", "latents" or "colours". The paper compares backbones and shows no code for it; what is read where is our own
choice.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt

from fsdlib.features import Features, Tap, features, image_seed, latents, spanned, stack
from fsdlib.models import (
    BACKBONES,
    UNTRAINED,
    Captioner,
    Clip,
    DiffusionTransformer,
    Models,
    Network,
    check_pictures,
    finite,
    is_transformer,
)


class Backbone(Features):
    """Features of something else than the UNet, resized to one grid."""

    grid: PositiveInt = Field(32, le=256, description="cells a side that maps are resized to, bilinearly")
    normalise: bool = Field(True, description="scale every map's vector to unit length at each position")

    def stacked(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        return stack([spanned(array) for array in maps], self.grid, self.normalise)


class NetworkMaps(Backbone):
    """What a vision network that is no diffusion model holds at one of its layers: `load_models(..., backbone=...)`."""

    kind: Literal["network"] = "network"
    layer: int = Field(-1, description="the place that is read, of those the network offers; -1 is its last")
    side: PositiveInt | None = Field(
        None,
        le=2048,
        description="pixels of the square that pictures are squashed to; the network's own where none is given",
    )

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        if not isinstance(models.backbone, Network):
            raise ValueError(f"these models have no {_lacking(False)}")
        found = network_maps(images, models.backbone, self.layer, self.side)
        return [models.backbone.places[self.layer]], [found]


class TransformerMaps(Backbone):
    """What a diffusion transformer's attention holds when the noised latent passes: `load_models(..., backbone="pixart")`.

    Read in the middle of its blocks, at a tenth of the noise, as published findings suggest for such models; the block, the
    timestep and the rest are options, and nothing was measured here with real weights.
    """

    kind: Literal["transformer"] = "transformer"
    block: int | None = Field(None, description="whose attention is read, -1 for the last; the middle one by default")
    of: Literal["queries", "keys"] = Field("queries", description="what is read of it, before any normalisation")
    timestep: NonNegativeInt = Field(100, le=999, description="at which the latent is noised, 0 to 999")
    prompt: str = Field("", description="what conditions the transformer; PixArt takes none")
    noise_samples: PositiveInt = Field(1, description="noises over which features are averaged")

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        network = models.backbone
        if not isinstance(network, DiffusionTransformer):
            raise ValueError(f"these models have no {_lacking(True)}")
        tap = self.tap(network)
        seeds = [image_seed(image, "noise", seed) for image in images]
        passed = latents(images, network, seed) - np.float32(network.shift)
        (found,) = features(passed, network, [tap], seeds, self.timestep, self.prompt, self.noise_samples)
        return [place(tap.module, found, network.side)], [found]

    def tap(self, network: DiffusionTransformer) -> Tap:
        """Where the queries or keys are made; raises ValueError for a block that is not there."""
        count = network.blocks
        block = count // 2 if self.block is None else self.block
        if not -count <= block < count:
            raise ValueError(
                f"block {block} is asked of a transformer that has {count}: give {-count} to {count - 1}, or none for the middle"
            )
        return Tap(f"{network.attention(block % count)}.{dict(queries='to_q', keys='to_k')[self.of]}", network.grid)


def check_backbone(chosen: Features, backbone: str | None) -> None:
    """Raise ValueError where features need a backbone and none of their kind is named, or do not read the one that is.

    backbone: as `load_models` takes it.

    >>> check_backbone(NetworkMaps(), "dinov2")
    >>> check_backbone(Colours(), None)
    """
    kinds = {NetworkMaps: False, TransformerMaps: True}
    wanted = next((needed for kind, needed in kinds.items() if isinstance(chosen, kind)), None)
    if backbone is None:
        if wanted is not None:
            raise ValueError(f"features={chosen.kind} needs a {_lacking(wanted)}")
        return
    given = is_transformer(backbone.removesuffix(UNTRAINED))
    if wanted is not given:
        raise ValueError(
            f"the recipe's features, {chosen.kind}, do not read the backbone {backbone!r}: "
            f"change them to features={'transformer' if given else 'network'}, or name none"
        )


def _lacking(transformer: bool) -> str:
    """The end of a sentence that says what kind of backbone is needed, and which there are."""
    names = ", ".join(name for name in BACKBONES if is_transformer(name) is transformer)
    return f"{'diffusion transformer' if transformer else 'backbone'} to read: load them with backbone= one of {names}"


class ClipPatches(Backbone):
    """What the image tower of the naming CLIP holds of every patch, in its last layer, before it is projected to texts."""

    kind: Literal["clip"] = "clip"

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        found = clip_patches(images, models.clip)
        side = models.clip.model.visual.image_size
        side = side if isinstance(side, int) else side[0]
        return [place("image tower, last layer", found, side)], [found]


class CaptionerPatches(Backbone):
    """What the captioner's vision tower holds of every patch, in its last layer."""

    kind: Literal["captioner"] = "captioner"

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        found = captioner_patches(images, models.captioner)
        side = models.captioner.model.config.vision_config.image_size
        return [place("vision tower, last layer", found, side)], [found]


class Latents(Backbone):
    """The latent itself, before any UNet: what the autoencoder keeps of a picture."""

    kind: Literal["latents"] = "latents"
    normalise: bool = Field(False, description="scale every map's vector to unit length at each position")

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        found = latents(images, models.diffusion, seed)
        return [place("latent", found, models.diffusion.side)], [found]


class Colours(Backbone):
    """Mean colours, 0 to 1, and where wanted the position beside them: what every feature has to beat."""

    kind: Literal["colours"] = "colours"
    normalise: bool = Field(False, description="scale every map's vector to unit length at each position")
    position: float = Field(0.0, ge=0, description="weight of row and column, which go from 0 to 1, beside colours")

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        return ["colours"], [np.stack([mean_colours(image, self.grid) for image in images])]

    def stacked(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        places = np.mgrid[: self.grid, : self.grid].astype(np.float32) / max(1, self.grid - 1)
        return np.concatenate(
            [super().stacked(maps), self.position * places] if self.position else [super().stacked(maps)]
        )


def mean_colours(image: np.ndarray, grid: int) -> np.ndarray:
    """A picture's mean colour in each cell, 0 to 1: (3, grid, grid) float32; image: (H, W, 3) uint8.

    >>> mean_colours(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), grid=1).ravel().round(1).tolist()
    [0.5, 0.5, 0.5]
    """
    small = Image.fromarray(image).resize((grid, grid), Image.Resampling.BOX)
    return np.asarray(small, np.float32).transpose(2, 0, 1) / 255


def place(name: str, maps: np.ndarray, side: int) -> str:
    """What a place is called: its name, the channels of its (N, C, h, w) maps, and the pixels of the square that a cell takes.

    >>> place("latent", np.zeros((1, 4, 16, 16)), side=128)
    'latent (4 channels, stride 8)'
    """
    return f"{name} ({maps.shape[1]} channels, stride {side // maps.shape[2]})"


@torch.no_grad()
def network_maps(
    images: Sequence[np.ndarray], network: Network, layer: int = -1, side: int | None = None
) -> np.ndarray:
    """What a network holds at one of its places: (N, C, h, w) float32; images: (H, W, 3) uint8, squashed to a square.

    layer: which of `network.places`, from the end where it is negative. side: the square's, in pixels; the network's own by
    default. A transformer's maps are taken after its last normalisation, without the tokens that have no position. Raises
    ValueError for a layer that is not there, and a side that a transformer's patches do not fill; NotFinite where a number
    is not finite.

    >>> from fsdlib.models import untrained_backbone
    >>> network_maps([picture], untrained_backbone("efficientnet-lite0"), layer=-2).shape
    (1, 112, 14, 14)
    """
    check_pictures(images)
    count, side = len(network.places), side or network.side
    name = type(network.model).__name__
    if not -count <= layer < count:
        raise ValueError(
            f"layer {layer} is asked of {name}, which can be read at {count} places: give {-count} to {count - 1}"
        )
    patch = getattr(getattr(network.model, "patch_embed", None), "patch_size", (1,))[0]
    if side % patch:
        raise ValueError(
            f"{name} has patches of {patch} pixels, which do not fill a side of {side}: give a multiple of {patch}"
        )
    way = Image.Resampling[network.interpolation.upper()]
    squashed = np.stack([np.asarray(Image.fromarray(image).resize((side, side), way), np.float32) for image in images])
    scaled = (squashed / 255 - np.array(network.mean, np.float32)) / np.array(network.deviation, np.float32)
    weight = next(network.model.parameters())
    pixels = torch.from_numpy(scaled).permute(0, 3, 1, 2).to(weight.device, weight.dtype)
    (found,) = network.model.forward_intermediates(
        pixels, indices=[layer % count], norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
    )
    return finite(found.float().cpu(), name, "a picture").numpy()


@torch.no_grad()
def clip_patches(images: Sequence[np.ndarray], clip: Clip) -> np.ndarray:
    """The image tower's last hidden states, one a patch: (N, C, h, w) float32; images: (H, W, 3) uint8.

    Pictures go through CLIP's own preprocessing, which cuts the square in the middle out of them.

    >>> clip_patches([picture], models.clip).shape
    (1, 144, 8, 8)
    """
    check_pictures(images)
    pixels = torch.stack([clip.preprocess(Image.fromarray(image)) for image in images]).to(clip.device, clip.dtype)
    found = clip.model.visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, intermediates_only=True
    )
    return found["image_intermediates"][-1].float().cpu().numpy()


@torch.no_grad()
def captioner_patches(images: Sequence[np.ndarray], captioner: Captioner) -> np.ndarray:
    """The vision tower's last hidden states, one a patch: (N, C, h, w) float32; images: (H, W, 3) uint8, squashed to its square.

    >>> captioner_patches([picture], models.captioner).shape
    (1, 144, 8, 8)
    """
    check_pictures(images)
    shown = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    pixels = captioner.processor(images=shown, return_tensors="pt").pixel_values
    model = captioner.model
    states = model.vision_model(pixels.to(model.device, model.dtype)).last_hidden_state[:, 1:]
    side = int(states.shape[1] ** 0.5)
    return states.transpose(1, 2).unflatten(2, (side, side)).float().cpu().numpy()
