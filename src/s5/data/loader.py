"""Batches of tiles: in order for scoring and evaluation, by step for training."""

from __future__ import annotations

import hashlib
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from s5.seeds import numpy_generator
from s5.types import BandStatistics, LabelSpace, TileMaps

if TYPE_CHECKING:
    import pandas as pd

    from s5.data.tiles import TileReader

T = TypeVar("T")


class TileSource(Protocol):
    """What batches are read from: `s5.data.tiles.TileReader`, or anything like it."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image [C, S, S], mask uint8 [S, S] and valid bool [S, S]."""
        ...


@dataclass(frozen=True)
class Batch:
    """Tiles as they were read.

    Shape:
        images: [B, C, H, W], uint8 (float32 for wider types). masks: uint8 [B, H, W]. valid: bool [B, H, W].
        maps: uint8 [B, E, h, w], of a source that has maps (`TilesWithMaps`), else None.
    """

    images: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor
    indices: list[int]
    maps: torch.Tensor | None = None

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory."""
        maps = None if self.maps is None else self.maps.pin_memory()
        return Batch(self.images.pin_memory(), self.masks.pin_memory(), self.valid.pin_memory(), self.indices, maps)

    def part(self, start: int, stop: int) -> Batch:
        """The images at these places."""
        here = slice(start, stop)
        maps = None if self.maps is None else self.maps[here]
        return Batch(self.images[here], self.masks[here], self.valid[here], self.indices[here], maps)


@dataclass(frozen=True)
class TilesWithMaps:
    """Tiles, and maps that go with them, position by position."""

    tiles: TileSource
    maps: TileMaps

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.tiles.read(index)

    def read_many(self, indices: Sequence[int]) -> list[Any]:
        read_many = getattr(self.tiles, "read_many", None)
        return [self.tiles.read(index) for index in indices] if read_many is None else list(read_many(indices))

    def read_maps(self, index: int) -> np.ndarray:
        return self.maps.read_maps(index)


def read_batch(source: TileSource, indices: Sequence[int]) -> Batch:
    """Read and stack the tiles at `indices`; by ``source.read_many`` where it has that, and ``source.read_maps``."""
    read_many, read_maps = getattr(source, "read_many", None), getattr(source, "read_maps", None)
    tiles = [source.read(index) for index in indices] if read_many is None else read_many(indices)
    images, masks, valid = zip(*tiles, strict=True)
    stacked = np.stack(images)
    if stacked.dtype != np.uint8:
        stacked = stacked.astype(np.float32)
    return Batch(
        torch.from_numpy(stacked),
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(np.stack(valid)),
        list(indices),
        None if read_maps is None else torch.from_numpy(np.stack([read_maps(index) for index in indices])),
    )


def count_classes(source: TileSource, num_classes: int, *, most: int = 1000) -> np.ndarray:
    """Labelled pixels of each class, int64 [K], over at most `most` tiles spread evenly over the source."""
    counts = np.zeros(256, np.int64)
    for index in np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)):
        counts += np.bincount(source.read(int(index))[1].ravel(), minlength=256)
    return counts[:num_classes]


def iterate_tiles(source: TileSource, batch_size: int) -> Iterator[Batch]:
    """All tiles in order, in batches whose boundaries depend on `batch_size` alone; read ahead on a thread."""
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    starts = range(0, len(source), batch_size)
    return read_ahead(
        lambda start: read_batch(source, range(start, min(start + batch_size, len(source)))), starts, depth=2
    )


class StepSampler:
    """The tiles of each step: epoch after epoch in a fresh order, drawn from (seed, stream, epoch) alone.

    A batch runs on into the next epoch, so that every tile is seen equally often whatever the batch size, and any
    step's tiles are known without going through those before it.
    """

    def __init__(self, num_tiles: int, batch_size: int, *, seed: int, stream: str) -> None:
        if num_tiles < 1:
            raise ValueError(f"{stream}: there is no tile to train on")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.num_tiles, self.batch_size, self.seed, self.stream = num_tiles, batch_size, seed, stream
        self._orders: dict[int, np.ndarray] = {}

    def indices(self, step: int) -> list[int]:
        """The positions of the tiles of `step`."""
        first = step * self.batch_size
        return [self._at(position) for position in range(first, first + self.batch_size)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.num_tiles)
        order = self._orders.get(epoch)  # looked up once: another reading thread may empty the store in between
        if order is None:
            if len(self._orders) > 2:
                self._orders.clear()
            order = numpy_generator(self.seed, f"{self.stream}/order", epoch).permutation(self.num_tiles)
            self._orders[epoch] = order
        return int(order[place])


def read_ahead(
    read: Callable[[int], T],
    steps: Iterable[int],
    *,
    depth: int,
    threads: int = 1,
    initializer: Callable[[], None] | None = None,
) -> Iterator[T]:
    """Yield ``read(step)`` for each step in order, with `depth` of them read ahead.

    Args:
        threads: How many steps are read at once.
        initializer: Called first on each thread.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead", initializer=initializer) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(read, step))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class StepReader:
    """Reads the batches of a step, one of each part; it can be sent to other processes.

    Args:
        parts: Tiles, and which of them a step takes.
    """

    parts: tuple[tuple[TileSource, Callable[[int], list[int]]], ...]

    def __call__(self, step: int) -> tuple[Batch, ...]:
        return tuple(read_batch(source, indices(step)) for source, indices in self.parts)


def read_in_processes(
    read: Callable[[int], T], steps: Sequence[int], *, processes: int, pin: bool = False
) -> Iterator[T]:
    """`read_ahead` in other processes, where Python's lock does not make readers wait for each other.

    They start anew, so that importing PyTorch takes them a few seconds; `read` is sent to each of them, with a cache
    of its own.

    Args:
        read: A `StepReader`; it is pickled.
        processes: How many; each reads up to two steps ahead.
        pin: Put the batches into page-locked memory, from which a GPU takes them without waiting.

    Raises:
        TypeError: `read` is no `StepReader`: what it holds may be a network, or cannot be pickled at all.
    """
    if not isinstance(read, StepReader):
        raise TypeError(
            f"{getattr(read, '__qualname__', read)} cannot read in other processes, only a StepReader can; "
            "set compute.read_processes=0"
        )
    loader: DataLoader[Any] = DataLoader(
        _Steps(read, steps),
        batch_size=None,
        num_workers=processes,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_parent,
        multiprocessing_context="spawn",
        pin_memory=pin,
        generator=torch.Generator(),  # its seed is not taken from the global generator
    )
    for item in loader:
        if isinstance(item, Exception):
            raise item
        yield item


class _Steps(Dataset[Any], Generic[T]):
    """What each step reads; an error is a value until it is raised in the process that asked."""

    def __init__(self, read: Callable[[int], T], steps: Sequence[int]) -> None:
        self._read, self._steps = read, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, place: int) -> T | Exception:
        try:
            return self._read(self._steps[place])
        except Exception as error:
            return error


def _as_it_is(item: T) -> T:
    return item


def _leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent still wants what was read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class SegmentationData:
    """An ingested dataset: its tiles, the statistics of its bands and its classes.

    Args:
        manifest: A row a tile, as `s5.data.ingest` makes it.
        tile_size: Height and width to which tiles are padded, in pixels.
        cache_mb: Memory for decoded tiles of each reader, in MiB.
        sensors: Names of the card's sensors to their bands.
        file_bands: The bands of the images, where `statistics` are those of some of them alone, which are then read.
    """

    manifest: pd.DataFrame
    statistics: BandStatistics
    labels: LabelSpace
    tile_size: int
    cache_mb: int = 256
    sensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    file_bands: tuple[str, ...] | None = None

    def of_sensor(self, name: str) -> SegmentationData:
        """The same tiles with the bands of one sensor alone.

        Raises:
            ValueError: the card names no such sensor.
        """
        if name not in self.sensors:
            known = ", ".join(self.sensors) or "none"
            raise ValueError(
                f"sensors: the dataset card has no sensor {name!r} (it has {known}); name it and its bands there, "
                f"under 'sensors', and ingest again"
            )
        statistics = self.statistics.only(self.sensors[name])
        return replace(self, statistics=statistics, file_bands=self.file_bands or self.statistics.bands)

    def split(self, name: str) -> TileReader:
        """The tiles of one split.

        Raises:
            ValueError: the dataset has no tile there.
        """
        rows = self.manifest[self.manifest["split"] == name]
        if rows.empty:
            counts = self.manifest["split"].value_counts().to_dict()
            raise ValueError(f"split {name!r} has no tiles (found {counts}); add it to the dataset card under 'splits'")
        return self._reader(rows)

    def has_split(self, name: str) -> bool:
        return bool((self.manifest["split"] == name).any())

    def tiles(self, tile_ids: Sequence[str], split: str = "unlabeled") -> TileReader:
        """The tiles of `split` with these ids, in this order.

        Raises:
            ValueError: an id that the manifest does not have.
        """
        rows = self.manifest[self.manifest["split"] == split].set_index("tile_id", drop=False)
        missing = [tile for tile in tile_ids if tile not in rows.index]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(tile_ids)} selected tiles are not in the manifest's {split!r} split "
                f"(first: {missing[0]!r}); the pool was made from other data: run diversity_sampling again"
            )
        return self._reader(rows.loc[list(tile_ids)].reset_index(drop=True))

    def fingerprint(self) -> str:
        """A hash of everything in the data that a training run depends on but pixel values."""
        columns = ["tile_id", "split", "image", "mask", "row", "col", "height", "width"]
        digest = hashlib.sha256(self.manifest[columns].to_csv(index=False).encode())
        digest.update(repr((self.statistics, self.labels, self.tile_size)).encode())
        return digest.hexdigest()[:16]

    def _reader(self, rows: pd.DataFrame) -> TileReader:
        from s5.data.tiles import TileReader

        bands = self.file_bands or self.statistics.bands
        return TileReader(
            rows,
            bands=len(bands),
            chosen=None if self.file_bands is None else [bands.index(band) for band in self.statistics.bands],
            size=self.tile_size,
            ignore_index=self.labels.ignore_index,
            cache_mb=self.cache_mb,
        )
