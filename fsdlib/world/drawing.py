"""The method as one drawing: from a picture to its label map, every stage with what it made of one scene.

`python -m fsdlib.world.drawing` (`make pipeline-drawing`) segments the scene and writes docs/pipeline.svg. The README shows
that file; the notebooks show it with their stage lit.
"""

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from fsdlib.features import image_seed, latents, noised
from fsdlib.figures import CLUSTER_COLOURS, innermost, overlay, principal_colours
from fsdlib.models import Models, load_models
from fsdlib.pipeline import Result, perceive, segment_perceived
from fsdlib.project import CLASSES, ROOT, write_atomically
from fsdlib.recipe import get_recipe
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import scene_of_split

DRAWING = ROOT / "docs" / "pipeline.svg"
SCENE = 0  # of the val split: three objects that `best` finds
STAGES = ("caption", "features", "clusters", "names", "refinement")
INK, QUIET, LINE = "#222222", "#666666", "#8a8a8a"
PLAIN = 'fill="#f6f7f9" stroke="#c5c9d0" stroke-width="1.2"'
SHINING = 'fill="#fff3df" stroke="#d97706" stroke-width="3"'
WIDTH, HEIGHT, SIDE, BOX, GAP, MARGIN, LOW = 1000, 298, 96, 112, 30, 18, 136


@dataclass(frozen=True)
class Step:
    """A box of the drawing: the stage it belongs to ("" for the picture), what it is called, what makes it, what it shows."""

    stage: str
    title: str
    maker: str
    picture: np.ndarray
    names: Mapping[str, tuple[float, float]]  # written on the picture, each at its (x, y) as shares of the sides


def steps_of(image: np.ndarray, latent: np.ndarray, maps: np.ndarray, result: Result) -> list[Step]:
    """The boxes along the bottom: picture, latent, features, clusters, masks, names, label map.

    image: (H, W, 3) uint8; latent: (4, h, w) float32, noised; maps: (C, h, w) float32 features.
    """
    named = np.argsort(-(result.cluster_labels > 0).astype(int), kind="stable")[:4]
    masks = np.pad(result.masks[named][:, ::6, ::6], ((0, 0), (1, 1), (1, 1)), constant_values=True)
    grid = np.block([[masks[0], masks[1]], [masks[2], masks[3]]]) if len(masks) == 4 else masks[0]
    shown = np.where(grid[..., None], np.uint8(250), np.uint8(70)).repeat(3, axis=2)
    coloured = (255 * CLUSTER_COLOURS[result.clusters % len(CLUSTER_COLOURS)]).astype(np.uint8)
    low, high = np.percentile(latent[:3], (2, 98))
    noise = (255 * np.clip((latent[:3] - low) / (high - low), 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    return [
        Step("", "picture", "yours", image, {}),
        Step("features", "latent + noise", "autoencoder", noise, {}),
        Step("features", "features", "diffusion UNet", principal_colours([maps])[0], {}),
        Step("clusters", "clusters", "k-means", coloured, {}),
        Step("clusters", "masks", "one a cluster", shown, {}),
        Step("names", "named masks", "CLIP", overlay(image, result.coarse), _places(result.coarse, result.names)),
        Step(
            "refinement", "label map", "dense CRF", overlay(image, result.labels), _places(result.labels, result.names)
        ),
    ]


def _places(labels: np.ndarray, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = {names[label]: innermost(labels == label) for label in np.unique(labels) if label}
    return {name: (column / labels.shape[1], row / labels.shape[0]) for name, (row, column, _) in found.items()}


def draw_pipeline(steps: Sequence[Step], sentence: str, words: Sequence[str], lit: str = "") -> str:
    """The drawing as SVG, on a light ground of its own.

    lit: one of STAGES, which shines while the others pale, "pipeline" for all of them, or "" for none. Raises ValueError
    for what is no stage.
    """
    left = [MARGIN + number * (BOX + GAP) for number in range(len(steps))]
    below = [_box(step, x) for step, x in zip(steps, left)]
    said = textwrap.wrap(sentence, 38)[:3]
    caption = _words_box(left[1], 2 * BOX + GAP, "caption", "BLIP", [f'"{" ".join(said)}"'] if len(said) == 1 else said)
    chosen = _words_box(
        left[3], 2 * BOX + GAP, "words", "nouns and adjectives", textwrap.wrap(", ".join(words), 38)[:3]
    )
    middle, high = LOW + 22 + SIDE / 2, 64
    flat = [f"M{x + BOX} {middle} h{GAP - 5}" for x in left[:-1]]
    bent = [
        f"M{left[0] + BOX / 2} {LOW} V{high} H{left[1] - 5}",
        f"M{left[2] + BOX} {high} H{left[3] - 5}",
        f"M{left[4] + BOX} {high} H{left[5] + BOX / 2} V{LOW - 5}",
    ]
    stages = dict.fromkeys(step.stage for step in steps)
    groups = {stage: "".join(b for b, step in zip(below, steps) if step.stage == stage) for stage in stages}
    groups["caption"] = caption + chosen
    drawn = "".join(f'<g id="stage-{stage or "picture"}">{inside}</g>\n' for stage, inside in groups.items())
    return _lit(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
        f'font-family="DejaVu Sans, Helvetica, Arial, sans-serif">\n<title>From a picture to its label map</title>\n'
        f'<defs><marker id="tip" viewBox="0 0 6 6" refX="3" refY="3" markerWidth="5" markerHeight="5" orient="auto">'
        f'<path d="M0 0 L6 3 L0 6 z" fill="{LINE}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>\n'
        + "".join(
            f'<path d="{line}" fill="none" stroke="{LINE}" stroke-width="2" marker-end="url(#tip)"/>\n'
            for line in (*flat, *bent)
        )
        + drawn
        + "</svg>\n",
        lit,
    )


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" {PLAIN}/>'


def _text(x: float, y: float, text: str, size: float, colour: str = INK, weight: str = "normal") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="middle">{escape(text)}</text>'
    )


def _box(step: Step, x: float) -> str:
    place = (x + (BOX - SIDE) / 2, LOW + 24)
    sharp = ' style="image-rendering:pixelated"' if max(step.picture.shape) < SIDE else ""
    parts = [
        _rect(x, LOW, BOX, SIDE + 50),
        _text(x + BOX / 2, LOW + 16, step.title, 12, weight="bold"),
        f'<image x="{place[0]:g}" y="{place[1]}" width="{SIDE}" height="{SIDE}" preserveAspectRatio="none"{sharp} '
        f'href="{_embedded(step.picture)}"/>',
        _text(x + BOX / 2, LOW + SIDE + 40, step.maker, 11, QUIET),
    ]
    for name, (across, down) in step.names.items():
        half = 3.2 * len(name)
        at = min(max(across * SIDE, half), max(half, SIDE - half))
        label = _text(place[0] + at, place[1] + down * SIDE + 3, name, 10, "#ffffff", "bold")
        parts.append(label.replace("<text", '<text stroke="#111111" stroke-width="2.4" paint-order="stroke"'))
    return "".join(parts)


def _words_box(x: float, width: float, title: str, maker: str, lines: Sequence[str]) -> str:
    top = 62 - 8 * (len(lines) - 1)
    said = "".join(_text(x + width / 2, top + 16 * i, line, 12) for i, line in enumerate(lines))
    return (
        _rect(x, 16, width, 96)
        + _text(x + width / 2, 34, title, 12, weight="bold")
        + said
        + _text(x + width / 2, 104, maker, 11, QUIET)
    )


def _embedded(picture: np.ndarray) -> str:
    """A data address: the picture as PNG, at most as large as its place and in 64 colours, so that the drawing is small."""
    drawn = Image.fromarray(picture)
    if max(drawn.size) > SIDE:
        drawn = drawn.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    drawn.quantize(64, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _lit(svg: str, lit: str) -> str:
    if lit not in ("", "pipeline", *STAGES):
        raise ValueError(
            f"{lit!r} is no stage that can be lit: choose one of {', '.join(STAGES)}, or 'pipeline' for all"
        )
    for stage in STAGES if lit else ():
        (group,) = re.findall(rf'<g id="stage-{stage}">.*?</g>', svg, re.S)
        shown = group.replace(PLAIN, SHINING) if lit in (stage, "pipeline") else group.replace("<g", '<g opacity="0.4"')
        svg = svg.replace(group, shown)
    return svg


def pipeline(lit: str = "") -> str:
    """The drawing that is kept in docs/pipeline.svg, as SVG, with a stage lit as in `draw_pipeline`."""
    return _lit(DRAWING.read_text(), lit)


def drawn_anew(models: Models | None = None) -> str:
    """The drawing from the models that are there: the scene segmented with the recipe `best`."""
    image, recipe, loaded = scene_of_split("val", SCENE).image, get_recipe("best"), models or load_models("mini")
    perception = perceive([image], loaded, recipe)[0]
    result = segment_perceived(image, perception, loaded, recipe, Vocabulary.read(CLASSES / "scenes.csv"))
    latent = latents([image], loaded.diffusion)
    noisy = noised(latent, loaded.diffusion, [image_seed(image, "noise")], 100)[0]
    steps = steps_of(image, noisy, recipe.features.stacked(perception.maps), result)
    return draw_pipeline(steps, result.caption, [word.text for word in result.words])


if __name__ == "__main__":
    print(write_atomically(DRAWING, drawn_anew()))
