"""Tiles as the bytes of a GeoTIFF, for shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from s5.geo.gdal import gdal
from s5.geo.raster import IDENTITY
from s5.types import Window

# What can stand beside a.tif, as a.tif.aux.xml or a.tfw, and changes its pixels, its mask or its place.
_BESIDE_NAME = (".msk", ".aux.xml", ".ovr")
_BESIDE_STEM = (".aux", ".aux.xml", ".tfw", ".tifw", ".pgw", ".pngw", ".jgw", ".jpgw", ".j2w", ".wld", ".tab", ".prj")


def encode_geotiff(
    image: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_] | None = None,
    *,
    transform: Sequence[float] = IDENTITY,
    crs: str = "",
    compress: str = "deflate",
) -> bytes:
    """A GeoTIFF in memory that `s5.geo.raster.read_window` gives back as it was.

    Args:
        image: [C, H, W] of any dtype that GDAL writes.
        valid: bool [H, W], stored as an internal mask where a pixel is not valid.
        transform: The affine (a, b, c, d, e, f) of the tile.
        crs: ``"EPSG:32632"``, WKT, or empty.
        compress: ``"deflate"`` or ``"none"``, both without loss.
    """
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": image.shape[0], "height": image.shape[1], "width": image.shape[2],
        "dtype": image.dtype, "compress": compress,
    }  # fmt: skip
    if compress == "deflate":
        profile["predictor"] = 3 if image.dtype.kind == "f" else 2
    if image.shape[0] > 3:
        profile["photometric"] = "MINISBLACK"  # otherwise GDAL calls the fourth band of bytes alpha
    if crs:
        profile["crs"] = CRS.from_user_input(crs)
    if tuple(transform) != IDENTITY:
        profile["transform"] = Affine(*transform)
    with gdal(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.write(image)
            if valid is not None and not valid.all():
                target.write_mask(valid)
        return bytes(memory.read())


def window_transform(transform: Sequence[float], window: Window) -> tuple[float, float, float, float, float, float]:
    """The affine of a window of a raster with this affine."""
    a, b, c, d, e, f = transform
    if tuple(transform) == IDENTITY:
        return IDENTITY
    return a, b, c + a * window.col + b * window.row, d, e, f + d * window.col + e * window.row


def has_companions(path: Path) -> bool:
    """Whether a file lies beside a raster that GDAL reads with it: a mask, a world file, a projection."""
    name, stem = os.fspath(path), os.fspath(path.with_suffix(""))
    beside = [name + s for s in _BESIDE_NAME] + [stem + s for s in _BESIDE_STEM]
    return any(os.access(note, os.F_OK) for found in beside for note in (found, found[:-4] + found[-4:].upper()))
