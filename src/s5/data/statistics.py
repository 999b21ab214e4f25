"""Band statistics: how raw values become network inputs, estimated once and stored with the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s5.data.manifest import window_of
from s5.progress import progress
from s5.types import BandStatistics

if TYPE_CHECKING:
    import pandas as pd

_TRAINING_SPLITS = ("labeled", "unlabeled", "noisy")
_PIXELS_PER_TILE = 4096
_PERCENTILES = (0.5, 99.5)  # of what is neither 8-bit nor given a scale: haze, glint and bad pixels lie outside
_LEAST_STD = 1e-3  # of a scaled band; a constant band says nothing, and must not be blown up


def estimate_statistics(
    manifest: pd.DataFrame, bands: tuple[str, ...], *, scale: float | None, samples: int, seed: int
) -> BandStatistics:
    """Statistics of the valid pixels of a sample of tiles that a model may learn from.

    8-bit images are scaled from 0..255, images with a `scale` from 0..scale, others from their 0.5 to their 99.5
    percentile, band by band. Where there is nothing to learn from, the tiles of all splits count.

    Args:
        manifest: Tiles; not empty.
        bands: Names of the bands.
        scale: The card's divisor, in raw units.
        samples: At most this many tiles are read.
        seed: Draws the tiles.
    """
    pixels = _sample(manifest, len(bands), samples, seed)
    if pixels.dtype == np.uint8 and scale is None:
        low, high = np.zeros(len(bands)), np.full(len(bands), 255.0)
    elif scale is not None:
        low, high = np.zeros(len(bands)), np.full(len(bands), scale)
    else:
        low, high = np.percentile(pixels.astype(np.float64), _PERCENTILES, axis=0)
        high = np.where(high > low, high, low + 1.0)
    scaled = (pixels.astype(np.float64) - low) / (high - low)
    return BandStatistics(
        bands=bands,
        low=_floats(low),
        high=_floats(high),
        mean=_floats(scaled.mean(axis=0)),
        std=_floats(np.maximum(scaled.std(axis=0), _LEAST_STD)),
    )


def _sample(manifest: pd.DataFrame, bands: int, samples: int, seed: int) -> npt.NDArray[Any]:
    """Pixels [N, C] in the images' dtype."""
    from s5.geo.raster import read_window  # s5.data stays light to import

    learnable = manifest[manifest["split"].isin(_TRAINING_SPLITS)]
    tiles = (learnable if len(learnable) else manifest).drop_duplicates(["image", "row", "col", "height", "width"])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(tiles))[:samples])
    pixels = []
    rows = list(tiles.iloc[chosen].itertuples())
    for row in progress(rows, "band statistics", unit="tile"):
        image, valid = read_window(Path(str(row.image)), window_of(row), bands=bands)
        found = image[:, valid]
        # Every n-th valid pixel, n not a divisor of common widths, so that the pixels are not of a few columns.
        step = max(1, found.shape[1] // _PIXELS_PER_TILE) | 1
        pixels.append(found[:, ::step].T)
    return np.concatenate(pixels)


def _floats(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
