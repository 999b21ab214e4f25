"""Polygons of an index raster: a partition that burns back to the raster."""

from pathlib import Path

import numpy as np
import shapely

from s5.geo.polygonize import polygonize
from s5.geo.raster import RasterInfo
from s5.geo.vector import rasterize, write_polygons

TRANSFORM = (2.0, 0.0, 500_000.0, 0.0, -2.0, 5_300_000.0)


def test_polygons_partition_the_raster_and_burn_back(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
    found = polygonize(mask, TRANSFORM)
    geometries = [geometry for geometry, _ in found]
    assert sum(shapely.area(geometries)) == shapely.union_all(geometries).area == 20 * 30 * 4
    for value in range(4):
        assert sum(g.area for g, v in found if v == value) == 4 * (mask == value).sum()
    names = ["a", "b", "c", "d"]
    path = tmp_path / "labels.gpkg"
    write_polygons(path, geometries[::-1], {"class": [names[v] for _, v in found][::-1]}, "EPSG:32632")
    info = RasterInfo(20, 30, 1, "uint8", "EPSG:32632", TRANSFORM)
    np.testing.assert_array_equal(rasterize(path, class_field="class", classes=names, info=info), mask)


def test_ignored_pixels_have_no_polygon() -> None:
    mask = np.array([[0, 0, 255], [1, 1, 255]], np.uint8)
    assert {(v, g.bounds) for g, v in polygonize(mask, (1, 0, 0, 0, -1, 2), ignore_index=255)} == {
        (0, (0.0, 1.0, 2.0, 2.0)),
        (1, (0.0, 0.0, 2.0, 1.0)),
    }
