"""JupyterLab in a real browser: notebooks run from the menu, and a slider moves a figure."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from fsdlib.project import NOTEBOOKS, REPORTS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium to run this"
)
TOKEN = "walk"
SECONDS = 600  # at most, for a whole notebook


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, with settings and workspaces of its own."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name in ("00_quickstart", "03_clusters"):
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", folder / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = dict(
        root_dir=folder / "notebooks", token=TOKEN, port=port, open_browser=False, allow_root=True, ip="127.0.0.1"
    )
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--expose-app-in-browser",
        "--LabApp.news_url=None",
        *(f"--ServerApp.{key}={value}" for key, value in options.items()),
    ]
    own = {f"JUPYTER{kind}_DIR": str(folder / kind) for kind in ("_CONFIG", "LAB_WORKSPACES", "LAB_SETTINGS")}
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own | dict(TQDM_DISABLE="1"), stdout=log, stderr=log)
    try:
        for _ in range(120):
            assert server.poll() is None, (folder / "lab.log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}")
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


# What the notebook in front holds, from JupyterLab's own model: cells that are off the screen are in it too.
OUTPUTS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === "code").map(
    cell => ({count: cell.executionCount, kinds: cell.outputs.toJSON().map(output => output.output_type)}))"""
FINISHED = """() => {
    const panel = window.jupyterapp?.shell.currentWidget
    const cells = [...panel.content.model.cells].filter(cell => cell.type === "code")
    return panel.sessionContext.session?.kernel?.status === "idle" && cells.every(cell => cell.executionCount > 0)}"""
CLEARED = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(
    cell => cell.type === "code").every(cell => cell.executionCount === null)"""


def run_all(browser, lab: str, name: str):
    """A page with the notebook, run whole from the menu."""
    page = browser.new_page(viewport=dict(width=1400, height=1000))
    page.goto(f"{lab}/tree/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=60_000,
    )
    for menu, command in (("Edit", "editmenu:clear-all"), ("Run", "runmenu:run-all")):
        page.locator("#jp-MainMenu").get_by_text(menu, exact=True).click()
        page.locator(f'.lm-Menu-item[data-command="{command}"]').click()
        page.wait_for_function(CLEARED if menu == "Edit" else FINISHED, timeout=1000 * SECONDS)
    return page


def keep(page, name: str) -> None:
    folder = REPORTS / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"lab_{name}.png")


def test_the_quickstart_runs_from_the_menu(lab, browser):
    page = run_all(browser, lab, "00_quickstart")
    cells = page.evaluate(OUTPUTS)
    assert len(cells) > 5 and not [cell for cell in cells if "error" in cell["kinds"]]
    assert sum("display_data" in cell["kinds"] for cell in cells) > 3
    keep(page, "quickstart")


def test_moving_the_slider_of_k_changes_the_figure(lab, browser):
    page = run_all(browser, lab, "03_clusters")
    assert not [cell for cell in page.evaluate(OUTPUTS) if "error" in cell["kinds"]]
    page.evaluate("""() => {
        const notebook = window.jupyterapp.shell.currentWidget.content
        const slider = [...notebook.model.cells].findIndex(cell => /played\\(lambda K/.test(cell.sharedModel.source))
        notebook.activeCellIndex = slider
        return notebook.scrollToItem(slider, "center")}""")
    cell = page.locator(".jp-Cell.jp-mod-active")
    control = cell.locator("input[type=range]")
    control.wait_for(timeout=60_000)
    picture = cell.locator(".jp-OutputArea img:visible")
    before, number = picture.get_attribute("src"), picture.get_attribute("alt")
    keep(page, "clusters_before")
    control.focus()
    page.keyboard.press("ArrowRight")
    cell.locator("output", has_text=str(int(number) + 1)).wait_for(timeout=30_000)
    assert picture.count() == 1 and picture.get_attribute("src") != before
    keep(page, "clusters_after")
