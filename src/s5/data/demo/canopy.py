"""Tree crowns: one jittered lattice of domes carries woods, hedges and garden trees alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.noise import Field

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Crowns:
    """Trees of a scene, in a lattice of cells; `row` and `col` are pixel positions of the stems."""

    cell: int
    row: Field
    col: Field
    radius: Field
    height: Field  # of the top, in pixels
    kind: NDArray[np.uint8]
    tint: Field

    def stems(self, size: int) -> tuple[Index, Index]:
        """Row and column of the pixel of each stem (the nearest one for stems outside)."""
        row, col = (np.clip(at, 0, size - 1).astype(np.int64) for at in (self.row, self.col))
        return row, col


def sow_crowns(rng: np.random.Generator, size: int, cell: int) -> Crowns:
    """One possible tree in each cell."""
    cells = size // cell + 4
    shape = (cells, cells)
    origin = (np.arange(cells, dtype=np.float32) - np.float32(1)) * np.float32(cell)
    jitter = rng.random((2, *shape), dtype=np.float32)
    vigour = rng.random(shape, dtype=np.float32)
    return Crowns(
        cell,
        origin[:, None] + jitter[0] * np.float32(cell),
        origin[None, :] + jitter[1] * np.float32(cell),
        (np.float32(0.45) + np.float32(0.75) * vigour) * np.float32(cell),
        np.float32(8) + np.float32(12) * vigour,
        rng.integers(0, 4, shape, dtype=np.uint8),
        rng.random(shape, dtype=np.float32) * np.float32(2) - np.float32(1),
    )


def grow_canopy(crowns: Crowns, standing: NDArray[np.bool_], ragged: tuple[Field, Field]) -> tuple[Field, Index]:
    """Height of the canopy in pixels, 0 where there is none, and the index of the crown seen at each pixel.

    `ragged` moves pixels (rows, columns) a little before they are looked up, so that crowns are not round.
    """
    size = ragged[0].shape[0]
    cells = standing.shape[0]
    own = np.arange(size) // crowns.cell + 1
    y = np.arange(size, dtype=np.float32)[:, None] + ragged[0]
    x = np.arange(size, dtype=np.float32)[None, :] + ragged[1]
    top = np.zeros((size, size), np.float32)
    seen = np.zeros((size, size), np.int64)
    lift = np.where(standing, crowns.height, np.float32(0)).astype(np.float32)
    shrink = (1 / (crowns.radius * crowns.radius)).astype(np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            index = (own + down)[:, None] * cells + (own + right)[None, :]
            dy, dx = y - crowns.row.take(index), x - crowns.col.take(index)
            dome = 1 - (dx * dx + dy * dy) * shrink.take(index)
            height = lift.take(index) * (np.float32(0.25) + np.float32(0.75) * dome)
            better = (dome > 0) & (height > top)
            np.copyto(top, height, where=better)
            np.copyto(seen, index, where=better)
    return top, seen
