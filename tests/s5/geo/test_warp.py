"""Land cover on other grids, against gdalwarp's own code as rasterio ships it."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform

from s5.geo.raster import RasterInfo, UnreadableRasterError, write_geotiff
from s5.geo.warp import warp_onto


def land_cover(path: Path, crs: str, resolution: float, nodata: float | None = None) -> np.ndarray:
    """A patchwork around 500 km east, 5,300 km north in UTM 32."""
    (x,), (y,) = transform(CRS.from_epsg(32632), CRS.from_user_input(crs), [500_000], [5_300_000])
    values = np.random.default_rng(0).integers(1, 99, (80, 90)).astype(np.uint8)
    place = Affine(resolution, 0, x - 45 * resolution, 0, -resolution, y + 40 * resolution)
    write_geotiff(path, values, transform=place, crs=crs, nodata=nodata)
    return values


def grid(size: int, step: float = 10.0) -> RasterInfo:
    place = Affine(step, 0, 500_000 - size * step / 2, 0, -step, 5_300_000 + size * step / 2)
    return RasterInfo(height=size, width=size + 3, bands=1, dtype="uint8", crs="EPSG:32632", transform=tuple(place)[:6])


@pytest.mark.parametrize(("crs", "resolution"), [("EPSG:4326", 3e-4), ("EPSG:3035", 30.0), ("EPSG:32633", 25.0)])
@pytest.mark.parametrize("nodata", [None, 7])
def test_pixel_for_pixel_as_gdal_reprojects(tmp_path: Path, crs: str, resolution: float, nodata: int | None) -> None:
    path = tmp_path / "cover.tif"
    land_cover(path, crs, resolution, nodata)
    onto = grid(120)
    values, said = warp_onto(path, onto, nodata=200)
    expected = np.full(values.shape, 200, np.uint8)
    with rasterio.open(path) as source:
        reproject(
            source.read(1), expected, src_transform=source.transform, src_crs=source.crs, src_nodata=nodata,
            dst_transform=rasterio.Affine(*onto.transform), dst_crs=onto.crs, dst_nodata=200,
            resampling=Resampling.nearest,
        )  # fmt: skip
    assert said.any()
    assert np.array_equal(values, expected)
    assert np.array_equal(said, expected != 200)


def test_outside_of_the_raster_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cover.tif"
    values = land_cover(path, "EPSG:32632", 10.0)
    found, said = warp_onto(path, grid(120), nodata=200)
    assert said.sum() == values.size  # the same grid, shifted by whole pixels: every value once
    assert np.array_equal(np.bincount(found[said]), np.bincount(values.ravel()))
    assert set(found[~said]) == {200}


def test_what_lies_nowhere_or_is_no_raster(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "nowhere.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="has no CRS"):
        warp_onto(tmp_path / "nowhere.tif", grid(9))
    with pytest.raises(ValueError, match="the image has no CRS"):
        warp_onto(tmp_path / "nowhere.tif", RasterInfo(height=4, width=4, bands=1, dtype="uint8"))
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(UnreadableRasterError, match="cannot be warped"):
        warp_onto(tmp_path / "text.tif", grid(9))
