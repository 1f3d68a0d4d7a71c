"""The report: tables and figures over all evaluation runs in a folder, ours beside the published.

A table has one protocol; each of the others has a table of its own. Figures are as wide as a paper's columns.
"""

import csv
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from pandas.io.formats.style import Styler

from fsdlib.figures import legible
from fsdlib.measure import form
from fsdlib.measure.scores import PROTOCOLS, ahead
from fsdlib.measure.summary import (
    IMAGE_PROTOCOLS,
    PARTITIONS,
    dense,
    read_record,
    read_summary,
    stored_labels,
)
from fsdlib.project import DATA, REPORTS, write_atomically

COLUMN, PAGE = 3.25, 6.875  # inches: one column and both of a two-column paper
BENCHMARKS = ("voc21", "context60", "coco_object")  # what published.csv has figures for
# The datasets here that are those benchmarks. COCO's instances, drawn, are not quite the maps that published figures
# are over.
SAME = {"voc12": "voc21", "context60": "context60", "coco_object_maps": "coco_object", "coco_object": "coco_object"}
MODES = {
    "given": "class list",
    "closed": "class list",
    "open": "nothing",
    "oracle": "the classes truly present",
}  # vocabulary mode: what is told
SHARES = {0.0: "below 1 %", 0.01: "1 to 4 %", 0.04: "4 to 16 %", 0.16: "16 % or more"}  # of an image's pixels
STAGES = ("caption", "features", "words", "clusters", "names", "refinement")
ON_CENTRE_CROPS = ("per_image_union",)  # protocols whose published figures are over centre crops
OURS = "FreeSeg-Diff"  # as a run's configuration names this project's method
# Of columns whose heads are too long for a page: the line above, which like columns share, and their own.
HEADS = {
    name: head
    for protocol in PROTOCOLS
    for name, head in {
        f"mIoU {protocol}": (protocol, "mIoU"),
        f"interval {protocol}": (protocol, "95 %"),
        f"empty {protocol}": ("empty label map", protocol.split("_")[-1]),
        f"mIoU {protocol}, no background": ("without background", protocol.split("_")[-1]),
        f"difference {protocol}": (protocol, "ahead"),
        f"difference interval {protocol}": (protocol, "95 %"),
    }.items()
} | {
    "pixel accuracy": ("accuracy", "pixels"),
    "mean accuracy": ("accuracy", "classes"),
    "frequency-weighted IoU": ("IoU", "weighted"),
}
NOTHING_KNOWN = {"mini": "the mini models have never seen a photograph"}


@dataclass(frozen=True)
class Run:
    """One finished evaluation: its summary, and its tables where they are asked for.

    A method of one's own need not have models, recipes or vocabulary modes: its name stands for the recipe, and its other
    two are "" where its configuration has none. marked: what tells it from a run of the same name, "" where none is.
    """

    folder: Path
    summary: dict
    marked: str = ""

    @property
    def own(self) -> bool:
        """Whether it is of a method other than this project's."""
        return self.summary.get("method") != OURS or not isinstance(self.summary.get("recipe"), dict)

    @property
    def models(self) -> str:
        return str(self.summary.get("models", ""))

    @property
    def recipe(self) -> str:
        if self.own:
            return str(self.summary.get("method") or self.folder.name) + self.marked
        return self.summary["recipe"]["name"].split("-vocabulary=")[0] + self.marked

    @property
    def mode(self) -> str:
        return str(self.summary.get("vocabulary_mode", ""))

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.recipe, self.mode)))

    @property
    def centre_crops(self) -> bool:
        return self.summary.get("centre_crops", False)

    @property
    def counted(self) -> str:
        """How many images it is over, of how many."""
        images, expected = self.summary["images"], self.summary["expected"]
        return f"{images}" if self.summary["complete"] else f"{images} of {expected}" if expected else f"first {images}"

    @property
    def whole(self) -> str:
        """As `counted`, and whether of each picture only the centre."""
        return f"{self.counted}, centre crops" if self.centre_crops else self.counted

    @property
    def timing(self) -> dict | None:
        """The stages' seconds an image, or None: they stay where their run was made; raises ValueError where not whole."""
        path = self.folder / "timing.json"
        if not path.exists():
            return None
        timing = read_record(path)
        if timing is None or form.fault(timing, form.OfTimings):
            raise ValueError(f"{path} is empty, cut or of another form: evaluate again, which writes it anew")
        return timing

    def prediction(self, image_id: str) -> np.ndarray | None:
        """The label map of one image, (H, W) uint8, or None: label maps stay where their run was made."""
        return stored_labels(self.folder, image_id)

    @cached_property
    def images(self) -> pd.DataFrame:
        return self._table("images", ["id"], "miou", "matched_miou", "boundary_f", "classes", "regions")

    @cached_property
    def objects(self) -> pd.DataFrame:
        return self._table("objects", ["id", "class"], "share", "iou")

    @cached_property
    def confusion(self) -> pd.DataFrame:
        return self._table("confusion", ["truth", "prediction"], "pixels")

    def _table(self, name: str, keys: list[str], *numbers: str) -> pd.DataFrame:
        """A table of the run, a line for each of the keys; raises ValueError where it is not whole.

        Only `numbers` are read as such, since a picture may be called 007 and a class NA.
        """
        path = self.folder / f"{name}.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                head, *lines = csv.reader(file)
            table = pd.DataFrame(lines, columns=head, dtype=str)
            if not path.read_bytes().endswith(b"\n") or table.isna().any(axis=None) or table.duplicated(keys).any():
                raise ValueError("a line is cut or stands in it twice")
            table = table.assign(**{column: pd.to_numeric(table[column]) for column in numbers})
            if len(table) and object in table.dtypes[[*numbers]].tolist():
                raise ValueError("a number is too large")
            return table
        except (csv.Error, FileNotFoundError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is missing or not whole ({error}): evaluate again, which writes it anew"
            ) from error


def find_runs(folder: Path | str = REPORTS / "runs") -> list[Run]:
    """Every finished, scored run under a folder, ordered by dataset, models, recipe and vocabulary mode.

    Of runs of one configuration only the one over most images counts: the others are parts of it. One whose summary is
    not whole is not finished, and one without masks has no scores: each is left out, with a warning. Methods of one's
    own come after this project's; runs of one name that differ in anything else are told apart by their folders' names.
    """
    found = []
    for path in sorted(Path(folder).glob("*/summary.json")):
        try:
            run = Run(path.parent, read_summary(path.parent))
            if not run.summary.get("miou"):
                raise ValueError(f"{path} has no scores, since no image of it has a mask to compare with")
            found.append(run)
        except ValueError as error:
            warnings.warn(f"a run is left out: {error}", stacklevel=2)
    largest = {run.summary["hash"]: run for run in sorted(found, key=lambda run: run.summary["images"])}
    alike = Counter(map(_names, largest.values()))
    told_apart = [
        replace(run, marked=f" ({run.folder.name})") if alike[_names(run)] > 1 else run for run in largest.values()
    ]

    def place(run: Run) -> tuple:
        modes = [*MODES, ""]
        mode = modes.index(run.mode) if run.mode in modes else len(modes)
        return run.summary["dataset"], run.own, run.models, run.recipe != "paper", run.recipe, mode, run.mode

    return sorted(told_apart, key=place)


def _names(run: Run) -> tuple:
    """What a table calls a run."""
    return run.summary["dataset"], run.models, run.recipe, run.mode, run.centre_crops


def published() -> pd.DataFrame:
    """data/published.csv: one row a published system, in percent, with its protocol and what it was given.

    word_list: which class names its public code gives to VOC's 20 classes and background, "" where we do not know it.
    """
    return pd.read_csv(DATA / "published.csv").fillna({"word_list": "", "note": "", "models": ""})


# --------------------------------------------------------------------------------------------- tables


def beside_published(runs: Sequence[Run], protocol: str) -> pd.DataFrame:
    """mIoU in percent under one protocol on the benchmarks with published figures: the published systems, then ours.

    A run over a part of a split or of its pictures, or with models that know no photographs, says so in `note`. The
    last row is what an empty label map, which names nothing, scores on the same images.
    """
    theirs = published().query("protocol == @protocol")
    rows = [
        {
            "system": row.system,
            "models": row.models,
            "vocabulary": "given" if row.presence_predicted == "no" else "closed",
            "told": "class list" if row.class_list_given == "yes" else "nothing",
            "presence from": row.presence_predicted.removeprefix("yes").strip(" ()").removeprefix("no"),
            "training-free": row.training_free,
            "protocol": protocol,
            **{name: getattr(row, name) for name in BENCHMARKS},
            "word list": row.word_list,
            "note": "; ".join(filter(None, (row.source, row.note))),
        }
        for row in theirs.itertuples()
    ]
    ours: dict[tuple | str, dict] = {}  # by models, recipe, mode and crops; an empty label map by "empty"
    empty: dict[str, float] = {}
    for run in runs:
        column = SAME.get(run.summary["dataset"])
        if column:
            key = run.models, run.recipe, run.mode, run.centre_crops
            known = NOTHING_KNOWN.get(run.models)
            row = ours.setdefault(
                key,
                {
                    "system": f"here: {run.recipe}",
                    "models": run.models,
                    "vocabulary": run.mode,
                    "told": MODES.get(run.mode, ""),
                    "presence from": "caption" if run.mode == "closed" and not run.own else "",
                    "training-free": "" if run.own else "yes",
                    "protocol": protocol,
                    **dict.fromkeys(BENCHMARKS, np.nan),
                    "word list": "the project's own",
                    "note": [
                        *([known] if known else []),
                        *(["centre crops"] if run.centre_crops else []),
                        *(["whole pictures"] if protocol in ON_CENTRE_CROPS and not run.centre_crops else []),
                    ],
                },
            )
            row[column] = percent(run.summary["miou"][protocol])
            if run.summary["dataset"] == "coco_object":
                row["note"].append("coco_object drawn from instances")
            if not run.summary["complete"]:
                row["note"].append(f"{column}: {run.counted} images")
            empty[column] = percent(run.summary["empty"][protocol])
    if empty:
        ours["empty"] = {
            "system": "an empty label map",
            "protocol": protocol,
            **empty,
            "note": ["on the images of the runs above"],
        }
    return pd.DataFrame(rows + [row | dict(note="; ".join(row["note"])) for row in ours.values()])


def all_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Each protocol's mIoU of every run with its interval (95 %), in percent, one row a run."""
    rows = []
    for run in runs:
        row = _identity(run) | dict(images=run.whole)
        for protocol in PROTOCOLS:
            row[f"mIoU {protocol}"] = percent(run.summary["miou"][protocol])
            row[f"interval {protocol}"] = interval(run.summary["intervals"][protocol])
        rows.append(row)
    return pd.DataFrame(rows)


def other_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """What else is said of every run, in percent, one row a run.

    What an empty label map would score under each protocol, mIoU without the background class, and, over all classes under
    `dataset`'s confusion matrix, accuracies.
    """
    rows = []
    for run in runs:
        s = run.summary
        main, without = s.get("with_background", s["without_background"]), s["without_background"]
        row = _identity(run) | {f"empty {protocol}": percent(s["empty"][protocol]) for protocol in PROTOCOLS}
        row |= {
            "mIoU dataset, no background": percent(without["miou"]),
            **{f"mIoU {p}, no background": percent(without[f"{p}_miou"]) for p in IMAGE_PROTOCOLS},
            "pixel accuracy": percent(main["pixel_accuracy"]),
            "mean accuracy": percent(main["mean_accuracy"]),
            "frequency-weighted IoU": percent(main["frequency_weighted_iou"]),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def paired(runs: Sequence[Run], first: Run) -> pd.DataFrame:
    """By how much each run is ahead of the first one on the same images, in points of mIoU, with the interval (95 %).

    Images are drawn for both alike, so that those that are hard for both do not widen it: a difference counts where its
    interval leaves out 0, which two intervals side by side do not tell. `dataset` needs the images' confusion counts, which
    stay where a run was made, and is nan without. Raises ValueError for a run over other images.
    """
    rows = []
    for run in runs:
        mine, others = (one.images.set_index("id").miou for one in (run, first))
        if run.summary["dataset"] != first.summary["dataset"] or set(mine.index) != set(others.index):
            raise ValueError(f"{run.folder} and {first.folder} are not over the same images: compare runs that are")
        found = _ahead(run, first)
        if found is None:
            found = {}
            apart = (mine - others[mine.index]).dropna().to_numpy()
            if len(apart):  # a picture of void alone has no score
                drawn = apart[np.random.default_rng(0).integers(len(apart), size=(1000, len(apart)))].mean(axis=1)
                found = {"per_image": (apart.mean(), *np.quantile(drawn, [0.025, 0.975]))}
        row = _identity(run) | dict(against=first.title)
        for protocol in PROTOCOLS:
            difference, *ends = found.get(protocol, (None, None, None))
            row[f"difference {protocol}"] = percent(difference)
            row[f"difference interval {protocol}"] = interval(ends)
        rows.append(row)
    return pd.DataFrame(rows)


def _ahead(run: Run, first: Run) -> dict[str, tuple[float, float, float]] | None:
    """As `scores.ahead`, or None where the counts of an image are not at hand."""
    mine, others = (_counts(one, first.images.id) for one in (run, first))
    void = run.summary["void_is_background"]
    return ahead(mine, others, run.summary["background"], void_is_background=void) if mine and others else None


def _counts(run: Run, images: Sequence[str]) -> list[np.ndarray]:
    """The images' confusion counts in this order; none where one is not at hand."""
    rows = [read_record(run.folder / "images" / f"{name}.json") or {} for name in images]
    return (
        [dense(row["counts"], run.summary["classes"]) for row in rows] if all("counts" in row for row in rows) else []
    )


def _identity(run: Run) -> dict[str, Any]:
    return dict(dataset=run.summary["dataset"], models=run.models, recipe=run.recipe, vocabulary=run.mode)


def interval(ends: Sequence[float | None]) -> str:
    """An interval of shares in percent, as a table has it; "" where there is none."""
    known = [end for end in ends if end is not None and not np.isnan(end)]
    return " to ".join(f"{100 * end:.1f}" for end in known) if len(known) == 2 else ""


def said(runs: Sequence[Run]) -> str:
    """What a caption has to say of the runs in a table: datasets and images, vocabulary modes, models.

    >>> said([])
    'No runs.'
    """
    over = {f"{run.summary['dataset']} ({run.whole} images)": None for run in runs}
    modes = {run.mode: None for run in sorted(runs, key=lambda run: [*MODES, run.mode].index(run.mode)) if run.mode}
    models = {run.models: None for run in runs if run.models}
    parts = [("", over), ("vocabulary: ", modes), ("models: ", models)]
    sentence = "; ".join(f"{name}{', '.join(values)}" for name, values in parts if values)
    return f"{sentence}." if sentence else "No runs."


def percent(share: float | None) -> float:
    """A share in percent; nan where there was nothing to take a mean of."""
    return np.nan if share is None else 100 * share


def stage_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run's stages are worth, in percent: captions, masks apart from names, names apart from masks."""
    rows = []
    for run in runs:
        s = run.summary
        row = dict(dataset=s["dataset"], models=run.models, recipe=run.recipe, vocabulary=run.mode)
        spoken, candidates = (s["caption"].get(name, {}) for name in ("spoken", "candidates"))
        row |= {
            "caption recall": spoken.get("recall"),
            "candidate recall": candidates.get("recall"),
            "candidate precision": candidates.get("precision"),
        }
        for name in PARTITIONS:
            row |= {
                f"{name}: {key.replace('_', ' ').replace('miou', 'mIoU').replace(' f', ' F')}": value
                for key, value in s["masks"][name].items()
            }
        row |= {"true masks named right": s["naming"]["accuracy"]}
        rows.append({key: 100 * value if isinstance(value, float) else value for key, value in row.items()})
    return pd.DataFrame(rows)


def needs(path: Path = REPORTS / "voc12_needs.json") -> pd.DataFrame:
    """What an evaluation of published models on Pascal VOC needs: one row a recipe and batch size.

    As `fsdlib.world.rehearsal.needs` measured it.
    """
    content = json.loads(path.read_text())
    rows = [
        {
            "models": content["models"],
            "recipe": row["recipe"],
            "images a batch": row["batch_size"],
            "CPU threads": content["threads"],
            **{f"{stage} (s)": row["seconds_an_image"][stage] for stage in STAGES},
            f"{content['images']} images (h)": row["hours_in_all"],
            "memory (GiB)": row["peak_memory_gib"],
        }
        for row in content["settings"]
    ]
    return pd.DataFrame(rows)


def headed(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose long heads are on two lines (`HEADS`); one without such heads as it is."""
    if not set(table) & set(HEADS):
        return table
    return table.set_axis(pd.MultiIndex.from_tuples([HEADS.get(name, ("", name)) for name in table]), axis=1)


def shown(table: pd.DataFrame, digits: int = 1) -> HTML:
    """A table as a notebook shows it: rounded, in small letters, empty where nothing is known.

    The same table gives the same HTML.
    """
    style = Styler(headed(table), uuid="table", cell_ids=False).format(precision=digits, na_rep="", escape="html")
    return HTML(style.hide().set_table_attributes('style="font-size: 72%"').to_html())


def save_table(
    table: pd.DataFrame, stem: Path | str, caption: str = "", left_out: Sequence[str] = (), notes: Sequence[str] = ()
) -> list[Path]:
    """Write `stem`.csv (all digits) and `stem`.tex (one decimal; booktabs); returns both paths.

    The CSV has every column. LaTeX is for a page's width: a table* in small letters, with neither the columns `left_out`
    nor `notes`, whose texts stand below the table under a letter that the row's first cell has.
    """
    stem = Path(stem)
    rows = table.drop(columns=[*left_out, *notes])
    texts = ["; ".join(filter(None, map(str, row))) for row in table[[*notes]].fillna("").itertuples(index=False)]
    letters = {
        text: chr(ord("a") + i % 26) * (i // 26 + 1) for i, text in enumerate(dict.fromkeys(filter(None, texts)))
    }
    first = rows.columns[0]
    if letters:
        marks = [f" [{letters[text]}]" if text else "" for text in texts]
        rows = rows.assign(**{first: [f"{cell}{mark}" for cell, mark in zip(rows[first], marks)]})
    latex = headed(rows).to_latex(
        index=False,
        float_format="%.1f",
        na_rep="",
        escape=True,
        multicolumn_format="c",
        caption=caption or None,
        label=f"tab:{stem.name}" if caption else None,
    )
    if caption:
        latex = latex.replace("{table}", "{table*}").replace(
            r"\begin{tabular}", "\\centering\\footnotesize\n\\begin{tabular}"
        )
    if letters:
        below = [f"[{letter}] {text.translate(_ESCAPED)}" for text, letter in letters.items()]
        latex = latex.replace(
            r"\end{tabular}", "\\end{tabular}\n\n\\smallskip\\parbox{\\textwidth}{" + "; ".join(below) + "}", 1
        )
    return [
        write_atomically(stem.with_suffix(".csv"), table.to_csv(index=False)),
        write_atomically(stem.with_suffix(".tex"), latex),
    ]


_ESCAPED = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


# --------------------------------------------------------------------------------------------- figures


def paper_style() -> None:
    """Letters and lines as small as a paper's; text stays text in the PDF."""
    sns.set_theme(context="paper", style="ticks", font_scale=0.85)
    plt.rcParams.update(
        {"pdf.fonttype": 42, "figure.dpi": 130, "savefig.dpi": 200, "legend.frameon": False, "axes.titlesize": "medium"}
    )


def save_figure(figure, stem: Path | str, cropped: bool = True) -> list[Path]:
    """Write `stem`.png and `stem`.pdf; returns both paths. The same figure gives the same bytes.

    cropped: without the margins, as a paper takes it.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf")]
    box = "tight" if cropped else None
    figure.savefig(paths[0], bbox_inches=box, metadata=dict(Software=None))
    figure.savefig(paths[1], bbox_inches=box, metadata=dict(CreationDate=None, Producer=None, Creator=None))
    return paths


def show_modes(runs: Sequence[Run], protocol: str = "dataset"):
    """mIoU of each recipe, or method, under each vocabulary mode, with its interval; returns the axes."""
    rows = pd.DataFrame(
        [dict(recipe=legible(r.recipe), mode=r.mode, miou=percent(r.summary["miou"][protocol])) for r in runs]
    )
    modes = sorted(set(rows["mode"]), key=lambda mode: ([*MODES, mode].index(mode), mode))
    recipes = list(dict.fromkeys(rows.recipe))
    ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")[1]
    sns.barplot(
        rows, x="mode", y="miou", hue="recipe", order=modes, hue_order=recipes, palette=_colours(recipes), ax=ax
    )
    width = 0.8 / len(recipes)
    for run in runs:
        x = modes.index(run.mode) + (recipes.index(legible(run.recipe)) - (len(recipes) - 1) / 2) * width
        ax.vlines(x, *map(percent, run.summary["intervals"][protocol]), color="0.25", lw=1)
    ax.set_xticks(range(len(modes)), [legible(mode) or "no modes" for mode in modes])
    ax.set(xlabel="", ylabel=f"mIoU, {protocol} (%)")
    sns.move_legend(ax, "upper center", bbox_to_anchor=(0.5, 1.2), ncols=len(recipes), title=None)
    sns.despine(ax=ax)
    return ax


def show_classes(runs: Sequence[Run]):
    """Every class's IoU (`dataset` protocol) in each run, the best class first; returns the axes."""
    known = [
        (legible(run.title), legible(name), value)
        for run in runs
        for name, value in run.summary["iou_of_classes"].items()
        if value is not None
    ]
    rows = pd.DataFrame([dict(name=name, run=title, iou=100 * value) for title, name, value in known])
    order = rows.groupby("name").iou.max().sort_values(ascending=False).index
    ax = plt.subplots(figsize=(PAGE, 2.4), layout="constrained")[1]
    titles = [legible(run.title) for run in runs]
    sns.barplot(
        rows, x="name", y="iou", hue="run", order=order, hue_order=titles, palette=_colours(titles), ax=ax, width=0.8
    )
    ax.set(xlabel="", ylabel="IoU (%)", ylim=(0, 100), xlim=(-0.7, len(order) - 0.3))
    ax.tick_params(axis="x", rotation=90, labelsize=6 if len(order) > 25 else None)
    sns.move_legend(ax, "upper right", title=None)
    sns.despine(ax=ax)
    return ax


def worst_confusions(run: Run, count: int = 12) -> pd.DataFrame:
    """The pairs of classes with most pixels confused between them, void out.

    Columns: truth, prediction, pixels, share of the truth's pixels.
    """
    return _shares(run).query("truth != prediction").nlargest(count, "pixels").reset_index(drop=True)


def _shares(run: Run) -> pd.DataFrame:
    """The confusion's cells without void, each with its share of the truth's pixels."""
    cells = run.confusion.query("truth != 'void'")
    return cells.assign(share=cells.pixels / cells.groupby("truth").pixels.transform("sum"))


def show_confusions(run: Run, count: int = 12):
    """The confusion matrix of the classes in the worst confusions, each row as shares of all the truth's pixels.

    Returns the axes.
    """
    worst = worst_confusions(run, count)
    order = [name for name in run.summary["iou_of_classes"] if name in set(worst.truth) | set(worst.prediction)]
    shares = 100 * _shares(run).pivot(index="truth", columns="prediction", values="share").reindex(
        index=order, columns=order
    ).fillna(0)
    drawn = [*map(legible, order)]
    ax = plt.subplots(figsize=(PAGE * 0.62, PAGE * 0.5), layout="constrained")[1]
    digits = shares.map(lambda value: f"{value:.0f}" if value >= 1 else "")
    bar = dict(label="% of the class's pixels", shrink=0.8)
    sns.heatmap(
        shares,
        annot=digits,
        fmt="",
        vmin=0,
        vmax=100,
        cmap="Blues",
        linewidths=0.4,
        annot_kws=dict(size=6),
        cbar_kws=bar,
        xticklabels=drawn,
        yticklabels=drawn,
        ax=ax,
    )
    ax.set(xlabel="prediction", ylabel="truth", title=legible(run.title))
    return ax


def show_by_number(runs: Sequence[Run], most: int = 6):
    """mIoU of images against the number of regions in their truth, the mean and its 95 % interval; returns the axes."""
    rows = pd.concat([run.images.assign(run=legible(run.title)) for run in runs])
    rows = rows.assign(
        number=[str(n) if n < most else f"{most} or more" for n in rows.regions], percent=100 * rows.miou.astype(float)
    )
    order = [str(n) for n in range(most)] + [f"{most} or more"]
    return _means(
        rows,
        "number",
        [name for name in order if name in set(rows.number)],
        "regions in the truth",
        "mIoU of the image (%)",
        runs,
    )


def show_by_size(runs: Sequence[Run]):
    """IoU of a class in an image against the share of the image that it covers, the mean and its 95 % interval.

    Returns the axes.
    """
    rows = pd.concat([run.objects.assign(run=legible(run.title)) for run in runs])
    bins = pd.cut(rows.share, [*SHARES, 1.01], right=False, labels=list(SHARES.values()))
    return _means(
        rows.assign(size=bins, percent=100 * rows.iou),
        "size",
        [name for name in SHARES.values() if name in set(bins)],
        "share of the image",
        "IoU of the class (%)",
        runs,
    )


def _means(rows: pd.DataFrame, column: str, order: list[str], label: str, unit: str, runs: Sequence[Run]):
    ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")[1]
    titles = [legible(run.title) for run in runs]
    sns.pointplot(
        rows.dropna(subset="percent"),
        x=column,
        y="percent",
        hue="run",
        order=order,
        hue_order=titles,
        palette=_colours(titles),
        errorbar=("ci", 95),
        seed=0,
        dodge=0.25 if len(titles) > 1 else False,  # seaborn divides by their number less one
        markersize=4,
        linewidth=1.2,
        err_kws=dict(linewidth=1),
        ax=ax,
    )
    ax.set(xlabel=label, ylabel=unit, ylim=(0, None))
    sns.move_legend(ax, "upper center", bbox_to_anchor=(0.5, 1.2), ncols=len(titles), title=None)
    sns.despine(ax=ax)
    return ax


def show_stages(runs: Sequence[Run]):
    """Seconds an image and stage, one bar a run, for runs whose timings are at hand.

    Returns the axes, or None where none are.
    """
    timed = [(run, run.timing) for run in runs if run.timing and run.timing.get("seconds_an_image")]
    if not timed:
        return None
    table = pd.DataFrame(
        [timing["seconds_an_image"] for _, timing in timed],
        index=[legible(f"{run.summary['dataset']}: {run.title}") for run, _ in timed],
    )
    ax = plt.subplots(figsize=(PAGE, 0.22 * len(table) + 0.9), layout="constrained")[1]
    stages = [*STAGES, *(stage for stage in table if stage not in STAGES)]
    colours = _colours(stages)
    present = [stage for stage in stages if stage in table]
    table = table.rename(columns=legible)
    table[[*map(legible, present)]].plot.barh(
        stacked=True, ax=ax, color=[colours[stage] for stage in present], width=0.75
    )
    ax.invert_yaxis()
    ax.set(xlabel="seconds an image")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(ax=ax)
    return ax


def best_median_worst(run: Run, each: int = 3) -> pd.DataFrame:
    """The images with the best, the middle and the worst mIoU, `each` of each, best first, with their `place`.

    Where there are too few images for that, all of them.
    """
    order = run.images.dropna(subset="miou").sort_values(["miou", "id"], ascending=[False, True]).reset_index(drop=True)
    if len(order) < 3 * each:
        return order.assign(place=[f"{number + 1} of {len(order)}" for number in range(len(order))])
    middle = (len(order) - each) // 2
    found = pd.concat([order[:each], order[middle : middle + each], order[-each:]]).reset_index(drop=True)
    return found.assign(place=[place for place in ("best", "median", "worst") for _ in range(each)])


def _colours(names: Sequence[str]) -> dict[str, tuple]:
    return dict(zip(names, sns.color_palette("deep", len(names))))
