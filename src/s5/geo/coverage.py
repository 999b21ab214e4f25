"""A map of classes to polygons that fit each other, piece by piece, so that a scene of any size can be done.

Pieces of the map are polygonised and simplified on their own, with their outlines kept; then what belongs together
across outlines is joined. Neighbours share every vertex of their common edge, before and after simplification.
"""

from __future__ import annotations

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
) -> Coverage:
    """Polygons of the connected areas (over edges, not corners) of a map.

    Args:
        classes: The map, uint8.
        confidence: A raster of one band on the same grid.
        nodata: Value that becomes no polygon.
        simplify: Side in pixels of the corners that are cut (Visvalingam and Whyatt); 0 follows the pixels' edges, so
            that the polygons burnt into the grid give the map back.
        piece: Side of what is done at once, in pixels.
    """
    info = describe(classes)
    windows = partition_windows(info.height, info.width, size=piece)
    parts = _Parts(info.width)
    for window in windows:
        labels, values = read_window(classes, window)[0][0], read_window(confidence, window)[0][0]
        parts.add(window, labels, values, simplify)
    return parts.joined(info, nodata, simplify)


class _Parts:
    """The areas of each piece of a map, and which of them belong together; pieces come row by row."""

    def __init__(self, width: int) -> None:
        self._geometries: list[npt.NDArray[Any]] = []
        self._values: list[npt.NDArray[Any]] = []  # class, pixels and sum of confidence of each area
        self._same: list[npt.NDArray[np.int64]] = []  # pairs of areas
        self._count = 0
        self._above = np.full((2, width), -1, dtype=np.int64)  # area and class of the pixels over the piece
        self._bottom = self._above.copy()
        self._left: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None

    def add(self, window: Window, labels: npt.NDArray[Any], confidence: npt.NDArray[Any], simplify: float) -> None:
        if window.col == 0:
            self._above, self._bottom, self._left = self._bottom, np.full_like(self._bottom, -1), None
        areas = _connected(labels)
        self._geometries.append(_outlines(areas, simplify, window))
        _, first = np.unique(areas, return_index=True)
        flat = areas.ravel()
        counts, sums = np.bincount(flat), np.bincount(flat, weights=confidence.ravel())
        self._values.append(np.stack([labels.ravel()[first], counts, sums]))
        numbers = areas.astype(np.int64) + self._count
        cols = slice(window.col, window.col + window.width)
        self._join(self._above[0, cols], self._above[1, cols], numbers[0], labels[0])
        if self._left is not None:
            self._join(*self._left, numbers[:, 0], labels[:, 0])
        self._left = numbers[:, -1], labels[:, -1].astype(np.int64)
        self._bottom[:, cols] = numbers[-1], labels[-1]
        self._count += len(first)

    def _join(self, areas: Any, labels: Any, others: Any, other_labels: Any) -> None:
        same = labels == other_labels
        if same.any():
            self._same.append(np.unique(np.stack([areas[same], others[same]]), axis=1))

    def joined(self, info: RasterInfo, nodata: int, simplify: float) -> Coverage:
        first, second = np.concatenate([np.zeros((2, 0), np.int64), *self._same], axis=1)
        links = scipy.sparse.coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self._count,) * 2)
        _, groups = scipy.sparse.csgraph.connected_components(links, directed=False)
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        geometries = np.concatenate(self._geometries)[order]
        classes, pixels, sums = np.concatenate(self._values, axis=1)[:, order]
        pixels, sums = np.add.reduceat(pixels, starts), np.add.reduceat(sums, starts)
        whole = np.array(
            [group[0] if len(group) == 1 else shapely.union_all(group) for group in np.split(geometries, starts[1:])],
            dtype=object,
        )
        if simplify > 0 and len(whole) > 0:
            # What is left are the points along the outlines of the pieces that lie on a straight line.
            whole = shapely.coverage_simplify(whole, 1e-6)
        classes = classes[starts]
        kept = classes != nodata
        return Coverage(
            _placed(whole[kept], info),
            classes[kept].astype(np.int64),
            pixels[kept].astype(np.int64),
            (sums / pixels)[kept],
        )


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
