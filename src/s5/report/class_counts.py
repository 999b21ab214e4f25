"""How much of each class the labels hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from s5.types import LabelSpace, Window

_LABELLED = ("labeled", "noisy", "val", "test")


def count_classes(
    manifest: pd.DataFrame, labels: LabelSpace, *, splits: Sequence[str] = _LABELLED, max_tiles: int = 300
) -> dict[str, dict[str, int]]:
    """Labelled pixels of each class in each split that has masks.

    Args:
        manifest: A row a tile.
        labels: The classes.
        splits: Which splits are counted.
        max_tiles: At most so many tiles of a split are read, evenly spread over it.
    """
    from s5.geo.raster import read_window

    counted = {}
    for split in splits:
        rows = manifest[(manifest["split"] == split) & manifest["mask"].notna()]
        if rows.empty:
            continue
        places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), max_tiles)).round().astype(int))
        total = np.zeros(256, dtype=np.int64)
        for row in rows.iloc[places].to_dict("records"):
            window = Window(*(int(row[key]) for key in ("row", "col", "height", "width")))
            mask, valid = read_window(Path(str(row["mask"])), window)
            total += np.bincount(mask[0][valid].astype(np.uint8), minlength=256)
        counted[split] = {name: int(total[index]) for index, name in enumerate(labels.classes)}
    return counted
