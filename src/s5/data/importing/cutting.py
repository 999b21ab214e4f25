"""One image of an archive and its mask, cut into tiles or left whole, with class indices for colours."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s5.data.importing.description import Archive, Tiling
from s5.data.importing.listing import ArchiveError, Item
from s5.data.importing.masks import IGNORE_INDEX, class_indices
from s5.files import replacing
from s5.types import Window

if TYPE_CHECKING:
    from s5.geo.raster import RasterInfo

_BLOCK = 1024  # pixels; masks of whole images are converted in blocks


@dataclass(frozen=True)
class Row:
    """A tile of a list: paths relative to the folder of the import."""

    image: str
    mask: str | None
    group: str | None
    tile_id: str | None


@dataclass(frozen=True)
class Cutter:
    """Writes what one split of a data set needs into `out`; callable from several threads.

    What is there already is kept: an import that was stopped goes on where it was.
    """

    archive: Archive
    split: str
    tiling: Tiling | None
    out: Path

    def __call__(self, item: Item) -> list[Row]:
        """The rows of one image.

        Raises:
            UnknownMaskValueError: its mask holds a colour or value that the data set does not have.
            ArchiveError: image and mask are of different sizes.
            UnreadableRasterError: a file cannot be read.
        """
        from s5.geo.raster import describe  # s5.data stays light to import

        info = describe(item.images[0])
        if item.mask is not None and self.archive.stacked is None:
            self._check_size(item, info)
        if self.archive.stacked is not None:
            return [self._stacked(item, *self.archive.stacked)]
        if self.tiling is None:
            return [self._whole(item, info)]
        return self._tiles(item, info, self.tiling)

    def _check_size(self, item: Item, info: RasterInfo) -> None:
        from s5.geo.raster import describe

        assert item.mask is not None
        mask = describe(item.mask)
        if (mask.height, mask.width) != (info.height, info.width):
            raise ArchiveError(
                f"{item.mask}: is {mask.height} x {mask.width} pixels but its image {item.images[0]} is "
                f"{info.height} x {info.width}; unpack both again"
            )

    def _whole(self, item: Item, info: RasterInfo) -> Row:
        """The image where it lies; its mask too, where it holds class indices already."""
        if item.mask is None or self.archive.indices:
            mask = None if item.mask is None else self._relative(item.mask)
            return Row(self._relative(item.images[0]), mask, item.group, item.tile_id)
        target = self.out / "masks" / self.split / f"{item.name}.{'tif' if info.georeferenced else 'png'}"
        if not target.exists():
            windows = _blocks(info.height, info.width)
            found = np.empty((info.height, info.width), dtype=np.uint8)
            for window, classes in self._classes(item.mask, windows):
                found[window.row : window.row + window.height, window.col : window.col + window.width] = classes
            _write(target, found, info)
        return Row(self._relative(item.images[0]), self._relative(target), item.group, item.tile_id)

    def _tiles(self, item: Item, info: RasterInfo, tiling: Tiling) -> list[Row]:
        windows = self._windows(item, info, tiling)
        suffix = "tif" if info.georeferenced or info.dtype != "uint8" or len(self.archive.bands) != 3 else "png"
        names = [f"{self.split}/{item.name}_{window.row}_{window.col}" for window in windows]
        if tiling.every_start:  # several may lie at one place
            names = [f"{name}_{place}" for place, name in enumerate(names)]
        images = [self.out / "images" / f"{name}.{suffix}" for name in names]
        ending = "tif" if info.georeferenced else "png"
        masks = [None if item.mask is None else self.out / "masks" / f"{name}.{ending}" for name in names]
        if not all(path.exists() for path in (*images, *masks) if path is not None):
            self._write_tiles(item, info, windows, images, masks)
        return [
            Row(self._relative(image), None if mask is None else self._relative(mask), item.group, None)
            for image, mask in zip(images, masks, strict=True)
        ]

    def _write_tiles(
        self, item: Item, info: RasterInfo, windows: list[Window], images: list[Path], masks: list[Path | None]
    ) -> None:
        from s5.geo.raster import read_windows

        without_data: dict[int, npt.NDArray[np.bool_]] = {}
        with closing(read_windows(item.images[0], windows, bands=len(self.archive.bands))) as tiles:
            for place, (window, tile, valid) in enumerate(tiles):
                _write(images[place], self._bands(tile), info, window)
                if not valid.all():
                    without_data[place] = ~valid
        if item.mask is None:
            return
        with closing(self._classes(item.mask, windows)) as of_tiles:
            for place, (window, classes) in enumerate(of_tiles):
                if place in without_data:
                    classes[without_data[place]] = IGNORE_INDEX
                mask = masks[place]
                assert mask is not None
                _write(mask, classes, info, window)

    def _bands(self, tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Grey images, of which DOTA has some, become RGB; further bands are left out."""
        wanted = len(self.archive.bands)
        return np.repeat(tile, wanted, axis=0) if len(tile) == 1 else tile[:wanted]

    def _windows(self, item: Item, info: RasterInfo, tiling: Tiling) -> list[Window]:
        from s5.geo.windows import tile_windows

        if tiling.block is None:
            return windows_of(info.height, info.width, tiling)
        blocks = tile_windows(info.height, info.width, size=tiling.block, stride=tiling.block_stride)
        if tiling.skip_blocks_of is not None and item.mask is not None:
            blocks = self._with_more_than(tiling.skip_blocks_of, item.mask, blocks)
        return [
            Window(block.row + tile.row, block.col + tile.col, tile.height, tile.width)
            for block in blocks
            for tile in windows_of(block.height, block.width, tiling)
        ]

    def _with_more_than(self, name: str, mask: Path, blocks: list[Window]) -> list[Window]:
        assert self.archive.labels is not None
        empty = (self.archive.labels.classes.index(name), IGNORE_INDEX)
        return [block for block, classes in self._classes(mask, blocks) if not np.isin(classes, empty).all()]

    def _classes(
        self, mask: Path, windows: list[Window]
    ) -> Generator[tuple[Window, npt.NDArray[np.uint8]], None, None]:
        from s5.geo.raster import read_windows

        with closing(read_windows(mask, windows)) as blocks:
            for window, block, _ in blocks:
                yield window, class_indices(self.archive, mask, block, window)

    def _stacked(self, item: Item, height: int, width: int) -> Row:
        """The bands of a place in one GeoTIFF, and its mask, all resampled to the finest grid."""
        image, mask = self.out / "images" / self.split / f"{item.name}.tif", None
        if item.mask is not None:
            mask = self.out / "masks" / self.split / f"{item.name}.tif"
        if not image.exists() or (mask is not None and not mask.exists()):
            self._write_stacked(item, image, mask, (height, width))
        return Row(
            self._relative(image), None if mask is None else self._relative(mask), item.group,
            item.name.replace("/", "_"),
        )  # fmt: skip

    def _write_stacked(self, item: Item, image: Path, mask: Path | None, shape: tuple[int, int]) -> None:
        from s5.geo.raster import read_resampled, write_geotiff

        bands = [read_resampled(path, shape, smooth=True) for path in item.images]
        info = bands[0][1]
        stacked = np.stack([values[0] for values, _ in bands])
        if mask is not None and item.mask is not None:
            values, _ = read_resampled(item.mask, shape, smooth=False)
            classes = class_indices(self.archive, item.mask, values, Window(0, 0, *shape))
            write_geotiff(mask, classes, transform=info.transform, crs=info.crs or None)
        write_geotiff(image, stacked, transform=info.transform, crs=info.crs or None, band_names=self.archive.bands)

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.out)).as_posix()


def windows_of(height: int, width: int, tiling: Tiling) -> list[Window]:
    """The tiles of an image, or of a block, row by row."""
    from s5.geo.windows import tile_windows

    if not tiling.every_start:
        return tile_windows(height, width, size=tiling.size, stride=tiling.stride)
    tall, wide = min(tiling.size, height), min(tiling.size, width)
    return [
        Window(min(row, height - tall), min(col, width - wide), tall, wide)
        for row in range(0, height, tiling.stride)
        for col in range(0, width, tiling.stride)
    ]


def _blocks(height: int, width: int) -> list[Window]:
    from s5.geo.windows import partition_windows

    return partition_windows(height, width, size=_BLOCK)


def _write(path: Path, array: npt.NDArray[Any], info: RasterInfo, window: Window | None = None) -> None:
    """An array as PNG or GeoTIFF, by the suffix of its path; a GeoTIFF lies where the window does."""
    from s5.geo.raster import IDENTITY, write_geotiff

    if path.suffix == ".png":
        _write_png(path, array)
        return
    transform = info.transform
    if window is not None and transform != IDENTITY:
        a, b, c, d, e, f = transform
        transform = (a, b, c + a * window.col + b * window.row, d, e, f + d * window.col + e * window.row)
    write_geotiff(path, array, transform=transform, crs=info.crs or None)


def _write_png(path: Path, array: npt.NDArray[Any]) -> None:
    from PIL import Image

    pixels = array if array.ndim == 2 else array.transpose(1, 2, 0)
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")
