import geopandas
import numpy as np
import pytest
import shapely
from pyproj import Transformer

from s5.geo.footprints import block_names, footprints, ground_size, overlapping, with_footprints
from s5.geo.raster import RasterInfo
from s5.geo.windows import tile_windows
from s5.types import Window

GRID = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
INFO = RasterInfo(400, 600, 3, "uint8", "EPSG:32632", GRID)


def test_a_footprint_is_its_window_in_longitude_and_latitude():
    (polygon,) = footprints([Window(100, 50, 20, 30)], INFO)
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    corners = [(500_500, 4_999_000), (500_800, 4_999_000), (500_800, 4_998_800), (500_500, 4_998_800)]
    expected = shapely.Polygon([to_degrees.transform(x, y) for x, y in corners])
    assert shapely.symmetric_difference(polygon, expected).area < 1e-6 * expected.area
    assert ground_size(polygon) == pytest.approx((200 * 300) ** 0.5, rel=0.01)


def test_a_rotated_raster_has_rotated_footprints():
    info = RasterInfo(100, 100, 3, "uint8", "EPSG:32632", (7.0, 7.0, 500_000.0, 7.0, -7.0, 5_000_000.0))
    (polygon,) = footprints([Window(0, 0, 100, 100)], info)
    assert polygon.area < 0.6 * polygon.envelope.area


def test_what_lies_nowhere_has_no_footprint():
    assert footprints([Window(0, 0, 4, 4)], RasterInfo(4, 4, 3, "uint8")) == [None]
    assert footprints([], INFO) == []


def test_a_table_with_footprints_is_read_back_as_geoparquet(tmp_path):
    import pandas as pd

    windows = [Window(0, 0, 4, 4), Window(4, 0, 4, 4)]
    table = with_footprints(pd.DataFrame({"tile_id": ["a", "b", "c"]}), [*footprints(windows, INFO), None])
    table.to_parquet(tmp_path / "m.parquet")
    found = geopandas.read_parquet(tmp_path / "m.parquet")
    assert found.crs == "EPSG:4326"
    assert found.geometry[0].equals(table.geometry[0])
    assert found.geometry[2] is None


def test_blocks_are_squares_of_the_given_size():
    windows = tile_windows(INFO.height, INFO.width, size=10)
    names = block_names(footprints(windows, INFO), 1000.0)  # 4 km x 6 km in blocks of 1 km
    assert 24 <= len(set(names)) <= 35
    sizes = [names.count(name) for name in set(names)]
    assert max(sizes) == pytest.approx(100, abs=12)  # tiles of 100 m


def test_blocks_are_the_same_in_any_crs():
    windows = tile_windows(INFO.height, INFO.width, size=50)
    polygons = footprints(windows, INFO)
    assert block_names(polygons, 700.0) == block_names([*polygons], 700.0)
    assert block_names([None, *polygons], 700.0)[1:] == block_names(polygons, 700.0)
    assert block_names([None], 700.0) == [None]


def test_overlap_agrees_with_brute_force():
    rng = np.random.default_rng(0)

    def boxes(number):
        corners = rng.uniform(0, 10, (number, 2))
        return [shapely.box(x, y, x + 1, y + 1) for x, y in corners]

    left, right = [*boxes(40), None], [None, *boxes(12)]
    expected = [
        a is not None and any(b is not None and a.intersection(b).area > 1e-3 * a.area for b in right) for a in left
    ]
    np.testing.assert_array_equal(overlapping(left, right), expected)
    neighbours = [shapely.box(0, 0, 1, 1)], [shapely.box(1, 0, 2, 1)]
    assert not overlapping(*neighbours).any()
    assert not overlapping([None], [None]).any()
