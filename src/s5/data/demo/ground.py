"""Reflectance and class of the ground: parcels with crop rows, gardens, roads and water."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.config import FIELD, ROAD, WATER
from s5.data.demo.layout import Layout, Line
from s5.data.demo.looks import Colour, Look
from s5.data.demo.noise import Field, fractal_noise, grain, smoothstep, value_noise, wave

Labels = NDArray[np.uint8]
Spots = NDArray[np.int64]
GRASS, BARE = 4, 3  # kinds of parcel that are mown or ploughed


@dataclass
class Canvas:
    """A scene while it is painted. `height` and `relief` (gain of direct light) belong to what stands on the ground."""

    albedo: Field  # [3, size, size]
    label: Labels
    height: Field
    relief: Field

    @property
    def size(self) -> int:
        return int(self.label.shape[0])

    def blend(self, colour: Colour | Field, share: Field, gain: Field | float = 1.0) -> None:
        """Lay `colour` times `gain` over the whole canvas where `share` is above 0."""
        spots = np.flatnonzero(share)
        self.blend_spots(
            spots,
            [c.ravel()[spots] if isinstance(c, np.ndarray) and c.ndim else c for c in colour],
            share.ravel()[spots],
            gain.ravel()[spots] if isinstance(gain, np.ndarray) else gain,
        )

    def blend_window(
        self, window: tuple[slice, slice], colour: Colour, share: Field, gain: Field | float = 1.0
    ) -> None:
        """`blend` in a rectangle of rows and columns."""
        for band in range(3):
            part = self.albedo[band][window]
            part += share * (np.asarray(np.float32(colour[band]) * gain, dtype=np.float32) - part)

    def blend_spots(self, spots: Spots, colour: Sequence[Any], share: Field, gain: Field | float = 1.0) -> None:
        """`blend` on some pixels, given by their flat index."""
        for band in range(3):
            pixels = self.albedo[band].reshape(-1)
            below = pixels[spots]
            paint = np.asarray(np.float32(1) * colour[band] * gain, dtype=np.float32)
            pixels[spots] = below + share * (paint - below)


def paint_ground(rng: np.random.Generator, layout: Layout, look: Look) -> Canvas:
    """Parcels, gardens, water and roads, from the bottom up."""
    size = layout.frame.size
    flat, one = np.zeros((size, size), np.float32), np.ones((size, size), np.float32)
    canvas = Canvas(np.zeros((3, size, size), np.float32), np.full((size, size), FIELD, np.uint8), flat, one)
    _paint_parcels(rng, layout, look, canvas)
    _paint_gardens(rng, layout, look, canvas)
    _paint_water(rng, layout, look, canvas)
    _paint_roads(rng, layout, look, canvas)
    return canvas


def _paint_parcels(rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas) -> None:
    size, parcel = layout.frame.size, layout.parcel
    count = int(parcel.max()) + 1
    kind = rng.integers(0, len(look.crops), count)
    tint = (rng.random((3, count), dtype=np.float32) - np.float32(0.5)) * np.float32(0.05)
    tint += (rng.random(count, dtype=np.float32) - np.float32(0.5)) * np.float32(0.10)
    period = np.float32(3.5) + np.float32(5) * rng.random(count, dtype=np.float32)
    depth = np.float32(0.015) + np.float32(0.06) * rng.random(count, dtype=np.float32)
    depth[kind == GRASS] = np.float32(0.008)
    depth[kind == BARE] += np.float32(0.02)
    lanes = (rng.random(count) < 0.6) & (kind != GRASS)
    patchy = np.float32(0.05) + np.float32(0.12) * rng.random(count, dtype=np.float32)

    across = np.where(layout.along_u, layout.frame.v, layout.frame.u)
    row = across / period[parcel]
    strength = value_noise(rng, size, 40) * np.float32(0.5) + np.float32(0.75)
    gain = 1 + depth[parcel] * wave(row) * strength
    swath = rng.random(512, dtype=np.float32) - np.float32(0.5)  # each pass of a machine differs a little
    gain += np.float32(0.05) * swath[np.floor(across * np.float32(1 / 15)).astype(np.int64) % 512]
    lane = across * np.float32(1 / 38)
    off = np.abs(np.abs(lane - np.floor(lane) - np.float32(0.5)) * np.float32(38) - np.float32(2.2))
    gain -= np.float32(0.13) * lanes[parcel] * np.clip(np.float32(1.3) - off, 0, 1)
    gain += patchy[parcel] * fractal_noise(rng, size, 70, 4)
    gain += np.float32(0.018) * grain(rng, (size, size))
    table = np.array(look.crops, np.float32)[kind].T + tint
    for band in range(3):
        canvas.albedo[band] = table[band][parcel] * gain
    edge = 1 - smoothstep(layout.margin + np.float32(1.5) * value_noise(rng, size, 12), 0.8, 4.0)
    canvas.blend(look.grass, np.float32(0.75) * edge, 1 + np.float32(0.15) * value_noise(rng, size, 6))


def _paint_gardens(rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas) -> None:
    """Lawns, beds and yards around houses: patches of grass and soil at the scale of a garden."""
    size = layout.frame.size
    share = smoothstep(layout.town + np.float32(0.12) * value_noise(rng, size, 30), 0.22, 0.40)
    # plots of about 12 x 18 m, aligned with the streets, each with its own greenness
    plots = rng.random((128, 128), dtype=np.float32)
    rows = np.floor(layout.frame.u * np.float32(1 / 25)).astype(np.int64) % 128
    cols = np.floor(layout.frame.v * np.float32(1 / 36)).astype(np.int64) % 128
    dry = np.clip(
        plots[rows, cols] * np.float32(1.1) - np.float32(0.35) + np.float32(0.45) * fractal_noise(rng, size, 22, 3),
        0,
        1,
    )
    gain = 1 + np.float32(0.12) * fractal_noise(rng, size, 16, 3) + np.float32(0.02) * grain(rng, (size, size))
    gain -= np.float32(0.12) * (plots[cols, rows] - np.float32(0.5))
    canvas.blend(look.grass, share, gain)
    canvas.blend(look.soil, share * dry * np.float32(0.8), gain)


def _paint_water(rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas) -> None:
    size, shore = layout.frame.size, layout.shore
    if float(shore.max()) <= -30:
        return
    bank = smoothstep(shore, -9.0, -1.0)
    damp = np.clip(np.float32(0.55) + np.float32(0.6) * value_noise(rng, size, 26), 0, 1)
    canvas.blend(look.soil, bank * damp * np.float32(0.75), 0.82)
    canvas.blend(look.grass, bank * (1 - damp) * np.float32(0.8), 0.62)  # reeds
    deep = smoothstep(shore, 1.0, 16.0)
    ripple = np.float32(0.06) * fractal_noise(rng, size, 5, 2) + np.float32(0.10) * value_noise(rng, size, 120)
    ripple += np.float32(0.04) * value_noise(rng, size, 18)
    colour = [
        np.float32(s) + (np.float32(d) - np.float32(s)) * deep for s, d in zip(look.shallow, look.water, strict=True)
    ]
    canvas.blend(np.stack(colour), smoothstep(shore, -1.5, 1.5), 1 + ripple)
    canvas.label[shore > 0] = WATER


@dataclass(frozen=True)
class _Strip:
    """The pixels near a road, as flat arrays: distance from its axis, position along it, depth inside its edge."""

    spots: Spots
    distance: Field
    along: Field
    depth: Field
    shore: Field
    worn: Field
    rough: Field


def _paint_roads(rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas) -> None:
    size = layout.frame.size
    worn = 1 + np.float32(0.06) * fractal_noise(rng, size, 60, 4) + np.float32(0.015) * grain(rng, (size, size))
    rough = np.float32(0.9) * value_noise(rng, size, 9)
    # tracks first, the main road last, so that it runs through at crossings
    for line in sorted(layout.lines, key=lambda item: ("track", "street", "main").index(item.kind)):
        tone = np.float32(0.9 + 0.2 * int(rng.integers(0, 1025)) / 1024)
        strip = _strip(layout, line, worn * tone, rough)
        if line.kind == "track":
            _paint_track(canvas, look, strip)
        else:
            _paint_street(canvas, look, strip, line)


def _strip(layout: Layout, line: Line, worn: Field, rough: Field) -> _Strip:
    across, along = (layout.frame.u, layout.frame.v) if line.axis == "u" else (layout.frame.v, layout.frame.u)
    distance = np.abs(across - np.float32(line.at))
    spots = np.flatnonzero(distance < line.half_width + 7)
    distance, along = distance.reshape(-1)[spots], along.reshape(-1)[spots]
    inside = np.minimum(along - np.float32(line.start), np.float32(line.end) - along)
    depth = np.minimum(np.float32(line.half_width) - distance, inside)
    shore = layout.shore.reshape(-1)[spots]
    bridged = {"main": 1e9, "street": -4.0, "track": -3.0}[line.kind]  # only main roads have bridges
    depth = np.where(shore > bridged, np.float32(-9), depth).astype(np.float32)
    return _Strip(spots, distance, along, depth, shore, worn.reshape(-1)[spots], rough.reshape(-1)[spots])


def _paint_track(canvas: Canvas, look: Look, strip: _Strip) -> None:
    depth = strip.depth + np.float32(0.5) * strip.rough
    canvas.blend_spots(strip.spots, look.track, np.clip(depth + np.float32(0.5), 0, 1), strip.worn)
    green = np.float32(0.55) * (depth > 0) * np.clip(np.float32(1.1) - strip.distance, 0, 1)
    canvas.blend_spots(strip.spots, look.grass, green, strip.worn)
    canvas.label.reshape(-1)[strip.spots[depth > 0]] = ROAD


def _paint_street(canvas: Canvas, look: Look, strip: _Strip, line: Line) -> None:
    verge = np.float32(0.5) * smoothstep(strip.depth + strip.rough, -4.5, -0.5) * (strip.shore < 0)
    canvas.blend_spots(strip.spots, look.soil, verge, 0.95)
    canvas.blend_spots(strip.spots, look.asphalt, np.clip(strip.depth + np.float32(0.5), 0, 1), strip.worn)
    if line.kind == "main":
        _paint_marks(canvas, strip, line)
    canvas.label.reshape(-1)[strip.spots[strip.depth > 0]] = ROAD


def _paint_marks(canvas: Canvas, strip: _Strip, line: Line) -> None:
    """A dashed centre line, edge lines, and light parapets where the road is a bridge."""
    white, dash = (0.86, 0.86, 0.82), strip.along * np.float32(1 / 22)
    centre = np.clip(np.float32(0.95) - strip.distance, 0, 1) * ((dash - np.floor(dash)) < 0.55)
    canvas.blend_spots(strip.spots, white, centre)
    edge = np.abs(strip.distance - np.float32(line.half_width - 1.4))
    canvas.blend_spots(strip.spots, white, np.float32(0.55) * np.clip(np.float32(0.9) - edge, 0, 1))
    parapet = np.abs(strip.distance - np.float32(line.half_width - 0.3))
    canvas.blend_spots(strip.spots, (0.70, 0.69, 0.66), np.clip(np.float32(1.3) - parapet, 0, 1) * (strip.shore > -5))
