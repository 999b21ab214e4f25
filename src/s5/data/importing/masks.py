"""Masks of an archive as class indices, byte for byte, or an error that says where they hold something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s5.data.importing.description import Archive
from s5.types import Window

_UNKNOWN = 256  # stands for a colour or value that nothing maps
IGNORE_INDEX = 255


class UnknownMaskValueError(ValueError):
    """A mask holds a colour or value that the description of its data set does not know."""


def class_indices(archive: Archive, path: Path, block: npt.NDArray[Any], window: Window) -> npt.NDArray[np.uint8]:
    """The class of each pixel of a block of a mask; 255 where there is none.

    Args:
        archive: What colours and values mean.
        path: The mask, for messages.
        block: [C, h, w] as read; three or more bands are colours, where the data set has a palette.
        window: Where the block lies in the mask, for messages.

    Raises:
        UnknownMaskValueError: with the file, the colour or value, and its pixel.
    """
    colours = bool(archive.palette) and len(block) >= 3
    band = block[0] if len(block) < archive.mask_band else block[archive.mask_band - 1]
    found = _from_colours(archive, block[:3]) if colours else _from_values(archive, band)
    rows, cols = np.nonzero(found == _UNKNOWN)
    if len(rows):
        row, col = int(rows[0]), int(cols[0])
        at = f"at row {window.row + row}, column {window.col + col}"
        if not colours:
            known = [value for value, _ in archive.values] or f"0..{_num_classes(archive) - 1} and {IGNORE_INDEX}"
            raise UnknownMaskValueError(
                f"{path}: holds value {band[row, col].item()} {at}, but {archive.title} has {known}; is it a mask of "
                "this data set?"
            )
        colour = [int(value) for value in block[:3, row, col]]
        raise UnknownMaskValueError(
            f"{path}: holds colour {colour} {at}, which is not in the palette of {archive.title} "
            f"({[list(known) for known, _ in archive.palette]}); correct the file, or take colours that are near with "
            "dataset_import.tolerance"
        )
    return found.astype(np.uint8)


def _from_colours(archive: Archive, rgb: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    found = np.full(rgb.shape[1:], _UNKNOWN, dtype=np.uint16)
    wide = rgb.astype(np.int16)
    for colour, index in archive.palette:
        apart = np.abs(wide - np.array(colour, dtype=np.int16)[:, None, None]).max(axis=0)
        found[apart <= archive.tolerance] = IGNORE_INDEX if index is None else index
    return found


def _from_values(archive: Archive, values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    found = np.full(values.shape, _UNKNOWN, dtype=np.uint16)
    table = archive.values
    if archive.indices:
        table = (*((index, index) for index in range(_num_classes(archive))), (IGNORE_INDEX, None))
    for value, index in table:
        found[values == value] = IGNORE_INDEX if index is None else index
    return found


def _num_classes(archive: Archive) -> int:
    return 0 if archive.labels is None else archive.labels.num_classes
