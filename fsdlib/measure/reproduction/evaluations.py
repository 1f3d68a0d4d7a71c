"""The rungs that measure: the first images of a dataset, and datasets as a whole beside the published figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fsdlib.measure.reproduction.climb import Climb, Goal, Rung, Verdict
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.measure.summary import Evaluation
from fsdlib.project import DATA


@dataclass(frozen=True)
class Sample(Rung):
    """The first images of a dataset: both protocols, and what the rest will take."""

    goal: Goal
    name = "sample"

    def settings(self, climb: Climb) -> dict:
        return dict(files=climb.datasets[self.goal].fingerprint, limit=climb.sample)

    def run(self, climb: Climb) -> Verdict:
        run, dataset = evaluated(climb, self.goal, climb.sample), climb.datasets[self.goal]
        timing = json.loads((run.folder / "timing.json").read_text())
        rest = max(0, len(dataset) - climb.sample)
        hours = rest * sum(timing["seconds_an_image"].values()) / 3600
        gib = {key: round(timing[key] / 1024, 1) for key in ("memory_mib", "gpu_memory_mib") if key in timing}
        said = " and ".join(
            f"{value} GiB{' of the GPU' if key.startswith('gpu') else ''}" for key, value in gib.items()
        )
        empty, ours = run.summary["empty"], run.summary["miou"]
        return Verdict(
            ours["per_image"] > empty["per_image"],
            f"{scored(run)} over {run.summary['images']} images (an empty label map: {_percent(empty)}); the other {rest} of {len(dataset)} take "
            f"about {hours:.1f} h and {said}",
            dict(
                miou=ours,
                intervals=run.summary["intervals"],
                empty=empty,
                images=run.summary["images"],
                hours_for_the_rest=round(hours, 2),
                **gib,
            ),
        )


@dataclass(frozen=True)
class Whole(Rung):
    """A dataset as a whole, beside the published figure."""

    goal: Goal

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"the whole of {self.goal.dataset}"

    def settings(self, climb: Climb) -> dict:
        return dict(files=climb.datasets[self.goal].fingerprint)

    def run(self, climb: Climb) -> Verdict:
        run, dataset = evaluated(climb, self.goal), climb.datasets[self.goal]
        numbers = {key: run.summary[key] for key in ("miou", "intervals", "empty", "images")}
        numbers |= dict(run=run.folder.name, run_hash=run.summary["hash"])
        said = f"{scored(run)} over {run.summary['images']} images"
        if self.goal.published is None:
            return Verdict(
                None, f"{said}; no figure is published on {dataset.name}, so there is none to compare with", numbers
            )
        protocol, figure = published(self.goal.published)
        if not run.summary["complete"]:
            return Verdict(
                None, f"{said} of {dataset.expected}, so the published {figure} is no figure to compare with", numbers
            )
        holds, sentence = beside(
            figure, 100 * run.summary["miou"][protocol], [100 * x for x in run.summary["intervals"][protocol]]
        )
        return Verdict(
            holds, f"{said}; {sentence} (protocol {protocol})", numbers | dict(published=figure, protocol=protocol)
        )


def evaluated(climb: Climb, goal: Goal, limit: int | None = None) -> Evaluation:
    """The run over a goal's first images, in the folder that `make eval` gives it; goes on where it was."""
    folder = climb.runs / f"{goal.dataset}-{climb.models.name}-{climb.recipe.name}"
    return evaluate(climb.datasets[goal], FreeSegDiff(climb.loaded, climb.recipe), folder, limit, climb.seed)


def scored(run: Evaluation) -> str:
    """Both protocols with their intervals, in percent."""
    summary = run.summary
    return ", ".join(
        f"{protocol} {100 * summary['miou'][protocol]:.1f} [{', '.join(f'{100 * x:.1f}' for x in summary['intervals'][protocol])}]"
        for protocol in ("per_image", "dataset")
    )


def _percent(of_protocols: Mapping[str, float]) -> str:
    return ", ".join(f"{protocol} {100 * of_protocols[protocol]:.1f}" for protocol in ("per_image", "dataset"))


def published(column: str) -> tuple[str, float]:
    """FreeSeg-Diff's figure on a benchmark in data/published.csv, in percent, and the protocol it is of."""
    row = pd.read_csv(DATA / "published.csv").set_index("system").loc["FreeSeg-Diff"]
    return row.protocol, float(row[column])


def beside(figure: float, ours: float, interval: Sequence[float]) -> tuple[bool, str]:
    """Whether a published figure is reached, and the one sentence that may be said; all in percent."""
    low, high = interval
    if low <= figure <= high:
        return True, f"the published {figure} is within the interval"
    if ours > figure:
        return True, f"above the published {figure} by {ours - figure:.1f}"
    return False, f"below the published {figure} by {figure - ours:.1f}"
