"""Six small pictures with masks, and a method that needs no model: what the hostile tests and the fuzzing share."""

import numpy as np
from PIL import Image

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
