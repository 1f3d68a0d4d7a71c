"""The benchmarks in their official layouts: what is known of each, opening it as a `Dataset`, and getting it.

`python -m fsdlib.measure.benchmarks` lists them, says where they come from, fetches them and checks a copy.
"""

import argparse
import contextlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from fsdlib.measure import archives
from fsdlib.measure.archives import Archive, commands
from fsdlib.measure.datasets import Ade20kFull, CocoObjects, ContextMatrices, Dataset, Folder, OutsideRoot, inside
from fsdlib.pictures import SUFFIXES, in_folder
from fsdlib.project import CLASSES, SCENES
from fsdlib.vocabulary import VOID, Vocabulary, class_rows


@dataclass(frozen=True)
class Benchmark:
    """What is known of a dataset before it is opened.

    classes: its class list in data/classes, empty where it comes with the pictures.
    splits: how many images each official split has.
    inside: where its archives put it, below the folder they are unpacked in.
    values, rest: values below `values` that no class has stand for the label `rest`; all others are errors.
    shift: what is added to the class list's official values to get those in the files. void: the label that 255 stands
    for.
    void_is_background: whether void counts as label 0 in the `per_image` protocol, as FreeSeg-Diff's release counts it on
    Pascal VOC, on COCO's groups and on ADE20K, where label 0 then is a class too, but not on COCO's fine classes. None: where the
    class list has a background.
    finer: the list of the classes, where `classes` are groups of them by their official values. FreeSeg-Diff's release
    names masks with the classes and turns those into groups.
    """

    classes: str
    layout: Callable[["Benchmark", str, Path, str], Dataset] | None  # None: a folder of one's own
    splits: dict[str, int]
    terms: str
    archives: tuple[Archive, ...] = ()
    inside: str = "."
    background: bool = True
    values: int = 0
    rest: int = VOID
    shift: int = 0
    void: int = VOID
    void_is_background: bool | None = None
    finer: str = ""
    source: str = ""  # in words, where there is no archive
    root: Path | None = None  # where it is by default

    def vocabulary(self) -> Vocabulary:
        known = Vocabulary.read(CLASSES / self.classes, self.background)
        if not self.finer:
            return known
        lookup = self.lookup()
        groups = tuple(int(lookup[int(row["official"])]) for row in class_rows(CLASSES / self.finer)[1:])
        return replace(known, finer=Vocabulary.read(CLASSES / self.finer, self.background), groups=(0, *groups))

    def lookup(self, official: bool = True) -> np.ndarray:
        """int16: the label of each value in the files, -1 for errors.

        official: whether the values are those in the class list's column of that name, else they are its indices.
        """
        values = self.values if official else 0
        lookup = np.full(max(values, 256), -1, np.int16)
        lookup[:values] = self.rest
        if values <= VOID:
            lookup[VOID] = self.void
        for row in class_rows(CLASSES / self.classes):
            label = int(row["index"]) if self.background or row["index"] != "0" else VOID
            for value in filter(None, (row.get("official", row["index"]) if official else row["index"]).split(";")):
                lookup[int(value) + (self.shift if official else 0)] = label
        return lookup


def open_dataset(
    name: str,
    root: Path | str | None = None,
    split: str = "val",
    classes: Path | str | Sequence[str] | None = None,
    centre_crops: bool = False,
) -> Dataset:
    """Open a dataset by name; `python -m fsdlib.measure.benchmarks` lists the names.

    root: the dataset's own folder, or the one its archives were unpacked in. Only the scenes have a default.
    classes: for "folder" alone, which has no splits: a list of names, or the path of a .csv (as in data/classes) or a
    .txt (a name a line); without it root/classes.csv or root/classes.txt. Where background is no class the first name is
    "void". A column `official` in a .csv says which values a class has in the masks, several parted by semicolons.
    centre_crops: pictures and labels cut to `fsdlib.measure.datasets.centre_square`, as DiffCut's figures are over.
    Raises ValueError for an unknown name, a split that is no plain name, a listing outside the root and masks of a folder
    in which nothing but void is marked, and FileNotFoundError, with where to get them, where the listing, the annotations
    or a whole folder lack. Single files are not looked for: that is what `Dataset.check` does.
    """
    benchmark = _known(name)
    if classes is not None and name != "folder":
        raise ValueError(
            f"dataset {name!r} has its own classes: leave `classes` out, or open your pictures as 'folder'"
        )
    if not isinstance(split, str) or split != Path(split).name or split in ("", "..") or "\0" in split:
        raise ValueError(f"split {split!r} is no plain name: give one such as {next(iter(benchmark.splits), 'val')!r}")
    root = root or benchmark.root
    if not root:
        raise FileNotFoundError(f"dataset {name!r} needs a root. {instructions(name)}")
    root = Path(root)
    if (root / benchmark.inside).is_dir():
        root = root / benchmark.inside
    dataset = benchmark.layout(benchmark, name, root, split) if benchmark.layout else _folder(root, classes)
    folds = dataset.vocabulary.background if benchmark.void_is_background is None else benchmark.void_is_background
    return replace(dataset, void_is_background=folds, centre_crops=centre_crops)


def instructions(name: str) -> str:
    """How to get a dataset, as commands to follow in a shell."""
    benchmark = _known(name)
    if not benchmark.archives:
        return f"To get {name}: {benchmark.source}."
    lines = [
        commands(f"{name} (terms: {benchmark.terms})", benchmark.archives),
        f"Then open_dataset({name!r}, root='ROOT') finds it.",
    ]
    if not any(archive.registration for archive in benchmark.archives):
        lines.append(
            f"All of it at once, without the splits that are not needed: python -m fsdlib.measure.benchmarks {name} --download ROOT"
        )
    return "\n".join(lines)


def download(name: str, root: Path | str) -> Path:
    """Fetch what a dataset's val split needs, as `fsdlib.measure.archives.download`.

    Raises ValueError for one that needs an account or has no archives.
    """
    benchmark = _known(name)
    if not benchmark.archives or any(archive.registration for archive in benchmark.archives):
        raise ValueError(f"{name} cannot be fetched without you. {instructions(name)}")
    return archives.download(benchmark.archives, root)


def _known(name: str) -> Benchmark:
    if name not in DATASETS:
        raise ValueError(f"no dataset is called {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _require(name: str, *paths: Path) -> None:
    if missing := [str(path) for path in paths if not path.exists()]:
        raise FileNotFoundError(f"dataset {name!r} lacks {', '.join(missing)}. {instructions(name)}")


def _voc(benchmark: Benchmark, name: str, root: Path, split: str, pictured: str = ".jpg") -> Dataset:
    listing, masks = root / "ImageSets" / "Segmentation" / f"{split}.txt", root / "SegmentationClass"
    return _listed(benchmark, name, root, split, listing, masks, pictured=pictured)


def _scenes(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    """VOC's folders with pictures that lose nothing, so that a scene is the same here and as it is drawn."""
    return _voc(benchmark, name, root, split, ".png")


def _context(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    """The PNGs that the field converts the annotation to, where they are there, else the annotation itself.

    The PNGs count the 59 classes in the order they have among the 459, as our class list does; their listings lack a
    few of VOC's images.
    """
    masks = root / "SegmentationClassContext"
    if masks.is_dir():
        listing = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        return _listed(
            benchmark, name, root, split, listing, masks, official=False, splits={"train": 4996, "val": 5104}
        )
    return _listed(
        benchmark,
        name,
        root,
        split,
        root / "ImageSets" / "Main" / f"{split}.txt",
        root / "trainval",
        ".mat",
        ContextMatrices,
    )


def _listed(
    benchmark: Benchmark,
    name: str,
    root: Path,
    split: str,
    listing: Path,
    masks: Path,
    ending: str = ".png",
    kind: type[Dataset] = Dataset,
    official: bool = True,
    splits: dict[str, int] | None = None,
    pictured: str = ".jpg",
) -> Dataset:
    """A dataset in VOC's folders, whose listing says which images a split has."""
    pictures = root / "JPEGImages"
    _require(name, listing, pictures, masks)
    ids = tuple(sorted({os.fsdecode(line) for line in inside(root, listing).read_bytes().split()}))
    return kind(
        name,
        root,
        split,
        benchmark.vocabulary(),
        ids,
        tuple(pictures / f"{i}{pictured}" for i in ids),
        tuple(masks / f"{i}{ending}" for i in ids),
        benchmark.lookup(official),
        (splits or benchmark.splits).get(split),
    )


def _coco_objects(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    pictures, path = root / f"{split}2017", root / "annotations" / f"instances_{split}2017.json"
    _require(name, pictures, path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks while it reads
            annotations = COCO(inside(root, path))
        ids = tuple(sorted(Path(picture["file_name"]).stem for picture in annotations.dataset["images"]))
    except OutsideRoot:
        raise
    except Exception as error:  # whatever pycocotools makes of JSON that is something else
        raise ValueError(f"{path} is no annotation in COCO's form ({error!r}): fetch it again") from error
    return CocoObjects(
        name,
        root,
        split,
        benchmark.vocabulary(),
        ids,
        tuple(pictures / f"{i}.jpg" for i in ids),
        (path,) * len(ids),
        benchmark.lookup(),
        benchmark.splits.get(split),
        annotations=annotations,
    )


def _coco_stuff(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    return _paired(benchmark, name, root, split, root / f"{split}2017", root / "stuffthingmaps" / f"{split}2017")


def _ade20k(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    folder = {"train": "training", "val": "validation"}.get(split, split)
    return _paired(benchmark, name, root, split, root / "images" / folder, root / "annotations" / folder)


def _ade20k_full(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    """The release of 2021 with the classes that FreeSeg-Diff's release evaluates: the first 150 objects.

    That is, as the release reads it, the first column of the first 150 lines of objects.txt at the dataset's root, with
    no line left out as a heading. Whether the file has one cannot be told from what is public: a heading would be a class
    that never occurs. An object is known by its whole entry ("car, auto, automobile"), whose parts are our synonyms.
    """
    pictures, listing = (
        root / "images" / "ADE" / {"train": "training", "val": "validation"}.get(split, split),
        root / "objects.txt",
    )
    _require(name, listing, pictures)
    found = sorted(
        (path for path in pictures.rglob("*.jpg") if not path.name.startswith(".")), key=lambda path: path.stem
    )
    if not found:
        raise FileNotFoundError(f"dataset {name!r} has no files *.jpg under {pictures}. {instructions(name)}")
    lines = inside(root, listing).read_text(encoding="latin-1").splitlines()[:ADE20K_OBJECTS]
    entries = list(dict.fromkeys(line.split("\t")[0] for line in lines))
    said = [tuple(part.strip() for part in entry.split(",")) for entry in entries]
    shorts = [words[0] for words in said]
    names = tuple(
        short if shorts.count(short) == 1 and short != "background" else entry for short, entry in zip(shorts, entries)
    )
    vocabulary = Vocabulary(
        ("background", *names),
        (("background",), *(tuple(dict.fromkeys((one, *words))) for one, words in zip(names, said))),
        benchmark.background,
        strings=("background", *entries),
    )
    return Ade20kFull(
        name,
        root,
        split,
        vocabulary,
        tuple(path.stem for path in found),
        tuple(found),
        tuple(path.with_name(f"{path.stem}_seg.png") for path in found),
        _own_labels(len(vocabulary)),
        benchmark.splits.get(split),
        numbers={entry: label for label, entry in enumerate(entries, 1)},
    )


def _cityscapes(benchmark: Benchmark, name: str, root: Path, split: str) -> Dataset:
    pictures, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    return _paired(benchmark, name, root, split, pictures, masks, "*/*_leftImg8bit.png", "*/*_gtFine_labelIds.png")


def _paired(
    benchmark: Benchmark,
    name: str,
    root: Path,
    split: str,
    pictures: Path,
    masks: Path,
    picture: str = "*.jpg",
    mask: str = "*.png",
) -> Dataset:
    """A dataset without a listing: all that either folder holds.

    picture, mask: patterns whose last star is the id and whose first, if there are two, its city.
    """
    _require(name, pictures, masks)
    found: set[str] = set()
    for folder, pattern in ((pictures, picture), (masks, mask)):
        ending = pattern.rsplit("*", 1)[1]
        found |= {path.name.removesuffix(ending) for path in folder.glob(pattern) if not path.name.startswith(".")}
    if not found:
        raise FileNotFoundError(f"dataset {name!r} has no files {picture} in {pictures}. {instructions(name)}")
    ids = tuple(sorted(found))

    def files(folder: Path, pattern: str) -> tuple[Path, ...]:
        return tuple(folder / pattern.replace("*/", f"{i.split('_')[0]}/").replace("*", i) for i in ids)

    return Dataset(
        name,
        root,
        split,
        benchmark.vocabulary(),
        ids,
        files(pictures, picture),
        files(masks, mask),
        benchmark.lookup(),
        benchmark.splits.get(split),
    )


def _folder(root: Path, classes: Path | str | Sequence[str] | None) -> Dataset:
    _require("folder", root)
    vocabulary, lookup = _own_classes(root, classes)
    pictures: dict[str, Path] = {}
    for path in in_folder(root / "images" if (root / "images").is_dir() else root):
        if path.stem in pictures:
            raise ValueError(f"{path} and {pictures[path.stem].name} would share the mask {path.stem}.png: rename one")
        pictures[path.stem] = path
    if not pictures:
        raise FileNotFoundError(f"there are no pictures in {root}. {instructions('folder')}")
    masks = tuple(root / "masks" / f"{i}.png" for i in pictures) if (root / "masks").is_dir() else ()
    dataset = Folder("folder", root, "all", vocabulary, tuple(pictures), tuple(pictures.values()), masks, lookup)
    dataset.require_classes()
    return dataset


def _own_labels(count: int, background: bool = True) -> np.ndarray:
    """int16: the lookup of files that hold labels already, below `count` or void."""
    lookup = np.full(
        max(count, VOID + 1), -1, np.int16
    )  # more classes than labels are refused with their dataset's name
    lookup[:count] = range(count)
    lookup[[VOID] if background else [0, VOID]] = VOID
    return lookup


def _official_labels(path: Path | str, background: bool) -> np.ndarray | None:
    """int16: the lookup of files with the values in a class list's column `official`, or None where it says none."""
    rows = class_rows(path)
    said = [(row, value) for row in rows for value in filter(None, (row.get("official") or "").split(";"))]
    if not said:
        return None
    lookup = np.full(2**16, -1, np.int16)
    for row, value in said:
        if not value.strip().isdecimal() or int(value) >= len(lookup):
            raise ValueError(
                f"official value {value!r} in {path} is no whole number from 0 to {len(lookup) - 1}: mend it"
            )
        if lookup[int(value)] >= 0:
            raise ValueError(f"official value {value} in {path} stands for two classes: take it from one")
        lookup[int(value)] = int(row["index"]) if background or row["index"] != "0" else VOID
    if lookup[VOID] < 0:
        lookup[VOID] = VOID
    return lookup


def _own_classes(root: Path, classes: Path | str | Sequence[str] | None) -> tuple[Vocabulary, np.ndarray]:
    """The classes of a folder of one's own, and the label of each value in its masks."""
    if classes is None:
        own = (path for path in (root / "classes.csv", root / "classes.txt") if path.exists())
        classes = next((inside(root, path) for path in own), None)
        if classes is None:
            raise FileNotFoundError(
                f"the pictures in {root} have no classes: pass classes=['cat', ...], or write them to classes.txt there, a name a line"
            )
    if isinstance(classes, (str, Path)):
        if Path(classes).suffix == ".csv":
            vocabulary = Vocabulary.read(classes)
            lookup = _official_labels(classes, vocabulary.background)
            return vocabulary, _own_labels(len(vocabulary), vocabulary.background) if lookup is None else lookup
        if Path(classes).suffix != ".txt":
            raise ValueError(f"classes {str(classes)!r} is no path of a .csv or .txt: pass one, or a list of names")
        try:
            lines = Path(classes).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{classes} is no text that can be read ({error}): save it anew in UTF-8") from error
        classes = [line for line in lines if line.strip()]
    if not classes:
        raise ValueError(f"the list of classes for {root} is empty: name at least one")
    vocabulary = Vocabulary.of(classes)
    return vocabulary, _own_labels(len(vocabulary), vocabulary.background)


ADE20K_OBJECTS = 150  # how many of its full release's objects count
_VOC_TERMS = "research; the photographs under Flickr's terms of use"
_COCO_TERMS = "annotations CC BY 4.0; the photographs under Flickr's terms of use"
_VOC2012 = Archive(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "2 GB",
    "6cd6e144f989b92b3379bac3b3de84fd",
    ("VOCdevkit/VOC2012/ImageSets", "VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass"),
)
_VOC2010 = Archive(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    "1.3 GB",
    "da459979d0c395079b5c75ee67908abb",
    ("VOCdevkit/VOC2010/ImageSets", "VOCdevkit/VOC2010/JPEGImages"),
)
_CONTEXT = Archive(
    "https://roozbehm.info/pascal-context/trainval.tar.gz",
    "31 MB",
    None,
    ("VOCdevkit/VOC2010/trainval",),
    folder="VOCdevkit/VOC2010",
)
_COCO_IMAGES = Archive(
    "http://images.cocodataset.org/zips/val2017.zip", "778 MB", "442b8da7639aecaf257c1dceb8ba8c80", ("val2017",)
)
_COCO_OBJECTS = Archive(
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    "241 MB",
    "f4bbac642086de4f52a3fdda2de5fa2c",
    ("annotations/captions_val2017.json", "annotations/instances_val2017.json"),
)
_COCO_STUFF = Archive(
    "https://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
    "659 MB",
    None,
    ("stuffthingmaps/val2017",),
    folder="stuffthingmaps",
)
_ADE20K = Archive(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    "1 GB",
    "7328b3957e407ddae1d3cbf487f149ef",
    ("ADEChallengeData2016",),
)
_CITYSCAPES = (
    Archive(
        "https://www.cityscapes-dataset.com/file-handling/?packageID=1#gtFine_trainvaltest.zip",
        "241 MB",
        "4237c19de34c8a376e9ba46b495d6f66",
        ("gtFine",),
        registration=True,
    ),
    Archive(
        "https://www.cityscapes-dataset.com/file-handling/?packageID=3#leftImg8bit_trainvaltest.zip",
        "11 GB",
        "0a6e97e94b616a514066c9e2adb0c97f",
        ("leftImg8bit",),
        registration=True,
    ),
)
_VOC_SPLITS = {"train": 1464, "val": 1449, "trainval": 2913}
_CONTEXT_SPLITS = {"train": 4998, "val": 5105, "trainval": 10103}
_COCO_SPLITS = {"train": 118287, "val": 5000}

DATASETS = {
    "scenes": Benchmark(
        "scenes.csv",
        _scenes,
        {},
        "drawings: Twemoji CC BY 4.0, OpenMoji CC BY-SA 4.0",
        root=SCENES,
        source="write them with fsdlib.world.scenes.write_scenes(), or run `make scenes`",
    ),
    "voc12": Benchmark("voc12.csv", _voc, _VOC_SPLITS, _VOC_TERMS, (_VOC2012,), "VOCdevkit/VOC2012"),
    "voc20": Benchmark("voc12.csv", _voc, _VOC_SPLITS, _VOC_TERMS, (_VOC2012,), "VOCdevkit/VOC2012", background=False),
    "coco_object": Benchmark(
        "coco_object.csv",
        _coco_objects,
        _COCO_SPLITS,
        _COCO_TERMS,
        (_COCO_IMAGES, _COCO_OBJECTS),
        void_is_background=False,
    ),
    # what the literature calls COCO-Object: the objects in COCO-Stuff's maps, whose crowds and unlabelled pixels are
    # background
    "coco_object_maps": Benchmark(
        "coco_object.csv",
        _coco_stuff,
        _COCO_SPLITS,
        _COCO_TERMS,
        (_COCO_IMAGES, _COCO_STUFF),
        values=182,
        rest=0,
        shift=-1,
        void=0,
        void_is_background=False,
    ),
    "coco_stuff": Benchmark(
        "coco_stuff.csv", _coco_stuff, _COCO_SPLITS, _COCO_TERMS, (_COCO_IMAGES, _COCO_STUFF), background=False
    ),
    "coco_stuff27": Benchmark(
        "coco_stuff27.csv",
        _coco_stuff,
        _COCO_SPLITS,
        _COCO_TERMS,
        (_COCO_IMAGES, _COCO_STUFF),
        background=False,
        void_is_background=True,
        finer="coco_stuff.csv",
    ),
    "context59": Benchmark(
        "context.csv",
        _context,
        _CONTEXT_SPLITS,
        _VOC_TERMS,
        (_VOC2010, _CONTEXT),
        "VOCdevkit/VOC2010",
        background=False,
        values=460,
    ),
    "context60": Benchmark(
        "context.csv",
        _context,
        _CONTEXT_SPLITS,
        _VOC_TERMS,
        (_VOC2010, _CONTEXT),
        "VOCdevkit/VOC2010",
        values=460,
        rest=0,
    ),
    "ade20k": Benchmark(
        "ade20k.csv",
        _ade20k,
        {"train": 20210, "val": 2000},
        "annotations BSD-3-Clause; the photographs for non-commercial research and education",
        (_ADE20K,),
        "ADEChallengeData2016",
        background=False,
    ),
    # the whole of ADE20K as published in 2021, with other classes: a figure over it is none over `ade20k`
    "ade20k_full": Benchmark(
        "",
        _ade20k_full,
        {"train": 25574, "val": 2000},
        "its own terms, for non-commercial research and education; an account is needed",
        inside="ADE20K_2021_17_01",
        background=False,
        void_is_background=True,
        source="ask for it at https://ade20k.csail.mit.edu/request_data/ and unpack ADE20K_2021_17_01.zip; then "
        "open_dataset('ade20k_full', root='ROOT') finds it",
    ),
    "cityscapes": Benchmark(
        "cityscapes.csv",
        _cityscapes,
        {"train": 2975, "val": 500},
        "its own licence, not commercial; an account is needed",
        _CITYSCAPES,
        background=False,
        values=34,
    ),
    "folder": Benchmark(
        "",
        None,
        {},
        "yours",
        source=f"put pictures ({', '.join(SUFFIXES)}) in ROOT/images, or in ROOT itself, and where you have them masks in ROOT/masks/<picture's stem>.png, with k for the "
        "k-th class, 0 for background and 255 for void; write the classes to ROOT/classes.txt, a name a line, or pass them as classes=[...], the first of them "
        "void where background is no class; ROOT/classes.csv can say in its column official which values the masks have",
    ),
}


def _overview() -> str:
    lines = [f"{'name':<17} {'classes':<17} {'val':>5}  {'to fetch':<15} terms"]
    for name, benchmark in DATASETS.items():
        classes = (
            ("150 of its list" if benchmark.layout else "your own")
            if not benchmark.classes
            else f"{len(benchmark.vocabulary()) - 1}{' + background' if benchmark.background else ''}"
        )
        sizes = " + ".join(archive.size for archive in benchmark.archives) or "-"
        lines.append(f"{name:<17} {classes:<17} {benchmark.splits.get('val', '-'):>5}  {sizes:<15} {benchmark.terms}")
    return "\n".join(lines)


def _checked(name: str, root: Path, split: str) -> str:
    dataset = open_dataset(name, root, split)
    dataset.check()
    return (
        "complete"
        if dataset.complete
        else f"nothing is damaged, but these are {len(dataset)} of the split's {dataset.expected} images"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.benchmarks",
        description="List the datasets; say how to get one, fetch it, check a copy.",
    )
    parser.add_argument("name", nargs="?", choices=DATASETS)
    parser.add_argument("--download", metavar="ROOT", type=Path, help="fetch what the val split needs")
    parser.add_argument("--check", metavar="ROOT", type=Path, help="look at every file of a copy")
    parser.add_argument("--split", default="val", help="for --check")
    a = parser.parse_args(arguments)
    if a.name is None and (a.download or a.check):
        parser.error("which dataset? Give its name before the option")
    try:
        if a.download:
            print(f"{a.name} is in {download(a.name, a.download)}")
        if a.check:
            print(_checked(a.name, a.check, a.split))
        if not (a.download or a.check):
            print(instructions(a.name) if a.name else _overview())
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
