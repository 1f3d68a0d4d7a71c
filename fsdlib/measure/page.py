"""One evaluation run on one A4 page, to be mailed or printed."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from fsdlib.figures import label_colours, legible
from fsdlib.measure import report
from fsdlib.measure.report import interval, percent
from fsdlib.measure.scores import PROTOCOLS

A4 = (8.27, 11.69)  # inches
Picture = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def one_page(run: report.Run, pictures: Sequence[Picture] = ()):
    """What was measured and how, scores, stages, classes, pictures, and what made them; returns the figure.

    pictures: up to six of (title, image (H, W, 3) uint8, label map and truth, both (H, W) uint8).
    """
    sheet = plt.figure(figsize=A4, layout="constrained")
    sheet.get_layout_engine().set(rect=(0.06, 0.03, 0.88, 0.94), hspace=0.04)
    head, numbers, classes, below, foot = sheet.subfigures(5, 1, height_ratios=[1.3, 2.3, 2.4, 3.8, 0.9])
    head.text(0, 0.78, legible(f"{run.summary['method']}: {run.title}"), size=17, weight="bold", va="center")
    head.text(0, 0.28, legible("\n".join(_about(run))), size=10, va="center", linespacing=1.5)
    left, right = numbers.subplots(1, 2, width_ratios=[1.25, 1])
    _draw_scores(run, left)
    _draw_stages(run, right)
    _draw_classes(run, classes.subplots())
    if pictures:
        _draw_pictures(run, pictures, below)
    foot.text(0, 0.5, legible("\n".join(_made_with(run))), size=7, va="center", color="0.35", linespacing=1.5)
    return sheet


def _about(run: report.Run) -> list[str]:
    s, told = run.summary, report.MODES.get(run.mode)
    mode = f"vocabulary mode {run.mode}" + (f" (told: {told})" if told else "")
    known = report.NOTHING_KNOWN.get(run.models)
    lines = [f"{s['dataset']}, split {s['split']}, {run.whole} images; seed {s['seed']}"]
    lines += ["; ".join([f"models {run.models}"] * bool(run.models) + [mode] * bool(run.mode))]
    return [*lines, f"These numbers say nothing about photographs: {known}."] if known else lines


def _made_with(run: report.Run) -> list[str]:
    s = run.summary
    parts = {} if run.own else s["identity"]
    models = [f"{part} {of['repository']} {of['revision']} ({of['sha256'][:12]})" for part, of in parts.items()]
    versions = ", ".join(f"{name} {version}" for name, version in s["versions"].items())
    return [*models, f"run {s['hash'][:12]}; {versions}"]


def _draw_scores(run: report.Run, ax) -> None:
    s = run.summary
    rows = [
        [name, f"{percent(s['miou'][name]):.1f}", interval(s["intervals"][name]), f"{percent(s['empty'][name]):.1f}"]
        for name in PROTOCOLS
    ]
    ax.axis("off")
    ax.set_title("mIoU (%) under each protocol, of an empty map too", loc="left")
    place = dict(colWidths=[0.38, 0.14, 0.28, 0.2], bbox=[0, 0.35, 1, 0.62], edges="horizontal")
    drawn = ax.table(rows, colLabels=["protocol", "mIoU", "95 %", "empty"], colLoc="left", cellLoc="left", **place)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8.5)


def _draw_stages(run: report.Run, ax) -> None:
    scores = report.stage_scores([run]).iloc[0, 4:].dropna().astype(float)
    ax.barh([*map(legible, scores.index)], scores, color=sns.color_palette("deep")[0], height=0.7)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="%")
    ax.set_title("Stage by stage", loc="left")
    sns.despine(ax=ax)


def _draw_classes(run: report.Run, ax) -> None:
    known = {name: 100 * value for name, value in run.summary["iou_of_classes"].items() if value is not None}
    ious = pd.Series(known, dtype=float).sort_values(ascending=False, kind="stable")
    ax.bar([*map(legible, ious.index)], ious, color=sns.color_palette("deep")[0], width=0.8)
    ax.tick_params(axis="x", rotation=90, labelsize=6 if len(ious) > 25 else 8)
    ax.set(ylabel="IoU (%)", ylim=(0, 100), xlim=(-0.7, len(ious) - 0.3))
    ax.set_title("Classes, protocol dataset", loc="left")
    sns.despine(ax=ax)


def _draw_pictures(run: report.Run, pictures: Sequence[Picture], figure) -> None:
    axes = figure.subplots(3, len(pictures), squeeze=False)
    for column, (title, image, labels, truth) in enumerate(pictures):
        for ax, drawn in zip(axes[:, column], (image, label_colours(labels), label_colours(truth))):
            ax.imshow(drawn)
            ax.set(xticks=[], yticks=[])
        axes[0, column].set_title(legible(title), size=8)
    for ax, what in zip(axes[:, 0], ("image", run.recipe, "truth")):
        ax.set_ylabel(legible(what), size=8)
