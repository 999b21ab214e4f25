"""Where the tiles lie: an overview, and a map of footprints for each area."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from s5.report.canvas import empty_figure, new_figure, style_axes
from s5.report.palette import INK, SPLITS

_KM_PER_DEGREE = 111.32
_MOST_TILES = 20_000
_MOST_AREAS = 5
_GAP_IN_TILES = 40.0
# Drawn in this order: what was chosen or labelled is over what was not.
_ORDER = ("noisy", "unlabeled", "selected", "labeled", "val", "test")
_LEGEND = {"selected": "unlabeled, selected", "unlabeled": "unlabeled, not selected"}

Ring = NDArray[np.float64]


@dataclass(frozen=True)
class _Placed:
    """Footprints as rings of (longitude, latitude), and the split of each; selected tiles are a kind of their own."""

    rings: list[Ring]
    kinds: list[str]

    def only(self, places: Sequence[int]) -> _Placed:
        return _Placed([self.rings[i] for i in places], [self.kinds[i] for i in places])

    @property
    def corners(self) -> Ring:
        return np.concatenate(self.rings)


def has_footprints(manifest: pd.DataFrame) -> bool:
    """Whether any tile of the manifest knows where it lies."""
    return "geometry" in manifest and bool(manifest["geometry"].notna().any())


def plot_footprints(manifest: pd.DataFrame, selected: Collection[str] = ()) -> Figure:
    """Tile footprints by split, north up, in kilometres.

    Tiles that lie far from each other are areas of their own. Where there are several, an overview comes first, and
    then the areas that together show all splits.

    Args:
        manifest: A row a tile; `geometry` holds polygons in EPSG:4326.
        selected: Ids of the tiles that selection took.
    """
    if not has_footprints(manifest):
        return empty_figure("No tile is georeferenced")
    placed = _placed(manifest[manifest["geometry"].notna()], selected)
    areas = _areas(placed.rings)
    shown = _chosen(areas, placed.kinds)
    several = len(np.unique(areas)) > 1
    panels = len(shown) + several
    columns = min(3, panels)
    figure = new_figure(min(12.0, 5.5 * columns), 3.6 * -(-panels // columns) + 0.4)
    grid = figure.subplots(-(-panels // columns), columns, squeeze=False).ravel()
    if several:
        _draw_overview(grid[0], placed, areas, shown)
    for letter, area, axes in zip("ABCDE", shown, grid[several:], strict=False):
        _draw_area(
            axes, placed.only(np.flatnonzero(areas == area).tolist()), f"Area {letter}" if several else "Footprints"
        )
    for axes in grid[panels:]:
        axes.set_visible(False)
    present = [kind for kind in SPLITS if kind in set(placed.kinds)]
    handles = [Patch(color=SPLITS[kind], label=_LEGEND.get(kind, kind)) for kind in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    return figure


def _placed(tiles: pd.DataFrame, selected: Collection[str]) -> _Placed:
    """At most 20,000 tiles, evenly spread over the table."""
    if len(tiles) > _MOST_TILES:
        tiles = tiles.iloc[np.linspace(0, len(tiles) - 1, _MOST_TILES).round().astype(int)]
    chosen = set(selected)
    pairs = zip(tiles["split"].astype(str), tiles["tile_id"].astype(str), strict=True)
    kinds = ["selected" if split == "unlabeled" and tile in chosen else split for split, tile in pairs]
    return _Placed([np.asarray(s.exterior.coords, dtype=np.float64)[:, :2] for s in tiles["geometry"]], kinds)


def _areas(rings: list[Ring]) -> NDArray[np.int64]:
    """A number for each ring: those that steps of less than 40 tile widths lead to are one area."""
    from sklearn.cluster import DBSCAN

    centres = np.stack([ring.mean(axis=0) for ring in rings])
    squeeze = np.cos(np.radians(centres[:, 1].mean()))
    sides = np.median([np.ptp(ring[:, 1]) for ring in rings])
    found = DBSCAN(eps=max(float(sides) * _GAP_IN_TILES, 1e-9), min_samples=1).fit(centres * [squeeze, 1.0])
    return np.asarray(found.labels_, dtype=np.int64)


def _chosen(areas: NDArray[np.int64], kinds: list[str]) -> list[int]:
    """Up to five areas: each time the one that shows most kinds not yet shown, and of those the largest."""
    has = {
        int(area): {kind for kind, own in zip(kinds, areas, strict=True) if own == area} for area in np.unique(areas)
    }
    sizes = {area: int((areas == area).sum()) for area in has}
    chosen: list[int] = []
    seen: set[str] = set()
    while len(chosen) < min(_MOST_AREAS, len(has)):
        rest = [area for area in has if area not in chosen]
        best = max(rest, key=lambda area: (len(has[area] - seen), sizes[area], -area))
        chosen.append(best)
        seen |= has[best]
    return chosen


def _kilometres(rings: Sequence[Ring], corners: Ring) -> tuple[list[Ring], Ring]:
    """Rings in kilometres east and north of the south-western corner of all `corners`, and how far these reach."""
    origin = corners.min(axis=0)
    scale = np.array([np.cos(np.radians(corners[:, 1].mean())), 1.0]) * _KM_PER_DEGREE
    return [(ring - origin) * scale for ring in rings], (corners.max(axis=0) - origin) * scale


def _draw_area(axes: Axes, placed: _Placed, title: str) -> None:
    rings, extent = _kilometres(placed.rings, placed.corners)
    for kind in _ORDER:
        shapes: list[Any] = [ring for ring, own in zip(rings, placed.kinds, strict=True) if own == kind]
        if shapes:
            axes.add_collection(PolyCollection(shapes, facecolors=SPLITS[kind], edgecolors="white", linewidths=0.25))
    _frame(axes, extent, placed.corners, title)


def _draw_overview(axes: Axes, placed: _Placed, areas: NDArray[np.int64], shown: Sequence[int]) -> None:
    """A dot a tile; areas that get a map of their own are named."""
    centres, extent = _kilometres([ring.mean(axis=0) for ring in placed.rings], placed.corners)
    points = np.stack(centres)
    for kind in _ORDER:
        own = points[[k == kind for k in placed.kinds]]
        axes.scatter(own[:, 0], own[:, 1], s=9, color=SPLITS[kind], linewidths=0)
    for letter, area in zip("ABCDE", shown, strict=False):
        middle = points[areas == area].mean(axis=0)
        place = (float(middle[0]), float(middle[1]))
        axes.annotate(letter, place, (5, 5), textcoords="offset points", fontsize=9.5, fontweight="bold", color=INK)
    _frame(axes, extent, placed.corners, f"All {len(np.unique(areas))} areas")


def _frame(axes: Axes, extent: Ring, corners: Ring, title: str) -> None:
    west, south = corners.min(axis=0)
    axes.update_datalim([(0.0, 0.0), (float(extent[0]), float(extent[1]))])
    axes.margins(0.06)
    axes.autoscale_view()
    axes.set_aspect("equal", adjustable="datalim")
    style_axes(axes, title, xlabel=f"km east of {_degrees(west, 'EW')}", ylabel=f"km north of {_degrees(south, 'NS')}")


def _degrees(value: float, signs: str) -> str:
    return f"{abs(value):.4f}° {signs[0] if value >= 0 else signs[1]}"
