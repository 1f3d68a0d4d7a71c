"""A soak: thousands of scenes of many sizes through one evaluation in one process, whose memory must stay as it is.

`python tests/hostile/soak.py --images 2000` writes reports/robustness/soak.json and soak.png, and fails where memory grows.
The scenes are drawn as they are asked for, so that nothing but the run itself is there to hold on to anything. Linux, which
tells what a process holds now; others tell the most that it ever held.
"""

import argparse
import io
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from fsdlib.measure import charts
from fsdlib.measure.datasets import Dataset
from fsdlib.measure.report import paper_style
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import ModelSet
from fsdlib.project import CLASSES, REPORTS, write_atomically
from fsdlib.recipe import get_recipe
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import Scene, scene_of_split

OUTPUT = REPORTS / "robustness"
WARM = 200  # images until every cache is filled and the largest picture was seen
LIMIT = 20  # MiB that memory may grow over 1,000 images: a label map kept of each would be more
KEPT = 20  # of so many images the memory is kept once


@dataclass(frozen=True)
class Drawn(Dataset):
    """Scenes that lie in no file: 13 lengths of side, and of every third the upper half or three quarters."""

    fingerprint = "drawn"
    has_labels = True

    def image(self, index: int) -> np.ndarray:
        return scene(index).image[: height(index)]

    def labels(self, index: int) -> np.ndarray:
        return scene(index).labels[: height(index)]


def side(index: int) -> int:
    return 96 + 16 * (7 * index % 13)


def height(index: int) -> int:
    return (side(index), side(index) * 3 // 4, side(index) // 2)[index % 3]


@lru_cache(1)
def scene(index: int) -> Scene:
    return scene_of_split("val", index, side=side(index))


def drawn(images: int, root: Path) -> Drawn:
    ids = tuple(f"val_{index:06d}" for index in range(images))
    return Drawn(
        "drawn", root, "val", Vocabulary.read(CLASSES / "scenes.csv"), ids, pictures=(), masks=(), lookup=np.arange(256)
    )


class Watched:
    """A method as it is, which notes before every batch how many images were done and what the process holds, in MiB."""

    def __init__(self, method):
        self.method, self.images, self.held = method, 0, []

    def configuration(self):
        return self.method.configuration()

    def segment(self, images, vocabulary, present, seed):
        self.note()
        self.images += len(images)
        return self.method.segment(images, vocabulary, present, seed)

    def name_masks(self, image, masks, vocabulary):
        return self.method.name_masks(image, masks, vocabulary)

    def note(self):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.held.append((self.images, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def soaked(method, images: int) -> list[tuple[int, float]]:
    """What the process held before each batch of an evaluation of so many scenes, and after the last: (images done, MiB)."""
    watched = Watched(method)
    with tempfile.TemporaryDirectory() as folder:
        evaluate(drawn(images, Path(folder) / "scenes"), watched, Path(folder) / "run", tolerated_failures=0)
    watched.note()
    return watched.held


def growth(held: list[tuple[int, float]], warm: int = WARM) -> float:
    """MiB that memory grows over 1,000 images once `warm` are done: the slope of the straight line nearest to what was held."""
    done, mib = np.array([pair for pair in held if pair[0] >= warm]).T
    return float(1000 * np.polyfit(done, mib, 1)[0])


def show(held: dict[int, float], slope: float, warm: int = WARM):
    """What was held, {images done: MiB}, from zero and enlarged, with the line that the slope is of; returns the figure."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    paper_style()
    figure, (whole, close) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    done, mib = np.array(list(held.items())).T
    later = done >= warm
    line = mib[later].mean() + slope / 1000 * (done[later] - done[later].mean())
    for ax, part in ((whole, done >= 0), (close, later)):
        ax.plot(done[part], mib[part], color=charts.GREY, linewidth=1)
        ax.plot(done[later], line, color=charts.BLUE, linewidth=1, linestyle="dashed")
    whole.set(ylim=(0, 1.15 * mib.max()), ylabel="resident memory (MiB)")
    close.set(title=f"from {warm} on: {slope:+.1f} MiB in 1,000 images", ylim=(mib[later].min() - 5, mib.max() + 5))
    figure.supxlabel("images segmented and scored in one process", fontsize="medium")
    sns.despine(figure)
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/hostile/soak.py", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000, help=f"more than {WARM}")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args(arguments)
    if given.images < 2 * WARM:
        parser.error(
            f"--images is {given.images}: give {2 * WARM} or more, of which {WARM} come before the count begins"
        )
    held = soaked(FreeSegDiff(ModelSet("mini", "cpu"), get_recipe(given.recipe)), given.images)
    slope, kept = growth(held), {done: round(mib, 1) for done, mib in held if done % KEPT == 0}
    drawing = io.BytesIO()
    show(kept, slope).savefig(drawing, bbox_inches="tight", metadata=dict(Software=None))
    write_atomically(given.output / "soak.png", drawing.getvalue())
    found = dict(
        images=given.images,
        models="mini",
        recipe=given.recipe,
        growth_mib_per_1000=round(slope, 2),
        limit_mib_per_1000=LIMIT,
        after_warm_up_mib=round(next(mib for done, mib in held if done >= WARM), 1),
        at_the_end_mib=round(held[-1][1], 1),
        held_mib=kept,
    )
    write_atomically(given.output / "soak.json", json.dumps(found, indent=1) + "\n")
    said = f"{given.images} images: {slope:+.1f} MiB in 1,000 after the first {WARM}, of at most {LIMIT}"
    print(said if slope <= LIMIT else f"{said}: memory grows, find what is kept")
    return int(slope > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
