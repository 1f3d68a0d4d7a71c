"""The notebooks as a book: an index with a picture of each, and pages that open without a server.

`python notebooks/book.py` writes notebooks/README.md with its pictures, and one HTML page a notebook under reports/book.
nbconvert makes the pages, since JupyterLab brings it; they hold their figures, and their formulas as MathML, which browsers draw by
themselves. A page loads nothing from anywhere.
"""

import argparse
import base64
import html
import io
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from fsdlib.project import NOTEBOOKS, REPORTS, write_atomically

WIDTH = 360  # pixels of an index picture
LARGE = 80_000  # bytes of a figure, above which it is no longer kept as PNG
WIDGET = "application/vnd.jupyter.widget-view+json"
# Where the notebooks' tens change, the index begins a new part.
PARTS = ("The walk", "Deep dives", "Evaluation", "Reports", "Hands on", *[""] * 4, "Where the small models come from")


@dataclass(frozen=True)
class Page:
    """A notebook as the index sees it: its file's stem, title, question and picture (PNG or JPEG bytes, where it has a figure)."""

    stem: str
    title: str
    question: str
    picture: bytes | None


def page_of(path: Path) -> Page:
    """What the index says of a notebook: the first heading, the first paragraph after it, and the figure tagged `cover` (else the first)."""
    notebook = nbformat.read(path, as_version=4)
    title, *rest = notebook.cells[0].source.strip().split("\n\n")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    covers = [cell for cell in code if "cover" in cell.metadata.get("tags", [])]
    found = (
        output.data[kind]
        for cell in (*covers, *code)
        for output in cell.outputs
        for kind in ("image/png", "image/jpeg")
        if kind in output.get("data", {})
    )
    picture = next(found, None)
    question = " ".join(rest[0].split()) if rest else ""
    return Page(path.stem, title.removeprefix("# ").strip(), question, base64.b64decode(picture) if picture else None)


def tidy(path: Path) -> None:
    """Make an executed notebook fit to be kept: without what sliders leave behind, and with figures as small as they can be sharp.

    A slider's state is large and useless without a kernel, and so is the line of text that stands for it; a still figure
    is beside each. An output that is HTML too keeps that. Figures come from the notebook in twice the pixels that they are shown with.
    """
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            known = [output.get("data", {}) for output in cell.outputs]
            cell.outputs = [o for o, data in zip(cell.outputs, known) if WIDGET not in data or "text/html" in data]
            for output in cell.outputs:
                output.get("data", {}).pop(WIDGET, None)
                _shrink(output)
    tidied = nbformat.writes(notebook) + "\n"
    if tidied != text:
        write_atomically(path, tidied)


def _shrink(output: nbformat.NotebookNode) -> None:
    """A PNG in 128 colours, or, where that is still large (photographs, noise), a JPEG, shown in the same size."""
    if "image/png" not in output.get("data", {}):
        return
    drawn = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
    if drawn.mode == "P":
        return  # it was done before
    drawn, kind = drawn.convert("RGB"), "image/png"
    kept = _written(drawn.quantize(128, dither=Image.Dither.NONE), "PNG", optimize=True)
    if len(kept) <= LARGE:  # then colours that fit better are worth their time: small marks keep theirs
        kept = _written(drawn.quantize(128, kmeans=2, dither=Image.Dither.NONE), "PNG", optimize=True)
    else:
        kind = "image/jpeg"
        smaller = drawn.resize((5 * drawn.width // 8, 5 * drawn.height // 8), Image.Resampling.LANCZOS)
        kept = _written(smaller, "JPEG", quality=65, optimize=True, progressive=True)
        output.data.pop("image/png")
        output.metadata[kind] = output.metadata.pop("image/png", {})
    output.data[kind] = base64.b64encode(kept).decode()


def _written(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_index(folder: Path = NOTEBOOKS) -> Path:
    """Write `folder`/README.md: what each notebook answers, with a picture (under `folder`/pictures), in the order to read them in."""
    lines = [
        "# The notebooks",
        "",
        "Read 00 first, then 01 to 07 in order: each ends where the next begins. 01a and 01b are for those who have not met diffusion or attention.",
        "",
    ]
    for ten, paths in groupby(sorted(folder.glob("*.ipynb")), lambda path: int(path.stem[:2]) // 10):
        lines += [f"## {PARTS[ten]}", "", "| | |", "|---|---|"]
        for page in map(page_of, paths):
            if page.picture:
                write_atomically(folder / "pictures" / f"{page.stem}.jpg", _small(page.picture))
            shown = f"[![{page.title}](pictures/{page.stem}.jpg)]({page.stem}.ipynb)" if page.picture else ""
            number = page.stem.split("_")[0]
            lines.append(f"| {shown} | **[{number} {page.title}]({page.stem}.ipynb)**<br>{page.question} |")
        lines.append("")
    return write_atomically(folder / "README.md", "\n".join(lines))


def _small(picture: bytes) -> bytes:
    small = Image.open(io.BytesIO(picture)).convert("RGB")
    small.thumbnail((WIDTH, WIDTH))
    return _written(small, "JPEG", quality=85)


class _Renderer(IPythonRenderer):
    """Markdown to HTML as nbconvert does it, but every formula is drawn now and not by a script when the page is opened."""

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def as_html(markdown: str) -> str:
    """Markdown as HTML, its formulas ($...$ in a line, $$...$$ apart) as MathML; code and escaped dollars stay as they are.

    >>> as_html("$x^2$ for `$x`")
    '<p><math ...><msup><mi>x</mi><mn>2</mn></msup>...</math> for <code>$x</code></p>'
    """
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(markdown)


class _Exporter(HTMLExporter):
    """Pages that load no script: what nbconvert's would, for widgets, formulas and diagrams, is left out."""

    raw_template = """{% extends "index.html.j2" %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>
/* fonts that have the measures of formulas, on macOS, Windows and Linux; a browser's own choice may have none */
math { font-family: "STIX Two Math", "Cambria Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math; font-size: 1.1em }
math[display="block"] { margin: 0.8em 0 }
</style>{% endblock %}
"""

    @pass_context
    def markdown2html(self, context, source):
        return as_html(source)


def build(notebooks: Path = NOTEBOOKS, out: Path = REPORTS / "book") -> list[Path]:
    """Write a page a notebook, with links to its neighbours, and index.html, to `out`; returns the paths, the index first."""
    paths = sorted(notebooks.glob("*.ipynb"))
    exporter, written = _Exporter(), []
    for i, path in enumerate(paths):
        body, _ = exporter.from_notebook_node(
            nbformat.read(path, as_version=4), dict(metadata=dict(name=page_of(path).title))
        )
        around = [(paths[i - 1], "&larr; ") if i else None, (paths[i + 1], "&rarr; ") if i + 1 < len(paths) else None]
        links = ['<a href="index.html">all notebooks</a>'] + [
            f'<a href="{to.stem}.html">{arrow}{html.escape(page_of(to).title)}</a>'
            for to, arrow in filter(None, around)
        ]
        written.append(
            write_atomically(
                out / f"{path.stem}.html",
                re.sub(r"(<body[^>]*>)", rf"\1{BAR.format(' &middot; '.join(links))}", body, count=1),
            )
        )
    index = as_html((notebooks / "README.md").read_text()).replace(".ipynb", ".html")
    for picture in sorted((notebooks / "pictures").glob("*.jpg")):
        embedded = base64.b64encode(picture.read_bytes()).decode()
        index = index.replace(f"pictures/{picture.name}", f"data:image/jpeg;base64,{embedded}")
    return [write_atomically(out / "index.html", SHEET.format(index)), *written]


BAR = '<p style="font: 14px sans-serif; margin: 1em 2em">{}</p>'
SHEET = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>The notebooks</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }}
td {{ vertical-align: middle; padding: .6em }} img {{ width: 300px }} .anchor-link {{ display: none }}
</style></head><body>{}</body></html>
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--index",
        action="store_true",
        help="leave it at the notebooks themselves, notebooks/README.md and its pictures",
    )
    for path in NOTEBOOKS.glob("*.ipynb"):
        tidy(path)
    write_index()
    if not parser.parse_args().index:
        print(f"the book: {build()[0]}")
