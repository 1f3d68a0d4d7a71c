"""The report of `make newest`: which versions differ from constraints.txt, and what broke with them.

Reads what the target left behind, whatever it is, with the standard library alone, so that there is a report even where
nothing could be installed. Exits with 1 where something broke.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def normalised(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def differing(constraints: str, installed: dict[str, str]) -> list[tuple[str, str, str]]:
    """(name, version in constraints.txt, installed version) where both are there and differ, or where the first is missing."""
    lines = (line.split("==") for line in constraints.splitlines() if "==" in line and not line.startswith("#"))
    pinned = {normalised(name): version.strip() for name, version in lines}
    return [
        (name, pinned.get(name, "none"), version)
        for name, version in sorted(installed.items())
        if pinned.get(name) != version
    ]


def broken(results: str) -> tuple[int, list[tuple[str, str]]]:
    """From pytest's XML the number of tests, and each that failed with the first line of why."""
    cases = list(ElementTree.fromstring(results).iter("testcase"))
    found = []
    for case in cases:
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            found.append((name, (problem.get("message") or "").split("\n")[0]))
    return len(cases), found


def report(versions: Sequence[tuple[str, str, str]], tests: int, failures: list[tuple[str, str]], log: str) -> str:
    """The report as Markdown; `log` is the end of the installation's, shown where no test ran."""
    lines = ["# The unit tests with the newest versions", ""]
    if tests == 0:
        lines += ["No test ran. The installation ended with:", "", "```", *log.splitlines()[-30:], "```", ""]
    else:
        lines += [f"{tests - len(failures)} of {tests} tests passed.", ""]
        lines += [f"- `{name}`: {why}" for name, why in failures] + [""] * bool(failures)
    rows = [f"| {name} | {pinned} | {version} |" for name, pinned, version in versions]
    if not versions and not tests:
        lines += ["Nothing is installed."]
    elif rows:
        lines += ["| package | constraints.txt | newest |", "|---|---|---|", *rows]
    else:
        lines += ["No version differs from constraints.txt."]
    return "\n".join(lines) + "\n"


def main(environment: Path, executed: Path) -> int:
    """Write `executed`/newest.md about an environment; returns 1 where a test broke or none ran."""
    sites = [str(path) for path in environment.glob("lib/python*/site-packages")]
    installed = {normalised(found.name): found.version for found in distributions(path=sites)}
    for own in ("fsdlib", "pip"):
        installed.pop(own, None)
    try:
        tests, failures = broken((executed / "newest.xml").read_text())
    except (OSError, ElementTree.ParseError):
        tests, failures = 0, []
    log = executed / "newest.log"
    text = report(
        differing((ROOT / "constraints.txt").read_text(), installed),
        tests,
        failures,
        log.read_text(errors="replace") if log.exists() else "",
    )
    (executed / "newest.md").write_text(text)
    print(text)
    return 1 if failures or not tests else 0


if __name__ == "__main__":
    sys.exit(main(ROOT / ".venv-newest", ROOT / "reports" / "executed"))
