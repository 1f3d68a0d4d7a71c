"""Stage 1, caption: what the picture shows, in one sentence (RECIPE row 1; BLIP, arXiv 2201.12086)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

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
    """
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    inputs = captioner.processor(images=pictures, text=[prompt] * len(pictures), return_tensors="pt")
    inputs = inputs.to(captioner.model.device, captioner.model.dtype)
    tokens = captioner.model.generate(
        **inputs, num_beams=beams, min_length=min_tokens, max_length=max_tokens, do_sample=False
    )
    sentences = captioner.processor.batch_decode(tokens, skip_special_tokens=True)
    return [" ".join(sentence.lower().removeprefix(prompt.strip().lower()).split()) for sentence in sentences]
