"""Stage 7 for ways that read names off a whole picture, position by position: CLIP's last layer made local, and cross-attention.

Peers of the method name every position so and group nothing: with `clusters="cells"` each is a mask of its own. With any
other grouping a mask has the mean over its positions.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fsdlib.clusters import covered
from fsdlib.features import cross_attention_maps, features, find_taps, image_seed, latents, stack
from fsdlib.models import Clip, Diffusion, Models, check_pictures
from fsdlib.names import View, pooled_patches

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]], torch.Tensor]


class _LastLayer(View):
    """Patches of CLIP's image tower whose last layer attends otherwise than it was trained to; pooled under each mask."""

    grid: PositiveInt = Field(32, le=256, description="cells a side that patches are enlarged to, bilinearly")
    whole: bool = Field(True, description="the last layer keeps its skip connections and its feed-forward part")

    def vectors(self, image: np.ndarray, masks: np.ndarray, clip: Clip) -> np.ndarray:
        patches = last_layer_patches([image], clip, self.attend, self.whole)[0]
        patches = patches / np.maximum(np.linalg.norm(patches, axis=2, keepdims=True), 1e-12)
        return pooled_patches(stack([patches.transpose(2, 0, 1)], self.grid).transpose(1, 2, 0), masks)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """What each token takes from the values: (N, heads, tokens, channels), all four, the class token first.

        grid: rows and columns of the patches.
        """
        raise NotImplementedError


class ValuePath(_LastLayer):
    """Every patch keeps its own value and looks at no other (MaskCLIP, arXiv 2112.01071, section 3.2; METHOD, row 12)."""

    kind: Literal["value_path"] = "value_path"

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        return value


class SelfCorrelation(_LastLayer):
    """Patches look at those of like queries and of like keys (SCLIP, arXiv 2312.01597, section 3.2; METHOD, row 12)."""

    kind: Literal["self_correlation"] = "self_correlation"

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        alike = (softmax_of(one, one) for one in (query, key))
        return sum(alike) @ value


class Neighbours(_LastLayer):
    """Patches look at those of like keys, and at near ones more (NACLIP, arXiv 2404.08181, section 3)."""

    kind: Literal["neighbours"] = "neighbours"
    whole: bool = Field(False, description="the last layer keeps its skip connections and its feed-forward part")
    deviation: PositiveFloat = Field(5.0, description="of the Gaussian of the distance that is added, in patches")

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        rows, columns = torch.meshgrid(*(torch.arange(side, device=key.device) for side in grid), indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
        nearness = torch.exp(-(torch.cdist(places, places) ** 2) / (2 * self.deviation**2))
        return softmax_of(key, key, F.pad(nearness, (1, 0, 1, 0)).to(key.dtype)) @ value


def softmax_of(query: torch.Tensor, key: torch.Tensor, added: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Attention weights, softmax(QK^T / sqrt(d) + what is added): (N, heads, tokens, d) of both to (N, heads, tokens, tokens).

    >>> softmax_of(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4))
    tensor([[[[0.5000, 0.5000],
              [0.5000, 0.5000]]]])
    """
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + added).softmax(dim=-1)


@torch.no_grad()
def last_layer_patches(images: Sequence[np.ndarray], clip: Clip, attend: Attend, whole: bool = True) -> np.ndarray:
    """Patches in the space of texts, where the last layer's attention is another: (N, h, w, D) float32, not of unit length.

    images: (H, W, 3) uint8, squashed to the tower's square; attend: from queries, keys, values and the grid, as in
    `ValuePath.attend`; whole: with skip connections and feed-forward part. Raises ValueError for other towers than
    open_clip's vision transformers of two layers or more.

    >>> patches = last_layer_patches([picture], models.clip, lambda query, key, value, grid: value)
    >>> patches.shape
    (1, 8, 8, 128)
    """
    check_pictures(images)
    visual = clip.model.visual
    if (
        not isinstance(visual, VisionTransformer)
        or visual.attn_pool is not None
        or len(visual.transformer.resblocks) < 2
    ):
        raise ValueError(
            f"the last layer of the image tower, {type(visual).__name__}, has no values of patches: take a CLIP with "
            "open_clip's vision transformer, or the view dense"
        )
    *_, last = visual.transformer.resblocks
    held = visual.forward_intermediates(
        clip.squashed(images),
        indices=[len(visual.transformer.resblocks) - 2],
        stop_early=True,
        output_fmt="NLC",
        output_extra_tokens=True,
        intermediates_only=True,
    )
    tokens = torch.cat([held["image_intermediates_prefix"][0], held["image_intermediates"][0]], dim=1)
    rows, columns = (pixels // patch for pixels, patch in zip(visual.image_size, visual.patch_size, strict=True))
    attention = last.attn
    projected = F.linear(last.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in projected)
    found = attention.out_proj(attend(query, key, value, (rows, columns)).transpose(1, 2).flatten(2))
    if whole:
        tokens = tokens + last.ls_1(found)
        found = tokens + last.ls_2(last.mlp(last.ln_2(tokens)))
    patches = (visual.ln_post(found)[:, 1:] @ visual.proj).float().cpu()
    return patches.unflatten(1, (rows, columns)).numpy()


class CrossAttention(View):
    """How much a mask looks at a name, by the UNet's cross-attention: one pass for each name that may be given (METHOD, row 12).

    A name's score is the mean over the mask of its attention, which goes from 0, its least, to 1, its highest: no
    probability, and 0 for names that may not be given or stand for background; so a threshold says what is background.
    """

    kind: Literal["cross_attention"] = "cross_attention"
    attention_grid: PositiveInt = Field(
        16, description="side of the maps that are read, in cells; the nearest there is"
    )
    timestep: NonNegativeInt = Field(100, le=999, description="at which the latent is noised, 0 to 999")
    grid: PositiveInt = Field(32, le=256, description="cells a side that maps are enlarged to, bilinearly")

    def score(
        self,
        image: np.ndarray,
        masks: np.ndarray,
        names: Sequence[str],
        models: Models,
        eligible: Sequence[int] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        found = np.zeros((len(masks), len(names)), np.float32)
        on = covered(masks, self.grid, self.grid)
        for name in range(len(names)) if eligible is None else eligible:
            prompts = [(template.format(names[name]), names[name]) for template in self.templates]
            of_prompts = [
                name_attention(image, prompt, said, models.diffusion, self.attention_grid, self.timestep, seed)
                for prompt, said in prompts
            ]
            looks = stack([np.mean(of_prompts, axis=0)[None]], self.grid)[0]
            looks = (looks - looks.min()) / max(float(np.ptp(looks)), 1e-12)
            found[:, name] = (on * looks).sum(axis=(1, 2)) / np.maximum(on.sum(axis=(1, 2)), 1e-12)
        return found


def name_attention(
    image: np.ndarray, prompt: str, name: str, diffusion: Diffusion, grid: int = 16, timestep: int = 100, seed: int = 0
) -> np.ndarray:
    """How much each position looks at the name's tokens in the prompt, the mean over them and the maps: (grid, grid) float32.

    image: (H, W, 3) uint8; the name stands in the prompt as it is. Raises ValueError where it does not, or beyond the end
    of what the text encoder reads.

    >>> name_attention(picture, "a photo of a dog", "dog", models.diffusion).shape
    (16, 16)
    """
    tokenizer = diffusion.tokenizers[0]
    before, found, _ = prompt.partition(name)
    first, count = len(tokenizer(before.strip()).input_ids) - 1, len(tokenizer(name).input_ids) - 2
    if not found or first + count >= tokenizer.model_max_length:
        raise ValueError(
            f"{name!r} is not in what is read of the prompt {prompt!r}: put it in, and nearer to its beginning"
        )
    taps = find_taps(diffusion, grid=grid)
    passed, noise = latents([image], diffusion, seed), [image_seed(image, "noise", seed)]
    queries = features(passed, diffusion, taps, noise, timestep, prompt)
    maps = [cross_attention_maps(array, tap, diffusion, prompt)[0] for array, tap in zip(queries, taps)]
    return np.mean([array[first : first + count].mean(axis=0) for array in maps], axis=0)
