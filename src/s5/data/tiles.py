"""Tiles of a manifest, read one at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s5.types import Window

if TYPE_CHECKING:
    import pandas as pd

Tile = tuple[npt.NDArray[Any], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]


class TileReader:
    """Reads the tiles of a manifest by position, all to one size.

    Files are opened for each read, so that a reader can be used in threads and be pickled into workers.

    Args:
        manifest: Rows with `tile_id`, `image`, `mask`, `row`, `col`, `height` and `width`.
        bands: Number of bands that every image must have.
        chosen: Places of those that are returned; None returns all.
        size: Height and width of what is returned, in pixels.
        ignore_index: Mask value of pixels without a label.
        cache_mb: Decoded tiles are kept up to this many MiB, the latest used ones; 0 keeps none.
    """

    def __init__(
        self,
        manifest: pd.DataFrame,
        *,
        bands: int,
        size: int,
        chosen: Sequence[int] | None = None,
        ignore_index: int = 255,
        cache_mb: int = 256,
    ) -> None:
        if bands < 1 or size < 1:
            raise ValueError(f"TileReader: bands and size must be positive, got bands {bands}, size {size}")
        if cache_mb < 0:
            raise ValueError(f"TileReader: cache_mb must not be negative, got {cache_mb}; 0 keeps no tile")
        self.bands, self.size, self.ignore_index = bands, size, ignore_index
        self._chosen = None if chosen is None else list(chosen)
        self.tile_ids: list[str] = [str(tile_id) for tile_id in manifest["tile_id"]]
        self._images = [str(image) for image in manifest["image"]]
        self._masks = [str(mask) if isinstance(mask, str) and mask else None for mask in manifest["mask"]]
        self._windows = manifest[["row", "col", "height", "width"]].to_numpy(dtype=np.int64)
        self._cache = _TileCache(cache_mb * 2**20)

    def __len__(self) -> int:
        return len(self.tile_ids)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of each tile before padding, [N, 2]."""
        return self._windows[:, 2:]

    def read(self, index: int) -> Tile:
        """Image, mask and valid pixels of a tile, padded at the bottom and right.

        The arrays are shared with the cache: copy before changing them.

        Returns:
            Image [C, size, size] in the file's dtype, 0 where there is no data; mask uint8 [size, size],
            `ignore_index` where there is no label or no data; valid bool [size, size].

        Raises:
            UnreadableRasterError: a file is gone or damaged since the ingestion.
            ValueError: the image has another number of bands.
        """
        tile = self._cache.get(index)
        if tile is None:
            tile = self._decode(index)
            self._cache.put(index, tile)
        return tile

    def read_many(self, indices: Sequence[int]) -> list[Tile]:
        """`read` for each of `indices`, with GDAL set up once for all of them."""
        from s5.geo.gdal import gdal_for_many

        with gdal_for_many():
            return [self.read(index) for index in indices]

    def _decode(self, index: int) -> Tile:
        from s5.geo.raster import read_window  # s5.data is imported on machines without rasterio

        window = Window(*self._windows[index].tolist())
        image, valid = read_window(Path(self._images[index]), window, size=self.size, bands=self.bands)
        if image.shape[0] != self.bands:
            raise ValueError(f"{self._images[index]}: has {image.shape[0]} bands, expected {self.bands}; ingest again")
        if self._chosen is not None:
            image = image[self._chosen]
        whole = bool(valid.all())
        if not whole:
            image[:, ~valid] = 0
        mask = np.full((self.size, self.size), self.ignore_index, dtype=np.uint8)
        mask_path = self._masks[index]
        if mask_path is not None:
            labels, _ = read_window(Path(mask_path), window)
            mask[: window.height, : window.width] = labels[0].astype(np.uint8)
            if not whole:
                mask[~valid] = self.ignore_index
        for array in (image, mask, valid):
            array.setflags(write=False)
        return image, mask, valid


class _TileCache:
    """The latest used tiles, up to a number of bytes. Safe in threads; pickled empty."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._bytes = capacity, 0
        self._tiles: OrderedDict[int, Tile] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_TileCache], tuple[int]]:
        return _TileCache, (self._capacity,)

    def get(self, index: int) -> Tile | None:
        with self._lock:
            if index in self._tiles:
                self._tiles.move_to_end(index)
            return self._tiles.get(index)

    def put(self, index: int, tile: Tile) -> None:
        with self._lock:
            if index in self._tiles:
                return
            self._tiles[index] = tile
            self._bytes += _bytes_of(tile)
            while self._bytes > self._capacity:
                _, oldest = self._tiles.popitem(last=False)
                self._bytes -= _bytes_of(oldest)


def _bytes_of(tile: Tile) -> int:
    return sum(array.nbytes for array in tile)
