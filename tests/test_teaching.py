"""docs/TEACHING.md speaks of notebooks and headings that there are, and its plans fit their time."""

import re

import nbformat
import pytest

from fsdlib.project import NOTEBOOKS, ROOT

PAGE = (ROOT / "docs" / "TEACHING.md").read_text()
PLANS = {
    90: PAGE.split("## Ninety minutes")[1].split("### ")[0],
    45: PAGE.split("## Forty-five minutes")[1].split("\n## ")[0],
}
LINE = re.compile(r"^\| (\d+) \| \[(\d\d)\]\(\.\./notebooks/(\w+)\.ipynb\) \*(.+?)\* \|", re.M)


def headings(name: str) -> set[str]:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return set(re.findall(r"^#{1,3} (.*)", text, re.M))


@pytest.mark.parametrize("minutes", PLANS)
def test_a_plan_names_what_is_there_in_order_and_in_time(minutes):
    lines = LINE.findall(PLANS[minutes])
    assert len(lines) > 5 and len(lines) == len(re.findall(r"^\| \d+ \|", PLANS[minutes], re.M))
    for _, number, name, heading in lines:
        assert name.startswith(f"{number}_") and heading in headings(name), f"{name} has no heading {heading!r}"
    begins = [int(line[0]) for line in lines]
    assert begins == sorted(set(begins)) and begins[0] == 0 and begins[-1] < minutes


def test_what_a_teacher_is_told_to_make_can_be_made():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    spoken = set(re.findall(r"`make ([a-z]+)\b", PAGE))
    assert spoken and spoken <= targets


def test_every_walk_notebook_has_its_time():
    (row,) = re.findall(r"^\| seconds \| (.*) \|$", PAGE, re.M)
    assert len(row.split(" | ")) == 9 and all(value.strip().isdigit() for value in row.split(" | "))
