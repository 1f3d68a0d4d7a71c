"""Stages 3 and 4, latent and features: what the diffusion model's UNet holds inside, position by position (RECIPE rows 3, 4).

The UNet runs only as far as the last tap that is asked for.
"""

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fsdlib.models import Diffusion


@dataclass(frozen=True)
class Tap:
    """One place in the UNet: the module whose output is read, and the side of its map in cells."""

    module: str
    grid: int

    def __str__(self) -> str:
        return f"{self.module} ({self.grid}x{self.grid})"


class _LastTapReached(Exception):
    """Raised inside a forward pass to end it; never leaves this module."""


def image_seed(image: np.ndarray, purpose: str, seed: int = 0) -> int:
    """A 32-bit seed from what the image is, what it is for, and the run's seed: the order of images changes nothing."""
    content = hashlib.sha256(f"{seed}/{purpose}/{image.shape}/".encode())
    content.update(np.ascontiguousarray(image).tobytes())
    return int.from_bytes(content.digest()[:4], "big")


def find_taps(diffusion: Diffusion, kind: str = "cross_attention_query", blocks: str = "all", grid: int = 16) -> list[Tap]:
    """The taps of a kind, in the order the UNet reaches them.

    kind: "cross_attention_query" (attn2's query projection) or "self_attention_output" (attn1's output). blocks: "all"
    takes the down and up blocks whose maps are `grid` cells a side (the attention resolution nearest to it where there
    is none; the coarser of two equally near), "decoder_last" the last of those, "encoder_last" the last attention block
    of the encoder alone. Of the transformer layers in one block the last is tapped. Raises ValueError for unknown kinds or blocks.
    """
    endings = {"cross_attention_query": "attn2.to_q", "self_attention_output": "attn1"}
    if kind not in endings or blocks not in ("all", "encoder_last", "decoder_last"):
        raise ValueError(f"no taps of kind {kind!r} in blocks {blocks!r}: kinds are {', '.join(endings)}; blocks are all, encoder_last, decoder_last")
    config = diffusion.unet.config
    depth = len(config.block_out_channels)
    found: dict[str, Tap] = {}  # by attention block, so that a later transformer layer replaces an earlier one
    for name, module in diffusion.unet.named_modules():
        part, number = (name.split(".") + [""])[:2]
        if name.endswith(endings[kind]) and part in ("down_blocks", "up_blocks"):
            halvings = int(number) if part == "down_blocks" else depth - 1 - int(number)
            found[name.split(".transformer_blocks")[0]] = Tap(name, config.sample_size // 2**halvings)
    if blocks == "encoder_last":
        return [[tap for tap in found.values() if tap.module.startswith("down_blocks")][-1]]
    nearest = min({tap.grid for tap in found.values()}, key=lambda side: (abs(np.log(side / grid)), side))
    # named_modules lists down blocks first, then up blocks: the order of a forward pass
    at_grid = [tap for tap in found.values() if tap.grid == nearest]
    return at_grid[-1:] if blocks == "decoder_last" else at_grid


@torch.no_grad()
def latents(images: Sequence[np.ndarray], diffusion: Diffusion, seed: int = 0) -> np.ndarray:
    """Sampled, scaled latents, (N, 4, side / 8, side / 8) float32 for Stable Diffusion, each from its image's own seed.

    images: (H, W, 3) uint8 RGB of any sizes, squashed to the model's square (the aspect ratio is not kept).
    """
    side = diffusion.side
    squashed = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), np.float32) for image in images]
    pixels = torch.from_numpy(np.stack(squashed) / 127.5 - 1).permute(0, 3, 1, 2)
    posterior = diffusion.encoder.encode(pixels.to(diffusion.device, diffusion.encoder.dtype)).latent_dist
    noise = _noise([image_seed(image, "latent", seed) for image in images], posterior.mean.shape[1:])
    sampled = posterior.mean.float().cpu() + posterior.std.float().cpu() * noise
    return (sampled * diffusion.encoder.config.scaling_factor).numpy()


@torch.no_grad()
def features(
    latent: np.ndarray,
    diffusion: Diffusion,
    taps: Sequence[Tap],
    seeds: Sequence[int],
    timestep: int = 0,
    prompt: str = "",
    noise_samples: int = 1,
    to_the_end: bool = False,
) -> list[np.ndarray]:
    """What each tap holds when the noised latents pass: one (N, channels, grid, grid) float32 array a tap.

    latent: (N, 4, h, w) float32 as `latents` returns; seeds: one an image, for the noise; with several `noise_samples`
    the maps are averaged. `to_the_end` runs the UNet past the last tap, which changes nothing and costs time.
    """
    total: list[np.ndarray] | None = None
    clean = torch.from_numpy(latent)
    steps = torch.full((len(latent),), timestep, dtype=torch.long)
    for sample in range(noise_samples):
        noise = _noise([(seed + sample) % 2**32 for seed in seeds], clean.shape[1:])
        noised = diffusion.scheduler.add_noise(clean, noise, steps).to(diffusion.device, diffusion.unet.dtype)
        with _tapped(diffusion.unet, taps, to_the_end) as outputs:
            try:
                diffusion.unet(noised, steps.to(diffusion.device), **diffusion.condition(prompt, len(latent)))
            except _LastTapReached:
                pass
        maps = [_as_map(outputs[tap.module], tap.grid) for tap in taps]
        total = maps if total is None else [a + b for a, b in zip(total, maps)]
    return [array / noise_samples for array in total]


@contextmanager
def _tapped(unet: torch.nn.Module, taps: Sequence[Tap], to_the_end: bool):
    """Collect the taps' outputs during forward passes in the block; the hooks are always removed."""
    outputs: dict[str, torch.Tensor] = {}
    wanted = {tap.module for tap in taps}

    def hook_of(name: str):
        def hook(_, __, output):
            outputs[name] = output
            if not to_the_end and wanted == outputs.keys():
                raise _LastTapReached

        return hook

    hooks = [unet.get_submodule(name).register_forward_hook(hook_of(name)) for name in wanted]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _as_map(tokens: torch.Tensor, grid: int) -> np.ndarray:
    """(N, grid * grid, C) to (N, C, grid, grid)."""
    return tokens.transpose(1, 2).unflatten(2, (grid, grid)).float().cpu().numpy()


def _noise(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise, one seed a sample, drawn on the CPU so that every device gets the same."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def stack(maps: Sequence[np.ndarray], grid: int = 32, normalise: bool = False) -> np.ndarray:
    """Resize one image's maps, each (C_i, h_i, w_i), bilinearly to `grid` and concatenate: (sum of C_i, grid, grid) float32.

    With `normalise` each map's vector has unit length at every position, so that no tap outweighs another by its norm.
    """
    resized = []
    for array in maps:
        tensor = F.interpolate(torch.from_numpy(array)[None], size=(grid, grid), mode="bilinear", align_corners=False)[0]
        resized.append(F.normalize(tensor, dim=0) if normalise else tensor)
    return torch.cat(resized).numpy()
