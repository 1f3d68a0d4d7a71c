"""Every dependency has a reason and a licence, and the page that says so is up to date."""

import importlib.metadata

import dependencies
import pytest

from fsdlib.project import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def test_what_stands_beside_a_dependency_is_its_reason():
    text = 'dependencies = [\n    "a-b>=2", # what for\n    "c==1.0",\n]\ntest = [\n    "fsdlib[all]",\n    "d",  # more\n]\n[tool.x]\ny = [\n    "e",\n]\n'
    assert dependencies.direct(text) == {"a-b": ("core", "what for"), "c": ("core", ""), "d": ("test", "more")}


def test_every_dependency_has_a_reason():
    rows = dependencies.direct(PROJECT)
    assert len(rows) > 40 and not [name for name, (_, reason) in rows.items() if not reason]


@pytest.mark.parametrize("name, said", [("numpy", "BSD-3-Clause"), ("ray", "Apache-2.0"), ("pydensecrf2", "MIT")])
def test_a_licence_is_what_the_package_says(name, said):
    assert said in dependencies.licence(name)


def test_the_page_is_up_to_date():
    page = dependencies.PAGE.read_text()
    for name, (part, reason) in dependencies.direct(PROJECT).items():
        assert f"| {name} | {part} | {reason} | " in page, "write it anew: python tests/dependencies.py --write"
    installed = {one.name for one in importlib.metadata.distributions()}
    if missing := set(dependencies.pinned(CONSTRAINTS)) - installed:
        pytest.skip(f"not all of constraints.txt is installed: {sorted(missing)[:3]}")
    assert page == dependencies.page(PROJECT, CONSTRAINTS), "write it anew: python tests/dependencies.py --write"
