"""A function of a network over all tiles of a source, batch by batch, as fast as the machine allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch

from s5.data.loader import Batch, TileSource, iterate_tiles, read_ahead, read_batch
from s5.engine.compute import Compute

T = TypeVar("T")


def map_tiles(
    function: Callable[[Batch], T], source: TileSource, *, batch_size: int, compute: Compute, read_threads: int = 2
) -> Iterator[tuple[Batch, T]]:
    """Yield every batch of `source`, in order, with ``function(batch)``, run in inference mode under autocast.

    On a CPU with several threads each thread takes whole batches, reading included: that is faster than all threads
    sharing one batch (they wait for each other at every layer), and reading cannot get in their way. Only half of them
    read at a time: GDAL lets go of Python's lock and takes it again so often that two readers are no faster than one.
    Batches are cut by index, so that the result does not depend on the number of threads.

    For a GPU, `read_threads` threads read batches ahead into pinned memory, from which they are copied without waiting.

    Args:
        function: Called from several threads at once; must not change the network.
        read_threads: For a GPU: threads that read.
    """

    def run(batch: Batch) -> tuple[Batch, T]:
        with torch.inference_mode(), compute.autocast():
            return batch, function(batch)

    starts = range(0, len(source), batch_size)

    def read(start: int) -> Batch:
        return read_batch(source, range(start, min(start + batch_size, len(source))))

    if compute.device.type != "cpu":
        ahead = read_ahead(lambda start: _pinned(read(start)), starts, depth=2 * read_threads, threads=read_threads)
        yield from map(run, ahead)
        return
    threads = torch.get_num_threads() if compute.group.size == 1 else 1
    if threads == 1:
        yield from map(run, iterate_tiles(source, batch_size))
        return
    reading = threading.Semaphore(threads // 2)

    def read_and_run(start: int) -> tuple[Batch, T]:
        with reading:
            batch = read(start)
        return run(batch)

    try:
        yield from read_ahead(read_and_run, starts, depth=threads, threads=threads, initializer=_one_thread)
    finally:
        torch.set_num_threads(threads)


def _pinned(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.pin_memory(), valid=batch.valid.pin_memory())


def _one_thread() -> None:
    torch.set_num_threads(1)
