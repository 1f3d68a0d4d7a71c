"""Notebooks executed from a shell, and what is said where one ends before its end.

`python -m fsdlib.measure.notebook NOTEBOOK EXECUTED -p NAME VALUE ...` executes one, as papermill does. Without a notebook it
is `make eval`: 20_evaluate with the values of the environment's variables, which may hold any characters but line breaks.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from fsdlib.project import NOTEBOOKS, REPORTS

# what a variable of `make eval` is called in the notebook, where that is not its own name in small letters
_CALLED = dict(BATCH="batch_size")
_TEXTS = "MODELS RECIPE CHANGES DATASET ROOT CLASSES CAPTIONER CLIP BACKBONE STORE VOCABULARY DEVICE ENGINE SHARD OUTPUT".split()
_NUMBERS = ("LIMIT", "WORKERS", "BATCH", "BATCH_SECONDS", "THREADS", "REFINERS")
_SWITCHES = ("CENTRE_CROPS", "REPLACE")
VARIABLES = (*_TEXTS, *_NUMBERS, *_SWITCHES)
_DEFAULTS = dict(MODELS="mini", RECIPE="paper", DATASET="scenes", LIMIT="0")
_SENTENCES = (  # errors that say all there is to say
    "ConnectionError EvaluationFailed FileNotFoundError FolderInUse ImportError IncompleteDataset ModelUnavailable ValueError".split()
)


def execute(notebook: Path, executed: Path, parameters: Mapping[str, object], log: bool = False) -> None:
    """Execute a notebook with these parameters; what was executed is written to `executed` cell by cell.

    log: whether what it prints is printed here too. Raises SystemExit, which says in one line or two what went wrong:
    an error in a cell, or a kernel that was killed.
    """
    import papermill  # with the extra `notebooks`
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    executed.parent.mkdir(parents=True, exist_ok=True)
    # papermill takes what stands in braces for a parameter's name
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, executed)]
    try:
        papermill.execute_notebook(*paths, parameters=dict(parameters), progress_bar=False, log_output=log)
    except DeadKernelError as error:
        raise SystemExit(
            "error: the notebook's kernel was killed, most likely because memory ran out; what was finished before that is "
            "kept\nsay the same command again to go on (a smaller batch needs less memory)"
        ) from error
    except PapermillExecutionError as error:
        kind = "" if error.ename in _SENTENCES else f"{error.ename}: "
        raise SystemExit(f"error: {kind}{error.evalue}\n({executed} shows where)") from error
    except KeyboardInterrupt as error:
        raise SystemExit(
            "stopped; what was finished before that is kept: say the same command again to go on"
        ) from error


def evaluation(given: Mapping[str, str]) -> None:
    """`make eval` with the variables of an environment; the executed notebook lies in the run's folder in the end.

    Until then it lies in reports/executed: the folder may turn out to be another run's, or the dataset's.
    """
    parameters = evaluation_parameters(given)
    folder = Path(str(parameters["output"]))
    shard = f"-{given['SHARD'].replace('/', '-of-')}" if given.get("SHARD") else ""
    executed = REPORTS / "executed" / f"20_evaluate-{_safe(folder.name)[:100]}{_safe(shard)}.ipynb"
    execute(NOTEBOOKS / "20_evaluate.ipynb", executed, parameters, log=True)
    shutil.move(executed, folder / f"20_evaluate{_safe(shard)}.ipynb")


def evaluation_parameters(given: Mapping[str, str]) -> dict[str, object]:
    """Notebook 20's parameters from `make eval`'s variables; raises ValueError where one cannot be.

    >>> evaluation_parameters(dict(DATASET="voc12", BATCH="2"))["batch_size"]
    2
    """
    said = _DEFAULTS | {name: given[name] for name in VARIABLES if given.get(name)}
    for name, text in said.items():
        if any(letter < " " or "\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"{name} is {text!r}: give it without line breaks, in UTF-8; rename a folder that is called so"
            )
    parameters: dict[str, object] = {_CALLED.get(name, name.lower()): text for name, text in said.items()}
    for name in _NUMBERS:
        if re.fullmatch(r"-?[0-9]+", said.get(name, "")):  # what is none is refused by the notebook
            parameters[_CALLED.get(name, name.lower())] = int(said[name])
    for name in _SWITCHES:
        if name in said:
            parameters[name.lower()] = _switch(name, said[name])
    output = said.get("OUTPUT") or REPORTS / "runs" / run_name(said)
    return parameters | dict(output=str(Path(output).absolute()))


def _switch(name: str, text: str) -> bool:
    known = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)
    if text.lower() not in known:
        raise ValueError(f"{name} is {text!r}: give True or False")
    return known[text.lower()]


def run_name(said: Mapping[str, str]) -> str:
    """What a run's folder is called where OUTPUT says nothing: all that tells its configuration from another's.

    Of a folder of one's own its name and a hash of where it lies, and of its class list where that lies elsewhere.

    >>> run_name(dict(DATASET="voc12", MODELS="sd14", RECIPE="paper", CHANGES="clusters.count=8 refinement=none"))
    'voc12-sd14-paper-clusters.count=8-refinement=none'
    """
    parts = [said["DATASET"]]
    if said["DATASET"] == "folder" and said.get("ROOT"):
        places = [str(Path(said[name]).resolve()) for name in ("ROOT", "CLASSES") if said.get(name)]
        parts += [Path(places[0]).name[:40], _hash(json.dumps(places))]
    parts += ["centre"] if "CENTRE_CROPS" in said and _switch("CENTRE_CROPS", said["CENTRE_CROPS"]) else []
    parts += [said["MODELS"], *(said.get(part, "") for part in ("CAPTIONER", "CLIP", "BACKBONE")), said["RECIPE"]]
    parts += [said.get("CHANGES", ""), said.get("VOCABULARY", "")]
    parts += [f"first{said['LIMIT']}"] if said.get("LIMIT", "0") != "0" else []
    name = _safe("-".join(filter(None, parts)))
    return name if len(name) <= 160 else f"{name[:140]}-{_hash(name)}"


def _safe(text: str) -> str:
    """In letters that any shell and any file system leaves alone."""
    return re.sub("[^A-Za-z0-9.=_-]", "-", text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fsdlib.measure.notebook",
        description="Execute a notebook; without one, evaluate, as `make eval` does, with the variables of the environment.",
    )
    parser.add_argument("notebook", nargs="?", type=Path)
    parser.add_argument("executed", nargs="?", type=Path, help="where what was executed goes")
    parser.add_argument("-p", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[], help="a parameter")
    parser.add_argument("-r", nargs=2, metavar=("NAME", "TEXT"), action="append", default=[], help="one that is text")
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if a.notebook is None:
        try:
            evaluation(os.environ)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
        return
    if a.executed is None:
        parser.error("where does the executed notebook go? Give a second path")
    execute(a.notebook, a.executed, {name: _read(value) for name, value in a.p} | dict(a.r))


def _read(value: str) -> object:
    """A parameter's value: a whole number, a switch, or text."""
    if re.fullmatch(r"-?[0-9]+", value):
        return int(value)
    return {"True": True, "False": False}.get(value, value)


if __name__ == "__main__":
    main()
