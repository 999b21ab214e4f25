"""Rasters read in windows and written whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import CRSError, RasterioError, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window as RasterioWindow

from s5.files import replacing
from s5.geo.gdal import gdal, gdal_messages, one_line
from s5.members import member_of
from s5.types import Window

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The transform of a raster that lies nowhere."""

_BLOCK = 256
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Files beside a.tif that change its pixels or which of them hold data: a mask, and what GDAL and Erdas note of it.
_BESIDE_NAME, _BESIDE_STEM = (".msk", ".MSK", ".aux.xml", ".aux", ".AUX"), (".aux", ".AUX")
_LOSSLESS = frozenset({"none", "deflate", "lzw", "zstd", "packbits", "lzma"})


class UnreadableRasterError(OSError):
    """A raster that cannot be opened, or whose pixels cannot be read to the end."""


class TruncatedRasterError(UnreadableRasterError):
    """A raster that can be opened, but whose pixels cannot be read to the end."""


@dataclass(frozen=True)
class RasterInfo:
    """What a raster says of itself.

    `bands` counts what carries data: an alpha band is a mask, not data. `crs` is ``"EPSG:32632"``, or WKT, or empty.
    `transform` is the affine (a, b, c, d, e, f): x = a * col + b * row + c, y = d * col + e * row + f.
    """

    height: int
    width: int
    bands: int
    dtype: str
    crs: str = ""
    transform: tuple[float, float, float, float, float, float] = IDENTITY
    nodata: float | None = None
    has_alpha: bool = False
    has_colormap: bool = False

    @property
    def georeferenced(self) -> bool:
        return bool(self.crs) and self.transform != IDENTITY


def describe(path: Path | str) -> RasterInfo:
    """Size, bands, data type, CRS and grid of a raster, without reading pixels.

    Raises:
        UnreadableRasterError: `path` is no raster that GDAL opens.
    """
    with _open(path) as source:
        return _describe(source)


def read_window(
    path: Path | str, window: Window | None = None, *, size: int | None = None, bands: int | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Read a window of a raster and which of its pixels hold data.

    A pixel holds no data where the alpha band or mask says so or where all bands are nodata; in a floating point
    raster also where any band is nodata, NaN or infinite, since such a value would spoil everything around it.

    Args:
        path: Anything rasterio opens.
        window: Pixels to read; all of them by default.
        size: Pad at the bottom and right to this height and width, with zeros that hold no data.
        bands: How many bands are expected. Where that counts an alpha band too, it is read as data: GDAL calls the
            near infrared of a four-band GeoTIFF of bytes alpha.

    Returns:
        The bands [C, h, w] in the raster's dtype, and bool [h, w], true where there is data.

    Raises:
        UnreadableRasterError: the pixels cannot be read, or the file ends before them.
        ValueError: the window is larger than `size` or leaves the raster.
    """
    with _open(path, pixels_only=True) as source, _reporting_damage(path):
        return _read(source, path, window, size, bands)


def read_windows(
    path: Path | str, windows: Iterable[Window], *, bands: int | None = None
) -> Generator[tuple[Window, npt.NDArray[Any], npt.NDArray[np.bool_]], None, None]:
    """`read_window` for many windows of one raster, opening it once.

    One that is not read to its end must be closed by the thread that began it, and before another raster is read.
    """
    with _open(path) as source:
        for window in windows:
            with _reporting_damage(path):
                image, valid = _read(source, path, window, None, bands)
            yield window, image, valid


def read_salvaged(
    path: Path | str, window: Window, *, bands: int | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], list[Window]]:
    """`read_window` of a damaged raster: the blocks that cannot be read hold no data, and are named.

    Returns:
        As `read_window`, and the damaged blocks that the window touches, each whole.

    Raises:
        UnreadableRasterError: the raster cannot even be opened.
    """
    with _open(path) as source:
        count = source.count if bands == source.count else _describe(source).bands
        image = np.zeros((count, window.height, window.width), dtype=source.dtypes[0])
        blocks = list(_blocks(source, window))
    valid = np.zeros(image.shape[1:], dtype=np.bool_)
    damaged = []
    for block in blocks:
        part = _common(block, window)
        rows = slice(part.row - window.row, part.row - window.row + part.height)
        cols = slice(part.col - window.col, part.col - window.col + part.width)
        try:
            # opened for each block: what is asked of a raster after an error may raise that error again
            pixels, holds_data = read_window(path, part, bands=bands)
        except UnreadableRasterError:
            damaged.append(block)
            continue
        image[:, rows, cols], valid[rows, cols] = pixels, holds_data
    return image, valid, damaged


def read_shrunk(path: Path | str, longest: int, *, bands: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """A whole raster with its longest side shrunk to at most `longest` pixels, nearest neighbour; from its overviews.

    Args:
        path: Anything rasterio opens.
        longest: In pixels.
        bands: Which, from 1; all by default.

    Returns:
        [C, h, w] in the raster's dtype; blocks that cannot be read are 0.
    """
    with _open(path) as source:
        shrink = max(source.height, source.width) / longest
        shape = tuple(max(1, round(side / max(shrink, 1.0))) for side in (source.height, source.width))
        wanted = list(bands) if bands is not None else list(range(1, source.count + 1))
        try:
            pixels: npt.NDArray[Any] = source.read(wanted, out_shape=(len(wanted), *shape))
        except RasterioError:
            return np.zeros((len(wanted), *shape), dtype=source.dtypes[0])
        return pixels


def read_resampled(path: Path | str, shape: tuple[int, int], *, smooth: bool) -> tuple[npt.NDArray[Any], RasterInfo]:
    """A whole small raster on a grid of another size over the same place, such as a 20 m band at 10 m.

    Args:
        path: Anything rasterio opens.
        shape: Height and width that are wanted.
        smooth: Bicubic for pixels of an image, nearest neighbour for classes.

    Returns:
        [C, h, w] in the raster's dtype, and what describes it on the new grid.
    """
    with _open(path) as source, _reporting_damage(path):
        method = Resampling.cubic if smooth else Resampling.nearest
        pixels = source.read(out_shape=(source.count, *shape), resampling=method)
        info = _describe(source)
    a, b, c, d, e, f = info.transform
    down, across = info.height / shape[0], info.width / shape[1]
    grid = info.transform if not info.georeferenced else (a * across, b * down, c, d * across, e * down, f)
    return pixels, replace(info, height=shape[0], width=shape[1], transform=grid)


def read_colormap(path: Path | str) -> dict[int, tuple[int, int, int]]:
    """RGB of each value of a paletted raster; empty where it has no colour table."""
    with _open(path) as source:
        if ColorInterp.palette not in source.colorinterp:
            return {}
        return {int(value): (rgba[0], rgba[1], rgba[2]) for value, rgba in source.colormap(1).items()}


def write_geotiff(
    path: Path,
    array: npt.NDArray[Any],
    *,
    transform: Sequence[float] | None = None,
    crs: str | None = None,
    nodata: float | None = None,
    compress: str = "deflate",
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tiled: bool | None = None,
    band_names: Sequence[str] = (),
) -> None:
    """Write an array as a GeoTIFF; the file is whole or is not there.

    Args:
        path: Where to; an older file is replaced.
        array: [C, H, W] or [H, W].
        transform: Affine (a, b, c, d, e, f), or a rasterio transform.
        crs: Such as ``"EPSG:32632"``, or WKT.
        nodata: Value of pixels without data.
        compress: GDAL's name of the compression.
        colormap: RGB or RGBA of each value, for one band of uint8.
        tiled: In blocks of 256 pixels; by default where the raster is at least that large.
        band_names: A description of each band.

    Raises:
        OSError: it could not be written, such as on a full disk.
    """
    bands = array[None] if array.ndim == 2 else array
    info = RasterInfo(
        height=bands.shape[1], width=bands.shape[2], bands=bands.shape[0], dtype=str(bands.dtype), crs=crs or "",
        transform=_six(transform), nodata=nodata,
    )  # fmt: skip
    whole = Window(0, 0, info.height, info.width)
    write_blocks(path, info, [(whole, bands)], compress=compress, colormap=colormap, tiled=tiled, band_names=band_names)


def write_blocks(
    path: Path,
    info: RasterInfo,
    blocks: Iterable[tuple[Window, npt.NDArray[Any]]],
    *,
    compress: str = "deflate",
    colormap: Mapping[int, tuple[int, ...]] | None = None,
    tiled: bool | None = None,
    band_names: Sequence[str] = (),
) -> None:
    """Write a GeoTIFF of any size block by block; the file is whole or is not there.

    Args:
        path: Where to; an older file is replaced.
        info: Size, bands, dtype, grid and nodata of what is written.
        blocks: Windows and their pixels, [C, h, w] or [h, w]; they do not overlap.
        compress: As for `write_geotiff`, like the rest.
        colormap: RGB or RGBA of each value.
        tiled: In blocks of 256 pixels.
        band_names: A description of each band.

    Raises:
        OSError: it could not be written, such as on a full disk.
    """
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": info.height, "width": info.width, "count": info.bands, "dtype": info.dtype,
        "nodata": info.nodata, "compress": compress, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    if info.bands > 3:
        profile["photometric"] = "MINISBLACK"  # otherwise GDAL calls the fourth band of bytes alpha
    if info.crs:
        profile["crs"] = CRS.from_user_input(info.crs)
    if info.transform != IDENTITY:
        profile["transform"] = Affine(*info.transform)
    if tiled if tiled is not None else min(info.height, info.width) >= _BLOCK:
        profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    with replacing(path) as temporary, gdal():
        sums = []
        try:
            with rasterio.open(temporary, "w", **profile) as target:
                for number, name in enumerate(band_names, start=1):
                    target.set_band_description(number, name)
                if colormap is not None:
                    target.write_colormap(1, {value: tuple(colour) for value, colour in colormap.items()})
                for window, block in blocks:
                    pixels = np.ascontiguousarray(block[None] if block.ndim == 2 else block, dtype=info.dtype)
                    target.write(pixels, window=_rasterio_window(window))
                    sums.append((window, zlib.crc32(pixels.data)))
        except RasterioIOError as error:
            raise OSError(f"{path}: could not be written ({one_line(error)}); is the disk full?") from error
        if not _holds(temporary, sums, exact=compress.lower() in _LOSSLESS):
            raise OSError(f"{path}: could not be written to the end; is the disk full?")


def _holds(path: Path, sums: Sequence[tuple[Window, int]], *, exact: bool) -> bool:
    """Read back what was written: GDAL flushes when it closes a file, and is silent where the disk is full then."""
    try:
        with _open(path) as source, _reporting_damage(path):
            found = [zlib.crc32(source.read(window=_rasterio_window(window))) for window, _ in sums]
    except UnreadableRasterError:
        return False
    return not exact or found == [expected for _, expected in sums]


@lru_cache(maxsize=256)
def _text_of_wkt(wkt: str) -> str:
    crs = CRS.from_wkt(wkt)
    authority = crs.to_authority()
    return ":".join(authority) if authority is not None else wkt


def crs_text(crs: Any) -> str:
    """``"EPSG:32632"`` for a CRS that has such a name, else its WKT; empty for none."""
    if crs is None:
        return ""
    try:
        return _text_of_wkt(crs.to_wkt())
    except CRSError:
        return ""


def _describe(source: Any) -> RasterInfo:
    transform = _six(source.transform)
    return RasterInfo(
        height=source.height,
        width=source.width,
        bands=source.count - source.colorinterp.count(ColorInterp.alpha),
        dtype=source.dtypes[0],
        crs=crs_text(source.crs) if transform != IDENTITY else "",
        transform=transform,
        nodata=source.nodata,
        has_alpha=ColorInterp.alpha in source.colorinterp,
        has_colormap=ColorInterp.palette in source.colorinterp,
    )


def _read(
    source: Any, path: Path | str, window: Window | None, size: int | None, expected: int | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    window = window or Window(0, 0, source.height, source.width)
    if window.row + window.height > source.height or window.col + window.width > source.width:
        raise ValueError(f"{path}: {window} leaves the raster of {source.height} x {source.width} pixels")
    if size is not None and max(window.height, window.width) > size:
        raise ValueError(f"{path}: {window} is larger than the {size} pixels it is to fill; read smaller windows")
    at = _rasterio_window(window)
    alpha_is_data = expected == source.count
    bands = [i for i, kind in enumerate(source.colorinterp, start=1) if alpha_is_data or kind != ColorInterp.alpha]
    image = source.read(bands, window=at)
    valid = _valid(source, image, at, alpha_is_data)
    if size is None or (window.height, window.width) == (size, size):
        return image, valid
    bottom, right = size - window.height, size - window.width
    return np.pad(image, ((0, 0), (0, bottom), (0, right))), np.pad(valid, ((0, bottom), (0, right)))


def _blocks(source: Any, window: Window) -> Iterator[Window]:
    """The blocks of a raster that a window touches."""
    height, width = source.block_shapes[0]
    for row in range(window.row // height * height, window.row + window.height, height):
        for col in range(window.col // width * width, window.col + window.width, width):
            yield Window(row, col, min(height, source.height - row), min(width, source.width - col))


def _common(a: Window, b: Window) -> Window:
    """The part that two overlapping windows share."""
    row, col = max(a.row, b.row), max(a.col, b.col)
    bottom, right = min(a.row + a.height, b.row + b.height), min(a.col + a.width, b.col + b.width)
    return Window(row, col, bottom - row, right - col)


def _valid(source: Any, image: npt.NDArray[Any], at: Any, alpha_is_data: bool) -> npt.NDArray[np.bool_]:
    flags = {flag for band in source.mask_flag_enums for flag in band}
    if MaskFlags.per_dataset in flags and not (alpha_is_data and MaskFlags.alpha in flags):
        valid: npt.NDArray[np.bool_] = source.dataset_mask(window=at).astype(np.bool_)
    else:
        valid = np.ones(image.shape[1:], dtype=np.bool_)
    is_float = image.dtype.kind == "f"
    if is_float:
        valid &= np.isfinite(image).all(axis=0)
    if source.nodata is not None and not np.isnan(source.nodata):
        has_data = image != np.float64(source.nodata).astype(image.dtype)
        valid &= has_data.all(axis=0) if is_float else has_data.any(axis=0)
    return valid


def _six(transform: Sequence[float] | None) -> tuple[float, float, float, float, float, float]:
    if transform is None:
        return IDENTITY
    a, b, c, d, e, f = (float(v) for v in list(transform)[:6])
    return (a, b, c, d, e, f)


def _rasterio_window(window: Window) -> Any:
    return RasterioWindow(window.col, window.row, window.width, window.height)


@contextmanager
def _open(path: Path | str, *, pixels_only: bool = False) -> Iterator[Any]:
    """An open raster; where only its pixels are asked for, what tells its place on Earth may be left unread."""
    in_shard = member_of(path) is not None  # nothing stands beside a member of a shard
    lone = pixels_only and _is_lone_tiff(path)
    # To find the CRS takes 0.5 ms, to look for fifty files that might stand beside it 0.1 ms, to read a tile 0.4 ms.
    options = {"driver": "GTiff", "GEOREF_SOURCES": "NONE"} if lone else {}
    with gdal(sidecars=not (lone or in_shard)):
        try:
            # not rasterio.open, which enters one more environment: another 0.1 ms
            source = DatasetReader(os.fspath(path), **options)
        except RasterioError as error:
            raise UnreadableRasterError(f"{path}: cannot be opened as a raster ({one_line(error)})") from error
        with source:
            try:
                yield source
            except CPLE_BaseError as error:
                # What GDAL says of a broken file beside the raster, such as an .xml, comes as it is (rasterio 1.4).
                raise UnreadableRasterError(
                    f"{path}: what lies beside it cannot be read ({one_line(error)}); correct it"
                ) from error


def _is_lone_tiff(path: Path | str) -> bool:
    """Whether this is a TIFF on a disk, or in a shard, without a file beside it that would change what is read."""
    member = member_of(path)
    name = os.fspath(path if member is None else member.file)
    try:
        file = os.open(name, os.O_RDONLY)
    except OSError:  # not there, or a name that only GDAL understands
        return False
    try:
        if os.pread(file, 4, 0 if member is None else member.offset) not in _TIFF_STARTS:
            return False
    except OSError:  # a folder
        return False
    finally:
        os.close(file)
    if member is not None:
        return True
    if "GDAL_PAM_PROXY_DIR" in os.environ:  # where GDAL keeps its notes of files in folders that it may not write to
        return False
    stem = name.removesuffix(Path(name).suffix)
    beside = [name + suffix for suffix in _BESIDE_NAME] + [stem + suffix for suffix in _BESIDE_STEM]
    return not any(os.access(note, os.F_OK) for note in beside)


@contextmanager
def _reporting_damage(path: Path | str) -> Iterator[None]:
    with gdal_messages() as messages:
        try:
            yield
        except RasterioError as error:
            cause = one_line(error.__cause__ or error)
            raise TruncatedRasterError(f"{path}: its pixels cannot be read to the end ({cause})") from error
    if messages:
        raise TruncatedRasterError(f"{path}: its pixels cannot be read to the end ({messages[0]})")
