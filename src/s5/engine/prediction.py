"""A function of a network over all tiles of a source, batch by batch, as fast as the machine allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from s5.data.loader import Batch, TileSource, iterate_tiles, read_ahead, read_batch
from s5.engine.compute import Compute

T = TypeVar("T")


def map_tiles(
    function: Callable[[Batch], T], source: TileSource, *, batch_size: int, compute: Compute
) -> Iterator[tuple[Batch, T]]:
    """Yield every batch of `source`, in order, with ``function(batch)``, run in inference mode under autocast.

    On a CPU with several threads each thread takes whole batches, reading included: that is faster than all threads
    sharing one batch (they wait for each other at every layer), and reading cannot get in their way. Only half of them
    read at a time: GDAL lets go of Python's lock and takes it again so often that two readers are no faster than one.
    Batches are cut by index, so that the result does not depend on the number of threads.

    Args:
        function: Called from several threads at once; must not change the network.
    """

    def run(batch: Batch) -> tuple[Batch, T]:
        with torch.inference_mode(), compute.autocast():
            return batch, function(batch)

    threads = torch.get_num_threads() if compute.group.size == 1 else 1
    if compute.device.type != "cpu" or threads == 1:
        yield from map(run, iterate_tiles(source, batch_size))
        return
    starts = range(0, len(source), batch_size)
    reading = threading.Semaphore(threads // 2)

    def read_and_run(start: int) -> tuple[Batch, T]:
        with reading:
            batch = read_batch(source, range(start, min(start + batch_size, len(source))))
        return run(batch)

    try:
        yield from read_ahead(read_and_run, starts, depth=threads, threads=threads, initializer=_one_thread)
    finally:
        torch.set_num_threads(threads)


def _one_thread() -> None:
    torch.set_num_threads(1)
