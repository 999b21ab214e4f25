"""The demo world on disk: a dataset card with everything that it names."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from s5.data.demo.boxes import Box
from s5.data.demo.config import CLASSES, EPSG, DemoConfig
from s5.data.demo.defects import add_defects
from s5.data.demo.land_cover import make_land_cover
from s5.data.demo.plan import ScenePlan, plan_world
from s5.files import write_json
from s5.progress import progress

_LOG = logging.getLogger(__name__)

VERSION = 1
"""Raised when the same configuration gives another world, so that older ones are made again."""

_CRS = f"EPSG:{EPSG}"
_MARKER = "made_from.json"
_COLOURS = {0: (226, 207, 120), 1: (38, 115, 56), 2: (58, 110, 200), 3: (128, 128, 128), 4: (205, 66, 52)}
_PROMPTS = {
    "field": ["field", "grassland", "bare soil"],
    "forest": ["tree", "forest"],
    "water": ["river", "lake"],
    "road": ["road", "car park"],
    "building": ["building", "roof"],
}


def make_demo_world(folder: Path, config: DemoConfig | None = None) -> Path:
    """Make the demo world in `folder` unless it is there already, and return its dataset card.

    The world is made in a folder beside `folder` and renamed when it is whole; one that was made from another
    configuration is replaced.

    Args:
        folder: The world's own folder.
        config: What is made; the default world when None.

    Raises:
        FileExistsError: `folder` holds something that is no demo world.
        OSError: it could not be written, such as on a full disk; `folder` is then as it was.
    """
    config, folder = config or DemoConfig(), Path(folder).absolute()
    card = folder / "dataset.yml"
    if _made_from(folder) == _identity(config):
        return card
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".making", dir=folder.parent))
    try:
        _write_world(making, config)
        write_json(making / _MARKER, _identity(config))
        making.chmod(0o755)
        _put_in_place(making, folder, config)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return card


def _identity(config: DemoConfig) -> dict[str, Any]:
    return {"version": VERSION, **asdict(config)}


def _made_from(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARKER).exists())):
        raise FileExistsError(
            f"{folder}: expected a demo world or nothing, found something else (no {_MARKER}); move it away or choose "
            "another folder for the demo world"
        )


def _put_in_place(making: Path, folder: Path, config: DemoConfig) -> None:
    if _made_from(folder) == _identity(config):
        return  # another process was quicker
    if folder.exists():
        outdated = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".outdated", dir=folder.parent))
        folder.rename(outdated / folder.name)
        making.rename(folder)
        shutil.rmtree(outdated, ignore_errors=True)
    else:
        making.rename(folder)


def _write_world(folder: Path, config: DemoConfig) -> None:
    plans = plan_world(config)
    polygons: dict[str, list[Any]] = {name: [] for name in ("geometry", "class", "region", "split", "scene")}
    # numpy and GDAL let go of the interpreter lock in their long loops; two threads keep memory small
    with ThreadPoolExecutor(2) as pool:
        for part in progress(_in_order(pool, folder, plans, config), "demo world", total=len(plans), unit="scene"):
            for name, values in part.items():
                polygons[name] += values
    _write_labels(folder, polygons)
    if config.defects:
        add_defects(folder, config)
    _write_card(folder, config, plans)
    _LOG.info("demo world: %d scenes in %s", len(plans), folder)


def _in_order(
    pool: ThreadPoolExecutor, folder: Path, plans: list[ScenePlan], config: DemoConfig
) -> Iterator[dict[str, list[Any]]]:
    yield from pool.map(lambda plan: _write_scene(folder, plan, config), plans)


def _write_scene(folder: Path, plan: ScenePlan, config: DemoConfig) -> dict[str, list[Any]]:
    """Write image, mask, boxes and, for unlabelled scenes, the land-cover product; return the polygons."""
    from s5.geo.polygonize import polygonize
    from s5.geo.raster import write_geotiff

    scene, place = plan.make(), plan.transform
    part = folder / plan.split
    write_geotiff(part / "images" / f"{plan.name}.tif", scene.image, transform=place, crs=_CRS)
    write_geotiff(part / "masks" / f"{plan.name}.tif", scene.mask, colormap=_COLOURS, transform=place, crs=_CRS)
    boxes = part / "boxes" / f"{plan.name}.txt"
    boxes.parent.mkdir(parents=True, exist_ok=True)
    boxes.write_text(box_text(scene.boxes, config.gsd), encoding="utf-8")
    if plan.split == "unlabeled":
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((*plan.seed, 1))))
        noisy = make_land_cover(rng, scene.mask, config.gsd)
        write_geotiff(
            folder / "noisy" / "masks" / f"{plan.name}.tif", noisy, colormap=_COLOURS, transform=place, crs=_CRS
        )
    found = polygonize(scene.mask, plan.transform)
    return {
        "geometry": [geometry for geometry, _ in found],
        "class": [CLASSES[value] for _, value in found],
        "region": [plan.region_name] * len(found),
        "split": [plan.split] * len(found),
        "scene": [plan.name] * len(found),
    }


def box_text(boxes: tuple[Box, ...], gsd: float) -> str:
    """Boxes as DOTA's labelTxt: a line an object with four corners (x y, in pixels), class and difficulty."""
    lines = ["imagesource:S5 demo world", f"gsd:{gsd}"]
    for box in boxes:
        corners = " ".join(f"{value:.1f}" for corner in box.corners() for value in corner)
        lines.append(f"{corners} {box.kind} 0")
    return "\n".join(lines) + "\n"


def _write_labels(folder: Path, polygons: dict[str, list[Any]]) -> None:
    from s5.geo.vector import write_polygons

    geometries = polygons.pop("geometry")
    write_polygons(folder / "labels.gpkg", geometries, polygons, _CRS)


def _write_card(folder: Path, config: DemoConfig, plans: list[ScenePlan]) -> None:
    import yaml

    rows = [f"../unlabeled/images/{p.name}.tif,masks/{p.name}.tif" for p in plans if p.split == "unlabeled"]
    (folder / "noisy" / "noisy.csv").write_text("\n".join(["image,mask", *rows]) + "\n", encoding="utf-8")
    splits: dict[str, dict[str, str]] = {
        split: {kind: f"{split}/{kind}" for kind in ("images", "masks", "boxes")}
        for split in ("labeled", "unlabeled", "val", "test")
    }
    splits["noisy"] = {"list": "noisy/noisy.csv"}
    card = {
        "name": "demo",
        "classes": list(CLASSES),
        "ignore_index": 255,
        "bands": ["red", "green", "blue"],
        "gsd": config.gsd,
        "class_field": "class",
        "prompts": _PROMPTS,
        "splits": splits,
    }
    head = (
        "# The demo world. Masks of the unlabelled scenes are ground truth and only measure pseudo-labels.\n"
        "# labels.gpkg holds the same labels as polygons and can stand for any split's masks.\n"
    )
    (folder / "dataset.yml").write_text(head + yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
