"""The manifest beside the embedded models: what the weights are, and how they came to be."""

import hashlib
import json
from pathlib import Path

from fsdlib.project import MINI, TRAINING, write_atomically
from fsdlib.world.training.data import training_scenes
from fsdlib.world.training.settings import PARTS, Settings


def write_manifest(settings: Settings, folder: Path = TRAINING, out: Path = MINI, reached: dict | None = None) -> dict:
    """Write `out`/manifest.json and return it.

    It holds each file's sha256, the settings, the hash of the scenes, each part's losses and what was `reached`.
    `fsdlib.models` refuses weights that do not have the hash the manifest gives.
    """
    manifest = dict(
        files=_hashes("", out),
        settings=settings.model_dump(mode="json", exclude={"device", "workers"}),
        scenes_sha256=hashlib.sha256(training_scenes(settings, folder)[0].images.tobytes()).hexdigest(),
        history={part: _history(part, folder) for part in PARTS},
        reached=reached,
        command="make train",
    )
    return _written(manifest, out)


def renew_manifest(
    part: str, weights: str, settings: Settings, folder: Path = TRAINING, out: Path = MINI, apart: bool = False
) -> dict:
    """Write the manifest anew after one part was exchanged, whose weights are in `out`/`weights`; returns it.

    The hashes, settings and losses of the other parts stay. What the models reached was reached with the old part, so
    it is taken out; but of a part that stands `apart`, which no other model reads, it stays.
    """
    manifest = json.loads((Path(out) / "manifest.json").read_text())
    own = {name: value for name, value in settings.model_dump(mode="json").items() if name.startswith(f"{part}_")}
    manifest["files"] |= _hashes(weights, out)
    manifest["settings"] |= own
    manifest["history"][part] = _history(part, folder)
    return _written(manifest if apart else manifest | dict(reached=None), out)


def _hashes(weights: str, out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((Path(out) / weights).rglob("*.safetensors"))
    }


def _history(part: str, folder: Path) -> list[dict]:
    return json.loads((Path(folder) / f"{part}.json").read_text())


def _written(manifest: dict, out: Path) -> dict:
    write_atomically(Path(out) / "manifest.json", json.dumps(manifest, indent=1))
    return manifest
