"""Fuzzing: valid files of every kind that is read, broken in many ways, must be read or refused, and nothing worse.

`python tests/hostile/fuzz.py [READER ...] --seconds 600` reads as many as it can. Each reader works in a process of its own,
whose memory is limited, and which is ended where a case takes too long; the parent goes on after the case that ended it.
What is found, anything but the exceptions that docstrings declare, lands in corpus/READER/, which test_corpus.py reads again.
A case is made from the reader's name, a seed and its number alone: `--case NUMBER` writes that one.
"""

import argparse
import faulthandler
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

from mutations import mutated
from readers import READERS, Reader

from fsdlib.project import PACKAGE, REPORTS, write_atomically

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
MEMORY = 3 * 2**30  # bytes that a case may take, beside what is loaded before the first
LARGEST = 2**30  # bytes of a file that is written
GROWN = 2**29  # bytes that a process may have kept of its cases before another takes its place
PATIENCE = 20  # seconds that a case may take
IN_MEMORY = Path("/dev/shm")
READY, COUNTS, FINDING, DONE = "ready", "counts", "finding", "done"


def case(name: str, reader: Reader, seeds: list[tuple[str, bytes]], seed: int, number: int) -> tuple[str, bytes]:
    """The file of one case: where it lies and what it holds. Case 0 and those after it are the valid files themselves."""
    if number < len(seeds):
        return seeds[number]
    random = Random(f"{name} {seed} {number}")
    # of every place as many, however many files lie there
    where = random.choice(sorted({where for where, _ in seeds}))
    there = [content for place, content in seeds if place == where]
    content = mutated(random.choice(there), [content for _, content in seeds], random)
    return where, reader.mended(content, random) if random.random() < 0.5 else content


def read(reader: Reader, where: str, content: bytes) -> tuple[str, dict | None]:
    """Whether a file is "accepted", or which declared exception refused it; and what was found, if anything."""
    try:
        reader.read(where, content)
    except reader.declared as error:
        out_of_memory = [one for one in _chain(error) if isinstance(one, MemoryError)]
        found = next(iter(out_of_memory), None if _is_ours(error) else error)
        return type(error).__name__, _finding(found) if found else None
    except Exception as error:
        return type(error).__name__, _finding(error)
    return "accepted", None


def _is_ours(error: Exception) -> bool:
    """Whether the project raised it itself, in its own words, or a library on its way through."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(PACKAGE)


def _chain(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _finding(error: Exception) -> dict:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}:{own[-1].lineno}"
    kind = "memory" if isinstance(error, MemoryError) else "exception"
    said = "".join(traceback.format_exception_only(error)).strip()[:300]
    return dict(kind=kind, what=type(error).__name__, place=place, said=said)


# --------------------------------------------------------------------------------------------- the reader's own process


def work(name, kind, seed, start, most, patience, memory, number, stop, pipe, folder) -> None:
    """Read cases from `start` on until told to stop; `number` is the case at work, for whoever finds this process dead."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    log = open(folder / "log", "w")
    faulthandler.enable(log)
    os.environ |= dict(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", OMP_NUM_THREADS="1")
    (folder / "scene").mkdir()
    reader = kind()
    reader.prepare(folder / "scene")
    seeds = reader.seeds()
    before = _taken()
    resource.setrlimit(resource.RLIMIT_AS, (before + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send((READY, None))
    counts, said = Counter(), time.monotonic()
    i = start
    while i < most and not stop.value:
        number.value = i
        faulthandler.dump_traceback_later(0.8 * patience, file=log)
        where, content = case(name, reader, seeds, seed, i)
        outcome, found = read(reader, where, content)
        faulthandler.cancel_dump_traceback_later()
        counts[outcome] += 1
        i += 1
        if found:
            pipe.send((FINDING, found | dict(case=i - 1, where=where, content=content)))
        if time.monotonic() - said > 0.5:
            pipe.send((COUNTS, counts))
            counts, said = Counter(), time.monotonic()
            if _taken() > before + GROWN:
                break
    number.value = i
    pipe.send((COUNTS, counts))
    pipe.send((DONE, None))


def _taken() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# --------------------------------------------------------------------------------------------- the parent


def fuzz(
    name: str,
    kind: type[Reader],
    seconds: float,
    seed: int = 0,
    most: int = 2**62,
    patience: float = PATIENCE,
    memory: int = MEMORY,
    write: Path | None = None,
) -> dict:
    """Read a reader's cases for so long, or so many: how many, how they ended, and all that was found, one of each place.

    write: where the smallest file of each finding is kept.
    """
    context = multiprocessing.get_context("spawn")
    counts, findings, begun, spent = Counter(), {}, 0, 0.0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as temporary:
        while begun < most and spent < seconds:
            folder = Path(tempfile.mkdtemp(dir=temporary))
            number, stop = context.Value("q", begun, lock=False), context.Value("b", 0, lock=False)
            ours, theirs = context.Pipe(duplex=False)
            arguments = (name, kind, seed, begun, most, patience, memory, number, stop, theirs, folder)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            ready = done = hung = False
            at, since, last = begun, time.monotonic(), time.monotonic()
            while True:
                now = time.monotonic()
                if ready:
                    spent += now - last
                last, stop.value = now, spent >= seconds
                if number.value != at:
                    at, since = number.value, now
                message = None
                with suppress(EOFError):
                    message = ours.recv() if ours.poll(0.1) else (None, None)
                if message is None:  # it is gone
                    break
                what, content = message
                if what == READY:
                    ready, since, last = True, time.monotonic(), time.monotonic()
                elif what == COUNTS:
                    counts += content
                elif what == FINDING:
                    _note(findings, content)
                elif what == DONE:
                    done = True
                if now - since > (patience if ready else 300):
                    process.kill()
                    hung = True
                    break
            process.join(10)
            if not ready:
                raise RuntimeError(
                    f"reader {name} did not start (exit status {process.exitcode}): run its `prepare` by hand"
                )
            begun = number.value
            if not done:
                ended = (folder / "log").read_text()
                found = dict(kind="hang" if hung else "crash", place=_place(ended), case=begun)
                found["what"] = f"no end in {patience:g} s" if hung else _signal(process.exitcode)
                counts[found["kind"]] += 1
                reader = kind()
                reader.folder = folder / "scene"
                where, content = case(name, reader, _seeds(kind, folder), seed, begun)
                _note(findings, found | dict(said=ended[:300], where=where, content=content))
                begun += 1
    for found in findings.values():
        content = found.pop("content")
        if write is not None:
            found["file"] = str(keep(write / name, found["where"], content))
    return dict(
        seed=seed,
        seconds=round(spent, 1),
        cases=begun,
        cases_a_second=round(begun / max(spent, 1e-9), 1),
        # how the last half second before a crash or a hang ended is not known
        accepted=counts.pop("accepted", 0),
        refused=dict(sorted(counts.items())),
        findings=sorted(findings.values(), key=lambda found: found["case"]),
    )


def _seeds(kind: type[Reader], folder: Path) -> list[tuple[str, bytes]]:
    """A reader's valid files, as its own process made them, from a scene of this process."""
    reader, scene = kind(), folder / "again"
    scene.mkdir()
    reader.prepare(scene)
    return reader.seeds()


def _note(findings: dict, found: dict) -> None:
    """Keep a finding where it is the first of its place and kind, or the smallest."""
    known = findings.setdefault((found["kind"], found["what"], found["place"]), found | dict(times=0))
    known["times"] += 1
    if len(found["content"]) < len(known["content"]):
        known |= found


def keep(folder: Path, where: str, content: bytes) -> Path:
    """Write a file that found something where test_corpus.py finds it, in a folder called by its hash."""
    return write_atomically(folder / hashlib.sha256(content).hexdigest()[:8] / where, content)


def _signal(status: int | None) -> str:
    return signal.Signals(-status).name if status and status < 0 else f"exit status {status}"


def _place(log: str) -> str:
    """The innermost line of the project, or of anything, in a traceback as faulthandler writes it."""
    lines = [line.strip() for line in log.splitlines() if line.strip().startswith("File ")]
    return next((line for line in lines if f"{PACKAGE.name}/" in line), lines[0] if lines else "")[:200]


def kept(folder: Path = CORPUS) -> list[tuple[str, str, Path]]:
    """All that was found so far: the reader, where the file lies, and the file."""
    files = sorted(path for path in folder.glob("*/*/**/*") if path.is_file())
    return [(path.relative_to(folder).parts[0], "/".join(path.relative_to(folder).parts[2:]), path) for path in files]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/hostile/fuzz.py", description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; all by default")
    parser.add_argument("--seconds", type=float, default=600, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, default=CORPUS, help="where what found something is kept")
    parser.add_argument("--figures", type=Path, default=REPORTS / "executed" / "fuzz.json")
    parser.add_argument("--case", type=int, help="write this case alone, of one reader")
    a = parser.parse_args()
    if unknown := sorted(set(a.readers) - set(READERS)):
        parser.error(f"no reader is called {unknown[0]}: choose of {', '.join(READERS)}")
    os.environ |= dict(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", OMP_NUM_THREADS="1")
    if a.case is not None:
        (name,) = a.readers
        with tempfile.TemporaryDirectory() as folder:
            reader = READERS[name]()
            reader.prepare(Path(folder))
            print(keep(a.write / name, *case(name, reader, reader.seeds(), a.seed, a.case)))
        return
    figures = json.loads(a.figures.read_text()) if a.readers and a.figures.exists() else {}
    figures |= dict(
        memory_gib=MEMORY / 2**30, seconds_a_case=PATIENCE, machine=platform.machine(), python=platform.python_version()
    )
    for name in a.readers or READERS:
        found = fuzz(name, READERS[name], a.seconds, a.seed, write=a.write)
        figures.setdefault("readers", {})[name] = found
        write_atomically(a.figures, json.dumps(figures, indent=1))
        refused = ", ".join(f"{kind} {count:,}" for kind, count in found["refused"].items())
        print(
            f"{name}: {found['cases']:,} cases, {found['cases_a_second']:g} a second, {found['accepted']:,} accepted, "
            f"refused: {refused or 'none'}; {len(found['findings'])} findings",
            flush=True,
        )
        for one in found["findings"]:
            print(
                f"  {one['kind']} {one['what']} at {one['place']}, {one['times']} times, first case {one['case']}: {one['said'][:160]!r}"
            )
            print(f"    {one.get('file')}")
    if any(found["findings"] for found in figures["readers"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
