"""Figures that answer to the hand without a program behind them: pictures drawn beforehand, and a line of JavaScript in the HTML.

The same output plays in JupyterLab, in a saved notebook and in a printed page: handlers stand in the elements themselves,
since JupyterLab runs no script of an output.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from PIL import Image

_SLIDER = """<div style="max-width:{width}px;font:14px sans-serif">
<label>{name} <input type="range" data-lm-suppress-shortcuts="true" min="0" max="{last}" value="{first}" style="width:60%;vertical-align:middle" oninput="
const box = this.closest('div'), frames = box.querySelectorAll('img');
frames.forEach((frame, i) => frame.style.display = i == this.value ? 'block' : 'none');
box.querySelector('output').textContent = frames[this.value].alt;"></label> <output>{said}</output>
{frames}</div>"""
_POINTED = """<div style="display:flex;gap:12px;max-width:{width}px;font:14px sans-serif">
<div style="flex:1"><div style="position:relative;cursor:crosshair;line-height:0" onclick="
const own = this.getBoundingClientRect(), x = (event.clientX - own.left) / own.width, y = (event.clientY - own.top) / own.height;
const column = Math.min({columns} - 1, Math.floor(x * {columns})), row = Math.min({rows} - 1, Math.floor(y * {rows}));
const map = this.parentNode.nextElementSibling.firstElementChild, mark = this.lastElementChild;
map.style.backgroundPosition = (100 * column / ({columns} - 1)) + '% ' + (100 * row / ({rows} - 1)) + '%';
mark.style.left = (100 * (column + .5) / {columns}) + '%'; mark.style.top = (100 * (row + .5) / {rows}) + '%';
"><img alt="{name}" src="{picture}" style="width:100%;image-rendering:auto"><span style="position:absolute;left:{x:g}%;top:{y:g}%;width:14px;
height:14px;margin:-9px;border:2px solid #fff;outline:2px solid #d1495b;border-radius:50%;outline-offset:0;pointer-events:none"></span></div></div>
<div style="flex:1"><div role="img" aria-label="{name}" style="aspect-ratio:{ratio:g};image-rendering:pixelated;background-image:url({maps});
background-size:{columns}00% {rows}00%;background-position:{left:g}% {top:g}%"></div></div></div>"""


def played(draw: Callable[[Any], Any], name: str, values: Sequence, first: int = 0, dpi: float = 80) -> str:
    """A slider over figures that are drawn beforehand: HTML.

    draw: draws a figure with matplotlib for one of the values; what it returns is not used. name: what the slider turns.
    first: the place of the value that is shown first. Raises ValueError without values, or where `draw` draws nothing.

    >>> text = played(lambda K: plt.figure(figsize=(1, 1)), "K", [2, 3])
    >>> text.count("<img"), text.count("<script")
    (2, 0)
    """
    if not len(values):
        raise ValueError(f"there are no values of {name} to draw: give some")
    frames = [_frame(draw, value, dpi) for value in values]
    images = "\n".join(
        f'<img alt="{html.escape(str(value))}" src="{_address(frame)}" style="width:100%;display:{"block" if i == first else "none"}">'
        for i, (value, frame) in enumerate(zip(values, frames))
    )
    width = max(Image.open(io.BytesIO(frame)).width for frame in frames)
    said = dict(name=html.escape(name), last=len(values) - 1, first=first, said=html.escape(str(values[first])))
    return _SLIDER.format(width=width, frames=images, **said)


def _frame(draw: Callable[[Any], Any], value: Any, dpi: float) -> bytes:
    """The figure that is drawn for a value, as a JPEG; it is closed, so that no notebook shows it by itself."""
    before, buffer = set(plt.get_fignums()), io.BytesIO()
    draw(value)
    drawn = sorted(set(plt.get_fignums()) - before)
    if not drawn:
        raise ValueError(f"nothing was drawn for {value!r}: make a new figure each time")
    plt.figure(drawn[-1]).savefig(buffer, format="jpeg", dpi=dpi, bbox_inches="tight", pil_kwargs=dict(quality=80))
    for number in drawn:
        plt.close(number)
    return buffer.getvalue()


def pointed(
    image: np.ndarray,
    maps: np.ndarray,
    name: str = "",
    first: tuple[int, int] = (0, 0),
    limits: tuple[float, float] = (0.0, 1.0),
    cmap: str = "viridis",
    width: int = 760,
) -> str:
    """A picture to be clicked, and beside it the map of the place that was: HTML.

    image: (H, W, 3) uint8. maps: (rows, columns, h, w), for each cell of a grid over the picture one number a position;
    limits: those shown darkest and brightest. first: the cell that is shown before any click. Raises ValueError for fewer
    than two rows or columns.
    """
    rows, columns, height, breadth = maps.shape
    if min(rows, columns) < 2:
        raise ValueError(f"a grid of {rows} x {columns} cells has nothing to choose: give two rows and columns or more")
    low, high = limits
    scaled = (255 * np.clip((maps - low) / (high - low), 0, 1)).astype(np.uint8)
    tiles = Image.fromarray(scaled.transpose(0, 2, 1, 3).reshape(rows * height, columns * breadth) // 4 * 4, "P")
    tiles.putpalette((255 * colormaps[cmap](np.arange(256))[:, :3]).astype(np.uint8).tobytes())
    picture, sheet = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(picture, "JPEG", quality=85)
    tiles.save(sheet, "PNG", optimize=True)
    return _POINTED.format(
        width=width,
        rows=rows,
        columns=columns,
        name=html.escape(name),
        picture=_address(picture.getvalue()),
        maps=_address(sheet.getvalue(), "image/png"),
        ratio=image.shape[1] / image.shape[0],
        x=100 * (first[1] + 0.5) / columns,
        y=100 * (first[0] + 0.5) / rows,
        left=100 * first[1] / (columns - 1),
        top=100 * first[0] / (rows - 1),
    )


def _address(content: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
