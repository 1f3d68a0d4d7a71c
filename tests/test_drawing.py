"""The drawing of the pipeline: what is in it, what is lit, and that the committed one is what the code draws."""

import base64
import io
import re
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from PIL import Image

from fsdlib.project import NOTEBOOKS, ROOT
from fsdlib.world.drawing import DRAWING, PLAIN, SHINING, STAGES, drawn_anew, pipeline

LIT = {"01": "caption", "02": "features", "03": "clusters", "04": "names", "05": "refinement", "06": "pipeline"}


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_is_lit_and_the_others_pale(stage):
    groups = {g.get("id"): g for g in ElementTree.fromstring(pipeline(stage)).iter() if g.tag.endswith("}g")}
    assert set(groups) == {"stage-picture", *(f"stage-{name}" for name in STAGES)}
    for name in STAGES:
        strokes = {part.get("stroke") for part in groups[f"stage-{name}"] if part.tag.endswith("rect")}
        assert strokes == ({"#d97706"} if name == stage else {"#c5c9d0"})
        assert (groups[f"stage-{name}"].get("opacity") is None) == (name == stage)


def test_all_stages_or_none_can_be_lit_and_nothing_else():
    assert pipeline("pipeline").count(SHINING) == pipeline("").count(PLAIN) - 1  # the picture is no stage
    assert SHINING not in pipeline() and "opacity" not in pipeline()
    with pytest.raises(ValueError, match="'crf' is no stage that can be lit: choose one of caption, features"):
        pipeline("crf")


def test_the_committed_drawing_is_what_the_code_draws(mini):
    """The words, places and sizes to the letter; the little pictures nearly, since machines round otherwise."""
    anew, kept = drawn_anew(mini), DRAWING.read_text()
    data = re.compile(r'href="data:image/png;base64,([^"]+)"')
    assert data.sub("", anew) == data.sub("", kept)
    pictures = [
        [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"), float) for one in data.findall(svg)]
        for svg in (anew, kept)
    ]
    assert len(pictures[0]) == len(pictures[1]) == 7
    assert all(a.shape == b.shape and np.abs(a - b).mean() < 16 for a, b in zip(*pictures))


def test_the_drawing_is_small_readable_on_any_ground_and_says_every_step():
    svg = pipeline()
    assert len(svg) < 40_000 and re.search(r'<rect width="1000" height="\d+" rx="10" fill="#ffffff"', svg)
    assert {
        "caption",
        "words",
        "picture",
        "latent + noise",
        "features",
        "clusters",
        "masks",
        "named masks",
        "label map",
    } <= set(texts(svg))


def test_the_readme_and_every_stage_notebook_open_with_it():
    assert "](docs/pipeline.svg)" in (ROOT / "README.md").read_text().split("## ")[0]
    for number, stage in LIT.items():
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        title, cell = nbformat.read(path, as_version=4).cells[:2]
        assert title.cell_type == "markdown" and cell.source.splitlines()[-1] == f'SVG(pipeline(lit="{stage}"))'
        (output,) = cell.outputs
        shown = output.data["image/svg+xml"]
        assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", pipeline(stage))
