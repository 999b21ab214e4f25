"""Strips of rows to one Cloud Optimized GeoTIFF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # what rasterio.shutil lets through
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from s5.files import replacing
from s5.geo.gdal import gdal, gdal_messages, one_line
from s5.geo.raster import IDENTITY, RasterInfo

BLOCK = 512
_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}

Resampling = Literal["mode", "average", "nearest"]


@dataclass(frozen=True)
class Strip:
    """A raster file that holds some whole rows of a larger one."""

    path: Path
    row: int
    height: int


@dataclass(frozen=True)
class Layer:
    """Which bands of the strips become a raster, and what it says of them.

    Args:
        bands: Of the strips, from 1.
        names: A description of each band.
        tags: Metadata of the raster.
        colormap: RGBA of each value of the one band.
        scale: Factor from stored values to physical ones.
    """

    bands: tuple[int, ...]
    names: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None


def write_mosaic(path: Path, info: RasterInfo, strips: Sequence[Strip], layer: Layer) -> None:
    """Write a VRT in which strips lie below each other; it holds their names, relative to itself, and no pixels.

    Args:
        path: Ends in ``.vrt``, in the folder of the strips.
        info: Size, dtype, grid and nodata of the whole.
        strips: From the top down, all as wide as the whole.
        layer: What of them is taken.
    """
    parts = [f'<VRTDataset rasterXSize="{info.width}" rasterYSize="{info.height}">']
    if info.crs:
        parts.append(f"<SRS>{escape(CRS.from_user_input(info.crs).to_wkt())}</SRS>")
    if info.transform != IDENTITY:
        a, b, c, d, e, f = info.transform
        parts.append(f"<GeoTransform>{c!r}, {a!r}, {b!r}, {f!r}, {d!r}, {e!r}</GeoTransform>")
    tags = "".join(f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>" for key, value in layer.tags.items())
    parts.append(f"<Metadata>{tags}</Metadata>")
    for number, source_band in enumerate(layer.bands, start=1):
        parts.append(f'<VRTRasterBand dataType="{_TYPES[info.dtype]}" band="{number}">')
        parts.extend(_of_band(info, layer, number))
        parts.extend(_source(strip, source_band, info.width) for strip in strips)
        parts.append("</VRTRasterBand>")
    parts.append("</VRTDataset>\n")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _of_band(info: RasterInfo, layer: Layer, number: int) -> list[str]:
    parts = []
    if layer.names:
        parts.append(f"<Description>{escape(layer.names[number - 1])}</Description>")
    if info.nodata is not None:
        parts.append(f"<NoDataValue>{info.nodata:g}</NoDataValue>")
    if layer.colormap is not None:
        clear = (0, 0, 0, 0)
        colours = [layer.colormap.get(value, clear) for value in range(256)]
        entries = "".join(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{a}"/>' for r, g, b, a in colours)
        parts += ["<ColorInterp>Palette</ColorInterp>", f"<ColorTable>{entries}</ColorTable>"]
    else:
        parts.append("<ColorInterp>Gray</ColorInterp>" if number == 1 else "<ColorInterp>Undefined</ColorInterp>")
    if layer.scale is not None:
        parts.append(f"<Scale>{layer.scale!r}</Scale>")
    return parts


def _source(strip: Strip, band: int, width: int) -> str:
    size = f'xSize="{width}" ySize="{strip.height}"'
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(strip.path.name)}</SourceFilename>'
        f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="0" yOff="{strip.row}" {size}/></SimpleSource>'
    )


def write_cog(path: Path, source: Path, *, overviews: Resampling) -> None:
    """Copy a raster, such as a mosaic of strips, into a Cloud Optimized GeoTIFF; the file is whole or is not there.

    Grid, colour table, names, tags, scale and nodata go along; overviews halve until they fit one block of 512 pixels.

    Args:
        path: Where to; an older file is replaced.
        source: Anything rasterio opens.
        overviews: How they are made: mode for classes, average for quantities.

    Raises:
        OSError: it could not be written, such as on a full disk.
    """
    with replacing(path) as temporary, gdal():
        try:
            with gdal_messages():  # GDAL tells every error twice
                rasterio.shutil.copy(
                    source, temporary, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=BLOCK, BIGTIFF="IF_SAFER",
                    OVERVIEW_RESAMPLING=overviews.upper(),
                )  # fmt: skip
            whole = _same(source, temporary)
        except (RasterioError, CPLE_BaseError) as error:
            raise OSError(f"{path}: could not be written ({one_line(error)}); is the disk full?") from error
        if not whole:
            raise OSError(f"{path}: could not be written to the end; is the disk full?")


def _same(first: Path, second: Path) -> bool:
    """Read back what was written: GDAL flushes when it closes a file, and is silent where the disk is full then."""
    with rasterio.open(first) as a, rasterio.open(second) as b:
        if a.shape != b.shape or a.count != b.count:
            return False
        for row in range(0, a.height, BLOCK):
            rows = RasterioWindow(0, row, a.width, min(BLOCK, a.height - row))
            if not all(np.array_equal(a.read(band, window=rows), b.read(band, window=rows)) for band in a.indexes):
                return False
    return True
