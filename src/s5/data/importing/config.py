"""What is imported, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s5.data.importing.description import Tiling, archive_names


@dataclass(frozen=True)
class ImportConfig:
    """The `dataset_import` parameter group.

    Args:
        name: Which data set; see `archive_names`.
        root: The folder of its archive, unpacked.
        out: Where card, lists, masks and tiles go; None is ``data/01_raw/<name>``.
        tile_size: Side of the tiles in pixels; None cuts as the papers do, 0 leaves images whole.
        overlap: Of neighbouring tiles of training splits, in pixels; only with `tile_size`. Those of `val` and `test`
            do not overlap then.
        eroded: Where masks with eroded boundaries take the place of the full ones (ISPRS): nowhere, in `test`, or in
            all splits.
        tolerance: How far a channel of a mask's colour may be from the palette; None is what the data set says.
        labels_from: A dataset card whose classes and splits go into the card of a data set without labels.
        download: Get the archive through torchgeo first, where it knows the data set.
        workers: Images that are read and written at once.

    Raises:
        ValueError: a value out of range.
    """

    name: str | None = None
    root: str | None = None
    out: str | None = None
    tile_size: int | None = None
    overlap: int = 0
    eroded: Literal["none", "test", "all"] = "none"
    tolerance: int | None = None
    labels_from: str | None = None
    download: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in archive_names():
            raise ValueError(f"name: expected one of {', '.join(archive_names())}, got {self.name!r}")
        if self.eroded not in ("none", "test", "all"):
            raise ValueError(f"eroded: expected none, test or all, got {self.eroded!r}")
        for key, least in (("tile_size", 0), ("overlap", 0), ("tolerance", 0), ("workers", 1)):
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{key}: expected a whole number of at least {least}, got {value!r}")
        if self.overlap and not self.tile_size:
            raise ValueError(
                f"overlap: {self.overlap} goes with tile_size; give it too, or leave both as the papers do"
            )
        if self.tile_size and self.overlap >= self.tile_size:
            raise ValueError(
                f"overlap: expected less than tile_size ({self.tile_size}), got {self.overlap}; tiles must move on"
            )

    @property
    def archive(self) -> str:
        """The name of the data set.

        Raises:
            ValueError: it is not given.
        """
        if self.name is None:
            raise ValueError(
                f"dataset_import.name: give one of {', '.join(archive_names())} with --params=dataset_import.name=NAME"
            )
        return self.name

    @property
    def folder(self) -> str:
        """The folder of the archive.

        Raises:
            ValueError: it is not given.
        """
        if self.root is None:
            raise ValueError(
                f"dataset_import.root: give the folder of {self.archive}, unpacked, with "
                "--params=dataset_import.root=FOLDER"
            )
        return self.root

    def tiling(self, split: str, published: Tiling | None) -> Tiling | None:
        """How the images of a split are cut; None leaves them whole."""
        if self.tile_size is None:
            return published
        if self.tile_size == 0:
            return None
        overlap = self.overlap if split in {"labeled", "unlabeled", "noisy"} else 0
        return Tiling(self.tile_size, self.tile_size - overlap)
