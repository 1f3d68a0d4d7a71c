"""`make eval` takes any characters to the letter, names folders that never meet, and says in a line or two what went wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from fsdlib.measure.notebook import VARIABLES, evaluation_parameters, run_name
from fsdlib.project import ROOT
from fsdlib.world.scenes import scene_of_split

BIN = Path(sys.executable).parent
HARD = "my \"pictures\" $x $(pwd) ${HOME} {a} 'b' `c` #1 100% d\\e 🐈 ;&|<>*?!~"
CLASSES = ("dog $x^2$", "{cat} \"q\" 'r'", "50% #1 \\textbf{a} ~_&<b>", "🐈 猫", "NA", "7")


def folder_of(root, names=("one",)):
    """Scenes, small ones, as a folder of one's own with hard names for its classes."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, name in enumerate(names):
        scene = scene_of_split("val", number)
        Image.fromarray(scene.image).resize((64, 64)).save(root / "images" / f"{name}.png")
        labels = Image.fromarray(scene.labels).resize((64, 64), Image.Resampling.NEAREST)
        labels.point(lambda value: value and 1 + value % len(CLASSES)).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    return root


def make(*said, bin=BIN, **environment):
    command = ["make", "-o", ".venv/installed", f"BIN={bin}", *said]
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # of a make around this one
    own |= dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") | environment
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)


@pytest.fixture
def heard(tmp_path):
    """What the command that make runs hears of its variables."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    python.chmod(0o755)

    def hear(*said, **environment):
        answer = make(*said, bin=tmp_path, **environment)
        assert answer.returncode == 0, answer.stderr
        arguments, heard = json.loads(answer.stdout)
        assert arguments == ["-m", "fsdlib.measure.notebook"]
        return {name: heard.get(name, "") for name in VARIABLES}

    return hear


def test_make_hands_every_variable_over_to_the_letter(heard):
    """quotes, dollars, braces, backslashes, percent signs and an emoji in every variable of `make eval` -> handed over to the letter"""
    said = {name: f"{HARD} of {name}" for name in VARIABLES}
    assert heard("eval", *(f"{name}={text}" for name, text in said.items())) == said
    assert heard("eval", **said) == said  # from the environment
    assert heard("eval") == dict.fromkeys(VARIABLES, "") | dict(MODELS="mini")


def test_what_is_said_becomes_the_notebooks_parameters(tmp_path):
    """variables as make hands them over, all texts -> the notebook's parameters, in their types"""
    found = evaluation_parameters(
        dict(ROOT=HARD, DATASET="folder", BATCH="2", CENTRE_CROPS="True", REPLACE="no", OUTPUT=str(tmp_path / HARD))
    )
    assert found == dict(
        models="mini",
        recipe="paper",
        dataset="folder",
        root=HARD,
        batch_size=2,
        centre_crops=True,
        replace=False,
        limit=0,
    ) | dict(output=str(tmp_path / HARD))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (dict(ROOT="a\nb"), r"ROOT is 'a\\nb': give it without line breaks"),
        (dict(OUTPUT="a\udcff"), r"OUTPUT is 'a\\udcff': give it without line breaks, in UTF-8"),
        (dict(REPLACE="perhaps"), "REPLACE is 'perhaps': give True or False"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(said, told):
    """a line break, no UTF-8, neither True nor False -> refused with the variable's name"""
    with pytest.raises(ValueError, match=told):
        evaluation_parameters(said)


def test_names_of_folders_are_as_they_were_where_nothing_new_is_said():
    """models, recipe, dataset and limits of a benchmark -> the folder's name says these, as it always did"""
    told = dict(MODELS="mini", RECIPE="paper", DATASET="voc12", ROOT="/data/VOC2012")
    assert run_name(told) == "voc12-mini-paper"
    assert (
        run_name(told | dict(VOCABULARY="open", LIMIT="8", CENTRE_CROPS="1")) == "voc12-centre-mini-paper-open-first8"
    )
    assert run_name(told | dict(LIMIT="0", CENTRE_CROPS="False")) == "voc12-mini-paper"


def test_all_that_tells_two_runs_apart_is_in_their_folders_names(tmp_path):
    """15 commands, no two alike, two differing after 300 digits -> 15 folders' names in plain letters, 170 at most"""
    told = dict(MODELS="sd14", RECIPE="paper", DATASET="folder", ROOT=str(tmp_path / "a/my pictures 🐈"))
    others = [
        dict(ROOT=str(tmp_path / "b/my pictures 🐈")), dict(CLASSES="other.txt"), dict(CAPTIONER="blip2"),
        dict(CLIP="blip2", CAPTIONER="x"), dict(CLIP="convnext-large"), dict(CHANGES="clusters.count=8"),
        dict(CHANGES=f"clusters.count={'8' * 300}"), dict(CHANGES=f"clusters.count={'8' * 301}"), dict(LIMIT="3"),
        dict(CENTRE_CROPS="True"), dict(MODELS="mini"), dict(RECIPE="best"), dict(VOCABULARY="open"),
        dict(BACKBONE="dinov2"),
    ]  # fmt: skip
    names = [run_name(told | other) for other in [{}, *others]]
    assert len(set(names)) == len(names) and all(re.fullmatch("[A-Za-z0-9.=_-]{1,170}", name) for name in names)
    assert re.fullmatch("folder-my-pictures---[0-9a-f]{8}-sd14-paper", names[0])
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a")
    assert run_name(told | dict(ROOT=str(link / "my pictures 🐈"))) == names[0]  # the same folder by another way


@pytest.mark.slow
def test_an_evaluation_of_hard_names_from_make_to_files_and_a_refusal_that_make_can_follow(tmp_path, everything):
    """`make eval` on folders, pictures and classes with hard names; another configuration -> done; refused in a line, nothing touched"""
    root, output = folder_of(tmp_path / HARD, ("a $b$ 'c'", '{x} "y" 🐈')), tmp_path / f"out {HARD}"
    before = everything(root)
    said = "eval", "DATASET=folder", f"ROOT={root}", f"OUTPUT={output}", "BATCH=2"
    answer = make(*said)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    summary, kept = json.loads((output / "summary.json").read_text()), everything(output)
    assert summary["images"] == 2 and set(CLASSES) <= set(summary["iou_of_classes"])
    assert {"20_evaluate.ipynb", "class_iou.png", "best_and_worst.png", "first_ten.png"} <= kept.keys()
    assert "UserWarning" not in answer.stderr, answer.stderr
    refused = make(*said, "CHANGES=clusters.count=3")
    assert refused.returncode and "Traceback" not in refused.stderr
    assert re.search(
        r"^error: .* holds results of another configuration: .*OUTPUT=FOLDER.*REPLACE=True", refused.stderr, re.M
    )
    assert everything(output) == kept and everything(root) == before
    inside = make(*said[:-2], f"OUTPUT={root / 'masks'}")
    assert inside.returncode and "choose another output folder" in inside.stderr and everything(root) == before
    replaced = make(*said, "CHANGES=clusters.count=3", "REPLACE=True")
    assert replaced.returncode == 0 and json.loads((output / "summary.json").read_text())["hash"] != summary["hash"]


@pytest.mark.slow
def test_a_killed_kernel_is_said_in_two_lines_and_the_same_command_goes_on(tmp_path):
    """`make eval` whose kernel is killed, then the same command -> two lines say what to do, and the run goes on"""
    root, output = folder_of(tmp_path / "pictures", [f"p{number}" for number in range(12)]), tmp_path / "out"
    command = ["make", "-o", ".venv/installed", f"BIN={BIN}", "eval", "DATASET=folder", f"ROOT={root}"]
    command += [f"OUTPUT={output}", "BATCH=1"]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 120
        while not list(output.glob("images/*.json")) and time.monotonic() < until:
            time.sleep(0.02)
        family = psutil.Process(running.pid).children(recursive=True)
        kernel = next(one for one in family if any("ipykernel" in word for word in one.cmdline()))
        kernel.send_signal(signal.SIGKILL)
        _, said = running.communicate(timeout=60)
    told = said[said.index("error: ") :].splitlines()
    assert running.returncode and "Traceback" not in said
    assert "kernel was killed" in told[0] and "is kept" in told[0] and "say the same command again" in told[1]
    assert [line for line in told[2:] if not line.startswith("make")] == []
    done = {path: path.stat().st_mtime_ns for path in output.glob("images/*.json")}
    assert 0 < len(done) < 12
    again = make(*command[4:])
    assert again.returncode == 0, again.stderr
    assert json.loads((output / "summary.json").read_text())["images"] == 12
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())


def test_the_macro_of_all_notebooks_says_an_error_in_a_line(tmp_path):
    """a notebook with an error -> the error in one line, and the notebook as far as it came"""
    notebook = tmp_path / "n.ipynb"
    cell = dict(
        cell_type="code", execution_count=None, id="a", metadata={}, outputs=[], source="raise ValueError('so it is')"
    )
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
    notebook.write_text(json.dumps(dict(cells=[cell], metadata=kernel, nbformat=4, nbformat_minor=5)))
    command = [sys.executable, "-m", "fsdlib.measure.notebook", notebook, tmp_path / "{executed}.ipynb"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1 and "error: so it is\n" in answer.stderr and "Traceback" not in answer.stderr
    assert "so it is" in (tmp_path / "{executed}.ipynb").read_text()
