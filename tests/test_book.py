import re

import nbformat
import pytest
from book import WIDTH, build, page_of, write_index
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
