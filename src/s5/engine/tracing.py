"""Traces of training steps by `torch.profiler`, to be opened in Perfetto or chrome://tracing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity

logger = logging.getLogger(__name__)

_FIRST = 10  # the first steps allocate, compile and warm caches


class Tracer(Protocol):
    def step(self) -> None:
        """A step is over."""
        ...


class _NoTracer:
    def step(self) -> None:
        pass


@contextmanager
def tracing(steps: int, file: Path) -> Iterator[Tracer]:
    """Record `steps` steps after the first ten and write them to `file` (JSON); 0 records nothing."""
    if steps == 0:
        yield _NoTracer()
        return

    def write(profiler: torch.profiler.profile) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(file))
        logger.info("A trace of %d steps is in %s; open it at ui.perfetto.dev.", steps, file)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    schedule = torch.profiler.schedule(skip_first=_FIRST - 1, wait=0, warmup=1, active=steps, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write) as profiler:
        yield profiler
