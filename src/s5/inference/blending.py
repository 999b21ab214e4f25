"""Windows that overlap, blended into rows: memory is bounded by the scene's width and not by its height."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from s5.types import Window


@dataclass(frozen=True)
class BlendGrid:
    """Windows of one size, evenly spread over a scene so that neighbours overlap by at least `overlap` pixels.

    The weight of a window is a trapezoid along rows times one along columns: 0 in the `margin` pixels at an inner
    side, then growing over the rest of the overlap, and 1 in the middle and up to the sides of the scene. Blended
    values are divided by the sum of the weights.

    Args:
        height, width: Of the scene, in pixels.
        size: Height and width of a window; a scene that is smaller makes it smaller.
        overlap: Least overlap, at most half of `size`.
        margin: At most half of `overlap`.
    """

    height: int
    width: int
    size: int
    overlap: int
    margin: int

    @cached_property
    def rows(self) -> list[int]:
        """First row of each row of windows."""
        return _spread(self.height, self.size, self.overlap)

    @cached_property
    def cols(self) -> list[int]:
        """First column of each column of windows."""
        return _spread(self.width, self.size, self.overlap)

    @cached_property
    def windows(self) -> list[Window]:
        """All windows, row by row."""
        height, width = min(self.size, self.height), min(self.size, self.width)
        return [Window(row, col, height, width) for row in self.rows for col in self.cols]

    @cached_property
    def strips(self) -> list[tuple[int, int]]:
        """First row and height of what is finished with each row of windows."""
        ends = [*self.rows[1:], self.height]
        return [(start, end - start) for start, end in zip(self.rows, ends, strict=True)]

    @cached_property
    def row_weights(self) -> Tensor:
        """The weights of each row of windows, float32 [rows of windows, window height]."""
        return _trapezoids(self.rows, min(self.size, self.height), self.height, self.overlap, self.margin)

    @cached_property
    def col_weights(self) -> Tensor:
        return _trapezoids(self.cols, min(self.size, self.width), self.width, self.overlap, self.margin)

    def first_row_for(self, strip: int) -> int:
        """The first row of windows that reaches into a strip."""
        return next(i for i, row in enumerate(self.rows) if row + self.size > self.rows[strip])


def _spread(extent: int, size: int, overlap: int) -> list[int]:
    if extent <= size:
        return [0]
    steps = -(-(extent - size) // (size - overlap))
    return [(extent - size) * step // steps for step in range(steps + 1)]


def _trapezoids(starts: list[int], size: int, extent: int, overlap: int, margin: int) -> Tensor:
    from_side = torch.arange(size, dtype=torch.float32) + 0.5
    ramp = ((from_side - margin) / max(overlap - 2 * margin, 1)).clamp(0, 1)
    weights = torch.ones(len(starts), size)
    for weight, start in zip(weights, starts, strict=True):
        if start > 0:
            weight *= ramp
        if start + size < extent:
            weight *= ramp.flip(0)
    return weights


def _sums(weights: Tensor, starts: list[int], extent: int) -> Tensor:
    total = torch.zeros(extent)
    for weight, start in zip(weights, starts, strict=True):
        total[start : start + len(weight)] += weight
    return total


@dataclass(frozen=True)
class BlendedStrip:
    """Finished rows of a scene.

    Shape:
        scores: [K, h, W] float32, a view that the next strip overwrites. valid: bool [h, W].
    """

    number: int
    row: int
    scores: Tensor
    valid: Tensor


def blend(
    grid: BlendGrid,
    outputs: Iterable[tuple[int, Tensor | None, Tensor | None]],
    *,
    channels: int,
    first: int,
    device: torch.device,
) -> Iterator[BlendedStrip]:
    """Blend the outputs of windows and yield every strip as soon as it is finished.

    Args:
        grid: The windows.
        outputs: Number of each window, its scores [K, h, w] and which pixels hold data, bool [h, w]; None twice for a
            window without data. In the order of the grid, from the first window of row `grid.first_row_for(first)`.
        channels: K.
        first: The first strip that is wanted.
        device: Where the rows are kept.
    """
    at = grid.first_row_for(first)
    size = min(grid.size, grid.height)
    scores = torch.zeros(channels, size, grid.width, device=device)
    valid = torch.zeros(size, grid.width, dtype=torch.bool, device=device)
    row_weights, col_weights = grid.row_weights.to(device), grid.col_weights.to(device)
    row_sums = _sums(grid.row_weights, grid.rows, grid.height).to(device)
    col_sums = _sums(grid.col_weights, grid.cols, grid.width).to(device)
    expected = at * len(grid.cols)
    for number, output, holds_data in outputs:
        assert number == expected, "windows come in order"
        expected += 1
        row, col = divmod(number, len(grid.cols))
        if output is not None and holds_data is not None:
            cols = slice(grid.cols[col], grid.cols[col] + output.shape[-1])
            weight = torch.outer(row_weights[row], col_weights[col])
            scores[:, :, cols].addcmul_(output.to(device), weight)
            valid[:, cols] |= holds_data.to(device)
        if col < len(grid.cols) - 1:
            continue
        start, height = grid.strips[row]
        if row >= first:
            done = scores[:, :height]
            done /= row_sums[start : start + height, None]
            done /= col_sums
            yield BlendedStrip(row, start, done, valid[:height])
        _roll(scores, height)
        _roll(valid[None], height)


def _roll(rows: Tensor, height: int) -> None:
    """Forget the first rows of [C, S, W] and make room for as many at the end."""
    kept = rows.shape[1] - height
    for start in range(0, kept, height):  # so that no piece is copied onto itself
        end = min(start + height, kept)
        rows[:, start:end] = rows[:, start + height : end + height]
    rows[:, kept:] = 0
