"""A scene mapped strip by strip; each strip is a file that is whole or not there, so that a killed run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from s5.data.loader import Batch
from s5.engine import Compute, map_tiles
from s5.files import write_json
from s5.inference.blending import BlendedStrip, BlendGrid, blend
from s5.inference.config import SceneConfig
from s5.inference.predictor import Predict
from s5.inference.source import SceneWindows
from s5.progress import progress
from s5.types import Window

if TYPE_CHECKING:
    from s5.geo.cog import Strip

NODATA = 255
STEPS = 250
"""Probabilities, confidence and entropy are stored as whole numbers of 1 / STEPS."""

_DAMAGED = "damaged_{}.json"  # one for each process
_ROWS_AT_ONCE = 16

Outputs = tuple[list[bool], Tensor | None, Tensor | None]


def map_strips(
    image: str | Path,
    folder: Path,
    grid: BlendGrid,
    predict: Predict,
    *,
    bands: int,
    classes: int,
    config: SceneConfig,
    compute: Compute,
    share: tuple[int, int] = (0, 1),
) -> tuple[list[Strip], list[Window]]:
    """Map the strips of a scene that `folder` does not hold yet.

    Several processes may work in one folder, each with its own share: a strip's values depend neither on where a part
    begins nor on who maps it.

    Args:
        image: The scene.
        folder: Where the strips lie: GeoTIFFs of uint8 with the bands class, confidence, then entropy and the
            probability of each class where `config` wants them.
        grid: The windows.
        predict: Raw windows to probabilities.
        bands: Of the scene.
        classes: K.
        config: Batches, threads, and what is kept.
        compute: Device and precision.
        share: (k, n): map the k-th of n runs of neighbouring strips, from 0.

    Returns:
        All strips, from the top down, also those of other shares, and the blocks of the scene that could not be read.

    Raises:
        FloatingPointError: the network gives NaN.
        OSError: a strip cannot be written, such as on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    strips = strips_of(folder, grid)
    begin, end = (len(strips) * part // share[1] for part in (share[0], share[0] + 1))
    wanted = [begin <= number < end and not strip.path.is_file() for number, strip in enumerate(strips)]
    damaged = _read_damaged(folder)
    with ThreadPoolExecutor(1, thread_name_prefix="strip-writer") as pool:
        writing: Future[None] | None = None
        for first, last in _runs(wanted):
            part = _Part(image, grid, first, last, bands, config.batch_size)
            outputs = _windows(part, predict, config, compute)
            for strip in blend(grid, outputs, channels=classes, first=first, device=compute.device):
                pixels = encode(strip, entropy=config.entropy, probabilities=config.probabilities)
                if new := set(part.source.damaged) - set(damaged):
                    damaged += sorted(new, key=lambda block: (block.row, block.col))
                    write_json(folder / _DAMAGED.format(share[0]), [asdict(block) for block in damaged])
                if writing is not None:
                    writing.result()
                writing = pool.submit(_write, strips[strip.number].path, pixels)
        if writing is not None:
            writing.result()
    return strips, sorted(damaged, key=lambda block: (block.row, block.col))


def strips_of(folder: Path, grid: BlendGrid) -> list[Strip]:
    """The files of all strips, from the top down, there or not."""
    from s5.geo.cog import Strip

    rows = enumerate(grid.strips)
    return [Strip(folder / f"strip_{number:05d}.tif", row, height) for number, (row, height) in rows]


def encode(strip: BlendedStrip, *, entropy: bool = False, probabilities: bool = False) -> np.ndarray:
    """A blended strip as it is stored: uint8 [bands, h, W], `NODATA` where there is no data."""
    channels, height, width = strip.scores.shape
    extra = int(entropy) + (channels if probabilities else 0)
    out = torch.empty(2 + extra, height, width, dtype=torch.uint8, device=strip.scores.device)
    for start in range(0, height, _ROWS_AT_ONCE):  # in pieces, so that they take little memory
        rows = slice(start, min(start + _ROWS_AT_ONCE, height))
        scores = strip.scores[:, rows]
        best, classes = scores.max(0)
        out[0, rows], out[1, rows] = classes.to(torch.uint8), _stored(best)
        if entropy:
            out[2, rows] = _stored(torch.special.entr(scores.clamp_min(0)).sum(0) / math.log(channels))
        if probabilities:
            out[2 + int(entropy) :, rows] = _stored(scores)
        if not bool(torch.isfinite(best).all()):
            raise FloatingPointError(
                "scene: the network gives values that are not finite; check the model, or use compute.precision=fp32"
            )
    out.masked_fill_(~strip.valid, NODATA)
    return out.cpu().numpy()


def _stored(share: Tensor) -> Tensor:
    return (share * STEPS).round().clamp(0, STEPS).to(torch.uint8)


def _write(path: Path, pixels: np.ndarray) -> None:
    from s5.geo.raster import write_geotiff

    write_geotiff(path, pixels, compress="zstd")


def _read_damaged(folder: Path) -> list[Window]:
    files = sorted(folder.glob(_DAMAGED.format("*")))
    return sorted(
        {Window(**block) for file in files for block in json.loads(file.read_text(encoding="utf-8"))},
        key=lambda block: (block.row, block.col),
    )


def _runs(wanted: list[bool]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours that are wanted."""
    start = None
    for number, is_wanted in enumerate([*wanted, False]):
        if is_wanted and start is None:
            start = number
        elif not is_wanted and start is not None:
            yield start, number - 1
            start = None


class _Part:
    """The windows that some strips need, in batches whose boundaries do not depend on where the part begins."""

    def __init__(self, image: str | Path, grid: BlendGrid, first: int, last: int, bands: int, batch_size: int) -> None:
        across = len(grid.cols)
        self.start, self.stop = grid.first_row_for(first) * across, (last + 1) * across
        self.begin = self.start // batch_size * batch_size
        end = -(-self.stop // batch_size) * batch_size
        self.source = SceneWindows(image, grid.windows[self.begin : end], bands=bands)


def _windows(
    part: _Part, predict: Predict, config: SceneConfig, compute: Compute
) -> Iterator[tuple[int, Tensor | None, Tensor | None]]:
    """Number, scores and valid pixels of each window of a part."""
    batches = _batches(part.source, predict, config, compute)
    total = -(-len(part.source) // config.batch_size)
    for batch, (kept, scores, valid) in progress(batches, Path(part.source.image).stem, total=total):
        place = 0
        for index, is_kept in zip(batch.indices, kept, strict=True):
            number = part.begin + index
            if part.start <= number < part.stop:
                has_data = is_kept and scores is not None and valid is not None
                yield (number, scores[place], valid[place]) if has_data else (number, None, None)  # type: ignore[index]
            place += is_kept


def _batches(
    source: SceneWindows, predict: Predict, config: SceneConfig, compute: Compute
) -> Iterable[tuple[Batch, Outputs]]:
    def run(batch: Batch) -> Outputs:
        kept = batch.valid.flatten(1).any(1)
        if not bool(kept.any()):
            return kept.tolist(), None, None
        images, valid = (batch.images, batch.valid) if bool(kept.all()) else (batch.images[kept], batch.valid[kept])
        return kept.tolist(), predict(compute.to_device(images)), compute.to_device(valid)

    return map_tiles(run, source, batch_size=config.batch_size, compute=compute, read_threads=config.read_threads)
