import resource
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio._env import get_gdal_config
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as rasterio_copy
from rasterio.transform import Affine

from s5.geo.gdal import gdal, gdal_for_many
from s5.geo.raster import (
    RasterInfo,
    UnreadableRasterError,
    describe,
    read_colormap,
    read_window,
    read_windows,
    write_blocks,
    write_geotiff,
)
from s5.types import Window

GRID = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)


def noise(shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def write_image(path, bands, driver, **options):
    with rasterio.MemoryFile() as memory:
        profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
        with memory.open(**profile, dtype=bands.dtype, photometric="RGB", transform=Affine(*GRID)) as target:
            target.write(bands)
        with memory.open() as source:
            rasterio_copy(source, path, driver=driver, **options)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 3, 4, 13])
def test_what_is_written_is_read(tmp_path, dtype, bands):
    image = noise((bands, 70, 300), dtype)
    write_geotiff(tmp_path / "a.tif", image, transform=GRID, crs="EPSG:32632")
    info = describe(tmp_path / "a.tif")
    assert (info.height, info.width, info.bands, info.dtype) == (70, 300, bands, dtype)
    assert (info.crs, info.transform, info.has_alpha) == ("EPSG:32632", GRID, False)
    found, valid = read_window(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, image)
    assert valid.all()


def test_a_window_is_padded_at_the_bottom_and_right(tmp_path):
    image = noise((2, 20, 30)) + np.uint8(1)
    write_geotiff(tmp_path / "a.tif", image)
    found, valid = read_window(tmp_path / "a.tif", Window(15, 24, 5, 6), size=8)
    np.testing.assert_array_equal(found[:, :5, :6], image[:, 15:, 24:])
    assert found.shape == (2, 8, 8)
    assert valid.sum() == 30
    assert valid[:5, :6].all()
    assert found[:, ~valid].max() == 0


def test_windows_are_read_one_by_one(tmp_path):
    image = noise((1, 20, 30))
    write_geotiff(tmp_path / "a.tif", image)
    windows = [Window(0, 0, 10, 30), Window(10, 5, 10, 2)]
    for window, block, valid in read_windows(tmp_path / "a.tif", windows):
        rows, cols = slice(window.row, window.row + window.height), slice(window.col, window.col + window.width)
        np.testing.assert_array_equal(block, image[:, rows, cols])
        assert valid.shape == (window.height, window.width)


@pytest.mark.parametrize("window", [Window(15, 0, 10, 10), Window(0, 25, 10, 10)])
def test_a_window_must_lie_in_the_raster_and_in_its_size(tmp_path, window):
    write_geotiff(tmp_path / "a.tif", noise((1, 20, 30)))
    with pytest.raises(ValueError, match=r"leaves the raster of 20 x 30"):
        read_window(tmp_path / "a.tif", window)
    with pytest.raises(ValueError, match="larger than the 8 pixels"):
        read_window(tmp_path / "a.tif", Window(0, 0, 10, 4), size=8)


def test_a_pixel_is_nodata_when_all_bands_are(tmp_path):
    image = np.full((2, 4, 4), 7, dtype=np.uint16)
    image[0, 0, 0] = 0
    image[:, 1, 1] = 0
    write_geotiff(tmp_path / "a.tif", image, nodata=0)
    _, valid = read_window(tmp_path / "a.tif")
    assert valid[0, 0]
    assert list(zip(*np.nonzero(~valid), strict=True)) == [(1, 1)]


@pytest.mark.parametrize("nodata", [-9999.0, np.nan, None])
def test_a_float_pixel_is_nodata_when_any_band_would_spoil_the_rest(tmp_path, nodata):
    image = np.ones((2, 4, 4), dtype=np.float32)
    image[0, 0, 0], image[1, 2, 2] = np.nan, np.inf
    expected = np.ones((4, 4), dtype=bool)
    expected[0, 0] = expected[2, 2] = False
    if nodata == -9999.0:
        image[1, 3, 3], expected[3, 3] = -9999.0, False
    write_geotiff(tmp_path / "a.tif", image, nodata=nodata)
    np.testing.assert_array_equal(read_window(tmp_path / "a.tif")[1], expected)


def test_alpha_is_a_mask_unless_the_reader_counts_it_as_a_band(tmp_path):
    image = noise((4, 16, 16))
    image[3] = 255
    image[3, :4] = 0
    profile = {"driver": "GTiff", "count": 4, "height": 16, "width": 16, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=Affine(*GRID), **profile) as target:
        target.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
        target.write(image)
    assert describe(tmp_path / "a.tif").bands == 3
    assert describe(tmp_path / "a.tif").has_alpha
    three, valid = read_window(tmp_path / "a.tif", bands=3)
    np.testing.assert_array_equal(three, image[:3])
    np.testing.assert_array_equal(valid, image[3] > 0)
    four, valid = read_window(tmp_path / "a.tif", bands=4)
    np.testing.assert_array_equal(four, image)
    assert valid.all()


def in_main_thread(work):
    return work()


def in_a_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def among_many(work):
    def many():
        with gdal_for_many():
            return work()

    return in_a_thread(many)


# GDAL is set up differently for the main thread, a thread of its own, and many files on end
everywhere = pytest.mark.parametrize("run", [in_main_thread, in_a_thread, among_many])


def mask_beside(path, mask):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(mask)
    assert path.with_name("a.tif.msk").exists()


def mask_inside(path, mask):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(mask)
    assert [file.name for file in path.parent.iterdir()] == ["a.tif"]


def nodata_inside(path, mask):
    with rasterio.open(path, "r+") as target:
        target.nodata = 0
    assert [file.name for file in path.parent.iterdir()] == ["a.tif"]


def nodata_beside(path, mask):
    band = '<PAMRasterBand band="{}"><NoDataValue>0</NoDataValue></PAMRasterBand>'
    bands = "".join(band.format(number) for number in (1, 2, 3))
    path.with_name("a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")


def nodata_noted_by_erdas(path, mask):
    profile = {"driver": "HFA", "height": 20, "width": 30, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path.with_name("a.aux"), "w", **profile, AUX="YES", DEPENDENT_FILE="a.tif"):
        pass


@everywhere
@pytest.mark.parametrize("say", [mask_beside, mask_inside, nodata_inside, nodata_beside, nodata_noted_by_erdas])
def test_what_holds_data_is_asked_of_the_file_and_of_what_stands_beside_it(tmp_path, say, run):
    image = noise((3, 20, 30)) + np.uint8(1)
    image[:, 5:9, :7] = 0
    write_geotiff(tmp_path / "a.tif", image, transform=GRID, crs="EPSG:32632")
    assert run(lambda: read_window(tmp_path / "a.tif"))[1].all()
    say(tmp_path / "a.tif", image[0] > 0)
    found, valid = run(lambda: read_window(tmp_path / "a.tif", Window(2, 3, 10, 20), size=24))
    np.testing.assert_array_equal(valid[:10, :20], image[0, 2:12, 3:23] > 0)
    np.testing.assert_array_equal(found[:, :10, :20], image[:, 2:12, 3:23])


@everywhere
@pytest.mark.parametrize("options", [{}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"INTERLEAVE": "BAND"}])
@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.img", "a"])
def test_tiffs_of_any_kind_and_name(tmp_path, options, name, run):
    image = noise((3, 20, 30), "uint16")
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": 3, "dtype": "uint16", "crs": "EPSG:32632"}
    with rasterio.open(tmp_path / name, "w", transform=Affine(*GRID), **profile, **options) as target:
        target.write(image)
    for path in (tmp_path / name, str(tmp_path / name)):
        np.testing.assert_array_equal(run(lambda path=path: read_window(path))[0], image)


@everywhere
def test_the_content_and_not_the_name_says_what_a_file_is(tmp_path, run):
    image = noise((3, 20, 30))
    write_image(tmp_path / "a.png", image, "PNG")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(run(lambda: read_window(tmp_path / "a.tif"))[0], image)
    image.tofile(tmp_path / "raw.tif")
    with pytest.raises(UnreadableRasterError, match=r"raw\.tif: cannot be opened"):
        run(lambda: read_window(tmp_path / "raw.tif"))
    (tmp_path / "raw.hdr").write_text("ENVI\nsamples = 30\nlines = 20\nbands = 3\ndata type = 1\ninterleave = bsq\n")
    np.testing.assert_array_equal(run(lambda: read_window(tmp_path / "raw.tif"))[0], image)


@everywhere
@pytest.mark.parametrize("name", ["missing.tif", "a_folder", "/vsizip/none.zip/a.tif"])
def test_what_is_not_there_is_named(tmp_path, name, run):
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(UnreadableRasterError, match="cannot be opened as a raster"):
        run(lambda: read_window(tmp_path / name))


def test_a_mask_in_an_archive_is_found(tmp_path, monkeypatch):
    image = noise((3, 20, 30)) + np.uint8(1)
    write_geotiff(tmp_path / "a.tif", image)
    mask_beside(tmp_path / "a.tif", np.arange(30) < np.full((20, 1), 7))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.tif", "a.tif.msk"):
            archive.write(tmp_path / name, name)
    monkeypatch.chdir(tmp_path)
    assert in_a_thread(lambda: read_window(Path("/vsizip/a.zip/a.tif")))[1].sum() == 20 * 7


def test_other_threads_find_masks_while_this_one_reads_files_without(tmp_path):
    write_geotiff(tmp_path / "a.tif", noise((3, 20, 30)))
    mask_beside(tmp_path / "a.tif", np.zeros((20, 30), bool))

    def elsewhere():
        with rasterio.open(tmp_path / "a.tif") as source:
            return source.dataset_mask()

    with gdal(sidecars=False):
        assert not in_a_thread(elsewhere).any()


def test_settings_for_many_files_outlast_others_and_end_with_the_block():
    def option():
        return get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN")

    def settings():
        with gdal_for_many():
            yield option()
            with gdal():
                yield option()
            yield option()
            with gdal(sidecars=False):
                yield option()
        with gdal(sidecars=False):
            yield option()
        yield option()

    before = option()
    alone, usual = "EMPTY_DIR", "TRUE"
    assert in_a_thread(lambda: list(settings())) == [alone, usual, alone, alone, alone, before]
    assert list(settings()) == [usual, usual, usual, usual, usual, before]


def test_a_cog_is_read_like_any_raster(tmp_path):
    image = noise((3, 600, 520))
    write_image(tmp_path / "a.tif", image, "COG", compress="deflate", blocksize=128)
    np.testing.assert_array_equal(
        read_window(tmp_path / "a.tif", Window(100, 200, 256, 256))[0], image[:, 100:356, 200:456]
    )


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("kind", ["tif", "cog.tif", "png", "jpg"])
def test_a_truncated_file_is_an_error_not_grey_pixels(tmp_path, kind, share):
    path = tmp_path / f"whole.{kind}"
    image = noise((3, 300, 280))
    if kind == "tif":
        write_geotiff(path, image)
    else:
        write_image(path, image, {"cog.tif": "COG", "png": "PNG", "jpg": "JPEG"}[kind])
    content = path.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnreadableRasterError, match=r"cut\."):
        read_window(cut)
    read_window(path)


def test_what_is_no_raster_is_named(tmp_path):
    (tmp_path / "a.tif").write_text("not a raster")
    with pytest.raises(UnreadableRasterError, match=r"a\.tif: cannot be opened"):
        describe(tmp_path / "a.tif")


def test_a_raster_that_lies_nowhere_has_no_crs(tmp_path):
    write_geotiff(tmp_path / "a.tif", noise((1, 4, 4)))
    info = describe(tmp_path / "a.tif")
    assert info.crs == ""
    assert not info.georeferenced


def test_a_crs_without_a_name_is_wkt(tmp_path):
    own = "+proj=tmerc +lat_0=1.234 +lon_0=5.678 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
    crs = rasterio.crs.CRS.from_string(own)
    write_geotiff(tmp_path / "a.tif", noise((1, 4, 4)), transform=GRID, crs=own)
    text = describe(tmp_path / "a.tif").crs
    assert "5.678" in text
    assert rasterio.crs.CRS.from_user_input(text) == crs


def test_a_colour_table_is_kept(tmp_path):
    colours = {0: (255, 0, 0), 1: (0, 255, 0)}
    write_geotiff(tmp_path / "a.tif", np.zeros((4, 4), np.uint8), colormap=colours)
    assert describe(tmp_path / "a.tif").has_colormap
    found = read_colormap(tmp_path / "a.tif")
    assert {value: found[value] for value in colours} == colours
    write_geotiff(tmp_path / "b.tif", np.zeros((4, 4), np.uint8))
    assert read_colormap(tmp_path / "b.tif") == {}


def test_equal_rasters_are_equal_files(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_geotiff(tmp_path / name, noise((2, 40, 40)), transform=GRID, crs="EPSG:32632", band_names=("x", "y"))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@contextmanager
def disk_with(num_bytes):
    """Files cannot grow over this size: a stand-in for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("size", [64, 256, 700])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_on_a_full_disk_the_old_file_stays_and_nothing_else(tmp_path, share, size, compress):
    write_geotiff(tmp_path / "new.tif", noise((3, size, size)), compress=compress)
    needed = (tmp_path / "new.tif").stat().st_size
    (tmp_path / "new.tif").rename(tmp_path / "a.tif")
    before = (tmp_path / "a.tif").read_bytes()
    with disk_with(int(needed * share)), pytest.raises(OSError, match=r"a\.tif: could not be written"):
        write_geotiff(tmp_path / "a.tif", noise((3, size, size), seed=1), compress=compress)
    assert (tmp_path / "a.tif").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_what_is_not_on_the_disk_as_written_is_an_error(tmp_path):
    blocks = [(Window(0, 0, 8, 8), np.ones((8, 8), np.uint8)), (Window(0, 0, 8, 8), np.zeros((8, 8), np.uint8))]
    info = RasterInfo(8, 8, 1, "uint8")
    with pytest.raises(OSError, match="could not be written to the end"):
        write_blocks(tmp_path / "a.tif", info, blocks)
    write_geotiff(tmp_path / "lossy.tif", noise((3, 64, 64)), compress="jpeg")


def test_a_mere_warning_of_the_decoder_is_damage(tmp_path):
    write_geotiff(tmp_path / "a.tif", noise((1, 256, 256)), compress="jpeg")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = b"\xff\xd9" * 20  # an end of image where there is none
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UnreadableRasterError, match="Corrupt JPEG data"):
        read_window(tmp_path / "a.tif")


def test_an_error_while_writing_blocks_leaves_nothing(tmp_path):
    write_geotiff(tmp_path / "like.tif", noise((1, 16, 16)))

    def blocks():
        yield Window(0, 0, 8, 16), np.zeros((8, 16), np.uint8)
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        write_blocks(tmp_path / "a.tif", describe(tmp_path / "like.tif"), blocks())
    assert [path.name for path in tmp_path.iterdir()] == ["like.tif"]


def test_a_broken_xml_beside_a_raster_is_an_error_of_ours(tmp_path):
    write_geotiff(tmp_path / "a.tif", noise((3, 8, 8)))
    (tmp_path / "a.xml").write_text("<annotation><object>")
    with pytest.raises(UnreadableRasterError, match=r"a\.tif: what lies beside it cannot be read .*not all elements"):
        describe(tmp_path / "a.tif")
    with pytest.raises(UnreadableRasterError, match="beside it"):
        list(read_windows(tmp_path / "a.tif", [Window(0, 0, 8, 8)]))
