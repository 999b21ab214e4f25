"""Areas of classes in square metres, measured in an equal-area projection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from pyproj.exceptions import ProjError
from rasterio.errors import CRSError
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from s5.geo.raster import RasterInfo, read_window
from s5.geo.vector import read_zones
from s5.geo.windows import partition_windows
from s5.types import Window

if TYPE_CHECKING:
    import pandas as pd

EQUAL_AREA_CRS = "EPSG:6933"
"""The cylindrical equal-area projection of the whole Earth on WGS 84 (EASE-Grid 2.0)."""

_BLOCK = 512
_POINTS_A_SIDE = 9  # straight sides bend when reprojected


def pixel_areas(windows: Sequence[Window], info: RasterInfo) -> npt.NDArray[np.float64] | None:
    """Mean area of a pixel of each window in m2; None where the raster lies nowhere that can be projected."""
    if not info.georeferenced:
        return None
    outlines = np.stack([_outline(window) for window in windows])
    a, b, c, d, e, f = info.transform
    cols, rows = outlines[..., 0], outlines[..., 1]
    xs, ys = a * cols + b * rows + c, d * cols + e * rows + f
    try:
        x, y = transform_points(info.crs, EQUAL_AREA_CRS, xs.ravel().tolist(), ys.ravel().tolist())
    except CRSError:  # a CRS of a building site, or of another planet
        return None
    points = np.stack([np.reshape(x, xs.shape), np.reshape(y, ys.shape)], axis=-1)
    if not np.isfinite(points).all():
        return None
    pixels = np.array([window.height * window.width for window in windows])
    areas: npt.NDArray[np.float64] = shapely.area(shapely.polygons(points)) / pixels
    return areas


def polygon_areas(geometries: Sequence[Any], crs: str) -> npt.NDArray[np.float64]:
    """Area of each polygon in m2; in units of its coordinates where `crs` is empty or cannot be projected."""
    series = geopandas.GeoSeries(list(geometries), crs=crs or None)
    if not crs:
        return np.asarray(series.area, dtype=np.float64)
    try:
        return np.asarray(series.to_crs(EQUAL_AREA_CRS).area, dtype=np.float64)
    except ProjError:
        return np.asarray(series.area, dtype=np.float64)


@dataclass(frozen=True)
class ClassAreas:
    """How much of a map, and of each zone of it, every class takes.

    Args:
        total: A row a class, then ``nodata`` and ``total``: pixels, area_m2 (NaN without CRS) and share of what is
            mapped.
        zones: The same for each zone, with a column ``zone``; None where no zones were given.
    """

    total: pd.DataFrame
    zones: pd.DataFrame | None = None


def class_areas(
    path: Path, info: RasterInfo, classes: Sequence[str], *, nodata: int = 255, zones: Path | None = None
) -> ClassAreas:
    """Measure the classes of a map block by block.

    A pixel of a block of at most 512 pixels counts with that block's mean area, so that the classes and nodata
    together are the area of the raster. A pixel belongs to the zones that hold its centre, the last where several do.

    Args:
        path: The map, uint8.
        info: Its grid.
        classes: Names; the position is the value.
        nodata: Value of pixels without a class.
        zones: A vector file; its zones are called by their column ``name``, else by their number.

    Raises:
        UnreadableVectorError: the zones cannot be read, or have no CRS where the map has one.
    """
    import pandas as pd

    windows = partition_windows(info.height, info.width, size=_BLOCK)
    areas = pixel_areas(windows, info)
    names, shapes = read_zones(zones, info) if zones is not None else ([], [])
    rows = [*range(len(classes)), nodata]
    pixels, square_metres = np.zeros((2, len(names) + 1, len(rows)))  # the first row is the whole map
    for number, (zone, counts) in _counts(path, windows, info, shapes, rows):
        pixels[zone] += counts
        square_metres[zone] += counts * (np.nan if areas is None else areas[number])
    tables = [_table(classes, pixels[zone], square_metres[zone]) for zone in range(len(names) + 1)]
    if zones is None:
        return ClassAreas(tables[0])
    of_zones = [table.assign(zone=name) for name, table in zip(names, tables[1:], strict=True)]
    columns = ["zone", *tables[0].columns]
    return ClassAreas(tables[0], pd.concat(of_zones)[columns] if of_zones else pd.DataFrame(columns=columns))


def _counts(
    path: Path, windows: Sequence[Window], info: RasterInfo, shapes: Sequence[Any], rows: Sequence[int]
) -> Iterator[tuple[int, tuple[int, npt.NDArray[np.float64]]]]:
    """Number of a window, number of a zone (0 is all) and pixels of each value."""
    tree = shapely.STRtree(list(shapes))
    for number, window in enumerate(windows):
        labels = read_window(path, window)[0][0]
        yield number, (0, np.bincount(labels.ravel(), minlength=256)[rows].astype(np.float64))
        transform = Affine(*info.transform) @ Affine.translation(window.col, window.row)
        corners = [transform @ (x, y) for x, y in ((0, 0), (window.width, 0), (window.width, window.height))]
        box = shapely.MultiPoint([*corners, transform @ (0, window.height)]).convex_hull
        touched = sorted(int(i) for i in tree.query(box))
        if not touched:
            continue
        inside = rasterio.features.rasterize(
            ((shapes[i], i + 1) for i in touched), out_shape=labels.shape, transform=transform, dtype="int32"
        )
        for i in touched:
            counts = np.bincount(labels[inside == i + 1], minlength=256)[rows]
            yield number, (i + 1, counts.astype(np.float64))


def _table(classes: Sequence[str], pixels: npt.NDArray[Any], square_metres: npt.NDArray[Any]) -> pd.DataFrame:
    import pandas as pd

    weights = pixels if np.isnan(square_metres).any() else square_metres
    mapped = weights[:-1].sum()
    shares = [*(weights[:-1] / mapped if mapped else np.zeros(len(classes))), np.nan, np.nan]
    return pd.DataFrame(
        {
            "class": [*classes, "nodata", "total"],
            "pixels": [*pixels.astype(np.int64), int(pixels.sum())],
            "area_m2": [*square_metres, square_metres.sum()],
            "share": shares,
        }
    )


def _outline(window: Window) -> npt.NDArray[np.float64]:
    """Points (col, row) around a window."""
    along = np.linspace(0, 1, _POINTS_A_SIDE)[:-1]
    sides = [(along, 0 * along), (1 + 0 * along, along), (1 - along, 1 + 0 * along), (0 * along, 1 - along)]
    x = np.concatenate([side[0] for side in sides]) * window.width + window.col
    y = np.concatenate([side[1] for side in sides]) * window.height + window.row
    return np.stack([x, y], axis=-1)
