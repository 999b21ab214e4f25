"""The windows of a scene, read from threads; what is damaged is left out and remembered."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s5.types import Window

_NO_MASK = np.zeros((0, 0), np.uint8)


class SceneWindows:
    """Windows of one raster as a `TileSource`; blocks that cannot be read hold no data.

    Args:
        image: Anything rasterio opens.
        windows: All of one size.
        bands: How many the raster must have.
    """

    def __init__(self, image: str | Path, windows: Sequence[Window], *, bands: int) -> None:
        self.image, self.bands = image, bands  # no Path of it: that would spoil /vsicurl/https://...
        self._windows = list(windows)
        self._damaged: set[Window] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def damaged(self) -> list[Window]:
        """The blocks that could not be read so far, by place."""
        with self._lock:
            return sorted(self._damaged, key=lambda block: (block.row, block.col))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image [C, h, w], 0 where there is no data; an empty mask; and valid, bool [h, w]."""
        from s5.geo.raster import TruncatedRasterError, read_salvaged, read_window

        window = self._windows[index]
        try:
            image, valid = read_window(self.image, window, bands=self.bands)
        except TruncatedRasterError:
            image, valid, damaged = read_salvaged(self.image, window, bands=self.bands)
            with self._lock:
                self._damaged.update(damaged)
        if not valid.all():
            image[:, ~valid] = 0
        return image, _NO_MASK, valid
