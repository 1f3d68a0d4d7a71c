"""FreeSeg-Diff, stage by stage: functions from arrays to arrays; `segment` composes them.

What most people need is here: `segment`, `load_models`, `get_recipe`, `Recipe`, `Vocabulary`, and for measuring
`open_dataset` and `evaluate` (extra `measure`). Each is imported when it is first asked for, since torch takes seconds.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsdlib.measure.benchmarks import open_dataset as open_dataset
    from fsdlib.measure.run import evaluate as evaluate
    from fsdlib.models import load_models as load_models
    from fsdlib.pipeline import segment as segment
    from fsdlib.recipe import Recipe as Recipe
    from fsdlib.recipe import get_recipe as get_recipe
    from fsdlib.vocabulary import Vocabulary as Vocabulary

    __version__: str

_HOMES = {
    "Recipe": "fsdlib.recipe",
    "Vocabulary": "fsdlib.vocabulary",
    "evaluate": "fsdlib.measure.run",
    "get_recipe": "fsdlib.recipe",
    "load_models": "fsdlib.models",
    "open_dataset": "fsdlib.measure.benchmarks",
    "segment": "fsdlib.pipeline",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name == "__version__":
        from importlib import metadata  # which takes longer than everything else here

        value = metadata.version("fsdlib")  # pyproject.toml's, as installed
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it offers {', '.join(__all__)}")
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
