"""`val` and `test` cut from `labeled` where a card leaves them out: by place, never at random over neighbours."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)

_TILES_PER_BLOCK = 4  # along a side, where block_size is not given
_ENOUGH_BLOCKS = 10  # so that shares of 20 % can be met
_DRAWS = 64
_STRIPS = 6


@dataclass(frozen=True)
class Cut:
    """A manifest with its splits, and the tiles left out because they show what is held out."""

    manifest: pd.DataFrame
    left_out: pd.DataFrame


def with_groups(manifest: pd.DataFrame, files: Mapping[str, str], block_size: float | None) -> pd.DataFrame:
    """Fill `group` where the card gives none: a spatial block where a tile is georeferenced, else its file.

    Args:
        manifest: With footprints in EPSG:4326.
        files: The group of each image that lies nowhere.
        block_size: Side of a block in metres. By default four tiles of the labelled images, and half of that as long
            as it leaves fewer than ten labelled blocks, down to one tile.
    """
    from s5.geo.footprints import block_names  # s5.data stays light to import

    geometries = list(manifest["geometry"])
    size = block_size or _default_block_size(manifest)
    blocks = [None] * len(geometries) if size is None else block_names(geometries, size)
    groups = [
        given or block or files[image]
        for given, block, image in zip(manifest["group"], blocks, manifest["image"], strict=True)
    ]
    return manifest.assign(group=groups)


def warn_of_neighbours(manifest: pd.DataFrame, missing: Mapping[str, float]) -> None:
    """Say so where splits are cut by file, since files that lie nowhere may well be neighbours."""
    labeled = manifest[manifest["split"] == "labeled"]
    if bool(labeled["geometry"].isna().any()):
        _LOG.warning(
            "%s cut from 'labeled' by whole files: they are not georeferenced, and files of one place may come to lie "
            "on both sides; say with 'group' in the card which belong together, or give the splits",
            " and ".join(missing),
        )


def cut_splits(
    manifest: pd.DataFrame,
    shares: Mapping[str, float],
    class_pixels: npt.NDArray[np.int64],
    *,
    seed: int,
    may_divide: bool = True,
) -> Cut:
    """Move whole groups of labelled tiles to the splits that are missing.

    Of 64 draws of groups the one is taken whose splits come nearest to their shares and to the class proportions of
    all labelled tiles. What else shows a held-out place is left out: labelled and noisy tiles in a held-out group or
    over a held-out tile, and unlabelled tiles where that is a test tile, since a score is of places never seen.

    Args:
        manifest: With `group` filled.
        shares: Share of the labelled tiles for each missing split, in (0, 1).
        class_pixels: [N, K] pixels of each class in the rows of `manifest`.
        seed: Draws the groups.
        may_divide: Where there are fewer groups than splits, divide each image into strips, with a warning.

    Raises:
        ValueError: there are fewer groups than splits.
    """
    labeled = np.flatnonzero((manifest["split"] == "labeled").to_numpy())
    groups = manifest["group"].to_numpy(dtype=object)
    needed = len(shares) + 1
    if may_divide and len(set(groups[labeled])) < needed:
        groups[labeled] = _strips(manifest.iloc[labeled], needed)
    names, members = np.unique(groups[labeled].astype(str), return_inverse=True)
    if len(names) < needed:
        raise ValueError(
            f"the {len(labeled)} labelled tiles lie in {len(names)} groups, too few to cut {' and '.join(shares)} from "
            "them; give these splits in the card, label more, or make ingestion.block_size or tile_size smaller"
        )
    choice = _choose(members, len(names), list(shares.values()), class_pixels[labeled], seed)
    split = manifest["split"].to_numpy(dtype=object)
    for number, name in enumerate(shares):
        split[labeled[choice[members] == number]] = name
    manifest = manifest.assign(split=split.astype(str), group=groups.astype(str))
    for name in shares:
        _LOG.info("split '%s': %d tiles cut from 'labeled' by group", name, int((split == name).sum()))
    return _without_held_out(manifest, list(shares))


def _default_block_size(manifest: pd.DataFrame) -> float | None:
    from s5.geo.footprints import block_names, ground_size

    labeled = manifest[manifest["split"] == "labeled"]
    known = [g for g in (labeled if len(labeled) else manifest)["geometry"] if g is not None]
    if not known:
        return None
    tile = float(np.median([ground_size(footprint) for footprint in known]))
    size = _TILES_PER_BLOCK * tile
    while size > tile and len(set(block_names(known, size))) < _ENOUGH_BLOCKS:
        size /= 2
    return math.ceil(size)


def _strips(labeled: pd.DataFrame, needed: int) -> npt.NDArray[np.object_]:
    """Strips of whole tile rows or columns of each image, for data with too few places to hold any out."""
    _LOG.warning(
        "'labeled' has only %d groups: val and test are cut from the same images in strips, and tiles on both "
        "sides of a cut are neighbours; give 'val' and 'test' in the card for a fair score",
        labeled["group"].nunique(),
    )  # fmt: skip
    names = np.empty(len(labeled), dtype=object)
    for image, places in labeled.groupby("image", sort=False).indices.items():
        tiles = labeled.iloc[places]
        axis = "row" if tiles["row"].nunique() >= tiles["col"].nunique() else "col"
        starts, position = np.unique(tiles[axis].to_numpy(), return_inverse=True)
        number = min(len(starts), max(needed, _STRIPS))
        names[places] = [f"{image} strip {place * number // len(starts)}" for place in position]
    return names


def _choose(
    members: npt.NDArray[np.int64], num_groups: int, shares: Sequence[float], pixels: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.int64]:
    """The split of each group: its number in `shares`, or -1 for those that stay."""
    tiles = np.bincount(members, minlength=num_groups).astype(np.float64)
    by_group = np.zeros((num_groups, pixels.shape[1]))
    np.add.at(by_group, members, pixels)
    generator = np.random.default_rng(seed)
    draws = [_draw(generator.permutation(num_groups), tiles, shares) for _ in range(_DRAWS)]
    costs = [_cost(draw, tiles, by_group, shares) for draw in draws]
    return draws[int(np.argmin(costs))]


def _draw(
    order: npt.NDArray[np.int64], tiles: npt.NDArray[np.float64], shares: Sequence[float]
) -> npt.NDArray[np.int64]:
    choice = np.full(len(order), -1, dtype=np.int64)
    position = 0
    for number, share in enumerate(shares):
        limit = len(order) - (len(shares) - number)  # leaves a group to each later split and to labeled
        taken = 0.0
        while position < limit and (taken == 0 or taken + tiles[order[position]] / 2 <= share * tiles.sum()):
            choice[order[position]] = number
            taken += tiles[order[position]]
            position += 1
    return choice


def _cost(
    choice: npt.NDArray[np.int64], tiles: npt.NDArray[np.float64], pixels: npt.NDArray[np.float64],
    shares: Sequence[float],
) -> float:  # fmt: skip
    whole = pixels.sum(axis=0) / max(pixels.sum(), 1.0)
    cost = 0.0
    for number, share in [*enumerate(shares), (-1, 1.0 - sum(shares))]:
        mine = choice == number
        own = pixels[mine].sum(axis=0)
        cost += float(np.abs(own / max(own.sum(), 1.0) - whole).sum())
        # A class that a split lacks altogether cannot be learnt or judged there.
        cost += float(((own == 0) & (whole > 0)).sum())
        cost += 2.0 * abs(float(tiles[mine].sum() / tiles.sum()) - share)
    return cost


def _without_held_out(manifest: pd.DataFrame, held_out: Sequence[str]) -> Cut:
    left_out = np.zeros(len(manifest), dtype=np.bool_)
    for splits, held in ((("labeled", "noisy"), held_out), (("unlabeled",), {"test"} & set(held_out))):
        places = np.flatnonzero(manifest["split"].isin(splits).to_numpy())
        left_out[places] = _shows(manifest.iloc[places], manifest[manifest["split"].isin(held)])
    return Cut(manifest[~left_out], manifest[left_out])


def _shows(tiles: pd.DataFrame, held: pd.DataFrame) -> npt.NDArray[np.bool_]:
    from s5.geo.footprints import overlapping

    same_group: npt.NDArray[np.bool_] = tiles["group"].isin(held["group"]).to_numpy()
    over = overlapping(list(tiles["geometry"]), list(held["geometry"]))
    return same_group | over | _overlapping_windows(tiles, held)


def _overlapping_windows(candidates: pd.DataFrame, others: pd.DataFrame) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(candidates), dtype=np.bool_)
    places = candidates.groupby("image", sort=False).indices
    for image, tiles in others.groupby("image", sort=False):
        if image not in places:
            continue
        mine = candidates.iloc[places[image]]
        a, b = (table[["row", "col", "height", "width"]].to_numpy(dtype=np.int64) for table in (mine, tiles))
        rows = (a[:, None, 0] < b[:, 0] + b[:, 2]) & (b[:, 0] < a[:, None, 0] + a[:, None, 2])
        cols = (a[:, None, 1] < b[:, 1] + b[:, 3]) & (b[:, 1] < a[:, None, 1] + a[:, None, 3])
        found[places[image]] = (rows & cols).any(axis=1)
    return found
