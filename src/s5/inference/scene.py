"""From a scene and a network to the products that GIS people open."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from s5.engine import Compute, ComputeConfig, release_freed_memory, resolve_compute
from s5.files import write_json
from s5.inference.blending import BlendGrid
from s5.inference.config import SceneConfig
from s5.inference.processes import StripJob, run_in_processes
from s5.inference.strips import NODATA, STEPS
from s5.types import BandStatistics, Window

if TYPE_CHECKING:
    import pandas as pd

    from s5.geo.cog import Strip
    from s5.geo.raster import RasterInfo

_LOG = logging.getLogger(__name__)

RECORD = "map.json"
_MOST_ZOOM = 8  # a window of a finer scene is as many times larger, and memory with it
_PRODUCTS = (
    "classes.tif", "classes.qml", "probabilities.tif", "entropy.tif", "polygons.gpkg", "polygons.parquet",
    "polygons.qml", "areas.csv", "zone_areas.csv", "quicklook.png", "index.html",
)  # fmt: skip


class PartialMapError(OSError):
    """Maps were written, but parts of their scenes could not be read."""


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


@dataclass(frozen=True)
class SceneMap:
    """What was written of a scene.

    Args:
        image: The scene.
        folder: Where its products are.
        files: Their names.
        areas: A row a class, see `s5.geo.areas.class_areas`.
        damaged: Blocks of the scene that could not be read: nodata in the map.
        notes: What the reader should know.
    """

    image: str
    folder: Path
    files: tuple[str, ...]
    areas: list[dict[str, Any]]
    damaged: tuple[Window, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)


def map_scene(
    image: str | Path,
    folder: Path,
    model: SceneModel,
    config: SceneConfig,
    compute: ComputeConfig,
    *,
    zones: Path | None = None,
    draw: Callable[[ScenePictures, Path], Sequence[str]] | None = None,
) -> SceneMap:
    """Map a scene of any size into `folder`.

    A run that was killed goes on with the strips that are missing; a map that is there already, made from the same
    scene, model and settings, is left as it is. Everything appears under its final name only when all of it is whole.

    Args:
        image: Anything rasterio opens: GeoTIFF, COG, VRT, a GDAL path such as ``/vsicurl/...``.
        folder: The scene's own folder.
        model: The network.
        config: How it is mapped.
        compute: Device and precision, and in how many processes (`devices`) strips are mapped.
        zones: A vector file; areas are also given for each of its polygons.
        draw: Called at the end with what pictures are made from and the folder to write them to; returns their names,
            of ``quicklook.png`` and ``index.html``.

    Raises:
        UnreadableRasterError: the scene cannot be opened.
        ValueError: the scene has another number of bands than the network takes, or no known ground sampling distance
            where one is needed.
        OSError: `folder` cannot be written, the disk is full, or one of several processes failed.
    """
    from s5.geo.raster import describe

    info = describe(image)
    _check_bands(image, info, len(model.statistics.bands))
    zoom, notes = _zoom(image, info, config), _notes(image, info)
    here = resolve_compute(compute)
    key = _key(image, model, config, here, zones)
    finished = _finished(folder, key)
    if finished is not None:
        _LOG.info("%s: is mapped already", folder)
        return finished
    working = folder / f".strips-{key}"
    for outdated in set(folder.glob(".strips-*")) - {working}:
        shutil.rmtree(outdated, ignore_errors=True)
    _make(working, folder)
    grid = BlendGrid(
        info.height, info.width, round(config.window / zoom), round(config.overlap / zoom), int(config.trimmed / zoom)
    )
    job = StripJob(image, working, grid, model.network, model.statistics, len(model.classes), zoom, config)
    strips, damaged = run_in_processes(job, compute, here)
    release_freed_memory()  # what forward passes took is not wanted again
    made = _Products(image, info, working, model, config, zones, draw).write(
        strips, [*notes, *_of_damage(image, damaged)]
    )
    found = SceneMap(str(image), folder, tuple(sorted(made.files)), made.areas, tuple(damaged), tuple(made.notes))
    _put_in_place(working, folder, found, key)
    return found


def _make(working: Path, folder: Path) -> None:
    try:
        working.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror}); choose a folder that can") from error


def _check_bands(image: str | Path, info: RasterInfo, wanted: int) -> None:
    counts = {info.bands, info.bands + info.has_alpha}
    if wanted not in counts:
        raise ValueError(
            f"{image}: has {info.bands} bands, the model takes {wanted}; map it with a model trained on such scenes, "
            "or give a VRT with the right bands"
        )


def _zoom(image: str | Path, info: RasterInfo, config: SceneConfig) -> float:
    if config.gsd is None:
        return 1.0
    from s5.geo.areas import pixel_areas

    middle = Window(info.height // 2, info.width // 2, 1, 1)
    area = pixel_areas([middle], info)
    if area is None:
        raise ValueError(
            f"{image}: has no CRS, so its ground sampling distance is not known; leave scene.gsd at null, or give the "
            "scene a CRS"
        )
    own = math.sqrt(float(area[0]))
    if not 1 / _MOST_ZOOM <= own / config.gsd <= _MOST_ZOOM:
        raise ValueError(
            f"{image}: has {own:.3g} m a pixel, scene.gsd is {config.gsd:g} m; at most a factor of {_MOST_ZOOM} is "
            "resampled, so bring the scene nearer to the model's ground sampling distance first"
        )
    return own / config.gsd


def _notes(image: str | Path, info: RasterInfo) -> list[str]:
    if info.georeferenced:
        return []
    note = f"{Path(image).name} has no CRS: coordinates and areas are in pixels"
    _LOG.warning("%s", note)
    return [note]


def _of_damage(image: str | Path, damaged: Sequence[Window]) -> list[str]:
    if not damaged:
        return []
    first = damaged[0]
    note = (
        f"{len(damaged)} damaged blocks of {Path(image).name} could not be read and are nodata, the first at row "
        f"{first.row}, column {first.col} ({first.height} x {first.width} pixels)"
    )
    _LOG.warning("%s", note)
    return [note]


def _key(image: str | Path, model: SceneModel, config: SceneConfig, compute: Compute, zones: Path | None) -> str:
    settings = {name: value for name, value in asdict(config).items() if name != "read_threads"}
    parts = [
        _state(image), None if zones is None else _state(zones), model.identity, list(model.classes),
        list(model.colors), settings, compute.device.type, compute.precision,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _state(path: str | Path) -> list[Any]:
    try:
        status = os.stat(path)  # noqa: PTH116 a GDAL path is no Path
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def _finished(folder: Path, key: str) -> SceneMap | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if record.get("key") != key or not all((folder / name).is_file() for name in record["files"]):
        return None
    return SceneMap(
        record["image"], folder, tuple(record["files"]), record["areas"],
        tuple(Window(**block) for block in record["damaged"]), tuple(record["notes"]),
    )  # fmt: skip


def _put_in_place(working: Path, folder: Path, found: SceneMap, key: str) -> None:
    (folder / RECORD).unlink(missing_ok=True)
    for name in _PRODUCTS:
        if name in found.files:
            (working / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    record = {
        "key": key, "image": found.image, "files": list(found.files), "areas": found.areas,
        "damaged": [asdict(block) for block in found.damaged], "notes": list(found.notes),
    }  # fmt: skip
    write_json(folder / RECORD, record)
    shutil.rmtree(working, ignore_errors=True)


@dataclass
class _Made:
    files: list[str]
    areas: list[dict[str, Any]]
    notes: list[str]


class _Products:
    """Everything that is made of the strips, in the working folder."""

    def __init__(
        self, image: str | Path, info: RasterInfo, working: Path, model: SceneModel, config: SceneConfig,
        zones: Path | None, draw: Callable[[ScenePictures, Path], Sequence[str]] | None,
    ) -> None:  # fmt: skip
        self.image, self.info, self.working, self.model, self.config = image, info, working, model, config
        self.zones, self.draw = zones, draw

    def write(self, strips: Sequence[Strip], notes: Sequence[str]) -> _Made:
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
        return _Made(files, rows, list(notes))

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
