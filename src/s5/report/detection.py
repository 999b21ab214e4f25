"""Detections beside the truth, and how precise they are at which recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from s5.report.canvas import empty_figure, new_figure, plain, show_picture, style_axes
from s5.report.display import display_rgb
from s5.report.palette import MUTED, class_colors
from s5.types import BandStatistics

if TYPE_CHECKING:
    from s5.detection.annotations import Detections
    from s5.detection.evaluation import PrecisionRecall
    from s5.detection.scenes import Scene

_MOST_PIXELS = 1024


def plot_detections(
    scenes: Sequence[Scene],
    found: Mapping[str, Detections],
    curves: Mapping[str, PrecisionRecall],
    classes: Sequence[str],
    *,
    statistics: BandStatistics,
    count: int,
    least_score: float,
) -> Figure:
    """Precision over recall of each class, and the scenes with most objects: truth left, detections right.

    Scenes are chosen by their truth alone. Of a larger scene the upper left 1024 pixels are shown.

    Args:
        curves: At IoU 0.5.
        count: How many scenes.
        least_score: Of the detections shown.
    """
    if not scenes:
        return empty_figure("No scene to show")
    chosen = sorted(scenes, key=lambda scene: (-len(scene.annotations), scene.image))[:count]
    colors = dict(zip(classes, class_colors(classes), strict=True))
    figure = new_figure(8.4, 4.1 * (len(chosen) + 1))
    grid = figure.add_gridspec(len(chosen) + 1, 2)
    _draw_curves(figure.add_subplot(grid[0, :]), curves, colors)
    for row, scene in enumerate(chosen, start=1):
        left, right = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        for axes in (left, right):
            show_picture(axes, _picture(scene, statistics))
        for corners, name in zip(scene.annotations.corners, scene.annotations.names, strict=True):
            _outline(left, corners, colors.get(name, MUTED))
        left.set_title(plain(f"truth: {Path(scene.image).stem}"), fontsize=9)
        own = found.get(scene.image)
        shown = 0
        for corners, name, score in zip(own.corners, own.names, own.scores, strict=True) if own else ():
            if score >= least_score:
                _outline(right, corners, colors.get(name, MUTED))
                shown += 1
        right.set_title(f"{shown} detections with a score of {least_score:g} or more", fontsize=9)
    handles = [Line2D([], [], color=color, label=plain(name)) for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=9, frameon=False)
    return figure


def _draw_curves(axes: Axes, curves: Mapping[str, PrecisionRecall], colors: Mapping[str, str]) -> None:
    style_axes(axes, "Precision over recall at IoU 0.5", xlabel="recall", ylabel="precision")
    for name, found in curves.items():
        if found.num_truth:
            axes.plot(found.recall, found.precision, color=colors[name], label=plain(f"{name} ({found.num_truth})"))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if axes.lines:
        axes.legend(fontsize=8.5, frameon=False, loc="lower left")


def _outline(axes: Axes, corners: object, color: str) -> None:
    axes.add_patch(Polygon(corners, closed=True, fill=False, edgecolor=color, linewidth=1.2))  # type: ignore[arg-type]


def _picture(scene: Scene, statistics: BandStatistics) -> NDArray[np.uint8]:
    from s5.geo.raster import read_window
    from s5.types import Window

    window = Window(0, 0, min(scene.height, _MOST_PIXELS), min(scene.width, _MOST_PIXELS))
    image, valid = read_window(Path(scene.image), window, bands=len(statistics.bands))
    return display_rgb(image, statistics, valid=valid)
