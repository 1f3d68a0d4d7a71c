"""What the hostile tests share: six small pictures with masks, and a method that needs no model."""

import numpy as np
import pytest
from PIL import Image

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.segmenters import Prediction

IDS = tuple(f"p{number}" for number in range(6))


class Brightness:
    """Says "cat" where a picture is bright; `threshold` makes it another configuration."""

    def __init__(self, threshold=128):
        self.threshold = threshold

    def configuration(self):
        return dict(method="brightness", threshold=self.threshold)

    def segment(self, images, vocabulary, present, seed):
        bright = [image[..., 0] > self.threshold for image in images]
        return [
            Prediction(one.astype(np.uint8), one[::2, ::2].astype(np.uint8), "a cat", seconds=dict(look=0.1))
            for one in bright
        ]

    def name_masks(self, image, masks, vocabulary):
        return [1] * len(masks)


def write_pictures(root, ids=IDS):
    """A dataset of one's own: images/, masks/ and classes.txt."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ids:
        Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(random.integers(0, 3, (12, 16), np.uint8)).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.fixture
def method():
    return Brightness()


@pytest.fixture
def dataset(tmp_path):
    return open_dataset("folder", write_pictures(tmp_path / "pictures"))


@pytest.fixture
def everything():
    """A function from a folder to all that lies in it: bytes of files, None for folders."""

    def read(folder):
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))
        }

    return read
