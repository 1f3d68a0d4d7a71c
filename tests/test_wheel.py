"""The wheel, built without a network from what is in version control, works where there is no checkout and no extra."""

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from fsdlib.project import ROOT

pytestmark = pytest.mark.slow


def tracked(*under: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *under], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel from a copy of the tracked files, beside which lie things that a checkout gathers."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so nobody knows which files are in version control")
    copy = tmp_path_factory.mktemp("copy")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for name in ("data/scenes/JPEGImages/scene.jpg", "data/training/unet.safetensors", "data/rehearsal-cache/file"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("generated")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."]
    subprocess.run([sys.executable, *command], cwd=copy, check=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_code_and_the_data_that_it_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    data = tracked("data/classes", "data/mini", "data/recorded", "data/rehearsal") | {
        "data/published.csv",
        "data/released.json",
        "data/released.safetensors",
        "data/README.md",
    }
    assert held == tracked("fsdlib") | {name.replace("data/", "fsdlib/_data/", 1) for name in data}
    assert {"fsdlib/py.typed", "fsdlib/_data/classes/voc12.csv", "fsdlib/_data/mini/manifest.json"} <= held


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of a fresh environment with the wheel and, of what is installed here, only what its core asks for."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    command = ["-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *command], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    for distribution in core(importlib.metadata.PathDistribution(next(site.glob("fsdlib-*.dist-info")))):
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    return python


def core(fsdlib: importlib.metadata.Distribution) -> list[importlib.metadata.Distribution]:
    """All that the wheel's requirements come to, without its extras."""
    found, asked = {}, [Requirement(text) for text in fsdlib.requires]
    asked = [(requirement, "") for requirement in asked]
    while asked:
        requirement, extra = asked.pop()
        key = (re.sub("[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras))
        if key in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found[key] = distribution = importlib.metadata.distribution(requirement.name)
        for extra in ("", *requirement.extras):
            asked += [(Requirement(text), extra) for text in distribution.requires or ()]
    return list(found.values())


def test_a_plain_install_segments_a_picture_anywhere(python, tmp_path, scene):
    Image.fromarray(scene.image).save(tmp_path / "picture.png")
    (tmp_path / "empty").mkdir()
    without = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    command = [python, "-m", "fsdlib", tmp_path / "picture.png"]
    subprocess.run(command, cwd=tmp_path / "empty", env=without, check=True)
    out = tmp_path / "empty" / "segmented"
    assert sorted(path.name for path in out.iterdir()) == ["picture.json", "picture.png", "picture_overlay.png"]
    with Image.open(out / "picture.png") as labels, Image.open(tmp_path / "picture.png") as picture:
        assert labels.mode == "P" and labels.size == picture.size


def test_what_is_written_goes_below_the_current_folder(python, tmp_path):
    program = """
import importlib.util
from fsdlib import project
from fsdlib.vocabulary import Vocabulary
assert len(Vocabulary.read(project.CLASSES / "voc12.csv")) == 21
assert importlib.util.find_spec("pandas") is None
print(project.__file__, project.SCENES, project.REPORTS, sep="\\n")
"""
    answer = subprocess.run([python, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    package, scenes, reports = answer.stdout.splitlines()
    assert Path(package).is_relative_to(python.parent.parent) and not Path(package).is_relative_to(ROOT)
    assert (Path(scenes), Path(reports)) == (tmp_path / "data" / "scenes", tmp_path / "reports")
