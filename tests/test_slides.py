"""Notebooks as slides: where one ends, and that they ask nobody for anything."""

import re

import nbformat
import pytest
from slides import LESSON, Slide, build, slides_of
from test_lab import CHROMIUM, browser, keep  # noqa: F401  the browser is a fixture

from fsdlib.project import NOTEBOOKS

V = nbformat.v4
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


def made(*cells) -> list[Slide]:
    return slides_of(V.new_notebook(cells=list(cells)))


def figure(source: str = "draw()") -> nbformat.NotebookNode:
    return V.new_code_cell(source, outputs=[V.new_output("display_data", {"image/png": PNG})])


def test_every_heading_begins_a_slide_and_every_figure_ends_one():
    found = made(
        V.new_markdown_cell("# Title\n\nWhat?"),
        V.new_code_cell("import this"),
        V.new_markdown_cell("## One\n\nLook.\n\n## Two\n\nLook again."),
        figure("first()"),
        figure("second()"),
        V.new_markdown_cell("What was seen."),
    )
    assert [(slide.heading, slide.figure) for slide in found] == [
        ("Title", False),
        ("One", False),
        ("Two", True),
        ("Two", True),
        ("Two", False),
    ]
    assert "import" in found[0].parts[1] and "<details>" in found[0].parts[1]
    assert "Look again" in found[2].parts[0] and "What was seen" in found[4].parts[0]


def test_a_figure_below_much_text_has_a_slide_of_its_own():
    found = made(V.new_markdown_cell("## Long\n\n" + "word " * 120), figure())
    assert [(slide.heading, slide.figure) for slide in found] == [("Long", False), ("Long", True)]


def test_much_text_is_parted_between_cells():
    found = made(V.new_markdown_cell("## Long\n\n" + "word " * 100), V.new_markdown_cell("word " * 100))
    assert [slide.words for slide in found] == [100, 100]


def test_formulas_are_drawn_without_a_script():
    (slide,) = made(V.new_markdown_cell("## Sum\n\n$$\\sum_i x_i$$ of `$x`"))
    assert "<math" in slide.parts[0] and "$$" not in slide.parts[0] and "<code>$x</code>" in slide.parts[0]


def test_what_only_a_kernel_can_show_is_left_out():
    slider = V.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "interactive("}
    )
    assert "interactive(" not in "".join(made(V.new_code_cell("x", outputs=[slider]))[0].parts)


@pytest.mark.parametrize("name", LESSON)
def test_slides_of_the_lesson_hold_all_they_need(name, tmp_path):
    text = build(NOTEBOOKS / f"{name}.ipynb", tmp_path).read_text()
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    headings = sum(
        len(re.findall("^#{1,3} ", cell.source, re.M)) for cell in notebook.cells if cell.cell_type == "markdown"
    )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = sum(bool({"image/jpeg", "image/png"} & output.get("data", {}).keys()) for output in outputs)
    assert text.count("<section") == len(slides_of(notebook)) >= headings
    assert text.count("<img") >= figures > 3
    assert not re.findall(r"<(?:img|script|link|iframe)[^>]+(?:src|href)=\"(?!data:)", text)
    assert not re.findall(r"@import|url\((?!data:|#)", re.sub('base64,[^"]*', "", text)) and "interactive(" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's package chromium to run this")
def test_keys_turn_the_slides(browser, tmp_path):  # noqa: F811
    path = build(NOTEBOOKS / "00_quickstart.ipynb", tmp_path)
    page, asked = browser.new_page(viewport=dict(width=1280, height=720)), []
    page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page.goto(path.as_uri())
    shown = page.locator("section.shown h2")
    assert page.locator("section:visible").count() == 1 and shown.inner_text().startswith("Quickstart")
    keep(page, "slides_first")
    for key, number in dict(ArrowRight=2, PageDown=3, ArrowLeft=2, End=page.locator("section").count(), Home=1).items():
        page.keyboard.press(key)
        assert page.locator("section.shown .number").inner_text().startswith(f"{number} /")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("section.shown img").bounding_box()["height"] > 300
    keep(page, "slides_third")
    page.reload()
    assert page.url.endswith("#3") and shown.inner_text() == "A success"
    assert set(asked) <= {"file", "data"}
