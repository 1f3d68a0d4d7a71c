"""Pictures of the method's stages: every function draws on the axes it is given (or on new ones) and returns them.

Seaborn and scikit-image are imported where they are used: the extra `measure` brings them, and the picture with its
named masks goes without.
"""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as connected_parts
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA

from fsdlib.clusters import enlarged
from fsdlib.vocabulary import VOID, palette

CLUSTER_COLOURS = colormaps["tab20"](np.arange(20))[:, :3]
NOUN, ADJECTIVE, DROPPED = "#1b6ca8", "#8e5ea2", "#8a8a8a"
ADDED, REMOVED, OUTLINE = "#2a9d5c", "#d1495b", "#f2c14e"
_PALETTE = np.frombuffer(palette(), np.uint8).reshape(256, 3)


def legible(text: str) -> str:
    """A name as matplotlib draws it to the letter: no formula between dollars, and what no font has in words or by number.

    >>> print(legible("$5 猫🐈"))
    \\$5 [U+732B][cat]
    """
    drawn = "".join(letter if _has_glyph(ord(letter)) else _in_words(letter) for letter in text)
    return (" " if drawn.startswith("_") else "") + drawn.replace("$", r"\$")  # legends leave out what begins with _


def _has_glyph(code: int) -> bool:
    fonts = rcParams["font.family"]
    found = [findfont(FontProperties(family=[family])) for family in ([fonts] if isinstance(fonts, str) else fonts)]
    return code < 32 or any(get_font(path).get_char_index(code) for path in found)


def _in_words(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind in ("Cf", "Mn"):  # joins or varies what stands before it
        return ""
    name = unicodedata.name(letter, "") if kind == "So" else ""
    return f"[{name.lower() or f'U+{ord(letter):04X}'}]"


def label_colours(labels: np.ndarray) -> np.ndarray:
    """(H, W) labels as VOC's colours: (H, W, 3) uint8."""
    return _PALETTE[labels]


def overlay(image: np.ndarray, labels: np.ndarray, strength: float = 0.65) -> np.ndarray:
    """The picture with every labelled pixel in its class's colour and the rest dimmed to grey: (H, W, 3) uint8."""
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    tinted = (1 - strength) * image + strength * label_colours(labels)
    return np.where((labels > 0)[..., None], tinted, 0.15 * image + 0.4 * grey + 95).astype(np.uint8)


def innermost(mask: np.ndarray) -> tuple[int, int, float]:
    """The pixel of a mask that is farthest from all that is not in it: its row, its column, that distance in pixels.

    What lies beyond the picture's edge is not in the mask. Of pixels equally far, the one nearest to the mask's centre.

    >>> innermost(np.array([[0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0]], bool))
    (1, 2, 2.0)
    """
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    row, column = deepest[((deepest - np.argwhere(mask).mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(row), int(column), float(depth.max())


def numbered_alike(partitions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same partitions of one picture, with clusters renumbered so that each keeps its number, and so its colour.

    From each partition to the next, numbers go where they overlap most, each to one cluster (the Hungarian method);
    a cluster that takes over no number gets the lowest that is free. partitions: (h, w) integers from 0, of one shape.

    >>> [found.tolist() for found in numbered_alike([np.array([[0, 0, 1, 1]]), np.array([[2, 2, 0, 1]])])]
    [[[0, 0, 1, 1]], [[0, 0, 1, 2]]]
    """
    alike = [np.asarray(partitions[0])]
    for found in partitions[1:]:
        before, count = alike[-1], int(found.max()) + 1
        shared = np.zeros((count, max(count, int(before.max()) + 1)), int)
        np.add.at(shared, (found.ravel(), before.ravel()), 1)
        new, old = linear_sum_assignment(shared, maximize=True)
        kept = {n: o for n, o in zip(new, old) if shared[n, o]}
        free = iter(number for number in range(shared.shape[1]) if number not in kept.values())
        alike.append(np.array([kept[n] if n in kept else next(free) for n in range(count)])[found])
    return alike


def show_image(image: np.ndarray, ax=None, title: str = "", letters: float = 10):
    """Draw a picture, (H, W, 3) uint8, without axes; letters: the title's size in points."""
    ax = ax or plt.subplots()[1]
    ax.imshow(image, interpolation="nearest")
    ax.set_title(legible(title), fontsize=letters)
    ax.axis("off")
    return ax


def show_clusters(clusters: np.ndarray, ax=None, title: str = "", names: Mapping[int, str] | None = None):
    """Draw a cluster map, (h, w) integers, one colour a cluster; names are written on the clusters that have one.

    The name of a cluster too small for it stands below.
    """
    ax = show_image((CLUSTER_COLOURS[clusters % len(CLUSTER_COLOURS)] * 255).astype(np.uint8), ax, title)
    there = {number: name for number, name in (names or {}).items() if number in clusters}
    written = _write_names(ax, clusters, there, 9)
    small = [number for number in there if number not in written]
    if small:
        _legend_below(ax, [_patch(CLUSTER_COLOURS[n % len(CLUSTER_COLOURS)], there[n]) for n in small], 8)
    return ax


def _patch(colour: np.ndarray, name: str) -> Patch:
    return Patch(facecolor=colour, edgecolor="0.3", label=legible(name))


def _legend_below(ax, handles: Sequence, letters: float, columns: int = 2) -> None:
    place = dict(loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False, handlelength=1, columnspacing=1)
    ax.legend(handles=handles, fontsize=letters, ncols=min(columns, len(handles)), **place)


def _write_names(ax, labels: np.ndarray, names: Mapping[int, str], letters: float) -> list[int]:
    """Write each label's name at its mask's innermost point, within the picture, clear of the others; tiny masks and those without room go without.

    Returns the labels whose names were written.
    """
    (height, width), box = labels.shape, ax.get_window_extent()
    scale = min(box.width / width, box.height / height) * 72 / ax.figure.dpi  # points a pixel, before any layout
    masks = {label: innermost(labels == label) for label in names}
    taken: list[tuple[float, float, float, float]] = []
    written = []
    for label, (row, column, radius) in sorted(masks.items(), key=lambda item: -item[1][2]):
        if radius * scale < 0.4 * letters:
            continue
        text = "\n".join(textwrap.wrap(names[label], max(6, int(width * scale / (0.66 * letters)))) or [""])
        lines = text.split("\n")
        half, tall = 0.33 * letters * max(map(len, lines)), 0.65 * letters * len(lines)
        x = min(max(column * scale, half), max(half, width * scale - half))
        steps = sorted(range(-4, 5), key=abs)
        heights = [min(max(row * scale + step * tall, tall), max(tall, height * scale - tall)) for step in steps]
        y = next((y for y in heights if not any(_meet((x, y, half, tall), other) for other in taken)), None)
        if y is None:
            continue
        taken.append((x, y, half, tall))
        ax.annotate(
            legible(text),
            (column, row),
            (x - column * scale, row * scale - y),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=letters,
            weight="bold",
            color="white",
            linespacing=1,
            path_effects=[withStroke(linewidth=0.28 * letters, foreground="0.1")],
        ).set_in_layout(False)
        written.append(label)
    return written


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes, each its centre and half its sides, overlap."""
    return abs(one[0] - other[0]) < one[2] + other[2] and abs(one[1] - other[1]) < one[3] + other[3]


def _outline(ax, mask: np.ndarray, colour: str, width: float) -> None:
    """A line round a mask, also where it meets the picture's edge; with a dark rim, so that it shows on any ground.

    Specks and holes of less than a two-thousandth of the picture go without.
    """
    limits = ax.get_xlim(), ax.get_ylim()
    rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
    whole = ~_without_specks(~_without_specks(np.pad(mask, 1), mask.size / 2000), mask.size / 2000)
    if whole.any():
        drawn = ax.contour(columns, rows, whole, levels=[0.5], colors=[colour], linewidths=width)
        drawn.set_path_effects([withStroke(linewidth=1.8 * width, foreground="0.1")])
        ax.set(xlim=limits[0], ylim=limits[1])


def _without_specks(mask: np.ndarray, least: float) -> np.ndarray:
    parts, _ = connected_parts(mask)
    large = np.bincount(parts.ravel()) >= least
    large[0] = False
    return large[parts]


def _keep_proportions(ax, drawn: np.ndarray, proportions: Sequence[int] | None) -> None:
    """Stretch a square map to the proportions, (H, W, ...), of the picture that it is of."""
    if proportions is not None:
        ax.set_aspect(proportions[0] * drawn.shape[1] / (proportions[1] * drawn.shape[0]))


def show_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    ax=None,
    title: str = "",
    legend: bool = True,
    letters: float = 9,
    truth: np.ndarray | None = None,
):
    """Draw the labelled regions over the dimmed picture, each with an outline and its name at its innermost point.

    Below it a legend of the names for which a region is too small and, where the truth is given, of the classes that
    are there and were missed. letters: the size of the names in points; truth: (H, W) labels, 255 for void.
    """
    ax = show_image(overlay(image, labels), ax, title)
    found = [label for label in np.unique(labels) if label not in (0, VOID)]
    for label in found:
        _outline(ax, labels == label, "white", 0.11 * letters)
    written = _write_names(ax, labels, {label: names[label] for label in found}, letters)
    if not found:
        style = dict(color="white", fontsize=letters, path_effects=[withStroke(linewidth=2, foreground="0.2")])
        ax.text(0.5, 0.5, "nothing named", transform=ax.transAxes, ha="center", va="center", **style)
    if legend:
        missed = np.setdiff1d([] if truth is None else truth, (0, VOID, *found)).astype(int)
        handles = [_patch(_PALETTE[label] / 255, names[label]) for label in found if label not in written]
        handles += [_missed(_PALETTE[label] / 255, names[label]) for label in missed]
        if handles:
            _legend_below(ax, handles, letters, 2 if letters > 7 else 1)  # small letters are for small pictures
    return ax


def _missed(colour: np.ndarray, name: str) -> Patch:
    return Patch(facecolor="white", edgecolor=colour, hatch="////", label=legible(f"missed: {name}"))


def show_caption(sentence: str, words: Sequence, candidates: Sequence = (), ax=None, columns: int = 90):
    """Draw a caption with its words marked, and below it which class each word went to.

    Nouns are blue, adjectives purple; with `candidates`, a line says for each word its class and distance, grey where
    the class was not kept.
    """
    ax = ax or plt.subplots(figsize=(9, 1.2))[1]
    ax.axis("off")
    ax.set_xlim(0, columns)
    colour_of: dict[int, str] = {}
    for word in words:
        colour_of |= dict.fromkeys(
            range(word.start, word.start + len(word.text)), NOUN if word.part_of_speech == "NOUN" else ADJECTIVE
        )
    lines, start = [], 0
    for line in textwrap.wrap(sentence, columns) or [""]:
        start = sentence.index(line, start)
        lines.append((start, line))
    rows = len(lines) + (1 if candidates else 0)
    ax.set_ylim(rows, 0)
    for row, (offset, line) in enumerate(lines):
        for column, letter in enumerate(line):
            marked = colour_of.get(offset + column)
            ax.text(
                column,
                row + 0.5,
                letter,
                family="monospace",
                color=marked or "0.15",
                weight="bold" if marked else "normal",
                ha="center",
                va="center",
            )
    place = 0.0
    for c in candidates:
        text = f"{c.word} → {c.name} {c.distance:.2f}" + ("" if c.kept else " ✗")
        ax.text(place, rows - 0.5, legible(text), fontsize="small", color="0.15" if c.kept else DROPPED, va="center")
        place += len(text) * 0.85 + 3
    return ax


def show_result(image: np.ndarray, result, figure=None, truth: np.ndarray | None = None):
    """The figure a paper prints: picture, clusters, named masks, and below them the caption with its words marked.

    truth: (H, W) labels, 255 for void, of which what was missed is listed.
    """
    figure = figure or plt.figure(figsize=(9.5, 4.4))
    grid = figure.add_gridspec(
        2, 3, height_ratios=(5, 1), hspace=0.2, wspace=0.06, left=0.01, right=0.99, top=0.93, bottom=0.02
    )
    show_image(image, figure.add_subplot(grid[0, 0]), "picture")
    clusters, middle, right = result.clusters, figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[0, 2])
    show_clusters(enlarged(clusters, *image.shape[:2]), middle, f"{clusters.max() + 1} clusters of UNet features")
    show_overlay(image, result.labels, result.names, right, f"named masks ({result.recipe.name})", truth=truth)
    show_caption(result.caption, result.words, result.candidates, figure.add_subplot(grid[1, :]), columns=92)
    return figure


def gallery(
    images: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    names: Sequence[str],
    truths: Sequence[np.ndarray] = (),
    titles: Sequence[str] = (),
    columns: int = 5,
    width: float | None = None,
):
    """Pictures in rows, each above its truth (where given) and its named masks; returns the figure.

    Where the truth is given, a legend says what was missed.

    width: of the figure in inches, 1.9 a column by default; letters shrink with it.
    """
    cell = (width or 1.9 * columns) / columns
    letters = 9 * min(1, max(0.67, cell / 1.9))
    layers = ("picture", "ground truth", "named masks") if len(truths) else ("picture", "named masks")
    rows = -(-len(images) // columns)
    figure = plt.figure(figsize=(cell * columns, rows * (cell * len(layers) + 0.061 * letters)), layout="constrained")
    for row, part in enumerate(figure.subfigures(rows, 1, squeeze=False)[:, 0]):
        axes = part.subplots(len(layers), columns, squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for layer, text in enumerate(layers):
            axes[layer, 0].text(
                -0.04,
                0.5,
                text,
                transform=axes[layer, 0].transAxes,
                rotation=90,
                ha="right",
                va="center",
                fontsize=letters,
            )
        for number in range(row * columns, min((row + 1) * columns, len(images))):
            column = axes[:, number % columns]
            show_image(images[number], column[0], titles[number] if len(titles) else "", letters * 10 / 9)
            if len(truths):
                true = np.where(truths[number] == 255, 0, truths[number])
                show_overlay(images[number], true, names, column[1], legend=False, letters=letters)
            truth = truths[number] if len(truths) else None
            show_overlay(images[number], predictions[number], names, column[-1], letters=letters, truth=truth)
    return figure


def principal_colours(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Features as pictures: the first three principal components over all the arrays as red, green and blue.

    arrays: each (C, h, w) float32 with the same C; returns (h, w, 3) uint8 arrays, comparable with each other.
    """
    positions = [array.reshape(len(array), -1).T for array in arrays]
    components = PCA(3, svd_solver="full").fit(np.concatenate(positions))
    projected = [components.transform(p) for p in positions]
    low, high = np.percentile(np.concatenate(projected), (2, 98), axis=0)
    scaled = [np.clip((p - low) / np.maximum(high - low, 1e-9), 0, 1) for p in projected]
    return [(255 * p.reshape(*array.shape[1:], 3)).astype(np.uint8) for p, array in zip(scaled, arrays)]


def show_difference(image: np.ndarray, before: np.ndarray, after: np.ndarray, ax=None, title: str = ""):
    """Draw what a mask gained (green) and lost (red), on the picture in grey, darker where the mask stayed.

    masks: (H, W) bool.
    """
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    drawn = np.where((before & after)[..., None], 0.6 * grey, 0.4 * grey + 150)
    for pixels, colour in ((after & ~before, ADDED), (before & ~after, REMOVED)):
        drawn[pixels] = 255 * np.array(to_rgb(colour))
    ax = show_image(drawn.astype(np.uint8), ax, title)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    patches = [Patch(facecolor=ADDED, label=f"added {gained} px"), Patch(facecolor=REMOVED, label=f"removed {lost} px")]
    _legend_below(ax, patches, 8)
    return ax


def show_mask(image: np.ndarray, mask: np.ndarray, ax=None, title: str = ""):
    """Draw the picture with all but the mask in pale grey, and the mask's outline; mask: (H, W) bool."""
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    ax = show_image(np.where(mask[..., None], image, 0.3 * grey + 160).astype(np.uint8), ax, title)
    if mask.any() and not mask.all():
        _outline(ax, mask, OUTLINE, 1.5)
    return ax


def show_map(
    values: np.ndarray,
    ax=None,
    title: str = "",
    unit: str = "",
    point: tuple[int, int] | None = None,
    limits: tuple[float | None, float | None] = (None, None),
    scale: bool = True,
    cmap: str = "viridis",
    proportions: Sequence[int] | None = None,
):
    """Draw one number a pixel, (H, W), as colours, with their scale unless told otherwise.

    `point` (row, column) is marked; proportions: the shape of the picture that a square map is of.
    """
    ax = ax or plt.subplots()[1]
    drawn = ax.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    _keep_proportions(ax, values, proportions)
    if scale:
        ax.figure.colorbar(drawn, ax=ax, shrink=0.75, label=unit)
    if point is not None:
        ax.plot(point[1], point[0], marker="+", markersize=12, markeredgewidth=2.5, color=REMOVED)
    ax.set_title(title, fontsize=10)
    ax.axis("off")
    return ax


def show_refinement(
    image: np.ndarray, before: np.ndarray, after: np.ndarray, truth: np.ndarray | None = None, figure=None
):
    """A mask before and after refinement and what changed, with the IoU where the truth is given.

    masks: (H, W) bool.
    """
    figure = figure or plt.figure(figsize=(9.5, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    said = [
        "" if truth is None else f", IoU {(mask & truth).sum() / max(1, (mask | truth).sum()):.2f}"
        for mask in (before, after)
    ]
    show_mask(image, before, left, f"before{said[0]}")
    show_mask(image, after, middle, f"after{said[1]}")
    show_difference(image, before, after, right, "what changed")
    return figure


def show_stages(
    image: np.ndarray, result, maps: np.ndarray, truth: np.ndarray | None = None, title: str = "", figure=None
):
    """Every stage of one picture in a strip: picture, features, clusters, named masks, refined masks, truth if known.

    result: from `fsdlib.pipeline.segment`; maps: (C, h, w) features, shown by their principal components;
    truth: (H, W) labels, 255 for void. The caption stands above.
    """
    figure = figure or plt.figure(figsize=(12.5, 3), layout="constrained")
    axes = figure.subplots(1, 5 if truth is None else 6)
    show_image(image, axes[0], "picture")
    show_image(principal_colours([maps])[0], axes[1], "features (PCA)")
    _keep_proportions(axes[1], maps[0], image.shape)
    show_clusters(enlarged(result.clusters, *image.shape[:2]), axes[2], f"{result.clusters.max() + 1} clusters")
    show_overlay(image, result.coarse, result.names, axes[3], "named", letters=8)
    show_overlay(image, result.labels, result.names, axes[4], "refined", letters=8, truth=truth)
    if truth is not None:
        show_overlay(image, np.where(truth == 255, 0, truth), result.names, axes[5], "truth", letters=8)
    figure.suptitle(legible(textwrap.fill(" | ".join(filter(None, (title, f'"{result.caption}"'))), 150)), fontsize=10)
    return figure


def show_cells(labels: np.ndarray, ax=None, title: str = "", void: int = 255):
    """A small label map, (H, W), as a grid with every pixel's label written in it, V for void."""
    ax = show_image(label_colours(labels), ax, title)
    for (row, column), label in np.ndenumerate(labels):
        colour = "black" if label_colours(labels)[row, column].mean() > 140 else "white"
        ax.text(column, row, "V" if label == void else str(label), ha="center", va="center", fontsize=13, color=colour)
    ax.set_xticks(np.arange(-0.5, labels.shape[1]), [])
    ax.set_yticks(np.arange(-0.5, labels.shape[0]), [])
    ax.axis("on")
    ax.grid(color="0.6", linewidth=1)
    ax.tick_params(length=0)
    return ax


def show_points(points: np.ndarray, colours: np.ndarray, ax=None, title: str = "", centres: np.ndarray | None = None):
    """Draw (N, 2) points in their colours, (N,) integers of clusters or (N, 3) uint8 RGB.

    (K, 2) centres as crosses of theirs.
    """
    ax = ax or plt.subplots(figsize=(3.4, 3.2))[1]
    ax.scatter(*points.T, s=7, c=_as_colours(colours), linewidths=0)
    if centres is not None:
        ax.scatter(
            *centres.T, s=130, marker="X", c=_as_colours(np.arange(len(centres))), edgecolors="black", linewidths=1.2
        )
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    return ax


def _as_colours(colours: np.ndarray) -> np.ndarray:
    return CLUSTER_COLOURS[colours % len(CLUSTER_COLOURS)] if colours.ndim == 1 else colours / 255


def show_clusters_on(image: np.ndarray, clusters: np.ndarray, ax=None, title: str = "", strength: float = 0.6):
    """Draw the picture in grey, tinted by its clusters, (h, w) integers, enlarged as masks are, with their borders."""
    from skimage.segmentation import mark_boundaries

    regions = enlarged(clusters, *image.shape[:2])
    grey = 0.3 * image / 255 + 0.7 * image.mean(axis=2, keepdims=True) / 255
    tinted = (1 - strength) * grey + strength * CLUSTER_COLOURS[regions % len(CLUSTER_COLOURS)]
    return show_image(
        (255 * mark_boundaries(tinted, regions, color=(1, 1, 1), mode="inner")).astype(np.uint8), ax, title
    )


def show_score_matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    ax=None,
    title: str = "",
    unit: str = "probability",
    decimals: int = 2,
):
    """Scores as an annotated heatmap, (rows, columns): one row a mask, one column a name.

    The best of each row is in bold.
    """
    import seaborn as sns

    ax = ax or plt.subplots(figsize=(0.72 * len(columns) + 2.2, 0.42 * len(rows) + 1.6))[1]
    sns.heatmap(
        values,
        annot=True,
        fmt=f".{decimals}f",
        cmap="Blues",
        linewidths=0.5,
        linecolor="0.9",
        annot_kws=dict(fontsize=8),
        cbar_kws=dict(label=unit),
        xticklabels=[*map(legible, columns)],
        yticklabels=[*map(legible, rows)],
        ax=ax,
    )
    for text, best in zip(ax.texts, (np.arange(len(columns)) == values.argmax(axis=1)[:, None]).ravel()):
        text.set_fontweight("bold" if best else "normal")
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=9, rotation=0)
    plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    return ax


def picture_grid(
    cells: Sequence[Sequence[np.ndarray]],
    rows: Sequence[str] = (),
    columns: Sequence = (),
    figure=None,
    limits: tuple | None = None,
    unit: str = "",
    proportions: Sequence[int] | None = None,
):
    """Rows of pictures, (H, W, 3) uint8, and maps, (h, w) float, with titles at the left and above; returns the figure.

    columns: titles above the first row, or a list of titles a row. Each map is coloured from its own least to its own
    greatest value, or all from `limits`, with a colour bar that carries the `unit`. Rows may be of different lengths.
    proportions: the shape of the picture that all are of, where they were made square.
    """
    width = max(map(len, cells))
    figure = figure or plt.figure(
        figsize=(min(1.75 * width, 13) + 0.3, len(cells) * (min(1.75, 13 / width) + 0.25)), layout="constrained"
    )
    axes = figure.subplots(len(cells), width, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    drawn = None
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            ax = axes[i, j]
            if cell.ndim == 3:
                ax.imshow(cell, interpolation="nearest")
            else:
                drawn = ax.imshow(
                    cell, interpolation="nearest", cmap="viridis", **dict(zip(("vmin", "vmax"), limits or ()))
                )
            _keep_proportions(ax, cell, proportions)
        if len(rows):
            axes[i, 0].text(
                -0.06, 0.5, rows[i], transform=axes[i, 0].transAxes, rotation=90, ha="right", va="center", fontsize=9
            )
    titles = [columns] if len(columns) and isinstance(columns[0], str) else columns
    for row, of_row in zip(axes, titles):
        for ax, title in zip(row, of_row):
            ax.set_title(title, fontsize=9 if width < 10 else 6)
    if limits and drawn is not None:
        figure.colorbar(drawn, ax=axes, label=unit, shrink=0.8, pad=0.01)
    return figure


def caption_strip(
    images: Sequence[np.ndarray],
    sentences: Sequence[str],
    words: Sequence[Sequence],
    columns: int = 4,
    titles: Sequence[str] = (),
    figure=None,
):
    """Pictures in rows, each with its caption below it, nouns and adjectives marked as in `show_caption`.

    Returns the figure.
    """
    letters = 27  # that a picture is wide
    columns = min(columns, len(images))
    rows, lines = -(-len(images) // columns), max(len(textwrap.wrap(sentence, letters)) for sentence in sentences)
    figure = figure or plt.figure(figsize=(2.6 * columns, rows * (2.45 + 0.19 * lines)), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[2.3, 0.19 * lines] * rows)
    for ax in grid.flat:
        ax.axis("off")
    for number, (image, sentence, found) in enumerate(zip(images, sentences, words)):
        row, column = 2 * (number // columns), number % columns
        show_image(image, grid[row, column], titles[number] if len(titles) else "")
        show_caption(sentence, found, ax=grid[row + 1, column], columns=letters).set_ylim(lines, 0)
    return figure


def show_distances(distances: np.ndarray, words: Sequence[str], classes: Sequence[str], ax=None, title: str = ""):
    """Words against classes as a heatmap, near ones dark, each word's nearest class marked with its distance.

    distances: (words, classes) float, 0 and up.
    """
    import seaborn as sns

    ax = ax or plt.subplots(figsize=(0.24 * len(classes) + 2.4, 0.34 * len(words) + 1.6), layout="constrained")[1]
    nearest = np.full(distances.shape, "", dtype=object)
    for row, column in enumerate(distances.argmin(axis=1)):
        nearest[row, column] = f"{distances[row, column]:.2f}"
    marks = dict(annot=nearest, fmt="", annot_kws=dict(fontsize=7))
    sns.heatmap(
        distances,
        cmap="Blues_r",
        linewidths=0.2,
        linecolor="0.9",
        ax=ax,
        cbar_kws=dict(label="distance (1 - r)", pad=0.01),
        **marks,
    )
    ax.set_xticks(np.arange(len(classes)) + 0.5, [*map(legible, classes)], rotation=90, fontsize=8)
    ax.set_yticks(np.arange(len(words)) + 0.5, [*map(legible, words)], rotation=0, fontsize=9)
    ax.set(xlabel="class", ylabel="word", title=title)
    return ax


def show_anatomy(layers: Sequence, taps: Sequence = (), ax=None):
    """A UNet as a drawing: one bar a layer in the order a picture passes them, one row a resolution, coloured by kind.

    layers: from `fsdlib.features.anatomy`; taps: from `find_taps`, starred. In the bars stands the number of channels;
    the dashed lines are the skip connections, which carry every encoder row's maps over to the decoder.
    """
    grids = sorted({layer.grid for layer in layers}, reverse=True)
    ax = ax or plt.subplots(figsize=(max(8.5, 0.26 * len(layers)), 0.8 * len(grids) + 1.6), layout="constrained")[1]
    colours = dict(
        convolution="#9a9a9a", residual="#8fb8de", attention="#e8b04a", downsampling="#7d6b91", upsampling="#7fb685"
    )
    rows = [-grids.index(layer.grid) for layer in layers]
    ax.plot(range(len(layers)), rows, color="0.75", linewidth=1, zorder=1)
    for kind, colour in colours.items():
        chosen = [x for x, layer in enumerate(layers) if layer.kind == kind]
        ax.bar(
            chosen,
            0.56,
            0.78,
            bottom=[rows[x] - 0.28 for x in chosen],
            color=colour,
            edgecolor="0.3",
            linewidth=0.6,
            label=kind,
            zorder=2,
        )
    for x, layer in enumerate(layers):
        ax.text(x, rows[x], layer.channels, rotation=90, ha="center", va="center", fontsize=7, zorder=3)
    tapped = [x for x, layer in enumerate(layers) if any(tap.module.startswith(f"{layer.module}.") for tap in taps)]
    if tapped:
        ax.scatter(tapped, [rows[x] + 0.42 for x in tapped], marker="*", s=70, color="#c0392b", label="tap", zorder=3)
    middle = next((x for x, layer in enumerate(layers) if layer.block == "mid_block"), len(layers) // 2)
    for row in set(rows):
        encoder, decoder = (
            [x for x, r in enumerate(rows) if r == row and (x < middle) == side] for side in (True, False)
        )
        decoder = [x for x in decoder if layers[x].block.startswith("up_blocks") and layers[x].kind == "residual"]
        if encoder and decoder:
            ax.annotate(
                "",
                (decoder[0] - 0.4, row),
                (encoder[-1] + 0.4, row),
                arrowprops=dict(arrowstyle="->", linestyle="--", color="0.55"),
                zorder=0,
            )
    blocks = [layer.block for layer in layers]
    for number, block in enumerate(dict.fromkeys(blocks)):
        first, width = blocks.index(block), blocks.count(block)
        ax.axvspan(first - 0.5, first + width - 0.5, color="0.95" if number % 2 else "white", zorder=-1)
        ax.text(
            first + width / 2 - 0.5,
            -len(grids) + 0.42,
            block,
            rotation=0 if width > 3 else 90,
            ha="center",
            va="top",
            fontsize=8,
        )
    ax.set_yticks([-number for number in range(len(grids))], [f"{grid} x {grid}" for grid in grids])
    ax.set(xlim=(-0.5, len(layers) - 0.5), ylim=(-len(grids) - 0.45, 0.6), xticks=[], ylabel="cells of the map")
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=6,
        frameon=False,
        fontsize=8,
        handlelength=1,
        columnspacing=1.2,
    )
    ax.spines[:].set_visible(False)
    return ax


def show_similarity(
    image: np.ndarray, similarity: np.ndarray, row: int, column: int, axes=None, title: str = "cosine similarity"
):
    """A picture and beside it how like one position all others are, the position marked in both; returns the two axes.

    similarity: (h, w) float, -1 to 1, from `fsdlib.features.similarity_map`; row, column: the position, in its cells.
    """
    axes = plt.subplots(1, 2, figsize=(6, 2.9), layout="constrained")[1] if axes is None else axes
    height, width = similarity.shape
    axes[0].imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="auto")
    drawn = axes[1].imshow(similarity, vmin=min(0, similarity.min()), vmax=1, cmap="viridis", aspect="auto")
    for ax, text in zip(axes, (f"row {row}, column {column}", title)):
        ax.plot(
            column, row, marker="o", markersize=7, markerfacecolor="none", markeredgecolor="white", markeredgewidth=3
        )
        ax.plot(
            column,
            row,
            marker="o",
            markersize=7,
            markerfacecolor="none",
            markeredgecolor="#c0392b",
            markeredgewidth=1.5,
        )
        ax.set_box_aspect(image.shape[0] / image.shape[1])
        ax.set_title(text, fontsize=9)
        ax.axis("off")
    axes[1].figure.colorbar(drawn, ax=axes[1], shrink=0.85)
    return axes
