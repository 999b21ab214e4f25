"""Tiles for benchmarks."""

from __future__ import annotations

import numpy as np

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
