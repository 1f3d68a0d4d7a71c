"""The climb, rung by rung, and the certificate that it writes after each."""

import dataclasses
import datetime
import hashlib
import json
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fsdlib.measure.datasets import IncompleteDataset
from fsdlib.measure.reproduction.climb import Climb, Rung, Verdict, machine, versions
from fsdlib.measure.reproduction.evaluations import Sample, Whole
from fsdlib.measure.reproduction.preflight import Preflight
from fsdlib.measure.reproduction.recorded import Captions, ClassVectors, Clusters, LabelMaps
from fsdlib.measure.run import EvaluationFailed
from fsdlib.models import (
    ModelUnavailable,
)
from fsdlib.project import REPORTS, write_atomically


def ladder(climb: Climb) -> list[Rung]:
    """The rungs from the ground; datasets that were not asked for have none."""
    first, *others = climb.subject.goals
    asked = [first, *(goal for goal in others if climb.roots.get(goal.dataset))]
    return [Preflight(), ClassVectors(), Captions(), Clusters(), LabelMaps(), Sample(first), *map(Whole, asked)]


def reproduce(climb: Climb, out: Path = REPORTS, climb_on: bool = False, rungs: int | None = None) -> dict:
    """Climb the ladder to where a rung breaks, or all of it (`climb_on`), or its first `rungs`.

    Writes `out`/reproduction.md and .json after every rung; what they hold of rungs that passed under the same
    configuration is kept. Returns what is in the latter.
    """
    path, steps = out / "reproduction.json", ladder(climb)[:rungs]
    kept = {row["name"]: row for row in json.loads(path.read_text())["rungs"]} if path.exists() else {}
    rows: list[dict] = []
    content: dict = {}
    for number, rung in enumerate(steps, 1):
        tqdm.write(f"{number} of {len(steps)}, {rung.name} ...")
        started, row, digest = time.perf_counter(), kept.get(rung.name), None
        try:
            configured = climb.configuration() | rung.settings(climb) if not rung.always else {}
            digest = hashlib.sha256(json.dumps(configured, sort_keys=True).encode()).hexdigest()
            if rung.always or row is None or row["configuration"] != digest or not row["holds"]:
                row = dataclasses.asdict(rung.run(climb))
        except (ModelUnavailable, EvaluationFailed, IncompleteDataset, FileNotFoundError) as error:  # clear sentences
            row = dataclasses.asdict(Verdict(False, str(error)))
        except Exception as error:  # whatever breaks a rung is its verdict, and where it did is for whoever mends it
            traceback.print_exc()
            row = dataclasses.asdict(Verdict(False, f"{type(error).__name__}: {error}"))
        if "name" not in row:
            row |= dict(name=rung.name, configuration=digest, seconds=round(time.perf_counter() - started, 1))
        rows.append(row)
        tqdm.write(f"  {OUTCOMES[row['holds']]}: {row['sentence']}")
        content = certificate(climb, rows, len(steps), len(ladder(climb)))
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
        write_atomically(out / "reproduction.md", as_markdown(content))
        if row["holds"] is False and not climb_on:
            break
    return content


OUTCOMES = {True: "holds", False: "BROKEN", None: "nothing to compare with"}


def certificate(climb: Climb, rows: Sequence[dict], asked: int, in_all: int) -> dict:
    """All that the report says, ready for JSON."""
    try:
        identity = climb.models.identity
    except Exception as error:  # the models may be what is missing
        identity = {"missing": str(error)}
    return dict(
        models=climb.models.name,
        identity=identity,
        recipe=climb.recipe.name,
        record=climb.subject.record.name,
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(climb.device),
        versions=versions(),
        verdict=verdict(rows, asked, in_all),
        rungs=list(rows),
    )


def verdict(rows: Sequence[dict], asked: int, in_all: int) -> str:
    """What the rungs come to, in a sentence."""
    broken = [row["name"] for row in rows if row["holds"] is False]
    if broken:
        return f"broken: {', '.join(broken)}"
    open_ones = [row["name"] for row in rows if row["holds"] is None]
    said = f"{len(rows) - len(open_ones)} of {in_all} rungs hold"
    said += f", nothing to compare with: {', '.join(open_ones)}" if open_ones else ""
    return said if len(rows) == asked else f"{said}, still climbing"


def as_markdown(content: dict) -> str:
    """The certificate as a page, fit for an issue."""
    c = content
    about = c["machine"] | c["versions"]
    parts = [
        f"{part}: {i['repository']} at {i.get('commit') or i.get('sha256')}"
        for part, i in c["identity"].items()
        if isinstance(i, dict)
    ]
    lines = [
        f"# Reproduction of FreeSeg-Diff with models `{c['models']}`",
        "",
        f"**{c['verdict']}** (recipe `{c['recipe']}`, record `{c['record']}`, {c['written']})",
        "",
        "| rung | | verdict | seconds |",
        "|---|---|---|---|",
        *(
            f"| {number} {row['name']} | {OUTCOMES[row['holds']]} | {_in_a_cell(row['sentence'])} | {row['seconds']} |"
            for number, row in enumerate(c["rungs"], 1)
        ),
        "",
        *(f"- {part}" for part in parts or [str(c["identity"])]),
        f"- {', '.join(f'{name} {value}' for name, value in about.items())}",
    ]
    pictures: dict[str, dict] = {}
    for row in c["rungs"]:
        for image_id, found in row["numbers"].get("pictures", {}).items():
            pictures.setdefault(image_id, {}).update(found)
    if pictures:
        columns = list(dict.fromkeys(key for found in pictures.values() for key in found))
        lines += ["", f"| picture | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
        lines += [
            f"| {image_id} | {' | '.join(_in_a_cell(str(found.get(key, ''))) for key in columns)} |"
            for image_id, found in pictures.items()
        ]
    return "\n".join([*lines, ""])


def _in_a_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
