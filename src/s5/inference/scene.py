"""From a scene and a network to a finished map, which is whole or not there."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5.engine import Compute, ComputeConfig, release_freed_memory, resolve_compute
from s5.files import write_json
from s5.inference.blending import BlendGrid
from s5.inference.config import SceneConfig
from s5.inference.processes import StripJob, run_in_processes
from s5.inference.products import Products, SceneModel, ScenePictures
from s5.types import Window

if TYPE_CHECKING:
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
    made = Products(image, info, working, model, config, zones, draw).write(
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
