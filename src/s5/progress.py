"""Progress of long work: a bar with rate and ETA on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 30.0


def progress(
    items: Iterable[T], name: str, *, total: int | None = None, initial: int = 0, unit: str = "step"
) -> Iterator[T]:
    """Yield `items`, showing how far they are, their rate and the time left on stderr.

    Args:
        items: What to go through.
        name: What the work is called, such as ``"S4P"``.
        total: Number of items where `items` has no length.
        initial: Items already done, for resumed work.
        unit: What one item is called.
    """
    terminal = sys.stderr.isatty()
    yield from tqdm(
        items,
        desc=name,
        total=total,
        initial=initial,
        unit=unit,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else _SECONDS_BETWEEN_LINES,
        maxinterval=10.0 if terminal else _SECONDS_BETWEEN_LINES,
        miniters=None if terminal else 1,
        ascii=not terminal,
        leave=True,
        bar_format=None if terminal else "{desc}: {n_fmt}/{total_fmt} {unit}s, {rate_fmt}, {remaining} left\n",
    )
