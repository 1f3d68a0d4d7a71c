"""An evaluation on many processes or machines with Ray: a pool of actors, a model set each, one output folder for all.

On one machine Ray is started for the run. On a cluster, start Ray on every node (`ray start --head`, then
`ray start --address=HEAD:6379`) and set RAY_ADDRESS for the run: its actors spread over the nodes. The output folder, the
dataset and the models' cache must be at the same paths on all of them, on storage that all see, and every node needs the
project installed at the same version. A worker that is killed, or that hangs, is started anew and its batch done again.
Where a node has a token (~/.ray/auth_token, which Ray makes when it first starts by itself), `ray start` asks everyone for
the same one.
"""

import faulthandler
import json
import math
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from fsdlib.measure.summary import RUNNING, keep, read_record, read_row
from fsdlib.measure.worker import Worker
from fsdlib.models import ModelUnavailable

HANGS = 2  # of workers on one batch, after which its images have failed
ATTEMPTS = 3  # to start Ray on this machine, which a busy one may be too slow for


class Actor:
    """A worker in a process of its own, which loads its models once.

    Ray Data hands it rows and takes rows, so lists travel as JSON, and so does what ends the run: an exception would
    come out wrapped in Ray's own.
    """

    def __init__(self, arguments: tuple, batch_seconds: int):
        self.worker, self.batch_seconds = Worker(*arguments), batch_seconds

    def __call__(self, item: dict) -> dict:
        batch, missing = json.loads(item["work"])
        begun = self.worker.folder / RUNNING / f"{batch[0]}.begun"
        hangs, notes = self._hangs(begun), []
        if hangs:
            notes.append(f"a worker was given up after {self.batch_seconds} s with images {batch[0]} to {batch[-1]}")
        try:
            if hangs < HANGS:
                rows, own = self._within_its_time(batch, missing)
            else:
                reason = f"{hangs} workers took more than {self.batch_seconds} s for its batch: raise batch_seconds, or find out why"
                rows, own = self.worker.give_up(self._undone(missing), TimeoutError(reason)), []
        except ModelUnavailable as error:
            return dict(result="", unavailable=str(error))
        begun.unlink(missing_ok=True)
        return dict(result=json.dumps((rows, notes + own)), unavailable="")

    def _within_its_time(self, batch: list[int], missing: list[int]) -> tuple[list[dict], list[str]]:
        """The worker's results; where they take too long this process ends, and Ray hands the batch to another."""
        # a thread of the interpreter's own, which needs no lock that native code may hang in; 2: the process's own stderr
        faulthandler.dump_traceback_later(self.batch_seconds, exit=True, file=2)
        try:
            return self.worker(batch, missing)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _undone(self, missing: list[int]) -> list[int]:
        """Without those that are done and only to be written again beside one that failed: what is finished stays."""
        dataset, folder, digest = self.worker.dataset, self.worker.folder, self.worker.digest
        rows = ((i, read_row(folder, dataset.ids[i], digest, dataset.content(i))) for i in missing)
        return [i for i, row in rows if row is None or "failed" in row]

    def _hangs(self, begun: Path) -> int:
        """How many workers have hung in this batch; notes that another begins. A killed one did not use up its time."""
        before = read_record(begun)
        since = begun.stat().st_mtime if before else 0.0
        hangs = before["hangs"] if before else 0
        keep(self.worker.folder, begun, json.dumps(dict(hangs=hangs)))
        if before and begun.stat().st_mtime - since >= self.batch_seconds:  # both by the clock of the folder's disk
            hangs += 1
            keep(self.worker.folder, begun, json.dumps(dict(hangs=hangs)))
        return hangs


def on_ray(
    arguments: tuple, work: list[tuple[list[int], list[int]]], workers: int, batch_seconds: int = 3600
) -> Iterator[tuple[list[dict], list[str]]]:
    """What `Worker(*arguments)` returns for each piece of work, as it comes, from `workers` actors.

    On a machine with GPUs the actors share them evenly. One that takes more than `batch_seconds` for a piece is given up
    and the piece done again, once; then its images have failed. Raises ImportError where ray is not installed, and
    ModelUnavailable as the workers do.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "engine 'ray' needs Ray: install it with pip install 'fsdlib[cluster]', or take engine 'local'"
        ) from error
    with _cluster(ray, workers):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # the run has its own
        gpus = int(ray.cluster_resources().get("GPU", 0))
        share = (
            1 / math.ceil(workers / gpus) if gpus else 0
        )  # a whole number of actors on each GPU, so that all find room
        items = ray.data.from_items([dict(work=json.dumps(piece)) for piece in work], override_num_blocks=len(work))
        results = items.map(
            Actor,  # type: ignore[arg-type]  # Ray takes a class whose objects are called, as its documentation says
            fn_constructor_args=(arguments, batch_seconds),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=share,
        )
        for row in results.iter_rows():
            if row["unavailable"]:
                raise ModelUnavailable(row["unavailable"])
            rows, notes = json.loads(row["result"])
            yield rows, notes


@contextmanager
def _cluster(ray, workers: int):
    """The cluster that this process is connected to or that RAY_ADDRESS names; else one on this machine, for the run."""
    if ray.is_initialized():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _start(ray, workers)
        try:
            yield
        finally:
            ray.shutdown()


def _start(ray, workers: int) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine.

    Raises ConnectionError where there is none to be had.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # workers without a GPU share keep seeing what this process sees
    options = dict(log_to_driver=False, logging_level="ERROR", configure_logging=True)
    if address := os.environ.get("RAY_ADDRESS"):
        # `ray start` asks for a token wherever it finds one, and an address that is named is not shown it unasked
        with suppress(ImportError):
            from ray._private.authentication import authentication_token_setup as tokens

            tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        try:
            host, _, port = address.rpartition(":")
            if host and "/" not in host and port.isdecimal():  # Ray itself tries for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            ray.init(**options)
        except Exception as error:  # Ray has several for it
            raise ConnectionError(
                f"Ray cannot reach the cluster that RAY_ADDRESS names, {address} ({_first_line(error)}): see that it runs, and "
                f"that all its nodes and this one have the same token, or each RAY_AUTH_MODE=disabled (here "
                f"{os.environ.get('RAY_AUTH_MODE', 'no RAY_AUTH_MODE')})"
            ) from error
        return
    options |= dict(num_cpus=workers, num_gpus=torch.cuda.device_count(), include_dashboard=False)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(address="local", **options)  # and no cluster that somebody else has here
            return
        except Exception as error:  # one that took too long has no class of its own
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise ConnectionError(
                    f"Ray did not start on this machine, {ATTEMPTS} times ({_first_line(error)}): try again when it is less "
                    f"busy, or take fewer workers or engine 'local'"
                ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
