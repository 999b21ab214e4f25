"""Polygons with attributes: written as GeoPackage, burnt into the grid of a raster."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import rasterio.features
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from s5.files import replacing
from s5.geo.raster import RasterInfo
from s5.types import Window

VECTOR_SUFFIXES = frozenset({".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet"})

_AT_ONCE = 20_000  # features read back at once
_OGR_ERRORS = (DataSourceError, DataLayerError, FeatureError)


class UnreadableVectorError(OSError):
    """A vector file that cannot be read, or that does not fit the raster or the classes."""


def write_polygons(
    path: Path,
    geometries: Sequence[Any],
    attributes: Mapping[str, Sequence[Any]],
    crs: str,
    layer: str | None = None,
) -> None:
    """Write geometries with attributes as a GeoPackage, or as GeoParquet where `path` ends so; whole or not at all.

    Args:
        path: Ends in ``.gpkg``, ``.geojson``, ``.fgb`` or ``.parquet``.
        geometries: Shapely geometries in `crs`.
        attributes: Column name to values, one for each geometry.
        crs: Such as ``"EPSG:32632"``, or WKT; empty for pixel coordinates.
        layer: Name of the layer; the file's stem by default.

    Raises:
        OSError: it could not be written, such as on a full disk.
    """
    frame = geopandas.GeoDataFrame(dict(attributes), geometry=list(geometries), crs=crs or None)
    if path.suffix == ".parquet":
        with replacing(path) as temporary:
            frame.to_parquet(temporary)
        return
    _write_frames(path, [frame], layer)


def write_polygon_batches(
    path: Path, batches: Iterable[tuple[Sequence[Any], Mapping[str, Sequence[Any]]]], crs: str
) -> int:
    """`write_polygons` for a file of any length: geometries and attributes come batch by batch.

    Args:
        path: Ends in ``.gpkg``, or in ``.parquet`` for GeoParquet, with a row group a batch.
        batches: Polygons and their attributes; the first batch, empty or not, has the columns of all.
        crs: As for `write_polygons`.

    Returns:
        How many there are.

    Raises:
        OSError: it could not be written, such as on a full disk.
    """
    frames = (
        geopandas.GeoDataFrame(dict(attributes), geometry=list(geometries), crs=crs or None)
        for geometries, attributes in batches
    )
    if path.suffix == ".parquet":
        return _write_parquet(path, frames)
    return _write_frames(path, frames, None, geometry_type="Polygon")


def _write_parquet(path: Path, frames: Iterable[Any]) -> int:
    """GeoParquet 1.0: WKB, and what it means as JSON under the key ``geo``; geopandas writes only whole tables."""
    count = 0
    with replacing(path) as temporary, ExitStack() as open_files:
        writer: pq.ParquetWriter | None = None
        for frame in frames:
            if writer is not None and frame.empty:
                continue
            table = pa.Table.from_pandas(frame.to_wkb(), preserve_index=False)
            if writer is None:
                schema = table.schema.with_metadata({"geo": json.dumps(_geo_metadata(frame))})
                writer = open_files.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
            writer.write_table(table.cast(writer.schema))
            count += len(frame)
    return count


def _geo_metadata(frame: Any) -> dict[str, Any]:
    crs = None if frame.crs is None else frame.crs.to_json_dict()
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs}
    return {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _write_frames(path: Path, frames: Iterable[Any], layer: str | None, geometry_type: str | None = None) -> int:
    count = 0
    with replacing(path) as temporary, _without_date():
        # GDAL opens an existing GeoPackage instead of making it, and refuses the empty file that holds the place.
        temporary.unlink()
        try:
            for number, frame in enumerate(frames):
                if number and frame.empty:
                    continue
                with _without_crs_warning():
                    pyogrio.write_dataframe(
                        frame, temporary, layer=layer or path.stem, geometry_type=geometry_type, append=number > 0
                    )
                count += len(frame)
            whole = _is_whole(temporary, count)
        except _OGR_ERRORS as error:
            raise OSError(f"{path}: could not be written ({error}); is the disk full?") from error
        if not whole:
            raise OSError(f"{path}: could not be written to the end; is the disk full?")
    return count


@contextmanager
def _without_crs_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        yield


def _is_whole(path: Path, number: int) -> bool:
    """Read back what was written: OGR is silent where the disk is full when it closes a file."""
    indexed = path.suffix != ".gpkg" or pyogrio.read_info(path)["capabilities"]["fast_spatial_filter"]
    found = 0
    while indexed and found < number:
        part = len(pyogrio.read_dataframe(path, skip_features=found, max_features=_AT_ONCE))
        found += part
        if not part:
            break
    return bool(indexed) and found == number


def rasterize(
    path: Path,
    *,
    class_field: str,
    classes: Sequence[str],
    info: RasterInfo,
    window: Window | None = None,
    fill: int = 255,
    layer: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Burn the polygons of a vector file, in any CRS, into the grid of a raster.

    A pixel takes the class of the polygon that covers its centre, and of the last in the file where several do.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet.
        class_field: Attribute that holds a class name or a class index.
        classes: Class names; the position is the value that is burnt.
        info: The raster's grid. Without CRS, a vector file without CRS is taken to be in its pixel coordinates.
        window: The part of the grid to burn; all of it by default.
        fill: Value of pixels that no polygon covers.
        layer: Layer to read; the first by default.

    Returns:
        uint8 [h, w].

    Raises:
        UnreadableVectorError: unreadable, no `class_field`, an unknown class, or a CRS on one side only.
    """
    window = window or Window(0, 0, info.height, info.width)
    transform = Affine(*info.transform) @ Affine.translation(window.col, window.row)
    frame = _read_inside(path, class_field, info, _bounds(transform, window), layer)
    shapes = [
        (geometry, _class_index(value, classes, path, class_field))
        for geometry, value in zip(frame.geometry, frame[class_field], strict=True)
        if geometry is not None and not geometry.is_empty
    ]
    mask = np.full((window.height, window.width), fill, dtype=np.uint8)
    if shapes:
        rasterio.features.rasterize(shapes, out=mask, transform=transform)
    return mask


def read_zones(path: Path, info: RasterInfo) -> tuple[list[str], list[Any]]:
    """The polygons of a vector file in a raster's CRS, and what they are called.

    Args:
        path: GeoPackage, GeoJSON, FlatGeobuf, Shapefile or GeoParquet.
        info: The raster's grid. Without CRS, a vector file without CRS is taken to be in its pixel coordinates.

    Returns:
        The values of the column ``name``, else numbers from 1, and the polygons.

    Raises:
        UnreadableVectorError: it cannot be read, or has a CRS where the raster has none or the other way round.
    """
    try:
        frame = geopandas.read_parquet(path) if path.suffix == ".parquet" else pyogrio.read_dataframe(path)
    except (*_OGR_ERRORS, ValueError, OSError) as error:
        raise UnreadableVectorError(f"{path}: cannot be read as a vector file ({error})") from error
    frame = _in_crs_of(info, frame, path)
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty]
    names = frame["name"] if "name" in frame.columns else range(1, len(frame) + 1)
    return [str(name) for name in names], list(frame.geometry)


@contextmanager
def _without_date() -> Iterator[None]:
    # A GeoPackage notes when it was written; with a fixed date, equal polygons are equal files.
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2000-01-01T00:00:00Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def _read_inside(
    path: Path, class_field: str, info: RasterInfo, bounds: tuple[float, float, float, float], layer: str | None
) -> Any:
    try:
        if path.suffix == ".parquet":
            frame = _parquet(path, path.stat().st_mtime_ns)
        else:
            about = pyogrio.read_info(path, layer=layer)
            inside = _into(bounds, info.crs, about["crs"])
            frame = pyogrio.read_dataframe(path, layer=layer, bbox=inside, fid_as_index=True).sort_index()
    except (*_OGR_ERRORS, ValueError, OSError) as error:
        raise UnreadableVectorError(f"{path}: cannot be read as a vector file ({error})") from error
    if class_field not in frame.columns:
        found = [name for name in frame.columns if name != frame.geometry.name]
        raise UnreadableVectorError(f"{path}: has no attribute {class_field!r} (found {found}); correct 'class_field'")
    return _in_crs_of(info, frame, path)


def _in_crs_of(info: RasterInfo, frame: Any, path: Path) -> Any:
    if (frame.crs is None) != (not info.crs):
        with_crs, without = ("raster", "vector file") if frame.crs is None else ("vector file", "raster")
        raise UnreadableVectorError(f"{path}: the {with_crs} has a CRS and the {without} has none; give it one")
    return frame if frame.crs is None else frame.to_crs(info.crs)


@lru_cache(maxsize=2)
def _parquet(path: Path, mtime_ns: int) -> Any:  # noqa: ARG001 the time is there for the cache
    # Read whole, unlike the others, and wanted again for every image that it covers.
    return geopandas.read_parquet(path)


def _bounds(transform: Affine, window: Window) -> tuple[float, float, float, float]:
    corners = [transform @ (col, row) for col in (0, window.width) for row in (0, window.height)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _into(
    bounds: tuple[float, float, float, float], source: str, target: str | None
) -> tuple[float, float, float, float] | None:
    if not source or not target:
        return bounds if not source and not target else None
    # Straight edges bend when reprojected; the points along them keep the box around the window.
    left, bottom, right, top = transform_bounds(source, target, *bounds, densify_pts=21)
    return left, bottom, right, top


def _class_index(value: Any, classes: Sequence[str], path: Path, class_field: str) -> int:
    if isinstance(value, str) and value in classes:
        return list(classes).index(value)
    text = str(value).strip()
    number = float(text) if text.replace(".", "", 1).lstrip("-").isdigit() else None
    if number is not None and number.is_integer() and 0 <= number < len(classes):
        return int(number)
    raise UnreadableVectorError(
        f"{path}: {class_field!r} holds {value!r}, which is neither one of the classes {list(classes)} nor an index "
        f"in 0..{len(classes) - 1}; extend 'classes' or correct the attribute"
    )
