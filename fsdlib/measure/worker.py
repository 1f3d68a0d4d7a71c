"""The worker of a run: segments batches of a dataset, counts, and writes one row an image. Many may share a folder."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import label as connected_parts

from fsdlib import words
from fsdlib.clusters import enlarged
from fsdlib.measure import scores
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.scores import rounded
from fsdlib.measure.segmenters import Prediction, Segmenter, one_each
from fsdlib.measure.summary import MATCHINGS, files_of, keep, label_map_hash, sealed, sparse
from fsdlib.models import ModelUnavailable
from fsdlib.pictures import label_png
from fsdlib.stream import threads_of
from fsdlib.vocabulary import VOID, Vocabulary

SMALLEST_REGION = 0.001  # of an image's pixels: smaller parts of a class are not counted as regions


class Worker:
    """Segments batches of a dataset and writes what it finds; there may be many, in any processes, on one folder."""

    def __init__(self, dataset: Dataset, segmenter: Segmenter, folder: Path, digest: str, seed: int, threads: int):
        self.dataset, self.segmenter, self.folder, self.digest, self.seed, self.threads = (
            dataset,
            segmenter,
            folder,
            digest,
            seed,
            threads,
        )
        self.most: int | None = None  # images a forward pass, once memory has run out
        self.notes: list[str] = []

    def __call__(self, batch: Sequence[int], missing: Sequence[int]) -> tuple[list[dict], list[str]]:
        """Segment the images of `batch` and write those that are `missing`.

        Returns their rows, and notes for whoever watches. Raises ModelUnavailable, which is no image's fault and would
        be that of all.
        """
        with threads_of(self.threads):
            contents = {i: self.dataset.content(i) for i in batch}
            outcomes = self._outcomes(contents)
            rows = [self._write(i, contents[i], outcomes[i]) for i in missing]
        notes, self.notes = self.notes, []
        return rows, notes

    def give_up(self, missing: Sequence[int], reason: Exception) -> list[dict]:
        """Write, of images that are not tried again, why; returns their rows."""
        return [self._write(i, self.dataset.content(i), reason) for i in missing]

    def _outcomes(self, contents: dict[int, str]) -> dict[int, tuple | Exception]:
        """For each image its picture, truth and prediction, with the size of its batch, or what went wrong."""
        outcomes: dict[int, tuple | Exception] = {}
        read: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
        for i, content in contents.items():
            try:
                image = self.dataset.image(i)
                truth = self.dataset.labels(i) if self.dataset.has_labels else None
                if truth is not None and truth.shape != image.shape[:2]:
                    raise ValueError(f"the mask is {truth.shape} and the picture {image.shape[:2]}")
                if self.dataset.content(i) != content:
                    raise ValueError("its files were written while they were read: run again")
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
            return {i: (*read[i], one, len(part)) for i, one in zip(part, one_each(found, len(part)))}
        except torch.OutOfMemoryError as error:
            if len(part) == 1:
                return {part[0]: error}
            self.most = (len(part) + 1) // 2
            self.notes.append(f"out of memory with a batch of {len(part)}: going on with {self.most}")
        except ModelUnavailable:
            raise
        except Exception as error:
            if len(part) == 1:
                return {part[0]: error}
            return {
                i: one for alone in part for i, one in self._segmented([alone], read).items()
            }  # to find whose fault it is
        if torch.cuda.is_available():  # outside the handler, whose error still holds on to the memory
            torch.cuda.empty_cache()
        return {i: one for smaller in self._parts(part) for i, one in self._segmented(smaller, read).items()}

    def _write(self, i: int, content: str, outcome: tuple | Exception) -> dict:
        image_id, row = self.dataset.ids[i], dict(id=self.dataset.ids[i], run=self.digest, files=content)
        if not isinstance(outcome, Exception):
            try:
                image, truth, found, together = outcome
                prediction = found.fitted(*image.shape[:2], len(self.dataset.vocabulary))
                row = row | self._found(image, truth, prediction) | row  # whatever a method calls its details
            except ModelUnavailable:
                raise
            except Exception as error:
                outcome = error
        of_row, of_labels, of_timings = files_of(self.folder, image_id)
        if isinstance(outcome, Exception):
            row["failed"] = re.sub(r" at 0x[0-9a-f]+", "", f"{type(outcome).__name__}: {outcome}")
        else:
            label_map = label_png(prediction.labels, self.dataset.vocabulary.palette)
            keep(self.folder, of_labels, label_map)
            row |= label_map_hash(label_map)
            timing = dict(
                batch=together,
                seconds={stage: round(seconds, 4) for stage, seconds in prediction.seconds.items()},
                **_memory(),
            )
            keep(self.folder, of_timings, json.dumps(timing, allow_nan=False))
        keep(self.folder, of_row, sealed(row))
        return row

    def _found(self, image: np.ndarray, truth: np.ndarray | None, prediction: Prediction) -> dict:
        vocabulary = self.dataset.vocabulary
        row = dict(
            caption=prediction.caption,
            spoken=sorted(words.spoken_classes(prediction.caption, vocabulary)),
            candidates=None if prediction.candidates is None else list(prediction.candidates),
            mapping={name: list(pair) for name, pair in prediction.mapping.items()},
            **prediction.details,
            **counted(prediction.labels, truth, vocabulary),
        )
        if truth is None:
            return row
        present = np.setdiff1d(truth, (0, VOID))
        named = self.segmenter.name_masks(image, truth == present[:, None, None], vocabulary) if len(present) else []
        if len(named) != len(present):
            raise ValueError(f"name_masks gave {len(named)} labels for {len(present)} masks: give one each")
        row["named"] = [[int(label), int(other)] for label, other in zip(present, named)]
        row["masks"] |= dict(clusters=_quality(enlarged(prediction.clusters, *truth.shape), truth, len(vocabulary)))
        return row


def counted(labels: np.ndarray, truth: np.ndarray | None, vocabulary: Vocabulary) -> dict:
    """All of a row that follows from the label map and the truth alone, both (H, W) uint8."""
    row: dict = dict(found=[vocabulary.names[label] for label in np.unique(labels) if label])
    if truth is None:
        return row
    return row | dict(
        present=[vocabulary.names[label] for label in np.setdiff1d(truth, (0, VOID))],
        regions=_regions(truth),
        counts=sparse(scores.confusion(labels, truth, len(vocabulary))),
        masks=dict(painted=_quality(labels, truth, len(vocabulary))),
    )


def _quality(partition: np.ndarray, truth: np.ndarray, classes: int) -> dict:
    """What regions are worth whatever their names."""
    matched = {
        how: sparse(scores.confusion(match(partition, truth), truth, classes)) for how, match in MATCHINGS.items()
    }
    return matched | dict(boundary_f=rounded(scores.boundary_f(partition, truth)))


def _regions(truth: np.ndarray) -> int:
    """How many connected parts the truth's classes have, but for the smallest ones: nearly the number of objects."""
    smallest, found = SMALLEST_REGION * truth.size, 0
    for label in np.setdiff1d(truth, (0, VOID)):
        parts, _ = connected_parts(truth == label)
        found += int((np.bincount(parts.ravel())[1:] >= smallest).sum())
    return found


def _memory() -> dict[str, int]:
    """The most that this process has held so far, in MiB: of main memory, and of the GPU's where there is one."""
    try:
        import resource  # Unix only, and nothing else here is
    except ImportError:
        main = {}
    else:
        main = dict(
            memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            // (2**20 if sys.platform == "darwin" else 2**10)
        )
    return main | (
        dict(gpu_memory_mib=torch.cuda.max_memory_allocated() // 2**20, gpu=torch.cuda.get_device_name())
        if torch.cuda.is_available()
        else {}
    )
