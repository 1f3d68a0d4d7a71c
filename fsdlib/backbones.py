"""Other models' features in the place of the UNet's: whose features group objects best?

Each reads maps of a picture as `UNetFeatures` does, so that any recipe takes them: `features` is then "clip", "captioner",
"latents" or "colours". The paper compares backbones and shows no code for it; what is read where is our own choice.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PositiveInt

from fsdlib.features import Features, latents, spanned, stack
from fsdlib.models import Captioner, Clip, Models, check_pictures


class Backbone(Features):
    """Features of something else than the UNet, resized to one grid."""

    grid: PositiveInt = Field(32, le=256, description="cells a side that maps are resized to, bilinearly")
    normalise: bool = Field(True, description="scale every map's vector to unit length at each position")

    def stacked(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        return stack([spanned(array) for array in maps], self.grid, self.normalise)


class ClipPatches(Backbone):
    """What the image tower of the naming CLIP holds of every patch, in its last layer, before it is projected to texts."""

    kind: Literal["clip"] = "clip"

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        return ["image tower, last layer"], [clip_patches(images, models.clip)]


class CaptionerPatches(Backbone):
    """What the captioner's vision tower holds of every patch, in its last layer."""

    kind: Literal["captioner"] = "captioner"

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        return ["vision tower, last layer"], [captioner_patches(images, models.captioner)]


class Latents(Backbone):
    """The latent itself, before any UNet: what the autoencoder keeps of a picture."""

    kind: Literal["latents"] = "latents"
    normalise: bool = Field(False, description="scale every map's vector to unit length at each position")

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        return ["latent"], [latents(images, models.diffusion, seed)]


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


@torch.no_grad()
def clip_patches(images: Sequence[np.ndarray], clip: Clip) -> np.ndarray:
    """The image tower's last hidden states, one a patch: (N, C, h, w) float32; images: (H, W, 3) uint8.

    Pictures go through CLIP's own preprocessing, which cuts the square in the middle out of them.

    >>> clip_patches([picture], models.clip).shape
    (1, 192, 8, 8)
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
    (1, 192, 8, 8)
    """
    check_pictures(images)
    shown = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    pixels = captioner.processor(images=shown, return_tensors="pt").pixel_values
    model = captioner.model
    states = model.vision_model(pixels.to(model.device, model.dtype)).last_hidden_state[:, 1:]
    side = int(states.shape[1] ** 0.5)
    return states.transpose(1, 2).unflatten(2, (side, side)).float().cpu().numpy()
