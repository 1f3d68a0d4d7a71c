"""Stage 1, caption: what the picture shows, in one sentence (BLIP, arXiv 2201.12086)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fsdlib.choice import Choice
from fsdlib.models import Captioner


@torch.no_grad()
def caption(
    images: Sequence[np.ndarray],
    captioner: Captioner,
    prompt: str = "a picture of ",
    beams: int = 3,
    min_tokens: int = 10,
    max_tokens: int = 30,
) -> list[str]:
    """One caption an image by beam search, without the prompt, in lower case.

    images: (H, W, 3) uint8 RGB, of any sizes; the captioner's own preprocessing squashes them to its input.

    >>> len(caption([picture, picture[:90]], models.captioner))
    2
    """
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    inputs = captioner.processor(images=pictures, text=[prompt] * len(pictures), return_tensors="pt")
    inputs = inputs.to(captioner.model.device, captioner.model.dtype)
    tokens = captioner.model.generate(
        **inputs, num_beams=beams, min_length=min_tokens, max_length=max_tokens, do_sample=False
    )
    sentences = captioner.processor.batch_decode(tokens, skip_special_tokens=True)
    return [" ".join(sentence.lower().removeprefix(prompt.strip().lower()).split()) for sentence in sentences]


class Captioning(Choice):
    """How a picture gets its caption."""

    def caption(self, images: Sequence[np.ndarray], captioner: Captioner) -> list[str]:
        """One sentence an image, (H, W, 3) uint8 RGB of any size."""
        raise NotImplementedError


class BeamSearch(Captioning):
    """The captioner continues a prompt; the most probable of several sentences wins."""

    kind: Literal["beam_search"] = "beam_search"
    prompt: str = Field("a picture of ", description="what the captioner continues")
    beams: PositiveInt = Field(3, description="sentences followed at once")
    min_tokens: NonNegativeInt = Field(10, description="shortest caption, in tokens, prompt included")
    max_tokens: PositiveInt = Field(30, description="longest caption, in tokens, prompt included")

    @model_validator(mode="after")
    def _ordered(self):
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, above max_tokens, {self.max_tokens}: swap them")
        return self

    def caption(self, images: Sequence[np.ndarray], captioner: Captioner) -> list[str]:
        return caption(images, captioner, self.prompt, self.beams, self.min_tokens, self.max_tokens)
