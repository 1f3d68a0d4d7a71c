"""What accepts and never answers: a hub, a worker of Ray."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fsdlib.measure.run import EvaluationFailed, evaluate
from fsdlib.measure.segmenters import Prediction
from fsdlib.measure.summary import sealed
from fsdlib.project import ROOT

pytestmark = pytest.mark.slow  # waits


@pytest.fixture
def silent():
    """The address of a server that takes every connection and says nothing."""
    server, held = socket.create_server(("127.0.0.1", 0)), []

    def take():
        while True:
            try:
                held.append(server.accept())
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


def test_a_silent_hub_is_an_error_within_a_minute(silent, tmp_path):
    """a hub that accepts and never answers -> the model, the error and the remedy in one sentence, within a minute"""
    own = dict(HF_ENDPOINT=silent, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    command, begun = [sys.executable, "-m", "fsdlib.models", "sd14"], time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, timeout=100)
    assert time.monotonic() - begun < 60 and done.returncode == 1
    assert "the hub cannot be reached, gives no answer or refuses (ReadTimeout): run `make fetch" in done.stderr
    assert "Traceback" not in done.stderr


def hanging_at(picture, marker=None):
    """The method of these tests, but it hangs at `picture` in native code that lets no other thread run; once, if marked."""

    class Hanging:  # within, and of nothing from here, so that it travels whole
        def configuration(self):
            return dict(method="brightness", threshold=128)

        def segment(self, images, vocabulary, present, seed):
            if any((image == picture).all() for image in images) and not (marker and marker.exists()):
                if marker:
                    marker.touch()
                ctypes.PyDLL(None).sleep(3600)
            bright = [(image[..., 0] > 128).astype(np.uint8) for image in images]
            return [Prediction(one, one[::2, ::2], "a cat", seconds=dict(look=0.1)) for one in bright]

        def name_masks(self, image, masks, vocabulary):
            return [1] * len(masks)

    return Hanging()


def test_a_worker_of_ray_that_hangs_is_given_up_and_its_batch_done_again(dataset, method, tmp_path, contents, capsys):
    """a worker of Ray that hangs once, no thread of it runs -> given up after the limit, its batch done again, the same bytes"""
    hanging = hanging_at(dataset.image(3), tmp_path / "hung")
    evaluate(dataset, hanging, tmp_path / "run", batch_size=2, engine="ray", workers=2, batch_seconds=20)
    assert "a worker was given up after 20 s with images 2 to 3" in "".join(capsys.readouterr())
    evaluate(dataset, method, tmp_path / "local", batch_size=2)
    assert contents(tmp_path / "run") == contents(tmp_path / "local")


def test_a_batch_that_always_hangs_costs_itself_alone(dataset, method, tmp_path):
    """a picture at which every worker of Ray hangs -> given up twice, its batch has failed and says why, all others done"""
    hanging = hanging_at(dataset.image(3))
    arguments = dict(batch_size=2, engine="ray", workers=2, batch_seconds=15)
    with pytest.raises(
        EvaluationFailed, match=r"2 of 6 images failed.*p2: TimeoutError: 2 workers took more than 15 s"
    ):
        evaluate(dataset, hanging, tmp_path / "run", **arguments)
    assert not (tmp_path / "run/.running").exists()
    assert evaluate(dataset, method, tmp_path / "run", batch_size=2).summary["failed"] == {}


def test_a_batch_that_hangs_beside_a_finished_image_leaves_that_finished(dataset, method, tmp_path):
    """a failed image whose batch now hangs at every worker of Ray -> it fails again, the finished one beside it stays"""
    whole = evaluate(dataset, method, tmp_path / "run", batch_size=2)
    (tmp_path / "run/images/p3.json").write_text(
        sealed(dict(id="p3", run=whole.summary["hash"], failed="ValueError: once"))
    )
    kept = (tmp_path / "run/images/p2.json").read_bytes()
    with pytest.raises(EvaluationFailed, match=r"1 of 6 images failed.*p3: TimeoutError"):
        evaluate(
            dataset,
            hanging_at(dataset.image(3)),
            tmp_path / "run",
            batch_size=2,
            engine="ray",
            workers=1,
            batch_seconds=15,
        )
    assert (tmp_path / "run/images/p2.json").read_bytes() == kept
