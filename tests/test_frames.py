"""Figures drawn beforehand answer to the hand in a page that runs nothing: looked at as HTML, then in a browser."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from test_lab import CHROMIUM, browser, keep  # noqa: F401  the browser is a fixture

from fsdlib.frames import played, pointed


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def grey(level: float):
    figure = plt.figure(figsize=(1, 1))
    figure.patch.set_facecolor(str(level))


def test_there_is_a_frame_for_each_value_and_no_figure_is_left_open():
    before = plt.get_fignums()
    text = played(grey, "level <b>", [0.0, 0.5, 1.0], first=1)
    assert [round(float(frame.mean()), -1) for frame in pictures(text)] == [0, 130, 260]
    assert plt.get_fignums() == before and "<script" not in text and "level &lt;b&gt;" in text
    assert re.findall(r'alt="([\d.]+)".*?display:(\w+)', text) == [("0.0", "none"), ("0.5", "block"), ("1.0", "none")]


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match="no values of K"):
        played(grey, "K", [])
    with pytest.raises(ValueError, match="nothing was drawn for 3"):
        played(lambda K: None, "K", [3])
    with pytest.raises(ValueError, match="1 x 4 cells"):
        pointed(np.zeros((8, 8, 3), np.uint8), np.zeros((1, 4, 2, 2)))


def cells() -> str:
    """A grid of 4 x 4 cells: the map of a cell is bright at that cell alone."""
    maps = np.eye(16).reshape(4, 4, 4, 4)
    return pointed(np.full((64, 64, 3), 90, np.uint8), maps, "cells", first=(1, 2), cmap="gray")


def test_every_cell_has_its_map():
    _, sheet = pictures(cells())
    for row, column in np.ndindex(4, 4):
        tile = sheet[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, 0]
        assert tile.argmax() == 4 * row + column and (tile > 0).sum() == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's package chromium to run this")
def test_slider_and_click_show_what_they_should(browser, tmp_path):  # noqa: F811
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{played(grey, 'level', [0.0, 0.5, 1.0])}{cells()}")
    page = browser.new_page(viewport=dict(width=900, height=900))
    page.goto((tmp_path / "page.html").as_uri())
    shown = page.locator("img[alt]:visible").first
    assert shown.get_attribute("alt") == page.locator("output").inner_text() == "0.0"
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert shown.get_attribute("alt") == page.locator("output").inner_text() == "1.0"

    seen = page.locator("[role=img]")
    for row, column, click in ((1, 2, False), (3, 0, True), (0, 3, True)):
        if click:
            own = page.locator("img[alt=cells]").bounding_box()
            x, y = (own["x"] + own["width"] * (column + 0.4) / 4, own["y"] + own["height"] * (row + 0.6) / 4)
            page.mouse.click(x, y)
        found = np.asarray(Image.open(io.BytesIO(seen.screenshot())).convert("L"), float)
        side = len(found) // 4
        means = [
            [found[side * r + 9 : side * r + side - 9, side * c + 9 : side * c + side - 9].mean() for c in range(4)]
            for r in range(4)
        ]
        assert np.unravel_index(np.argmax(means), (4, 4)) == (row, column) and np.sum(np.array(means) > 100) == 1
    keep(page, "frames")
