"""The examples in the docstrings give what they say; every public function of a stage has one.

They know `np`, `models` (the mini models) and `picture`, (192, 192, 3) uint8, a scene with a dog and a pizza.
"""

import doctest
import importlib
import inspect

import numpy as np
import pytest

STAGES = (
    "caption",
    "words",
    "features",
    "backbones",
    "clusters",
    "names",
    "dense",
    "spreading",
    "refinement",
    "pipeline",
    "oracles",
)
SHARED = ("choice", "efficientnet", "models", "pictures", "recipe")


@pytest.mark.parametrize("name", STAGES + SHARED)
def test_the_examples_give_what_they_say(name, mini, scene):
    module = importlib.import_module(f"fsdlib.{name}")
    known = vars(module) | dict(np=np, models=mini, picture=scene.image)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in doctest.DocTestFinder().find(module, module.__name__, globs=known):
        runner.run(example)
    assert runner.summarize().failed == 0 and runner.tries


@pytest.mark.parametrize("name", STAGES)
def test_every_public_function_of_a_stage_has_an_example(name):
    module = importlib.import_module(f"fsdlib.{name}")
    public = [
        (own, value)
        for own, value in vars(module).items()
        if inspect.isroutine(value) and value.__module__ == module.__name__ and not own.startswith("_")
    ]
    assert not [own for own, value in public if ">>>" not in (value.__doc__ or "")]
