"""Where things are: the project's root and the folders every other module asks for."""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
REPORTS = ROOT / "reports"

CLASSES = DATA / "classes"  # class lists of the datasets, one CSV each
MINI = DATA / "mini"  # the embedded models
SCENES = DATA / "scenes"  # generated, not in version control
TRAINING = DATA / "training"  # checkpoints of the embedded models, not in version control


def write_atomically(path: Path | str, content: bytes | str) -> Path:
    """Write `content` to `path` whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the name in one step, so that a process
    killed at any point leaves either the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
