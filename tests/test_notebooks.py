"""Notebooks through papermill with other parameters, and what every committed notebook must be."""

import json
import re

import nbformat
import numpy as np
import papermill
import pytest
from nbclient.exceptions import CellTimeoutError
from PIL import Image

from fsdlib.measure.scores import PROTOCOLS
from fsdlib.project import NOTEBOOKS
from fsdlib.world.scenes import scene_of_split

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
WALK = [path for path in ALL if "01" <= path.stem[:2] <= "07"]
# What is written like a number and is none: code, formulas, links, papers, versions, licences.
NAMES = re.compile(
    r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|arXiv:? ?\d+\.\d+|SD[ -]?\d\.\d|Diffusion \d\.\d|CC BY(?:-SA)? \d\.\d",
    re.S,
)
NUMBER = re.compile(r"\d+\.\d+|\d+(?= ?%)")


@pytest.fixture(params=ALL, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_notebooks_are_committed_executed_in_order_and_without_errors(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_notebooks_explain_before_they_run(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert (
        max(len(cell.source.splitlines()) for cell in code if "parameters" not in cell.metadata.get("tags", [])) <= 15
    )
    assert not [cell for cell in code if "\ndef " in f"\n{cell.source}"]


def test_notebooks_have_one_parameters_cell(notebook):
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1


def test_notebooks_hold_no_machine_details(notebook):
    text = nbformat.writes(notebook)
    assert len(text) < 1_500_000
    for trace in ("/home/", "/root/", "/tmp/", "/work/", " at 0x7"):
        assert trace not in "".join(
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for cell in notebook.cells
            if cell.cell_type == "code"
            for output in cell.outputs
        )
    assert "papermill" not in notebook.metadata and notebook.metadata.kernelspec.name == "python3"


def test_numbers_in_the_text_are_asserted_in_a_cell(notebook):
    """Decimals and percentages in the prose stand in a cell that asserts something, or among the parameters."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    held = " ".join(
        cell.source for cell in code if "assert" in cell.source or "parameters" in cell.metadata.get("tags", [])
    )
    prose = " ".join(NAMES.sub(" ", cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    assert not {number for number in NUMBER.findall(prose) if number not in held}


@pytest.mark.parametrize("path", WALK, ids=lambda path: path.stem)
def test_the_walk_asks_shows_and_sets_exercises(path):
    notebook = nbformat.read(path, as_version=4)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert (
        "?" in prose[0]
        and any("## What we saw" in text for text in prose)
        and any("## Try this" in text for text in prose)
    )
    assert sum(text.count("<details>") for text in prose) >= 2
    figures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if {"image/png", "image/jpeg"} & set(output.get("data", {}))
    ]
    assert len(figures) >= 4 and len(" ".join(prose).split()) >= 1000


def test_the_walk_is_whole_and_small():
    assert [path.stem.split("_")[0] for path in WALK] == ["01", "01a", "01b", *(f"0{i}" for i in range(2, 8))]
    assert sum(path.stat().st_size for path in ALL) < 14_000_000


def test_no_widget_state_is_committed(notebook):
    assert "widgets" not in notebook.metadata


def test_no_notebook_shows_what_an_object_is_called_in_place_of_a_figure(notebook):
    """No `<Axes ...>`, no `interactive(children=...`: what a cell ends with is a table, a text or a figure."""
    shown = [
        output.data["text/plain"].strip()
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/plain" in output.get("data", {}) and not {"image/png", "image/jpeg"} & set(output.data)
    ]
    called = re.compile(r"<(?:Axes|Figure|matplotlib|seaborn)|Text\(|interactive\(|\[?<[\w.]+ object at")
    assert not [text for text in shown if called.search(text)]
    assert "jupyter.widget-view" not in nbformat.writes(notebook)


def execute(name: str, tmp_path, **parameters):
    # While a slider draws its figure, nbclient now and then loses the kernel's reply and waits for ever: then the notebook is run anew.
    for attempts_left in (2, 1, 0):
        try:
            return papermill.execute_notebook(
                NOTEBOOKS / f"{name}.ipynb",
                tmp_path / f"{name}.ipynb",
                parameters=parameters,
                progress_bar=False,
                execution_timeout=150,
            )
        except CellTimeoutError:
            if not attempts_left:
                raise


def test_papermill_runs_the_quickstart_on_another_scene(tmp_path):
    execute("00_quickstart", tmp_path, scene=5, recipe="best", seed=1, output=str(tmp_path))
    saved = json.loads((tmp_path / "scene_5_best.json").read_text())
    labels = np.asarray(Image.open(tmp_path / "scene_5_best.png"))
    assert saved["recipe"]["name"] == "best"
    assert {saved["names"][label] for label in np.unique(labels) if label} == set(saved["found"])


OTHERWISE = {
    "01_caption": dict(scene=5, seed=1),
    "01a_diffusion": dict(scene=5, prompt="a dog", steps=5, seed=1),
    "01b_attention": dict(scene=5, layer=0, timestep=200, prompt="a dog", seed=1),
    "02_diffusion_features": dict(scene=5, seed=1),
    "03_clusters": dict(scene=5, seed=1),
    "04_naming": dict(scene=5, seed=1),
    "05_refinement": dict(scene=5, recipe="paper", count=6),
    "06_pipeline": dict(scene=5, recipe="paper", count=6),
    "07_protocols": dict(count=6, seed=1),
    "08_world": dict(count=6, seed=1),
    "10_backbones": dict(count=1, scene=5),
    "11_taps": dict(scene=5, scenes_measured=2, timesteps=[0, 300], seed=1),
    "12_clustering": dict(scene=5, scenes_measured=3, seed=1),
    "13_naming": dict(scene=5, seed=1),
    "14_refinement": dict(scene=5, scenes_measured=2, seed=1),
    "15_speed": dict(count=2),
    "40_your_pictures": dict(scene=5, recipe="fast", words="dog; cat", seed=1),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_papermill_walks_with_other_parameters(name, tmp_path):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert set(OTHERWISE[name]) <= set(papermill.inspect_notebook(path))
    execute(name, tmp_path, **OTHERWISE[name])


def test_papermill_evaluates_and_leaves_a_summary_with_all_protocols(tmp_path):
    first = execute(
        "20_evaluate", tmp_path, recipe="best", vocabulary="open", limit=3, batch_size=2, output=str(tmp_path / "run")
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        summary["images"] == 3 and summary["recipe"]["name"].startswith("best") and summary["vocabulary_mode"] == "open"
    )
    assert set(summary["miou"]) == set(PROTOCOLS) and all(0 <= value <= 1 for value in summary["miou"].values())
    assert len(list((tmp_path / "run" / "labels").glob("*.png"))) == 3
    outputs = [output for cell in first.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("mIoU, dataset" in output.get("text", "") for output in outputs)
    assert any(
        "taken_for" in output.get("data", {}).get("text/plain", "") for output in outputs
    )  # what each free name was taken for is shown


def test_papermill_evaluates_pictures_of_ones_own_without_masks(tmp_path):
    (tmp_path / "mine").mkdir()
    for number in range(2):
        Image.fromarray(scene_of_split("val", number).image).save(tmp_path / "mine" / f"{number}.png")
    (tmp_path / "mine" / "classes.txt").write_text("elephant\ncake\ntree\ndog\n")
    execute(
        "20_evaluate",
        tmp_path,
        dataset="folder",
        root=str(tmp_path / "mine"),
        vocabulary="given",
        output=str(tmp_path / "run"),
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images"] == 2 and summary["miou"] is None and summary["vocabulary_mode"] == "given"
    assert "elephant" in (tmp_path / "run" / "images.csv").read_text()


def test_papermill_reports_on_runs_that_it_is_shown(tmp_path):
    for recipe in ("paper", "best"):
        execute("20_evaluate", tmp_path, recipe=recipe, limit=4, output=str(tmp_path / "runs" / recipe))
    execute("30_report", tmp_path, runs=str(tmp_path / "runs"), output=str(tmp_path / "report"))
    written = {path.name for path in (tmp_path / "report").rglob("*.*")}
    assert {
        "scores.csv",
        "scores.tex",
        "published_dataset.csv",
        "published_per_image.tex",
        "published_per_image_union.tex",
        "classes.pdf",
        "gallery.png",
        "stages.pdf",
    } <= written


def test_a_parameter_a_notebook_lacks_is_known_before_a_run():
    known = {path.stem: set(papermill.inspect_notebook(path)) for path in ALL}
    assert {"models", "recipe", "dataset", "root", "limit", "seed", "device", "batch_size", "output"} <= known[
        "20_evaluate"
    ]
    assert "sede" not in known["20_evaluate"]
