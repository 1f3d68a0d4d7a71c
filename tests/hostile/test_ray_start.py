"""Ray is reached where its cluster asks for a token, started again where it was too slow, and what fails is one sentence."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fsdlib.measure import on_ray
from fsdlib.project import ROOT

pytest.importorskip("ray", reason="Ray is not installed")

TOKEN = "0123456789abcdef" * 4
PROGRAM = """
import ray
from fsdlib.measure.on_ray import _cluster

try:
    with _cluster(ray, 1):
        print("nodes", len(ray.nodes()))
except ConnectionError as error:
    print("error", error)
"""


class Slow:
    """Ray, as far as a start goes: too slow `times` times."""

    def __init__(self, times):
        self.times, self.asked, self.ended = times, [], 0

    def init(self, **options):
        self.asked.append(options)
        if len(self.asked) <= self.times:
            raise Exception("The current node timed out during startup. This could happen because.\nMore")

    def shutdown(self):
        self.ended += 1


def test_a_start_that_was_too_slow_is_tried_again(monkeypatch):
    """Ray's start that is too slow twice -> tried a third time, each after a shutdown"""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    slow = Slow(2)
    on_ray._start(slow, 5)
    assert len(slow.asked) == 3 and slow.ended == 2
    assert all(options["address"] == "local" and options["num_cpus"] == 5 for options in slow.asked)


def test_a_start_that_stays_too_slow_is_said_in_a_sentence(monkeypatch):
    """Ray's start that is always too slow -> after three times one sentence, with what to do"""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConnectionError) as told:
        on_ray._start(Slow(99), 5)
    assert str(told.value) == (
        "Ray did not start on this machine, 3 times (The current node timed out during startup. This could happen "
        "because): try again when it is less busy, or take fewer workers or engine 'local'"
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def home(tmp_path):
    """A home with a token in it, and an environment for Ray that knows no other."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(TOKEN)
    rest = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return rest | dict(HOME=str(tmp_path), PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1")


def started(place, environment):
    """A cluster's head with its address; None where Ray gave up, as it does where the machine is too busy."""
    port = free_port()
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    command += [f"--temp-dir={place}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    said = open(Path(place) / "said", "w+")
    head = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
    until = time.monotonic() + 120
    while head.poll() is None and time.monotonic() < until:
        if "Ray runtime started" in Path(said.name).read_text():
            return head, f"127.0.0.1:{port}"
        time.sleep(0.2)
    head.kill()
    head.wait()
    return None


@pytest.fixture(params=["a token", "no token"])
def address(request, home):
    """A cluster of one node, with sockets whose paths are short enough; as `on_ray` does, a slow start is tried again."""
    mode = {} if request.param == "a token" else dict(RAY_AUTH_MODE="disabled")
    for _ in range(3):
        place = tempfile.mkdtemp(prefix="r", dir="/tmp")
        request.addfinalizer(functools.partial(shutil.rmtree, place, ignore_errors=True))
        found = started(place, home | mode)
        if found:
            break
    else:
        pytest.fail("Ray did not start, 3 times")
    head, where = found
    yield where
    head.send_signal(signal.SIGTERM)
    head.wait(30)


def connected(environment):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240
    ).stdout


@pytest.mark.slow
def test_a_named_cluster_is_reached_whether_it_asks_for_a_token_or_not(address, home):
    """a cluster that asks for a token, and one that does not -> reached"""
    assert connected(home | dict(RAY_ADDRESS=address)) == "nodes 1\n"


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_in_a_sentence(home):
    """the address of no cluster -> one sentence that names it"""
    said = connected(home | dict(RAY_ADDRESS=f"127.0.0.1:{free_port()}"))
    assert (
        said.startswith("error Ray cannot reach the cluster that RAY_ADDRESS names, 127.0.0.1:")
        and len(said.splitlines()) == 1
    )
