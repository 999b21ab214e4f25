"""Small scenes and a network that sees 5 x 5 pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from s5.geo.raster import write_geotiff
from s5.inference import SceneModel
from s5.types import BandStatistics

NAMES = ("field", "forest", "water", "road")
STATISTICS = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.5,) * 3, (0.2,) * 3)


@pytest.fixture(scope="session")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, len(NAMES), 3, padding=1))
        for weight in layers.parameters():
            weight.data *= 2
    return layers.eval()


@pytest.fixture
def scene_model(network: nn.Module) -> SceneModel:
    return SceneModel(network, NAMES, STATISTICS, ("#112233", "#445566", "#778899", "#aabbcc"), "weights")


@pytest.fixture
def write_scene(tmp_path: Path) -> Callable[..., Path]:
    """Writes a smooth random scene with a hole of nodata."""

    def write(height: int, width: int, name: str = "scene", hole: bool = True, **grid: object) -> Path:
        rng = np.random.default_rng(height * 1000 + width)
        noise = np.stack([gaussian_filter(rng.normal(size=(height, width)), 3) for _ in range(3)])
        image = (noise / noise.std() * 50 + 128).clip(1, 255).astype(np.uint8)
        if hole:
            image[:, height // 3 : height // 2, width // 4 : width // 2] = 0
        path = tmp_path / f"{name}.tif"
        write_geotiff(path, image, nodata=0, **grid)  # type: ignore[arg-type]
        return path

    return write
