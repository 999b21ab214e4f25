"""Index rasters to polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely.geometry
from rasterio.transform import Affine


def polygonize(
    mask: npt.NDArray[np.uint8], transform: Sequence[float], *, ignore_index: int | None = None
) -> list[tuple[Any, int]]:
    """Polygons of the connected areas of one value; together they cover the raster and do not overlap.

    The edges run along those of the pixels, so that burning the polygons into the same grid gives the raster back.

    Args:
        mask: uint8 [H, W].
        transform: Affine (a, b, c, d, e, f) of the raster.
        ignore_index: Value to leave out.

    Returns:
        Shapely polygons in the coordinates of `transform`, each with its value.
    """
    kept = None if ignore_index is None else mask != ignore_index
    affine = Affine(*list(transform)[:6])
    found = rasterio.features.shapes(mask, mask=kept, connectivity=4, transform=affine)
    return [(shapely.geometry.shape(geometry), int(value)) for geometry, value in found]
