"""The files of a split: listed from folders, globs or a list file, images paired with masks."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5.data.card import CardError, DatasetCard, SplitSource, is_glob
from s5.members import member_of

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2", ".vrt", ".img"})
VECTOR_SUFFIXES = frozenset({".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet"})
# Files that lie beside images and belong to them: world files, projections, overviews, statistics.
_COMPANIONS = frozenset(
    {".xml", ".ovr", ".msk", ".prj", ".tfw", ".pgw", ".jgw", ".j2w", ".wld", ".dbf", ".shx", ".cpg"}
)


@dataclass(frozen=True)
class Entry:
    """An image of a split and the mask that goes with it, as the card lists them.

    A list may also say what its tile is called (`name`), and the CRC-32 of the image's bytes.
    """

    split: str
    image: Path
    mask: Path | None = None
    group: str | None = None
    name: str | None = None
    crc32: int | None = None


@dataclass(frozen=True)
class Rejected:
    """A file that is not used, or only in part, and why: a short `kind` to count by and a sentence to read."""

    path: Path
    split: str
    kind: str
    reason: str


def list_split(card: DatasetCard, source: SplitSource) -> tuple[list[Entry], list[Rejected]]:
    """All images of a split, in the order of their paths, or of the list file.

    Raises:
        CardError: the split names no image, or its list file cannot be used.
    """
    entries, rejected = _from_list(card, source) if source.list_file is not None else _from_folders(card, source)
    if not entries and not rejected:
        where = source.images if source.list_file is None else card.shown(source.list_file)
        raise CardError(
            f"{card.path.name}: split {source.name!r} is empty: {where} holds no image; correct the path or remove "
            "the split"
        )
    unique, doubles = _without_doubles(card, entries)
    return [_grouped(card, entry) for entry in unique], rejected + doubles


def _from_list(card: DatasetCard, source: SplitSource) -> tuple[list[Entry], list[Rejected]]:
    assert source.list_file is not None
    table = _read_table(card, source, source.list_file)
    group_column = card.group if card.group is not None and card.group in table.columns else "group"
    folder = source.list_file.parent

    def cell(row: dict[Any, Any], column: str) -> str | None:
        value = row.get(column)
        return None if value is None or value != value or str(value).strip() == "" else str(value).strip()

    entries, rejected = [], []
    for number, row in enumerate(table.to_dict("records"), start=1):
        image, mask = cell(row, "image"), cell(row, "mask")
        if image is None:
            reason = f"{card.shown(source.list_file)}: row {number} names no image; fill its column 'image'"
            rejected.append(Rejected(source.list_file, source.name, "image_missing", reason))
            continue
        mask_path = None if mask is None else _located(folder, mask)
        crc32 = cell(row, "crc32")
        entries.append(
            Entry(
                source.name, _located(folder, image), mask_path, cell(row, group_column), cell(row, "tile_id"),
                None if crc32 is None else int(crc32),
            )
        )  # fmt: skip
    return entries, rejected


def _located(folder: Path, name: str) -> Path:
    """The file, or the member of a shard, that a list in `folder` names."""
    member = member_of(name)
    return tidy(folder / name) if member is None else replace(member, file=tidy(folder / member.file)).path


def _read_table(card: DatasetCard, source: SplitSource, path: Path) -> pd.DataFrame:
    import pandas as pd  # s5.data stays light to import

    if path.suffix not in {".csv", ".parquet"}:
        raise CardError(
            f"{card.path.name}: splits.{source.name}.list: expected a .csv or .parquet file, got {path.name}"
        )
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    except (ValueError, OSError) as error:
        raise CardError(f"{card.path.name}: {card.shown(path)} cannot be read as a table ({error})") from error
    if "image" not in table.columns:
        raise CardError(
            f"{card.path.name}: {card.shown(path)} has no column 'image' (found {[str(c) for c in table.columns]}); "
            "its columns are image, mask and, if wanted, group"
        )
    return table


def _from_folders(card: DatasetCard, source: SplitSource) -> tuple[list[Entry], list[Rejected]]:
    assert source.images is not None
    masks_at = None if source.masks is None else tidy(card.folder / source.masks)
    images, strangers = [], []
    for path in _files(card.folder, source.images):
        if masks_at is not None and path.is_relative_to(masks_at) and not is_glob(str(source.masks)):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        elif path.suffix.lower() not in _COMPANIONS:
            reason = f"{card.shown(path)}: is no image file (suffix {path.suffix!r}); move it elsewhere"
            strangers.append(Rejected(path, source.name, "not_an_image", reason))
    if source.masks is None:
        return [Entry(source.name, image) for image in images], strangers
    if masks_at is not None and masks_at.is_file() and masks_at.suffix.lower() in VECTOR_SUFFIXES:
        return [Entry(source.name, image, masks_at) for image in images], strangers
    entries, unpaired = _pair(card, source, images)
    return entries, strangers + unpaired


def _pair(card: DatasetCard, source: SplitSource, images: list[Path]) -> tuple[list[Entry], list[Rejected]]:
    assert source.images is not None
    assert source.masks is not None
    suffixes = IMAGE_SUFFIXES | VECTOR_SUFFIXES
    masks = [path for path in _files(card.folder, source.masks) if path.suffix.lower() in suffixes]
    by_key = {_key(path, card.folder, source.masks): path for path in masks}
    by_stem = {path.stem: path for path in masks}
    common = {stem for stem, number in Counter(path.stem for path in masks).items() if number > 1}
    entries, used = [], set()
    for image in images:
        mask = by_key.get(_key(image, card.folder, source.images))
        if mask is None and image.stem not in common:
            mask = by_stem.get(image.stem)
        entries.append(Entry(source.name, image, mask))
        used.add(mask)
    alone = [
        Rejected(
            path, source.name, "image_missing", f"{card.shown(path)}: no image of the same name in {source.images}"
        )
        for path in masks
        if path not in used
    ]
    return entries, alone


def _key(path: Path, folder: Path, pattern: str) -> str:
    base = tidy(folder / pattern)
    below = not is_glob(pattern) and base in path.parents
    inside = path.relative_to(base) if below else Path(path.name)
    return inside.with_suffix("").as_posix()


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in _matches(folder, pattern) if path.is_file() and not path.name.startswith("."))


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    if is_glob(pattern):
        whole = Path(pattern)
        base, rest = (Path(whole.anchor), whole.relative_to(whole.anchor)) if whole.is_absolute() else (folder, whole)
        return (tidy(path) for path in base.glob(str(rest)))
    start = tidy(folder / pattern)
    return start.rglob("*") if start.is_dir() else iter([start])


def _without_doubles(card: DatasetCard, entries: list[Entry]) -> tuple[list[Entry], list[Rejected]]:
    seen: set[Path | str] = set()
    unique, doubles = [], []
    for entry in entries:
        real = entry.image.resolve()
        if real in seen or entry.name in seen:
            what = "is" if real in seen else f"or another tile named {entry.name} is"
            reason = f"{card.shown(entry.image)}: {what} listed more than once in split {entry.split!r}; used once"
            doubles.append(Rejected(entry.image, entry.split, "duplicate", reason))
        else:
            seen.update({real} if entry.name is None else {real, entry.name})
            unique.append(entry)
    return unique, doubles


def _grouped(card: DatasetCard, entry: Entry) -> Entry:
    if entry.group is not None or card.group is None:
        return entry
    found = re.search(card.group, relative_to_card(card, entry.image))
    if found is None:
        return entry
    parts = [part for part in found.groups() if part is not None] or [found.group(0)]
    return replace(entry, group="_".join(parts))


def relative_to_card(card: DatasetCard, path: Path) -> str:
    """A path as seen from the card's folder, with ``..`` where it lies elsewhere."""
    up, base = 0, tidy(card.folder)
    while not path.is_relative_to(base):
        up, base = up + 1, base.parent
    return "../" * up + path.relative_to(base).as_posix()


def tidy(path: Path) -> Path:
    """An absolute path without ``..``; links stay as they are, so that names are those that the user knows."""
    parts: list[str] = []
    for part in path.absolute().parts:
        if part == "..":
            if len(parts) > 1:
                parts.pop()
        else:
            parts.append(part)
    return Path(*parts)


def warn_of_leaks(entries: list[Entry]) -> None:
    """Say so where an image that a model learns the labels of is also one that it is judged on."""
    learnt = {entry.image for entry in entries if entry.split in {"labeled", "noisy"}}
    for split in ("val", "test"):
        shared = sorted(entry.image for entry in entries if entry.split == split and entry.image in learnt)
        if shared:
            _LOG.warning(
                "%d images of split '%s' are also in 'labeled' or 'noisy' (such as %s): its scores will be too good",
                len(shared), split, shared[0],
            )  # fmt: skip
