"""How a raster of any size is cut into tiles."""

from __future__ import annotations

from itertools import pairwise

from s5.types import Window


def tile_windows(height: int, width: int, *, size: int, stride: int | None = None) -> list[Window]:
    """Windows of one size that cover a raster, row by row; those at the far edges are shifted inward.

    Where the raster is smaller than a tile, the window ends with the raster.

    Args:
        height, width: Of the raster, in pixels.
        size: Height and width of a tile, in pixels.
        stride: From one tile to the next, in 1..size pixels; `size` by default.
    """
    stride = size if stride is None else stride
    if size < 1 or not 1 <= stride <= size:
        raise ValueError(f"tiling: expected size >= 1 and stride in 1..size, got size {size}, stride {stride}")
    return [
        Window(row, col, min(size, height), min(size, width))
        for row in _starts(height, size, stride)
        for col in _starts(width, size, stride)
    ]


def partition_windows(height: int, width: int, *, size: int) -> list[Window]:
    """Windows of nearly equal size, at most `size`, that hold every pixel of a raster once, row by row."""
    if size < 1:
        raise ValueError(f"tiling: expected size >= 1, got {size}")
    return [
        Window(top, left, bottom - top, right - left)
        for top, bottom in pairwise(_cuts(height, size))
        for left, right in pairwise(_cuts(width, size))
    ]


def _starts(extent: int, size: int, stride: int) -> list[int]:
    last = max(extent - size, 0)
    return [*range(0, last, stride), last]


def _cuts(extent: int, size: int) -> list[int]:
    parts = -(-extent // size)
    return [extent * part // parts for part in range(parts + 1)]
