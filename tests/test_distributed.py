"""The Ray engine: two actors do what one process does, byte for byte, though one of them be killed."""

import os
import signal
import threading
import time

import pytest
from workers_of_ray import workers

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import ModelSet, ModelUnavailable
from fsdlib.recipe import PAPER
from fsdlib.world.scenes import write_scenes

pytest.importorskip("ray", reason="Ray is not installed")

pytestmark = pytest.mark.slow  # starts Ray, whose actors load models of their own

SCENES = 10
METHOD = FreeSegDiff(ModelSet("mini", "cpu"), PAPER)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset("scenes", write_scenes(tmp_path_factory.mktemp("scenes"), val=SCENES, side=96))


@pytest.fixture(scope="module")
def local(dataset, tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("runs") / "local"
    evaluate(dataset, METHOD, folder, batch_size=2)
    return contents(folder)


def test_two_actors_make_the_same_bytes_as_one_process(dataset, local, tmp_path, contents):
    evaluate(dataset, METHOD, tmp_path, batch_size=2, engine="ray", workers=2)
    assert contents(tmp_path) == local


def test_an_actor_that_is_killed_loses_nothing(dataset, local, tmp_path, contents):
    killed = []

    def kill_one_when_a_result_is_there():
        deadline = time.monotonic() + 300
        while not killed and time.monotonic() < deadline:
            if list(tmp_path.glob("images/val*.json")) and (found := workers()):
                victim = max(found)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
            time.sleep(0.02)

    watcher = threading.Thread(target=kill_one_when_a_result_is_there)
    watcher.start()
    evaluate(dataset, METHOD, tmp_path, batch_size=2, engine="ray", workers=2)
    watcher.join()
    assert killed and contents(tmp_path) == local


def test_a_model_that_cannot_be_loaded_ends_the_run_with_its_own_words(dataset, tmp_path):
    class Unloadable:  # within the test, so that it travels whole
        def configuration(self):
            return dict(method="unloadable")

        def segment(self, images, vocabulary, present, seed):
            raise ModelUnavailable("model.safetensors is cut: fetch it again")

    with pytest.raises(ModelUnavailable, match="^model.safetensors is cut: fetch it again$"):
        evaluate(dataset, Unloadable(), tmp_path, batch_size=2, engine="ray", workers=1)
    assert not list(tmp_path.glob("images/*")) and not (tmp_path / ".running").exists()


def test_a_finished_run_starts_no_cluster(dataset, local, tmp_path, monkeypatch, contents):
    evaluate(dataset, METHOD, tmp_path, batch_size=2)
    monkeypatch.setattr("ray.init", None)
    evaluate(dataset, METHOD, tmp_path, batch_size=2, engine="ray")
    assert contents(tmp_path) == local
