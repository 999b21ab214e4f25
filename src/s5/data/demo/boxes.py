"""Oriented boxes and the pixels that they cover."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from s5.data.demo.noise import Field


@dataclass(frozen=True)
class Box:
    """An oriented rectangle in pixels: centre, unit vector of its length, length and width, and what it holds."""

    x: float
    y: float
    dx: float
    dy: float
    length: float
    width: float
    kind: str = ""

    def corners(self) -> list[tuple[float, float]]:
        """Four corners (column, row), clockwise in the image, from the front left one."""
        a, b = self.length / 2, self.width / 2
        return [
            (self.x + self.dx * s * a - self.dy * t * b, self.y + self.dy * s * a + self.dx * t * b)
            for s, t in ((1, -1), (1, 1), (-1, 1), (-1, -1))
        ]


@dataclass(frozen=True)
class Patch:
    """The pixels around a box: where they lie in the canvas, and their position along and across the box."""

    rows: slice
    cols: slice
    along: Field
    across: Field


def patch_of(box: Box, size: int, margin: float = 1.5) -> Patch | None:
    """The part of the canvas that holds the box, or None where it lies outside."""
    reach = math.sqrt(box.length**2 + box.width**2) / 2 + margin
    top, bottom = max(int(box.y - reach), 0), min(int(box.y + reach) + 2, size)
    left, right = max(int(box.x - reach), 0), min(int(box.x + reach) + 2, size)
    if top >= bottom or left >= right:
        return None
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - box.y)
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - box.x)
    dx, dy = np.float32(box.dx), np.float32(box.dy)
    return Patch(slice(top, bottom), slice(left, right), dx * x + dy * y, dx * y - dy * x)


def cover_of(patch: Patch, box: Box) -> Field:
    """Share of each pixel of the patch that the box covers."""
    along = np.clip(np.float32(box.length / 2 + 0.5) - np.abs(patch.along), 0, 1)
    return (along * np.clip(np.float32(box.width / 2 + 0.5) - np.abs(patch.across), 0, 1)).astype(np.float32)
