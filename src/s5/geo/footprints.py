"""Where tiles lie on Earth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import numpy.typing as npt
import shapely
from rasterio.warp import transform as transform_points

from s5.geo.raster import RasterInfo
from s5.types import Window

if TYPE_CHECKING:
    import pandas as pd

FOOTPRINT_CRS = "EPSG:4326"
"""One CRS for the footprints of all tiles, whatever their own."""

_METRES_PER_DEGREE = 111_320.0  # of latitude; of longitude at the equator


def footprints(windows: Sequence[Window], info: RasterInfo) -> list[Any]:
    """Polygons of windows in EPSG:4326 (longitude, latitude); None each where the raster is not georeferenced."""
    if not info.georeferenced or not windows:
        return [None] * len(windows)
    cols, rows = _corners(windows)
    a, b, c, d, e, f = info.transform
    xs, ys = a * cols + b * rows + c, d * cols + e * rows + f
    lon, lat = transform_points(info.crs, FOOTPRINT_CRS, xs.ravel().tolist(), ys.ravel().tolist())
    points = np.stack([np.reshape(lon, xs.shape), np.reshape(lat, xs.shape)], axis=-1)
    if not np.isfinite(points).all():
        return [None] * len(windows)
    return list(shapely.polygons(points))


def with_footprints(table: pd.DataFrame, geometries: Sequence[Any]) -> pd.DataFrame:
    """The table as a GeoDataFrame in EPSG:4326, with a column `geometry`; empty ones are None."""
    frame: pd.DataFrame = geopandas.GeoDataFrame(table, geometry=list(geometries), crs=FOOTPRINT_CRS)
    return frame


def ground_size(footprint: Any) -> float:
    """Mean length of a tile's sides in metres, from its footprint in EPSG:4326."""
    _, south, _, north = footprint.bounds
    shrink = math.cos(math.radians((south + north) / 2))
    return math.sqrt(float(footprint.area) * _METRES_PER_DEGREE**2 * shrink)


def block_names(geometries: Sequence[Any], block_size: float) -> list[str | None]:
    """The block of a metric grid that holds the centre of each footprint; None where there is no footprint.

    Rows of the grid are bands of latitude and each row is cut at its own length of a degree, so that a block is
    `block_size` metres on both sides everywhere and in every CRS. The grid starts at the south-west of all footprints.

    Args:
        geometries: Polygons in EPSG:4326, or None.
        block_size: Side of a block in metres.
    """
    centres = [None if g is None else (g.centroid.x, g.centroid.y) for g in geometries]
    known = [centre for centre in centres if centre is not None]
    if not known:
        return [None] * len(centres)
    west, south = (min(values) for values in zip(*(g.bounds[:2] for g in geometries if g is not None), strict=True))
    return [None if centre is None else _block(*centre, west, south, block_size) for centre in centres]


def _block(lon: float, lat: float, west: float, south: float, block_size: float) -> str:
    row = math.floor((lat - south) * _METRES_PER_DEGREE / block_size)
    middle = south + (row + 0.5) * block_size / _METRES_PER_DEGREE
    col = math.floor((lon - west) * _METRES_PER_DEGREE * math.cos(math.radians(min(middle, 89.9))) / block_size)
    return f"block {row}_{col}"


def overlapping(candidates: Sequence[Any], others: Sequence[Any], *, share: float = 1e-3) -> npt.NDArray[np.bool_]:
    """Which candidate polygons share more than `share` of their area with one of the others; None overlaps nothing."""
    found = np.zeros(len(candidates), dtype=np.bool_)
    known = [polygon for polygon in others if polygon is not None]
    places = [i for i, polygon in enumerate(candidates) if polygon is not None]
    if not known or not places:
        return found
    polygons, known_array = np.array([candidates[i] for i in places]), np.array(known)
    left, right = shapely.STRtree(known_array).query(polygons, predicate="intersects")
    common = shapely.area(shapely.intersection(polygons[left], known_array[right]))
    found[np.array(places)[left[common > share * shapely.area(polygons[left])]]] = True
    return found


def _corners(windows: Sequence[Window]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    left, top = (np.array([getattr(w, name) for w in windows], dtype=np.float64) for name in ("col", "row"))
    right = left + [w.width for w in windows]
    bottom = top + [w.height for w in windows]
    return np.stack([left, right, right, left], axis=1), np.stack([top, top, bottom, bottom], axis=1)
