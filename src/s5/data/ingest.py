"""Ingestion: a dataset card in; tile manifest, quarantine, band statistics and label space out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from s5.data.card import DatasetCard, load_card
from s5.data.checking import CheckedImage, ImageCheck, TilingRule, check_all
from s5.data.listing import Entry, Rejected, list_split, relative_to_card, warn_of_leaks
from s5.data.manifest import build_manifest, ordered, quarantine_table
from s5.data.split import cut_splits, warn_of_neighbours, with_groups
from s5.data.statistics import estimate_statistics
from s5.progress import progress
from s5.types import BandStatistics, LabelSpace

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)


class IngestionError(ValueError):
    """A dataset of which nothing usable is left."""


@dataclass(frozen=True)
class IngestionConfig:
    """How a dataset is cut into tiles and splits.

    Args:
        tile_size: Height and width of a tile in pixels.
        stride: From one tile to the next in pixels, 1..tile_size; `tile_size` by default. Tiles of `val` and `test`,
            and of `labeled` where they are cut from it, never overlap: every pixel counts once.
        min_valid_share: Least share of pixels with data in a tile, 0..1; a tile without any is never used.
        val_share: Share of the labelled tiles that become `val` where the card has none, 0..1; 0 makes none.
        test_share: The same for `test`.
        block_size: Side of the spatial blocks that are held out, in metres; by default four tiles, or less in a small
            area.
        statistics_samples: Number of tiles that the band statistics are estimated on.
    """

    tile_size: int = 256
    stride: int | None = None
    min_valid_share: float = 0.0
    val_share: float = 0.2
    test_share: float = 0.2
    block_size: float | None = None
    statistics_samples: int = 256

    def __post_init__(self) -> None:
        for name in ("tile_size", "statistics_samples"):
            _check(name, getattr(self, name), "a whole number of at least 1", whole=True, least=1)
        if self.stride is not None:
            _check("stride", self.stride, f"1..tile_size ({self.tile_size})", whole=True, least=1, most=self.tile_size)
        for name in ("min_valid_share", "val_share", "test_share"):
            _check(name, getattr(self, name), "a share in 0..1", least=0, most=1)
        if self.val_share + self.test_share >= 1:
            raise ValueError(
                f"ingestion.val_share + test_share: {self.val_share} + {self.test_share} leaves nothing of 'labeled'; "
                "make them smaller"
            )
        if self.block_size is not None:
            _check("block_size", self.block_size, "metres over 0", least=1e-9)


def _check(
    name: str, value: object, expected: str, *, whole: bool = False, least: float = 0, most: float = np.inf
) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= float(value) <= most:
        raise ValueError(f"ingestion.{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class Ingested:
    """What an ingestion leaves: `manifest` and `quarantine` are tables, described in `s5.data.manifest`."""

    manifest: pd.DataFrame
    quarantine: pd.DataFrame
    statistics: BandStatistics
    labels: LabelSpace
    card: DatasetCard


def ingest(card_path: Path | str, config: IngestionConfig, *, seed: int, work_dir: Path) -> Ingested:
    """Check every file of a dataset to its last pixel and cut what is usable into tiles.

    Args:
        card_path: The dataset card.
        config: Tiling and splits.
        seed: Draws the held-out groups and the sample of the statistics.
        work_dir: Index rasters made of vector, colour and legend masks go to ``masks`` in here.

    Raises:
        FileNotFoundError, CardError: the card cannot be used.
        IngestionError: nothing is left of a split; the message counts the reasons.
    """
    card = load_card(card_path)
    missing = _missing_splits(card, config)
    images, rejected = _check_files(card, config, work_dir.absolute() / "masks", cutting=bool(missing))
    _need_every_split(card, {image.entry.split for image in images}, rejected)
    manifest = build_manifest(card, images)
    given_groups = bool((manifest.loc[manifest["split"] == "labeled", "group"] != "").any())
    files = {str(i.entry.image): relative_to_card(card, i.entry.image) for i in images}
    manifest = with_groups(manifest, files, config.block_size)
    if missing:
        if not given_groups:
            warn_of_neighbours(manifest, missing)
        try:
            cut = cut_splits(
                manifest, missing, _class_pixels(manifest, images), seed=seed,
                may_divide=not given_groups and config.block_size is None,
            )  # fmt: skip
        except ValueError as error:
            raise IngestionError(f"{card.path.name}: {error}") from error
        manifest = ordered(cut.manifest)
        rejected += _left_out(card, cut.left_out)
        _need_every_split(card, set(manifest["split"]), rejected)
    statistics = estimate_statistics(
        manifest, card.bands, scale=card.scale, samples=config.statistics_samples, seed=seed
    )
    quarantine = quarantine_table(rejected)
    _LOG.info(
        "%s: %d tiles (%s), %d files in quarantine",
        card.name, len(manifest), _counted(manifest["split"]), len(quarantine),
    )  # fmt: skip
    return Ingested(manifest, quarantine, statistics, card.labels, card)


def _missing_splits(card: DatasetCard, config: IngestionConfig) -> dict[str, float]:
    if "labeled" not in card.splits:
        return {}
    shares = {"val": config.val_share, "test": config.test_share}
    return {name: share for name, share in shares.items() if name not in card.splits and share > 0}


def _check_files(
    card: DatasetCard, config: IngestionConfig, mask_folder: Path, *, cutting: bool
) -> tuple[list[CheckedImage], list[Rejected]]:
    entries: dict[str, list[Entry]] = {}
    rejected: list[Rejected] = []
    for name, source in card.splits.items():
        entries[name], unlisted = list_split(card, source)
        rejected += unlisted
    warn_of_leaks([entry for of_split in entries.values() for entry in of_split])
    images = []
    for name, of_split in entries.items():
        once = name in {"val", "test"} or (name == "labeled" and cutting)
        rule = TilingRule(config.tile_size, config.stride or config.tile_size, once, config.min_valid_share)
        results = check_all(ImageCheck(card, rule, mask_folder), of_split)
        for checked in progress(results, f"check {name}", total=len(of_split), unit="image"):
            rejected += checked.rejected
            if checked.image is not None:
                images.append(checked.image)
    return _of_one_dtype(card, images, rejected), rejected


def _of_one_dtype(card: DatasetCard, images: list[CheckedImage], rejected: list[Rejected]) -> list[CheckedImage]:
    """Images of the commonest dtype: bytes and reflectances have no statistics in common."""
    counts = Counter(image.info.dtype for image in images)
    if len(counts) < 2:
        return images
    dtype, number = counts.most_common(1)[0]
    for image in images:
        if image.info.dtype != dtype:
            reason = (
                f"{card.shown(image.entry.image)}: holds {image.info.dtype} where {number} other images hold {dtype}; "
                "convert it to the same units, or give it a card of its own"
            )
            rejected.append(Rejected(image.entry.image, image.entry.split, "dtype", reason))
    return [image for image in images if image.info.dtype == dtype]


def _need_every_split(card: DatasetCard, left: set[str], rejected: Sequence[Rejected]) -> None:
    for name in card.splits:
        if name in left:
            continue
        reasons = [r for r in rejected if r.split == name]
        first = f" The first: {reasons[0].reason}" if reasons else ""
        raise IngestionError(
            f"{card.path.name}: nothing usable is left of split {name!r}: {len(reasons)} files in quarantine "
            f"({_counted([r.kind for r in reasons])}).{first}"
        )


def _counted(names: Sequence[str] | pd.Series[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in Counter(names).most_common())


def _class_pixels(manifest: pd.DataFrame, images: Sequence[CheckedImage]) -> npt.NDArray[np.int64]:
    """[N, K] pixels of each class in the rows of the manifest."""
    found = {
        (image.entry.split, str(image.entry.image), window.row, window.col): pixels
        for image in images
        for window, pixels in zip(image.windows, image.class_pixels, strict=True)
    }
    keys = zip(manifest["split"], manifest["image"], manifest["row"], manifest["col"], strict=True)
    return np.array([found[key] for key in keys], dtype=np.int64)


def _left_out(card: DatasetCard, left_out: pd.DataFrame) -> list[Rejected]:
    counts = Counter(zip(left_out["split"].astype(str), left_out["image"].astype(str), strict=True))
    rejected = []
    for (split, image), number in counts.items():
        path = Path(image)
        reason = f"{card.shown(path)}: {number} of its tiles lie in or over a held-out place and are left out"
        rejected.append(Rejected(path, split, "held_out", reason))
    return rejected
