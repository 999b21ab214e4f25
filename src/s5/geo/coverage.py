"""A map of classes to polygons that fit each other, piece by piece, so that a scene of any size can be done.

Pieces of the map are polygonised and simplified on their own, with their outlines kept; then what belongs together
across outlines is joined. Simplified neighbours share every vertex of their common edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
import shapely

from s5.files import replacing
from s5.geo.gdal import gdal
from s5.geo.raster import IDENTITY, RasterInfo, describe, read_window, write_blocks
from s5.geo.windows import partition_windows
from s5.types import Window

_PIECE = 2048


@dataclass(frozen=True)
class Coverage:
    """The connected areas of one class each.

    Args:
        geometries: Polygons in the map's coordinates.
        classes: int64 [N].
        pixels: int64 [N], before simplification.
        confidence: Mean over its pixels, float64 [N], in the units of what was given.
    """

    geometries: npt.NDArray[Any]
    classes: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]


def class_polygons(
    classes: Path, confidence: Path, *, nodata: int = 255, simplify: float = 0.0, piece: int = _PIECE
) -> Iterator[Coverage]:
    """Polygons of the connected areas (over edges, not corners) of a map, a few at a time.

    Areas inside a piece of the map come as soon as it is done, those that cross pieces at the end: only they are kept
    in memory meanwhile.

    Args:
        classes: The map, uint8.
        confidence: A raster of one band on the same grid.
        nodata: Value that becomes no polygon.
        simplify: Side in pixels of the corners that are cut (Visvalingam and Whyatt); 0 follows the pixels' edges, so
            that the polygons burnt into the grid give the map back.
        piece: Side of what is done at once, in pixels.
    """
    info = describe(classes)
    open_areas = _OpenAreas(info.width)
    for window in partition_windows(info.height, info.width, size=piece):
        labels, values = read_window(classes, window)[0][0], read_window(confidence, window)[0][0]
        areas = _connected(labels)
        outlines = _outlines(areas, simplify, window)
        numbers = _numbers(areas, labels, values, len(outlines))
        at_side = np.zeros(len(outlines), dtype=np.bool_)
        for side in (areas[0], areas[-1], areas[:, 0], areas[:, -1]):
            at_side[side] = True
        open_areas.add(window, areas, labels, outlines, numbers, at_side)
        yield _coverage(outlines[~at_side], numbers[:, ~at_side], nodata, info)
    yield _coverage(*open_areas.joined(clean=simplify > 0), nodata, info)


def _coverage(geometries: npt.NDArray[Any], numbers: npt.NDArray[Any], nodata: int, info: RasterInfo) -> Coverage:
    classes, pixels, sums = numbers
    kept = classes != nodata
    return Coverage(
        _placed(geometries[kept], info),
        classes[kept].astype(np.int64),
        pixels[kept].astype(np.int64),
        (sums / pixels)[kept],
    )


class _OpenAreas:
    """The areas at the sides of pieces of a map, and which of them belong together; pieces come row by row."""

    def __init__(self, width: int) -> None:
        self._geometries: list[npt.NDArray[Any]] = []
        self._numbers: list[npt.NDArray[Any]] = []  # class, pixels and sum of confidence of each area
        self._same: list[npt.NDArray[np.int64]] = []  # pairs of areas
        self._count = 0
        self._rows: set[int] = set()
        self._cols: set[int] = set()
        self._above = np.full((2, width), -1, dtype=np.int64)  # area and class of the pixels over the piece
        self._bottom = self._above.copy()
        self._left: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None

    def add(
        self,
        window: Window,
        areas: npt.NDArray[np.int32],
        labels: npt.NDArray[Any],
        geometries: npt.NDArray[Any],
        numbers: npt.NDArray[Any],
        at_side: npt.NDArray[np.bool_],
    ) -> None:
        if window.col == 0:
            self._above, self._bottom, self._left = self._bottom, np.full_like(self._bottom, -1), None
        self._rows |= {window.row, window.row + window.height}
        self._cols |= {window.col, window.col + window.width}
        self._geometries.append(geometries[at_side])
        self._numbers.append(numbers[:, at_side])
        number = np.cumsum(at_side) - 1 + self._count
        cols = slice(window.col, window.col + window.width)
        self._join(self._above[0, cols], self._above[1, cols], number[areas[0]], labels[0])
        if self._left is not None:
            self._join(*self._left, number[areas[:, 0]], labels[:, 0])
        self._left = number[areas[:, -1]], labels[:, -1].astype(np.int64)
        self._bottom[:, cols] = number[areas[-1]], labels[-1]
        self._count += int(at_side.sum())

    def _join(self, areas: Any, labels: Any, others: Any, other_labels: Any) -> None:
        same = labels == other_labels
        if same.any():
            self._same.append(np.unique(np.stack([areas[same], others[same]]), axis=1))

    def joined(self, *, clean: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Polygons, and class, pixels and sum of confidence of each."""
        first, second = np.concatenate([np.zeros((2, 0), np.int64), *self._same], axis=1)
        links = scipy.sparse.coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self._count,) * 2)
        _, groups = scipy.sparse.csgraph.connected_components(links, directed=False)
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        geometries = np.concatenate(self._geometries)[order]
        self._geometries.clear()
        classes, pixels, sums = np.concatenate(self._numbers, axis=1)[:, order]
        numbers = np.stack([classes[starts], np.add.reduceat(pixels, starts), np.add.reduceat(sums, starts)])
        whole = np.array(
            [group[0] if len(group) == 1 else shapely.union_all(group) for group in np.split(geometries, starts[1:])],
            dtype=object,
        )
        return (_without_points_on(whole, self._rows, self._cols) if clean else whole), numbers


def _without_points_on(polygons: npt.NDArray[Any], rows: set[int], cols: set[int]) -> npt.NDArray[Any]:
    """Polygons without the points along the sides of pieces at which none of them turns."""
    rings, owner = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    at_line = np.isin(points[:, 0], list(cols)) | np.isin(points[:, 1], list(rows))
    ends = np.diff(ring, prepend=-1, append=-1) != 0
    inner = ~(ends[:-1] | ends[1:])  # rings begin and end somewhere
    chosen = np.flatnonzero(at_line)
    middle = chosen[inner[chosen]]
    before, here, after = points[middle - 1], points[middle], points[middle + 1]
    along = (before == here) & (here == after)
    straight = along[:, 0] & np.isin(here[:, 0], list(cols)) | along[:, 1] & np.isin(here[:, 1], list(rows))
    # A point where any of its polygons turns stays in all of them.
    turning = np.ones(len(points), dtype=np.bool_)
    turning[middle[straight]] = False
    _, place = np.unique(points[chosen, 0] * 2.0**26 + points[chosen, 1], return_inverse=True)  # whole numbers
    turns = np.zeros(int(place.max(initial=-1)) + 1, dtype=np.bool_)
    turns[place[turning[chosen]]] = True
    kept = np.ones(len(points), dtype=np.bool_)
    kept[chosen] = turns[place]
    cleaned: npt.NDArray[Any] = shapely.polygons(shapely.linearrings(points[kept], indices=ring[kept]), indices=owner)
    return cleaned


def _connected(labels: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """A number from 0 for each connected area of one value, int32 [H, W]."""
    areas = np.zeros(labels.shape, dtype=np.int32)
    count = 0
    for value in np.unique(labels):
        inside = labels == value
        found, number = scipy.ndimage.label(inside)
        areas[inside] = found[inside] - 1 + count
        count += number
    return areas


def _numbers(
    areas: npt.NDArray[np.int32], labels: npt.NDArray[Any], values: npt.NDArray[Any], count: int
) -> npt.NDArray[np.float64]:
    """Class, pixels and sum of confidence of each area, [3, N]; some rows at once, so that it takes little memory."""
    numbers = np.zeros((3, count))
    for start in range(0, len(areas), 128):
        flat, rows = areas[start : start + 128].ravel(), slice(start, start + 128)
        numbers[0, flat] = labels[rows].ravel()
        numbers[1] += np.bincount(flat, minlength=count)
        numbers[2] += np.bincount(flat, weights=values[rows].ravel(), minlength=count)
    return numbers


def _outlines(areas: npt.NDArray[np.int32], simplify: float, window: Window) -> npt.NDArray[Any]:
    """The polygon of each area, in pixel coordinates of the whole map."""
    polygons = np.empty(int(areas.max()) + 1, dtype=object)
    for geometry, area in rasterio.features.shapes(areas, connectivity=4):
        polygons[int(area)] = shapely.Polygon(geometry["coordinates"][0], geometry["coordinates"][1:])
    if simplify > 0:
        # With a vertex at every pixel's corner, neighbours share those where three areas meet.
        polygons = shapely.transform(shapely.segmentize(polygons, 1.0), np.round)
        polygons = shapely.coverage_simplify(polygons, simplify, simplify_boundary=False)
    offset = np.array([window.col, window.row], dtype=np.float64)
    placed: npt.NDArray[Any] = shapely.transform(polygons, lambda points: points + offset)
    return placed


def _placed(geometries: npt.NDArray[Any], info: RasterInfo) -> npt.NDArray[Any]:
    if info.transform == IDENTITY:
        return geometries
    a, b, c, d, e, f = info.transform

    def place(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    placed: npt.NDArray[Any] = shapely.transform(geometries, place)
    return placed


def merge_small(source: Path, target: Path, *, pixels: int, nodata: int = 255) -> None:
    """Give the areas of a map with fewer than `pixels` pixels to their largest neighbour; nodata stays where it is.

    An area that only nodata surrounds has no neighbour and stays. Takes a byte of memory for each pixel of the map.

    Raises:
        OSError: it could not be written, such as on a full disk.
    """
    info = describe(source)
    windows = [Window(row, 0, min(512, info.height - row), info.width) for row in range(0, info.height, 512)]
    with replacing(target.with_suffix(".mask.tif")) as mask:
        known = ((w, (read_window(source, w)[0][0] != nodata).astype(np.uint8)) for w in windows)
        write_blocks(mask, RasterInfo(info.height, info.width, 1, "uint8"), known)
        with gdal(), rasterio.open(source) as labels, rasterio.open(mask) as valid:
            merged = rasterio.features.sieve(rasterio.band(labels, 1), pixels, mask=rasterio.band(valid, 1))
    rows = (
        (w, np.where(read_window(source, w)[0][0] == nodata, nodata, merged[w.row : w.row + w.height])) for w in windows
    )
    write_blocks(target, info, rows, compress="lzw")
    target.with_suffix(".mask.tif").unlink()
