"""What the README and docs/RESULTS.md say was measured is what the reports hold, and their links lead somewhere."""

import json
import re

import pytest

from fsdlib.project import REPORTS, ROOT
from fsdlib.world.reached import as_text

README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs/RESULTS.md").read_text()
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data").rglob("*.md"), ROOT / "reports/README.md"]
)


@pytest.mark.parametrize("page", [README, RESULTS], ids=["README", "RESULTS"])
def test_the_table_is_the_committed_report(page):
    assert f"```\n{as_text(json.loads((REPORTS / 'embedded.json').read_text()))}\n```" in page


@pytest.mark.parametrize("page", [README, RESULTS], ids=["README", "RESULTS"])
def test_what_each_vocabulary_mode_gives_is_the_runs(page):
    for mode in ("given", "closed", "open", "oracle"):
        cells = []
        for recipe in ("paper", "best"):
            folder = REPORTS / "runs" / (f"scenes-mini-{recipe}" + ("" if mode == "closed" else f"-{mode}"))
            miou = json.loads((folder / "summary.json").read_text())["miou"]
            cells += [f"{100 * miou[protocol]:.1f}" for protocol in ("dataset", "per_image")]
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{mode}`:")]
        assert line.endswith(f"| {' | '.join(cells)} |")


def test_the_readme_takes_ten_minutes():
    assert len(README.split()) < 1250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_what_is_there(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readmes_rehearsal_is_the_committed_report():
    report = json.loads((REPORTS / "rehearsal.json").read_text())
    for number in (report["seconds"]["load"], report["seconds"]["segment"], report["peak_memory_gib"]):
        assert f"{number:g}" in RESULTS


def test_the_readmes_pictures_are_committed():
    pictures = [line.split("](")[1].split(")")[0] for line in README.splitlines() if line.startswith("![")]
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_the_readmes_recipes_are_those_of_the_committed_ablations():
    rows = json.loads((REPORTS / "ablations.json").read_text())["rows"]
    own = {one["asked"]["name"]: one["scores"] for one in rows if one["asked"]["part"] == "recipes"}
    said = " ".join(RESULTS.split())
    for name, scores in own.items():
        assert f"`{name}` {100 * scores['dataset']:.1f} ({100 * scores['per_image']:.1f})" in said
    assert {one["asked"]["images"] for one in rows} == {100}


def test_the_readmes_backbones_are_those_of_the_committed_report():
    report = json.loads((REPORTS / "backbones.json").read_text())

    def worth(set_of_pictures: str, features: str) -> str:
        (row,) = [
            one for one in report[set_of_pictures]["rows"] if one["features"].startswith(features) and one["k"] == 4
        ]
        return f"{100 * row['majority']:.1f}"

    last, twin = "efficientnet-lite0, blocks.6", "efficientnet-lite0 untrained, blocks.6"
    voc, coco = ([worth(name, of) for of in (last, twin)] for name in ("voc12", "coco_object"))
    said = " ".join(RESULTS.split())
    assert f"its last block has {voc[0]}, its untrained twin {voc[1]}" in said and f"{coco[0]}, {coco[1]} and" in said
