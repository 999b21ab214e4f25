"""A project folder of its own and a small georeferenced dataset, so that the working tree stays clean."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml

# Kedro's plug-ins define their classes the old pydantic way and say so when they are imported.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for plug_in in ("kedro_mlflow.framework.hooks", "kedro_telemetry.plugin", "kedro_viz.integrations.kedro.hooks"):
        import_module(plug_in)

# Of Kedro and its plug-ins, about themselves; ours stay errors.
_FOREIGN_WARNINGS = (
    r"register_new_resolver\(\) is deprecated",  # kedro's config loader with omegaconf 2.4
    r"The ``noload`` loader strategy is deprecated",  # MLflow's store with SQLAlchemy 2.1
    r"_ImportHookChainedLoader.exec_module\(\) not found",  # MLflow's import hooks
    r"the load_module\(\) method is deprecated",  # MLflow's import hooks
)
os.environ["DO_NOT_TRACK"] = "1"
ROOT = Path(__file__).parents[2]
CLASSES = ["field", "water", "building"]
COUNTS = {"labeled": 4, "unlabeled": 10, "val": 2, "test": 3}


def _write_world(folder: Path, *, splits: dict[str, int] = COUNTS, seed: int = 0, size: int = 64) -> Path:
    """Tiles of two or three classes that a network can tell by colour; returns the card."""
    generator = np.random.default_rng(seed)
    colours = np.array([[90, 150, 60], [30, 60, 140], [180, 90, 80]])
    card: dict[str, Any] = {"name": "mini", "classes": CLASSES, "bands": ["red", "green", "blue"], "scale": 255}
    card["splits"] = {}
    place = 0
    for split, count in splits.items():
        card["splits"][split] = {"images": f"{split}/images", "masks": f"{split}/masks"}
        for number in range(count):
            mask = np.zeros((size, size), dtype=np.uint8)
            row, column = generator.integers(0, size // 2, 2)
            mask[row : row + size // 2, :] = 1
            mask[:, column : column + size // 4] = 2
            image = colours[mask] + generator.normal(0, 12, (size, size, 3))
            transform = rasterio.Affine(1.0, 0.0, 500_000 + place * 200, 0.0, -1.0, 5_300_000)
            _write(folder / split / "images" / f"t{number}.tif", np.moveaxis(image.clip(0, 255), 2, 0), transform)
            _write(folder / split / "masks" / f"t{number}.tif", mask[None], transform)
            place += 1
    path = folder / "dataset.yml"
    path.write_text(yaml.safe_dump(card))
    return path


def _write(path: Path, data: Any, transform: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = data.shape
    kind = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32632", "transform": transform}
    with rasterio.open(path, "w", count=bands, height=height, width=width, **kind) as file:
        file.write(data.astype(np.uint8))


def _make_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    (folder / "src").mkdir()  # the package is the installed one
    (folder / "data").mkdir()
    return folder


def _run_kedro(project: Path, *, env: str = "test", params: dict[str, Any] | None = None, **kwargs: Any) -> None:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(project)
    with warnings.catch_warnings(), KedroSession.create(project, env=env, runtime_params=params) as session:
        for message in _FOREIGN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        session.run(**kwargs)


@pytest.fixture(scope="session")
def write_world() -> Callable[..., Path]:
    return _write_world


@pytest.fixture(scope="session")
def make_project() -> Callable[[Path], Path]:
    return _make_project


@pytest.fixture(scope="session")
def run_kedro() -> Callable[..., None]:
    return _run_kedro


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A project in which the whole chain ran once."""
    project = _make_project(tmp_path_factory.mktemp("finished") / "project")
    _run_kedro(project, params={"dataset": str(world)})
    return project
