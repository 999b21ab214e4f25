import resource

import geopandas
import numpy as np
import pytest
import shapely

from s5.geo.raster import RasterInfo
from s5.geo.vector import UnreadableVectorError, rasterize, write_polygons
from s5.types import Window

GRID = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
INFO = RasterInfo(40, 50, 1, "uint8", "EPSG:32632", GRID)
CLASSES = ("field", "water", "road")


def pixel_centres(info):
    a, _, c, _, e, f = info.transform
    cols, rows = np.meshgrid(np.arange(info.width) + 0.5, np.arange(info.height) + 0.5)
    return c + a * cols, f + e * rows


def random_polygons(seed, number=6):
    rng = np.random.default_rng(seed)
    centres = rng.uniform([500_000, 4_999_600], [500_500, 5_000_000], (number, 2))
    polygons = [shapely.Point(x, y).buffer(rng.uniform(20, 120), quad_segs=3) for x, y in centres]
    return polygons, [CLASSES[i] for i in rng.integers(0, 3, number)]


def brute_force(polygons, names, info=INFO, fill=255):
    mask = np.full((info.height, info.width), fill, dtype=np.uint8)
    xs, ys = pixel_centres(info)
    for polygon, name in zip(polygons, names, strict=True):
        mask[shapely.contains_xy(polygon, xs, ys)] = CLASSES.index(name)
    return mask


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "parquet"])
def test_a_pixel_takes_the_last_polygon_over_its_centre(tmp_path, seed, suffix):
    polygons, names = random_polygons(seed)
    if suffix == "fgb":  # it sorts its polygons by place: only one class is the same in any order
        names = ["water"] * len(names)
    write_polygons(tmp_path / f"a.{suffix}", polygons, {"class": names}, "EPSG:32632")
    mask = rasterize(tmp_path / f"a.{suffix}", class_field="class", classes=CLASSES, info=INFO)
    np.testing.assert_array_equal(mask, brute_force(polygons, names))


def test_windows_together_are_the_whole(tmp_path):
    polygons, names = random_polygons(1)
    write_polygons(tmp_path / "a.gpkg", polygons, {"class": names}, "EPSG:32632")
    whole = rasterize(tmp_path / "a.gpkg", class_field="class", classes=CLASSES, info=INFO)
    for window in (Window(0, 0, 17, 50), Window(17, 0, 23, 31), Window(17, 31, 23, 19)):
        part = rasterize(tmp_path / "a.gpkg", class_field="class", classes=CLASSES, info=INFO, window=window)
        rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        np.testing.assert_array_equal(part, whole[rows, cols])


def test_labels_in_another_crs_fall_on_the_same_pixels(tmp_path):
    polygons, names = random_polygons(2)
    frame = geopandas.GeoDataFrame({"class": names}, geometry=polygons, crs="EPSG:32632").to_crs("EPSG:4326")
    write_polygons(tmp_path / "a.gpkg", list(frame.geometry), {"class": names}, "EPSG:4326")
    mask = rasterize(tmp_path / "a.gpkg", class_field="class", classes=CLASSES, info=INFO)
    np.testing.assert_array_equal(mask, brute_force(polygons, names))


@pytest.mark.parametrize("values", [[2, 0], ["2", "0"], [2.0, 0.0]])
def test_a_class_may_be_an_index(tmp_path, values):
    polygons, _ = random_polygons(3, number=2)
    write_polygons(tmp_path / "a.gpkg", polygons, {"code": values}, "EPSG:32632")
    mask = rasterize(tmp_path / "a.gpkg", class_field="code", classes=CLASSES, info=INFO, fill=1)
    np.testing.assert_array_equal(mask, brute_force(polygons, ["road", "field"], fill=1))


def test_without_crs_on_both_sides_coordinates_are_pixels(tmp_path):
    write_polygons(tmp_path / "a.parquet", [shapely.box(2, 1, 5, 3)], {"class": ["water"]}, "")
    mask = rasterize(tmp_path / "a.parquet", class_field="class", classes=CLASSES, info=RasterInfo(6, 8, 1, "uint8"))
    expected = np.full((6, 8), 255)
    expected[1:3, 2:5] = 1
    np.testing.assert_array_equal(mask, expected)


def test_what_does_not_fit_is_named(tmp_path):
    polygons, _ = random_polygons(0, number=1)
    path = tmp_path / "a.gpkg"
    write_polygons(path, polygons, {"class": ["lava"]}, "EPSG:32632")
    with pytest.raises(
        UnreadableVectorError, match=r"a\.gpkg: 'class' holds 'lava', which is neither one of the classes"
    ):
        rasterize(path, class_field="class", classes=CLASSES, info=INFO)
    with pytest.raises(UnreadableVectorError, match=r"no attribute 'kind' \(found \['class'\]\)"):
        rasterize(path, class_field="kind", classes=CLASSES, info=INFO)
    with pytest.raises(UnreadableVectorError, match="vector file has a CRS and the raster has none"):
        rasterize(path, class_field="class", classes=CLASSES, info=RasterInfo(4, 4, 1, "uint8"))
    path.write_text("nothing")
    with pytest.raises(UnreadableVectorError, match="cannot be read as a vector file"):
        rasterize(path, class_field="class", classes=CLASSES, info=INFO)


def test_equal_polygons_are_equal_files_and_replace_the_old_one(tmp_path):
    polygons, names = random_polygons(4)
    for name in ("a.gpkg", "b.gpkg", "a.gpkg"):
        write_polygons(tmp_path / name, polygons, {"class": names}, "EPSG:32632", layer="labels")
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gpkg", "b.gpkg"]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "parquet"])
def test_on_a_full_disk_the_old_file_stays_and_nothing_else(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    polygons = [shapely.Point(i, i).buffer(1) for i in range(300)]
    write_polygons(path, polygons, {"class": ["water"] * 300}, "EPSG:32632")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(len(before) * share), hard))
    try:
        with pytest.raises(OSError):  # noqa: PT011 the system words it
            write_polygons(path, polygons, {"class": ["water"] * 300}, "EPSG:32632")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
