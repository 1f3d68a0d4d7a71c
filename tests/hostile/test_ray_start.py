"""Ray is reached where its cluster asks for a token, started again where it was too slow, and what fails is one sentence."""

import os
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


@pytest.fixture(params=["a token", "no token"])
def address(request, home):
    """A cluster of one node, with sockets whose paths are short enough."""
    mode = {} if request.param == "a token" else dict(RAY_AUTH_MODE="disabled")
    port, place = free_port(), tempfile.mkdtemp(prefix="r", dir="/tmp")
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    command += [f"--temp-dir={place}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    with subprocess.Popen(command, env=home | mode, stdout=subprocess.DEVNULL, start_new_session=True) as head:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        time.sleep(3)  # the node itself comes after the port
        yield f"127.0.0.1:{port}"
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
