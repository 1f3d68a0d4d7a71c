"""The table of hostile inputs: what was put in, what came out, whether it passed. `make robustness` writes it.

`python tests/hostile/robustness.py` runs every test of this folder, the slow ones too, and writes reports/robustness.md: a row a
test, from the first line of its docstring, "put in -> came out". The figures of the last fuzzing and of the last soak stand
below, where there are any. No time and no machine is in it: the same state gives the same bytes. Fails where a row does.
"""

import argparse
import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fsdlib.project import REPORTS, ROOT, write_atomically

HERE = Path(__file__).resolve().parent
HEAD = """# What hostile inputs do

Every row is a test of `tests/hostile`, run by `make robustness`, which writes this page. A row passes where all its cases do.
"""


class Outcomes:
    """Pytest's plugin: of every test function how its cases ended, {(file, function): {"passed": n, "failed": n, "skipped": n}}."""

    def __init__(self):
        self.of_case: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report):
        file, _, case = report.location
        # set-up and tear-down can fail too, and a case that did stays so
        if report.outcome != "passed" or report.when == "call":
            if self.of_case.get((file, case)) != "failed":
                self.of_case[file, case] = report.outcome

    @property
    def of_function(self) -> dict[tuple[str, str], Counter]:
        found: dict[tuple[str, str], Counter] = defaultdict(Counter)
        for (file, case), outcome in self.of_case.items():
            found[Path(file).name, case.partition("[")[0]][outcome] += 1
        return found


def sentence(docstring: str) -> str:
    """A docstring's first paragraph, in one line."""
    return " ".join(docstring.split("\n\n")[0].split())


def rows(path: Path) -> tuple[str, list[tuple[str, str, str]], list[str]]:
    """Of a file of tests its heading, its rows (function, put in, came out), and the functions whose docstring is no row."""
    module = ast.parse(path.read_text())
    found, missing = [], []
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            put_in, arrow, came_out = (ast.get_docstring(node) or "").split("\n")[0].partition(" -> ")
            if arrow and put_in.strip() and came_out.strip() and " -> " not in came_out:
                found.append((node.name, put_in.strip(), came_out.strip()))
            else:
                missing.append(f"{path.name}::{node.name}")
    return sentence(ast.get_docstring(module) or path.stem).rstrip("."), found, missing


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in (head, *lines)]
    return [f"| {' | '.join(line)} |" for line in (cells[0], ["---"] * len(head), *cells[1:])]


def page(
    files: Sequence[Path],
    outcomes: Mapping[tuple[str, str], Counter],
    fuzz: dict | None = None,
    soak: dict | None = None,
) -> tuple[str, list[str]]:
    """The page as Markdown, and every row that fails; files: of tests, in the order of their headings."""
    parts, failed, of_all = [], [], Counter()
    for path in files:
        heading, found, missing = rows(path)
        failed += [f"{one} has no row: begin its docstring with 'put in -> came out'" for one in missing]
        lines = []
        for function, put_in, came_out in found:
            ends = outcomes.get((path.name, function), Counter())
            passes = ends["passed"] and not ends["failed"]
            if not passes:
                failed.append(f"{path.name}::{function}: {dict(ends) or 'did not run'}")
            left_out = f", {ends['skipped']} left out" if ends["skipped"] else ""
            of_all += ends + Counter(rows=1)
            cases = f"{ends['passed']} of {ends['passed'] + ends['failed']}{left_out}"
            lines.append((put_in, came_out, cases, "pass" if passes else "**FAIL**"))
        parts += ["", f"## {heading}", "", *table(("put in", "came out", "cases", ""), lines)]
    if fuzz:
        lines = [_fuzzed(reader, figures, failed) for reader, figures in sorted(fuzz["readers"].items())]
        parts += ["", "## Files broken at random, by reader", "", "`python tests/hostile/fuzz.py`", ""]
        parts += table(("reader", "cases", "read", "refused", "anything else", ""), lines)
    if soak:
        parts += ["", "## Many pictures in one process", "", *_soaked(soak, failed)]
    left_out = f", {of_all['skipped']} were left out" if of_all["skipped"] else ""
    summary = f"{of_all['rows']} rows; {of_all['passed']} cases passed, {of_all['failed']} failed{left_out}."
    return "\n".join([HEAD, summary, *parts]) + "\n", failed


def _fuzzed(reader: str, figures: dict, failed: list[str]) -> tuple:
    refused = ", ".join(f"{number:,} {name}" for name, number in figures["refused"].items())
    findings = len(figures["findings"])
    if findings:
        failed.append(f"fuzzing of {reader}: {findings} findings")
    ended = "**FAIL**" if findings else "pass"
    return reader, f"{figures['cases']:,}", f"{figures['accepted']:,}", refused or "none", findings or "none", ended


def _soaked(soak: dict, failed: list[str]) -> list[str]:
    passes = soak["growth_mib_per_1000"] <= soak["limit_mib_per_1000"]
    if not passes:
        failed.append("soak: memory grows")
    put_in = f"{soak['images']:,} scenes of many sizes, recipe {soak['recipe']}, models {soak['models']}"
    came_out = (
        f"memory grows by {soak['growth_mib_per_1000']:.1f} MiB in 1,000 images, of at most {soak['limit_mib_per_1000']}: "
        f"{soak['after_warm_up_mib']:.0f} MiB after the first 200, {soak['at_the_end_mib']:.0f} at the end, with the summary of all"
    )
    line = (put_in, came_out, "pass" if passes else "**FAIL**")
    return [
        "`python tests/hostile/soak.py --images 2000`",
        "",
        *table(("put in", "came out", ""), [line]),
        "",
        "![Resident memory against images](robustness/soak.png)",
    ]


def _figures(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/hostile/robustness.py", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="files of tests; all of this folder by default")
    parser.add_argument("--output", type=Path, default=REPORTS / "robustness.md")
    parser.add_argument("--fuzz", type=Path, default=REPORTS / "executed" / "fuzz.json", help="the fuzzing's figures")
    parser.add_argument("--soak", type=Path, default=REPORTS / "robustness" / "soak.json", help="the soak's figures")
    parser.add_argument("--processes", type=int, default=2, help="that run the tests")
    given = parser.parse_args(arguments)
    files = [path.resolve() for path in given.files] or sorted(HERE.glob("test_*.py"))
    fuzz, soak, outcomes = _figures(given.fuzz), _figures(given.soak), Outcomes()
    parallel = ["-n", str(given.processes), "--dist", "loadscope"] if given.processes > 1 else []
    ended = pytest.main([*map(str, files), f"--rootdir={ROOT}", *parallel], plugins=[outcomes])
    text, failed = page(files, outcomes.of_function, fuzz, soak)
    write_atomically(given.output, text)
    print(f"{given.output}: {'every row passes' if not failed else f'{len(failed)} rows fail'}", *failed, sep="\n  ")
    return int(bool(failed) or ended != pytest.ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
