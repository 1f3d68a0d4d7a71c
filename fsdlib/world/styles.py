"""Other hands: the world's drawings as someone else might have drawn them.

`vary` changes a drawing at its source, the SVG (colours, outlines, gradients, details left out), `reshape` its shape and
surface; captioner and CLIP are trained on that, since two hands alone teach them those two hands. `UNSEEN` are styles that
nothing is trained on: what they cost says whether the words hold for drawings that were never seen.
"""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, sobel

_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
_DARK = 60  # a colour whose mean is below is an outline's, a pupil's, a tyre's
_GREY = np.array([0.299, 0.587, 0.114])
_SHAPES = ("path", "circle", "ellipse", "rect", "polygon")


def vary(svg: str, random: np.random.Generator) -> str:
    """A drawing's SVG with other colours, outlines and surfaces, perhaps with a detail less; what it shows stays."""
    if random.random() < 0.25:
        svg = _without_a_detail(svg, random)
    colours = sorted({found.lower() for found in _COLOUR.findall(svg)})
    paint = _palette(random)
    keep_dark = random.random() < 0.6  # eyes, tyres and outlines stay dark
    renamed = {
        colour: colour if keep_dark and _rgb(colour).mean() < _DARK else _hexadecimal(paint(_rgb(colour)))
        for colour in colours
    }
    svg = _COLOUR.sub(lambda found: renamed[found[0].lower()], svg)
    return _shaded(_outlined(svg, random), random)


def _found(pattern: str, svg: str) -> re.Match:
    found = re.search(pattern, svg)
    if found is None:
        raise ValueError(f"the drawing holds no {pattern}: give an SVG with a viewBox")
    return found


def _rgb(colour: str) -> np.ndarray:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)], float)


def _hexadecimal(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{value:02x}" for value in np.clip(np.round(rgb), 0, 255).astype(int))


def _palette(random: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """One way to paint all of a drawing's colours, each a function from a colour to a colour, (3,) in [0, 255]."""
    kind = random.choice(
        ["as it is", "mixed anew", "turned", "two inks", "any", "one ink"], p=[0.25, 0.2, 0.25, 0.15, 0.1, 0.05]
    )
    if kind == "mixed anew":
        return lambda rgb: rgb + random.normal(0, 35, 3)
    if kind == "turned":
        order, gain, shift = random.permutation(3), random.uniform(0.6, 1.2, 3), random.uniform(-30, 40, 3)
        return lambda rgb: rgb[order] * gain + shift
    if kind == "two inks":
        dark, light = random.uniform(0, 130, 3), random.uniform(120, 255, 3)
        return lambda rgb: dark + (light - dark) * (rgb @ _GREY) / 255
    if kind == "any":
        return lambda rgb: 0.4 * (rgb @ _GREY) + 0.6 * random.uniform(0, 255, 3)
    if kind == "one ink":
        ink = random.uniform(20, 235, 3)
        return lambda rgb: ink + 0.12 * (rgb @ _GREY - 128)
    return lambda rgb: rgb


def _outlined(svg: str, random: np.random.Generator) -> str:
    """Outlines taken away, or of another width and colour; or added where there were none."""
    width = float(_found(r'viewBox="\S+ \S+ (\S+)', svg)[1])
    ink = _hexadecimal(random.uniform(0, 90, 3) if random.random() < 0.8 else random.uniform(0, 255, 3))
    if 'stroke="#' in svg:
        choice = random.random()
        if choice < 0.3:
            return re.sub(r'stroke="#\w+"', 'stroke="none"', svg)
        if choice < 0.6:
            svg = re.sub(r'stroke="#\w+"', f'stroke="{ink}"', svg)
            thick = random.uniform(0.3, 2)
            return re.sub(
                r'stroke-width="([\d.]+)"', lambda found: f'stroke-width="{thick * float(found[1]):.3f}"', svg
            )
    elif random.random() < 0.4:
        start, end = _found(r"<svg[^>]*>", svg).end(), svg.rindex("</svg>")
        group = f'<g stroke="{ink}" stroke-width="{width * random.uniform(0.01, 0.04):.3f}" stroke-linejoin="round">'
        return svg[:start] + group + svg[start:end] + "</g>" + svg[end:]
    return svg


def _shaded(svg: str, random: np.random.Generator) -> str:
    """Flat fills as gradients, all in one direction, from lighter to darker; two times in three all stay flat."""
    if random.random() < 0.65:
        return svg
    strength, (x, y) = random.uniform(0.15, 0.5), np.round(random.uniform(0, 1, 2), 3)
    stops: list[str] = []

    def gradient(found: re.Match) -> str:
        rgb = _rgb(found[1])
        light, dark = (_hexadecimal(rgb + strength * (end - rgb)) for end in (255, 0))
        stops.append(
            f'<linearGradient id="shade{len(stops)}" x1="{x}" y1="{y}" x2="{1 - x:.3f}" y2="{1 - y:.3f}">'
            f'<stop offset="0" stop-color="{light}"/><stop offset="1" stop-color="{dark}"/></linearGradient>'
        )
        return f'fill="url(#shade{len(stops) - 1})"'

    shaded = re.sub(r'fill="(#\w+)"', gradient, svg)
    start = _found(r"<svg[^>]*>", shaded).end()
    return shaded[:start] + "<defs>" + "".join(stops) + "</defs>" + shaded[start:]


def _without_a_detail(svg: str, random: np.random.Generator) -> str:
    """The drawing without one of its shapes, never one of the three with the longest outlines, which carry it."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    root = ElementTree.fromstring(svg)
    parts = [(parent, part) for parent in root.iter() for part in parent if part.tag.split("}")[-1] in _SHAPES]
    parts.sort(key=lambda pair: -len(pair[1].get("d", "")))
    if len(parts) > 4:
        parent, part = parts[random.integers(3, len(parts))]
        parent.remove(part)
    return ElementTree.tostring(root, encoding="unicode")


def reshape(sprite: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A drawing stretched, bent and given another surface: (h, w, 4) uint8 RGBA in and out, the size may change."""
    height, width = sprite.shape[:2]
    stretch = np.exp(random.normal(0, 0.15))
    image = Image.fromarray(sprite).resize(
        (max(8, round(width * stretch)), max(8, round(height / stretch))), Image.Resampling.BICUBIC
    )
    drawn = np.pad(np.asarray(image, np.float32), ((6, 6), (6, 6), (0, 0)))
    if random.random() < 0.6:
        drawn = _bent(drawn, random)
    surface = random.random()
    if surface < 0.2:
        drawn[..., :3] *= 1 + random.uniform(0.1, 0.35) * _grain(drawn.shape[:2], random)[..., None]
    elif surface < 0.3:
        # as a brush would: small things run into what surrounds them
        softened = Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(7))
        drawn = np.asarray(softened, np.float32).copy()
    elif surface < 0.4:
        drawn = _sticker(drawn, random)
    return np.clip(drawn, 0, 255).astype(np.uint8)


def _field(shape: tuple[int, int], random: np.random.Generator, cells: int) -> np.ndarray:
    coarse = Image.fromarray(random.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))


def _bent(drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
    shape, cells, amount = drawn.shape[:2], int(random.integers(3, 6)), random.uniform(0.01, 0.05)
    where = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    where += amount * max(shape) * np.stack([_field(shape, random, cells) for _ in range(2)])
    return np.stack([map_coordinates(drawn[..., channel], where, order=1) for channel in range(4)], axis=-1)


def _grain(shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A texture between -1 and 1: grain, or hatching in one direction."""
    if random.random() < 0.5:
        return np.tanh(gaussian_filter(random.standard_normal(shape), 1.2) * 3)
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = random.uniform(0, np.pi)
    return np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / random.uniform(4, 10))


def _sticker(drawn: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A border of one colour around the whole drawing."""
    alpha = drawn[..., 3:] / 255
    around = np.clip(random.uniform(2, 6) - distance_transform_edt(drawn[..., 3] < 128), 0, 1)[..., None]
    ink = np.float32(random.choice([0, 40, 255, 255]) + random.uniform(-20, 20, 3))
    return np.concatenate([drawn[..., :3] * alpha + ink * (1 - alpha), 255 * np.maximum(alpha, around)], axis=-1)


def relief(sprite: np.ndarray) -> np.ndarray:
    """A drawing as if moulded of clay: no lines, soft colours, a rounded body under one lamp; (h, w, 4) uint8 in and out."""
    drawn = np.pad(sprite.astype(np.float32), ((6, 6), (6, 6), (0, 0)))
    alpha = drawn[..., 3] / 255
    weight = gaussian_filter(alpha, 3)
    soft = gaussian_filter(drawn[..., :3] * alpha[..., None], (3, 3, 0)) / np.maximum(weight, 1e-3)[..., None]
    inside = weight > 0.5
    depth = np.minimum(distance_transform_edt(inside), 22) / 22
    height = 22 * np.sqrt(np.clip(1 - (1 - depth) ** 2, 0, 1)) + gaussian_filter(drawn[..., :3] @ _GREY, 2) / 20
    down, right = np.gradient(gaussian_filter(height, 1.5))
    normal = np.stack([-right, -down, np.ones_like(down)]) / np.sqrt(right**2 + down**2 + 1)
    lamp = np.array([-0.45, -0.6, 0.66])
    light = np.clip(np.tensordot(lamp, normal, 1), 0, 1)
    colour = soft * (0.45 + 0.75 * light)[..., None] + 110 * (light**18)[..., None]
    return np.clip(np.dstack([colour, 255 * gaussian_filter(inside.astype(np.float32), 0.7)]), 0, 255).astype(np.uint8)


def pencil(sprite: np.ndarray) -> np.ndarray:
    """A drawing as a pencil sketch: dark lines where its colours change, on paper; (h, w, 4) uint8 in and out."""
    drawn = np.pad(sprite.astype(np.float32), ((4, 4), (4, 4), (0, 0)))
    alpha = drawn[..., 3] / 255
    flat = gaussian_filter(drawn[..., :3] * alpha[..., None] + 128 * (1 - alpha[..., None]), (1, 1, 0))
    edges = np.sqrt(sum(sobel(flat[..., channel], axis) ** 2 for channel in range(3) for axis in (0, 1)))
    outline = np.clip(2.5 - distance_transform_edt(alpha > 0.5), 0, 1)
    line = np.maximum(np.clip(edges / 260, 0, 1), outline)
    tone = 238 - 0.12 * (255 - flat @ _GREY)
    grey = tone * (1 - line) + 55 * line
    return np.clip(np.dstack([grey, grey, grey * 0.97, drawn[..., 3]]), 0, 255).astype(np.uint8)


UNSEEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {"relief": relief, "pencil": pencil}
