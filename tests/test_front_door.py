"""`import fsdlib`: what it offers, and what it leaves alone until it is asked."""

import json
import os
import subprocess
import sys

import pytest

import fsdlib
from fsdlib.project import ROOT

OFFERED = ["Recipe", "Vocabulary", "evaluate", "get_recipe", "load_models", "open_dataset", "segment"]


def test_what_is_offered_is_what_its_module_holds():
    from fsdlib.measure.run import evaluate
    from fsdlib.models import load_models
    from fsdlib.pipeline import segment
    from fsdlib.recipe import Recipe, get_recipe
    from fsdlib.vocabulary import Vocabulary

    assert (fsdlib.evaluate, fsdlib.load_models, fsdlib.segment) == (evaluate, load_models, segment)
    assert (fsdlib.Recipe, fsdlib.Vocabulary, fsdlib.get_recipe) == (Recipe, Vocabulary, get_recipe)
    assert len(fsdlib.open_dataset.__doc__) > 100


def test_the_offer_is_listed():
    assert sorted(fsdlib.__all__) == OFFERED and {*OFFERED, "__version__"} <= set(dir(fsdlib))


def test_what_is_not_offered_raises_with_what_is():
    with pytest.raises(AttributeError, match=r"no attribute 'segmentation': it offers Recipe, .*segment"):
        fsdlib.segmentation  # noqa: B018


def test_importing_is_quick_and_without_torch():
    """Two tenths of a second where nothing else runs; here with room for a busy machine."""
    program = """
import json, sys, time
began = time.perf_counter()
import fsdlib
dir(fsdlib)
took = time.perf_counter() - began
heavy = sorted({"diffusers", "matplotlib", "numpy", "spacy", "torch", "transformers"} & set(sys.modules))
fsdlib.Vocabulary
print(json.dumps([took, heavy, "torch" in sys.modules]))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True, check=True
    )
    took, heavy, torch_for_a_vocabulary = json.loads(answer.stdout)
    assert took < 1 and heavy == [] and not torch_for_a_vocabulary
