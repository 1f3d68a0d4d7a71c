"""The parameters of notebook 20 and of `make eval`, checked before a dataset is read or a model loaded."""

import ast
import difflib
from collections.abc import Mapping
from typing import Any

from fsdlib.backbones import check_backbone
from fsdlib.measure.run import check_settings
from fsdlib.models import sources, usable_device
from fsdlib.recipe import get_recipe, parse_changes

_TEXT, _WHOLE, _NUMBER, _SWITCH = "text", "a whole number", "a number", "True or False"
_KINDS = {_TEXT: (str,), _WHOLE: (int,), _NUMBER: (int, float), _SWITCH: (bool,)}
PARAMETERS = (
    dict.fromkeys(
        ("models", "captioner", "clip", "backbone", "recipe", "changes", "vocabulary", "device", "engine"), _TEXT
    )
    | dict.fromkeys(("dataset", "root", "classes", "shard", "store", "output"), _TEXT)
    | dict.fromkeys(("limit", "seed", "batch_size", "threads", "workers", "refiners", "batch_seconds"), _WHOLE)
    | dict.fromkeys(("centre_crops", "replace"), _SWITCH)
    | dict(tolerated_failures=_NUMBER)
)


def check_parameters(notebook: Mapping[str, Any]) -> None:
    """Raise ValueError, in one sentence, for a parameter that there is not, of another kind, or of a value that cannot be.

    notebook: its variables; among them `In`, the cells as they were run, the one that papermill puts in too.
    """
    for cell in notebook.get("In", ()):
        if cell.startswith("# Parameters\n"):  # papermill's own first line
            for name in _assigned(cell):
                if name not in PARAMETERS:
                    nearest = difflib.get_close_matches(name, PARAMETERS, 1, cutoff=0)[0]
                    raise ValueError(f"the notebook has no parameter {name!r}: the nearest that it has is {nearest!r}")
    p = {name: notebook[name] for name in PARAMETERS}
    for name, kind in PARAMETERS.items():
        if type(p[name]) not in _KINDS[kind]:
            how = f"; papermill takes it as text with -r {name}" if kind is _TEXT else ""
            raise ValueError(f"{name} is {p[name]!r}: give {kind}{how}")
    sources(p["models"], p["captioner"] or None, p["clip"] or None, p["backbone"] or None)
    told = {"vocabulary": p["vocabulary"]} if p["vocabulary"] else {}
    recipe = get_recipe(p["recipe"]).with_changes(parse_changes(p["changes"]) | told)
    check_backbone(recipe.features, p["backbone"] or None)
    run = "seed batch_size replace engine workers shard tolerated_failures threads batch_seconds".split()
    check_settings(limit=p["limit"] or None, **{name: p[name] for name in run})
    if p["refiners"] < 0:
        raise ValueError(
            f"refiners is {p['refiners']}: give a number of processes, or 0 to refine in the worker itself"
        )
    if p["engine"] == "local":  # Ray's workers may have what this machine lacks
        usable_device(p["device"] or None)


def _assigned(cell: str) -> list[str]:
    """The names that a cell of plain assignments gives values to."""
    statements = (statement for statement in ast.parse(cell).body if isinstance(statement, ast.Assign))
    return [target.id for statement in statements for target in statement.targets if isinstance(target, ast.Name)]
