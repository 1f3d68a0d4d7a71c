"""The scenes that the embedded models learn from: drawn once and kept, augmented for some of them."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.ndimage import uniform_filter
from tqdm import tqdm

from fsdlib.project import TRAINING, write_atomically
from fsdlib.world.scenes import STYLES, VOID, WORLD, close_up, scene_of_split
from fsdlib.world.training.settings import Settings

MEAN, STD = np.float32(open_clip.OPENAI_DATASET_MEAN), np.float32(open_clip.OPENAI_DATASET_STD)


@dataclass(frozen=True)
class SceneArrays:
    """Scenes at the models' size: images (N, S, S, 3), labels and patterns (N, S, S), all uint8, three captions each."""

    images: np.ndarray
    labels: np.ndarray
    patterns: np.ndarray
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "SceneArrays":
        return SceneArrays(self.images[part], self.labels[part], self.patterns[part], self.captions[part])


def _small_scene(
    arguments: tuple[str, int, int, int, tuple[str, ...]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    kind, number, seed, side, styles = arguments
    scene = scene_of_split("train", number, seed, styles=styles)
    if kind == "close-ups":
        scene = close_up(scene, np.random.default_rng([seed, 2, number]))

    def shrunk(array: np.ndarray, how: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((side, side), how))

    return (
        shrunk(scene.image, Image.Resampling.BICUBIC),
        shrunk(scene.labels),
        shrunk(scene.patterns),
        list(scene.captions),
    )


def training_scenes(settings: Settings, folder: Path = TRAINING) -> tuple[SceneArrays, SceneArrays]:
    """The scenes to train on and those held out, drawn once and kept in `folder`; none of them is in the val split."""
    everything = _drawn("scenes", range(settings.scenes + settings.held_out), settings, folder)
    return everything[: settings.scenes], everything[settings.scenes :]


def training_close_ups(settings: Settings, folder: Path = TRAINING) -> tuple[SceneArrays, SceneArrays]:
    """Close-ups of the first training scenes, and one of each scene held out; kept as those are."""
    count = min(settings.close_ups, settings.scenes)
    everything = _drawn(
        "close-ups", [*range(count), *range(settings.scenes, settings.scenes + settings.held_out)], settings, folder
    )
    return everything[:count], everything[count:]


def _drawn(kind: str, numbers: Sequence[int], settings: Settings, folder: Path) -> SceneArrays:
    styles = settings.styles if settings.styles != STYLES else ()
    stem = Path(folder) / "-".join(map(str, [kind, WORLD, settings.seed, len(numbers), settings.side, *styles]))
    if not stem.with_suffix(".json").exists():
        with ProcessPoolExecutor(settings.workers) as pool:
            jobs = ((kind, number, settings.seed, settings.side, settings.styles) for number in numbers)
            drawn = list(tqdm(pool.map(_small_scene, jobs, chunksize=32), total=len(numbers), desc=kind))
        images, labels, patterns, captions = zip(*drawn)
        arrays = {"images": np.stack(images), "labels": np.stack(labels), "patterns": np.stack(patterns)}
        write_atomically(stem.with_suffix(".safetensors"), save({k: torch.from_numpy(v) for k, v in arrays.items()}))
        write_atomically(stem.with_suffix(".json"), json.dumps(captions))
    arrays = {k: v.numpy() for k, v in read_tensors(stem.with_suffix(".safetensors")).items()}
    return SceneArrays(**arrays, captions=json.loads(stem.with_suffix(".json").read_text()))


def read_tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """All that a safetensors file holds, by name; raises ValueError where it is damaged."""
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or move it away to begin anew") from error


def augmented(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scenes as another hand might have drawn them: other hues, contrast and sharpness, and a patch that hides a part.

    images: (N, S, S, 3) uint8, labels: (N, S, S) uint8; returns both, new, void where the patch lies.
    """
    n, side = len(labels), labels.shape[1]
    turn, saturation, contrast = random.normal(0, 0.35, n), random.uniform(0.5, 1.3, n), random.uniform(0.6, 1.3, n)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)  # the axis of greys, about which hues turn
    grey, cos, sin = np.full((3, 3), 1 / 3), np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    hue = cos * np.eye(3) + sin * cross + (1 - cos) * grey
    colours = contrast[:, None, None] * (saturation[:, None, None] * hue + (1 - saturation[:, None, None]) * grey)
    pixels = (images.reshape(n, -1, 3) - 128.0) @ colours.transpose(0, 2, 1) + 128 + random.uniform(-25, 25, (n, 1, 1))
    pixels = pixels.astype(np.float32).reshape(images.shape)
    soft = np.flatnonzero(random.random(n) < 0.3)
    pixels[soft] = uniform_filter(pixels[soft], (0, 3, 3, 0))
    labels = labels.copy()
    for i in np.flatnonzero(random.random(n) < 0.3):
        height, width = random.integers(side // 10, side // 3, 2)
        top, left = random.integers(0, side - height), random.integers(0, side - width)
        pixels[i, top : top + height, left : left + width] = random.uniform(0, 255, 3)
        labels[i, top : top + height, left : left + width] = VOID
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


def signed(images: np.ndarray, device: str) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous().to(device)


def normalised(images: np.ndarray, device: str) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) float32 with CLIP's mean and deviation."""
    return torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous().to(device)
