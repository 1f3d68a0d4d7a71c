"""A run, recomputed from its stored label maps and the truth: which of its numbers differ, which files are not as written.

`python -m fsdlib.measure.verify FOLDER --root ROOT` reads every label map and every mask in full and says all that differs:
in rows, in the summary and in the tables. What rests on more than a label map and its truth (captions, the regions before
they had names, what CLIP called the true masks) cannot be had without the models; the hash that each row has of itself
stands for it. Numbers agree within 2e-6, which the last digit of a rounded one may differ by on another machine.
"""

import argparse
import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fsdlib.measure.benchmarks import DATASETS, open_dataset
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.run import configuration_hash, of_dataset
from fsdlib.measure.summary import files_of, first_not_whole, gathered, read_record, read_summary, stored_labels
from fsdlib.measure.worker import counted

TOLERANCE = 2e-6
SHOWN = 20  # findings that the command prints


def verify(folder: Path | str, dataset: Dataset) -> list[str]:
    """All that differs in a finished run, one sentence each: nothing where every number and every hash agrees.

    Raises ValueError where the folder holds no finished run, or that of another dataset or class list, and for a row that
    makes no sense.
    """
    folder = Path(folder)
    settings, summary = _settings(folder), read_summary(folder)
    findings = []
    if configuration_hash(settings) != settings["hash"]:
        findings.append("run.json: its hash is not that of the configuration in it")
    for name, here in of_dataset(dataset).items():
        if settings.get(name) != here:
            raise ValueError(f"{folder} is of another dataset: its {name} is {settings.get(name)}, here it is {here}")
    wanted = range(min(len(dataset), summary["images"] + len(summary.get("failed", {}))))
    rows = [_row(folder, dataset, i, settings["hash"], findings) for i in wanted]
    if None in rows:
        return [*findings, f"summary.json: not compared, since {rows.count(None)} images have no row or no label map"]
    found, files = gathered(folder, dataset, rows, settings)
    kept = {key: value for key, value in summary.items() if key != "versions"}
    fresh = {key: value for key, value in found.summary.items() if key != "versions"}
    findings += _differences("summary.json", kept, fresh)
    for path in sorted({*folder.glob("*.csv"), *(folder / name for name in files if name.endswith(".csv"))}):
        stored = _table(path.read_text(errors="replace")) if path.exists() else None
        findings += _differences(path.name, stored, _table(files[path.name]) if path.name in files else None)
    return findings


def _settings(folder: Path) -> dict:
    settings = read_record(folder / "run.json")
    kinds = dict(hash=str, dataset=str, split=str, centre_crops=bool, seed=int)
    if (
        settings is None
        or any(type(settings.get(name)) is not kind for name, kind in kinds.items())
        or settings["seed"] < 0
    ):
        raise ValueError(f"{folder / 'run.json'} is missing or not whole: is this a run's folder? Evaluate again")
    return settings


def _row(folder: Path, dataset: Dataset, i: int, digest: str, findings: list[str]) -> dict | None:
    """An image's row with the recomputed numbers in place of its own, None where there is none or no label map."""
    paths = files_of(folder, dataset.ids[i])
    row, name = read_record(paths[0]), str(paths[0].relative_to(folder))
    if row is None:
        findings.append(f"{name}: missing, empty or cut")
        return None
    if fault := first_not_whole(row, digest, *paths):
        findings.append(f"{fault.relative_to(folder)}: missing, or not as it was written")
    if row.get("id") != dataset.ids[i]:
        return None
    if row.get("files") != dataset.content(i):
        findings.append(f"{name}: its picture or its mask is no longer the one that it is of")
    if "failed" in row:
        return row
    try:
        labels, truth = stored_labels(folder, row["id"]), dataset.labels(i) if dataset.has_labels else None
        if labels is not None and labels.max() >= len(dataset.vocabulary):
            raise ValueError(f"its label map holds {labels.max()}, and {len(dataset.vocabulary)} are the labels")
        fresh = counted(labels, truth, dataset.vocabulary) if labels is not None else None
    except (FileNotFoundError, ValueError) as error:
        findings.append(f"{name}: cannot be recomputed, since {error}")
        return None
    if fresh is None:
        return None
    if "masks" in fresh:
        masks = row.get("masks")
        fresh["masks"] = (masks if isinstance(masks, dict) else {}) | fresh["masks"]
    findings += _differences(name, row, row | fresh)
    return row | fresh


def _differences(where: str, kept: object, fresh: object) -> Iterator[str]:
    """Every value of JSON that is kept otherwise than it is recomputed."""
    if isinstance(kept, dict) and isinstance(fresh, dict):
        for key in [*fresh, *(key for key in kept if key not in fresh)]:
            yield from _differences(f"{where}: {key}", kept.get(key), fresh.get(key))
    elif isinstance(kept, list | tuple) and isinstance(fresh, list | tuple) and len(kept) == len(fresh):
        for number, pair in enumerate(zip(kept, fresh)):
            yield from _differences(f"{where}[{number}]", *pair)
    elif not _agree(kept, fresh):
        yield f"{where}: {_short(kept)}, recomputed {_short(fresh)}"


def _agree(kept: object, fresh: object) -> bool:
    if isinstance(kept, int | float) and isinstance(fresh, int | float):
        with suppress(OverflowError):  # a number of hundreds of digits
            return math.isclose(kept, fresh, rel_tol=0, abs_tol=TOLERANCE)
    return kept == fresh


def _short(value: object) -> str:
    return f"{len(value)} entries" if isinstance(value, list | tuple | dict) else repr(value)


def _table(text: str) -> list[dict] | None:
    """The rows of a CSV, numbers as such, or None where it is none."""
    try:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    except csv.Error:
        return None


def _number(cell):
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.verify",
        description="Recompute a run from its stored label maps and the truth, check its hashes, and say what differs.",
    )
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--dataset", choices=DATASETS, help="the one that the run names by default")
    parser.add_argument("--root", type=Path, help="the dataset's folder; only the scenes have a default")
    parser.add_argument("--classes", help="for a folder of one's own: a .csv or .txt of its classes")
    a = parser.parse_args(arguments)
    try:
        settings = _settings(a.folder)
        how = dict(split=settings["split"], centre_crops=settings["centre_crops"])
        dataset = open_dataset(a.dataset or settings["dataset"], a.root, classes=a.classes, **how)
        findings = verify(a.folder, dataset)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    for finding in findings[:SHOWN]:
        print(finding)
    if findings:
        raise SystemExit(
            f"{len(findings)} numbers or files differ{f'; the first {SHOWN} are above' if len(findings) > SHOWN else ''}"
        )
    print("every number follows from the label maps and the truth, and every hash agrees")


if __name__ == "__main__":
    main()
