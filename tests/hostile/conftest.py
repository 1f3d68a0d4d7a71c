"""What the hostile tests share."""

import pytest
from six_pictures import Brightness, write_pictures

from fsdlib.measure.benchmarks import open_dataset


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
