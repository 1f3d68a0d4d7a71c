"""docs/DEPENDENCIES.md: what every dependency is for, as pyproject.toml says beside it, and under which licence it is, as installed.

`python tests/dependencies.py --write` writes the page anew; it needs everything in constraints.txt to be installed.
"""

import argparse
import importlib.metadata
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "DEPENDENCIES.md"
NONE = "none stated"
COPYLEFT = re.compile(r"GPL|MPL|EPL|EUPL|CDDL|CC-BY-SA")
# how packages write one licence
SPELLINGS = {
    r"Apache (Software )?License.*|Apache 2\.0.*|Apache": "Apache-2.0",
    r"(The )?MIT( License)?": "MIT",
    r"(New |3-Clause )?BSD( License| 3-Clause License.*)?|FreeBSD": "BSD",
    r"ISC License \(ISCL\)": "ISC",
    r"Mozilla Public License 2\.0 \(MPL 2\.0\)": "MPL-2.0",
    r"Python Software Foundation License": "PSF-2.0",
    r"NVIDIA Proprietary Software|LicenseRef-NVIDIA-Proprietary": "NVIDIA's own",
}
TEXTS = {"Permission is hereby granted, free of charge": "MIT", "Licensed under the MIT License": "MIT"}
HEAD = """# Dependencies

Written by `python tests/dependencies.py --write`. What each package is for stands in `pyproject.toml`, exact versions in `constraints.txt`; licences are
those that the installed packages state of themselves.

"""


def direct(project: str) -> dict[str, tuple[str, str]]:
    """From pyproject.toml's text, by name: which of the lists of dependencies it is in, and the reason beside it, "" for none."""
    found, part = {}, ""
    for line in project.split("[tool.")[0].splitlines():
        if opened := re.fullmatch(r"([a-z-]+) = \[", line):
            part = "core" if opened[1] == "dependencies" else opened[1]
        elif line == "]":
            part = ""
        elif part and (named := re.match(r'    "([\w.-]+)([^"]*)",\s*(?:# (.*))?$', line)) and named[1] != "fsdlib":
            found[named[1]] = (part, named[3] or "")
    return found


def pinned(constraints: str) -> list[str]:
    return [line.split("==")[0].strip() for line in constraints.splitlines() if "==" in line and line[0] != "#"]


def licence(name: str) -> str:
    """What an installed package says of its licence: as an expression, a classifier, a word, or by the text it comes with."""
    about = importlib.metadata.metadata(name)
    classifiers = [one.split(" :: ")[-1] for one in about.get_all("Classifier", []) if one.startswith("License :: ")]
    word = (about.get("License") or "").strip().split("\n")[0]
    for said in (about.get("License-Expression"), *classifiers, word if len(word) < 40 else ""):
        if said and said != "OSI Approved":
            spelled = [known for spelling, known in SPELLINGS.items() if re.fullmatch(spelling, said)]
            return spelled[0] if spelled else said
    files = importlib.metadata.files(name) or []
    texts = [file.locate().read_text(errors="replace") for file in files if re.match("LICEN[CS]E", file.name)]
    return next((known for text in texts for words, known in TEXTS.items() if words in text), NONE)


def page(project: str, constraints: str) -> str:
    """The page as Markdown."""
    rows = direct(project)
    lines = ["| package | in | for | licence |", "|---|---|---|---|"]
    lines += [f"| {name} | {part} | {reason} | {licence(name)} |" for name, (part, reason) in rows.items()]
    known = {re.sub("[-_.]+", "-", name).lower() for name in rows}
    brought = [name for name in pinned(constraints) if re.sub("[-_.]+", "-", name).lower() not in known]
    of_brought = {name: licence(name) for name in brought}
    counts = Counter(of_brought.values()).most_common()
    lines += ["", "## What these bring", "", f"{len(brought)} packages in `constraints.txt` beside those above."]
    lines += ["", "| licence | packages |", "|---|---|"]
    lines += [f"| {said} | {number} |" for said, number in sorted(counts, key=lambda pair: (-pair[1], pair[0]))]
    everything = {name: licence(name) for name in rows} | of_brought
    copyleft = [f"{name} ({said})" for name, said in sorted(everything.items()) if COPYLEFT.search(said)]
    unstated = [name for name, said in sorted(everything.items()) if said == NONE]
    lines += [
        "",
        f"Of all, under a licence that binds what is made of the package's own files (copyleft): {', '.join(copyleft)}.",
    ]
    lines += ["", f"Without a licence in what they install: {', '.join(unstated) or 'none'}."]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    text = page((ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text())
    if parser.parse_args().write:
        PAGE.write_text(text)
    else:
        print(text)
