"""A small dataset on disk that a tiny network learns in seconds: colour tells the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s5.data.loader import SegmentationData
from s5.types import BandStatistics, LabelSpace

COLOURS = np.array([[200, 60, 50], [60, 180, 70], [50, 70, 190]], np.uint8)


def write_tile(folder: Path, name: str, rng: np.random.Generator, size: int = 32) -> tuple[Path, Path]:
    from s5.geo.raster import write_geotiff  # absent on a bare GPU machine, where the gpu tests run

    mask = np.kron(rng.integers(0, 3, (size // 8, size // 8)), np.ones((8, 8))).astype(np.uint8)
    image = COLOURS[mask].transpose(2, 0, 1) + rng.integers(-40, 40, (3, size, size))
    image_path, mask_path = folder / f"{name}.tif", folder / f"{name}_mask.tif"
    write_geotiff(image_path, image.clip(1, 255).astype(np.uint8))
    write_geotiff(mask_path, mask)
    return image_path, mask_path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    import pandas as pd

    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    rows = []
    for split, count in {"labeled": 4, "unlabeled": 6, "val": 3, "test": 3}.items():
        for i in range(count):
            image, mask = write_tile(folder, f"{split}_{i}", rng)
            rows.append((f"{split}_{i}", split, str(image), str(mask), 0, 0, 32, 32))
    manifest = pd.DataFrame(rows, columns=["tile_id", "split", "image", "mask", "row", "col", "height", "width"])
    statistics = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
    return SegmentationData(manifest, statistics, LabelSpace(("roof", "tree", "lake")), tile_size=32)
