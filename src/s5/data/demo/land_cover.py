"""A second, worse label map: a land-cover product on a coarse grid, shifted, with wrong and missing objects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.config import CLASSES

_BLOCK = 10.0  # metres: side of a cell of the product
_SHIFT = 5.0  # metres: error of its georeference, to the right and down
_WRONG = 0.10  # share of its objects that hold another class
_LARGEST = 0.12  # of the scene: larger objects are never wrong as a whole

Labels = NDArray[np.uint8]


def make_land_cover(rng: np.random.Generator, mask: Labels, gsd: float) -> Labels:
    """The product's idea of `mask`, on the same grid of pixels.

    Args:
        rng: Source of the errors.
        mask: uint8 [H, W], class indices.
        gsd: Metres a pixel.
    """
    block, shift = max(int(_BLOCK / gsd), 1), int(_SHIFT / gsd)
    height, width = mask.shape
    padded = np.pad(mask, ((shift, block), (shift, block)), mode="edge")
    rows, cols = -(-height // block), -(-width // block)
    blocks = padded[: rows * block, : cols * block].reshape(rows, block, cols, block)
    counts = np.stack([(blocks == index).sum(axis=(1, 3)) for index in range(len(CLASSES))])
    cells = counts.argmax(axis=0).astype(np.uint8)
    _confuse_objects(rng, cells)
    product: Labels = cells.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    return product


def connected_areas(cells: Labels) -> NDArray[np.int64]:
    """Areas of one class that touch along an edge: every cell gets the smallest index of its area."""
    area = np.arange(cells.size).reshape(cells.shape)
    while True:
        before = area.copy()
        for axis in (0, 1):
            for first, second in (((0, -1), (1, None)), ((1, None), (0, -1))):
                a: list[slice] = [slice(None), slice(None)]
                b: list[slice] = [slice(None), slice(None)]
                a[axis], b[axis] = slice(*first), slice(*second)
                near, far = area[tuple(a)], area[tuple(b)]
                same = cells[tuple(a)] == cells[tuple(b)]
                area[tuple(a)] = np.where(same, np.minimum(near, far), near)
        if (area == before).all():
            return area


def _confuse_objects(rng: np.random.Generator, cells: Labels) -> None:
    area = connected_areas(cells)
    names, sizes = np.unique(area, return_counts=True)
    small = names[sizes <= max(_LARGEST * cells.size, 1)]
    number = int(_WRONG * len(names) + 0.5)
    for name in rng.permutation(small)[:number]:
        inside = area == name
        own = int(cells[inside][0])
        cells[inside] = (own + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
