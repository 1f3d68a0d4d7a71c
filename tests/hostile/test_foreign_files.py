"""Files that are not ours: a run overwrites and deletes nothing that it did not write itself, and shares with no other."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fsdlib.measure.claim import FolderInUse
from fsdlib.measure.run import evaluate
from fsdlib.project import ROOT


@pytest.fixture
def other(method):
    """The method in another configuration."""
    return type(method)(threshold=64)


def during(method, act):
    """The method, but before its second batch `act` is called."""
    segment, calls = method.segment, []

    def watched(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            act()
        return segment(*arguments)

    method.segment = watched
    return method


# --------------------------------------------------------------------------------------------- where results may go


@pytest.mark.parametrize("where", [".", "images", "results", "masks/deeper", ".."])
def test_a_folder_equal_to_inside_or_around_the_dataset_is_refused_before_anything_is_touched(
    where, dataset, method, tmp_path, everything
):
    """an output folder that is, holds or lies in the dataset's, also with replace -> refused, nothing touched"""
    before = everything(tmp_path)
    for replace in (False, True):
        with pytest.raises(ValueError, match="dataset's folder .* choose another output folder"):
            evaluate(dataset, method, dataset.root / where, replace=replace)
    assert everything(tmp_path) == before


def test_a_folder_that_leads_into_the_dataset_by_a_link_is_refused(dataset, method, tmp_path, everything):
    """an output folder that leads into the dataset by a link or .. -> refused, nothing touched"""
    (tmp_path / "link").symlink_to(dataset.root)
    before = everything(dataset.root)
    for folder in (tmp_path / "link", tmp_path / "link" / "new", tmp_path / "elsewhere" / ".." / "pictures"):
        with pytest.raises(ValueError, match="dataset's folder"):
            evaluate(dataset, method, folder, replace=True)
    assert everything(dataset.root) == before


@pytest.mark.parametrize(
    "name", ["images/cat.png", "labels/p1.png", "timings/x", "images.csv", "summary.json", "run.json"]
)
@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_with_others_files_under_a_runs_names_is_refused(name, replace, dataset, method, tmp_path, everything):
    """a folder with others' images/, labels/ or summary.json -> refused, nothing touched"""
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"theirs": 1}')
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=f"holds {name.split('/')[0]}, and no record that a run wrote that"):
        evaluate(dataset, method, tmp_path / "theirs", replace=replace)
    assert everything(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_refused(dataset, method, tmp_path):
    """a file in the place of the output folder -> refused"""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        evaluate(dataset, method, tmp_path / "run")


def test_files_under_other_names_stay_whatever_happens(dataset, method, other, tmp_path):
    """notes and hidden files in the output folder, then replace -> they stay"""
    run = tmp_path / "run"
    theirs = [run / "notes.txt", run / ".env", run / "labels.txt"]
    run.mkdir()
    for path in theirs:
        path.write_text("mine")
    evaluate(dataset, method, run)
    evaluate(dataset, other, run, replace=True)
    assert [path.read_text() for path in theirs] == ["mine"] * 3


# --------------------------------------------------------------------------------------------- replacing


def test_replacing_deletes_what_the_runs_own_record_says_it_wrote_and_nothing_else(
    dataset, method, other, tmp_path, everything
):
    """others' files within images/ and labels/ of a run, then replace -> they stay, and what the run wrote goes"""
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    evaluate(dataset, method, run)
    theirs = [
        "images/cat.png",
        "images/notes.json",
        "labels/holiday.png",
        "labels/.keep",
        "timings/sub/a.json",
        "labels/p9.png",
    ]
    for name in theirs:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("{}")
    evaluate(dataset, other, fresh, limit=2)
    evaluate(dataset, other, run, limit=2, replace=True)
    assert everything(run).keys() == everything(fresh).keys() | set(theirs) | {"timings/sub"}
    assert {(run / name).read_text() for name in theirs} == {"{}"}
    assert json.loads((run / "images/p0.json").read_text()) == json.loads((fresh / "images/p0.json").read_text())


def test_a_folder_whose_run_json_was_lost_still_belongs_to_its_configuration(
    dataset, method, other, tmp_path, contents
):
    """a run that lost run.json, or the summary too -> another configuration is refused, its own goes on"""
    run = evaluate(dataset, method, tmp_path / "run").folder
    before = contents(run)
    for lost in (["run.json"], ["run.json", "summary.json"]):
        for name in lost:
            (run / name).unlink()
        with pytest.raises(ValueError, match="results of another configuration"):
            evaluate(dataset, other, run)
        evaluate(dataset, method, run)
        assert contents(run) == before


def test_a_folder_that_kept_only_its_tables_belongs_to_its_configuration(dataset, method, other, tmp_path):
    """a run of which only the tables are kept -> another configuration is refused, unless with replace"""
    run = evaluate(dataset, method, tmp_path / "run").folder
    for path in [run / "run.json", *run.glob("*/*")]:
        path.unlink()
    with pytest.raises(ValueError, match="results of another configuration"):
        evaluate(dataset, other, run)
    evaluate(dataset, other, run, limit=1, replace=True)
    assert json.loads((run / "summary.json").read_text())["threshold"] == 64


@pytest.mark.parametrize(
    "given",
    [
        dict(replace="no"),
        dict(replace=1),
        dict(replace=None),
        dict(limit=0),
        dict(limit="8"),
        dict(limit=True),
        dict(seed=-1),
        dict(seed=1.0),
        dict(batch_size=0),
        dict(workers="two"),
        dict(threads=0),
        dict(tolerated_failures="1 %"),
        dict(tolerated_failures=True),
        dict(tolerated_failures=float("nan")),
        dict(tolerated_failures=1.5),
        dict(shard=None),
    ],
    ids=str,
)
def test_parameters_are_checked_for_their_type_before_anything_is_touched(
    given, dataset, method, other, tmp_path, everything
):
    """parameters of another type, replace="no" among them, for a folder with results -> refused, nothing touched"""
    evaluate(dataset, method, tmp_path / "run", limit=1)
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=f"^{next(iter(given))} is .*: (write|give) "):
        evaluate(dataset, other, tmp_path / "run", **given)
    assert everything(tmp_path) == before


# --------------------------------------------------------------------------------------------- what is left over


def test_hidden_files_and_folders_stay_and_disturb_nobody(dataset, method, tmp_path):
    """hidden files and folders in every place of a run -> they stay, and the run finishes"""
    run = tmp_path / "run"
    evaluate(dataset, method, run, limit=2)
    names = (
        ".env",
        "project/.env",
        "images/.gitignore",
        "images/.ipynb_checkpoints/p0.json",
        "labels/.p4.png.a1b2c3d4",
    )
    theirs = [run / name for name in names]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert evaluate(dataset, method, run).finished
    assert [path.read_text() for path in theirs] == ["mine"] * 5


def test_what_is_being_written_lies_where_nobody_else_writes_and_goes_with_the_run(
    dataset, method, tmp_path, monkeypatch
):
    """a run watched as it writes -> all goes by way of .running, which is gone at the end"""
    run, seen = tmp_path / "run", []

    def replaced(source, target, real=os.replace):
        seen.append(Path(source).parent)
        return real(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    evaluate(dataset, method, run)
    assert set(seen) == {run / ".running"} and not (run / ".running").exists()


def test_what_a_killed_run_left_goes_with_the_next_and_others_files_stay(dataset, method, tmp_path, contents):
    """half a file that a killed run left, others' files beside it -> the half goes with the next run, the others stay"""
    run, whole = tmp_path / "run", tmp_path / "whole"
    evaluate(dataset, method, run, limit=2)
    (run / ".running").mkdir()
    (run / ".running/.p3.png.a1b2c3d4").write_bytes(b"half")
    evaluate(dataset, method, run)
    assert not (run / ".running").exists()
    evaluate(dataset, method, whole)
    assert contents(run) == contents(whole)
    (run / ".running").mkdir()
    (run / ".running/.p3.png.a1b2c3d4").write_bytes(b"half")
    (run / ".running/notes.txt").write_text("mine")
    evaluate(dataset, method, run)
    assert [path.name for path in (run / ".running").iterdir()] == ["notes.txt"]


def test_a_run_that_ends_leaves_what_another_is_writing(dataset, method, tmp_path):
    """a shard that ends while another writes -> what the other is writing stays"""
    run, kept = tmp_path / "run", []

    def another_shard_comes_and_goes():
        half = run / ".running/.p5.json.a1b2c3d4"
        half.write_text("being written")
        evaluate(dataset, type(method)(), run, batch_size=1, shard="1/2")
        kept.append(half.exists())

    evaluate(dataset, during(method, another_shard_comes_and_goes), run, batch_size=1, shard="0/2")
    assert kept == [True] and not (run / ".running").exists()


# --------------------------------------------------------------------------------------------- two at once


@pytest.mark.parametrize("shards", [("0/1", "0/1"), ("0/2", "0/2"), ("0/2", "0/3"), ("0/1", "1/2")], ids=str)
def test_a_second_run_says_who_is_there_and_stops(shards, dataset, method, tmp_path, contents):
    """a second run in the folder of one at work, shards that overlap -> refused with the process and host"""
    run, refused = tmp_path / "run", []

    def second():
        with pytest.raises(FolderInUse, match=f"process {os.getpid()} on host {platform.node()}.*shard {shards[0]}"):
            evaluate(dataset, type(method)(), run, batch_size=1, shard=shards[1])
        refused.append(True)

    evaluate(dataset, during(method, second), run, batch_size=1, shard=shards[0])
    assert refused
    evaluate(dataset, type(method)(), run, batch_size=1)
    evaluate(dataset, type(method)(), tmp_path / "whole", batch_size=1)
    assert contents(run) == contents(tmp_path / "whole")


def test_a_replacement_during_a_run_is_refused_and_the_run_loses_nothing(dataset, method, other, tmp_path, contents):
    """replace in the folder of a run at work -> refused, and the run ends with its own bytes"""
    run, refused = tmp_path / "run", []

    def replacement():
        for shard in ("0/1", "1/2"):
            with pytest.raises(FolderInUse, match="at work in"):
                evaluate(dataset, other, run, batch_size=1, shard=shard, replace=True)
            refused.append(shard)

    evaluate(dataset, during(method, replacement), run, batch_size=1)
    assert len(refused) == 2
    evaluate(dataset, type(method)(), tmp_path / "whole", batch_size=1)
    assert contents(run) == contents(tmp_path / "whole")


def test_shards_of_one_run_share_the_folder(dataset, method, tmp_path, contents):
    """three shards in one folder, one within the other -> the bytes of one run"""
    run = tmp_path / "run"

    def others():
        for shard in ("1/3", "2/3"):
            evaluate(dataset, type(method)(), run, batch_size=1, shard=shard)

    assert evaluate(dataset, during(method, others), run, batch_size=1, shard="0/3").finished
    evaluate(dataset, type(method)(), tmp_path / "whole", batch_size=1)
    assert contents(run) == contents(tmp_path / "whole")


def test_a_run_that_was_interrupted_leaves_the_folder_free(dataset, method, tmp_path):
    """a keyboard interrupt within a run -> the folder is free, and the next run finishes"""

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(dataset, during(method, interrupt), tmp_path / "run", batch_size=1)
    assert not (tmp_path / "run/.running").exists()
    assert evaluate(dataset, type(method)(), tmp_path / "run").finished


@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.ENOLCK], ids=["flock", "no flock", "no lock server"])
def test_where_there_are_no_locks_of_the_kernel_files_stand_for_them(code, dataset, method, tmp_path, monkeypatch):
    """a file system without locks -> a second run is refused all the same"""
    if code:

        def flock(descriptor, operation):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)
    run, refused = tmp_path / "run", []

    def second():
        with pytest.raises(FolderInUse, match=f"process {os.getpid()} on host"):
            evaluate(dataset, type(method)(), run, batch_size=1)
        refused.append(True)

    assert evaluate(dataset, during(method, second), run, batch_size=1).finished
    assert refused and not (run / ".running").exists()


KILLED = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "tests/hostile")
from conftest import Brightness
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import evaluate


class Slow(Brightness):
    def segment(self, images, vocabulary, present, seed):
        if Path(sys.argv[2], "images/p0.json").exists():
            time.sleep(600)
        return super().segment(images, vocabulary, present, seed)


evaluate(open_dataset("folder", sys.argv[1]), Slow(), sys.argv[2], batch_size=1)
"""


def test_the_lock_of_a_killed_process_is_stale_and_that_of_a_living_one_is_not(dataset, method, tmp_path, contents):
    """the lock of a living process, then of a killed one -> refused, then the bytes of one run"""
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(dataset.root), str(run)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (run / "images/p0.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(FolderInUse, match=f"process {process.pid} on host {platform.node()}"):
        evaluate(dataset, method, run, batch_size=1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (run / ".running/0-of-1.json").exists()  # what it could not take along
    evaluate(dataset, method, run, batch_size=1)
    evaluate(dataset, method, tmp_path / "whole", batch_size=1)
    assert contents(run) == contents(tmp_path / "whole") and not (run / ".running").exists()
