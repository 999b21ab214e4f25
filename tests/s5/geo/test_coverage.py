"""Polygons of maps against the maps themselves, and against shapely's own test of coverages."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import scipy.ndimage
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.transform import Affine

from s5.geo.coverage import Coverage, class_polygons, merge_small
from s5.geo.raster import read_window, write_geotiff

GRID = (0.5, 0.1, 500_000.0, 0.2, -0.5, 5_000_000.0)
LABELS = arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0, 1, 2, 255]))


def write(folder: Path, labels: np.ndarray, grid: tuple[float, ...] | None = GRID) -> tuple[Path, Path]:
    confidence = (np.arange(labels.size) % 251).astype(np.uint8).reshape(labels.shape)
    write_geotiff(folder / "classes.tif", labels, transform=grid, crs="EPSG:32632", nodata=255)
    write_geotiff(folder / "confidence.tif", confidence)
    return folder / "classes.tif", folder / "confidence.tif"


def polygons(files: tuple[Path, Path], **options: Any) -> Coverage:
    """All batches as one."""
    batches = list(class_polygons(*files, **options))
    return Coverage(*(np.concatenate([getattr(batch, f.name) for batch in batches]) for f in fields(Coverage)))


def smooth(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    noise = [scipy.ndimage.gaussian_filter(rng.normal(size=(height, width)), 3) for _ in range(3)]
    labels = np.argmax(noise, axis=0).astype(np.uint8)
    labels[:12, 20:50] = 255
    return labels


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(labels=LABELS, piece=st.integers(1, 15))
def test_polygons_are_the_connected_areas(tmp_path: Path, labels: np.ndarray, piece: int) -> None:
    found = polygons(write(tmp_path, labels), piece=piece)
    number = sum(scipy.ndimage.label(labels == value)[1] for value in (0, 1, 2))
    assert len(found.geometries) == number
    assert bool(shapely.is_valid(found.geometries).all())
    burnt = np.full(labels.shape, 255, np.uint8)
    if number:
        pairs = zip(found.geometries, found.classes.tolist(), strict=True)
        rasterio.features.rasterize(pairs, out=burnt, transform=Affine(*GRID))
    np.testing.assert_array_equal(burnt, labels)
    assert found.pixels.sum() == (labels != 255).sum()
    np.testing.assert_allclose(shapely.area(found.geometries), found.pixels * 0.27)
    confidence = read_window(tmp_path / "confidence.tif")[0][0]
    assert (found.confidence * found.pixels).sum() == pytest.approx(float(confidence[labels != 255].sum()))


@pytest.mark.parametrize("piece", [40, 1000])
def test_simplified_neighbours_still_fit(tmp_path: Path, piece: int) -> None:
    labels = smooth(90, 130)
    raw = polygons(write(tmp_path, labels), piece=piece)
    found = polygons(write(tmp_path, labels), piece=piece, simplify=1.5)
    assert bool(shapely.coverage_is_valid(found.geometries))
    assert bool(shapely.is_valid(found.geometries).all())
    assert shapely.get_num_coordinates(found.geometries).sum() < 0.7 * shapely.get_num_coordinates(raw.geometries).sum()
    np.testing.assert_array_equal(found.classes, raw.classes)
    np.testing.assert_array_equal(found.pixels, raw.pixels)
    # no gap and no overlap: the areas add up to that of their union, which nodata and the rim alone bound
    whole = shapely.union_all(found.geometries)
    assert shapely.area(found.geometries).sum() == pytest.approx(whole.area)
    assert whole.area == pytest.approx((labels != 255).sum() * 0.27, rel=2e-3)
    assert len(whole.interiors) == 0


def test_pieces_change_nothing_but_where_they_meet(tmp_path: Path) -> None:
    files = write(tmp_path, smooth(90, 130), grid=None)  # in pixels nothing is rounded
    one, many = polygons(files, piece=1000), polygons(files, piece=31)
    assert len(one.geometries) == len(many.geometries)
    pairs = [(a, b) for a in one.geometries for b in many.geometries if a.equals(b)]
    assert len(pairs) == len(one.geometries)


def test_small_areas_go_to_their_largest_neighbour(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 10:] = 1
    labels[3:5, 3:5] = 2  # 4 pixels in class 0
    labels[8:10, 9:13] = 2  # 8 pixels over the border
    labels[15:, 15:] = 255
    labels[17, 17] = 2  # an island in nodata
    classes, _ = write(tmp_path, labels)
    merge_small(classes, tmp_path / "merged.tif", pixels=8)
    merged = read_window(tmp_path / "merged.tif")[0][0]
    expected = labels.copy()
    expected[3:5, 3:5] = 0
    np.testing.assert_array_equal(merged, expected)
    assert {path.name for path in tmp_path.iterdir()} == {"classes.tif", "confidence.tif", "merged.tif"}
