"""Ten scenes keep their label maps: work on the code's form changes no pixel.

`python tests/test_label_maps.py` writes them anew, which is right only where a recipe or the models are changed on purpose.
"""

import io
from pathlib import Path

import numpy as np
import pytest

from fsdlib.models import load_models
from fsdlib.pipeline import segment
from fsdlib.project import CLASSES, write_atomically
from fsdlib.recipe import RECIPES
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import scene_of_split

KEPT = Path(__file__).parent / "kept" / "label_maps.npz"


def label_maps(recipe: str, models, count: int = 10) -> np.ndarray:
    """(count, H, W) uint8."""
    classes = Vocabulary.read(CLASSES / "scenes.csv")
    pictures = [scene_of_split("val", number).image for number in range(count)]
    return np.stack([segment(picture, models, RECIPES[recipe], classes).labels for picture in pictures])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_ten_scenes_have_the_label_maps_that_are_kept(mini, recipe):
    kept, found = np.load(KEPT)[recipe], label_maps(recipe, mini)
    # another kind of processor rounds otherwise, which may move a pixel here and there, never a region
    assert found.shape == kept.shape and (found != kept).mean() < 1e-3


if __name__ == "__main__":
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{recipe: label_maps(recipe, load_models("mini")) for recipe in RECIPES})
    print(write_atomically(KEPT, buffer.getvalue()))
