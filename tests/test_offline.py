"""`make offline`: from the folder alone, with no index, a fresh environment is installed. With a small project, since the real one has gigabytes."""

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from offline import gather

pytestmark = pytest.mark.slow


def as_wheel(name: str, folder: Path) -> Path:
    """A wheel of an installed distribution of plain Python, from the files that it is known to consist of."""
    distribution = importlib.metadata.distribution(name)
    path = folder / f"{distribution.name}-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in distribution.files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                archive.write(file.locate(), str(file))
    return path


def git(folder: Path, *command: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in the layout of this one, in git, and an index of wheels that pip alone is told of."""
    index, folder = tmp_path / "index", tmp_path / "checkout"
    index.mkdir(), folder.mkdir()
    tqdm = as_wheel("tqdm", index)
    as_wheel("setuptools", index)
    version = importlib.metadata.version("tqdm")
    (folder / "small.py").write_text("import tqdm\n")
    (folder / "constraints.txt").write_text(f"tqdm=={version}\n")
    sha256 = hashlib.sha256(tqdm.read_bytes()).hexdigest()
    (folder / "spacy-model.txt").write_text(f"tqdm=={version} --hash=sha256:{sha256}\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=70"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "small"\nversion = "1"\noptional-dependencies = { test = ["tqdm"] }\n'
        '[tool.setuptools]\npy-modules = ["small"]\n'
    )
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "small")
    (folder / "small.py").write_text("raise SystemExit('not committed')\n")
    for name in [name for name in os.environ if name.startswith(("PIP_", "PYTHONPATH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return folder


def test_the_folder_installs_the_project_with_no_index_by_the_command_it_names(project, tmp_path, monkeypatch):
    instructions = gather(tmp_path / "taken along", project)
    monkeypatch.delenv("PIP_FIND_LINKS")  # from here on there is the folder alone
    monkeypatch.delenv("PIP_NO_INDEX")
    text = instructions.read_text()
    (command,) = re.findall(r"^    (.*--no-index.*)$", text, re.M)
    subprocess.run(command, shell=True, cwd=instructions.parent, check=True, stdout=subprocess.DEVNULL)
    python = instructions.parent / "project" / ".venv" / "bin" / "python"
    asked = [python, "-c", "import small; print(small.tqdm.__file__)"]
    found = subprocess.run(asked, cwd=instructions.parent / "project", capture_output=True, text=True, check=True)
    assert str(instructions.parent.resolve()) in found.stdout
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in text and "3 wheels" in text


def test_gathering_again_takes_what_is_there(project, tmp_path):
    gather(tmp_path / "out", project)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "wheels").glob("tqdm*")}
    gather(tmp_path / "out", project)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "wheels").glob("tqdm*")} == before


def test_where_something_is_missing_there_are_no_instructions(project, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="pip could not gather spacy-model.txt"):
        gather(tmp_path / "out", project)
    assert not (tmp_path / "out" / "INSTALL.txt").exists() and "tqdm" in capfd.readouterr().err


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(SystemExit, match="plain is no git checkout"):
        gather(tmp_path / "out", tmp_path / "plain")
