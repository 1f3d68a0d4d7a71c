"""Stages 3 and 4, latent and features: what the diffusion model's UNet holds inside, position by position.

The UNet runs only as far as the last tap that is asked for.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt, SerializeAsAny

from fsdlib.choice import Choice, Several
from fsdlib.models import Diffusion, Models, check_pictures

_KINDS = {
    ResnetBlock2D: "residual",
    Transformer2DModel: "attention",
    Downsample2D: "downsampling",
    Upsample2D: "upsampling",
}


@dataclass(frozen=True)
class Tap:
    """One place in the UNet: the module whose output is read, and the side of its map in cells."""

    module: str
    grid: int

    def __str__(self) -> str:
        return f"{self.module} ({self.grid}x{self.grid})"


@dataclass(frozen=True)
class Layer:
    """One layer of the UNet: its module, its kind, and what it hands on: channels, and the side of the map in cells."""

    module: str
    kind: str  # convolution, residual, attention, downsampling or upsampling
    channels: int
    grid: int

    @property
    def block(self) -> str:
        """The part of the UNet that it belongs to, as the UNet itself calls it: conv_in, down_blocks.0, mid_block, ..."""
        first, second = ([*self.module.split("."), ""])[:2]
        return f"{first}.{second}" if second.isdigit() else first


class _LastTapReached(Exception):
    """Raised inside a forward pass to end it; never leaves this module."""


def image_seed(image: np.ndarray, purpose: str, seed: int = 0) -> int:
    """A 32-bit seed from what the image is, what it is for, and the run's seed: the order of images changes nothing.

    >>> image_seed(picture, "noise") == image_seed(picture.copy(), "noise") != image_seed(picture, "latent")
    True
    """
    content = hashlib.sha256(f"{seed}/{purpose}/{image.shape}/".encode())
    content.update(np.ascontiguousarray(image).tobytes())
    return int.from_bytes(content.digest()[:4], "big")


@torch.no_grad()
def anatomy(configuration: Mapping) -> list[Layer]:
    """A UNet's layers in the order a picture passes them, from a forward pass with shapes and no numbers: no weights are needed.

    configuration: the `config` of a UNet2DConditionModel, or what is in its config.json; of any depth and width.

    >>> layers = anatomy(models.diffusion.unet.config)
    >>> layers[0]
    Layer(module='conv_in', kind='convolution', channels=64, grid=16)
    """
    with torch.device("meta"):
        skeleton = UNet2DConditionModel.from_config(configuration)
        config = skeleton.config
        sample = torch.empty(1, config.in_channels, config.sample_size, config.sample_size)
        arguments = dict(timestep=torch.empty(1), encoder_hidden_states=torch.empty(1, 77, config.cross_attention_dim))
        if config.addition_embed_type == "text_time":  # the SDXL family, as in Diffusion.condition
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            arguments["added_cond_kwargs"] = dict(text_embeds=torch.empty(1, pooled), time_ids=torch.empty(1, 6))
    passed: list[Layer] = []

    def hook_of(name: str, kind: str):
        def hook(_, __, output):
            output = output if isinstance(output, torch.Tensor) else output[0]
            passed.append(Layer(name, kind, *output.shape[1:3]))

        return hook

    for name, module in skeleton.named_modules():
        kind = "convolution" if name in ("conv_in", "conv_out") else _KINDS.get(type(module))
        if kind:
            module.register_forward_hook(hook_of(name, kind))
    skeleton(sample, **arguments)
    return passed


def find_taps(
    diffusion: Diffusion, kind: str = "cross_attention_query", blocks: str = "all", grid: int | None = 16
) -> list[Tap]:
    """The taps of a kind, in the order the UNet reaches them; the defaults are the paper's (METHOD, row 4).

    kind: "cross_attention_query" (attn2's query projection), "self_attention_output" (attn1's output) or
    "self_attention_query" (attn1's query projection). blocks: "all"
    takes the down and up blocks whose maps are `grid` cells a side (the attention resolution nearest to it where there
    is none; the coarser of two equally near; every resolution where `grid` is None), "decoder_last" the last of those,
    "encoder_last" the last attention block of the encoder alone. Of the transformer layers in one block the last is
    tapped. Raises ValueError for unknown kinds or blocks.

    >>> [str(tap) for tap in find_taps(models.diffusion, blocks="decoder_last")]
    ['up_blocks.2.attentions.1.transformer_blocks.0.attn2.to_q (16x16)']
    """
    endings = {
        "cross_attention_query": "attn2.to_q",
        "self_attention_output": "attn1",
        "self_attention_query": "attn1.to_q",
    }
    if kind not in endings or blocks not in ("all", "encoder_last", "decoder_last"):
        raise ValueError(
            f"no taps of kind {kind!r} in blocks {blocks!r}: kinds are {', '.join(endings)}; blocks are all, encoder_last, decoder_last"
        )
    config = diffusion.unet.config
    depth = len(config.block_out_channels)
    found: dict[str, Tap] = {}  # by attention block, so that a later transformer layer replaces an earlier one
    for name, _module in diffusion.unet.named_modules():
        part, number = ([*name.split("."), ""])[:2]
        if name.endswith(endings[kind]) and part in ("down_blocks", "up_blocks"):
            halvings = int(number) if part == "down_blocks" else depth - 1 - int(number)
            found[name.split(".transformer_blocks")[0]] = Tap(name, config.sample_size // 2**halvings)
    if blocks == "encoder_last":
        return [[tap for tap in found.values() if tap.module.startswith("down_blocks")][-1]]
    grids = {tap.grid for tap in found.values()}
    taken = grids if grid is None else {min(grids, key=lambda side: (abs(np.log(side / grid)), side))}
    # named_modules lists down blocks first, then up blocks: the order of a forward pass
    at_grid = [tap for tap in found.values() if tap.grid in taken]
    return at_grid[-1:] if blocks == "decoder_last" else at_grid


@torch.no_grad()
def latents(images: Sequence[np.ndarray], diffusion: Diffusion, seed: int = 0) -> np.ndarray:
    """Sampled, scaled latents, (N, 4, side / 8, side / 8) float32 for Stable Diffusion, each from its image's own seed.

    images: (H, W, 3) uint8 RGB of any sizes, squashed to the model's square by PIL's bilinear filter; the aspect ratio is
    not kept (METHOD, row 3). Raises ValueError without images or pixels.

    >>> latents([picture], models.diffusion).shape
    (1, 4, 16, 16)
    """
    check_pictures(images)
    if diffusion.store:
        return diffusion.store.array(["latent", seed], images, lambda: _latents(images, diffusion, seed))
    return _latents(images, diffusion, seed)


def _latents(images: Sequence[np.ndarray], diffusion: Diffusion, seed: int) -> np.ndarray:
    side = diffusion.side
    squashed = [
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR), np.float32)
        for image in images
    ]
    pixels = torch.from_numpy(np.stack(squashed) / 127.5 - 1).permute(0, 3, 1, 2)
    posterior = diffusion.encoder.encode(pixels.to(diffusion.device, diffusion.encoder.dtype)).latent_dist
    noise = _noise([image_seed(image, "latent", seed) for image in images], posterior.mean.shape[1:])
    sampled = posterior.mean.float().cpu() + posterior.std.float().cpu() * noise
    return (sampled * diffusion.encoder.config.scaling_factor).numpy()


@torch.no_grad()
def decode(latent: np.ndarray, autoencoder: AutoencoderKL) -> np.ndarray:
    """The pictures that latents stand for: (N, 4, h, w) float32 as `latents` returns to (N, side, side, 3) uint8.

    >>> from fsdlib.models import load_autoencoder
    >>> decode(latents([picture], models.diffusion), load_autoencoder("mini", "cpu")).shape
    (1, 64, 64, 3)
    """
    scaled = torch.from_numpy(latent).to(autoencoder.device, autoencoder.dtype) / autoencoder.config.scaling_factor
    pixels = 127.5 * (autoencoder.decode(scaled).sample.float().cpu() + 1)
    return pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def noised(latent: np.ndarray, diffusion: Diffusion, seeds: Sequence[int], timestep: int) -> np.ndarray:
    """The latents with the noise that they have at a timestep (DDPM, arXiv 2006.11239, eq. 4), one seed an image.

    latent: (N, 4, h, w) float32 as `latents` returns, and so is what comes back; timestep: 0 to 999.

    >>> clean = latents([picture], models.diffusion)
    >>> noised(clean, models.diffusion, seeds=[0], timestep=999).shape
    (1, 4, 16, 16)
    """
    clean = torch.from_numpy(latent)
    return diffusion.scheduler.add_noise(
        clean, _noise(seeds, clean.shape[1:]), torch.full((len(latent),), timestep)
    ).numpy()


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

    >>> taps = find_taps(models.diffusion, blocks="decoder_last")
    >>> [array.shape for array in features(latents([picture], models.diffusion), models.diffusion, taps, seeds=[0])]
    [(1, 64, 16, 16)]
    """
    total: list[np.ndarray] = []
    steps = torch.full((len(latent),), timestep, device=diffusion.device)
    for sample in range(noise_samples):
        sample_seeds = [(seed + sample) % 2**32 for seed in seeds]
        passed = torch.from_numpy(noised(latent, diffusion, sample_seeds, timestep)).to(
            diffusion.device, diffusion.unet.dtype
        )
        with _tapped(diffusion.unet, taps, to_the_end) as outputs:
            try:
                diffusion.unet(passed, steps, **diffusion.condition(prompt, len(latent)))
            except _LastTapReached:
                pass
        maps = [_as_map(outputs[tap.module], tap.grid) for tap in taps]
        total = [a + b for a, b in zip(total, maps)] if total else maps
    return [array / noise_samples for array in total]


@contextmanager
def _tapped(unet: torch.nn.Module, taps: Sequence[Tap], to_the_end: bool):
    """Collect the taps' outputs during this thread's forward passes in the block; the hooks are always removed."""
    outputs: dict[str, torch.Tensor] = {}
    wanted, reader = {tap.module for tap in taps}, threading.get_ident()

    def hook_of(name: str):
        def hook(_, __, output):
            if threading.get_ident() != reader:  # another picture passes the same UNet
                return
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

    So the paper has it (METHOD, row 4). With `normalise` each map's vector has unit length at every position, so that no tap outweighs another by its norm.

    >>> stack([np.ones((3, 8, 8), np.float32), np.ones((5, 16, 16), np.float32)], grid=4).shape
    (8, 4, 4)
    """
    resized = []
    for array in maps:
        tensor = F.interpolate(torch.from_numpy(array)[None], size=(grid, grid), mode="bilinear", align_corners=False)[
            0
        ]
        resized.append(F.normalize(tensor, dim=0) if normalise else tensor)
    return torch.cat(resized).numpy()


def spanned(array: np.ndarray) -> np.ndarray:
    """A map of more channels than positions in coordinates of what its positions span: (C, h, w) to (h * w, h, w) float32.

    Distances and angles between positions, and between their weighted means, are what they were, so that clusters of the
    one are clusters of the other. A map of fewer channels is returned as it is.

    >>> map_of_two = np.array([[[3.0, 0.0]], [[4.0, 0.0]], [[0.0, 2.0]]], np.float32)  # 3 channels, 1 x 2 positions
    >>> np.abs(spanned(map_of_two).round(6)).tolist()  # of lengths 5 and 2, at right angles
    [[[5.0, 0.0]], [[0.0, 2.0]]]
    """
    channels, height, width = array.shape
    if channels <= height * width:
        return array
    # columns of Q are the axes, columns of R the positions' coordinates along them
    triangle = np.asarray(np.linalg.qr(array.reshape(channels, -1).astype(np.float64), mode="r"))
    return triangle.reshape(-1, height, width).astype(np.float32)


@torch.no_grad()
def cross_attention_maps(queries: np.ndarray, tap: Tap, diffusion: Diffusion, prompt: str) -> np.ndarray:
    """How much every position looks at every token: softmax over tokens of QK^T / sqrt(d), the mean over heads.

    queries: (N, channels, grid, grid), what `features` returns under the same prompt for `tap`, of kind
    "cross_attention_query". Returns (N, tokens, grid, grid) float32, tokens as the text encoder pads them, which sum to 1
    at every position. Raises ValueError for other taps. (Attention: arXiv 1706.03762, section 3.2.)

    >>> (tap,) = find_taps(models.diffusion, blocks="decoder_last")
    >>> latent = latents([picture], models.diffusion)
    >>> (queries,) = features(latent, models.diffusion, [tap], seeds=[0], prompt="a dog")
    >>> cross_attention_maps(queries, tap, models.diffusion, "a dog").shape
    (1, 32, 16, 16)
    """
    if not tap.module.endswith("attn2.to_q"):
        raise ValueError(
            f"{tap.module} is no query of cross-attention: take taps of find_taps(kind='cross_attention_query')"
        )
    attention = diffusion.unet.get_submodule(tap.module.removesuffix(".to_q"))
    key = attention.to_k(diffusion.condition(prompt, 1)["encoder_hidden_states"])[0].float().cpu()
    query = torch.from_numpy(queries).flatten(2).unflatten(1, (attention.heads, -1))  # image, head, channel, position
    key = key.unflatten(1, (attention.heads, -1))  # token, head, channel
    scores = torch.einsum("nhcp,thc->nhtp", query, key) / key.shape[-1] ** 0.5
    return scores.softmax(dim=2).mean(dim=1).unflatten(2, (tap.grid, tap.grid)).numpy()


@torch.no_grad()
def self_attention_maps(
    latent: np.ndarray,
    diffusion: Diffusion,
    taps: Sequence[Tap],
    seeds: Sequence[int],
    timestep: int = 0,
    prompt: str = "",
    noise_samples: int = 1,
) -> list[np.ndarray]:
    """Where every position looks when the noised latents pass: one (N, grid * grid, grid, grid) float32 array a tap.

    taps: of kind "self_attention_query"; the rest as in `features`. At [n, j, y, x] is how much the position (y, x) looks
    at the j-th: softmax over j of QK^T / sqrt(d), the mean over heads, of 1 in all. Raises ValueError for other taps.
    (Attention: arXiv 1706.03762, section 3.2.)

    >>> taps = find_taps(models.diffusion, "self_attention_query", blocks="decoder_last")
    >>> [array.shape for array in self_attention_maps(latents([picture], models.diffusion), models.diffusion, taps, [0])]
    [(1, 256, 16, 16)]
    """
    wrong = [tap.module for tap in taps if not tap.module.endswith("attn1.to_q")]
    if wrong:
        raise ValueError(
            f"{wrong[0]} is no query of self-attention: take taps of find_taps(kind='self_attention_query')"
        )
    attentions = [diffusion.unet.get_submodule(tap.module.removesuffix(".to_q")) for tap in taps]
    both = [Tap(tap.module.removesuffix("to_q") + part, tap.grid) for tap in taps for part in ("to_q", "to_k")]
    total: list[np.ndarray] = []
    for sample in range(noise_samples):
        read = features(latent, diffusion, both, [(seed + sample) % 2**32 for seed in seeds], timestep, prompt)
        maps = [_looks(*pair, attention.heads) for pair, attention in zip(zip(read[::2], read[1::2]), attentions)]
        total = [a + b for a, b in zip(total, maps)] if total else maps
    return [array / noise_samples for array in total]


def _looks(queries: np.ndarray, keys: np.ndarray, heads: int) -> np.ndarray:
    """Attention of (N, channels, grid, grid) queries to keys of the same shape: (N, grid * grid, grid, grid), over axis 1."""
    query, key = (torch.from_numpy(array).flatten(2).unflatten(1, (heads, -1)) for array in (queries, keys))
    found = torch.zeros(len(query), key.shape[-1], query.shape[-1])
    for head in range(heads):  # one at a time: maps of 64 x 64 cells take 64 MiB each
        scores = key[:, head].transpose(1, 2) @ query[:, head] / query.shape[2] ** 0.5
        found += scores.softmax(dim=1)
    return (found / heads).unflatten(2, queries.shape[2:]).numpy()


def similarity_map(array: np.ndarray, row: int, column: int) -> np.ndarray:
    """Cosine similarity of every position's feature with that at (row, column): (C, h, w) to (h, w) float32, -1 to 1.

    >>> features_of_two = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # 2 channels, 1 x 2 positions at right angles
    >>> similarity_map(features_of_two, row=0, column=0)
    array([[1., 0.]])
    """
    unit = array / np.maximum(np.linalg.norm(array, axis=0), 1e-12)
    return np.einsum("chw,c->hw", unit, unit[:, row, column])


class Taps(Choice):
    """Which places in the UNet are read."""

    of: Literal["cross_attention_query", "self_attention_output"] = Field(
        "cross_attention_query", description="what is read from an attention block"
    )

    def find(self, diffusion: Diffusion) -> list[Tap]:
        """The taps, in the order the UNet reaches them."""
        raise NotImplementedError


class _OfSize(Taps):
    """Blocks whose map is of one size."""

    grid: PositiveInt = Field(16, description="cells a side; the model's attention resolution nearest to it")


class AtGrid(_OfSize):
    """Every block of encoder and decoder whose map is of one size."""

    kind: Literal["at_grid"] = "at_grid"

    def find(self, diffusion: Diffusion) -> list[Tap]:
        return find_taps(diffusion, self.of, "all", self.grid)


class LastAtGrid(_OfSize):
    """The decoder's last block whose map is of one size."""

    kind: Literal["last_at_grid"] = "last_at_grid"

    def find(self, diffusion: Diffusion) -> list[Tap]:
        return find_taps(diffusion, self.of, "decoder_last", self.grid)


class EncoderLast(Taps):
    """The encoder's last attention block alone."""

    kind: Literal["encoder_last"] = "encoder_last"

    def find(self, diffusion: Diffusion) -> list[Tap]:
        return find_taps(diffusion, self.of, "encoder_last")


class Features(Choice):
    """Where the features come from, in which a picture's positions are compared."""

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        """What is read of each picture: the names of the places, and for each place maps, (N, C, h, w) float32.

        images: (H, W, 3) uint8 RGB of any sizes; each is as if it were read alone.
        """
        raise NotImplementedError

    def stacked(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        """One picture's maps, (C, h, w) each, as one array of features: (channels, grid, grid) float32.

        Distances and angles between positions count, not what a channel means: they may be in other coordinates.
        """
        raise NotImplementedError


class UNetFeatures(Features):
    """What the diffusion model's UNet holds at some taps when the noised latent passes (METHOD, rows 3 and 4)."""

    kind: Literal["unet"] = "unet"
    taps: SerializeAsAny[Taps] = Field(AtGrid(), description="the places that are read")
    timestep: NonNegativeInt = Field(0, le=999, description="at which the latent is noised, 0 to 999")
    prompt: str = Field("", description="what conditions the UNet; the paper gives it nothing")
    noise_samples: PositiveInt = Field(1, description="noises over which features are averaged")
    # a channel of 256 x 256 cells takes 256 KiB, and a model has thousands
    grid: PositiveInt = Field(32, le=256, description="cells a side that all maps are resized to, bilinearly")
    normalise: bool = Field(False, description="scale every tap's vector to unit length at each position")

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        diffusion = models.diffusion
        taps = self.taps.find(diffusion)
        seeds = [image_seed(image, "noise", seed) for image in images]
        passed = latents(images, diffusion, seed)
        maps = features(passed, diffusion, taps, seeds, self.timestep, self.prompt, self.noise_samples)
        return list(map(str, taps)), maps

    def stacked(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        # a map that is scaled for itself is turned for itself; maps that are only resized, all of one size together
        alike = [[array] for array in maps] if self.normalise else _by_size(maps)
        return stack([spanned(np.concatenate(arrays)) for arrays in alike], self.grid, self.normalise)


class AttentionMaps(Features):
    """Where every position looks: the UNet's self-attention, a distribution over all positions at each of them.

    Maps of several sizes are brought to one grid and averaged, each counting as its side is long (DiffSeg, arXiv
    2308.12469, section 3.1).
    """

    kind: Literal["attention"] = "attention"
    grids: Several[PositiveInt] = Field(
        (), description="sides of the maps that are read, in cells; none: all there are"
    )
    timestep: NonNegativeInt = Field(300, le=999, description="at which the latent is noised, 0 to 999")
    prompt: str = Field("", description="what conditions the UNet")
    noise_samples: PositiveInt = Field(1, description="noises over which maps are averaged")
    # as many channels as cells: 64 a side are 64 MiB
    grid: PositiveInt = Field(32, le=64, description="cells a side that all maps are brought to")

    def read(self, images: Sequence[np.ndarray], models: Models, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
        diffusion = models.diffusion
        taps = find_taps(diffusion, "self_attention_query", grid=None)
        if self.grids:
            taps = [tap for grid in self.grids for tap in find_taps(diffusion, "self_attention_query", grid=grid)]
            taps = list(dict.fromkeys(taps))
        seeds = [image_seed(image, "noise", seed) for image in images]
        passed = latents(images, diffusion, seed)
        maps = self_attention_maps(passed, diffusion, taps, seeds, self.timestep, self.prompt, self.noise_samples)
        return list(map(str, taps)), maps

    def stacked(self, maps: Sequence[np.ndarray]) -> np.ndarray:
        sides = sum(array.shape[-1] for array in maps)
        return sum(array.shape[-1] / sides * _on_grid(array, self.grid) for array in maps)


def _on_grid(array: np.ndarray, grid: int) -> np.ndarray:
    """Attention of (h * w, h, w) on another grid, (grid * grid, grid, grid), where each position's is still of 1 in all.

    What is looked at is enlarged bilinearly or averaged; a position that looks is that of the cell it lies in, or their mean.
    """
    side = array.shape[-1]
    looked_at = torch.from_numpy(array).reshape(side, side, -1).permute(2, 0, 1)[:, None]
    smaller = grid < side
    way = dict(mode="area") if smaller else dict(mode="bilinear", align_corners=False)
    looked_at = F.interpolate(looked_at, size=(grid, grid), **way).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    looked_at = looked_at / looked_at.sum(dim=1, keepdim=True)
    return F.interpolate(looked_at, size=(grid, grid), mode="area" if smaller else "nearest")[0].numpy()


def _by_size(maps: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    sizes = dict.fromkeys(array.shape[1:] for array in maps)
    return [[array for array in maps if array.shape[1:] == size] for size in sizes]
