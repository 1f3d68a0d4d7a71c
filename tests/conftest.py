"""What several tests share. No test asks the network for anything."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest

from fsdlib.models import load_models
from fsdlib.project import CLASSES, ROOT
from fsdlib.vocabulary import Vocabulary
from fsdlib.world.scenes import scene_of_split


@pytest.fixture(scope="session")
def mini():
    """The embedded models, on the CPU."""
    return load_models("mini", device="cpu")


@pytest.fixture(scope="session")
def scenes():
    """Three scenes of the val split, the second with a dog and a pizza."""
    return [scene_of_split("val", number) for number in range(3)]


@pytest.fixture(scope="session")
def scene(scenes):
    return scenes[1]


@pytest.fixture(scope="session")
def vocabulary():
    """The classes of the scenes."""
    return Vocabulary.read(CLASSES / "scenes.csv")


@pytest.fixture(scope="session")
def voc_root():
    """The hundred real pictures of Pascal VOC 2012, where this machine has them."""
    return _photographs("VOCdevkit/VOC2012", "Pascal VOC")


@pytest.fixture(scope="session")
def coco_root():
    """128 real pictures of COCO 2017 with their objects, where this machine has them."""
    return _photographs("coco", "COCO")


@pytest.fixture(scope="session")
def released_root():
    """The five photographs of data/released.json, where this machine has them."""
    return _photographs("released", "recorded")


def _photographs(folder, name):
    given = os.environ.get("FSD_TEST_DATA")
    data = Path(given) if given else ROOT.parent / "shared" / "data"
    if not (data / folder).is_dir():
        pytest.skip(f"no {name} pictures: set FSD_TEST_DATA to a folder that holds {folder}")
    return data / folder


@pytest.fixture(scope="session")
def contents():
    """A function from a run's folder to every file's bytes, but for what stages took."""

    def read(folder):
        files = (
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "timing.json" and path.parent.name != "timings"
        )
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read
