"""Processes that start at one moment on one folder, and processes that are killed at any: the bytes stay those of one run."""

import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from tqdm import tqdm

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import evaluate
from fsdlib.project import ROOT

THRESHOLDS = (50, 100, 150, 200)  # each another configuration
FORKED = multiprocessing.get_context("fork")

# ------------------------------------------------------- run in a process of its own, which has used no thread to fork


def told(queue, barrier, dataset, method, folder, shard, replace):
    """Evaluate when all are ready, and tell how it ended."""
    barrier.wait()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            run = evaluate(dataset, method, folder, batch_size=2, shard=shard, replace=replace)
            queue.put("finished" if run.finished else "part")
        except Exception as error:
            queue.put(type(error).__name__)


def together(*jobs):
    """How each of the jobs ended, (dataset, method, folder, shard, replace), all begun at one moment."""
    queue, barrier = FORKED.Queue(), FORKED.Barrier(len(jobs))
    processes = [FORKED.Process(target=told, args=(queue, barrier, *job)) for job in jobs]
    for process in processes:
        process.start()
    ends = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return Counter(ends)


def killed_after(seconds, *job):
    process = FORKED.Process(target=told, args=(FORKED.Queue(), FORKED.Barrier(1), *job))
    process.start()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    kept = (path for path in files if path.name != "timing.json" and path.parent.name != "timings")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def main(what, base):
    from conftest import Brightness, write_pictures

    # tqdm's own lock is shared by forked processes, and stays taken where its holder is killed
    tqdm.set_lock(threading.RLock())

    class Slow(Brightness):
        def segment(self, *arguments):
            time.sleep(0.02)
            return super().segment(*arguments)

    dataset = open_dataset("folder", write_pictures(base / "pictures", [f"p{number:02d}" for number in range(24)]))
    whole = {}
    for threshold in THRESHOLDS:
        folder = base / f"whole-{threshold}"
        evaluate(dataset, Brightness(threshold), folder, batch_size=2)
        whole[threshold] = contents(folder)
    run = base / "run"
    random.seed(0)
    if what == "configurations":
        for number in range(6):
            run, replace = base / f"run-{number}", number % 2 == 0
            ends = together(*((dataset, Slow(threshold), run, "0/1", replace) for threshold in THRESHOLDS))
            assert ends["finished"] == 1 and ends["FolderInUse"] + ends["ValueError"] == 3, ends
            assert contents(run) in whole.values()
    elif what == "shards":
        for number in range(6):
            run = base / f"run-{number}"
            ends = together(*((dataset, Slow(50), run, f"{part}/4", False) for part in range(4)))
            assert ends["finished"] + ends["part"] == 4 and contents(run) == whole[50], ends
    elif what == "the same run":
        ends = together(*((dataset, Slow(50), run, "0/1", False) for _ in range(4)))
        assert ends == dict(finished=1, FolderInUse=3) and contents(run) == whole[50], ends
    elif what == "kills":
        for _ in range(50):
            killed_after(random.uniform(0, 0.15), dataset, Slow(50), run, "0/1", False)
        evaluate(dataset, Brightness(50), run, batch_size=2)
        assert contents(run) == whole[50]
    else:
        for number in range(50):
            killed_after(random.uniform(0, 0.3), dataset, Slow(THRESHOLDS[number % 2]), run, "0/1", True)
        evaluate(dataset, Brightness(150), run, batch_size=2, replace=True)
        assert contents(run) == whole[150]
    assert not (run / ".running").exists()


# --------------------------------------------------------------------------------------------- the tests


@pytest.mark.slow  # dozens of processes
@pytest.mark.parametrize("what", ["configurations", "shards", "the same run", "kills", "kills of replacements"])
def test_the_bytes_are_those_of_one_run(what, tmp_path):
    """four processes begun at one moment; 50 kills at random moments, also of runs that replace -> the bytes of one run"""
    command = [sys.executable, __file__, what, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
