"""One scene from its seed: image, labels and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.boxes import Box
from s5.data.demo.buildings import build_settlement
from s5.data.demo.canopy import grow_canopy, sow_crowns
from s5.data.demo.config import FIELD, FOREST
from s5.data.demo.ground import Canvas, paint_ground
from s5.data.demo.layout import THEMES, Layout, make_layout
from s5.data.demo.light import expose, shade_canopy, sun_on_ground
from s5.data.demo.looks import Look, scene_look
from s5.data.demo.noise import Field, fractal_noise, grain, smoothstep, value_noise
from s5.data.demo.traffic import drive_vehicles, float_boats


@dataclass(frozen=True)
class Scene:
    """`image` uint8 [3, size, size], `mask` uint8 [size, size]; boxes in pixels."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: tuple[Box, ...]


def make_scene(seed: tuple[int, ...], *, region: int, theme: str, size: int, reach: float) -> Scene:
    """Make a scene.

    Args:
        seed: entropy of the scene; equal seeds make equal scenes.
        region: index of the region, which sets the look.
        theme: a name of `THEMES`.
        size: side in pixels.
        reach: how far the look may move towards another region's, in [0, 1].
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    look = scene_look(rng, region, reach)
    layout = make_layout(rng, size, THEMES[theme])
    canvas = paint_ground(rng, layout, look)
    dx, dy, _ = sun_on_ground(look)
    parks = build_settlement(rng, layout, look, canvas, (dx, dy))
    _plant_trees(rng, layout, look, canvas)
    boxes = drive_vehicles(rng, layout, canvas, parks) + float_boats(rng, layout, canvas)
    return Scene(expose(rng, canvas, look), canvas.label, tuple(boxes))


def _plant_trees(rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas) -> None:
    """Woods, hedges between parcels, trees along water and in gardens; labels follow the crowns."""
    size = canvas.size
    crowns = sow_crowns(rng, size, int(rng.integers(7, 11)))
    hedge = (layout.margin < 4) & (fractal_noise(rng, size, 120, 1) > 0.28) & (layout.town < 0.3)
    riverside = (layout.shore > -16) & (layout.shore < -3) & (fractal_noise(rng, size, 60, 1) > 0.1)
    chance = np.where(
        layout.woods > 0, 0.97, 0.004 + 0.09 * smoothstep(layout.town, 0.2, 0.5) + 0.75 * hedge + 0.6 * riverside
    )
    dice = rng.random(crowns.radius.shape)
    standing = (dice < chance[crowns.stems(size)]) & (canvas.label[crowns.stems(size)] == FIELD)
    canopy, seen = grow_canopy(crowns, standing, (_ragged(rng, size), _ragged(rng, size)))
    floor = (layout.woods > 0.06) & (canvas.label == FIELD)
    canopy = np.where(canvas.label == FIELD, canopy, np.float32(0)).astype(np.float32)
    leaf = canopy > 0
    canvas.blend(look.soil, (floor & ~leaf).astype(np.float32) * np.float32(0.7), 0.45)
    kinds = np.array(look.trees, np.float32).T
    # stands differ: one or two kinds of tree prevail in each
    stand = (fractal_noise(rng, size, 150, 2) > 0).astype(np.int64)
    kind = np.where(crowns.kind.take(seen) < 3, np.where(stand, 0, 2), crowns.kind.take(seen) % 2 * 2 + 1)
    gain = 1 + np.float32(0.20) * crowns.tint.take(seen) + np.float32(0.10) * grain(rng, (size, size))
    gain += np.float32(0.15) * fractal_noise(rng, size, 3, 1)
    gain *= np.float32(0.72) + np.float32(0.014) * canopy
    for band in range(3):
        canvas.albedo[band] = np.where(leaf, kinds[band][kind] * gain, canvas.albedo[band])
    shade_canopy(canvas, canopy, look)
    canvas.height = np.maximum(canvas.height, canopy)
    canvas.label[leaf | floor] = FOREST


def _ragged(rng: np.random.Generator, size: int) -> Field:
    return np.float32(1.6) * value_noise(rng, size, 4.5)
