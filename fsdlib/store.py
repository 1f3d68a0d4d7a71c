"""What is dear and does not change, kept on disk: captions and latents of pictures, and class lists as models encode them.

A second recipe over the same pictures starts from them. Nothing else is kept, and nothing depends on what is: a folder, or
any file in it, can be deleted at any moment.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from fsdlib.project import write_atomically

# What rounding depends on beside the model itself.
_LIBRARIES = ("torch", "transformers", "diffusers", "open_clip_torch")
_EMPTIED, _LOOK = 0.9, 0.01  # of the bound: to which files go, and after how many bytes written the folder is looked at


@dataclass
class Store:
    """What one model makes, under a hash of all that it follows from: the model, the options, the pictures, what rounding depends on.

    folder: may be shared by any models and processes; by machines, where the last digit does not matter. identity: of the model, as `Models.identity` has it. most: bytes; the
    files that were used longest ago go first. Pictures that pass a model together are kept together, since rounding
    depends on how many they are. What cannot be read is made anew, and what cannot be written is not kept, with a warning.
    """

    folder: Path
    identity: Mapping[str, Any]
    most: int = 8 * 2**30
    _until_look: int = field(default=0, init=False, repr=False)

    def array(self, what: Sequence, pictures: Sequence[np.ndarray], make: Callable[[], np.ndarray]) -> np.ndarray:
        """What `make` gives of the pictures, under the options `what`, ready for JSON.

        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> store = Store(Path(folder.name), {"model": "one"})
        >>> store.array(["mean"], [np.ones((2, 2, 3), np.uint8)], lambda: np.array([1.0]))
        array([1.])
        >>> store.array(["mean"], [np.ones((2, 2, 3), np.uint8)], lambda: 1 / 0)  # it is there, and not made again
        array([1.])
        >>> folder.cleanup()
        """
        return self._kept(".safetensors", what, pictures, make, _loaded, _saved)

    def texts(self, what: Sequence, pictures: Sequence[np.ndarray], make: Callable[[], list[str]]) -> list[str]:
        """As `array`, of a text for each picture."""

        def read(content: bytes) -> list[str]:
            texts = json.loads(content)
            if not isinstance(texts, list) or len(texts) != len(pictures) or not all(isinstance(t, str) for t in texts):
                raise ValueError("not a text for each picture")
            return texts

        return self._kept(".json", what, pictures, make, read, lambda texts: json.dumps(texts).encode())

    def _kept(self, suffix: str, what: Sequence, pictures: Sequence[np.ndarray], make, read, written) -> Any:
        path = self._path(what, pictures, suffix)
        try:
            found = read(path.read_bytes())
            os.utime(path)  # used now
            return found
        except Exception:  # none, or one that was cut or changed, which is as good as none whatever its reader raises
            pass
        made = make()
        try:
            content = written(made)
            write_atomically(path, content)
            self._bound(len(content))
        except OSError as error:
            warnings.warn(f"{path} cannot be kept ({error}): going on without", stacklevel=2)
        return made

    def _path(self, what: Sequence, pictures: Sequence[np.ndarray], suffix: str) -> Path:
        said = [what, dict(self.identity), self._surroundings, torch.get_num_threads()]
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for picture in pictures:
            key.update(f"/{picture.shape}/".encode())
            key.update(np.ascontiguousarray(picture).tobytes())
        name = key.hexdigest()
        return self.folder / name[:2] / f"{name}{suffix}"

    @cached_property
    def _surroundings(self) -> dict[str, str]:
        return {library: version(library) for library in _LIBRARIES}

    def _bound(self, written: int) -> None:
        """Where all files together are above the bound, delete what was used longest ago."""
        self._until_look -= written
        if self._until_look > 0:
            return
        self._until_look = int(_LOOK * self.most)
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(FileNotFoundError):  # deleted by another process, or by whoever wants the space
                files.append((path.stat(), path))
        total = sum(about.st_size for about, _ in files)
        fewer = _EMPTIED * self.most if total > self.most else total
        for about, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total <= fewer:
                return
            path.unlink(missing_ok=True)
            total -= about.st_size


def _saved(array: np.ndarray) -> bytes:
    """With the order of its axes in memory, on which rounding in what follows depends."""
    axes = np.argsort([-stride for stride in array.strides], kind="stable")
    return save(dict(array=np.ascontiguousarray(array.transpose(axes)), axes=axes))


def _loaded(content: bytes) -> np.ndarray:
    found = load(content)
    return found["array"].transpose(np.argsort(found["axes"]))
