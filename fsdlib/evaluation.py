"""A method on a dataset: every image's result written once and whole, then a summary with all scores under both protocols.

A run that was stopped, killed even, goes on where it was and ends with the same bytes as one that never was. Its folder
belongs to one configuration and refuses another. Work goes by batches of neighbouring images, always the same ones, so
that order, the number of workers and the split into shards change nothing; only another batch size may change rounding.

    images/ID.json    what was found and counted in one image; written last, so that it stands for the whole
    labels/ID.png     its label map, a palette PNG
    timings/ID.json   seconds of every stage, which batch it was in: the one thing that differs from run to run
    summary.json, images.csv, objects.csv, confusion.csv, mapping.csv, timing.json
"""

import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import label as connected_parts
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from fsdlib import scores, words
from fsdlib.datasets import Dataset
from fsdlib.project import write_atomically
from fsdlib.scores import rounded
from fsdlib.segmenters import Prediction, Segmenter
from fsdlib.summary import MATCHINGS, PARTITIONS, TABLES, Evaluation, dense, gather, read_row, sparse
from fsdlib.vocabulary import VOID

SMALLEST_REGION = 0.001  # of an image's pixels: smaller parts of a class are not counted as regions


class EvaluationFailed(RuntimeError):
    """More images failed than the run was told to tolerate; all that was done is kept."""


def configuration(dataset: Dataset, segmenter: Segmenter, seed: int = 0) -> dict:
    """All that a run's results depend on, the stages' own source included, and the hash of it."""
    own = Path(scores.__file__).read_bytes() + Path(__file__).read_bytes()  # what rows are made by; a summary is made anew each time
    known = dataset.vocabulary
    classes = json.dumps([known.names, known.synonyms, known.background]).encode()
    content = dict(
        dataset=dataset.name, split=dataset.split, files=dataset.fingerprint, class_list=hashlib.sha256(classes).hexdigest(), seed=seed,
        scoring=hashlib.sha256(own).hexdigest(), **segmenter.configuration(),
    )  # fmt: skip
    return content | dict(hash=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def evaluate(
    dataset: Dataset, segmenter: Segmenter, folder: Path | str, limit: int | None = None, seed: int = 0, batch_size: int = 4, replace: bool = False,
    engine: Literal["local", "ray"] = "local", workers: int = 2, shard: str = "0/1", tolerated_failures: float = 0.01, threads: int = 1,
) -> Evaluation:
    """Segment the dataset's first `limit` images (all by default) and score them; results are kept under `folder`.

    batch_size: images a forward pass; halved, with a note, where a GPU's memory does not hold them. engine: "local" runs in
    this process, "ray" in `workers` processes on this machine or a Ray cluster (see `fsdlib.distributed`). shard: "i/n"
    does every n-th batch from the i-th, for array jobs; whichever shard finds all images done writes the summary.
    threads: of the CPU, a worker; more are faster but another number may change rounding. An image that fails has a row
    with its reason and is tried again when the run is; more than the share `tolerated_failures` raise EvaluationFailed at the end.

    Raises ValueError where the folder holds results of another configuration, unless `replace` says to delete those.
    """
    folder, settings = Path(folder), configuration(dataset, segmenter, seed)
    part, parts = _shard(shard)
    if engine not in ("local", "ray"):
        raise ValueError(f"no engine is called {engine!r}: choose local or ray")
    if settings.get("vocabulary_mode") == "oracle" and not dataset.has_labels:
        raise ValueError(f"vocabulary_mode 'oracle' is told the classes truly present, which {dataset.name!r} has no masks to say: take another mode")
    _claim(folder, settings, replace)

    wanted = range(len(dataset) if limit is None else min(limit, len(dataset)))
    done, failures, running = set(), 0, np.zeros((len(dataset.vocabulary) + 1, len(dataset.vocabulary)), np.int64)
    for i in wanted:
        row = read_row(folder, dataset.ids[i], settings["hash"])
        if row is not None and "failed" not in row and (folder / "labels" / f"{dataset.ids[i]}.png").exists():
            done.add(i)
            running += dense(row.get("counts", ()), len(dataset.vocabulary))
    batches = [range(start, min(start + batch_size, len(dataset))) for start in range(0, len(wanted), batch_size)][part::parts]
    mine = [i for batch in batches for i in batch if i in wanted]
    # the whole batch again, though only part of it may be missing: rounding depends on who is in a batch
    work = [(list(batch), [i for i in batch if i in wanted and i not in done]) for batch in batches]
    work = [(batch, missing) for batch, missing in work if missing]
    arguments = (dataset, segmenter, folder, settings["hash"], seed, threads)
    with tqdm(total=len(mine), initial=sum(i in done for i in mine), desc=f"{dataset.name} {settings.get('vocabulary_mode', '')}", unit="image") as bar:
        for rows, notes in _results(engine, arguments, work, workers):
            for note in notes:
                tqdm.write(note)
            for row in rows:
                failures += "failed" in row
                running += dense(row.get("counts", ()), len(dataset.vocabulary))
            so_far = [f"dataset mIoU {100 * scores.mean(scores.dataset_iou([running], dataset.vocabulary.background)):.1f} %"] if running.any() else []
            bar.set_postfix_str(", ".join(so_far + ([f"{failures} failed"] if failures else [])), refresh=False)
            bar.update(len(rows))

    run = gather(folder, dataset, wanted, settings)
    failed = run.summary["failed"]
    if run.finished and len(failed) > tolerated_failures * len(wanted):
        first = "; ".join(f"{image_id}: {reason}" for image_id, reason in list(failed.items())[:3])
        raise EvaluationFailed(
            f"{len(failed)} of {len(wanted)} images failed, more than the tolerated share of {tolerated_failures:g} ({first}): mend them and run again, which "
            f"tries these alone, or raise tolerated_failures; {folder}/images says why each did"
        )
    return run


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"shard is {text!r}: write i/n, with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


def _claim(folder: Path, settings: dict, replace: bool) -> None:
    """Make the folder this configuration's own, or raise ValueError where it is another's."""
    stamp = folder / "run.json"
    if stamp.exists() and json.loads(stamp.read_text())["hash"] != settings["hash"]:
        if not replace:
            raise ValueError(f"{folder} holds results of another configuration: choose another output folder, or replace them with replace=True")
        for name in ("images", "labels", "timings"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("summary.json", "timing.json", *(f"{table}.csv" for table in TABLES)):
            (folder / name).unlink(missing_ok=True)
    write_atomically(stamp, json.dumps(settings, indent=1))


def _results(engine: str, arguments: tuple, work: list, workers: int) -> Iterator[tuple[list[dict], list[str]]]:
    if not work:
        return
    if engine == "ray":
        from fsdlib.distributed import on_ray  # ray is only needed to scale out

        yield from on_ray(arguments, work, workers)
    else:
        worker = Worker(*arguments)
        for batch, missing in work:
            yield worker(batch, missing)


class Worker:
    """Segments batches of a dataset and writes what it finds; there may be many, in any processes, on one folder."""

    def __init__(self, dataset: Dataset, segmenter: Segmenter, folder: Path, digest: str, seed: int, threads: int):
        self.dataset, self.segmenter, self.folder, self.digest, self.seed, self.threads = dataset, segmenter, folder, digest, seed, threads
        self.most: int | None = None  # images a forward pass, once memory has run out
        self.notes: list[str] = []

    def __call__(self, batch: Sequence[int], missing: Sequence[int]) -> tuple[list[dict], list[str]]:
        """Segment the images of `batch` and write those that are `missing`; returns their rows, and notes for whoever watches."""
        with _threads(self.threads):
            outcomes = self._outcomes(batch)
            rows = [self._write(i, outcomes[i]) for i in missing]
        notes, self.notes = self.notes, []
        return rows, notes

    def _outcomes(self, batch: Sequence[int]) -> dict[int, tuple | Exception]:
        """For each image its picture, truth and prediction, with the size of the batch it was in, or what went wrong."""
        outcomes, read = {}, {}
        for i in batch:
            try:
                image = self.dataset.image(i)
                truth = self.dataset.labels(i) if self.dataset.has_labels else None
                if truth is not None and truth.shape != image.shape[:2]:
                    raise ValueError(f"the mask is {truth.shape} and the picture {image.shape[:2]}")
                read[i] = image, truth
            except Exception as error:  # whatever a damaged file makes a decoder raise costs that image alone
                outcomes[i] = error
        for part in self._parts(list(read)):
            outcomes |= self._segmented(part, read)
        return outcomes

    def _parts(self, images: list[int]) -> list[list[int]]:
        most = self.most or max(1, len(images))
        return [images[start : start + most] for start in range(0, len(images), most)]

    def _segmented(self, part: list[int], read: dict) -> dict[int, tuple | Exception]:
        present = [[] if read[i][1] is None else np.setdiff1d(read[i][1], (0, VOID)).tolist() for i in part]
        try:
            found = self.segmenter.segment([read[i][0] for i in part], self.dataset.vocabulary, present, self.seed)
            return {i: (*read[i], one, len(part)) for i, one in zip(part, found, strict=True)}
        except torch.OutOfMemoryError as error:
            if len(part) == 1:
                return {part[0]: error}
            self.most = (len(part) + 1) // 2
            self.notes.append(f"out of memory with a batch of {len(part)}: going on with {self.most}")
        except Exception as error:
            if len(part) == 1:
                return {part[0]: error}
            return {i: one for alone in part for i, one in self._segmented([alone], read).items()}  # to find whose fault it is
        if torch.cuda.is_available():  # outside the handler, whose error still holds on to the memory
            torch.cuda.empty_cache()
        return {i: one for smaller in self._parts(part) for i, one in self._segmented(smaller, read).items()}

    def _write(self, i: int, outcome: tuple | Exception) -> dict:
        image_id, row = self.dataset.ids[i], dict(id=self.dataset.ids[i], run=self.digest)
        if not isinstance(outcome, Exception):
            try:
                image, truth, prediction, together = outcome
                row |= self._found(image, truth, prediction)
            except Exception as error:
                outcome = error
        if isinstance(outcome, Exception):
            row["failed"] = re.sub(r" at 0x[0-9a-f]+", "", f"{type(outcome).__name__}: {outcome}")
        else:
            write_atomically(self.folder / "labels" / f"{image_id}.png", _palette_png(prediction.labels, self.dataset.vocabulary.palette))
            timing = dict(batch=together, seconds={stage: round(seconds, 4) for stage, seconds in prediction.seconds.items()}, **_memory())
            write_atomically(self.folder / "timings" / f"{image_id}.json", json.dumps(timing))
        write_atomically(self.folder / "images" / f"{image_id}.json", json.dumps(row))
        return row

    def _found(self, image: np.ndarray, truth: np.ndarray | None, prediction: Prediction) -> dict:
        vocabulary = self.dataset.vocabulary
        row = dict(
            caption=prediction.caption,
            found=[vocabulary.names[label] for label in np.unique(prediction.labels) if label],
            spoken=sorted(words.spoken_classes(prediction.caption, vocabulary)),
            candidates=None if prediction.candidates is None else list(prediction.candidates),
            mapping={name: list(pair) for name, pair in prediction.mapping.items()},
            **prediction.details,
        )
        if truth is None:
            return row
        classes = len(vocabulary)
        present = np.setdiff1d(truth, (0, VOID))
        named = self.segmenter.name_masks(image, truth == present[:, None, None], vocabulary) if len(present) else []
        partitions = dict(zip(PARTITIONS, (scores.enlarged(prediction.clusters, truth.shape), prediction.labels)))
        return row | dict(
            present=[vocabulary.names[label] for label in present],
            regions=_regions(truth),
            counts=sparse(scores.confusion(prediction.labels, truth, classes)),
            named=[[int(label), int(other)] for label, other in zip(present, named)],
            masks={
                name: {how: sparse(scores.confusion(match(partition, truth), truth, classes)) for how, match in MATCHINGS.items()}
                | dict(boundary_f=rounded(scores.boundary_f(partition, truth)))
                for name, partition in partitions.items()
            },
        )


def _regions(truth: np.ndarray) -> int:
    """How many connected parts the truth's classes have, but for the smallest ones: nearly the number of objects."""
    smallest, found = SMALLEST_REGION * truth.size, 0
    for label in np.setdiff1d(truth, (0, VOID)):
        parts, _ = connected_parts(truth == label)
        found += int((np.bincount(parts.ravel())[1:] >= smallest).sum())
    return found


def _palette_png(labels: np.ndarray, palette: bytes) -> bytes:
    picture, buffer = Image.fromarray(labels, "P"), io.BytesIO()
    picture.putpalette(palette)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _memory() -> dict[str, int]:
    """The most that this process has held so far, in MiB: of main memory, and of the GPU's where there is one."""
    try:
        import resource  # Unix only, and nothing else here is
    except ImportError:
        main = {}
    else:
        main = dict(memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10))
    return main | (dict(gpu_memory_mib=torch.cuda.max_memory_allocated() // 2**20, gpu=torch.cuda.get_device_name()) if torch.cuda.is_available() else {})


@contextmanager
def _threads(count: int):
    """So many CPU threads for every library, then as many as before: sums over more threads are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
