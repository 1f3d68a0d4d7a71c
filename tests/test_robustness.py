"""The table of hostile inputs: every hostile test has its row, and what is in the table is what happened."""

import json
import multiprocessing
import subprocess
import sys

import pytest
import robustness
import soak
from six_pictures import Brightness

from fsdlib.project import ROOT

HOSTILE = ROOT / "tests" / "hostile"
TESTS = '''"""Broken files: refused. And more.

Nothing of this paragraph."""

import pytest

def test_of_three():
    """three | bars -> one refused"""
    raise_nothing = True

@pytest.mark.parametrize("number", range(3))
def test_of_numbers(number):
    """a number, 0 to 2 -> less than two

    More of it.
    """
    assert number < 2

@pytest.mark.skip
def test_left_out():
    """what this machine lacks -> left out"""

@pytest.fixture
def broken():
    raise OSError

def test_that_cannot_begin(broken):
    """a broken fixture -> an error"""

def helper():
    """No row."""
'''
FUZZ = dict(
    picture=dict(cases=1200, accepted=100, refused=dict(ValueError=1000, OSError=100), findings=[], seconds=3.0),
    mask=dict(cases=10, accepted=10, refused={}, findings=[dict(kind="crash")], seconds=1.0),
)
SOAK = dict(
    images=2000,
    models="mini",
    recipe="paper",
    growth_mib_per_1000=0.42,
    limit_mib_per_1000=20,
    after_warm_up_mib=1200.2,
    at_the_end_mib=1201.1,
)


def test_every_hostile_test_says_what_was_put_in_and_what_came_out():
    missing = [one for path in sorted(HOSTILE.glob("test_*.py")) for one in robustness.rows(path)[2]]
    assert not missing, "begin the docstring with 'put in -> came out' in: " + ", ".join(missing)


@pytest.mark.parametrize("docstring", ["no arrow", " -> nothing put in", "nothing came out -> ", "a -> b -> c", ""])
def test_a_docstring_that_is_no_row_is_found(docstring, tmp_path):
    path = tmp_path / "test_one.py"
    path.write_text(f'"""A file."""\ndef test_one():\n    """{docstring}"""\n')
    assert robustness.rows(path) == ("A file", [], ["test_one.py::test_one"])


def test_the_page_is_what_happened_and_the_same_again(tmp_path):
    (tmp_path / "test_broken.py").write_text(TESTS)
    command = [sys.executable, HOSTILE / "robustness.py", tmp_path / "test_broken.py", "--output", tmp_path / "page.md"]
    command += ["--soak", tmp_path / "none", "--fuzz", tmp_path / "none"]
    pages = []
    for processes in ("1", "2"):
        done = subprocess.run([*command, "--processes", processes], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "3 rows fail" in done.stdout, done.stdout + done.stderr
        pages.append((tmp_path / "page.md").read_text())
    assert pages[0] == pages[1]
    assert pages[0].splitlines()[4:] == [
        "4 rows; 3 cases passed, 2 failed, 1 were left out.",
        "",
        "## Broken files: refused. And more",
        "",
        "| put in | came out | cases |  |",
        "| --- | --- | --- | --- |",
        "| three \\| bars | one refused | 1 of 1 | pass |",
        "| a number, 0 to 2 | less than two | 2 of 3 | **FAIL** |",
        "| what this machine lacks | left out | 0 of 0, 1 left out | **FAIL** |",
        "| a broken fixture | an error | 0 of 1 | **FAIL** |",
    ]
    assert "test_broken.py::test_left_out: {'skipped': 1}" in done.stdout


def test_a_row_that_did_not_run_fails():
    files = [HOSTILE / "test_sizes.py"]
    _, failed = robustness.page(files, {})
    assert len(failed) == len(robustness.rows(files[0])[1]) and failed[0].endswith(": did not run")


def test_the_figures_of_fuzzing_and_soak_stand_below_and_can_fail():
    text, failed = robustness.page([], {}, dict(readers=FUZZ), SOAK)
    assert "| picture | 1,200 | 100 | 1,000 ValueError, 100 OSError | none | pass |" in text
    assert "| mask | 10 | 10 | none | 1 | **FAIL** |" in text
    assert (
        "by 0.4 MiB in 1,000 images, of at most 20: 1200 MiB after the first 200, 1201 at the end, with the summary of all | pass |"
        in text
    )
    assert failed == ["fuzzing of mask: 1 findings"]
    text, failed = robustness.page([], {}, None, SOAK | dict(growth_mib_per_1000=20.5))
    assert failed == ["soak: memory grows"] and "**FAIL**" in text and "by reader" not in text


# --------------------------------------------------------------------------------------------- the soak


def test_growth_is_that_after_the_warm_up():
    held = [(images, 1000 + min(images, 200) + images / 100) for images in range(0, 2001, 4)]
    assert soak.growth(held) == pytest.approx(10)


def test_scenes_of_a_soak_are_of_many_sizes_and_have_their_masks(tmp_path):
    dataset = soak.drawn(39, tmp_path)
    shapes = {dataset.image(index).shape for index in range(39)}
    assert len(shapes) == 39 and all(dataset.labels(i).shape == dataset.image(i).shape[:2] for i in range(39))


class Hoarding(Brightness):
    """Keeps a mebibyte of each picture."""

    kept = []

    def segment(self, images, vocabulary, present, seed):
        self.kept.extend(b"\1" * 2**20 for _ in images)
        return super().segment(images, vocabulary, present, seed)


@pytest.mark.slow  # processes of their own: one that has done much has room to give before it asks for more
@pytest.mark.parametrize(("method", "least", "most"), [(Hoarding, 800, 1200), (Brightness, -200, 200)])
def test_a_method_that_keeps_something_of_each_picture_is_found(method, least, most):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        held = pool.apply(soak.soaked, (method(), 120))
    assert [images for images, _ in held] == list(range(0, 121, 4))
    assert least < soak.growth(held, warm=40) < most


def test_what_the_fuzzing_writes_is_what_the_table_reads(tmp_path):
    figures = tmp_path / "fuzz.json"
    command = [
        sys.executable,
        HOSTILE / "fuzz.py",
        "classes",
        "--seconds",
        "1",
        "--write",
        tmp_path,
        "--figures",
        figures,
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text, failed = robustness.page([], {}, json.loads(figures.read_text()), None)
    assert failed == [] and "| classes | " in text
