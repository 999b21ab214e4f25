"""Training curves of several models together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s5.report.canvas import empty_figure, new_figure, plain, style_axes
from s5.report.palette import class_colors, model_color

_SHARE = "share_"


def plot_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss, validation mIoU, pseudo-labels and learning rate by step, all models in one figure.

    Only panels with data are drawn. Shares and accuracies are drawn in percent.

    Args:
        histories: Model name to its history, columns as the training writes them: step, loss, lr, val_miou, and for S4P
            confident_share, pseudo_accuracy and share_<class>, each share in [0, 1]; NaN where not measured.
    """
    panels = _panels({name: frame.sort_values("step") for name, frame in histories.items() if len(frame)})
    if not panels:
        return empty_figure("No training history")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.4 * columns, 3.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, draw in zip(grid, panels, strict=False):
        draw(axes)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _panels(histories: Mapping[str, pd.DataFrame]) -> list[Callable[[Axes], None]]:
    panels: list[Callable[[Axes], None]] = []
    if _any_has(histories, "loss"):
        panels.append(lambda axes: _draw_loss(axes, histories))
    if _any_has(histories, "val_miou"):
        panels.append(lambda axes: _draw_measured(axes, histories))
    if _any_has(histories, "confident_share") or _any_has(histories, "pseudo_accuracy"):
        panels.append(lambda axes: _draw_pseudo(axes, histories))
    panels.extend(_share_panel(name, frame) for name, frame in histories.items() if _share_columns(frame))
    if _any_has(histories, "lr"):
        panels.append(lambda axes: _draw_lr(axes, histories))
    return panels


def _any_has(histories: Mapping[str, pd.DataFrame], column: str) -> bool:
    return any(_has(frame, column) for frame in histories.values())


def _has(frame: pd.DataFrame, column: str) -> bool:
    return column in frame and bool(frame[column].notna().any())


def _share_columns(frame: pd.DataFrame) -> list[str]:
    """The class shares of the pseudo-labels; none where no pixel was ever confident."""
    columns = [str(c) for c in frame.columns if str(c).startswith(_SHARE) and _has(frame, str(c))]
    return columns if any((frame[c] > 0).any() for c in columns) else []


def _known(frame: pd.DataFrame, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of `column` where it was measured."""
    measured = frame[["step", column]].dropna()
    return measured["step"].to_numpy(dtype=np.float64), measured[column].to_numpy(dtype=np.float64)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running median over about a twentieth of the run: it follows steps of the curve and ignores single outliers."""
    width = max(3, len(values) // 20) | 1
    smoothed = pd.Series(values).rolling(width, center=True, min_periods=1).median()
    return smoothed.to_numpy(dtype=np.float64)


def _line(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], name: str, color: str) -> None:
    """The curve as it is, faint, and its running median over it."""
    if len(steps) < 12:
        axes.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=3, label=plain(name))
        return
    axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.3)
    axes.plot(steps, _smooth(values), color=color, linewidth=1.8, label=plain(name))


def _draw_loss(axes: Axes, histories: Mapping[str, pd.DataFrame]) -> None:
    for name, frame in histories.items():
        if _has(frame, "loss"):
            _line(axes, *_known(frame, "loss"), name, model_color(name))
    top = np.concatenate([_known(f, "loss")[1] for f in histories.values() if _has(f, "loss")])
    axes.set_ylim(bottom=0, top=max(float(np.nanpercentile(top, 99.5)) * 1.05, 1e-3))
    style_axes(axes, "Loss", xlabel="step")
    axes.legend(fontsize=8, frameon=False)


def _draw_measured(axes: Axes, histories: Mapping[str, pd.DataFrame]) -> None:
    """Validation mIoU with its best step marked, which is where the checkpoint is taken."""
    for name, frame in histories.items():
        if not _has(frame, "val_miou"):
            continue
        steps, values = _known(frame, "val_miou")
        color, best = model_color(name), int(np.argmax(values))
        axes.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=2.5, label=plain(name))
        axes.plot(steps[best], values[best], marker="*", markersize=11, color=color, markeredgecolor="white")
    style_axes(axes, "mIoU on val (★ best)", xlabel="step", ylabel="%")
    axes.legend(fontsize=8, frameon=False)


def _draw_pseudo(axes: Axes, histories: Mapping[str, pd.DataFrame]) -> None:
    for name, frame in histories.items():
        for column, label, color in (
            ("confident_share", "confident pixels", model_color(name)),
            ("pseudo_accuracy", "pseudo-label accuracy", "#7A3E9D"),
        ):
            if _has(frame, column):
                steps, values = _known(frame, column)
                _line(axes, steps, values * 100, label, color)
    axes.set_ylim(0, 102)
    style_axes(axes, "Pseudo-labels", xlabel="step", ylabel="%")
    axes.legend(fontsize=8, frameon=False)


def _share_panel(name: str, frame: pd.DataFrame) -> Callable[[Axes], None]:
    """A stacked area of the classes among the pseudo-labels: a class that takes over or dies out is seen at once."""
    columns = _share_columns(frame)

    def draw(axes: Axes) -> None:
        measured = frame[["step", *columns]].dropna()
        classes = [column.removeprefix(_SHARE) for column in columns]
        shares = [_smooth(measured[c].to_numpy(dtype=np.float64)) * 100 for c in columns]
        axes.stackplot(
            measured["step"].to_numpy(dtype=np.float64),
            *shares,
            colors=class_colors(classes),
            labels=list(map(plain, classes)),
            lw=0,
        )
        axes.set_ylim(0, 100)
        axes.margins(x=0)
        style_axes(axes, f"Classes of the pseudo-labels ({plain(name)})", xlabel="step", ylabel="%", grid=False)
        if len(classes) <= 12:
            axes.legend(fontsize=7, loc="lower left", framealpha=0.85, ncols=2)

    return draw


def _draw_lr(axes: Axes, histories: Mapping[str, pd.DataFrame]) -> None:
    for name, frame in histories.items():
        if _has(frame, "lr"):
            axes.plot(*_known(frame, "lr"), color=model_color(name), linewidth=1.8, label=plain(name))
    axes.set_ylim(bottom=0)
    style_axes(axes, "Learning rate", xlabel="step")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.legend(fontsize=8, frameon=False)
