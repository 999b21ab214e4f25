"""Batches belong to the step, whatever reads them."""

import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.data.loader import (
    SegmentationData,
    StepReader,
    StepSampler,
    iterate_tiles,
    read_ahead,
    read_batch,
    read_in_processes,
)
from s5.geo.raster import UnreadableRasterError


class Numbers:
    """Tile i is full of i."""

    def __init__(self, count: int, dtype: type = np.uint8) -> None:
        self.count, self.dtype = count, dtype

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (4, 4)
        return np.full((2, *shape), index, self.dtype), np.full(shape, index, np.uint8), np.ones(shape, bool)


def test_tiles_come_in_order_with_fixed_boundaries() -> None:
    batches = list(iterate_tiles(Numbers(7), 3))
    assert [b.indices for b in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches[1].images[1].unique().tolist() == [4]


@pytest.mark.parametrize(("dtype", "expected"), [(np.uint8, torch.uint8), (np.uint16, torch.float32)])
def test_eight_bits_stay_eight_bits(dtype, expected) -> None:
    assert read_batch(Numbers(2, dtype), [0, 1]).images.dtype == expected


def test_a_source_that_reads_many_tiles_at_once_is_asked_to() -> None:
    asked: list[list[int]] = []

    class Many(Numbers):
        def read_many(self, indices):
            asked.append(list(indices))
            return [self.read(index) for index in indices]

    batches = list(iterate_tiles(Many(7), 3))
    assert asked == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.masks.unique().tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_sees_every_tile_once(tiles: int, batch: int, seed: int) -> None:
    sampler = StepSampler(tiles, batch, seed=seed, stream="x")
    seen = [i for step in range(2 * tiles) for i in sampler.indices(step)]
    for epoch in range(len(seen) // tiles):
        assert sorted(seen[epoch * tiles : (epoch + 1) * tiles]) == list(range(tiles))


def test_any_step_is_known_without_those_before_it() -> None:
    walked = StepSampler(11, 4, seed=1, stream="x")
    steps = [walked.indices(step) for step in range(50)]
    assert StepSampler(11, 4, seed=1, stream="x").indices(37) == steps[37]
    assert StepSampler(11, 4, seed=2, stream="x").indices(37) != steps[37]
    assert Counter(i for s in steps[:44] for i in s) == dict.fromkeys(range(11), 16)


def test_read_ahead_keeps_order_and_stays_ahead_by_depth() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def read(step: int) -> int:
        with lock:
            started.append(step)
        return step * step

    items = read_ahead(read, range(100), depth=2)
    assert [next(items) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 3
    items.close()


def test_an_error_in_the_reading_thread_surfaces() -> None:
    def read(step: int) -> int:
        raise OSError(f"tile {step} is gone")

    with pytest.raises(OSError, match="tile 0 is gone"):
        list(read_ahead(read, range(3), depth=2))


def test_processes_read_what_one_thread_reads_and_say_what_is_wrong(tiny_data: SegmentationData) -> None:
    rows = tiny_data.manifest[tiny_data.manifest["split"] == "unlabeled"]
    gone = rows.assign(image=[*rows["image"][:-1], "gone.tif"])
    sources = [replace(tiny_data, manifest=gone).split("unlabeled"), tiny_data.split("labeled")]
    samplers = [StepSampler(len(source), 2, seed=0, stream="x").indices for source in sources]
    read = StepReader(tuple(zip(sources, samplers, strict=True)))
    failing = next(step for step in range(3) if 5 in samplers[0](step))
    before = torch.get_rng_state()
    reading = read_in_processes(read, range(3), processes=2)
    for step in range(failing):
        for batch, expected in zip(next(reading), read(step), strict=True):
            assert batch.indices == expected.indices
            assert torch.equal(batch.images, expected.images) and torch.equal(batch.masks, expected.masks)
            assert torch.equal(batch.valid, expected.valid)
    with pytest.raises(UnreadableRasterError, match=r"^gone\.tif: cannot be opened"):
        next(reading)
    assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_sent_to_another_process() -> None:
    with pytest.raises(TypeError, match=r"read_processes=0"):
        next(read_in_processes(lambda step: step, range(3), processes=1))


@pytest.mark.parametrize(
    "make", [lambda: StepSampler(0, 1, seed=0, stream="x"), lambda: list(iterate_tiles(Numbers(1), 0))]
)
def test_nothing_to_train_on(make) -> None:
    with pytest.raises(ValueError, match=r"no tile|batch_size"):
        make()


def test_a_sampler_may_be_asked_by_several_threads_at_once() -> None:
    """Three tiles and four a step: every step begins another epoch, and threads sweep each other's orders away."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        shared = StepSampler(3, 4, seed=0, stream="x")
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(shared.indices, range(2000)))
    finally:
        sys.setswitchinterval(before)
    alone = StepSampler(3, 4, seed=0, stream="x")
    assert found == [alone.indices(step) for step in range(2000)]
