"""What stages take, by the clock and of the processor."""

import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Seconds from one `lap` to the next, by stage: of the clock, and of the processor, by all threads of this process.

    Every stage ends with arrays in main memory, so a GPU's work is within its lap.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        self._since = time.perf_counter(), time.process_time()

    def lap(self, stage: str) -> None:
        now = time.perf_counter(), time.process_time()
        self.seconds[stage], self.processor_seconds[stage] = (
            end - start for end, start in zip(now, self._since, strict=True)
        )
        self._since = now


def timed(stage: str, call: Callable, *arguments) -> tuple[Any, Stopwatch]:
    """What a call gives, and a watch that has timed it, as one stage.

    >>> result, watch = timed("sum", sum, [1, 2])
    >>> result, list(watch.seconds)
    (3, ['sum'])
    """
    watch = Stopwatch()
    result = call(*arguments)
    watch.lap(stage)
    return result, watch
