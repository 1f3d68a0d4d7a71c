"""The page of 40_your_pictures: what it shows of a result, what it keeps, what it says where something is wrong; then in a browser, with a real upload."""

import base64
import datetime
import html
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from test_lab import CHROMIUM, browser, keep  # noqa: F401  the browser is a fixture

import fsdlib
from fsdlib import app, pictures
from fsdlib.pipeline import segment
from fsdlib.project import NOTEBOOKS, ROOT
from fsdlib.recipe import get_recipe

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result(mini, scene):
    return segment(scene.image, mini, get_recipe("best"))


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(image, result) -> ElementTree.Element:
    return ElementTree.fromstring(app.hover(image, result))


def links(text: str) -> dict[str, bytes]:
    """The files behind a page's links, by the name under which a browser would save them."""
    found = re.findall(r'<a download="([^"]+)" href="data:[a-z/]+;base64,([^"]+)"', text)
    return {html.unescape(name): base64.b64decode(content) for name, content in found}


def covered(path: str, height: int, width: int) -> np.ndarray:
    """The pixels whose middle lies within an SVG path of polygons, by the even-odd rule."""
    from matplotlib.path import Path

    y, x = np.mgrid[:height, :width] + 0.5
    points, inside = np.stack([x.ravel(), y.ravel()], 1), np.zeros(height * width, bool)
    for polygon in filter(None, path.replace("M", "").split("Z")):
        corners = np.array([pair.split(",") for pair in polygon.split()], float)
        inside ^= Path(corners).contains_points(points)
    return inside.reshape(height, width)


def test_a_mask_with_a_hole_is_outlined_along_its_pixels():
    mask = np.zeros((20, 30), bool)
    mask[2:18, 3:25] = True
    mask[6:12, 8:20] = False
    path = app._outline(mask)
    assert path.count("M") == 2 and np.array_equal(covered(path, *mask.shape), mask)


def test_specks_are_not_outlined_unless_there_is_nothing_else():
    mask = np.zeros((20, 30), bool)
    mask[15, 15] = True
    assert app._outline(mask).count("M") == 1
    mask[2:10, 2:10] = True
    assert app._outline(mask).count("M") == 1 and not covered(app._outline(mask), *mask.shape)[15, 15]


def test_every_name_stands_on_its_mask_with_its_score_for_the_pointer(scene, result):
    svg = drawn(scene.image, result)
    height, width = result.labels.shape
    groups = svg.findall(f"{SVG}g")
    assert [group.find(f"{SVG}path/{SVG}title").text for group in groups] == [
        f"{one['name']}, {one['score']:.2f}" for one in app.found(result)
    ]
    assert {one["name"] for one in app.found(result)} == set(result.found) >= {"dog", "pizza"}
    for group, one in zip(groups, app.found(result)):
        mask = result.labels == one["label"]
        assert (covered(group.find(f"{SVG}path").get("d"), height, width) != mask).mean() < 0.01
        name, score = group.findall(f"{SVG}text")
        assert (name.text, score.text) == (one["name"], f"{one['name']} {one['score']:.2f}")
        assert mask[int(float(name.get("y"))), int(float(name.get("x")))]
    assert "script" not in app.hover(scene.image, result) and " on" not in re.sub(
        'base64,[^"]*', "", app.hover(scene.image, result)
    )


def test_a_score_is_that_of_the_masks_clip_was_surest_of(result):
    for one in app.found(result):
        masks = np.flatnonzero(result.cluster_labels == one["label"])
        assert one["score"] == pytest.approx(max(result.scores[mask, result.assigned[mask]] for mask in masks))
        assert one["share"] == (result.labels == one["label"]).mean()


def test_a_large_picture_is_shown_small_and_kept_large(mini, scene):
    large = np.kron(scene.image, np.ones((7, 7, 1), np.uint8))[:, :700]
    whole = segment(large, mini, get_recipe("fast"))
    assert drawn(large, whole).get("viewBox") == f"0 0 {round(700 * app.SIDE / 1344)} {app.SIDE}"
    assert Image.open(io.BytesIO(pictures.label_png(whole.labels))).size == (700, 1344)


def test_the_links_hold_overlay_label_map_and_facts(scene, result):
    kept = links(app.shown(scene.image, result, "my dog & pizza.jpeg", "mini"))
    assert list(kept) == ["my dog & pizza_overlay.png", "my dog & pizza_labels.png", "my dog & pizza.json"]
    overlay, labels = (Image.open(io.BytesIO(content)) for content in list(kept.values())[:2])
    assert min(overlay.size) > 400 and labels.mode == "P" and np.array_equal(np.asarray(labels), result.labels)
    facts = json.loads(kept["my dog & pizza.json"])
    assert [facts["names"][one["label"]] for one in facts["classes"]] == [one["name"] for one in facts["classes"]]
    assert {one["name"] for one in facts["classes"]} == set(result.found)
    assert facts["caption"] == result.caption and facts["recipe"]["name"] == "best"
    assert facts["models"] == result.models and facts["version"] == fsdlib.__version__
    assert (facts["model_set"], facts["picture"]) == ("mini", "my dog & pizza.jpeg")


def test_nothing_that_a_name_holds_is_read_as_html(mini, scene):
    nasty = '<img src=x onerror="alert(1)">'
    named = segment(scene.image, mini, get_recipe("best").with_changes({"vocabulary": "given"}), [nasty, "dog"])
    shown = app.shown(scene.image, named, f"{nasty}.png", "mini")
    assert "<img" not in shown and html.escape(nasty) in shown
    ElementTree.fromstring(app.hover(scene.image, named))


def test_a_picture_without_names_says_so(mini):
    plain = np.full((40, 60, 3), 128, np.uint8)
    nothing = segment(plain, mini, get_recipe("paper"), ["cat", "dog"])
    nothing.labels[:] = 0
    assert "Nothing was named" in app.shown(plain, nothing, "grey.png", "mini") and app.found(nothing) == []


def test_an_upload_that_is_no_picture_is_named_and_costs_itself_alone(scene):
    given = [dict(name="../a.txt", content=b"none"), dict(name="b.png", content=memoryview(png(scene.image)))]
    (first, error), (second, image) = app.uploaded(given)
    assert (first, second) == ("../a.txt", "b.png") and np.array_equal(image, scene.image)
    assert str(error) == "'../a.txt' is no picture that can be read: save it anew"


def test_a_folder_gives_its_pictures_or_says_why_not(tmp_path, scene):
    (tmp_path / "none").mkdir()
    (tmp_path / "a.png").write_bytes(png(scene.image))
    (tmp_path / "b.png").write_bytes(b"none")
    (name, image), (broken, error) = app.lying_in(str(tmp_path))
    assert (name, broken) == ("a.png", "b.png") and np.array_equal(image, scene.image) and "no picture" in str(error)
    with pytest.raises(ValueError, match="holds no picture"):
        app.lying_in(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="there is no folder"):
        app.lying_in(str(tmp_path / "nowhere"))


class Controls:
    """The widgets of a page, by what is written on or in them."""

    def __init__(self, box):
        left, right = box.children
        _, self.upload, self.folder, _, self.words, self.mode, _, self.models, self.recipe, self.start = left.children
        self.status, self.results = right.children

    def press(self) -> str:
        self.start.click()
        assert not self.start.disabled
        return html.unescape(re.sub("<style>.*</style>|<[^>]*>", " ", self.status.value, flags=re.S))

    def put(self, *files: tuple[str, bytes]) -> None:
        told = dict(type="", size=0, last_modified=datetime.datetime(2020, 1, 1))
        self.upload.value = tuple(dict(name=name, content=memoryview(content), **told) for name, content in files)


@pytest.fixture
def controls(scene, result):
    return Controls(app.page((scene.image, result, "scene.png")))


def test_the_page_begins_with_the_example(controls):
    assert len(controls.results.children) == 1 and "scene.png" in controls.results.children[0].value


def test_pressing_without_a_picture_asks_for_one(controls):
    assert "No picture is chosen: choose some, or give the path of a folder." in controls.press()


def test_pressing_gives_every_picture_and_says_which_was_none(controls, scene):
    controls.put(("a.png", png(scene.image)), ("b.png", b"none"))
    controls.words.value, controls.mode.value = "pizza, submarine", "given"
    said = controls.press()
    assert "1 picture segmented." in said and "'b.png' is no picture that can be read" in said
    assert "Their world has no submarine" in said and "mean" in said
    facts = json.loads(links(controls.results.children[0].value)["a.json"])
    assert facts["names"] == ["background", "pizza", "submarine"] and facts["recipe"]["vocabulary"]["kind"] == "given"
    assert facts["recipe"]["name"] == "best"


def test_a_class_that_is_called_background_is_said_in_one_sentence(controls, scene):
    controls.put(("a.png", png(scene.image)))
    controls.words.value = "dog, background"
    assert "which is label 0" in controls.press() and "dog" in controls.results.children[0].value


def test_weights_that_are_not_here_are_said_to_be_missing_with_what_helps(controls, scene, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    controls.put(("a.png", png(scene.image)))
    controls.models.value = "sd14"
    said = controls.press()
    assert "The models sd14 are not here" in said and "make fetch MODELS=sd14" in said


# In a browser: the page of Voilà as `make app` opens it.
SECONDS = 300


@pytest.fixture(scope="module")
def voila():
    """The address of the page, served as `make app` does."""
    pytest.importorskip("voila", reason="no Voilà here: pip install voila")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = [sys.executable, "-m", "voila", "40_your_pictures.ipynb", "--no-browser", f"--port={port}"]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), TQDM_DISABLE="1")
    server = subprocess.Popen(
        asked, cwd=NOTEBOOKS, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        for _ in range(120):
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's package chromium to run this")
def test_a_stranger_uploads_a_picture_and_gets_names_scores_and_files(voila, browser, scene, tmp_path):  # noqa: F811
    (tmp_path / "mine.png").write_bytes(png(scene.image))
    (tmp_path / "notes.png").write_text("no picture")
    page, answered = browser.new_page(viewport=dict(width=1200, height=900)), []
    page.on("response", lambda response: answered.append(urllib.parse.urlsplit(response.url)))
    page.goto(voila, timeout=1000 * SECONDS)
    page.locator(".fsd-result svg").wait_for(timeout=1000 * SECONDS)
    keep(page, "app_before")
    assert "What the button does" not in page.inner_text("body") and "import" not in page.inner_text("body")

    with page.expect_file_chooser() as asked:
        page.locator(".widget-upload").click()
    asked.value.set_files([tmp_path / "mine.png", tmp_path / "notes.png"])
    page.locator(".widget-upload", has_text="(2)").wait_for()
    page.get_by_role("button", name="Segment").click()
    page.locator(".fsd-said", has_text="1 picture segmented.").wait_for(timeout=1000 * SECONDS)
    assert "'notes.png' is no picture" in page.locator(".fsd-wrong").inner_text()

    shown = page.locator(".fsd-result", has_text="mine.png")
    assert {"dog", "pizza"} <= set(shown.locator(".fsd-name").all_text_contents())
    name = shown.locator(".fsd-name", has_text="pizza").bounding_box()
    pointed = name["x"] + name["width"] / 2, name["y"] + name["height"] / 2
    page.mouse.move(*pointed)
    told = page.evaluate("([x, y]) => document.elementFromPoint(x, y).querySelector('title').textContent", pointed)
    assert re.fullmatch(r"pizza, [01]\.\d\d", told)
    assert shown.locator(".fsd-score", has_text="pizza").is_visible()
    keep(page, "app_after")

    kept = {link.get_attribute("download"): link for link in shown.locator("a[download]").all()}
    contents = {}
    for file, link in kept.items():
        with page.expect_download() as download:
            link.click()
        download.value.save_as(tmp_path / file)
        contents[file] = (tmp_path / file).read_bytes()
    assert list(contents) == ["mine_overlay.png", "mine_labels.png", "mine.json"]
    facts = json.loads(contents["mine.json"])
    labels = np.asarray(Image.open(io.BytesIO(contents["mine_labels.png"])))
    assert {facts["names"][label] for label in np.unique(labels) if label} >= {"dog", "pizza"}
    assert Image.open(io.BytesIO(contents["mine_overlay.png"])).width > 400
    # nothing was asked of anybody else
    assert {address.hostname for address in answered if address.scheme == "http"} == {"127.0.0.1"}
    assert {address.scheme for address in answered} <= {"http", "data", "blob"}
