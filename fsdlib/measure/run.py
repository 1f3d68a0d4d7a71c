"""A method on a dataset: every image's result written once and whole, then a summary of all scores in all protocols.

A run that was stopped, killed even, goes on where it was and ends with the same bytes as one that never was. Its folder
belongs to one configuration and refuses another, and a second run at the same time (see `fsdlib.measure.claim`). Work goes
by batches of neighbouring images, always the same ones, so that order, the number of workers and the split into shards
change nothing; only another batch size may change rounding. What is cut, changed or missing counts as not done.

    images/ID.json    what was found and counted in one image; written last, so that it stands for the whole, with hashes of
                      itself, of the label map, and of the picture and mask it is of: where those are changed, it is not done
    labels/ID.png     its label map, a palette PNG
    timings/ID.json   seconds of every stage, which batch it was in: the one thing that differs from run to run
    summary.json, images.csv, objects.csv, confusion.csv, mapping.csv, timing.json
"""

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from fsdlib.measure import scores, worker
from fsdlib.measure.claim import claimed
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.segmenters import Segmenter
from fsdlib.measure.summary import RECORDS, Evaluation, dense, files_of, gather, of_images, read_record, read_row


class EvaluationFailed(RuntimeError):
    """More images failed than the run was told to tolerate; all that was done is kept."""


def configuration(dataset: Dataset, segmenter: Segmenter, seed: int = 0) -> dict:
    """All that a run's results depend on but the pictures and masks, the stages' own source included, and the hash of it.

    Raises ValueError for NaN and infinity, which JSON has not.
    """
    # what rows are made by; a summary is made anew each time
    own = "".join(inspect.getsource(module) for module in (scores, worker)).encode()
    content = dict(
        **of_dataset(dataset),
        seed=seed,
        scoring=hashlib.sha256(own).hexdigest(),
        **segmenter.configuration(),
    )
    for name, value in content.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"{name} is {value}: a configuration holds finite numbers alone") from error
    return content | dict(hash=configuration_hash(content))


def configuration_hash(content: dict) -> str:
    """The hash of a configuration, of all in it but the hash."""
    rest = {key: value for key, value in content.items() if key != "hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def of_dataset(dataset: Dataset) -> dict:
    """What a configuration says of its dataset."""
    known = dataset.vocabulary
    lists = [known, *filter(None, [known.finer])]
    classes = json.dumps(
        [known.groups, *([one.names, one.synonyms, one.strings, one.background] for one in lists)]
    ).encode()
    return dict(
        dataset=dataset.name,
        split=dataset.split,
        centre_crops=dataset.centre_crops,
        class_list=hashlib.sha256(classes).hexdigest(),
        selection=dataset.selection,
    )


def evaluate(
    dataset: Dataset,
    segmenter: Segmenter,
    folder: Path | str,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 4,
    replace: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
    shard: str = "0/1",
    tolerated_failures: float = 0.01,
    threads: int = 1,
    batch_seconds: int = 3600,
) -> Evaluation:
    """Segment the dataset's first `limit` images (all by default) and score them; results are kept under `folder`.

    batch_size: images a forward pass; halved, with a note, where a GPU's memory does not hold them. engine: "local"
    runs in this process, "ray" in `workers` processes on this machine or a Ray cluster (see `fsdlib.measure.on_ray`).
    shard: "i/n" does every n-th batch from the i-th, for array jobs; whichever shard finds all images done writes the
    summary.
    threads: of the CPU, a worker; more are faster but another number may change rounding. batch_seconds: after so many a
    worker of Ray is given up, with its models' loading for the first, and its batch done again by another. An image that fails has a row
    with its reason and is tried again when the run is; more than the share `tolerated_failures` raise EvaluationFailed
    at the end.

    Raises ValueError for parameters that make no sense, before anything is read, for a folder in, around or equal to the
    dataset's, for one that holds others' files, and for one with results of another configuration, unless `replace` says
    to delete those, and for a row of an image that makes no sense though its hash fits; FolderInUse where another run
    works in it; ModelUnavailable, at the first image, where the models cannot be loaded.
    """
    check_settings(
        limit,
        seed,
        batch_size,
        replace,
        engine,
        workers,
        shard,
        tolerated_failures,
        threads,
        batch_seconds,
        images=len(dataset),
    )
    folder, settings = Path(folder), configuration(dataset, segmenter, seed)
    part, parts = _shard(shard)
    if settings.get("vocabulary_mode") == "oracle" and not dataset.has_labels:
        raise ValueError(
            f"vocabulary_mode 'oracle' is told the classes truly present, which {dataset.name!r} has no masks to say: take another mode"
        )
    wanted = range(len(dataset) if limit is None else min(limit, len(dataset)))
    batches = [range(start, min(start + batch_size, len(dataset))) for start in range(0, len(wanted), batch_size)][
        part::parts
    ]
    cut = [folder / name for name in RECORDS if (folder / name).exists() and read_record(folder / name) is None]
    with claimed(folder, dataset.root, settings, replace, part, parts):
        arguments = (dataset, segmenter, folder, settings["hash"], seed, threads)
        _work(arguments, batches, wanted, cut, engine, workers, batch_seconds, settings.get("vocabulary_mode", ""))
        run = gather(folder, dataset, wanted, settings)
    failed = run.summary["failed"]
    if run.finished and len(failed) > tolerated_failures * len(wanted):
        first = "; ".join(f"{image_id}: {reason}" for image_id, reason in list(failed.items())[:3])
        raise EvaluationFailed(
            f"{len(failed)} of {len(wanted)} images failed, more than the tolerated share of {tolerated_failures:g} ({first}): mend them and run again, which "
            f"tries these alone, or raise tolerated_failures; {folder}/images says why each did"
        )
    return run


def _work(
    arguments: tuple,
    batches: list[range],
    wanted: range,
    not_whole: list[Path],
    engine: str,
    workers: int,
    batch_seconds: int,
    mode: str,
) -> None:
    """Do all of the `batches` that is not done. not_whole: files that are already known to be made anew."""
    dataset, _, folder, digest, *_ = arguments
    mine = [i for batch in batches for i in batch if i in wanted]
    done, tried, failures = set(), set(), 0
    running = np.zeros((len(dataset.vocabulary) + 1, len(dataset.vocabulary)), np.int64)
    ours = set(mine)
    for i, content in zip(wanted, dataset.contents(wanted)):
        row = read_row(folder, dataset.ids[i], digest, content, not_whole if i in ours else None)
        if row is not None and "failed" not in row:
            done.add(i)
            running += dense(row.get("counts", ()), len(dataset.vocabulary))
        elif i in ours and files_of(folder, dataset.ids[i])[0].exists():
            tried.add(i)
    if not_whole:
        names = ", ".join(str(path.relative_to(folder)) for path in not_whole[:3])
        tqdm.write(
            f"{folder}: {len(not_whole)} files were cut, changed or missing and are made anew "
            f"({names}{', ...' if len(not_whole) > 3 else ''})"
        )
    work = []
    for batch in batches:
        # the whole batch again, though only part of it may be missing: rounding depends on how many are in a batch
        missing = [i for i in batch if i in wanted and i not in done]
        if tried.intersection(batch):  # where one failed, the others were a smaller batch; it is written after them
            missing = [i for i in batch if i in done] + missing
        if missing:
            work.append((list(batch), missing))
    known = {dataset.ids[i] for i in done}
    counted = len(done)
    with tqdm(
        total=len(mine), initial=sum(i in done for i in mine), desc=f"{dataset.name} {mode}", unit="image"
    ) as bar:
        for rows, notes in _results(engine, arguments, work, workers, batch_seconds):
            for note in notes:
                tqdm.write(note)
            rows = [row for row in rows if row["id"] not in known]
            for row in rows:
                failures += "failed" in row
                counted += "failed" not in row
                running += dense(row.get("counts", ()), len(dataset.vocabulary))
            so_far = (
                [
                    f"dataset mIoU {100 * scores.mean(scores.dataset_iou([running], dataset.vocabulary.background)):.1f} % "
                    f"over {of_images(counted, len(wanted))}"
                ]
                if running.any()
                else []
            )
            bar.set_postfix_str(", ".join(so_far + ([f"{failures} failed"] if failures else [])), refresh=False)
            bar.update(len(rows))


def check_settings(
    limit: int | None,
    seed: int,
    batch_size: int,
    replace: bool,
    engine: str,
    workers: int,
    shard: str,
    tolerated_failures: float,
    threads: int,
    batch_seconds: int = 3600,
    images: int | None = None,
) -> None:
    """Raise ValueError, in one sentence, where one of `evaluate`'s parameters cannot be; images: of the dataset, if known."""
    least = dict(seed=(seed, 0), batch_size=(batch_size, 1), workers=(workers, 1), threads=(threads, 1))
    least["batch_seconds"] = batch_seconds, 1
    if limit is not None:
        least["limit"] = limit, 1
    for name, (value, minimum) in least.items():
        if type(value) is not int or value < minimum:  # bool is an int
            raise ValueError(f"{name} is {value!r}: give an int, {minimum} or more")
    if type(replace) is not bool:
        raise ValueError(f"replace is {replace!r}: give True or False")
    if engine not in ("local", "ray"):
        raise ValueError(f"no engine is called {engine!r}: choose local or ray")
    if type(tolerated_failures) not in (int, float) or not 0 <= tolerated_failures <= 1:
        raise ValueError(f"tolerated_failures is {tolerated_failures!r}: give a share, 0 to 1")
    part, _ = _shard(shard)
    batches = None if images is None else -(-min(images, limit or images) // batch_size)
    if batches and part >= batches:
        raise ValueError(f"shard {shard} has nothing to do, since there are {batches} batches: take fewer shards")


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text) if isinstance(text, str) else None
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"shard is {text!r}: write i/n, with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


def _results(
    engine: str, arguments: tuple, work: list, workers: int, batch_seconds: int
) -> Iterator[tuple[list[dict], list[str]]]:
    if not work:
        return
    if engine == "ray":
        from fsdlib.measure.on_ray import on_ray  # ray is only needed to scale out

        yield from on_ray(arguments, work, workers, batch_seconds)
    else:
        work_on = worker.Worker(*arguments)
        for batch, missing in work:
            yield work_on(batch, missing)
