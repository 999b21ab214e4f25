"""Areas against the ellipsoid, and against counting."""

from __future__ import annotations

import resource
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely

from s5.geo.areas import class_areas, pixel_areas, polygon_areas
from s5.geo.cog import Layer, Strip, write_cog, write_mosaic
from s5.geo.raster import RasterInfo, describe, read_window, write_geotiff
from s5.types import Window

GRIDS = {
    "utm": ("EPSG:32632", (0.5, 0.0, 700_000.0, 0.0, -0.5, 5_300_000.0)),
    "rotated": ("EPSG:32632", (10.0, 2.0, 300_000.0, 3.0, -10.0, 5_300_000.0)),
    "degrees": ("EPSG:4326", (1e-3, 0.0, 11.0, 0.0, -1e-3, 60.0)),
}


def scene_area(info: RasterInfo) -> float:
    """On the ellipsoid, with points along the sides."""
    steps = np.linspace(0, 1, 50)[:-1]
    cols = np.concatenate([steps, np.ones(49), 1 - steps, np.zeros(49)]) * info.width
    rows = np.concatenate([np.zeros(49), steps, np.ones(49), 1 - steps]) * info.height
    a, b, c, d, e, f = info.transform
    to_degrees = pyproj.Transformer.from_crs(info.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(a * cols + b * rows + c, d * cols + e * rows + f)
    return abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_classes_and_nodata_are_the_area_of_the_scene(tmp_path: Path, name: str) -> None:
    crs, transform = GRIDS[name]
    labels = np.random.default_rng(0).integers(0, 3, (700, 600)).astype(np.uint8)
    labels[100:200] = 255
    write_geotiff(tmp_path / "map.tif", labels, crs=crs, transform=transform, nodata=255)
    info = describe(tmp_path / "map.tif")
    table = class_areas(tmp_path / "map.tif", info, ["a", "b", "c"]).total.set_index("class")
    assert table["area_m2"][:-1].sum() == pytest.approx(table.loc["total", "area_m2"])
    assert table.loc["total", "area_m2"] == pytest.approx(scene_area(info), rel=1e-5)
    assert list(table["pixels"]) == [*np.bincount(labels.ravel(), minlength=256)[[0, 1, 2, 255]], labels.size]
    assert table["share"][:3].sum() == pytest.approx(1)


def test_without_crs_there_are_pixels_alone(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "map.tif", np.zeros((4, 5), np.uint8))
    info = describe(tmp_path / "map.tif")
    assert pixel_areas([Window(0, 0, 4, 5)], info) is None
    table = class_areas(tmp_path / "map.tif", info, ["a", "b"]).total
    assert table["area_m2"].isna().all()
    assert list(table["share"][:2]) == [1.0, 0.0]
    assert polygon_areas([shapely.box(0, 0, 4, 5)], "")[0] == 20


def test_strips_become_one_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 4, (2, 50, 30)).astype(np.uint8)
    cuts, strips = [0, 20, 21, 50], []
    for start, end in pairwise(cuts):
        path = tmp_path / f"strip & {start}.tif"
        write_geotiff(path, whole[:, start:end])
        strips.append(Strip(path, start, end - start))
    info = RasterInfo(50, 30, 1, "uint8", "EPSG:32632", GRIDS["rotated"][1], 255)
    layer = Layer((2,), ("a <b>",), {"NAMES": '["x & y"]'}, scale=0.004)
    write_mosaic(tmp_path / "mosaic.vrt", info, strips, layer)
    write_cog(tmp_path / "out.tif", tmp_path / "mosaic.vrt", overviews="nearest")
    np.testing.assert_array_equal(read_window(tmp_path / "out.tif")[0][0], whole[1])
    assert describe(tmp_path / "out.tif") == info
    strips[1].path.unlink()
    with pytest.raises(OSError, match=r"out\.tif: could not be written"):
        write_cog(tmp_path / "out.tif", tmp_path / "mosaic.vrt", overviews="nearest")
    assert not list(tmp_path.glob(".*"))
    np.testing.assert_array_equal(read_window(tmp_path / "out.tif")[0][0], whole[1])  # the old one


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.999])
def test_on_a_full_disk_no_cog_is_left(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 5, (700, 600)).astype(np.uint8)
    write_geotiff(tmp_path / "strip.tif", noise)
    write_mosaic(
        tmp_path / "a.vrt", RasterInfo(700, 600, 1, "uint8"), [Strip(tmp_path / "strip.tif", 0, 700)], Layer((1,))
    )
    write_cog(tmp_path / "whole.tif", tmp_path / "a.vrt", overviews="mode")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * (tmp_path / "whole.tif").stat().st_size), hard))
    try:
        with pytest.raises(OSError, match=r"out\.tif: could not be written.*is the disk full"):
            write_cog(tmp_path / "out.tif", tmp_path / "a.vrt", overviews="mode")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} == {"strip.tif", "a.vrt", "whole.tif"}


def test_rio_cogeo_finds_nothing_wrong(tmp_path: Path) -> None:
    cogeo = pytest.importorskip("rio_cogeo")
    write_geotiff(tmp_path / "strip.tif", np.zeros((1100, 600), np.uint8))
    info = RasterInfo(1100, 600, 1, "uint8", "EPSG:32632", GRIDS["utm"][1], 255)
    write_mosaic(tmp_path / "a.vrt", info, [Strip(tmp_path / "strip.tif", 0, 1100)], Layer((1,)))
    write_cog(tmp_path / "out.tif", tmp_path / "a.vrt", overviews="mode")
    is_valid, errors, warnings = cogeo.cog_validate(tmp_path / "out.tif", strict=True)
    assert (is_valid, errors, warnings) == (True, [], [])
