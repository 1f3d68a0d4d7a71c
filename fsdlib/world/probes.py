"""What a diffusion model's features and its cross-attention are worth on scenes, apart from captions and names.

Training watches its UNet with these measures, and `fsdlib.world.reached` reports them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter
from transformers import CLIPTokenizer

from fsdlib.backbones import mean_colours
from fsdlib.clusters import KMeans, averaged, masks
from fsdlib.features import Features, cross_attention_maps, features, find_taps, image_seed, latents, stack
from fsdlib.measure import scores
from fsdlib.models import Diffusion, Models
from fsdlib.vocabulary import Vocabulary, plural
from fsdlib.world.scenes import Scene, world_classes

# The tap, timestep and noises that were the best on train scenes: see notebooks/90_train_mini.ipynb
PROBE_TAPS: dict[str, Any] = dict(kind="cross_attention_query", blocks="all", grid=16)
PROBE_PASS = dict(timestep=300, noise_samples=3)
GRID = 16


def matched_counts(array: np.ndarray, truth: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """K-means on (C, h, w) features, every cluster given its majority class; K: the classes in the truth plus one.

    Background is one of them. Returns the confusion count of `fsdlib.measure.scores` at the truth's size: what features
    are worth apart from names.
    """
    k = len(np.setdiff1d(truth, [scores.VOID])) + 1
    regions = masks(KMeans(count=k).group(array, seed), *truth.shape).argmax(axis=0)
    return scores.confusion(scores.majority_labels(regions, truth), truth, classes)


def colour_score(scenes: Sequence[Scene]) -> float:
    """Majority-matched dataset mIoU of mean colours in GRID x GRID cells; what features have to beat."""
    return _matched_miou([mean_colours(scene.image, GRID) for scene in scenes], scenes)


def feature_scores_at(diffusion: Diffusion, scenes: Sequence[Scene], timestep: int) -> tuple[float, float]:
    """Majority-matched dataset mIoU of PROBE_TAPS' features under no caption: plain, and averaged over 3 x 3 cells."""
    taps, arrays = find_taps(diffusion, **PROBE_TAPS), []
    for scene in scenes:
        seeds = [image_seed(scene.image, "noise")]
        latent = latents([scene.image], diffusion)
        found = features(latent, diffusion, taps, seeds, timestep, noise_samples=PROBE_PASS["noise_samples"])
        arrays.append(stack([array[0] for array in found], GRID, normalise=True))
    smooth = [uniform_filter(array, (0, 3, 3), mode="nearest") for array in arrays]
    return _matched_miou(arrays, scenes), _matched_miou(smooth, scenes)


def _matched_miou(arrays: Sequence[np.ndarray], scenes: Sequence[Scene]) -> float:
    classes = len(world_classes()) + 1
    counts = [
        matched_counts(array, scene.labels, classes, image_seed(scene.image, "clusters"))
        for array, scene in zip(arrays, scenes)
    ]
    return scores.miou(counts)["dataset"]


def masks_worth(scenes: Sequence[Scene], reading: Features, models: Models, cells: int = 1, seed: int = 0) -> float:
    """What masks are worth apart from names, 0 to 1: the mean over scenes of the mIoU of k-means with majority classes.

    reading: what positions are compared by, averaged over `cells` cells a side; K: the labels in a scene's truth.
    """
    maps = reading.read([scene.image for scene in scenes], models, seed)[1]
    worth = []
    for i, scene in enumerate(scenes):
        array = averaged(reading.stacked([of_place[i] for of_place in maps]), cells)
        clusters = KMeans(count=len(np.unique(scene.labels))).group(array, image_seed(scene.image, "clusters", seed))
        worth.append(scores.matched_miou(clusters, scene.labels))
    return scores.mean(worth)


def probe_taps(
    diffusion: Diffusion, scenes: Sequence[Scene], timesteps: Sequence[int] = (10, 100, 300), noise_samples: int = 3
) -> pd.DataFrame:
    """Majority-matched mIoU of each self-attention output, and of the paper's queries together, at each timestep.

    For choosing taps: give it scenes of the train split. Rows: tap and timestep.
    """
    grids = {tap.grid for grid in (1, 10**6) for tap in find_taps(diffusion, grid=grid)}
    single = [tap for grid in sorted(grids) for tap in find_taps(diffusion, "self_attention_output", grid=grid)]
    groups = {tap.module: [tap] for tap in single} | {"all queries at 16x16": find_taps(diffusion)}
    rows = []
    for timestep in timesteps:
        arrays: dict[str, list[np.ndarray]] = {name: [] for name in groups}
        for scene in scenes:
            latent = latents([scene.image], diffusion)
            everything = [tap for taps in groups.values() for tap in taps]
            found = features(
                latent, diffusion, everything, [image_seed(scene.image, "noise")], timestep, "", noise_samples
            )
            maps = {tap: array[0] for tap, array in zip(everything, found)}
            for name, taps in groups.items():
                arrays[name].append(stack([maps[tap] for tap in taps], GRID, normalise=True))
        rows += [
            dict(tap=name, timestep=timestep, miou=_matched_miou(of_name, scenes)) for name, of_name in arrays.items()
        ]
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------- the pointing game


def pointing_game(
    diffusion: Diffusion, scenes: Sequence[Scene], vocabulary: Vocabulary, timestep: int = 500, seed: int = 0
) -> dict[str, float]:
    """How often the word of a class in a scene's first caption looks at the class's object.

    A word looks where its cross-attention is highest (see `words_attention`). Returns `pairs`, the number of (scene, class word); `right`, the share of
    them in which that cell lies on the object; `chance`, the objects' mean share of the cells. (The pointing game:
    Zhang et al., arXiv 1608.00507, there with a margin.) Raises ValueError where no caption holds a class word.
    """
    outcomes = [
        pointed(attention, scene.labels == label)
        for scene in scenes
        for label, attention in words_attention(diffusion, scene, vocabulary, timestep, seed).items()
    ]
    if not outcomes:
        raise ValueError("no caption of these scenes holds a word of the vocabulary's classes: give both of one world")
    right, chance = np.mean(outcomes, axis=0)
    return dict(pairs=len(outcomes), right=float(right), chance=float(chance))


def words_attention(
    diffusion: Diffusion, scene: Scene, vocabulary: Vocabulary, timestep: int = 500, seed: int = 0
) -> dict[int, np.ndarray]:
    """The cross-attention of every class word in a scene's first caption: {label: (GRID, GRID) floats}.

    The sum over the word's tokens, the mean over heads and over the decoder's taps of GRID cells a side.
    """
    taps = [tap for tap in find_taps(diffusion, grid=GRID) if tap.module.startswith("up_blocks")]
    sentence, noise_seed = scene.captions[0], image_seed(scene.image, "noise", seed)
    queries = features(latents([scene.image], diffusion, seed), diffusion, taps, [noise_seed], timestep, sentence)
    of_taps = [cross_attention_maps(array, tap, diffusion, sentence)[0] for array, tap in zip(queries, taps)]
    attention, words = np.mean(of_taps, axis=0), class_tokens(sentence, vocabulary, diffusion.tokenizers[0])
    return {label: attention[places].sum(axis=0) for label, places in words.items()}


def pointed(attention: np.ndarray, mask: np.ndarray) -> tuple[bool, float]:
    """Whether the centre of the cell with the highest attention lies on the object, and the share of the cells that do.

    attention: (h, w) floats; mask: (H, W) bool, where the object is.
    """
    rows, columns = (
        ((np.arange(cells) + 0.5) * pixels / cells).astype(int) for cells, pixels in zip(attention.shape, mask.shape)
    )
    on_object = mask[np.ix_(rows, columns)]
    return bool(on_object.flat[attention.argmax()]), float(on_object.mean())


def class_tokens(sentence: str, vocabulary: Vocabulary, tokenizer: CLIPTokenizer) -> dict[int, list[int]]:
    """Where a sentence names classes: {label: places of its words' tokens, as the text encoder counts them}.

    A class is named by any of its synonyms, in the singular or the plural; longer ones first, so that no token speaks
    of two classes.
    """
    forms = [
        (form, label)
        for label, ways in enumerate(vocabulary.synonyms[1:], 1)
        for word in ways
        for form in (word, plural(word))
    ]
    tokens: list[int | None] = list(tokenizer(sentence, truncation=True).input_ids)
    found: dict[int, list[int]] = {}
    for form, label in sorted(forms, key=lambda pair: -len(pair[0])):
        wanted = tokenizer(form).input_ids[1:-1]  # without the beginning and the end
        for start in range(len(tokens) - len(wanted) + 1):
            if tokens[start : start + len(wanted)] == wanted:
                found.setdefault(label, []).extend(range(start, start + len(wanted)))
                tokens[start : start + len(wanted)] = [None] * len(wanted)
    return {label: sorted(found[label]) for label in sorted(found)}
