"""An archive in, a dataset card out: lists, masks of class indices and, where the papers cut them, tiles."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from s5.data.card import load_card
from s5.data.importing.config import ImportConfig
from s5.data.importing.cutting import Cutter, Row
from s5.data.importing.description import SUBMISSION, Archive, SplitLayout, describe_archive
from s5.data.importing.listing import ArchiveError, Item, list_items
from s5.files import replacing, write_json
from s5.progress import progress

_LOG = logging.getLogger(__name__)

CARD, SUBMISSION_CARD, KEY = "dataset.yml", "submission_card.yml", "import_key.json"
_MOST_SAID = 20  # missing files that the report names


@dataclass(frozen=True)
class Imported:
    """What an import left: the card, that of the benchmark's server where there is one, and a report."""

    card: Path
    submission: Path | None
    report: dict[str, Any]


def import_archive(config: ImportConfig, root: Path, out: Path, *, labels_from: Path | None = None) -> Imported:
    """Import the archive of a published data set.

    Args:
        config: What, and how it is cut.
        root: Its folder.
        out: Where everything goes; what lies there of the same import is kept.
        labels_from: A dataset card that gives its classes and splits.

    Raises:
        ArchiveError: `root` is not that archive, or `out` holds another import.
        UnknownMaskValueError: a mask holds a colour or value that the data set does not have.
        OSError: a file cannot be read or written.
    """
    archive = describe_archive(config.archive)
    if config.tolerance is not None:
        archive = replace(archive, tolerance=config.tolerance)
    if not root.is_dir():
        raise ArchiveError(f"{root}: there is no such folder; give that of {archive.title} as dataset_import.root")
    _claim(out, archive, config, root)
    lists: dict[str, list[Row]] = {}
    report: dict[str, Any] = {}
    for split in archive.splits:
        listed = list_items(archive, split, root, eroded=_is_eroded(config, split.name))
        rows = _cut(archive, config, split, listed.items, out)
        if rows:
            lists[split.name] = rows
            _write_list(out / f"{split.name}.csv", rows)
        report[split.name] = _counts(archive, config, split, len(listed.items), len(rows), listed.missing)
    card = _write_card(archive, out, lists, labels_from)
    submission = _write_submission_card(archive, out) if SUBMISSION in lists else None
    notes = [note for values in report.values() for note in values["notes"]]
    for note in notes:
        _LOG.warning("%s", note)
    _LOG.info("%s: wrote %s; use it with --params=dataset=%s", archive.title, card.name, card)
    whole = {
        "name": archive.name, "title": archive.title, "home": archive.home, "root": str(root), "card": str(card),
        "submission_card": None if submission is None else str(submission), "splits": report,
        "complete": not notes,
    }  # fmt: skip
    return Imported(card, submission, whole)


def _is_eroded(config: ImportConfig, split: str) -> bool:
    return config.eroded == "all" or (config.eroded == "test" and split == "test")


def _claim(out: Path, archive: Archive, config: ImportConfig, root: Path) -> None:
    """Files that are there are kept; so they must be of the same import."""
    settings = {"archive": repr(archive), "root": str(root), "tile_size": config.tile_size, "overlap": config.overlap,
                "eroded": config.eroded}  # fmt: skip
    path = out / KEY
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != settings:
            raise ArchiveError(
                f"{out}: holds an import with other settings; remove the folder, or give another as dataset_import.out"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ArchiveError(f"{out}: is not empty and no import; give another folder as dataset_import.out")
    write_json(path, settings)


def _cut(archive: Archive, config: ImportConfig, split: SplitLayout, items: Sequence[Item], out: Path) -> list[Row]:
    if split.name == SUBMISSION:
        return [Row(os.path.relpath(item.images[0], out), None, item.group, item.tile_id) for item in items]
    cutter = Cutter(archive, split.name, config.tiling(split.name, split.tiling), out)
    waiting, rows = iter(items), list[Row]()
    with ThreadPoolExecutor(config.workers) as pool:
        bar = progress(_in_parts(pool, cutter, waiting, 16 * config.workers), f"import {split.name}",
                       total=len(items), unit="image")  # fmt: skip
        for of_image in bar:
            rows += of_image
    return rows


def _in_parts(pool: ThreadPoolExecutor, cutter: Cutter, items: Any, number: int) -> Any:
    while part := list(islice(items, number)):  # a pool makes its futures for everything that it is given at once
        yield from pool.map(cutter, part)


def _counts(
    archive: Archive, config: ImportConfig, split: SplitLayout, images: int, tiles: int, missing: Sequence[str]
) -> dict[str, Any]:
    published = config.tile_size is None and split.tiles is not None
    notes = []
    at = f"{archive.title}, {split.name}"
    if split.images and images not in split.images:
        wanted = " or ".join(f"{number:,}" for number in split.images)
        notes.append(f"{at}: {images:,} images, published are {wanted}")
    if published and images in split.images and tiles != split.tiles:
        notes.append(f"{at}: {tiles:,} tiles, the papers' lists have {split.tiles:,}")
    if missing:
        notes.append(f"{at}: {len(missing):,} things are missing, such as: {missing[0]}")
    return {
        "images": images, "published_images": list(split.images), "tiles": tiles,
        "published_tiles": split.tiles if published else None, "num_missing": len(missing),
        "missing": list(missing[:_MOST_SAID]), "notes": notes,
    }  # fmt: skip


def _write_list(path: Path, rows: Sequence[Row]) -> None:
    columns = ["image"]
    columns += [name for name in ("mask", "group", "tile_id") if getattr(rows[0], name) is not None]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in rows)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _write_card(archive: Archive, out: Path, lists: dict[str, list[Row]], labels_from: Path | None) -> Path:
    splits: dict[str, Any] = {name: {"list": f"{name}.csv"} for name in lists if name != SUBMISSION}
    values = _head(archive)
    if labels_from is not None:
        values, others = _head_of(labels_from, out)
        values["name"] = f"{values['name']}_{archive.name}"
        splits = {**others, **splits}
    elif archive.labels is None:
        _LOG.warning(
            "%s has no classes: its card serves as a pool of unlabelled images only with those of another card; give "
            "one with dataset_import.labels_from", archive.title,
        )  # fmt: skip
        values["classes"], values["background"] = ["background", "foreground"], "background"
    return _write_yaml(out / CARD, {**values, "splits": splits})


def _write_submission_card(archive: Archive, out: Path) -> Path:
    """The images that a server has the masks of, as a card of their own: nothing is ever trained on them."""
    splits = {"unlabeled": {"list": f"{SUBMISSION}.csv"}}
    head = _head(archive)
    return _write_yaml(out / SUBMISSION_CARD, {**head, "name": f"{head['name']}_submission", "splits": splits})


def _head(archive: Archive) -> dict[str, Any]:
    labels = archive.labels
    given = {
        "name": archive.name,
        "classes": None if labels is None else list(labels.classes),
        "background": None if labels is None else labels.background,
        "bands": list(archive.bands),
        "gsd": archive.gsd,
        "protocol": archive.protocol,
    }
    return {key: value for key, value in given.items() if value is not None}


def _head_of(card: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What another card says, with its paths as seen from `out`."""
    load_card(card)  # says what is wrong with it
    values = yaml.safe_load(card.read_text(encoding="utf-8"))
    splits = values.pop("splits")
    folder = os.path.relpath(card.parent.absolute(), out)
    for split in splits.values():
        for key in ("images", "masks", "list", "boxes"):
            if key in split:
                split[key] = os.path.normpath(Path(folder) / split[key])
    return values, splits


def _write_yaml(path: Path, values: dict[str, Any]) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
