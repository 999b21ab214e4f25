"""Objects that were found in images, as polygons on Earth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from rasterio.transform import Affine

from s5.geo.raster import describe

_GEOGRAPHIC = "EPSG:4326"


def located_objects(table: Any, corners: tuple[str, ...]) -> Any:
    """The objects of georeferenced images as a GeoDataFrame; those of images that lie nowhere are left out.

    Args:
        table: A row an object; `image` is the path of its image.
        corners: Columns of the corners in pixels of the image, x and y in turn; the other columns are kept.

    Returns:
        A frame in the CRS of the images, or in EPSG:4326 where they have several or there is none.
    """
    frames = []
    for image, rows in table.groupby("image", sort=True):
        info = describe(Path(str(image)))
        if info.georeferenced:
            pixels = rows[list(corners)].to_numpy(np.float64).reshape(len(rows), -1, 2)
            x, y = Affine(*info.transform) @ (pixels[..., 0], pixels[..., 1])
            shapes = shapely.polygons(np.stack([x, y], axis=-1))
            frames.append(geopandas.GeoDataFrame(rows.drop(columns=list(corners)), geometry=shapes, crs=info.crs))
    if not frames:
        return geopandas.GeoDataFrame(table.iloc[:0].drop(columns=list(corners)), geometry=[], crs=_GEOGRAPHIC)
    crs = frames[0].crs if all(frame.crs == frames[0].crs for frame in frames) else _GEOGRAPHIC
    joined = geopandas.pd.concat([frame.to_crs(crs) for frame in frames], ignore_index=True)
    return geopandas.GeoDataFrame(joined, crs=crs)
