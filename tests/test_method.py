"""The method's page: every citation of a row finds it, every row is cited, and every test that a row names is there."""

import json
import re

import pytest

from fsdlib.project import ROOT

PAGE = (ROOT / "docs" / "METHOD.md").read_text()
ROWS = dict(re.findall(r"^## Row (\d+[a-z]?): (.+)$", PAGE, re.MULTILINE))
SECTIONS = dict(zip(ROWS, re.split(r"^## .+$", PAGE, flags=re.MULTILINE)[1:]))


def citations(text: str) -> list[str]:
    """The rows that a text cites: "METHOD, row 5", "METHOD, rows 3 and 4"."""
    found = re.findall(r"METHOD, rows? (\d+[a-z]?)(?:,? and (\d+[a-z]?))?", text)
    return [row for pair in found for row in pair if row]


def texts() -> dict[str, str]:
    """What may cite: the package's source and the notebooks' cells, by path."""
    found = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "fsdlib").rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        found[path.relative_to(ROOT).as_posix()] = "\n".join("".join(cell["source"]) for cell in cells)
    return found


TEXTS = texts()


def test_the_page_has_the_methods_fourteen_rows_and_a_table_of_them():
    assert list(ROWS) == ["1", "2", "2a", "2b", *map(str, range(3, 13))]
    assert re.findall(r"^\| \[(\d+[a-z]?)\]\(#row-", PAGE, re.MULTILINE) == list(ROWS)


@pytest.mark.parametrize("path", sorted(path for path, text in TEXTS.items() if "METHOD" in text))
def test_every_citation_finds_its_row(path):
    cited = citations(TEXTS[path])
    assert len(re.findall(r"METHOD\b", TEXTS[path])) <= len(cited), f"{path} speaks of METHOD without a row"
    assert set(cited) <= set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_cited_by_the_code_that_does_it(row):
    assert any(row in citations(text) for path, text in TEXTS.items() if path.startswith("fsdlib/"))


@pytest.mark.parametrize("row", ROWS)
def test_every_row_says_what_is_here_and_names_tests_that_are_there(row):
    section = SECTIONS[row]
    assert "**The release**" in section and "**Here**" in section and "**`best`**" in section
    named = re.findall(r"`(tests/[\w/]*test_\w+\.py)::(test_\w+)`", section.split("**Held by**")[1])
    assert named
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"row {row} names {path}::{test}"
