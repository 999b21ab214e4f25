"""Where the tiles lie: a map of footprints, a panel an area."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from s5.report.canvas import empty_figure, new_figure, style_axes
from s5.report.palette import SPLITS

_METRES_PER_DEGREE = 111_320.0
_MOST_TILES = 20_000
_MOST_PANELS = 6
_GAP_IN_TILES = 40.0


def has_footprints(manifest: pd.DataFrame) -> bool:
    """Whether any tile of the manifest knows where it lies."""
    return "geometry" in manifest and bool(manifest["geometry"].notna().any())


def plot_footprints(manifest: pd.DataFrame, selected: Collection[str] = ()) -> Figure:
    """Tile footprints by split, north up, in kilometres; areas that lie far apart get a panel each.

    Args:
        manifest: A row a tile; `geometry` holds polygons in EPSG:4326.
        selected: Ids of the tiles that selection took.
    """
    if not has_footprints(manifest):
        return empty_figure("No tile is georeferenced")
    placed = manifest[manifest["geometry"].notna()]
    if len(placed) > _MOST_TILES:
        every = np.linspace(0, len(placed) - 1, _MOST_TILES).round().astype(int)
        placed = placed.iloc[every]
    rings = [np.asarray(shape.exterior.coords, dtype=np.float64)[:, :2] for shape in placed["geometry"]]
    kinds = _kinds(placed, selected)
    areas = _areas(rings)
    panels = [np.flatnonzero(areas == area) for area in _largest(areas)]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(min(12.0, 5.5 * columns), 3.8 * lines + 0.4)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for number, (axes, members) in enumerate(zip(grid, panels, strict=False)):
        title = f"Area {number + 1} of {len(np.unique(areas))}" if len(np.unique(areas)) > 1 else "Footprints"
        _draw_area(axes, [rings[i] for i in members], [kinds[i] for i in members], title)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    present = [name for name in SPLITS if name in set(kinds)]
    handles = [Patch(color=SPLITS[name], label=_LEGEND.get(name, name)) for name in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    return figure


_LEGEND = {"selected": "unlabeled, selected", "unlabeled": "unlabeled, not selected"}


def _kinds(placed: pd.DataFrame, selected: Collection[str]) -> list[str]:
    chosen = set(selected)
    pairs = zip(placed["split"].astype(str), placed["tile_id"].astype(str), strict=True)
    return ["selected" if split == "unlabeled" and tile in chosen else split for split, tile in pairs]


def _areas(rings: list[NDArray[np.float64]]) -> NDArray[np.int64]:
    """A number for each ring: those that steps of less than 40 tile widths lead to are one area."""
    from sklearn.cluster import DBSCAN

    centres = np.stack([ring.mean(axis=0) for ring in rings])
    squeeze = np.cos(np.radians(centres[:, 1].mean()))
    sides = np.median([np.ptp(ring[:, 1]) for ring in rings])
    found = DBSCAN(eps=max(float(sides) * _GAP_IN_TILES, 1e-9), min_samples=1).fit(centres * [squeeze, 1.0])
    return np.asarray(found.labels_, dtype=np.int64)


def _largest(areas: NDArray[np.int64]) -> list[int]:
    numbers, counts = np.unique(areas, return_counts=True)
    return [int(numbers[i]) for i in np.argsort(-counts, kind="stable")[:_MOST_PANELS]]


def _draw_area(axes: Axes, rings: list[NDArray[np.float64]], kinds: list[str], title: str) -> None:
    """One area in kilometres from its south-west corner; labelled splits are drawn over unlabelled ones."""
    corners = np.concatenate(rings)
    origin = corners.min(axis=0)
    scale = np.array([np.cos(np.radians(corners[:, 1].mean())), 1.0]) * _METRES_PER_DEGREE / 1000.0
    order = ["unlabeled", "selected", "noisy", "labeled", "val", "test"]
    for kind in order:
        shapes: list[Any] = [(ring - origin) * scale for ring, own in zip(rings, kinds, strict=True) if own == kind]
        if shapes:
            axes.add_collection(PolyCollection(shapes, facecolors=SPLITS[kind], edgecolors="white", linewidths=0.25))
    extent = (corners.max(axis=0) - origin) * scale
    margin = max(float(extent.max()) * 0.06, 1e-4)
    axes.set_xlim(-margin, float(extent[0]) + margin)
    axes.set_ylim(-margin, float(extent[1]) + margin)
    axes.set_aspect("equal")
    west, south = origin
    style_axes(axes, title, xlabel=f"km east of {_degrees(west, 'EW')}", ylabel=f"km north of {_degrees(south, 'NS')}")


def _degrees(value: float, signs: str) -> str:
    return f"{abs(value):.4f}° {signs[0] if value >= 0 else signs[1]}"
