import base64
import io
import re

import nbformat
import numpy as np
import pytest
from book import LARGE, WIDTH, as_html, build, page_of, tidy, write_index
from bs4 import BeautifulSoup
from PIL import Image

from fsdlib.project import NOTEBOOKS

STEMS = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
CODE = re.compile(r"```.*?```|^    .*?$|`[^`]*`", re.S | re.M)
FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$[^$]+?(?<!\\)\$", re.S)


@pytest.fixture
def folder(tmp_path):
    for path in NOTEBOOKS.glob("*.ipynb"):
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_the_committed_index_is_that_of_the_committed_notebooks(folder):
    assert write_index(folder).read_text() == (NOTEBOOKS / "README.md").read_text()
    for picture in (folder / "pictures").iterdir():
        assert picture.read_bytes() == (NOTEBOOKS / "pictures" / picture.name).read_bytes()


def test_the_index_shows_every_notebook_once_in_order_with_a_picture(folder):
    text = write_index(folder).read_text()
    assert re.findall(r"\*\*\[.*?\]\((\w+)\.ipynb\)\*\*", text) == STEMS
    for stem in STEMS:
        assert max(Image.open(folder / "pictures" / f"{stem}.jpg").size) <= WIDTH


def test_a_page_takes_its_title_question_and_cover_from_the_notebook(tmp_path):
    cell = nbformat.v4.new_code_cell(
        "draw()",
        metadata=dict(tags=["cover"]),
        outputs=[nbformat.v4.new_output("display_data", {"image/png": "Y292ZXI="})],
    )
    first = nbformat.v4.new_code_cell(
        "draw()", outputs=[nbformat.v4.new_output("display_data", {"image/jpeg": "Zmlyc3Q="})]
    )
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# A title\n\nWhat is\nasked?\n\nMore."), first, cell]
    )
    nbformat.write(notebook, tmp_path / "05_some.ipynb")
    page = page_of(tmp_path / "05_some.ipynb")
    assert (page.stem, page.title, page.question, page.picture) == ("05_some", "A title", "What is asked?", b"cover")


def formulas(stem: str) -> list[str]:
    """Every formula in a notebook's text, dollars and all."""
    cells = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells
    texts = [CODE.sub("", cell.source) for cell in cells if cell.cell_type == "markdown"]
    return [found for text in texts for found in FORMULA.findall(text)]


def loaded(page: BeautifulSoup) -> list[str]:
    """What a browser fetches to show a page, beside what the page holds itself."""
    addresses = [tag[key] for tag in page.find_all(True) for key in ("src", "srcset", "data", "poster") if tag.get(key)]
    addresses += [tag["href"] for tag in page.find_all(["link", "image", "use"]) if tag.get("href")]
    for tag in page.find_all(["style", "script"]):
        addresses += re.findall(r"(?:url\(|@import|import|from)\s*[\"']?(https?:[^\"')\s]+)", tag.get_text())
    return [address for address in addresses if not address.startswith(("data:", "#"))]


def test_formulas_are_drawn_in_a_line_and_apart():
    line, apart = as_html("A $x_0^2$ in a line.\n\n$$\n\\sum_{i=1}^n \\frac{x_i}{n}\n$$\n").split("</p>")[:2]
    line, apart = (BeautifulSoup(part, "html.parser").math for part in (line, apart))
    assert line["display"] == "inline" and line.msubsup.get_text(" ", strip=True) == "x 0 2"
    assert apart["display"] == "block" and apart.munderover.mo.get_text() == "∑" and apart.mfrac


def test_an_environment_is_a_formula_apart():
    page = BeautifulSoup(as_html("\\begin{matrix} a & b \\\\ c & d \\end{matrix}"), "html.parser")
    assert page.math["display"] == "block" and [cell.get_text() for cell in page.find_all("mtd")] == list("abcd")


def test_dollars_of_code_and_of_money_are_no_formulas():
    text = "`$x`, `$y$` for \\$5 and \\$6\n\n```\n$a$ $$b$$\n```\n\n    echo $HOME $USER\n"
    page = BeautifulSoup(as_html(text), "html.parser")
    assert not page.math and [code.get_text() for code in page.find_all("code")][:2] == ["$x", "$y$"]
    assert "for $5 and $6" in page.get_text() and "$a$ $$b$$" in page.get_text() and "$HOME $USER" in page.get_text()


def test_what_a_page_would_load_is_noticed():
    page = '<script src="https://a"></script><link href="https://b"><img src="data:c"><style>@import "https://d"; e {f: url(https://g)}</style><a href="https://h">'
    assert loaded(BeautifulSoup(page, "html.parser")) == ["https://a", "https://b", "https://d", "https://g"]


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_figures_are_kept_as_small_as_they_can_be_sharp_and_sliders_leave_nothing(tmp_path):
    chart = np.zeros((400, 600, 3), np.uint8)
    chart[:, 300:] = (27, 108, 168)
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    shown = dict(width=300, height=200)
    outputs = [
        nbformat.v4.new_output("display_data", {"image/png": png(pixels)}, metadata={"image/png": shown})
        for pixels in (chart, noise)
    ]
    slider = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "interactive(children=())"}
    outputs.append(nbformat.v4.new_output("display_data", slider))
    cell = nbformat.v4.new_code_cell("draw()", outputs=outputs)
    path = tmp_path / "05_some.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=dict(widgets={"state": 1})), path)
    tidy(path)
    tidied = nbformat.read(path, as_version=4)
    (first, second), (kept, small) = tidied.cells[0].outputs, (o.data for o in tidied.cells[0].outputs)
    assert "widgets" not in tidied.metadata and [*kept, *small] == ["image/png", "image/jpeg"]
    assert first.metadata == {"image/png": shown} and second.metadata == {"image/jpeg": shown}
    exact = Image.open(io.BytesIO(base64.b64decode(kept["image/png"]))).convert("RGB")
    assert np.array_equal(exact, chart) and len(kept["image/png"]) < LARGE
    assert Image.open(io.BytesIO(base64.b64decode(small["image/jpeg"]))).size == (375, 250)
    before = path.stat().st_mtime_ns
    tidy(path)
    assert path.stat().st_mtime_ns == before  # what is tidy is left alone


@pytest.mark.slow  # renders every notebook
def test_the_book_opens_without_a_server_and_links_neighbours(folder, tmp_path):
    write_index(folder)
    index, *pages = build(folder, tmp_path / "book")
    assert [page.stem for page in pages] == STEMS
    for path in (index, *pages):
        text = path.read_text()
        assert not re.findall(r"<img[^>]+src=\"(?!data:)", text) and "attachment:" not in text
        for target in re.findall(r"href=\"([\w]+\.html)", text):
            assert (path.parent / target).exists()
        page = BeautifulSoup(text, "html.parser")
        assert not loaded(page), f"{path.name} would ask the network"
        for code in page.find_all(["pre", "code"]):
            code.decompose()
        assert "$$" not in page.get_text() and "\\frac" not in page.get_text()
        assert len(page.find_all("math")) == (len(formulas(path.stem)) if path != index else 0)
    assert f"{STEMS[0]}.html" in pages[1].read_text() and f"{STEMS[2]}.html" in pages[1].read_text()
