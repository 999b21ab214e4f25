"""From raw pixels and masks to what an eye can judge: stretched RGB and coloured label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s5.report.palette import IGNORED, to_rgb
from s5.types import BandStatistics

_VISIBLE = (("red", "r"), ("green", "g"), ("blue", "b"))


def display_rgb(
    image_CHW: NDArray[np.generic],
    statistics: BandStatistics | None = None,
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """An 8-bit RGB picture of an image of any type and number of bands.

    Red, green and blue are found by band name where `statistics` names them, else the first three bands are taken;
    one band gives grey. 8-bit images are shown as they are. Others are stretched over `low`..`high`, else over 2.5
    standard deviations around the data set's mean, so that tiles can be compared, else over their own 2nd to
    98th percentile.

    Args:
        image_CHW: [C, H, W], any real dtype, raw units.
        statistics: Of the data set, all C bands.
        low: Raw value shown as black, a value a band; needs `high`.
        high: Raw value shown as white, a value a band; needs `low`.
        valid: [H, W]; what is not valid is shown in grey.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: the image is not [C, H, W], or only one of `low` and `high` is given.
    """
    if image_CHW.ndim != 3 or image_CHW.shape[0] == 0:
        raise ValueError(f"display_rgb: expected an image [C, H, W] with C >= 1, got shape {image_CHW.shape}")
    if (low is None) != (high is None):
        raise ValueError("display_rgb: give both low and high, or neither")
    bands = _shown_bands(image_CHW.shape[0], statistics)
    shown = image_CHW[bands].astype(np.float64)
    lows, highs = _limits(image_CHW, bands, statistics, low, high, valid)
    span = np.where(highs > lows, highs - lows, 1.0)
    scaled = (shown - lows[:, None, None]) / span[:, None, None]
    picture = np.nan_to_num(np.clip(scaled, 0.0, 1.0), nan=0.0)
    rgb: NDArray[np.uint8] = np.round(picture * 255).astype(np.uint8).transpose(1, 2, 0)
    if valid is not None:
        rgb[~valid] = to_rgb(IGNORED)
    return rgb


def color_mask(mask_HW: NDArray[np.integer], colors: Sequence[str]) -> NDArray[np.uint8]:
    """Class indices as their colours, uint8 [H, W, 3]; any value that is no class is grey."""
    table = np.full((256, 3), to_rgb(IGNORED), dtype=np.uint8)
    for index, color in enumerate(colors):
        table[index] = to_rgb(color)
    inside = (mask_HW >= 0) & (mask_HW < len(colors))
    painted: NDArray[np.uint8] = table[np.where(inside, mask_HW, 255)]
    return painted


def _shown_bands(count: int, statistics: BandStatistics | None) -> list[int]:
    if statistics is not None and len(statistics.bands) == count:
        names = [name.lower() for name in statistics.bands]
        found = [next((names.index(n) for n in wanted if n in names), None) for wanted in _VISIBLE]
        if None not in found:
            return [index for index in found if index is not None]
    if count >= 3:
        return [0, 1, 2]
    return [0, 0, 0] if count == 1 else [0, 1, 1]


def _limits(
    image: NDArray[np.generic],
    bands: list[int],
    statistics: BandStatistics | None,
    low: Sequence[float] | None,
    high: Sequence[float] | None,
    valid: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw values of black and white for the shown bands."""
    if low is not None and high is not None:
        return np.asarray(low, dtype=np.float64)[bands], np.asarray(high, dtype=np.float64)[bands]
    if image.dtype == np.uint8:
        return np.zeros(3), np.full(3, 255.0)
    if statistics is not None and len(statistics.bands) == image.shape[0]:
        lows, highs, means, stds = (
            np.asarray(getattr(statistics, name), dtype=np.float64)[bands] for name in ("low", "high", "mean", "std")
        )
        black = np.maximum(means - 2.5 * stds, 0.0)
        white = np.maximum(np.minimum(means + 2.5 * stds, 1.0), black + 1e-6)
        return lows + black * (highs - lows), lows + white * (highs - lows)
    return _percentiles(image[bands], valid)


def _percentiles(
    shown: NDArray[np.generic], valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lows, highs = np.zeros(3), np.ones(3)
    for band, values in enumerate(shown.astype(np.float64)):
        usable = np.isfinite(values) if valid is None else np.isfinite(values) & valid
        if usable.any():
            lows[band], highs[band] = np.percentile(values[usable], [2, 98])
    return lows, highs
