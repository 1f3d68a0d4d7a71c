"""Charts of what was measured: every function draws on the axes it is given (or on new ones) and returns them."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from fsdlib.figures import legible

BLUE, YELLOW, GREY, PALE = "#1b6ca8", "#e0a03a", "#8a8a8a", "0.7"
PROTOCOL_COLOURS = dict(dataset=BLUE, per_image=YELLOW, per_image_union=GREY)


def show_class_iou(iou: dict[str, float], ax=None, title: str = ""):
    """Per-class IoU as sorted horizontal bars; classes that occur nowhere (nan) are left out."""
    kept = sorted(
        ((name, value) for name, value in iou.items() if value is not None and not np.isnan(value)),
        key=lambda pair: -pair[1],
    )
    ax = ax or plt.subplots(figsize=(6, 0.19 * len(kept) + 0.8))[1]
    sns.barplot(x=[100 * value for _, value in kept], y=[legible(name) for name, _ in kept], color=BLUE, ax=ax)
    ax.set(xlabel="IoU (%)", ylabel="", xlim=(0, 100), title=legible(title))
    ax.tick_params(axis="y", labelsize=8)
    sns.despine(ax=ax)
    return ax


def show_history(history: Sequence[dict], ax=None, title: str = ""):
    """Training and validation loss against steps, from the rows that `fsdlib.world.training.fit` returns."""
    ax = ax or plt.subplots(figsize=(5, 2.6))[1]
    steps = [row["step"] for row in history]
    ax.plot(steps, [row["train"] for row in history], color=GREY, label="training")
    ax.plot(steps, [row["validation"] for row in history], color=BLUE, label="held out")
    ax.set(xlabel="step", ylabel="loss", title=f"{title} ({history[-1]['seconds'] / 60:.0f} min)")
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def show_confusion(counts: np.ndarray, names: Sequence[str], ax=None, title: str = ""):
    """A confusion matrix as a heatmap: rows the truth, columns what was said, each row as shares of its sum.

    counts: (N, N) integers; rows without any count stay empty.
    """
    ax = ax or plt.subplots(figsize=(0.19 * len(names) + 2.2, 0.19 * len(names) + 1.4))[1]
    sums = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, sums, out=np.full(counts.shape, np.nan), where=sums > 0)
    drawn = [*map(legible, names)]
    labels = dict(xticklabels=drawn, yticklabels=drawn)
    sns.heatmap(
        shares,
        vmin=0,
        vmax=1,
        cmap="Blues",
        linewidths=0.2,
        linecolor="0.9",
        square=True,
        cbar_kws=dict(shrink=0.6, label="share of masks"),
        ax=ax,
        **labels,
    )
    ax.set(xlabel="named", ylabel="is", title=title)
    ax.tick_params(labelsize=7)
    return ax


def show_scores(scores: dict[str, float], ax=None, title: str = "", unit: str = "mIoU", highlighted: str = ""):
    """Named scores as sorted horizontal bars with their values; one of them may stand out."""
    ordered = sorted(scores.items(), key=lambda pair: -pair[1])
    ax = ax or plt.subplots(figsize=(6, 0.32 * len(ordered) + 0.8))[1]
    bars = ax.barh(
        [legible(name) for name, _ in ordered],
        [value for _, value in ordered],
        color=[BLUE if name == highlighted else PALE for name, _ in ordered],
    )
    ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel=unit, title=title, xlim=(0, max(value for _, value in ordered) * 1.15))
    sns.despine(ax=ax)
    return ax


def show_protocols(table: pd.DataFrame, ax=None, title: str = "", unit: str = "mIoU (%)"):
    """Bars of the protocols side by side, one a protocol in each row.

    table: a column a protocol, 0 to 1, the index names the rows.
    """
    ax = ax or plt.subplots(figsize=(6.5, 0.6 * len(table) + 1))[1]
    percent, height = 100 * table, 0.76 / len(table.columns)
    places = np.arange(len(table))
    for number, protocol in enumerate(table.columns):
        offset = (number - (len(table.columns) - 1) / 2) * (height + 0.02)
        colour = PROTOCOL_COLOURS[protocol]
        bars = ax.barh(places + offset, percent[protocol], height=height, color=colour, label=protocol)
        ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    ax.set_yticks(places, table.index)
    ax.invert_yaxis()
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.margins(x=0.12)
    ax.set(xlabel=unit, title=title)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(ax=ax)
    return ax


def show_published(table: pd.DataFrame, benchmarks: dict[str, str], figure=None):
    """Published numbers as dots, one panel a protocol, all over the same range of values.

    table: as in data/published.csv; benchmarks: its columns to draw, with the name each has in the legend.
    """
    sizes = table.groupby("protocol").size().sort_values(ascending=False)
    figure = figure or plt.figure(figsize=(7.5, 0.24 * len(table) + 2.2), layout="constrained")
    axes = figure.subplots(len(sizes), 1, height_ratios=sizes + 1)
    values = table[list(benchmarks)].to_numpy(float)
    limits = np.nanmin(values) - 2, np.nanmax(values) + 2
    for ax, protocol in zip(np.atleast_1d(axes), sizes.index):
        rows = table[table.protocol == protocol].sort_values(next(iter(benchmarks)), na_position="first")
        for (column, name), colour, marker in zip(benchmarks.items(), sns.color_palette("deep"), "oDs"):
            ax.plot(rows[column], rows.system, linestyle="", marker=marker, markersize=6, color=colour, label=name)
        ax.set(title=f"protocol: {protocol}", xlabel="mIoU (%)", xlim=limits, ylim=(-0.7, len(rows) - 0.3))
        ax.grid(axis="y", color="0.9")
        ax.tick_params(labelsize=8)
        sns.despine(ax=ax)
    np.atleast_1d(axes)[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def show_interval(values: dict[str, tuple[float, float, float]], ax=None, title: str = "", unit: str = "mIoU (%)"):
    """Values with their intervals, (value, low, high) from 0 to 1 by name, as dots on lines, in percent.

    Of differences, some of which reach below nought, nought has a line of its own.
    """
    ax = ax or plt.subplots(figsize=(5, 0.45 * len(values) + 0.9))[1]
    if any(low < 0 for _, low, _ in values.values()):
        ax.axvline(0, color="0.4", linewidth=1, zorder=0)
    for place, (value, low, high) in enumerate(values.values()):
        ax.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2.5, solid_capstyle="round")
        ax.plot(100 * value, place, marker="o", markersize=8, color=BLUE)
    ax.set_yticks(range(len(values)), values)
    ax.set(xlabel=unit, title=title, ylim=(len(values) - 0.5, -0.5))
    ax.grid(axis="x", color="0.9")
    sns.despine(ax=ax)
    return ax


def show_groupings(table: pd.DataFrame, ax=None, title: str = ""):
    """What features are worth: a bar for each number of clusters, with its interval over draws of the pictures.

    table: as `fsdlib.measure.groupings.compared` returns it. Features stand in the order of their scores at the largest K; where a
    clustering refused a picture there is a word in place of the bar.
    """
    largest = table[(table.k == table.k.max()).fillna(False).astype(bool)].set_index("features").majority
    best = largest.reindex(table.features.unique()).sort_values(ascending=False)
    counts = [*sorted(table.k.dropna().unique()), *([pd.NA] if table.k.isna().any() else [])]
    ax = ax or plt.subplots(figsize=(6.5, 0.22 * len(best) * (len(counts) + 0.8) + 1))[1]
    height = 0.8 / len(counts)
    for number, (k, colour) in enumerate(zip(counts, [PALE, BLUE, YELLOW])):
        rows = table[table.k.isna() if k is pd.NA else (table.k == k).fillna(False).astype(bool)].set_index("features")
        for place, name in enumerate(best.index):
            if name not in rows.index:
                continue
            one, y = rows.loc[name], place + (number - (len(counts) - 1) / 2) * height
            if np.isnan(one.majority):
                ax.text(0.5, y, "refused", fontsize=7, color=GREY, va="center")
                continue
            ax.barh(y, 100 * one.majority, height=0.9 * height, color=colour)
            ax.plot([100 * one.low, 100 * one.high], [y, y], color="0.25", linewidth=1.2)
        ax.barh(0, 0, color=colour, label="K is found" if k is pd.NA else f"K = {k}")
    ax.set_yticks(range(len(best)), [fill(legible(name), 34) for name in best.index], fontsize=8)
    ax.set(xlabel="mIoU of majority classes (%)", title=title, ylim=(len(best) - 0.5, -0.5))
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(ax=ax)
    return ax


def show_shares(numbers: dict[str, int], ax=None, title: str = "", unit: str = "number"):
    """Counts as horizontal bars in the order given, each with its number and its share of all."""
    ax = ax or plt.subplots(figsize=(6, 0.38 * len(numbers) + 0.9))[1]
    bars = ax.barh(
        list(numbers), list(numbers.values()), color=[BLUE if place == 0 else PALE for place in range(len(numbers))]
    )
    ax.bar_label(
        bars,
        [f"{value} ({100 * value / max(1, sum(numbers.values())):.0f} %)" for value in numbers.values()],
        padding=3,
        fontsize=8,
    )
    ax.invert_yaxis()
    ax.margins(x=0.18)
    ax.set(title=title, xlabel=unit)
    sns.despine(ax=ax)
    return ax


def show_stages(milliseconds: dict[str, dict[str, float]], ax=None, title: str = ""):
    """What each stage takes in several flows, as bars side by side in the stages' order.

    milliseconds: by flow, and in each by stage; a stage "all" is left out.
    """
    stages = [stage for stage in next(iter(milliseconds.values())) if stage != "all"]
    ax = ax or plt.subplots(figsize=(6.5, 0.55 * len(stages) + 1))[1]
    height = 0.76 / len(milliseconds)
    for number, (flow, colour) in enumerate(zip(milliseconds, [PALE, BLUE, YELLOW])):
        places = np.arange(len(stages)) + (number - (len(milliseconds) - 1) / 2) * (height + 0.02)
        bars = ax.barh(places, [milliseconds[flow][s] for s in stages], height=height, color=colour, label=flow)
        ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    ax.set_yticks(range(len(stages)), stages)
    ax.invert_yaxis()
    ax.margins(x=0.14)
    ax.set(xlabel="ms of the processor, a picture", title=title)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(ax=ax)
    return ax


def show_limits(arithmetic: dict[str, dict[str, dict[str, float]]], flow: str = "ours", ax=None, title: str = ""):
    """What each step of the models takes, and in it what its sums and products would take at the rate of a large matrix product.

    arithmetic: as `fsdlib.measure.speed.arithmetic` returns it.
    """
    ax = ax or plt.subplots(figsize=(6.5, 0.5 * len(arithmetic) + 1))[1]
    of = {step: both[flow] for step, both in arithmetic.items()}
    bars = ax.barh(list(of), [one["milliseconds"] for one in of.values()], color=PALE, label="took")
    ax.barh(list(of), [one["least"] for one in of.values()], color=BLUE, height=0.45, label="its arithmetic alone")
    reached = [one["least"] / one["milliseconds"] if one["milliseconds"] else 0 for one in of.values()]
    said = [f"{100 * share:.0f} % of the rate" if share else "kept from before" for share in reached]
    ax.bar_label(bars, said, padding=4, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set(xlabel="ms of the processor, a picture", title=title)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(ax=ax)
    return ax


def show_tradeoffs(recipes: dict[str, dict], named: Sequence[str], frontier: Sequence[str], ax=None, title: str = ""):
    """mIoU against time, a point a recipe or choice; what nothing else beats in both is joined by a line.

    recipes: of each its `milliseconds` and `miou`, 0 to 1; named: those that are recipes, which stand out; frontier: the
    names on the line, the quickest first.
    """
    ax = ax or plt.subplots(figsize=(7, 4.2))[1]
    places = {name: (one["milliseconds"], 100 * one["miou"]) for name, one in recipes.items()}
    ax.plot(*zip(*(places[name] for name in frontier)), color=YELLOW, linewidth=1.5, zorder=1)
    # names in a column beside the points, each with a line to its own
    column = 1.06 * max(x for x, _ in places.values())
    gap = 0.065 * (max(y for _, y in places.values()) - min(y for _, y in places.values()))
    level = max(y for _, y in places.values()) + 3.5 * gap
    for name in sorted(places, key=lambda name: (-places[name][1], -places[name][0])):
        (x, y), stands_out = places[name], name in named
        level = min(y + gap, level - gap)
        ax.plot([x, column], [y, level], color=PALE, linewidth=0.6, zorder=1)
        ax.scatter(x, y, s=60 if stands_out else 30, color=BLUE if stands_out else GREY, zorder=2)
        ax.text(column, level, f" {legible(name)}", fontsize=8, weight="bold" if stands_out else "normal", va="center")
    ax.margins(x=0.06, y=0.1)
    ax.set(xlabel="ms of the processor, a picture", ylabel="dataset mIoU (%)", title=title)
    ax.grid(color="0.93")
    sns.despine(ax=ax)
    return ax
