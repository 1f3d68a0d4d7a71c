"""One broken file of a folder costs that file alone, and what is left out is named; notebooks read what the library reads."""

import json
import re
import warnings

import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image

from fsdlib import pictures
from fsdlib.__main__ import main
from fsdlib.measure.run import evaluate
from fsdlib.project import NOTEBOOKS

WALK = sorted(path.stem for path in NOTEBOOKS.glob("0[1-6]_*.ipynb"))  # 01a and 01b look at scenes alone


def broken(path, how):
    """Spoil a picture: no picture at all, or one whose header alone is whole."""
    path.write_bytes(b"no picture" if how == "no picture" else path.read_bytes()[:120])


@pytest.fixture(params=["no picture", "cut"])
def one_broken(request, dataset):
    broken(dataset.root / "images/p1.png", request.param)
    return dataset


def test_a_run_does_all_others(one_broken, method, tmp_path):
    """a run over six pictures, one of them broken -> five are done, and the sixth is named"""
    run = evaluate(one_broken, method, tmp_path / "run", tolerated_failures=0.5)
    assert list(run.summary["failed"]) == ["p1"] and run.summary["images"] == 5


def test_the_command_does_all_others(tmp_path, capsys):
    """the command over three pictures, one of them cut -> two are done, and the third is named with the reason"""
    (tmp_path / "in").mkdir()
    for name in "abc":
        pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{name}.png")
    broken(tmp_path / "in/b.png", "cut")
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"a", "c"}
    assert "1 of 3 pictures were left out:" in said and re.search(
        "error: .*b.png.* is no picture that can be read", said
    )


@pytest.mark.slow
def test_the_notebook_does_all_others_and_names_what_is_left_out(one_broken, tmp_path):
    """the evaluation notebook over six pictures, one of them broken -> five are done, and the sixth is named with the reason"""
    told = dict(dataset="folder", root=str(one_broken.root), limit=0, output=str(tmp_path / "run"))
    executed = papermill.execute_notebook(
        NOTEBOOKS / "20_evaluate.ipynb", tmp_path / "out.ipynb", told, progress_bar=False, execution_timeout=150
    )
    printed = "".join(output.text for cell in executed.cells for output in cell.get("outputs", ()) if "text" in output)
    assert "p1 is left out: ValueError: " in printed and "5 of 6 images" in printed
    assert json.loads((tmp_path / "run/summary.json").read_text())["images"] == 5


def test_kinds_that_are_not_read_are_named_in_a_line(tmp_path):
    """HEIC, AVIF, JPEG 2000 and JPEG XL beside a PNG -> one warning that names them and what to save them as"""
    for name in ("b.HEIC", "a.avif", "c.jp2", "d.jxl", ".hidden.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    with pytest.warns(UserWarning) as warned:
        assert [path.name for path in pictures.in_folder(tmp_path)] == ["p.png"]
    assert [str(one.message) for one in warned] == [
        f"4 pictures in {tmp_path} are of kinds that are not read: save them as PNG or JPEG (a.avif, b.HEIC, c.jp2, ...)"
    ]
    for path in tmp_path.glob("*.[hajHA]*"):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pictures.in_folder(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", WALK)
def test_the_walk_reads_a_photograph_as_the_library_does(name, tmp_path):
    """a photograph turned by EXIF and partly transparent, to each notebook of the walk -> the pixels that the library reads

    Up to the cell that reads it: one that lies on its side by EXIF, whose transparent part is white.
    """
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8), "RGBA")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "p.png", exif=turned)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    last = next(
        i for i, cell in enumerate(notebook.cells) if re.search(r"(read|as_array|open)\(photograph\)", cell.source)
    )
    notebook.cells = notebook.cells[: last + 1]
    notebook.cells[
        last
    ].source += f"\nnp.save({str(tmp_path / 'read.npy')!r}, pictures[0] if 'pictures' in dir() else image)"
    nbformat.write(notebook, tmp_path / "short.ipynb")
    papermill.execute_notebook(
        tmp_path / "short.ipynb",
        None,
        dict(photograph=str(tmp_path / "p.png")),
        progress_bar=False,
        execution_timeout=150,
    )
    assert np.array_equal(np.load(tmp_path / "read.npy"), pictures.read(tmp_path / "p.png"))
