"""Scenes of any size to maps."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.scene_inference.models import scene_model
from s5_kedro.pipelines.scene_inference.scenes import find_scenes
from s5_kedro.project import find_file, project_root

_FOLDER = Path("data/07_model_output/scene")


def map_scenes(
    finetuned_model: dict[str, Any] | None, dataset: str, scene: dict[str, Any], compute: dict[str, Any]
) -> dict[str, Any]:
    """Map every scene into a folder of its own; returns what was written, and which scenes could not be read."""
    from s5_kedro.pipelines.scene_inference.config import SceneParameters

    parameters = configure(SceneParameters, scene, "scene")
    scenes = find_scenes(parameters.images, dataset)
    model = scene_model(parameters.model, parameters.task, finetuned_model)
    results = [map_one(name, image, model, parameters, compute) for name, image in scenes.items()]
    return {
        "model": model.identity,
        "classes": list(model.classes),
        "scenes": [found for found in results if "error" not in found],
        "unreadable": [found for found in results if "error" in found],
    }


def map_one(name: str, image: str, model: Any, parameters: Any, compute: dict[str, Any]) -> dict[str, Any]:
    """Map one scene; a scene that cannot be opened is told of, and the others go on."""
    from s5.engine import ComputeConfig
    from s5.geo.raster import UnreadableRasterError
    from s5.inference import SceneConfig, map_scene
    from s5.report import draw_scene

    config = SceneConfig(**{f.name: getattr(parameters, f.name) for f in fields(SceneConfig)})
    where = configure(ComputeConfig, compute, "compute")
    zones = zones_file(parameters.zones)
    try:
        found = map_scene(image, project_root() / _FOLDER / name, model, config, where, zones=zones, draw=draw_scene)
    except UnreadableRasterError as error:
        return {"image": image, "error": str(error)}
    damaged = [asdict(block) for block in found.damaged]
    folder = (_FOLDER / name).as_posix()
    files = {file if file.endswith(".qml") else Path(file).stem: f"{folder}/{file}" for file in found.files}
    return {"name": name, "image": image, "folder": folder, "files": files, "areas": found.areas,
            "damaged": damaged, "notes": list(found.notes)}  # fmt: skip


def zones_file(zones: str | None) -> Path | None:
    """The file that `scene.zones` names.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if zones is None:
        return None
    found = find_file(zones)
    if found is None or not found.is_file():
        raise FileNotFoundError(f"scene.zones: there is no file {zones}; give a GeoPackage, GeoJSON or GeoParquet")
    return found


def check_scenes(scene_maps: dict[str, Any]) -> Any:
    """A table of the areas of all scenes; an error where parts of them are missing, after everything was written."""
    import pandas as pd

    from s5.inference import PartialMapError

    missing = [found["error"] for found in scene_maps["unreadable"]]
    missing += [note for found in scene_maps["scenes"] if found["damaged"] for note in found["notes"]]
    if missing:
        count = len(scene_maps["scenes"])
        raise PartialMapError(f"scene: partial: {count} scenes are mapped, but {'; '.join(missing)}")
    rows = [{"scene": found["name"], **row} for found in scene_maps["scenes"] for row in found["areas"]]
    return pd.DataFrame(rows, columns=["scene", "class", "pixels", "area_m2", "share"])
