"""What goes wrong in real archives: broken files, gaps, blank scenes and duplicates among the unlabelled images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.config import EPSG, REGIONS, WATER, DemoConfig
from s5.data.demo.looks import LOOKS
from s5.data.demo.noise import Field, grain, value_noise
from s5.data.demo.plan import ScenePlan, Transform, plan_world

_CRS = f"EPSG:{EPSG}"
_STREAM = 7_000  # keeps the seeds of defects apart from those of scenes


def add_defects(folder: Path, config: DemoConfig) -> None:
    """Add defective images to the unlabelled ones of a world whose sound scenes are written."""
    first = [plan for plan in plan_world(config) if plan.split == "unlabeled" and plan.name.endswith("_00")]
    pick = [first[i % len(first)] for i in range(6)]
    _write_truncated(folder, pick[0])
    _write_wrong_bands(folder, pick[1])
    _write_nodata_stripes(folder, pick[2])
    _write_blank_water(folder, pick[3], config)
    for number, plan in enumerate((pick[0], pick[4], pick[4])):
        _write_near_duplicate(folder, plan, number, config)
    for kind, suffix in (("images", "tif"), ("masks", "tif"), ("boxes", "txt")):
        part = folder / "unlabeled" / kind
        shutil.copyfile(part / f"{pick[5].name}.{suffix}", part / f"{pick[5].region_name}_exact_copy.{suffix}")


def _rng(config: DemoConfig, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((config.seed, _STREAM, number))))


def _write(folder: Path, name: str, image: NDArray[np.uint8], mask: NDArray[np.uint8], transform: Transform) -> Path:
    from s5.geo.raster import write_geotiff

    path = folder / "unlabeled" / "images" / f"{name}.tif"
    write_geotiff(path, image, transform=transform, crs=_CRS)
    write_geotiff(folder / "unlabeled" / "masks" / f"{name}.tif", mask, transform=transform, crs=_CRS)
    return path


def _defect_scene(plan: ScenePlan, number: int, size: int) -> ScenePlan:
    """Another scene of the same region, a long way south of all others."""
    a, b, x, d, e, y = plan.transform
    place = (a, b, x + 3 * number * size * a, d, e, y - 12_000.0)
    return replace(plan, seed=(*plan.seed[:2], _STREAM, number), size=size, transform=place)


def _write_truncated(folder: Path, plan: ScenePlan) -> None:
    """A download that broke off after 60 %."""
    plan = _defect_scene(plan, 0, plan.size)
    scene = plan.make()
    path = _write(folder, f"{plan.region_name}_truncated", scene.image, scene.mask, plan.transform)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])


def _write_wrong_bands(folder: Path, plan: ScenePlan) -> None:
    """One file with near infrared, one with a panchromatic band alone."""
    size = min(plan.size, 256)
    for number, name in ((1, "four_bands"), (2, "one_band")):
        place = _defect_scene(plan, number, size)
        scene = place.make()
        grey = (scene.image.astype(np.uint16).sum(axis=0) // 3).astype(np.uint8)[None]
        image = np.concatenate([scene.image, 255 - grey]) if number == 1 else grey
        _write(folder, f"{plan.region_name}_{name}", image, scene.mask, place.transform)


def _write_nodata_stripes(folder: Path, plan: ScenePlan) -> None:
    """The slanting edge of a strip and failed scan lines, filled with 0."""
    from s5.geo.raster import write_geotiff

    place = _defect_scene(plan, 3, plan.size)
    scene, size = place.make(), plan.size
    rows, cols = np.arange(size)[:, None], np.arange(size)[None, :]
    missing = cols < size // 3 - rows // 5
    missing = missing | ((rows + cols // 16) % (size // 5) < max(size // 40, 1))
    name = f"{plan.region_name}_nodata_stripes"
    path = _write(folder, name, scene.image, scene.mask, place.transform)
    image = np.where(missing, np.uint8(0), scene.image)
    write_geotiff(path, image, transform=place.transform, crs=_CRS, nodata=0)


def _write_blank_water(folder: Path, plan: ScenePlan, config: DemoConfig) -> None:
    """Open water: next to no texture, and the surest prediction of all."""
    size, rng = min(plan.size, 256), _rng(config, 4)
    place = _defect_scene(plan, 4, size)
    tone: Field = 1 + np.float32(0.02) * value_noise(rng, size, 150)
    values = [np.float32(255 * c) * tone + np.float32(1.2) * grain(rng, (size, size)) for c in LOOKS[plan.region].water]
    image = np.clip(np.floor(np.stack(values) + np.float32(0.5)), 1, 255).astype(np.uint8)
    _write(folder, f"{plan.region_name}_blank_water", image, np.full((size, size), WATER, np.uint8), place.transform)


def _write_near_duplicate(folder: Path, plan: ScenePlan, number: int, config: DemoConfig) -> None:
    """The same ground taken again: moved by a few pixels, slightly brighter or darker, with other noise."""
    rng, scene = _rng(config, 5 + number), plan.make()
    row, col = int(rng.integers(2, 7)), int(rng.integers(2, 7))
    side = plan.size - plan.size // 4
    part = (slice(row, row + side), slice(col, col + side))
    gain = np.float32(0.98 + 0.04 * int(rng.integers(0, 1025)) / 1024)
    values = scene.image[(slice(None), *part)].astype(np.float32) * gain
    values += np.float32(1.2) * grain(rng, values.shape)
    image = np.clip(np.floor(values + np.float32(0.5)), 1, 255).astype(np.uint8)
    a, b, x, d, e, y = plan.transform
    mask = np.ascontiguousarray(scene.mask[part])
    _write(folder, f"{plan.region_name}_near_duplicate_{number}", image, mask, (a, b, x + a * col, d, e, y + e * row))


def defect_names(config: DemoConfig) -> dict[str, str]:
    """Kind of defect to file stem, for reports and tests."""
    regions = [REGIONS[i % config.regions] for i in range(6)]
    kinds = ("truncated", "four_bands", "nodata_stripes", "blank_water", "near_duplicate_1", "exact_copy")
    names = {kind: f"{region}_{kind}" for kind, region in zip(kinds, regions, strict=True)}
    return names | {
        "one_band": f"{regions[1]}_one_band",
        "near_duplicate_0": f"{regions[0]}_near_duplicate_0",
        "near_duplicate_2": f"{regions[4]}_near_duplicate_2",
    }
