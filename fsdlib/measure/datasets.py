"""Datasets, read and checked where they lie, with one meaning of labels: 0 background, 1 to N the classes, 255 void."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.io
from PIL import ExifTags, Image, ImageOps
from pycocotools.coco import COCO

from fsdlib.vocabulary import VOID, Vocabulary


class IncompleteDataset(ValueError):
    """Files of a dataset are missing or damaged; the message lists all of them by kind."""


def centre_square(array: np.ndarray) -> np.ndarray:
    """The square in the middle of (H, W, ...), a view, one pixel shorter than the shorter side.

    What DiffCut's evaluation shows its model and scores (github.com/PaulCouairon/DiffCut, dataloader/iterator.py, commit
    aa16df4), with torchvision's rounding of the offset. There the squares are then enlarged to 1024 x 1024, labels by
    nearest neighbour; here they keep their size, which changes IoU by what such enlarging repeats of edges alone.
    """
    side = min(array.shape[:2]) - 1
    top, left = (round((length - side) / 2) for length in array.shape[:2])
    return array[top : top + side, left : left + side]


@dataclass(frozen=True)
class Dataset:
    """A split of a dataset: image `i` is `dataset.image(i)` and its ground truth `dataset.labels(i)`.

    Pictures are read as they are stored: the official annotations count stored pixels, whatever EXIF says about turning
    them.
    expected: how many images the official split has, None where there is no such number.
    void_is_background: whether void counts as label 0 in the `per_image` protocol (see `fsdlib.measure.scores`).
    centre_crops: whether pictures and labels are cut to `centre_square`.
    """

    name: str
    root: Path
    split: str
    vocabulary: Vocabulary
    ids: tuple[str, ...]
    pictures: tuple[Path, ...] = field(repr=False)
    masks: tuple[Path, ...] = field(repr=False)  # empty where there is no ground truth
    lookup: np.ndarray = field(
        repr=False, compare=False
    )  # the label of each value in the files, -1 for values that must not be there
    expected: int | None = None
    void_is_background: bool = True
    centre_crops: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def complete(self) -> bool:
        """Whether this is the whole official split and no selection of it."""
        return self.expected in (None, len(self))

    @property
    def has_labels(self) -> bool:
        return bool(self.masks)

    def picture(self, index: int) -> Path:
        """The file of an image."""
        return self.pictures[index]

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, RGB."""
        return self._cut(np.asarray(Image.open(self.picture(index)).convert("RGB")))

    def _cut(self, array: np.ndarray) -> np.ndarray:
        return centre_square(array) if self.centre_crops else array

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the whole picture, from the file's header alone."""
        with Image.open(self.picture(index)) as picture:
            return picture.height, picture.width

    def labels(self, index: int) -> np.ndarray:
        """(H, W) uint8: labels of the vocabulary, 0 for background and 255 for void.

        Raises ValueError, naming the file, where it cannot be read or holds a value that stands for no label.
        """
        raw = self._raw(index)
        if strange := self._strange(raw):
            raise ValueError(
                f"{self.root / self._truth(index)} holds values that are no labels of {self.name} ({strange[:5]}): is this {self.name}?"
            )
        return self._cut(self.lookup[raw].astype(np.uint8))

    def check(self, indices: Iterable[int] | None = None) -> None:
        """Look at every file of these images (all by default): pictures' headers, masks in full.

        Raises IncompleteDataset with all that is wrong, by kind: missing and unreadable pictures and masks, masks of
        another size than their picture, labels out of range.
        """
        with ThreadPoolExecutor() as pool:
            faults = [
                fault
                for of_image in pool.map(self._faults, range(len(self)) if indices is None else indices)
                for fault in of_image
            ]
        if faults:
            kinds: dict[str, list[str]] = {}
            for kind, file in faults:
                kinds.setdefault(kind, []).append(file)
            lines = [
                f"  {kind}: {len(files)} ({', '.join(files[:3])}{', ...' if len(files) > 3 else ''})"
                for kind, files in kinds.items()
            ]
            raise IncompleteDataset(
                "\n".join([f"{self.name} under {self.root} is damaged; replace these files:", *lines])
            )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of which files the split has and how long each is: a dataset that was rewritten has another."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()

    @cached_property
    def captions(self) -> dict[str, list[str]]:
        """The captions by image id from captions.json or COCO's own file, else an empty dict."""
        for path in (self.root / "captions.json", self.root / "annotations" / f"captions_{self.split}2017.json"):
            if path.exists():
                break
        else:
            return {}
        content = json.loads(path.read_text())
        stems = {picture["id"]: Path(picture["file_name"]).stem for picture in content["images"]}
        captions: dict[str, list[str]] = {}
        for annotation in content["annotations"]:
            captions.setdefault(stems[annotation["image_id"]], []).append(annotation["caption"])
        return captions

    def _content(self) -> list:
        files = (self.pictures, self.masks) if self.has_labels else (self.pictures,)
        return [(i, *(path.stat().st_size for path in paths)) for i, *paths in zip(self.ids, *files, strict=True)]

    def _truth(self, index: int) -> str:
        """Where the ground truth of an image is, for messages."""
        return str(self.masks[index].relative_to(self.root))

    def _read(self, index: int) -> np.ndarray:
        """The numbers in a mask's file, before `lookup` makes them labels."""
        return np.asarray(Image.open(self.masks[index]))

    def _raw(self, index: int) -> np.ndarray:
        """(H, W) unsigned integers.

        Raises FileNotFoundError for a missing file and ValueError for one that cannot be read.
        """
        if not self.has_labels:
            raise ValueError(
                f"{self.name} under {self.root} has no ground truth: add masks/, or use the pictures alone"
            )
        try:
            raw = self._read(index)
        except FileNotFoundError:
            raise
        except Exception as error:  # decoders raise whatever comes to them on a damaged file
            raise ValueError(f"{self.root / self._truth(index)} cannot be read ({error}): replace it") from error
        if raw.ndim != 2 or raw.dtype.kind not in "bui":
            raise ValueError(
                f"{self.root / self._truth(index)} has no single number a pixel but {raw.shape} {raw.dtype}: save it as palette or grey PNG"
            )
        return raw.astype(np.uint8) if raw.dtype == bool else raw

    def _strange(self, raw: np.ndarray) -> list[int]:
        """The values that stand for no label."""
        return [int(value) for value in np.unique(raw) if not 0 <= value < len(self.lookup) or self.lookup[value] < 0]

    def _faults(self, index: int) -> list[tuple[str, str]]:
        found, size, picture = [], None, str(self.picture(index).relative_to(self.root))
        try:
            size = self.size(index)
        except FileNotFoundError:
            found.append(("missing pictures", picture))
        except Exception:  # as in _raw
            found.append(("unreadable pictures", picture))
        if not self.has_labels:
            return found
        try:
            raw = self._raw(index)
        except FileNotFoundError:
            return [*found, ("missing masks", self._truth(index))]
        except ValueError:
            return [*found, ("unreadable masks", self._truth(index))]
        if size and raw.shape != size:
            found.append(("masks of another size than their picture", self._truth(index)))
        if self._strange(raw):
            found.append(("masks with labels out of range", self._truth(index)))
        return found


@dataclass(frozen=True)
class CocoObjects(Dataset):
    """COCO's objects, drawn from their polygons and run-length codes.

    Crowds are drawn first, then objects from the largest area to the smallest, so that small ones stay visible; of
    equal areas the later annotation lies on top. The label maps of the literature are the things of COCO-Stuff's
    stuffthingmaps and may differ where objects overlap and in crowds.
    """

    annotations: COCO = field(default=None, repr=False, compare=False)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {Path(picture["file_name"]).stem: number for number, picture in self.annotations.imgs.items()}

    def _truth(self, index: int) -> str:
        return f"{super()._truth(index)} (image {self.ids[index]})"

    def _read(self, index: int) -> np.ndarray:
        number = self._numbers[self.ids[index]]
        raw = np.zeros((self.annotations.imgs[number]["height"], self.annotations.imgs[number]["width"]), np.uint8)
        for drawn in sorted(
            self.annotations.imgToAnns.get(number, ()), key=lambda a: (not a["iscrowd"], -a["area"], a["id"])
        ):
            raw[self.annotations.annToMask(drawn).astype(bool)] = drawn["category_id"]
        return raw


@dataclass(frozen=True)
class ContextMatrices(Dataset):
    """Pascal Context's annotation as published: one MATLAB file an image, with 459 classes."""

    def _read(self, index: int) -> np.ndarray:
        return scipy.io.loadmat(self.masks[index])["LabelMap"]


@dataclass(frozen=True)
class Ade20kFull(Dataset):
    """ADE20K's full release (2021_17_01): each pixel's object as a number in the red and green of a picture's _seg.png.

    What a number means stands in the JSON beside the picture (format: github.com/CSAILVision/ADE20K). `numbers`: the
    labels of the objects that count, by their names there; all others, and what is not annotated, are void, which is
    label 0 in FreeSeg-Diff's release. That draws the visible masks of single objects, parts as the object they are of: on
    the three pictures which the dataset's repository shows, at least 99.93 % of the pixels are the same object.
    """

    numbers: dict[str, int] = field(default_factory=dict, repr=False)

    def _content(self) -> list:
        described = [path.with_suffix(".json") for path in self.pictures]
        lengths = [path.stat().st_size if path.exists() else 0 for path in described]
        return [*super()._content(), lengths, self.numbers]  # the list is the copy's own

    def _read(self, index: int) -> np.ndarray:
        colours = np.asarray(Image.open(self.masks[index])).astype(np.int32)
        values, places = np.unique(colours[..., 0] // 10 * 256 + colours[..., 1], return_inverse=True)
        annotation = json.loads(self.picture(index).with_suffix(".json").read_text(encoding="latin-1"))["annotation"]
        labels = {0: VOID} | {
            int(one["name_ndx"]): self.numbers.get(one["name"], VOID)
            for one in annotation["object"]
            if int(one["parts"]["part_level"]) == 0
        }
        if unknown := [int(value) for value in values if value not in labels]:
            raise ValueError(f"numbers {unknown[:5]} are no objects of its JSON")
        return np.array([labels[value] for value in values], np.uint8)[places].reshape(colours.shape[:2])


@dataclass(frozen=True)
class Folder(Dataset):
    """Pictures of one's own, turned upright as EXIF says, which is how they were seen when their masks were drawn."""

    def image(self, index: int) -> np.ndarray:
        return self._cut(np.asarray(ImageOps.exif_transpose(Image.open(self.picture(index))).convert("RGB")))

    def size(self, index: int) -> tuple[int, int]:
        with Image.open(self.picture(index)) as picture:
            lying = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # 5 to 8 turn by a quarter
            return (picture.width, picture.height) if lying else (picture.height, picture.width)

    def _content(self) -> list:
        return [*super()._content(), self.vocabulary.names]  # the classes are not given by the dataset's name
