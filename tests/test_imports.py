"""Three floors, imports that go down only, no circle, and a drawing of it all that is up to date."""

import importlib.metadata
import re
import sys
import tomllib

import imports
import pytest
from imports import ROOT


def test_imports_go_down_only():
    assert imports.upward(imports.graph()) == []


def test_no_module_imports_itself_by_a_detour():
    assert imports.circle(imports.graph()) == []
    assert imports.circle(imports.folded(imports.graph())) == []


def test_the_drawing_is_up_to_date():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert imports.with_drawing(page, imports.graph()) == page, "run make drawing"


@pytest.fixture
def tree(tmp_path):
    """A function that writes a small fsdlib and returns its graph."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "fsdlib" / f"{re.sub('(?<=[a-z])__', '/', name)}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return imports.graph(tmp_path)

    return write


def test_imports_are_found_in_every_form(tree):
    edges = tree(
        words="",
        names="import fsdlib.words",
        pipeline="from fsdlib import names as naming, words\nimport os",
        measure__scores="def f():\n    from fsdlib.names import score",
        measure__run="from . import scores\nfrom ..pipeline import segment",
        world__scenes="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fsdlib.words\nelse:\n    import fsdlib.names",
    )
    assert edges == {
        "fsdlib.words": set(),
        "fsdlib.names": {"fsdlib.words"},
        "fsdlib.pipeline": {"fsdlib.names", "fsdlib.words"},
        "fsdlib.measure.scores": {"fsdlib.names"},
        "fsdlib.measure.run": {"fsdlib.measure.scores", "fsdlib.pipeline"},
        "fsdlib.world.scenes": {"fsdlib.names"},
    }
    assert imports.upward(edges) == [] and imports.circle(edges) == []
    assert "fsdlib_pipeline --> fsdlib_names" in imports.drawing(edges)
    assert "fsdlib_pipeline --> fsdlib_words" not in imports.drawing(edges)  # which follows
    assert re.findall(r"\w+ ==> \w+", imports.drawing(edges)) == ["world ==> method", "measure ==> method"]


def test_an_import_upward_and_a_circle_are_seen(tree):
    edges = tree(
        words="def f():\n    import fsdlib.measure.scores",
        measure__scores="import fsdlib.names",
        names="from . import words",
    )
    assert imports.upward(edges) == [("fsdlib.words", "fsdlib.measure.scores")]
    assert imports.circle(edges) == ["fsdlib.measure.scores", "fsdlib.names", "fsdlib.words", "fsdlib.measure.scores"]


def test_a_package_within_a_floor_is_drawn_as_one_module(tree):
    edges = tree(
        world__training____init__="from fsdlib.world.training.unet import train",
        world__training__unet="import fsdlib.world.scenes",
        world__scenes="",
    )
    assert imports.folded(edges) == {"fsdlib.world.training": {"fsdlib.world.scenes"}, "fsdlib.world.scenes": set()}
    assert '["training"]' in imports.drawing(edges) and "unet" not in imports.drawing(edges)


def brought(*extras: str) -> set[str]:
    """The distributions that a plain install and some extras name, those that the extras name in turn included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [item for extra in extras for item in project["optional-dependencies"][extra]]
    nested = [re.fullmatch(r"fsdlib\[(.*)\]", item) for item in asked]
    names = {re.sub("[-_.]+", "-", re.match(r"[\w.-]+", item)[0]).lower() for item in asked}
    return names.union(*(brought(*match[1].split(",")) for match in nested if match)) - {"fsdlib"}


@pytest.mark.parametrize("floor, extras", [("method", ()), ("measure", ("measure",)), ("world", ("world",))])
def test_what_a_floor_imports_is_what_its_extra_brings(floor, extras):
    """What importing a module runs, that is; imports within functions may ask for more."""
    of_import, allowed = importlib.metadata.packages_distributions(), brought(*extras)
    for module, path in imports.modules().items():
        if imports.floor(module) == floor:
            tops = {name.split(".")[0] for name in imports.imported(path, module, everywhere=False)}
            for top in tops - sys.stdlib_module_names - {"fsdlib"}:
                assert {re.sub("[-_.]+", "-", name).lower() for name in of_import[top]} & allowed, f"{module}: {top}"
