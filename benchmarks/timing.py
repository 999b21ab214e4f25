"""Two pieces of work timed in turn, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def paired(ours: Callable[[], None], reference: Callable[[], None], *, rounds: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of reference over ours: 1.0 is as fast as the reference."""
    ours(), reference()
    pairs = [(seconds(ours), seconds(reference)) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
