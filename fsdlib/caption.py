"""Stage 1, caption: what the picture shows, in one sentence (BLIP, arXiv 2201.12086)."""

from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from fsdlib.choice import Choice
from fsdlib.models import Captioner, NotFinite, check_pictures

_CAPTIONING = Lock()  # a processor bears no two threads, and how beams are scored is the model's for as long


@torch.no_grad()
def caption(
    images: Sequence[np.ndarray],
    captioner: Captioner,
    prompt: str = "a picture of ",
    beams: int = 3,
    min_tokens: int = 10,
    max_tokens: int = 30,
    divide_by: Literal["whole", "generated"] = "whole",
) -> list[str]:
    """One caption an image by beam search, without the prompt, in lower case (METHOD, row 1).

    images: (H, W, 3) uint8 RGB, of any sizes; the captioner's own preprocessing squashes them to its input. divide_by: the
    length by which a beam's log probability is divided, that of the whole text or of what was generated. Raises ValueError
    without images or pixels, and NotFinite where the captioner gives NaN, among which no beam is the best.

    >>> len(caption([picture, picture[:90]], models.captioner))
    2
    """
    check_pictures(images)
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    settings = dict(num_beams=beams, min_length=min_tokens, max_length=max_tokens, do_sample=False)

    def generated() -> list[str]:
        with _CAPTIONING:
            inputs = captioner.processor(images=pictures, text=[prompt] * len(pictures), return_tensors="pt")
            inputs = inputs.to(captioner.model.device, captioner.model.dtype)
            with _scored_by_whole_length(captioner) if divide_by == "whole" else nullcontext():
                tokens = captioner.model.generate(**inputs, **settings, logits_processor=[_numbers])
            return captioner.processor.batch_decode(tokens, skip_special_tokens=True)

    store, options = captioner.store, ["caption", prompt, settings, divide_by]
    sentences = store.texts(options, images, generated) if store else generated()
    return [" ".join(sentence.lower().removeprefix(prompt.strip().lower()).split()) for sentence in sentences]


def _numbers(_, scores: torch.Tensor) -> torch.Tensor:
    """The scores of the next token, as they are: minus infinity for one that must not come, but never NaN."""
    if scores.isnan().any():
        raise NotFinite("the captioner gives numbers that are not finite: load the models with dtype=torch.float32")
    return scores


@contextmanager
def _scored_by_whole_length(captioner: Captioner):
    """Beams are scored by their whole length within the block, as transformers did before version 4.27.

    A beam that ends was divided by its tokens before the end, the prompt's among them; one that is cut at the longest
    length by all of its tokens. BLIP alone has its prompt among the tokens that count: with other captioners, whose
    prompt is given as embeddings, nothing changes.
    """
    decoder = getattr(captioner.model, "text_decoder", None)
    if decoder is None:
        yield
        return
    finish, may_improve = decoder._update_finished_beams, decoder._check_early_stop_heuristic
    end, best = captioner.model.config.text_config.sep_token_id, None

    def finish_by_whole_length(*, topk_log_probs, topk_running_sequences, cur_len, length_penalty, **others):
        nonlocal best
        best = topk_log_probs[:, :1]
        ended = topk_running_sequences[:, :, cur_len] == end
        scores = topk_log_probs / torch.where(ended, cur_len, cur_len + 1) ** length_penalty
        others |= dict(topk_running_sequences=topk_running_sequences, cur_len=cur_len, length_penalty=0.0)
        return finish(topk_log_probs=scores, **others)

    def may_improve_by_whole_length(*, running_beam_scores, decoder_prompt_len, **others):
        # the best beam of all, one that has just ended too, by its length before this step
        return may_improve(running_beam_scores=best, decoder_prompt_len=1, **others)

    decoder._update_finished_beams = finish_by_whole_length
    decoder._check_early_stop_heuristic = may_improve_by_whole_length
    try:
        yield
    finally:
        del decoder._update_finished_beams, decoder._check_early_stop_heuristic


class Captioning(Choice):
    """How a picture gets its caption."""

    def caption(self, images: Sequence[np.ndarray], captioner: Captioner) -> list[str]:
        """One sentence an image, (H, W, 3) uint8 RGB of any size."""
        raise NotImplementedError


class BeamSearch(Captioning):
    """The captioner continues a prompt; the most probable of several sentences wins (METHOD, row 1)."""

    kind: Literal["beam_search"] = "beam_search"
    prompt: str = Field("a picture of ", description="what the captioner continues")
    beams: PositiveInt = Field(3, description="sentences followed at once")
    min_tokens: NonNegativeInt = Field(10, description="shortest caption, in tokens, prompt included")
    max_tokens: PositiveInt = Field(30, description="longest caption, in tokens, prompt included")

    divide_by: Literal["whole", "generated"] = Field(
        "whole", description="length that a sentence's score is divided by: of all its tokens, or without the prompt's"
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, above max_tokens, {self.max_tokens}: swap them")
        return self

    def caption(self, images: Sequence[np.ndarray], captioner: Captioner) -> list[str]:
        return caption(images, captioner, self.prompt, self.beams, self.min_tokens, self.max_tokens, self.divide_by)
