"""Datasets in Pascal VOC's folder layout, read where they lie: VOC 2012 itself and the generated scenes."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from fsdlib.project import CLASSES, SCENES

VOID = 255


@dataclass(frozen=True)
class Vocabulary:
    """The classes that label maps count in: `names[label]`, with label 0 for background.

    synonyms[label]: every way to say the class, its name first. Names are written as a person would say them
    ("potted plant"), since CLIP reads them.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    background: bool = True

    def __post_init__(self):
        if not self.names or self.names[0] != "background":
            raise ValueError(f"a vocabulary starts with 'background' at label 0, this one with {self.names[:1]}: put it first")
        if len(self.names) != len(self.synonyms):
            raise ValueError(f"{len(self.names)} names and {len(self.synonyms)} lists of synonyms: give each class one list")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class names are given twice: {sorted(n for n in set(self.names) if self.names.count(n) > 1)}")

    @classmethod
    def of(cls, names: Sequence[str]) -> "Vocabulary":
        """A vocabulary from plain class names without synonyms; background is put before them."""
        names = ("background", *(name for name in names if name != "background"))
        return cls(names, tuple((name,) for name in names))

    @classmethod
    def read(cls, path: Path | str) -> "Vocabulary":
        """A vocabulary from a CSV with the columns index, name, synonyms (separated by semicolons)."""
        with open(path, newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
        if [int(row["index"]) for row in rows] != list(range(len(rows))):
            raise ValueError(f"the indices in {path} are not 0, 1, 2, ...: number the classes without gaps")
        return cls(
            tuple(row["name"] for row in rows),
            tuple((row["name"], *filter(None, (row["synonyms"] or "").split(";"))) for row in rows),
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> bytes:
        return palette()


@dataclass(frozen=True)
class Dataset:
    """A split of a dataset in VOC's layout; image `i` is `dataset.image(i)` and its ground truth `dataset.labels(i)`."""

    name: str
    root: Path
    split: str
    vocabulary: Vocabulary
    ids: tuple[str, ...]
    expected: int | None = None
    has_labels: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, RGB."""
        return np.asarray(Image.open(self.root / "JPEGImages" / f"{self.ids[index]}.jpg").convert("RGB"))

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8: labels of the vocabulary, 0 for background and 255 for void.

        Raises ValueError where the mask holds a label that the vocabulary lacks.
        """
        path = self.root / "SegmentationClass" / f"{self.ids[index]}.png"
        labels = np.asarray(Image.open(path))
        if labels.ndim != 2 or labels[labels != VOID].max(initial=0) >= len(self.vocabulary):
            raise ValueError(f"{path} is no palette mask with labels below {len(self.vocabulary)} (or {VOID}): is this {self.name}?")
        return labels

    @cached_property
    def fingerprint(self) -> str:
        """A hash of which files the split has and how long each is: another dataset, or a rewritten one, has another."""
        folders = (("JPEGImages", "jpg"), ("SegmentationClass", "png"))
        files = [(i, *((self.root / folder / f"{i}.{ending}").stat().st_size for folder, ending in folders)) for i in self.ids]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()

    @cached_property
    def captions(self) -> dict[str, list[str]]:
        """The captions by image id where the dataset brings any (captions.json, COCO's form), else an empty dict."""
        path = self.root / "captions.json"
        if not path.exists():
            return {}
        content = json.loads(path.read_text())
        stems = {picture["id"]: Path(picture["file_name"]).stem for picture in content["images"]}
        captions: dict[str, list[str]] = {}
        for annotation in content["annotations"]:
            captions.setdefault(stems[annotation["image_id"]], []).append(annotation["caption"])
        return captions


DATASETS = {
    # name: (class list, default root, where to get it)
    "scenes": ("scenes.csv", SCENES, "write them with fsdlib.scenes.write_scenes(), or run `make scenes`"),
    "voc12": ("voc12.csv", None, "get VOCtrainval_11-May-2012.tar from the Pascal VOC 2012 site and pass the folder VOCdevkit/VOC2012 as root"),
}


def open_dataset(name: str, root: Path | str | None = None, split: str = "val") -> Dataset:
    """Open a dataset by name ("scenes" or "voc12") at `root`, which only the scenes have a default for.

    Raises ValueError for an unknown name and FileNotFoundError, with what is missing and where to get it, where files lack.
    """
    if name not in DATASETS:
        raise ValueError(f"no dataset is called {name!r}: choose one of {', '.join(DATASETS)}")
    classes, default_root, source = DATASETS[name]
    if not (root or default_root):
        raise FileNotFoundError(f"dataset {name!r} needs a root: {source}")
    root = Path(root or default_root)
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listing.exists():
        raise FileNotFoundError(f"dataset {name!r} has no {listing}: {source}")
    ids = tuple(listing.read_text().split())
    wanted = [path for i in ids for path in (root / "JPEGImages" / f"{i}.jpg", root / "SegmentationClass" / f"{i}.png")]
    missing = [path for path in wanted if not path.exists()]
    if missing:
        raise FileNotFoundError(f"dataset {name!r} lacks {len(missing)} of {len(wanted)} files under {root}, first {missing[0].name}: {source}")
    return Dataset(name, root, split, Vocabulary.read(CLASSES / classes), ids)


def palette() -> bytes:
    """VOC's 256 colours as 768 bytes for PIL's putpalette: label bits, from the lowest, spread over R, G and B."""
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * place + channel)) & 1) << (7 - place) if 3 * place + channel < 8 else 0
    return colours.tobytes()


_IRREGULAR = {"person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "knife": "knives", "sheep": "sheep", "fish": "fish", "skis": "skis"}


def plural(word: str) -> str:
    """The plural of a class's name, whose last word takes the ending."""
    *before, last = word.split(" ")
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        ending = last[:-1] + "ies"
    else:
        ending = last + ("es" if last.endswith(("s", "x", "ch", "sh")) else "s")
    return " ".join([*before, _IRREGULAR.get(last, ending)])
