"""Datasets, read and checked where they lie, with one meaning of labels: 0 background, 1 to N the classes, 255 void."""

import hashlib
import json
import math
import stat
import struct
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from pycocotools import mask as codes
from pycocotools.coco import COCO

from fsdlib import pictures
from fsdlib.vocabulary import VOID, Vocabulary

LONGEST_NAME = 4096  # characters, as many as Linux takes for a whole path
NAMED = 20  # files of a kind that a message names; all are counted


class IncompleteDataset(ValueError):
    """Files of a dataset are missing or damaged; the message counts all of them by kind and names the first twenty."""


class OutsideRoot(ValueError):
    """A file does not lie under its dataset's root, once links and `..` are followed: it is neither read nor written."""


class NoNumbers(ValueError):
    """A mask has colours, or numbers that are not whole, where a number a pixel belongs."""


def inside(root: Path, path: Path) -> Path:
    """`path` itself, where it lies under `root` with every link and `..` followed; raises OutsideRoot where it does not."""
    try:
        if path.resolve().is_relative_to(root.resolve()):
            return path
    except (OSError, RuntimeError, ValueError):  # a circle of links, a zero byte
        pass
    raise OutsideRoot(
        f"{path} leads out of {root}: move the file there, or give the folder that holds all of them as root"
    )


def file_stem(image_id: str) -> str:
    """What the files of an image are called in a run's folder: ASCII letters, digits and _-. as they are, all else as %XX.

    No two ids share a name, none leaves the folder or is hidden, and none is longer than 165 characters: of longer ones
    the start and a hash stand.
    """
    stem = urllib.parse.quote(image_id.encode("utf-8", "surrogatepass"), safe="")  # file names that are no UTF-8
    stem = stem.replace("~", "%7E")
    if stem.startswith("."):
        stem = "%2E" + stem[1:]
    if len(stem) <= 160:
        return stem
    return f"{stem[:100]}~{hashlib.sha256(stem.encode()).hexdigest()}"


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
    Raises ValueError for more classes than a label map can tell apart, where two images have one id, or one an id that is longer than any path. Files that lie outside the root, by `..` or a link, are never read.
    """

    as_stored: ClassVar[bool] = True  # see fsdlib.pictures.read

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

    def __post_init__(self):
        if (longest := max(map(len, self.ids), default=0)) > LONGEST_NAME:
            raise ValueError(
                f"{self.name} under {self.root} lists a picture by {longest:,} characters, and no path has so many: mend its list"
            )
        for classes in filter(None, (self.vocabulary, self.vocabulary.finer)):
            if len(classes) > VOID:
                raise ValueError(
                    f"{self.name} has {len(classes)} labels, which do not fit below {VOID}, which is void: score fewer classes"
                )
        # names of files that are no UTF-8 go on as text, since tables and consoles take nothing else
        object.__setattr__(self, "ids", tuple(map(pictures.shown, self.ids)))
        if len(set(self.ids)) < len(self.ids):
            twice = sorted({one for one in self.ids if self.ids.count(one) > 1})
            raise ValueError(
                f"{self.name} under {self.root} has several pictures called {twice[:3]}: rename all but one"
            )

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
        """(H, W, 3) uint8, RGB; raises ValueError, naming the file, where `fsdlib.pictures.read` does."""
        return self._cut(pictures.read(inside(self.root, self.picture(index)), self.as_stored))

    def _cut(self, array: np.ndarray) -> np.ndarray:
        return centre_square(array) if self.centre_crops else array

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the whole picture, from the file's header alone."""
        return pictures.size(inside(self.root, self.picture(index)), self.as_stored)

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

        Raises IncompleteDataset with all that is wrong, by kind: files outside the root, missing and unreadable pictures
        and masks, masks in colours, masks of another size than their picture, labels out of range.
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
                f"  {kind}: {len(files)} ({', '.join(files[:NAMED])}{', ...' if len(files) > NAMED else ''})"
                for kind, files in kinds.items()
            ]
            raise IncompleteDataset(
                "\n".join([f"{self.name} under {self.root} is damaged; replace these files:", *lines])
            )

    def content(self, index: int) -> str:
        """A hash of every byte in an image's files, read once in a process and again when their size or time changed."""
        return _sha256([self._hash(path) for path in self._files(index)])

    def contents(self, indices: Iterable[int]) -> list[str]:
        """`content` of each of these images, read side by side."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.content, indices))

    @cached_property
    def selection(self) -> str:
        """A hash of which images the split has and what the values in their files mean; no file is read for it."""
        return _sha256(self._meaning())

    @property
    def fingerprint(self) -> str:
        """A hash of which images the split has, what their values mean, and every byte in their files as they are now."""
        return _sha256([self.selection, *self.contents(range(len(self)))])

    @cached_property
    def captions(self) -> dict[str, list[str]]:
        """The captions by image id from captions.json or COCO's own file, else an empty dict.

        Raises ValueError where the file is not in COCO's form.
        """
        for path in (self.root / "captions.json", self.root / "annotations" / f"captions_{self.split}2017.json"):
            if path.exists():
                break
        else:
            return {}
        inside(self.root, path)
        captions: dict[str, list[str]] = {}
        try:
            content = json.loads(path.read_bytes())
            stems = {picture["id"]: Path(picture["file_name"]).stem for picture in content["images"]}
            for annotation in content["annotations"]:
                if not isinstance(annotation["caption"], str):
                    raise ValueError("a caption is no text")
                captions.setdefault(stems[annotation["image_id"]], []).append(annotation["caption"])
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no captions in COCO's form ({error!r}): replace it") from error
        return captions

    def _meaning(self) -> list:
        """What a fingerprint has beside the files' bytes: what the dataset's name does not say already."""
        return [self.ids]

    def _files(self, index: int) -> list[Path]:
        return [files[index] for files in (self.pictures, self.masks) if files]

    def _hash(self, path: Path) -> str | None:
        """Of a file's bytes, or None where there is none that may be read."""
        try:
            status = inside(self.root, path).stat()
            return _hash_of(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
        except (OSError, OutsideRoot):
            return None

    def _said(self, path: Path) -> str:
        """A file in messages: its path below the root, where it has one."""
        return pictures.shown(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def _truth(self, index: int) -> str:
        """Where the ground truth of an image is, for messages."""
        return self._said(self.masks[index])

    def _read(self, index: int) -> np.ndarray:
        """The numbers in a mask's file, before `lookup` makes them labels."""
        with pictures.opened(self.masks[index]) as mask:
            stretched = _STRETCHED.get(_form(mask), 1)
            return np.asarray(mask) // stretched if stretched > 1 else np.asarray(mask)

    def _raw(self, index: int) -> np.ndarray:
        """(H, W) unsigned integers.

        Raises FileNotFoundError for a missing file, OutsideRoot, NoNumbers, and ValueError for one that cannot be read.
        """
        if not self.has_labels:
            raise ValueError(
                f"{self.name} under {self.root} has no ground truth: add masks/, or use the pictures alone"
            )
        inside(self.root, self.masks[index])
        try:
            raw = self._read(index)
        except (FileNotFoundError, OutsideRoot):
            raise
        except Exception as error:  # decoders raise whatever comes to them on a damaged file
            why = pictures.reason(error) or "it is no picture"
            raise ValueError(f"{self.root / self._truth(index)} cannot be read ({why}): replace it") from error
        if raw.ndim != 2 or raw.dtype.kind not in "bui":
            raise NoNumbers(
                f"{self.root / self._truth(index)} has no single number a pixel but {raw.shape} {raw.dtype}: save it as palette or grey PNG"
            )
        return raw.astype(np.uint8) if raw.dtype == bool else raw

    def _strange(self, raw: np.ndarray) -> list[int]:
        """The values that stand for no label."""
        return [int(value) for value in np.unique(raw) if not 0 <= value < len(self.lookup) or self.lookup[value] < 0]

    def _faults(self, index: int) -> list[tuple[str, str]]:
        found, size, picture = [], None, self._said(self.picture(index))
        try:
            size = self.size(index)
        except FileNotFoundError:
            found.append(("missing pictures", picture))
        except OutsideRoot:
            found.append((_OUTSIDE, picture))
        except ValueError as error:
            found.append(("unreadable pictures", _because(picture, error)))
        if not self.has_labels:
            return found
        try:
            raw = self._raw(index)
        except FileNotFoundError:
            return [*found, ("missing masks", self._truth(index))]
        except OutsideRoot:
            return [*found, (_OUTSIDE, self._truth(index))]
        except NoNumbers:
            return [*found, ("masks in colours, to be saved as palette or grey PNG", self._truth(index))]
        except ValueError as error:
            return [*found, ("unreadable masks", _because(self._truth(index), error))]
        if size and raw.shape != size:
            found.append(("masks of another size than their picture", self._truth(index)))
        if self._strange(raw):
            found.append(("masks with labels out of range", self._truth(index)))
        return found


_OUTSIDE = "files that lead out of this folder, by a link, an absolute name or .."
_STRETCHED = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey of two and four bits with


def _form(picture) -> str:
    """The form of the pixels in the file, as Pillow calls it: "L;4" for grey of four bits."""
    arguments = picture.tile[0][3] if picture.tile else ""
    return arguments if isinstance(arguments, str) else str(next(iter(arguments or ()), ""))


def _because(file: str, error: ValueError) -> str:
    why = pictures.reason(error.__cause__) if error.__cause__ else ""
    return f"{file}: {why}" if why else file


def _sha256(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        return {
            pictures.shown(Path(picture["file_name"]).stem): number for number, picture in self.annotations.imgs.items()
        }

    def _truth(self, index: int) -> str:
        return f"{super()._truth(index)} (image {self.ids[index]})"

    def _read(self, index: int) -> np.ndarray:
        number = self._numbers[self.ids[index]]
        height, width = (self.annotations.imgs[number][side] for side in ("height", "width"))
        if not (type(height) is type(width) is int and min(height, width) > 0 and height * width <= pictures.LARGEST):
            raise ValueError(f"it is {height!r} x {width!r} pixels, and {pictures.LARGEST:,} are the limit")
        raw = np.zeros((height, width), np.uint8)
        for drawn in sorted(
            self.annotations.imgToAnns.get(number, ()), key=lambda a: (not a["iscrowd"], -a["area"], a["id"])
        ):
            if not math.isfinite(drawn["area"]) or type(drawn["category_id"]) is not int:
                raise ValueError(
                    f"annotation {drawn['id']} has area {drawn['area']!r}, category {drawn['category_id']!r}"
                )
            raw[_outline(drawn["segmentation"], height, width)] = drawn["category_id"]
        return raw


def _outline(outline: list | dict, height: int, width: int) -> np.ndarray:
    """(H, W) bool: an object in COCO's form, polygons or a run-length code.

    All is held against the picture's size before anything is drawn: pycocotools (2.0.11) ends the process, or asks for
    more memory than there is, where a polygon has no numbers or leads far out. Raises ValueError.
    """
    if isinstance(outline, dict):
        counts = outline["counts"]
        runs = _runs(counts) if isinstance(counts, str) else counts
        fits = outline["size"] == [height, width] and all(type(run) is int and run >= 0 for run in runs)
        if not fits or sum(runs) != height * width:
            raise ValueError(f"a run-length code is not one of {height} x {width} pixels")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    for polygon in outline:
        numbers = all(type(number) in (int, float) for number in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is not of three points or more, in pairs of numbers")
        points = np.array(polygon, float).reshape(-1, 2)
        out = np.maximum(-points, points - (width, height)).max()
        # a line through every pixel is as long as there are pixels; what is longer is drawn in as much memory
        length = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
        if not (out <= max(height, width) and length <= 10 * (height + 1) * (width + 1)):
            raise ValueError(f"a polygon leads far out of its {height} x {width} pixels, or is longer than all of them")
    if not outline:
        raise ValueError("an object has no polygon")
    return codes.decode(codes.merge(codes.frPyObjects(outline, height, width))).astype(bool)


def _runs(text: str) -> list[int]:
    """The lengths in a run-length code as COCO packs it: groups of five bits, each but the first three less the last but one.

    As rleFrString in github.com/cocodataset/cocoapi, common/maskApi.c. Raises ValueError.
    """
    runs: list[int] = []
    value = shift = 0
    for group in text.encode():
        group -= 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("a run-length code has a letter that stands for nothing")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= 1 << shift if group & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("a run-length code ends within a number")
    return runs


@dataclass(frozen=True)
class ContextMatrices(Dataset):
    """Pascal Context's annotation as published: one MATLAB file an image, with 459 classes."""

    def _read(self, index: int) -> np.ndarray:
        return _matrix(self.masks[index].read_bytes(), "LabelMap")


# of the elements of a MATLAB file: the types of whole numbers, compressed ones and matrices
_WHOLE = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}
_COMPRESSED, _MATRIX = 15, 14


def _matrix(content: bytes, name: str) -> np.ndarray:
    """A matrix of whole numbers in a MATLAB file of level 5, (H, W), by its name.

    As "MAT-File Format" of MathWorks has it. scipy (1.17.1) ends the process where an element's type is no type, and asks
    for as much memory as a header says. Raises ValueError.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it is no MATLAB file of level 5")
    for kind, element in _elements(content[128:], order):
        if kind == _COMPRESSED:  # two bytes are the most that a pixel of a label map takes
            unpacked = zlib.decompressobj().decompress(element, 2 * pictures.LARGEST + 2**16)
            kind, element = next(_elements(unpacked, order), (0, b""))
        parts = [part for _, part in zip(range(4), _elements(element, order))] if kind == _MATRIX else []
        if len(parts) == 4 and parts[2][1] == name.encode():  # flags, sides, name, numbers
            sides, numbers = np.frombuffer(parts[1][1], f"{order}i4"), parts[3]
            of_numbers = parts[0][1][0 if order == "<" else 3 :][:1]  # its class: of numbers, or text, structures, ...
            if not b"\6" <= of_numbers <= b"\17" or numbers[0] not in _WHOLE or len(sides) != 2 or min(sides) < 0:
                raise ValueError(f"{name} is no matrix of whole numbers")
            values = np.frombuffer(numbers[1], order + _WHOLE[numbers[0]])
            return values.reshape(sides[::-1]).T  # which raises ValueError where it has not so many
    raise ValueError(f"it has no matrix called {name}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The elements of a MATLAB file, or of a matrix in it: their types, and what they hold."""
    place = 0
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        start = place + 8
        end = start + length if kind == _COMPRESSED else start + -(-length // 8) * 8  # others fill eight bytes
        if kind >> 16:  # a small one, which lies in eight bytes itself
            kind, length, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        if start + length > min(end, len(content)):
            raise ValueError("it is cut")
        yield kind, content[start : start + length]
        place = end


@dataclass(frozen=True)
class Ade20kFull(Dataset):
    """ADE20K's full release (2021_17_01): each pixel's object as a number in the red and green of a picture's _seg.png.

    What a number means stands in the JSON beside the picture (format: github.com/CSAILVision/ADE20K). `numbers`: the
    labels of the objects that count, by their names there; all others, and what is not annotated, are void, which is
    label 0 in FreeSeg-Diff's release. That draws the visible masks of single objects, parts as the object they are of: on
    the three pictures which the dataset's repository shows, at least 99.93 % of the pixels are the same object.
    """

    numbers: dict[str, int] = field(default_factory=dict, repr=False)

    def _meaning(self) -> list:
        return [*super()._meaning(), self.numbers]  # the list is the copy's own

    def _files(self, index: int) -> list[Path]:
        return [*super()._files(index), self.picture(index).with_suffix(".json")]

    def _read(self, index: int) -> np.ndarray:
        with pictures.opened(self.masks[index]) as mask:
            colours = np.asarray(mask)
        if colours.ndim != 3 or colours.dtype != np.uint8:
            raise ValueError("it is no picture in colours")
        described = inside(self.root, self.picture(index).with_suffix(".json"))
        numbers = colours[..., 0].astype(np.uint16) // 10 * 256 + colours[..., 1]
        annotation = json.loads(described.read_text(encoding="latin-1"))["annotation"]
        labels = np.full(26 * 256, -1, np.int16)  # -1 for numbers of which the JSON says nothing
        labels[0] = VOID
        for one in annotation["object"]:
            if int(one["parts"]["part_level"]) == 0 and 0 <= int(one["name_ndx"]) < len(labels):
                labels[int(one["name_ndx"])] = self.numbers.get(one["name"], VOID)
        found = labels[numbers]
        if unknown := np.unique(numbers[found < 0]).tolist():
            raise ValueError(f"numbers {unknown[:5]} are no objects of its JSON")
        return found.astype(np.uint8)


@dataclass(frozen=True)
class Folder(Dataset):
    """Pictures of one's own, turned upright as EXIF says, which is how they were seen when their masks were drawn."""

    as_stored: ClassVar[bool] = False

    def _meaning(self) -> list:
        known = self.vocabulary
        return [*super()._meaning(), known.names, known.background, self.lookup.tolist()]

    def require_classes(self) -> None:
        """Raises ValueError where no mask has a class though some have void, as those do that write an object as 255."""
        seen: set[int] = set()
        for index in range(len(self) if self.has_labels else 0):
            try:
                raw = self._raw(index)
            except (OSError, ValueError):  # for `check` to tell
                continue
            seen |= set(np.unique(raw).tolist())
            if any(value >= len(self.lookup) or self.lookup[value] not in (0, VOID) for value in seen):
                return
        if any(self.lookup[value] == VOID for value in seen):
            raise ValueError(
                f"no mask under {self.root} has a class: they hold {sorted(seen)} alone, and 255 is void. Where it means the "
                "first class, write 1 in its place, or say so in a classes.csv: index,name,official, then 0,background,0 and 1,cat,255"
            )
