"""Many pictures, one after another, on all cores: while some pass the models, others are named or refined.

Results are those of `segment` and come in order; only a few pictures are in memory at once.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import torch
from loky import ProcessPoolExecutor
from threadpoolctl import threadpool_limits

from fsdlib.models import Models
from fsdlib.pipeline import Picture, Result, begin_batch
from fsdlib.recipe import Recipe
from fsdlib.vocabulary import Vocabulary

# Seconds after which a process that has nothing to refine ends, also where the one that started it was killed.
_IDLE = 60
# A GPU does one thing after another: while one thread waits for it, the other prepares what comes next.
_ON_A_GPU = 2


def stream(
    pictures: Iterable[Picture],
    models: Models,
    recipe: Recipe,
    vocabulary: Vocabulary | Sequence[str] | None = None,
    seed: int = 0,
    batch: int = 1,
    cores: int | None = None,
) -> Iterator[Result]:
    """Segment pictures as they are asked for: what `segment` returns of each (see there), in their order.

    pictures: of any kind that `segment` takes; read a few batches ahead, so that there may be more than memory holds.
    batch: pictures that are captioned and read together. cores: at work at once, all by default; each has one of PyTorch's
    threads, so that results are byte by byte those of `segment` with one thread. Masks are refined in processes of their
    own (pydensecrf lets no other thread run). Until the last result was taken, or the iterator closed, this process has
    one thread for other arithmetic too. Raises ValueError for a batch or cores below 1, and what `segment` raises when
    it is a picture's turn.

    >>> from fsdlib.recipe import PAPER
    >>> [result.names[1] for result in stream([picture, picture[:90]], models, PAPER, ["dog"], cores=1)]
    ['dog', 'dog']
    """
    for name, value in (("batch", batch), ("cores", 1 if cores is None else cores)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give 1 or more")
    return _streamed(iter(pictures), (models, recipe, vocabulary, seed), batch, cores or usable_cores())


def processes(count: int) -> Executor:
    """Processes for `begin_batch` to refine masks in, which start when there is something, and end by themselves when there is not.

    >>> with processes(2) as refiners:
    ...     refiners.submit(max, 3, 4).result()
    4
    """
    return ProcessPoolExecutor(count, timeout=_IDLE)


def usable_cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _streamed(pictures: Iterator[Picture], arguments: tuple, batch: int, cores: int) -> Iterator[Result]:
    models, recipe, vocabulary, seed = arguments
    threads = _ON_A_GPU if models.diffusion.device.type == "cuda" else cores
    waiting: deque[Future] = deque()

    def finished() -> Iterator[Result]:
        for finish in waiting.popleft().result():
            yield finish()

    with (
        threads_of(1),
        processes(cores) as refiners,
        ThreadPoolExecutor(threads, "stream", initializer=_of_one_thread) as pool,
    ):
        try:
            while part := list(islice(pictures, batch)):
                waiting.append(pool.submit(begin_batch, part, models, recipe, vocabulary, seed, None, refiners))
                if len(waiting) > threads:
                    yield from finished()
            while waiting:
                yield from finished()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def threads_of(count: int):
    """So many threads for arithmetic of any library within the block, then as many as before: more sum and round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)  # also what threads to come start with


def _of_one_thread() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1, "openmp")  # which counts for each thread that calls it
