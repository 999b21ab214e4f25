"""How fast a training runs, how long it waits for data, and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class Gauge:
    """Times the steps of a loop between two looks at it. Its numbers go to the log, never into the history.

    Args:
        images_per_step: Over all processes.
        clock: Seconds, for tests.
    """

    def __init__(self, images_per_step: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._images, self._clock = images_per_step, clock
        self._steps, self._waited, self._away, self._since = 0, 0.0, 0.0, clock()

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`; the time until each is there is time waited for data."""
        iterator = iter(items)
        while True:
            before = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - before
            self._steps += 1
            yield item

    def elsewhere(self, seconds: float) -> None:
        """Leave out time that is not training: validation and checkpoints."""
        self._away += seconds

    def read(self) -> dict[str, float]:
        """Steps and images per second, the share of the time waited for data, the peak memory in MiB; starts anew."""
        seconds = max(self._clock() - self._since - self._away, 1e-9)
        numbers = {
            "steps_per_s": self._steps / seconds,
            "images_per_s": self._steps * self._images / seconds,
            "data_wait_share": self._waited / seconds,
            "peak_memory_mb": peak_memory_mb(),
        }
        self._steps, self._waited, self._away, self._since = 0, 0.0, 0.0, self._clock()
        return numbers


def peak_memory_mb() -> float:
    """Most memory that this process has taken so far: the GPU's where one is used, else resident memory."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
