from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from s5.report import count_classes
from s5.types import LabelSpace


def test_counts_are_those_of_the_masks(world: pd.DataFrame, labels: LabelSpace) -> None:
    counted = count_classes(world, labels)
    assert set(counted) == {"labeled", "val", "test"}
    masks = [np.array(Image.open(path)) for path in world.loc[world["split"] == "val", "mask"]]
    expected = np.bincount(np.stack(masks).ravel(), minlength=5)
    assert list(counted["val"].values()) == expected.tolist()


def test_a_window_counts_its_own_pixels(world: pd.DataFrame, labels: LabelSpace) -> None:
    first = world[world["split"] == "test"].head(1).assign(row=10, col=20, height=30, width=40)
    expected = np.bincount(np.array(Image.open(first["mask"].iloc[0]))[10:40, 20:60].ravel(), minlength=5)
    assert list(count_classes(first, labels)["test"].values()) == expected.tolist()


def test_large_splits_are_sampled(world: pd.DataFrame, labels: LabelSpace) -> None:
    assert sum(count_classes(world, labels, splits=["labeled"], max_tiles=2)["labeled"].values()) == 2 * 96 * 96
