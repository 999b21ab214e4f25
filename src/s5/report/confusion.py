"""Confusion matrices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from s5.report.canvas import empty_figure, new_figure, plain, style_axes

_MOST_CLASSES_WITH_NUMBERS = 16


def plot_confusion(matrices: Mapping[str, ArrayLike], classes: Sequence[str]) -> Figure:
    """A matrix a model, each row (a true class) summing to 100 percent.

    Args:
        matrices: Model name to pixel counts [K, K], rows truth, columns prediction.
        classes: K names.

    Raises:
        ValueError: a matrix that is not [K, K].
    """
    if not matrices:
        return empty_figure("No confusion matrix")
    shares = {name: row_percent(counts, len(classes)) for name, counts in matrices.items()}
    side = float(np.clip(1.6 + 0.52 * len(classes), 3.2, 8.0))
    columns = min(3, len(shares)) if len(classes) <= 10 else min(2, len(shares))
    rows = -(-len(shares) // columns)
    figure = new_figure(side * columns, side * 0.95 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for position, (name, share) in enumerate(shares.items()):
        _draw(grid[position], name, share, classes, first=position % columns == 0)
    for axes in grid[len(shares) :]:
        axes.set_visible(False)
    return figure


def row_percent(counts: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """Counts as percent of their row; NaN in a row without pixels.

    Raises:
        ValueError: `counts` is not [num_classes, num_classes].
    """
    matrix = np.asarray(counts, dtype=np.float64)
    if matrix.shape != (num_classes, num_classes):
        raise ValueError(f"confusion matrix: expected {num_classes} x {num_classes} counts, got shape {matrix.shape}")
    totals = matrix.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(matrix * 100.0, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    return shares


def _draw(axes: Axes, name: str, share: NDArray[np.float64], classes: Sequence[str], *, first: bool) -> None:
    axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(classes))
    size = 8.5 if len(classes) <= 10 else 6.5
    axes.set_xticks(ticks, [_short(c) for c in classes], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [_short(c) for c in classes] if first else [""] * len(classes))
    style_axes(axes, plain(name), xlabel="predicted", ylabel="true" if first else "", grid=False)
    axes.tick_params(labelsize=size, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    if len(classes) > _MOST_CLASSES_WITH_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(share):
        text = "–" if np.isnan(value) else f"{value:.0f}" if value >= 0.5 or value == 0 else "<1"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if value > 55 else "#1F2937",
            fontweight="bold" if row == column else "normal",
        )


def _short(name: str) -> str:
    return plain(name if len(name) <= 18 else name[:17] + "…")
