"""What the README says was measured is what the reports hold."""

import json

from fsdlib.project import REPORTS, ROOT
from fsdlib.world.reached import as_text

README = (ROOT / "README.md").read_text()


def test_the_readmes_table_is_the_committed_report():
    assert f"```\n{as_text(json.loads((REPORTS / 'embedded.json').read_text()))}\n```" in README


def test_the_readmes_rehearsal_is_the_committed_report():
    report = json.loads((REPORTS / "rehearsal.json").read_text())
    for number in (report["seconds"]["load"], report["seconds"]["segment"], report["peak_memory_gib"]):
        assert f"{number:g}" in README


def test_the_readmes_pictures_are_committed():
    pictures = [line.split("](")[1].split(")")[0] for line in README.splitlines() if line.startswith("![")]
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)
