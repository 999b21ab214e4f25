"""Land-cover rasters of any CRS and resolution, on the grid of another raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from s5.geo.gdal import gdal, one_line
from s5.geo.raster import RasterInfo, UnreadableRasterError


def warp_onto(path: Path | str, grid: RasterInfo, *, nodata: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The first band of a raster on the grid of another one, nearest neighbour, as ``gdalwarp -r near`` gives it.

    Args:
        path: Such as a national land-cover product; only what lies under the grid is read.
        grid: Where to; it must be georeferenced.
        nodata: What pixels get on which the raster says nothing, where it names no value for them itself.

    Returns:
        [H, W] in the raster's dtype, and bool [H, W], true where the raster says something.

    Raises:
        ValueError: one of the two lies nowhere on Earth.
        UnreadableRasterError: the raster cannot be read.
    """
    if not grid.georeferenced:
        raise ValueError("warp_onto: the image has no CRS or no transform; a land-cover raster cannot be laid over it")
    with gdal():
        try:
            with rasterio.open(path) as source:
                if source.crs is None:
                    raise ValueError(f"{path}: has no CRS; give it one, such as with gdal_edit.py -a_srs EPSG:...")
                with WarpedVRT(
                    source,
                    crs=grid.crs,
                    transform=Affine(*grid.transform),
                    width=grid.width,
                    height=grid.height,
                    resampling=Resampling.nearest,
                    add_alpha=source.nodata is None,
                    nodata=source.nodata,
                ) as warped:
                    values: NDArray[Any] = warped.read(1)
                    said = warped.dataset_mask() > 0
        except RasterioError as error:
            raise UnreadableRasterError(f"{path}: cannot be warped ({one_line(error)})") from error
    return np.where(said, values, np.asarray(nodata, values.dtype)), said
