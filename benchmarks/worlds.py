"""Tiles for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from s5.data.shards import ShardingConfig, pack_tiles
from s5.data.tiles import TileReader
from s5.geo.raster import write_geotiff
from s5.types import BandStatistics, LabelSpace


class InMemoryTiles:
    """A tile source whose tiles are decoded already, as the reader's cache holds them."""

    def __init__(self, count: int, size: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 255, (count, 3, size, size), dtype=np.uint8)
        self.masks = rng.integers(0, classes, (count, size, size), dtype=np.uint8)
        self.valid = np.ones((size, size), bool)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.images[index], self.masks[index], self.valid


def tiles_in_memory(count: int, size: int) -> tuple[InMemoryTiles, BandStatistics, LabelSpace]:
    classes = ("field", "forest", "water", "road", "building")
    stats = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.5,) * 3, (0.3,) * 3)
    return InMemoryTiles(count, size, len(classes)), stats, LabelSpace(classes)


def tiles_on_disk(
    folder: Path, count: int, size: int, *, shards: bool = False, masks: bool = False, cache_mb: int = 0
) -> tuple[TileReader, BandStatistics, LabelSpace]:
    """GeoTIFFs of smooth noise, which compress about as imagery does, read without a cache; packed where asked for."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        coarse = rng.integers(0, 200, (3, size // 8, size // 8)).repeat(8, 1).repeat(8, 2)
        image = (coarse + rng.integers(0, 16, coarse.shape)).astype(np.uint8)
        write_geotiff(folder / f"{i}.tif", image)
        mask = folder / f"{i}_mask.tif"
        if masks:
            write_geotiff(mask, rng.integers(0, 5, (size // 8, size // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1))
        rows.append((f"{i}", str(folder / f"{i}.tif"), str(mask) if masks else None, 0, 0, size, size))
    manifest = pd.DataFrame(rows, columns=["tile_id", "image", "mask", "row", "col", "height", "width"])
    if shards:
        manifest = manifest.assign(split="unlabeled", group="", crs="", valid_share=1.0)
        manifest = pack_tiles(manifest, folder / "shards", ShardingConfig(), bands=3).index.assign(row=0, col=0)
    _, statistics, labels = tiles_in_memory(1, 8)
    return TileReader(manifest, bands=3, size=size, cache_mb=cache_mb), statistics, labels
