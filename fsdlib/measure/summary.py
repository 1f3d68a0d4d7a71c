"""From the rows of an evaluation to its summary: every score, with its interval, and the tables of reports."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fsdlib import pictures
from fsdlib.measure import form, scores
from fsdlib.measure.datasets import Dataset, file_stem
from fsdlib.project import write_atomically
from fsdlib.vocabulary import Vocabulary

PARTITIONS = ("clusters", "painted")  # what was found before names, and the label map at the end
MATCHINGS = {"majority": scores.majority_labels, "hungarian": scores.hungarian_labels}
IMAGE_PROTOCOLS = scores.PROTOCOLS[1:]  # means over images
TABLES = ("images", "objects", "confusion", "mapping")  # the CSVs that a summary comes with
OF_IMAGES = ("images", "labels", "timings")  # a run's folders, with a file an image in each
RECORDS = ("run.json", "summary.json", "timing.json")
OF_THE_RUN = (*RECORDS, *(f"{table}.csv" for table in TABLES))
RUNNING = ".running"  # in a run's folder while processes work there: their locks, and what they are writing


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What a run has found so far, of the `wanted` images; finished: whether none of them is still to be done.

    table: one row an image; objects: one row a class in an image; confusion: (classes + 1, classes) pixel counts over
    all images, as `scores.confusion`; summary: as in summary.json. Without masks to compare with there are only
    captions and names.
    """

    folder: Path
    table: pd.DataFrame
    objects: pd.DataFrame
    confusion: np.ndarray
    summary: dict
    finished: bool
    wanted: int

    def __repr__(self) -> str:
        mious = [(protocol, value) for protocol, value in (self.summary["miou"] or {}).items() if value is not None]
        scores = ", ".join(f"{protocol} {100 * value:.1f} %" for protocol, value in mious) or "no scores"
        return f"{self.summary['dataset']}, {self.counted}: mIoU {scores} ({self.folder})"

    @property
    def counted(self) -> str:
        """How many images all numbers are over, and of how many where those are not all."""
        return of_images(len(self.table), self.wanted)

    def prediction(self, image_id: str) -> np.ndarray | None:
        """The stored label map of one image, (H, W) uint8, or None where it has none."""
        return stored_labels(self.folder, image_id)


def of_images(done: int, wanted: int) -> str:
    """What a number is over: "6 images", or "2 of 6 images" where those are not all.

    >>> of_images(2, 6)
    '2 of 6 images'
    """
    return f"{done} of {wanted} images" if done < wanted else f"{done} images"


def files_of(folder: Path, image_id: str) -> tuple[Path, Path, Path]:
    """Where a run keeps an image's results: its row, its label map, its timings."""
    row, labels, timings = (folder / name for name in OF_IMAGES)
    name = file_stem(image_id)
    return row / f"{name}.json", labels / f"{name}.png", timings / f"{name}.json"


def keep(folder: Path, path: Path, content: bytes | str) -> Path:
    """Write a file of a run whole or not at all, by way of RUNNING, where nobody but runs writes."""
    return write_atomically(path, content, folder / RUNNING)


def stored_labels(folder: Path, image_id: str) -> np.ndarray | None:
    """The label map that a run keeps of an image, (H, W) uint8, or None where it has none.

    Raises ValueError for one that cannot be read.
    """
    _, path, _ = files_of(folder, image_id)
    try:
        with pictures.opened(path) as picture:
            labels = np.asarray(picture)
        if labels.shape[2:] or labels.dtype != np.uint8:
            raise ValueError(f"it is no label map but {labels.shape} {labels.dtype}")
        return labels
    except FileNotFoundError:
        return None
    except Exception as error:  # decoders raise whatever comes to them on a damaged file
        raise ValueError(f"{path} cannot be read ({error}): evaluate again, which makes it anew") from error


def read_record(path: Path) -> dict | None:
    """A JSON object, or None where the file is missing, empty, cut or no such thing."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (FileNotFoundError, RecursionError, ValueError):  # ValueError: no JSON, or no text
        return None
    return content if isinstance(content, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}, which Python alone reads")


def read_summary(folder: Path) -> dict:
    """A finished run's summary; raises ValueError where it is not there, not whole or of another form."""
    path = folder / "summary.json"
    summary = read_record(path)
    if summary is None:
        raise ValueError(f"{path} is missing, empty or cut: evaluate again, which writes it anew")
    if fault := form.fault_of_summary(summary):
        raise ValueError(
            f"{path} is not whole ({fault} is missing or of another kind): evaluate again, which writes it anew"
        )
    try:
        json.dumps(summary, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half a character, which JSON can name and no table can hold
        raise ValueError(f"{path} has a text that is none: evaluate again, which writes it anew") from error
    return summary


def sealed(row: dict) -> str:
    """A row as it is kept: JSON, with a hash of all else in it, so that one that was changed is told from a whole one."""
    return json.dumps(row | dict(row_sha256=_sha256(json.dumps(row).encode())), allow_nan=False)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def label_map_hash(content: bytes) -> dict[str, str]:
    """What a row says of the file of its label map."""
    return dict(label_map=_sha256(content))


def read_row(
    folder: Path, image_id: str, digest: str, content: str, not_whole: list[Path] | None = None
) -> dict | None:
    """An image's row, or None where it is not done: where its row, its label map or its timings are not whole.

    content: of the image's files, as `Dataset.content` says it now. Not whole is a row that is cut, changed, of another
    configuration or of other files, a label map that is missing or other than the row says, and timings that are cut. Such files are added to
    `not_whole`.
    """
    of_row, *others = files_of(folder, image_id)
    row = read_record(of_row)
    if row is None and not of_row.exists():
        return None
    fault = of_row if row is None else first_not_whole(row, digest, of_row, *others)
    if fault is None and row and row.get("files") == content:
        return row
    if not_whole is not None:
        not_whole.append(fault or of_row)
    return None


def first_not_whole(row: dict, digest: str, of_row: Path, labels: Path, timings: Path) -> Path | None:
    """Which of an image's files is not whole, None where all are; takes the row's hash of itself out of it."""
    if row.pop("row_sha256", None) != _sha256(json.dumps(row).encode()) or row.get("run") != digest:
        return of_row
    if not isinstance(row.get("id"), str) or file_stem(row["id"]) != of_row.stem:  # another image's
        return of_row
    if "failed" in row:
        return None if isinstance(row["failed"], str) else of_row
    if not labels.is_file() or row.get("label_map") != _sha256(labels.read_bytes()):
        return labels
    return timings if timings.exists() and _read_timing(timings) is None else None


def _read_timing(path: Path) -> dict | None:
    """An image's timings, or None where they are missing, cut or of another form."""
    timing = read_record(path)
    if timing is None or not isinstance(timing.get("seconds"), dict) or type(timing.get("batch")) is not int:
        return None
    numbers = [*timing["seconds"].values(), timing.get("memory_mib", 0), timing.get("gpu_memory_mib", 0)]
    return timing if all(type(one) in (int, float) and 0 <= one < 2**63 for one in numbers) else None


def sparse(counts: np.ndarray) -> list[list[int]]:
    """A confusion count as its cells that are not zero: [truth, prediction, pixels], ready for JSON."""
    return [[int(row), int(column), int(counts[row, column])] for row, column in np.argwhere(counts)]


def dense(cells: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """A confusion count, (classes + 1, classes) int64, from its cells; raises ValueError where they are none of it."""
    counts = np.zeros((classes + 1, classes), np.int64)
    try:
        for row, column, pixels in cells:
            if not (0 <= row <= classes and 0 <= column < classes and type(pixels) is int and pixels >= 0):
                raise ValueError(f"[{row}, {column}, {pixels}] is no cell")
            counts[row, column] = pixels
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"a confusion count of {classes} classes cannot be read: {error}") from error
    return counts


class Totals:
    """Sums over rows, so that memory does not grow with label maps: only a few numbers an image are kept."""

    def __init__(self, classes: int, background: bool, void_is_background: bool):
        self.background, self.void_is_background = background, void_is_background
        self.confusion = np.zeros((classes + 1, classes), np.int64)
        self.matched = {name: {how: np.zeros_like(self.confusion) for how in MATCHINGS} for name in PARTITIONS}
        self.boundary: dict[str, list[float]] = {name: [] for name in PARTITIONS}
        self.areas: list[np.ndarray] = []
        self.mious: dict[str, list[float]] = {protocol: [] for protocol in IMAGE_PROTOCOLS}
        self.foreground_mious: dict[str, list[float]] = {protocol: [] for protocol in IMAGE_PROTOCOLS}
        self.empty_mious: dict[str, list[float]] = {protocol: [] for protocol in IMAGE_PROTOCOLS}
        self.named = self.named_right = 0
        self.spoken = np.zeros(3, int)  # classes said and present, said, present
        self.candidates = np.zeros(3, int)

    def _image_ious(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Under each protocol that is a mean over images, the IoU of one image's classes."""
        return dict(
            per_image=scores.image_iou(counts, self.void_is_background),
            per_image_union=scores.image_union_iou(counts, self.background),
        )

    def add(self, row: dict, counts: np.ndarray) -> None:
        """Take a row with its confusion count."""
        self.confusion += counts
        self.areas.append(scores.areas(counts).astype(np.int32))
        for protocol, ious in self._image_ious(counts).items():
            self.mious[protocol].append(scores.mean(ious))
            self.foreground_mious[protocol].append(scores.mean(ious[1:]))
        for protocol, ious in self._image_ious(_emptied(counts)).items():
            self.empty_mious[protocol].append(scores.mean(ious))
        for name, quality in row["masks"].items():
            for how in MATCHINGS:
                for truth, prediction, pixels in quality[how]:
                    self.matched[name][how][truth, prediction] += pixels
            boundary = quality["boundary_f"]
            if boundary is not None and not 0 <= boundary <= 1:
                raise ValueError("a boundary F is 0 to 1")
            self.boundary[name].append(np.nan if boundary is None else boundary)
        self.named += len(row["named"])
        self.named_right += sum(label == other for label, other in row["named"])
        for tally, said in ((self.spoken, row["spoken"]), (self.candidates, row["candidates"])):
            if said is not None:
                tally += [len(set(said) & set(row["present"])), len(said), len(row["present"])]

    def summary(self, names: Sequence[str], seed: int) -> dict:
        """All scores; 0 to 1, None where there is nothing to take a mean of."""
        if not self.areas:
            return dict(miou=None)
        areas = np.stack(self.areas)
        mious, foreground = (
            {protocol: np.array(values) for protocol, values in of_images.items()}
            for of_images in (self.mious, self.foreground_mious)
        )
        kinds = ([("with_background", True, mious)] if self.background else []) + [
            ("without_background", False, foreground)
        ]
        found = {
            name: scores.metrics(self.confusion, counted)
            | {f"{protocol}_miou": value for protocol, value in _means(of_images).items()}
            | dict(intervals=scores.bootstrap(areas, of_images, counted, seed))
            for name, counted, of_images in kinds
        }
        of_classes = scores.dataset_iou([self.confusion], self.background)
        return dict(
            miou=dict(dataset=scores.mean(of_classes)) | _means(mious),
            intervals=found["with_background"]["intervals"]
            if self.background
            else scores.bootstrap(areas, mious, False, seed),
            empty=dict(dataset=scores.mean(scores.dataset_iou([_emptied(self.confusion)], self.background)))
            | _means(self.empty_mious),
            **found,
            iou_of_classes=dict(zip(names, of_classes.tolist())),
            masks={
                name: {
                    f"{how}_miou": scores.mean(scores.dataset_iou([of_how], self.background))
                    for how, of_how in matched.items()
                }
                | dict(boundary_f=scores.mean(self.boundary[name]))
                for name, matched in self.matched.items()
            },
            naming=dict(masks=self.named, accuracy=_share(self.named_right, self.named)),
            caption={
                name: dict(recall=_share(tally[0], tally[2]), precision=_share(tally[0], tally[1]))
                for name, tally in (("spoken", self.spoken), ("candidates", self.candidates))
                if tally[2]
            },
        )


def _means(of_images: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, float]:
    return {protocol: scores.mean(values) for protocol, values in of_images.items()}


def _emptied(counts: np.ndarray) -> np.ndarray:
    """The confusion count of an empty label map, which names nothing: what any method has to beat."""
    empty = np.zeros_like(counts)
    empty[:, 0] = counts.sum(axis=1)
    return empty


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float("nan")


def gather(folder: Path, dataset: Dataset, wanted: range, settings: dict) -> Evaluation:
    """Everything that follows from the rows of the `wanted` images.

    The files are written where all of those are there, but never over a summary of this configuration that is over more
    images.
    """
    rows = (read_row(folder, dataset.ids[i], settings["hash"], dataset.content(i)) for i in wanted)
    found, files = gathered(folder, dataset, rows, settings)
    if found.finished and not _is_over_more(folder / "summary.json", settings["hash"], len(wanted)):
        for name, content in files.items():
            keep(folder, folder / name, content)
    return found


def gathered(
    folder: Path, dataset: Dataset, rows: Iterable[dict | None], settings: dict
) -> tuple[Evaluation, dict[str, str]]:
    """What `gather` returns, and the files that it writes by their names, the summary last; None is an image not done.

    Raises ValueError for a row that makes no sense.
    """
    vocabulary = dataset.vocabulary
    totals = Totals(len(vocabulary), vocabulary.background, dataset.void_is_background)
    timings, missing, wanted = Timings(), 0, 0
    table: list[dict] = []
    objects: list[dict] = []
    mapping: dict[str, tuple[str, float | None, int]] = {}  # of free names: what it was taken for, similarity, images
    failed: dict[str, str] = {}
    for row in rows:
        wanted += 1
        if row is None:
            missing += 1
            continue
        if "failed" in row:
            failed[row["id"]] = row["failed"]
            continue
        of_row, _, of_timings = files_of(folder, row["id"])
        with _understood(of_row):
            scored = {}
            if "counts" in row:
                counts = dense(row["counts"], len(vocabulary))
                ious = scores.image_iou(counts, dataset.void_is_background)
                totals.add(row, counts)
                scored = _of_image(row, ious, vocabulary)
                objects += _of_objects(row, counts, ious, vocabulary)
            timings.add(_read_timing(of_timings))
            table.append(dict(id=row["id"]) | scored | dict(found=", ".join(row["found"]), caption=row["caption"]))
            for name, (taken_for, similarity) in row["mapping"].items():
                mapping[name] = taken_for, similarity, mapping.get(name, (0, 0, 0))[2] + 1

    summary = settings | dict(
        images=len(table),
        expected=dataset.expected,
        files=dataset.fingerprint,
        failed=failed,
        complete=not missing and len(table) == (dataset.expected or len(dataset)),
        classes=len(vocabulary),
        background=vocabulary.background,
        void_is_background=dataset.void_is_background,
        **_without_nan(totals.summary(vocabulary.names, settings["seed"])),
        versions={
            name: importlib.metadata.version(name)
            for name in ("torch", "diffusers", "transformers", "open_clip_torch", "scikit-learn", "numpy")
        },
    )
    frames = dict(images=pd.DataFrame(table), objects=pd.DataFrame(objects, columns=["id", "class", "share", "iou"]))
    named = [*vocabulary.names, "void"]
    cells = [
        dict(truth=named[row], prediction=named[column], pixels=pixels)
        for row, column, pixels in sparse(totals.confusion)
    ]
    free: list[dict] = [
        dict(name=name, taken_for=label, similarity=similarity, images=count)
        for name, (label, similarity, count) in mapping.items()
    ]
    free.sort(key=lambda one: (-one["images"], one["name"]))
    tables = frames | dict(confusion=pd.DataFrame(cells)) | (dict(mapping=pd.DataFrame(free)) if free else {})
    files = {f"{name}.csv": frame.to_csv(index=False) for name, frame in tables.items()}
    files["timing.json"] = json.dumps(timings.summary(), indent=1, allow_nan=False)
    files["summary.json"] = json.dumps(summary, indent=1, allow_nan=False)
    found = Evaluation(folder, frames["images"], frames["objects"], totals.confusion, summary, not missing, wanted)
    return found, files


@contextmanager
def _understood(of_row: Path) -> Iterator[None]:
    """Within, whatever else than expected is found in a row is a ValueError that names its file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{of_row} makes no sense, whatever its hash says ({error!r}): delete it and evaluate again"
        ) from error


def _is_over_more(path: Path, digest: str, images: int) -> bool:
    stored = read_record(path)
    if stored is None or stored.get("hash") != digest or form.fault_of_summary(stored):
        return False
    return stored["images"] + len(stored.get("failed", {})) > images


def _of_image(row: dict, ious: np.ndarray, vocabulary: Vocabulary) -> dict:
    """An image's own scores, for its row of the table."""
    matched = scores.dataset_iou([dense(row["masks"]["clusters"]["majority"], len(vocabulary))], vocabulary.background)
    return dict(
        miou=scores.mean(ious),
        matched_miou=scores.mean(matched),
        boundary_f=row["masks"]["painted"]["boundary_f"],
        classes=len(row["present"]),
        regions=row["regions"],
        present=", ".join(row["present"]),
    )


def _of_objects(row: dict, counts: np.ndarray, ious: np.ndarray, vocabulary: Vocabulary) -> list[dict]:
    """One row for each class in the image's truth: its share of the image's pixels, and its IoU."""
    share = counts[:-1].sum(axis=1) / counts.sum()
    present = [vocabulary.names.index(name) for name in row["present"]]
    return [
        {"id": row["id"], "class": vocabulary.names[label], "share": float(share[label]), "iou": float(ious[label])}
        for label in present
    ]


class Timings:
    """The mean over images of every stage's seconds, and the most memory that any worker held."""

    def __init__(self):
        self.images, self.seconds, self.most, self.batches, self.gpu = 0, {}, {}, set(), None

    def add(self, timing: dict | None) -> None:
        """Take an image's timings, where they were kept."""
        if timing is None:
            return
        self.images += 1
        self.batches.add(timing["batch"])
        self.gpu = timing.get("gpu", self.gpu)
        for stage, seconds in timing["seconds"].items():
            self.seconds[stage] = self.seconds.get(stage, 0) + seconds
        for key in ("memory_mib", "gpu_memory_mib"):
            if key in timing:
                self.most[key] = max(self.most.get(key, 0), timing[key])

    def summary(self) -> dict:
        means = {stage: round(seconds / self.images, 4) for stage, seconds in self.seconds.items()}
        return dict(images=self.images, seconds_an_image=means, batches=sorted(self.batches), gpu=self.gpu, **self.most)


def _without_nan(value):
    """JSON knows no nan."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
