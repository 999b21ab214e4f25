"""Tiles that no selection should look at: nodata, saturation, blur, haze, and copies by perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.nn import functional

from s5.data.loader import TileSource, read_ahead
from s5.progress import progress
from s5.types import BandStatistics

_PATCH = 15  # pixels, the dark channel's patch in He et al. 2009
_HASH_BITS = 64
_READ_AT_ONCE = 64


@dataclass(frozen=True)
class QualityConfig:
    """Which tiles are left out before anything is selected; None turns a filter off.

    Args:
        max_nodata: Largest share of pixels without data, in [0, 1].
        max_saturated: Largest share of valid pixels that are at the upper end of a band or at the lower of all bands.
        min_sharpness: Least variance of the Laplacian of the brightness, at least 0; a blurred tile has little, but so
            has calm water.
        max_haze: Largest mean dark channel, in [0, 1]; haze and cloud lift it, but so do bright roofs and sand.
        max_hash_distance: Two tiles whose perceptual hashes differ in at most so many of 64 bits are copies, of which
            the first by id is kept; 0 takes equal hashes alone.
    """

    max_nodata: float | None = None
    max_saturated: float | None = None
    min_sharpness: float | None = None
    max_haze: float | None = None
    max_hash_distance: int | None = None

    def __post_init__(self) -> None:
        limits = {"max_nodata": 1.0, "max_saturated": 1.0, "min_sharpness": float("inf"), "max_haze": 1.0}
        for name, most in limits.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise ValueError(f"quality.{name}: expected a number from 0 to {most:g} or null, got {value!r}")
        bits = self.max_hash_distance
        if bits is not None and (
            isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits < _HASH_BITS // 2
        ):
            raise ValueError(
                f"quality.max_hash_distance: expected 0 to {_HASH_BITS // 2 - 1} bits or null, got {bits!r}"
            )


class SizedTiles(TileSource, Protocol):
    """Tiles with an id and a size before padding: `s5.data.tiles.TileReader`, or anything like it."""

    @property
    def tile_ids(self) -> Sequence[str]: ...

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of each tile, [N, 2]."""
        ...


def measure_quality(reader: SizedTiles, statistics: BandStatistics) -> pd.DataFrame:
    """What the filters judge by, of every tile.

    Brightness is the mean of the bands, scaled to [0, 1] by `statistics`.

    Returns:
        A row a tile in the reader's order: ``tile_id``; ``nodata``, ``saturated``, ``sharpness`` and ``haze`` float32,
        NaN where a tile has no valid pixel; ``hash`` uint64.
    """
    low, high = (torch.tensor(values)[:, None, None] for values in (statistics.low, statistics.high))
    sizes = reader.sizes

    def measure(start: int) -> list[tuple[Any, ...]]:
        places = range(start, min(start + _READ_AT_ONCE, len(reader)))
        read_many = getattr(reader, "read_many", None)
        tiles = [reader.read(i) for i in places] if read_many is None else read_many(places)
        found = []
        for place, (image, _, valid) in zip(places, tiles, strict=True):
            height, width = sizes[place].tolist()
            pixels = torch.from_numpy(image[:, :height, :width].astype(np.float32))
            found.append(_measure((pixels - low) / (high - low), torch.tensor(valid[:height, :width])))
        return found

    rows: list[tuple[Any, ...]] = []
    for part in progress(read_ahead(measure, range(0, len(reader), _READ_AT_ONCE), depth=2), "quality", unit="part"):
        rows += part
    columns = ["nodata", "saturated", "sharpness", "haze", "hash"]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[:-1], "float32") | {"hash": "uint64"})
    table.insert(0, "tile_id", list(reader.tile_ids))
    return table


def _measure(image_CHW: torch.Tensor, valid_HW: torch.Tensor) -> tuple[float, float, float, float, int]:
    nodata = 1 - float(valid_HW.float().mean())
    if nodata == 1:
        return 1.0, float("nan"), float("nan"), float("nan"), 0
    pixels = image_CHW[:, valid_HW]
    ends = (pixels >= 1).any(dim=0) | (pixels <= 0).all(dim=0)
    image_CHW = image_CHW.clamp(0, 1)
    brightness_HW = image_CHW.mean(dim=0)
    # what has no data is as bright as the rest: no edge, no dark patch, no pattern
    brightness_HW = torch.where(valid_HW, brightness_HW, brightness_HW[valid_HW].mean())
    darkest_HW = torch.where(valid_HW, image_CHW.amin(dim=0), torch.inf)
    dark = -functional.max_pool2d(-darkest_HW[None], _PATCH, stride=_PATCH, ceil_mode=True)
    haze = float(dark[dark.isfinite()].mean())
    return nodata, float(ends.float().mean()), _sharpness(brightness_HW, valid_HW), haze, _hash(brightness_HW)


def _sharpness(brightness_HW: torch.Tensor, valid_HW: torch.Tensor) -> float:
    """Variance of the Laplacian where all five pixels are valid; Pech-Pacheco et al. 2000."""

    def inner(map_HW: torch.Tensor) -> list[torch.Tensor]:
        return [map_HW[1:-1, 1:-1], map_HW[:-2, 1:-1], map_HW[2:, 1:-1], map_HW[1:-1, :-2], map_HW[1:-1, 2:]]

    if min(brightness_HW.shape) < 3:
        return float("nan")
    centre, *around = inner(brightness_HW)
    known = torch.stack(inner(valid_HW)).all(dim=0)
    laplacian = (torch.stack(around).sum(dim=0) - 4 * centre)[known]
    return float(laplacian.var(correction=0)) if len(laplacian) else float("nan")


def _hash(brightness_HW: torch.Tensor) -> int:
    """dHash: whether brightness rises from one of 9 x 8 fields to its right neighbour, in 64 bits."""
    fields = functional.adaptive_avg_pool2d(brightness_HW[None], (8, 9))[0]
    rises = (fields[:, 1:] - fields[:, :-1] > 1e-6).flatten().tolist()
    return sum(1 << bit for bit, rise in enumerate(rises) if rise)


def quality_reasons(quality: pd.DataFrame, config: QualityConfig) -> pd.Series[str]:
    """Why each tile is left out, an empty string where it is not; indexed by tile id.

    Args:
        quality: As `measure_quality` gives it.
        config: The thresholds. The first that a tile fails is its reason; copies are looked for among the others.
    """
    reasons = np.full(len(quality), "", dtype=object)
    filters = (
        ("nodata", "nodata", config.max_nodata, "at most"),
        ("saturated", "saturated", config.max_saturated, "at most"),
        ("blurred", "sharpness", config.min_sharpness, "at least"),
        ("hazy", "haze", config.max_haze, "at most"),
    )
    for text, column, limit, side in filters:
        if limit is None:
            continue
        values = quality[column].to_numpy(dtype=np.float64)
        failed = (values > limit if side == "at most" else values < limit) & (reasons == "")
        reasons[failed] = [f"{text} ({value:.4g}, {side} {limit:g})" for value in values[failed]]
    if config.max_hash_distance is not None:
        left = quality[(reasons == "") & (quality["nodata"] < 1).to_numpy()].sort_values("tile_id")
        found = copies(left, config.max_hash_distance)
        for place in np.flatnonzero(quality["tile_id"].isin(found)):
            reasons[place] = f"copy by perceptual hash (of {found[str(quality['tile_id'].iloc[place])]})"
    return pd.Series(reasons, index=quality["tile_id"].astype(str))


def copies(quality: pd.DataFrame, max_distance: int) -> dict[str, str]:
    """Tile id -> the earlier tile that it is a copy of, going through the rows in order.

    Hashes that differ in at most d bits agree in one of d + 1 groups of bits: only those are compared.
    """
    groups = max_distance + 1
    masks = [sum(1 << bit for bit in range(group, _HASH_BITS, groups)) for group in range(groups)]
    kept: list[dict[int, list[int]]] = [{} for _ in masks]
    owner: dict[int, str] = {}
    found: dict[str, str] = {}
    for tile, value in zip(quality["tile_id"].astype(str), (int(v) for v in quality["hash"]), strict=True):
        alike = value if value in owner else None
        if alike is None and max_distance:
            near = (h for mask, known in zip(masks, kept, strict=True) for h in known.get(value & mask, ())
                    if (h ^ value).bit_count() <= max_distance)  # fmt: skip
            alike = next(near, None)
        if alike is not None:
            found[tile] = owner[alike]
            continue
        owner[value] = tile
        for mask, known in zip(masks, kept, strict=True):
            known.setdefault(value & mask, []).append(value)
    return found
