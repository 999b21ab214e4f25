"""Mask files of every kind become index rasters: a class index a pixel, on the grid of the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s5.data.card import DatasetCard, MaskCoding
from s5.data.listing import VECTOR_SUFFIXES
from s5.files import sha256_of
from s5.types import LabelSpace, Window

if TYPE_CHECKING:
    from s5.geo.raster import RasterInfo

_BLOCK = 1024  # pixels; masks of any size are converted in blocks
_UNKNOWN = 256  # stands for a value that nothing maps, in the uint16 of a conversion


class MaskError(ValueError):
    """A mask that cannot be used: `kind` to count by, and a sentence."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class MaskSource:
    """A mask file, the image that it belongs to, and how to read it."""

    card: DatasetCard
    coding: MaskCoding
    path: Path
    image: Path
    image_info: RasterInfo

    @property
    def labels(self) -> LabelSpace:
        return self.card.labels

    @property
    def shown(self) -> str:
        return self.card.shown(self.path)


def index_mask(source: MaskSource, folder: Path) -> Path:
    """The index raster of a mask: the file itself where it is one, else one that is made in `folder`, once.

    Vector files are burnt into the grid of the image; what no polygon covers is the background class where the card
    names one, else `ignore_index`.

    Raises:
        MaskError: the mask does not fit the image, or holds a value or colour that the card does not know.
        UnreadableRasterError: the mask cannot be read.
        OSError: the index raster cannot be written.
    """
    from s5.geo.raster import RasterInfo, describe, write_blocks  # s5.data stays light to import

    vector = source.path.suffix.lower() in VECTOR_SUFFIXES
    info = None if vector else describe(source.path)
    if info is not None:
        _check_grid(source, info)
        if _is_index(source, info):
            return source.path
    target = folder / _fingerprint(source) / f"{source.image.stem}-{_content_key(source)}.tif"
    if not target.exists():
        grid = source.image_info
        made = RasterInfo(grid.height, grid.width, 1, "uint8", grid.crs, grid.transform, source.labels.ignore_index)
        write_blocks(target, made, _burnt(source) if info is None else _decoded(source, info))
    return target


def value_error(source: MaskSource, value: object, row: int, col: int) -> MaskError:
    """The error for a mask value outside the classes, at a pixel of the mask."""
    return MaskError(
        "mask_value",
        f"{source.card.path.name}: class list has {source.labels.num_classes} names but {source.shown} holds value "
        f"{value} at row {row}, column {col} (expected 0..{source.labels.num_classes - 1} or "
        f"{source.labels.ignore_index}); extend 'classes' or map it with 'ignore_values'",
    )


def _check_grid(source: MaskSource, mask: RasterInfo) -> None:
    image = source.image_info
    if (mask.height, mask.width) != (image.height, image.width):
        raise MaskError(
            "mask_size",
            f"{source.shown}: is {mask.height} x {mask.width} pixels but its image {source.card.shown(source.image)} "
            f"is {image.height} x {image.width}; resample one of them to the other's grid",
        )
    if not (mask.georeferenced and image.georeferenced):
        return
    if mask.crs != image.crs:
        raise MaskError(
            "mask_crs",
            f"{source.shown}: is in {mask.crs[:60]} but its image {source.card.shown(source.image)} in "
            f"{image.crs[:60]}; reproject one of them",
        )
    pixel = max(abs(image.transform[0]), abs(image.transform[1]))
    far = max(abs(a - b) * (max(image.height, image.width) if i % 3 < 2 else 1)
              for i, (a, b) in enumerate(zip(mask.transform, image.transform, strict=True)))  # fmt: skip
    if far > 0.1 * pixel:  # a tenth of a pixel: writers round, and a real shift is larger
        raise MaskError(
            "mask_grid",
            f"{source.shown}: lies {far / pixel:.1f} pixels away from its image {source.card.shown(source.image)}; "
            "resample one of them to the other's grid",
        )


def _is_index(source: MaskSource, info: RasterInfo) -> bool:
    coding, labels = source.coding, source.labels
    if coding.palette and (info.bands >= 3 or info.has_colormap):
        return False
    if info.bands != 1:
        raise MaskError(
            "mask_bands",
            f"{source.shown}: has {info.bands} bands, expected 1; give 'palette' where colours stand for classes",
        )
    foreign_nodata = info.nodata is not None and not _is_label(info.nodata, labels)
    return info.dtype == "uint8" and not coding.legend and not coding.ignore_values and not foreign_nodata


def _is_label(value: float, labels: LabelSpace) -> bool:
    return value == labels.ignore_index or (0 <= value < labels.num_classes and float(value).is_integer())


def _burnt(source: MaskSource) -> Iterator[tuple[Window, npt.NDArray[Any]]]:
    from s5.geo.vector import UnreadableVectorError, rasterize
    from s5.geo.windows import partition_windows

    grid, labels = source.image_info, source.labels
    fill = labels.ignore_index if labels.background_index is None else labels.background_index
    for window in partition_windows(grid.height, grid.width, size=_BLOCK):
        try:
            yield window, rasterize(
                source.path, class_field=source.coding.class_field, classes=labels.classes, info=grid, window=window,
                fill=fill,
            )  # fmt: skip
        except UnreadableVectorError as error:
            raise MaskError("mask_vector", str(error)) from error


def _decoded(source: MaskSource, info: RasterInfo) -> Iterator[tuple[Window, npt.NDArray[Any]]]:
    from s5.geo.raster import read_colormap, read_windows
    from s5.geo.windows import partition_windows

    coloured = bool(source.coding.palette) and (info.bands >= 3 or info.has_colormap)
    colormap = read_colormap(source.path) if coloured and info.bands == 1 else {}
    for window, block, valid in read_windows(source.path, partition_windows(info.height, info.width, size=_BLOCK)):
        if coloured:
            found = _from_colours(source, _rgb(block, colormap), valid)
        else:
            found = _from_values(source, block[0], info.nodata)
        rows, cols = np.nonzero(found == _UNKNOWN)
        if len(rows):
            row, col = int(rows[0]), int(cols[0])
            raise _unknown(source, block[:, row, col], colormap, coloured, window.row + row, window.col + col)
        yield window, found.astype(np.uint8)


def _rgb(block: npt.NDArray[Any], colormap: dict[int, tuple[int, int, int]]) -> npt.NDArray[np.int64]:
    if not colormap:
        return block[:3].astype(np.int64)
    table = np.zeros((3, 256), dtype=np.int64)
    for value, colour in colormap.items():
        table[:, value] = colour
    return table[:, block[0]]


def _from_colours(
    source: MaskSource, rgb: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint16]:
    codes = (rgb[0] << 16) + (rgb[1] << 8) + rgb[2]
    found = np.full(codes.shape, _UNKNOWN, dtype=np.uint16)
    for (red, green, blue), index in source.coding.palette:
        found[codes == (red << 16) + (green << 8) + blue] = source.labels.ignore_index if index is None else index
    found[~valid] = source.labels.ignore_index
    return found


def _from_values(source: MaskSource, values: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.uint16]:
    labels, coding = source.labels, source.coding
    found = np.full(values.shape, _UNKNOWN, dtype=np.uint16)
    if not coding.legend:
        for index in range(labels.num_classes):
            found[values == index] = index
    for ignored in (labels.ignore_index, *([] if nodata is None or _is_label(nodata, labels) else [nodata])):
        found[values == ignored] = labels.ignore_index
    for value, meaning in coding.legend:
        found[values == value] = labels.ignore_index if meaning is None else meaning
    for value in coding.ignore_values:
        found[values == value] = labels.ignore_index
    if values.dtype.kind == "f":
        found[np.isnan(values)] = labels.ignore_index
    return found


def _unknown(
    source: MaskSource, pixel: npt.NDArray[Any], colormap: dict[int, tuple[int, int, int]], coloured: bool,
    row: int, col: int,
) -> MaskError:  # fmt: skip
    if not coloured:
        return value_error(source, pixel[0].item(), row, col)
    colour = list(colormap.get(int(pixel[0]), ())) if colormap else [int(v) for v in pixel[:3]]
    return MaskError(
        "mask_colour",
        f"{source.card.path.name}: {source.shown} holds colour {colour} at row {row}, column {col}, which is not in "
        "'palette'; add it there under its class, or under 'ignore'",
    )


def _fingerprint(source: MaskSource) -> str:
    meaning = {"classes": source.labels.classes, "ignore": source.labels.ignore_index,
               "background": source.labels.background, "coding": asdict(source.coding)}  # fmt: skip
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:12]


def _content_key(source: MaskSource) -> str:
    """Names the content that an index raster is made from, so that a corrected mask is never taken for an old one."""
    stat = source.path.stat()
    parts = (_file_hash(source.path, stat.st_size, stat.st_mtime_ns), str(source.image), repr(source.image_info))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 the size and time are there for the cache
    return sha256_of(path)
