from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from s5.geo.raster import write_geotiff

CLASSES = ["field", "water", "road"]
CRS = "EPSG:32632"


class World:
    """A small dataset on disk: files are added one by one, then the card is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)

    def transform(self, place: tuple[float, float]) -> tuple[float, ...]:
        """A grid of 10 m whose corner lies `place` pixels (row, column) from the origin."""
        return (10.0, 0.0, 500_000.0 + 10 * place[1], 0.0, -10.0, 5_000_000.0 - 10 * place[0])

    def image(self, name, size=(32, 32), bands=3, dtype="uint8", place=None, nodata=None, values=None):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is None:
            values = self.rng.integers(1, 250, (bands, *size)).astype(dtype)
        if path.suffix == ".tif":
            grid = {} if place is None else {"transform": self.transform(place), "crs": CRS}
            write_geotiff(path, values, nodata=nodata, **grid)
        else:
            Image.fromarray(values.transpose(1, 2, 0)).save(path)
        return values

    def mask(self, name, size=(32, 32), place=None, values=None, dtype="uint8", nodata=None):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is None:
            values = self.rng.integers(0, 3, size).astype(dtype)
        if path.suffix == ".tif":
            grid = {} if place is None else {"transform": self.transform(place), "crs": CRS}
            write_geotiff(path, values, nodata=nodata, **grid)
        else:
            Image.fromarray(values).save(path)
        return values

    def pair(self, split, stem, **options):
        image = self.image(f"{split}/images/{stem}.tif", **options)
        kept = {k: v for k, v in options.items() if k in {"size", "place"}}
        return image, self.mask(f"{split}/masks/{stem}.tif", **kept)

    def text(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def card(self, splits=None, **keys):
        """Write dataset.yml; splits given by name alone are folders of images and masks."""
        if not isinstance(splits, dict):
            splits = {
                name: {"images": f"{name}/images"} | ({} if name == "unlabeled" else {"masks": f"{name}/masks"})
                for name in splits or ["labeled"]
            }
        values = {"name": "tiny", "classes": CLASSES, "bands": ["red", "green", "blue"], "splits": splits} | keys
        path = self.folder / "dataset.yml"
        path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not ...}))
        return path


@pytest.fixture
def world(tmp_path):
    (tmp_path / "data").mkdir()
    return World(tmp_path / "data")


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / "work"
