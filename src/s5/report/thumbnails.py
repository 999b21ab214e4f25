"""Small pictures of tiles by id."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from s5.report.display import display_rgb
from s5.types import BandStatistics

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_SIDE = 160


def read_thumbnails(
    manifest: pd.DataFrame,
    tile_ids: Sequence[str],
    *,
    statistics: BandStatistics | Mapping[str, Any] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Pictures of tiles, uint8 [H, W, 3] of at most about 160 pixels a side.

    A tile that cannot be read is left out with a warning: a picture is no reason to lose a report.

    Args:
        manifest: A row a tile.
        tile_ids: Which ones.
        statistics: Of the data set's bands; without it each image is asked how many bands it has.
    """
    known = manifest.drop_duplicates("tile_id").set_index("tile_id", drop=False)
    rows = known.loc[[tile for tile in tile_ids if tile in known.index]]
    scaling = BandStatistics.from_dict(statistics) if isinstance(statistics, Mapping) else statistics
    pictures: dict[str, NDArray[np.uint8]] = {}
    for position in range(len(rows)):
        row = rows.iloc[[position]]
        try:
            pictures[str(row["tile_id"].iloc[0])] = _thumbnail(row, scaling)
        except (OSError, ValueError, RuntimeError) as error:
            _log.warning("No picture of tile %s: %s", row["tile_id"].iloc[0], error)
    return pictures


def _thumbnail(row: pd.DataFrame, statistics: BandStatistics | None) -> NDArray[np.uint8]:
    from s5.data.tiles import TileReader

    height, width = int(row["height"].iloc[0]), int(row["width"].iloc[0])
    bands = _count_bands(str(row["image"].iloc[0])) if statistics is None else len(statistics.bands)
    reader = TileReader(row.assign(mask=None), bands=bands, size=max(height, width))
    image, _, valid = reader.read(0)
    step = max(1, max(height, width) // _SIDE)
    image, valid = image[:, :height:step, :width:step], valid[:height:step, :width:step]
    return display_rgb(image, statistics, valid=valid)


def _count_bands(path: str) -> int:
    from s5.geo.raster import describe

    return describe(Path(path)).bands
