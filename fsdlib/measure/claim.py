"""Whose a folder of results is, and who works in it: nothing of anyone else's is overwritten, deleted or mixed with.

A folder belongs to the configuration that its own record names: run.json, else summary.json, else a row in images/. A
folder that has files under a run's names and no record is somebody else's. What is replaced is what the record says was
written: an image's files where there is a row of it, and the run's own files by name.

While runs work in a folder it holds `.running/`: a lock a shard, beside which stands who has it, and what is being
written. Shards of one run (i/n with one n) share the folder, and Ray's workers are part of the run that started them;
the same shard a second time, and a replacement, are refused. Locks are the kernel's (flock), so that one whose process
was killed is free at once, also over NFS and Lustre where those pass flock on; on file systems that have none a lock is
a file that names its process, which is told to be stale on the same host alone. Hosts do not see each other's locks
where a mount keeps flock local (NFS with nolock or local_lock, Lustre with localflock, copies that are synchronised).
"""

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from fsdlib.measure.summary import OF_IMAGES, OF_THE_RUN, RUNNING, files_of, keep, read_record

PATIENCE = 300  # seconds that another run may take to enter or leave the folder: a replacement deletes file by file
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of a file system, as flock says it
OURS = (
    "*.lock",
    "*.held",
    "*.json",
    "*.begun",
    ".*.????????",
)  # in RUNNING: locks, who has them, what is being written


class FolderInUse(RuntimeError):
    """Another run works in the folder, and cannot share it."""


@contextmanager
def claimed(folder: Path, root: Path, settings: dict, replace: bool, part: int, parts: int) -> Iterator[None]:
    """Within, the folder is this configuration's own, and nobody but other shards of it works there.

    root: the dataset's folder. Raises ValueError where the folder touches that, or holds what no record says a run
    wrote, or results of another configuration (unless `replace` says to delete those); FolderInUse where another run
    works in it.
    """
    _refuse_overlap(folder, root)
    _is_to_be_replaced(folder, settings, replace)  # before anything is touched
    own = folder / RUNNING / f"{part}-of-{parts}.json"
    with _gate(folder):
        replaced = _is_to_be_replaced(folder, settings, replace)
        for other in _at_work(folder):
            if replaced or other == own or not other.stem.endswith(f"-of-{parts}"):
                raise FolderInUse(_in_use(folder, other))
        if replaced:
            _delete(folder)
        if read_record(folder / "run.json") is None:
            keep(folder, folder / "run.json", json.dumps(settings, indent=1, allow_nan=False))
        lock = _acquire(own.with_suffix(".lock"), timeout=0)
        own.write_text(json.dumps(dict(process=os.getpid(), host=platform.node(), shard=f"{part}/{parts}")))
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError, FolderInUse), _gate(folder):  # a full disk: whoever comes next clears up
            pass


# --------------------------------------------------------------------------------------------- whose it is


def _refuse_overlap(folder: Path, root: Path) -> None:
    folder, root = folder.resolve(), root.resolve()
    if _lies_in(folder, root) or _lies_in(root, folder):
        raise ValueError(
            f"{folder} is, lies in or holds the dataset's folder {root}, which a run must not write to: choose another "
            f"output folder"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: choose another output folder")


def _lies_in(inner: Path, outer: Path) -> bool:
    there = [place for place in (inner, *inner.parents) if place.exists()]
    # one folder may have several names, by mounts or where case does not count
    return outer in (inner, *inner.parents) or (outer.exists() and any(map(outer.samefile, there)))


def _is_to_be_replaced(folder: Path, settings: dict, replace: bool) -> bool:
    """Whether the folder is another configuration's; raises ValueError where it may not be taken."""
    owner = _owner(folder)
    if owner is not None and owner != settings["hash"] and not replace:
        raise ValueError(
            f"{folder} holds results of another configuration: choose another output folder, or replace them with replace=True"
        )
    if owner is None and (
        strange := [name for name in (*OF_IMAGES, *OF_THE_RUN) if _is_taken(folder / name, settings)]
    ):
        raise ValueError(
            f"{folder} holds {', '.join(strange)}, and no record that a run wrote that: choose another output folder, or move it away"
        )
    return owner not in (None, settings["hash"])


def _owner(folder: Path) -> str | None:
    """The hash of the configuration that the folder's own record names, or None where there is no record."""
    for path in (folder / "run.json", folder / "summary.json"):
        record = read_record(path)
        if record is not None and isinstance(record.get("hash"), str):
            return record["hash"]
    return next((row["run"] for row in _rows(folder)), None)


def _rows(folder: Path) -> Iterator[dict]:
    for path in (folder / OF_IMAGES[0]).glob("*.json"):
        row = read_record(path)
        if row is not None and "run" in row and path == files_of(folder, row.get("id", ""))[0]:
            yield row


def _is_taken(path: Path, settings: dict) -> bool:
    """Whether there is something at `path` that this run may not have begun to write."""
    if path.is_dir():
        return any(path.iterdir())
    if path.name == "run.json" and path.exists():  # one that was cut is the beginning of ours
        return not json.dumps(settings, indent=1).encode().startswith(path.read_bytes().rstrip(b"\0"))
    return path.exists()


def _delete(folder: Path) -> None:
    """Delete what another configuration's run wrote; its rows, which say what that is, after what they speak of."""
    (folder / "summary.json").unlink(missing_ok=True)
    for row in list(_rows(folder)):
        for path in reversed(files_of(folder, row["id"])):
            path.unlink(missing_ok=True)
    for name in OF_IMAGES:
        with suppress(OSError):  # there is something else in it, or it is not there
            (folder / name).rmdir()
    for name in OF_THE_RUN:
        (folder / name).unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- who is in it


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """One run at a time enters or leaves; the last to leave takes along what killed ones had not finished."""
    running = folder / RUNNING
    try:
        gate = _acquire(running / "gate.lock", PATIENCE)
    except Timeout as error:
        raise FolderInUse(
            f"another run has been entering or leaving {folder} for {PATIENCE} s: if none is, delete {running}"
        ) from error
    try:
        yield
    finally:
        if not list(_at_work(folder)):
            for path in {path for pattern in OURS for path in running.glob(pattern)}:
                path.unlink(missing_ok=True)
            gate.release()
            with suppress(OSError):  # somebody else's file is in it, or a run has just come
                running.rmdir()
        else:
            gate.release()


def _acquire(path: Path, timeout: float) -> BaseFileLock:
    """Hold a lock; raises Timeout where another does for that long."""
    until = time.monotonic() + timeout
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        left = max(0.0, until - time.monotonic())
        lock: BaseFileLock = FileLock(path, timeout=left, thread_local=False)
        try:
            try:
                lock.acquire()
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                lock = SoftFileLock(path.with_suffix(".held"), timeout=left, thread_local=False)
                lock.acquire()
            return lock
        except FileNotFoundError:  # whoever left last has just taken the folder along
            if time.monotonic() > until:
                raise


def _at_work(folder: Path) -> Iterator[Path]:
    """The records of the shards that are at work; those of killed ones, whose lock is free, are forgotten."""
    for record in sorted((folder / RUNNING).glob("*.json")):
        try:
            _acquire(record.with_suffix(".lock"), timeout=0).release()
        except Timeout:
            yield record
        else:
            record.unlink(missing_ok=True)


def _in_use(folder: Path, record: Path) -> str:
    who = read_record(record) or {}
    return (
        f"process {who.get('process')} on host {who.get('host')} is at work in {folder} (shard {who.get('shard')}): wait for it, "
        f"end it, or choose another output folder; if there is no such process any more, delete {folder / RUNNING}"
    )
