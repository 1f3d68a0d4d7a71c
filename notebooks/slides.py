"""Notebooks as slides that open without a server and without a network: `python notebooks/slides.py 00_quickstart ...`.

nbconvert's own slides load reveal.js from the network, and no package on PyPI brings reveal.js alone. So cells are rendered
by nbconvert, and what turns the pages is the dozen lines of JavaScript below.
"""

import argparse
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from book import as_html, page_of
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML
from pygments.formatters import HtmlFormatter

from fsdlib.project import NOTEBOOKS, REPORTS, write_atomically

LESSON = ("00_quickstart", "02_diffusion_features", "03_clusters", "06_pipeline")
ABOVE, WHOLE, TABLE = (
    90,
    150,
    50,
)  # words: so many fit above a figure, and on a slide; so many a table takes the room of
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


@dataclass
class Slide:
    """What stands on one slide, as HTML: the heading it belongs to, and under that parts in order."""

    heading: str
    parts: list[str] = field(default_factory=list)
    words: int = 0
    figure: bool = False


def slides_of(notebook: nbformat.NotebookNode) -> list[Slide]:
    """A slide for each heading, and a further one under the same heading after each figure, and for one that has no room.

    Code is folded; outputs that only a kernel can show are left out.
    """
    exporter, slides = HTMLExporter(template_name="basic", exclude_input=True), [Slide("")]
    exporter.exclude_output_prompt = True

    def put(part: str, words: int = 0, figure: bool = False, folded: bool = False) -> None:
        crowded = slides[-1].words > ABOVE if figure else 0 < slides[-1].words > WHOLE - words
        if not folded and (slides[-1].figure or crowded):
            slides.append(Slide(slides[-1].heading))
        slides[-1].parts.append(part)
        slides[-1].words += words
        slides[-1].figure |= figure

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for heading, text in _sections(cell):
                if heading:
                    slides.append(Slide(heading))
                if text.source.strip():
                    put(f"<div>{as_html(text.source)}</div>", len(text.source.split()))
        elif cell.cell_type == "code":
            put(f"<details><summary>code</summary>{Highlight2HTML()(cell.source)}</details>", folded=True)
            for output in cell.outputs:
                kinds = output.get("data", {}).keys()
                if "application/vnd.jupyter.widget-view+json" in kinds and not kinds & {"text/html", *PICTURES}:
                    continue
                alone = nbformat.v4.new_code_cell("", outputs=[output])
                put(_rendered(exporter, alone), TABLE * ("text/html" in kinds), bool(kinds & set(PICTURES)))
    return [slide for slide in slides if slide.parts or slide.heading]


def _sections(cell: nbformat.NotebookNode) -> Iterator[tuple[str, nbformat.NotebookNode]]:
    """A cell of text, parted before each heading: the heading ("" for what stands before the first), and a cell of the rest."""
    for part in re.split(r"^(?=#{1,3} )", cell.source, flags=re.M):
        heading = re.match(r"#{1,3} (.*)", part)
        rest = part[heading.end() :] if heading else part
        if heading or rest.strip():
            yield (heading[1] if heading else ""), nbformat.from_dict({**cell, "source": rest})


def _rendered(exporter: HTMLExporter, cell: nbformat.NotebookNode) -> str:
    return exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))[0]


def build(path: Path, out: Path = REPORTS / "slides") -> Path:
    """Write a notebook's slides to `out`, one HTML file that asks nobody for anything; returns its path."""
    title = html.escape(page_of(path).title)
    slides = slides_of(nbformat.read(path, as_version=4))
    sections = "\n".join(
        f"<section{' class=first' if number == 0 else ''}><h2>{_inline(slide.heading)}</h2>"
        f"<div class=body>{''.join(slide.parts)}</div><p class=number>{number + 1} / {len(slides)}</p></section>"
        for number, slide in enumerate(slides)
    )
    style = STYLE + HtmlFormatter().get_style_defs(".highlight")
    return write_atomically(
        out / f"{path.stem}.html", PAGE.format(title=title, style=style, slides=sections, script=SCRIPT)
    )


def _inline(heading: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(heading))


STYLE = """
* { box-sizing: border-box } body { margin: 0; font: 20px/1.45 sans-serif; color: #1a1a1a; background: #fff }
section { position: relative; padding: 3vh 5vw 5vh; min-height: 100vh; page-break-after: always }
.turning section { display: none } .turning section.shown { display: flex; flex-direction: column; height: 100vh; overflow: auto }
h2 { font-size: 34px; line-height: 1.2; margin: 0 0 2vh; color: #1b4a72 } .first h2 { font-size: 46px; margin-top: 8vh }
.body { flex: 1; display: flex; flex-direction: column; min-height: 0 } .body > div, .body > details { flex: none }
.body > div:has(img) { flex: 1 1 45vh; min-height: 45vh; display: flex; flex-direction: column }
.body > div:has(img) div { flex: 1; min-height: 0; display: flex; flex-direction: column; justify-content: center }
.body img { width: 100%; height: 100%; min-height: 0; flex: 1; object-fit: contain }
p { margin: 0 0 .7em; max-width: 62em } pre { margin: 0; white-space: pre-wrap; font-size: 17px } a { color: #1b6ca8 }
table { border-collapse: collapse; border: 0; margin: 0 0 .7em; font-size: 17px } td, th { padding: 3px 0 3px 18px; text-align: right; border: 0 }
thead th { border-bottom: 1px solid #999 } details { margin: 0 0 .6em; font-size: 17px } summary { color: #777; cursor: pointer }
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math }
.anchor-link, .prompt { display: none } .number { position: fixed; right: 1.5vw; bottom: 0; color: #999; font-size: 14px }
section:not(.shown) .number { position: absolute }
@media print { .turning section { display: block } }
"""
# arrows, page keys and the space bar turn; Home and End go to the ends; the address keeps the number of the slide
SCRIPT = """
const slides = [...document.querySelectorAll("section")];
let shown = -1;
function show(number) {
  shown = Math.max(0, Math.min(slides.length - 1, number));
  slides.forEach((slide, i) => slide.classList.toggle("shown", i === shown));
  history.replaceState(null, "", "#" + (shown + 1));
}
const steps = {ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity};
addEventListener("keydown", event => {
  if (event.key in steps && !event.target.closest("summary")) { event.preventDefault(); show(shown + steps[event.key]); }
});
addEventListener("hashchange", () => show(parseInt(location.hash.slice(1)) - 1 || 0));
document.body.classList.add("turning");
show(parseInt(location.hash.slice(1)) - 1 || 0);
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head><body>
{slides}
<script>{script}</script></body></html>
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=LESSON, help=f"of notebooks; {', '.join(LESSON)} by default")
    for name in parser.parse_args().names:
        print(f"slides: {build(NOTEBOOKS / f'{name}.ipynb')}")
