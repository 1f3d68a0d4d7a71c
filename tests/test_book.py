import base64
import io
import re

import nbformat
import numpy as np
import pytest
from book import LARGE, WIDTH, build, page_of, tidy, write_index
from PIL import Image

from fsdlib.project import NOTEBOOKS

STEMS = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]


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
    assert f"{STEMS[0]}.html" in pages[1].read_text() and f"{STEMS[2]}.html" in pages[1].read_text()
