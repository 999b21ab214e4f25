"""Progress of long work: a bar with rate and ETA on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 30.0


def progress(
    items: Iterable[T], name: str, *, total: int | None = None, initial: int = 0, unit: str = "step"
) -> Iterator[T]:
    """Yield `items`, showing on stderr how far they are, their rate and the time left.

    Args:
        items: What to go through.
        name: What the work is called, such as ``"S4P"``.
        total: Number of items, `initial` included, where `items` has no length.
        initial: Items already done, for resumed work.
        unit: What one item is called.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        return iter(tqdm(items, desc=name, total=total, initial=initial, unit=unit, dynamic_ncols=True))
    return _lines(items, name, total, initial, unit)


def _lines(items: Iterable[T], name: str, total: int | None, initial: int, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = initial
    for done, item in enumerate(items, initial + 1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            rate = (done - initial) / (now - start)
            left = f", {timedelta(seconds=round((total - done) / rate))} left" if total is not None else ""
            sys.stderr.write(f"{name}: {done}/{total or '?'}, {rate:.2f} {unit}/s{left}\n")
    seconds = time.monotonic() - start
    if seconds >= 1:
        sys.stderr.write(f"{name}: {done - initial} {unit}s in {timedelta(seconds=round(seconds))}\n")
