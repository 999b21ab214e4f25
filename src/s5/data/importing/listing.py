"""The files of an archive's splits, and what of them is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s5.data.importing.description import Archive, Source, SplitLayout
from s5.data.importing.layout import Pattern, fill_template


class ArchiveError(ValueError):
    """A folder that is not the archive that it is said to be."""


@dataclass(frozen=True)
class Item:
    """An image of an archive: one file, or one a band, with its mask.

    `name` is its path below the root without suffix: unique in the archive.
    """

    name: str
    images: tuple[Path, ...]
    mask: Path | None = None
    group: str | None = None
    tile_id: str | None = None


@dataclass(frozen=True)
class Listed:
    """The items of a split, and sentences on what is missing."""

    items: tuple[Item, ...]
    missing: tuple[str, ...]


def list_items(archive: Archive, split: SplitLayout, root: Path, *, eroded: bool = False) -> Listed:
    """The images of one split with their masks, in the order of their paths.

    Args:
        archive: The description.
        split: One of its splits.
        root: Where the archive lies.
        eroded: Take the masks with eroded boundaries, where the data set has them.

    Raises:
        ArchiveError: the split is not there at all and may not be absent.
    """
    names = _names(split, root)
    items: list[Item] = []
    missing: list[str] = []
    unmasked: list[str] = []
    seen: dict[str, set[str]] = {key: set() for key, _ in split.only}
    found_names: set[str] = set()
    for source in split.sources:
        found = _of_source(archive, source, root)
        for parts, images in found:
            if any(parts[key] not in values for key, values in split.only):
                continue
            if names is not None and images[0].name not in names:
                continue
            for key in seen:
                seen[key].add(parts[key])
            found_names.add(images[0].name)
            mask = _mask(source, root, parts, eroded=eroded)
            shown = images[0].relative_to(root).as_posix()
            if source.masks and mask is None:
                unmasked.append(shown)
                continue
            lacking = [path.name for path in images if archive.stacked is not None and not path.is_file()]
            if lacking:
                missing.append(f"{shown}: lacks {', '.join(lacking)} beside it")
                continue
            items.append(_item(archive, images, root, mask, parts))
        if items and not split.together:
            break
    missing += [f"{shown}: has no mask" for shown in unmasked] if not split.with_masks else []
    missing += [f"{key} {value}: has no image" for key, values in split.only for value in values
                if value not in seen[key]]  # fmt: skip
    missing += [
        f"{name}: is listed in {split.listed_in} and not there" for name in sorted((names or set()) - found_names)
    ]
    if not items and not split.optional and split.name in {"labeled", "unlabeled", "noisy"}:
        raise ArchiveError(_not_there(archive, split, root, unmasked, eroded=eroded))
    return Listed(tuple(items), tuple(missing))


def _names(split: SplitLayout, root: Path) -> set[str] | None:
    if split.listed_in is None or not (root / split.listed_in).is_file():
        return None if split.listed_in is None else set()
    lines = (root / split.listed_in).read_text(encoding="utf-8").split()
    return {line.rpartition("/")[2] for line in lines}


def _of_source(archive: Archive, source: Source, root: Path) -> Iterable[tuple[dict[str, str], tuple[Path, ...]]]:
    if archive.stacked is None:
        return [(parts, (path,)) for path, parts in source.images.find(root)]
    first = Pattern(source.images.text.replace("{band}", archive.bands[0]))
    return [
        (parts, tuple(path.with_name(path.name.replace(archive.bands[0], band)) for band in archive.bands))
        for path, parts in first.find(root)
    ]


def _mask(source: Source, root: Path, parts: dict[str, str], *, eroded: bool) -> Path | None:
    patterns = source.eroded if eroded and source.eroded else source.masks
    return next((path for pattern in patterns if (path := root / pattern.fill(parts)).is_file()), None)


def _item(archive: Archive, images: tuple[Path, ...], root: Path, mask: Path | None, parts: dict[str, str]) -> Item:
    first = images[0] if archive.stacked is None else images[0].parent
    name = first.relative_to(root)
    return Item(
        name=(name.with_suffix("") if archive.stacked is None else name).as_posix(),
        images=images,
        mask=mask,
        group=None if archive.group is None else fill_template(archive.group, parts),
        tile_id=None if archive.tile_id is None else fill_template(archive.tile_id, parts),
    )


def _not_there(archive: Archive, split: SplitLayout, root: Path, unmasked: list[str], *, eroded: bool) -> str:
    start = f"{root}: split {split.name!r} of {archive.title} is not there"
    if unmasked:
        source = next(s for s in split.sources if s.masks)
        patterns = source.eroded if eroded and source.eroded else source.masks
        wanted = " or ".join(pattern.shown for pattern in patterns)
        return f"{start}: of {len(unmasked)} images, such as {unmasked[0]}, none has a mask; expected {wanted}"
    if split.listed_in is not None and not (root / split.listed_in).is_file():
        return f"{start}: it has no {split.listed_in}; give the folder that holds it as dataset_import.root"
    wanted = " or ".join(source.images.shown for source in split.sources)
    there = sorted(path.name for path in root.iterdir())[:8]
    return f"{start}: expected {wanted}, found {there}; give the folder above as dataset_import.root"
