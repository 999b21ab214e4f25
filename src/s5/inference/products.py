"""What is made of a mapped scene: rasters, polygons, areas and styles that GIS people open."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from s5.engine import release_freed_memory
from s5.inference.config import SceneConfig
from s5.inference.strips import NODATA, STEPS
from s5.types import BandStatistics

if TYPE_CHECKING:
    import pandas as pd

    from s5.geo.cog import Strip
    from s5.geo.raster import RasterInfo


@dataclass(frozen=True)
class SceneModel:
    """A trained network and what is needed to map with it.

    Args:
        network: Normalised images to logits.
        classes: Names; the position is the value.
        statistics: How raw bands are normalised.
        colors: ``#RRGGBB`` of each class.
        identity: What tells the weights from others, such as their SHA-256.
    """

    network: nn.Module
    classes: Sequence[str]
    statistics: BandStatistics
    colors: Sequence[str]
    identity: str

    def __post_init__(self) -> None:
        if not len(self.classes) == len(self.colors) <= NODATA:
            raise ValueError(
                f"SceneModel: {len(self.classes)} classes and {len(self.colors)} colours; at most {NODATA}"
            )


@dataclass(frozen=True)
class ScenePictures:
    """What pictures and pages of a map are made from.

    Args:
        image: The scene.
        classes: The map, uint8 with a nodata value.
        model: What it was made with.
        info: Size and grid.
        areas: A row a class, then nodata and total.
        notes: What the reader should know.
    """

    image: str | Path
    classes: Path
    model: SceneModel
    info: RasterInfo
    areas: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


@dataclass
class Made:
    files: list[str]
    areas: list[dict[str, Any]]
    notes: list[str]


class Products:
    """Everything that is made of the strips, in the working folder."""

    def __init__(
        self, image: str | Path, info: RasterInfo, working: Path, model: SceneModel, config: SceneConfig,
        zones: Path | None, draw: Callable[[ScenePictures, Path], Sequence[str]] | None,
    ) -> None:  # fmt: skip
        self.image, self.info, self.working, self.model, self.config = image, info, working, model, config
        self.zones, self.draw = zones, draw

    def write(self, strips: Sequence[Strip], notes: Sequence[str]) -> Made:
        from s5.geo.areas import class_areas
        from s5.geo.qgis import raster_style

        files = self._rasters(strips)
        classes = self.working / "classes.tif"
        self._text("classes.qml", raster_style(self.model.classes, self.model.colors))
        areas = class_areas(classes, self.info, self.model.classes, nodata=NODATA, zones=self.zones)
        self._table("areas.csv", areas.total)
        files += ["classes.qml", "areas.csv"]
        if areas.zones is not None:
            self._table("zone_areas.csv", areas.zones)
            files.append("zone_areas.csv")
        if self.config.polygons:
            files += self._polygons(areas.total)
        rows = json.loads(areas.total.to_json(orient="records"))
        if self.draw is not None:
            seen = ScenePictures(self.image, classes, self.model, self.info, rows, notes)
            files += self.draw(seen, self.working)
        return Made(files, rows, list(notes))

    def _rasters(self, strips: Sequence[Strip]) -> list[str]:
        from s5.geo.cog import Layer, write_cog, write_mosaic

        files = []
        for name, layer in self._layers().items():
            mosaic = self.working / f"{name}.vrt"
            grid = _map_info(self.info, len(layer.bands))
            write_mosaic(mosaic, grid, strips, layer)
            if name == "confidence":  # of polygons; no product of its own
                continue
            assert isinstance(layer, Layer)
            write_cog(self.working / f"{name}.tif", mosaic, overviews="mode" if name == "classes" else "average")
            files.append(f"{name}.tif")
        return files

    def _layers(self) -> dict[str, Any]:
        from s5.geo.cog import Layer

        classes = self.model.classes
        tags = {"MODEL": self.model.identity, "CLASSES": json.dumps(list(classes))}
        names = {f"CLASS_{value}": name for value, name in enumerate(classes)}
        colormap = {value: (*_rgb(color), 255) for value, color in enumerate(self.model.colors)}
        layers = {
            "classes": Layer((1,), ("class",), {**tags, **names}, colormap=colormap),
            "confidence": Layer((2,), ("confidence",), scale=1 / STEPS),
        }
        if self.config.entropy:
            layers["entropy"] = Layer((3,), ("entropy",), tags, scale=1 / STEPS)
        if self.config.probabilities:
            first = 3 + self.config.entropy
            bands = tuple(range(first, first + len(classes)))
            layers["probabilities"] = Layer(bands, tuple(classes), tags, scale=1 / STEPS)
        return layers

    def _polygons(self, areas: pd.DataFrame) -> list[str]:
        from s5.geo.areas import polygon_areas
        from s5.geo.coverage import class_polygons, merge_small
        from s5.geo.qgis import polygon_style
        from s5.geo.vector import write_polygon_batches

        source = self.working / "classes.tif"
        smallest = _pixels_of(self.config.min_area, areas)
        if smallest > 1:
            merged = self.working / "merged.tif"
            merge_small(source, merged, pixels=smallest, nodata=NODATA)
            source = merged
        has_area = bool(areas["area_m2"].notna().all())

        names = np.array(self.model.classes, dtype=object)

        def batches() -> Iterator[tuple[list[Any], dict[str, Any]]]:
            confidence = self.working / "confidence.vrt"
            for found in class_polygons(source, confidence, nodata=NODATA, simplify=self.config.simplify):
                shapes = list(found.geometries)
                yield (
                    shapes,
                    {
                        # an array of text also where it is empty: the first batch tells the column's type
                        "class": names[found.classes],
                        "value": found.classes,
                        "area_m2" if has_area else "area_pixels": polygon_areas(
                            shapes, self.info.crs if has_area else ""
                        ),
                        "confidence": found.confidence / STEPS,
                    },
                )
                release_freed_memory()

        name = f"polygons.{self.config.polygon_format}"
        write_polygon_batches(self.working / name, batches(), self.info.crs)
        self._text("polygons.qml", polygon_style(self.model.classes, self.model.colors))
        return [name, "polygons.qml"]

    def _text(self, name: str, text: str) -> None:
        (self.working / name).write_text(text, encoding="utf-8")

    def _table(self, name: str, table: pd.DataFrame) -> None:
        table.to_csv(self.working / name, index=False, float_format="%.10g")


def _map_info(info: RasterInfo, bands: int) -> RasterInfo:
    from s5.geo.raster import RasterInfo

    return RasterInfo(info.height, info.width, bands, "uint8", info.crs, info.transform, NODATA)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _pixels_of(min_area: float, areas: pd.DataFrame) -> int:
    """How many pixels the minimum mapping unit has."""
    total = areas.iloc[-1]
    pixel = float(total["area_m2"]) / float(total["pixels"])
    return math.ceil(min_area / (1.0 if math.isnan(pixel) else pixel) - 1e-9)
