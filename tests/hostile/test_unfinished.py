"""A number over a part of the images says so wherever it is printed."""

import io
import re
from contextlib import redirect_stderr
from dataclasses import replace

import papermill
import pytest

from fsdlib.measure.run import evaluate
from fsdlib.project import NOTEBOOKS


def evaluated(dataset, method, folder, **how):
    """The run, and the last mIoU that its progress bar said, with what it said it is over."""
    with redirect_stderr(io.StringIO()) as bar:
        run = evaluate(dataset, method, folder, batch_size=1, **how)
    return run, re.findall(r"dataset mIoU ([0-9.]+) % (over [0-9a-z ]+)", bar.getvalue())[-1]


def test_a_shard_says_of_how_many_images_its_numbers_are(dataset, method, tmp_path):
    """one shard of two, then the other -> 3 of 6 images beside every number, then 6"""
    half, said = evaluated(dataset, method, tmp_path / "run", shard="0/2")
    assert half.counted == "3 of 6 images" and not half.finished
    miou = f"{100 * half.summary['miou']['dataset']:.1f}"
    assert str(half).startswith(f"folder, 3 of 6 images: mIoU dataset {miou} %, per_image ") == (
        repr(half) == str(half)
    )
    assert said == (miou, "over 3 of 6 images")
    whole, said = evaluated(dataset, method, tmp_path / "run", shard="1/2")
    assert whole.counted == "6 images" and str(whole).startswith("folder, 6 images: mIoU dataset ")
    assert said == (f"{100 * whole.summary['miou']['dataset']:.1f}", "over 6 images")


def test_failed_images_are_not_counted(dataset, method, tmp_path):
    """a run of which one image failed -> 5 of 6 images beside its numbers"""
    (tmp_path / "pictures/images/p1.png").write_bytes(b"no picture")
    run, said = evaluated(dataset, method, tmp_path / "run", tolerated_failures=1)
    assert run.finished and run.counted == "5 of 6 images" and said[1] == "over 5 of 6 images"


def test_without_masks_there_are_no_scores_to_say(dataset, method, tmp_path):
    """a run without masks -> no scores, in words"""
    assert (
        str(evaluate(replace(dataset, masks=()), method, tmp_path / "run"))
        == f"folder, 6 images: mIoU no scores ({tmp_path / 'run'})"
    )


@pytest.mark.slow
def test_the_notebook_of_a_shard_says_so_beside_every_protocol(dataset, tmp_path):
    """the evaluation notebook of one shard of three -> 2 of 6 images beside every protocol's mIoU"""
    told = dict(
        dataset="folder", root=str(dataset.root), limit=0, batch_size=1, shard="0/3", output=str(tmp_path / "run")
    )
    executed = papermill.execute_notebook(
        NOTEBOOKS / "20_evaluate.ipynb", tmp_path / "out.ipynb", told, progress_bar=False, execution_timeout=150
    )
    printed = "".join(
        output.text
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text" in output
    )
    assert "2 of 6 images are done, and all numbers below are over these alone" in printed
    lines = re.findall("mIoU, (?:dataset|per_image|per_image_union) .*", printed)
    assert len(lines) == 3 and all("2 of 6 images" in line for line in lines)
