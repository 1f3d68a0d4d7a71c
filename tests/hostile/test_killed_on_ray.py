"""Ray's workers and its drivers, killed at random moments: the bytes stay those of one process."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from six_pictures import Brightness, write_pictures
from workers_of_ray import workers

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import configuration, evaluate
from fsdlib.project import ROOT

KILLS = 50
DRIVERS = 3
THRESHOLDS = (50, 100)  # each another configuration

# ------------------------------------------------------- run in a process of its own, whose descendants alone are killed


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    kept = (path for path in files if path.name != "timing.json" and path.parent.name != "timings")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def slow(threshold):
    """The method that needs no model, with time to be killed in."""

    class Slow(Brightness):
        def segment(self, *arguments):
            time.sleep(0.2)
            return super().segment(*arguments)

    return Slow(threshold)


def run_on_ray(base, threshold):
    """What a driver does that will be killed."""
    dataset = open_dataset("folder", base / "pictures")
    evaluate(dataset, slow(threshold), base / "run", batch_size=1, engine="ray", workers=2, replace=True)


def kill_workers(dataset, base, whole):
    killed, done = [], threading.Event()

    def kill_at_random_moments():
        while len(killed) < KILLS and not done.wait(random.uniform(0, 1)):
            if found := workers():
                killed.append(random.choice(found))
                with suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    watcher = threading.Thread(target=kill_at_random_moments)
    watcher.start()
    try:
        for number in range(10):
            folder = base / f"run-{number}"
            evaluate(dataset, slow(50), folder, batch_size=1, engine="ray", workers=2)
            assert contents(folder) == whole[50] and not (folder / ".running").exists()
            if len(killed) >= KILLS:
                break
    finally:
        done.set()
        watcher.join()
    assert len(killed) == KILLS, killed


def kill_drivers(dataset, base, whole):
    run = base / "run"
    for number in range(DRIVERS):
        threshold = THRESHOLDS[number % 2]
        digest = configuration(dataset, Brightness(threshold))["hash"]
        driver = subprocess.Popen([sys.executable, __file__, "a driver", str(base), str(threshold)], cwd=ROOT)
        # workers of the driver before write on for a moment, rows of the other configuration
        while driver.poll() is None and not any(digest in row.read_text() for row in run.glob("images/p*.json")):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 2))
        driver.kill()
        driver.wait()
    evaluate(dataset, Brightness(threshold), run, batch_size=1)
    assert contents(run) == whole[threshold] and not (run / ".running").exists()


def main(what, base):
    dataset = open_dataset("folder", write_pictures(base / "pictures", [f"p{number:03d}" for number in range(40)]))
    whole = {}
    for threshold in THRESHOLDS:
        evaluate(dataset, Brightness(threshold), base / f"whole-{threshold}", batch_size=1)
        whole[threshold] = contents(base / f"whole-{threshold}")
    random.seed(0)
    {"workers": kill_workers, "drivers": kill_drivers}[what](dataset, base, whole)


# --------------------------------------------------------------------------------------------- the tests


@pytest.mark.slow  # starts Ray, and dozens of workers
@pytest.mark.parametrize("what", ["workers", "drivers"])
def test_the_bytes_are_those_of_one_process(what, tmp_path):
    """50 kills of Ray's workers; kills of drivers, after which another configuration takes the folder -> the bytes of one process"""
    pytest.importorskip("ray", reason="Ray is not installed")
    command = [sys.executable, __file__, what, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]


if __name__ == "__main__":
    if sys.argv[1] == "a driver":
        run_on_ray(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
