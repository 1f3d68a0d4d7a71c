"""What each stage is worth: every protocol's mIoU with stages replaced by the truth, over a set of pictures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from fsdlib.measure import scores
from fsdlib.models import Models
from fsdlib.oracles import ALONE, TOGETHER, segment_with
from fsdlib.pipeline import Perception
from fsdlib.recipe import Recipe
from fsdlib.vocabulary import Vocabulary


def worth(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary,
    seed: int = 0,
    variants: Sequence[Sequence[str]] = tuple(dict.fromkeys(ALONE + TOGETHER)),
    perceptions: Sequence[Perception | None] | None = None,
) -> pd.DataFrame:
    """Every protocol's mIoU with each set of perfect stages: one row a variant, one column a protocol, 0 to 1.

    perceptions: one a picture, where they are at hand, from `fsdlib.pipeline.perceive`.
    """
    counts: list[list[np.ndarray]] = [[] for _ in variants]
    for image, truth, perception in zip(
        tqdm(images, desc="oracles"), truths, perceptions or [None] * len(images), strict=True
    ):
        known = {} if perception is None else dict(perception=perception)
        for of_variant, perfect in zip(counts, variants):
            labels = segment_with(image, truth, models, recipe, vocabulary, perfect, seed, known)
            of_variant.append(scores.confusion(labels, truth, len(vocabulary)))
    return pd.DataFrame(
        [scores.miou(of_variant) for of_variant in counts],
        index=[" + ".join(perfect) or "none" for perfect in variants],
    )
