"""What an archive of a published data set looks like: one YAML file each, under ``archives``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from s5.data.importing.layout import Pattern
from s5.types import LabelSpace

IGNORE = "ignore"
SUBMISSION = "submission"
"""A split without masks, whose predictions go to the server of a benchmark."""

_SPLITS = ("labeled", "unlabeled", "noisy", "val", "test", SUBMISSION)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Tiling:
    """How the images of a split are cut.

    Args:
        size: Height and width of a tile, in pixels.
        stride: From one tile to the next, 1..size; the last ones are shifted inward.
        every_start: Windows start at every multiple of the stride inside the image, so that the last few, shifted
            inward, may be the same: how S5 cut Vaihingen.
        block: Images are first cut into blocks of this size, and each block into tiles; None has no blocks.
        block_stride: From one block to the next.
        skip_blocks_of: Blocks that hold nothing but this class are left out.
    """

    size: int
    stride: int
    every_start: bool = False
    block: int | None = None
    block_stride: int | None = None
    skip_blocks_of: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.stride <= self.size:
            raise ValueError(f"tiling: expected size >= 1 and stride in 1..size, got {self.size} and {self.stride}")


@dataclass(frozen=True)
class Source:
    """Where the images of a split lie below the root, and the masks that belong to them.

    `masks` and `eroded` are alternatives, of which the first that exists is taken.
    """

    images: Pattern
    masks: tuple[Pattern, ...] = ()
    eroded: tuple[Pattern, ...] = ()


@dataclass(frozen=True)
class SplitLayout:
    """One split of an archive.

    Args:
        sources: Alternatives, of which the first with images is taken, or all of them where they go `together`.
        together: Whether all sources are taken.
        only: Placeholder to the values that belong to this split, in order.
        listed_in: A text file below the root with a file name a line.
        tiling: How images are cut; None leaves them whole, where they lie.
        images, tiles: Published numbers; several where several versions of the archive are in use.
        optional: Whether an archive may lack it.
        with_masks: Images without a mask belong to no split.
    """

    name: str
    sources: tuple[Source, ...]
    together: bool = False
    only: tuple[tuple[str, tuple[str, ...]], ...] = ()
    listed_in: str | None = None
    tiling: Tiling | None = None
    images: tuple[int, ...] = ()
    tiles: int | None = None
    optional: bool = False
    with_masks: bool = False


@dataclass(frozen=True)
class Archive:
    """The description of a data set; see ``archives/*.yml``.

    Args:
        name: What `dataset_import.name` calls it.
        title, home: For messages and documentation.
        labels: Its classes; None for a data set of images alone.
        bands: In the order of the files.
        splits: By the names of a dataset card, and `submission`.
        palette: Colours of RGB masks, and the class index of each; None is ignored.
        values: The same for masks of values; a mask with one band is read by it.
        tolerance: How far a channel may be from a colour of the palette.
        indices: Whether masks hold class indices already.
        mask_band: Which band holds the classes where there are several that are no colours; from 1.
        stacked: Height and width, where every band is a file of its own.
        protocol: Evaluation preset of the card.
        group, tile_id: Templates of placeholders.
        torchgeo: What `s5.data.importing.download` needs.
    """

    name: str
    title: str
    home: str
    labels: LabelSpace | None
    bands: tuple[str, ...]
    splits: tuple[SplitLayout, ...]
    palette: tuple[tuple[Colour, int | None], ...] = ()
    values: tuple[tuple[int, int | None], ...] = ()
    tolerance: int = 0
    indices: bool = False
    mask_band: int = 1
    stacked: tuple[int, int] | None = None
    gsd: float | None = None
    protocol: str | None = None
    group: str | None = None
    tile_id: str | None = None
    torchgeo: Mapping[str, Any] = field(default_factory=dict)


def archive_names() -> list[str]:
    """The data sets that can be imported."""
    folder = files("s5.data.importing").joinpath("archives")
    return sorted(entry.name.removesuffix(".yml") for entry in folder.iterdir() if entry.name.endswith(".yml"))


@cache
def describe_archive(name: str) -> Archive:
    """The description of a data set.

    Raises:
        ValueError: there is none of this name, or its file is wrong.
    """
    if name not in archive_names():
        raise ValueError(f"name: expected one of {', '.join(archive_names())}, got {name!r}")
    text = files("s5.data.importing").joinpath("archives", f"{name}.yml").read_text(encoding="utf-8")
    return read_description(name, yaml.safe_load(text))


def read_description(name: str, given: Mapping[str, Any]) -> Archive:
    """An archive from the values of its YAML file.

    Raises:
        ValueError: a key that is not known, or colours that the tolerance makes ambiguous.
    """
    keys = {f.name for f in fields(Archive)} - {"name", "labels"} | {"classes", "background"}
    _refuse_unknown(given, keys, name)
    labels = LabelSpace(tuple(given["classes"]), 255, given.get("background")) if "classes" in given else None
    palette = tuple((colour, _index(key, labels)) for key, colours in given.get("palette", {}).items()
                    for colour in _colours(colours))  # fmt: skip
    _check_palette(name, [colour for colour, _ in palette], given.get("tolerance", 0))
    stacked = given.get("stacked")
    return Archive(
        name=name,
        title=given["title"],
        home=given["home"],
        labels=labels,
        bands=tuple(given["bands"]),
        splits=tuple(_split(key, values, name) for key, values in given["splits"].items()),
        palette=palette,
        values=tuple((int(value), _index(key, labels)) for value, key in given.get("values", {}).items()),
        tolerance=given.get("tolerance", 0),
        indices=given.get("indices", False),
        mask_band=given.get("mask_band", 1),
        stacked=None if stacked is None else (stacked["height"], stacked["width"]),
        **{key: given.get(key) for key in ("gsd", "protocol", "group", "tile_id")},
        torchgeo=given.get("torchgeo", {}),
    )


def _split(split: str, given: Mapping[str, Any], name: str) -> SplitLayout:
    if split not in _SPLITS:
        raise ValueError(f"{name}.yml: splits.{split}: expected one of {', '.join(_SPLITS)}")
    _refuse_unknown(given, {f.name for f in fields(SplitLayout)} - {"name"}, f"{name}.yml: splits.{split}")
    images = given.get("images", ())
    return SplitLayout(
        name=split,
        sources=tuple(_source(source) for source in given["sources"]),
        only=tuple((key, tuple(values)) for key, values in given.get("only", {}).items()),
        tiling=Tiling(**given["tiling"]) if "tiling" in given else None,
        images=(images,) if isinstance(images, int) else tuple(images),
        **{key: given[key] for key in ("together", "listed_in", "tiles", "optional", "with_masks") if key in given},
    )


def _source(given: Mapping[str, Any]) -> Source:
    masks, eroded = (tuple(Pattern(text) for text in given.get(key, ())) for key in ("masks", "eroded"))
    return Source(Pattern(given["images"]), masks, eroded)


def _index(name: str, labels: LabelSpace | None) -> int | None:
    if name == IGNORE:
        return None
    assert labels is not None
    return labels.classes.index(name)


def _colours(given: list[Any]) -> list[Colour]:
    several = given if isinstance(given[0], list) else [given]
    return [(red, green, blue) for red, green, blue in several]


def _check_palette(name: str, colours: list[Colour], tolerance: int) -> None:
    for place, one in enumerate(colours):
        for other in colours[:place]:
            apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
            if apart <= 2 * tolerance:
                raise ValueError(
                    f"{name}: colours {list(other)} and {list(one)} are {apart} apart, and a tolerance of {tolerance} "
                    f"does not tell them from each other; take at most {(apart - 1) // 2}"
                )


def _refuse_unknown(given: Mapping[str, Any], known: set[str], at: str) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{at}: {unknown[0]}: unknown key; known are {', '.join(sorted(known))}")
