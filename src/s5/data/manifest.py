"""The tile manifest: a table with a row a tile, which everything after the ingestion reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from s5.data.card import DatasetCard
from s5.data.checking import CheckedImage
from s5.data.listing import Rejected, relative_to_card
from s5.members import file_behind
from s5.types import Window

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "tile_id", "split", "image", "mask", "row", "col", "height", "width", "group", "crs", "valid_share", "geometry",
)  # fmt: skip
_ROW = ("tile_id", "split", "image", "mask", "group", "crs", "row", "col", "height", "width", "valid_share")
_NAMING_ORDER = ("labeled", "val", "test", "noisy", "unlabeled")


def build_manifest(card: DatasetCard, images: Sequence[CheckedImage]) -> pd.DataFrame:
    """A row for each tile of the images, with its footprint; `group` is empty where the card gives none.

    A tile is named by its image's path without suffix, or as its list says, and by its place in it. Where an image is
    in several splits, the tiles of all but the first carry the split too: ``images/a@unlabeled``.
    """
    import pandas as pd  # s5.data stays light to import

    from s5.geo.footprints import footprints, with_footprints

    names = _image_names(card, images)
    rows: list[tuple[Any, ...]] = []
    geometries: list[Any] = []
    for image in images:
        name, suffix = names[str(image.entry.image), image.entry.split]
        several = not _is_whole(image)
        for window, share in zip(image.windows, image.valid_shares, strict=True):
            place = f":{window.row}_{window.col}" if several else ""
            rows.append(
                (name + place + suffix, *_of_image(image), window.row, window.col, window.height, window.width, share)
            )
        geometries.extend(footprints(image.windows, image.info))
    table = pd.DataFrame(rows, columns=list(_ROW)).astype(
        {"row": "int32", "col": "int32", "height": "int32", "width": "int32", "valid_share": "float32"}
    )
    table["mask"] = pd.Series([row[_ROW.index("mask")] for row in rows], dtype=object)  # or None would become NaN
    return ordered(with_footprints(table[list(COLUMNS[:-1])], geometries))


def _of_image(image: CheckedImage) -> tuple[str, str, str | None, str, str]:
    mask = None if image.mask is None else str(image.mask)
    return image.entry.split, str(image.entry.image), mask, image.entry.group or "", image.info.crs


def ordered(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest sorted by split and tile id."""
    return manifest.sort_values(["split", "tile_id"], kind="stable").reset_index(drop=True)


def quarantine_table(rejected: Sequence[Rejected]) -> pd.DataFrame:
    """A row for each file that is not used, or only in part: path, split, kind and reason."""
    import pandas as pd

    rows = [(str(r.path), r.split, r.kind, r.reason) for r in rejected]
    table = pd.DataFrame(rows, columns=["path", "split", "kind", "reason"]).astype(str)
    return table.sort_values(["split", "path", "kind"], kind="stable").reset_index(drop=True)


def files_fingerprint(manifest: pd.DataFrame) -> str:
    """A hash of the names, sizes and times of all files of a manifest, which `SegmentationData.fingerprint` leaves out.

    For what is kept between runs: a file that was changed in place is another file.
    """
    digest = hashlib.sha256()
    names = {str(name) for column in ("image", "mask") for name in manifest[column] if isinstance(name, str) and name}
    for file in sorted({file_behind(Path(name)) for name in names}):
        status = file.stat() if file.is_file() else None
        digest.update(repr((str(file), status and (status.st_size, status.st_mtime_ns))).encode())
    return digest.hexdigest()[:16]


def window_of(row: Any) -> Window:
    """The window of a manifest row, as `itertuples` gives it."""
    return Window(int(row.row), int(row.col), int(row.height), int(row.width))


def _is_whole(image: CheckedImage) -> bool:
    whole = Window(0, 0, image.info.height, image.info.width)
    return len(image.windows) == 1 and image.windows[0] == whole


def _image_names(card: DatasetCard, images: Sequence[CheckedImage]) -> dict[tuple[str, str], tuple[str, str]]:
    """Name and suffix of the tiles of each (image, split)."""
    given = {str(image.entry.image): image.entry.name for image in images if image.entry.name is not None}
    paths = {
        str(image.entry.image): relative_to_card(card, image.entry.image) for image in images if not image.entry.name
    }
    stems: dict[str, list[str]] = {}
    for path, relative in paths.items():
        stems.setdefault(str(PurePosixPath(relative).with_suffix("")), []).append(path)
    # a.png and a.tif side by side keep their suffixes, or their tiles would share a name.
    plain = {path: paths[path] if len(same) > 1 else stem for stem, same in stems.items() for path in same}
    plain |= given
    first: dict[str, str] = {}
    for image in sorted(images, key=lambda image: _NAMING_ORDER.index(image.entry.split)):
        first.setdefault(str(image.entry.image), image.entry.split)
    return {
        (path, split): (plain[path], "" if first[path] == split else f"@{split}")
        for path, split in ((str(image.entry.image), image.entry.split) for image in images)
    }
