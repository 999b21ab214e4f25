"""Whole label maps on disk made wrong, and how wrong they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from s5.data.loader import TileSource
from s5.noisy.corruption import CorruptionConfig, corrupt
from s5.seeds import numpy_generator
from s5.types import LabelSpace


def corrupted_masks(
    masks: Iterable[str], config: CorruptionConfig, folder: Path, *, seed: int, labels: LabelSpace
) -> dict[str, str]:
    """Write a corrupted copy of each label map; a scene is corrupted as a whole, so that its tiles agree.

    Args:
        masks: Paths of index rasters, repeated ones once.
        folder: Where the copies go; one that is there is not made again.

    Returns:
        The copy of each map.
    """
    from s5.geo.raster import read_window, write_geotiff

    copies = {}
    for mask in sorted(set(masks)):
        name = hashlib.sha256(mask.encode()).hexdigest()[:12]
        copy = folder / f"{Path(mask).stem}-{name}.tif"
        if not copy.is_file():
            clean = read_window(Path(mask))[0][0].astype(np.uint8)
            rng = numpy_generator(seed, f"corrupt/{config.kind}/{config.rate}/{Path(mask).stem}", 0)
            noisy = corrupt(clean, config, rng, classes=labels.num_classes, ignore_index=labels.ignore_index)
            folder.mkdir(parents=True, exist_ok=True)
            write_geotiff(copy, noisy)
        copies[mask] = str(copy)
    return copies


def disagreement(noisy: TileSource, clean: TileSource, labels: LabelSpace) -> float:
    """The share of pixels, of those labelled in both, whose labels differ; in [0, 1].

    Raises:
        ValueError: the two do not have the same number of tiles.
    """
    if len(noisy) != len(clean):
        raise ValueError(f"disagreement: expected the same tiles twice, got {len(noisy)} and {len(clean)}")
    wrong = known = 0
    for index in range(len(clean)):
        one, other = noisy.read(index)[1], clean.read(index)[1]
        both = (one != labels.ignore_index) & (other != labels.ignore_index)
        wrong, known = wrong + int((one != other)[both].sum()), known + int(both.sum())
    return wrong / max(known, 1)
