"""Houses, halls, drives and car parks along the roads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.config import BUILDING, FIELD, ROAD
from s5.data.demo.ground import Canvas
from s5.data.demo.layout import Layout, Line
from s5.data.demo.looks import Look
from s5.data.demo.noise import Field, grain, wave


@dataclass(frozen=True)
class Box:
    """An oriented rectangle in pixels: centre, unit vector of its length, length and width, and what it holds."""

    x: float
    y: float
    dx: float
    dy: float
    length: float
    width: float
    kind: str = ""

    def corners(self) -> list[tuple[float, float]]:
        """Four corners (column, row), clockwise in the image, from the front left one."""
        a, b = self.length / 2, self.width / 2
        return [
            (self.x + self.dx * s * a - self.dy * t * b, self.y + self.dy * s * a + self.dx * t * b)
            for s, t in ((1, -1), (1, 1), (-1, 1), (-1, -1))
        ]


@dataclass(frozen=True)
class Patch:
    """The pixels around a box: where they lie in the canvas, and their position along and across the box."""

    rows: slice
    cols: slice
    along: Field
    across: Field


def patch_of(box: Box, size: int, margin: float = 1.5) -> Patch | None:
    """The part of the canvas that holds the box, or None where it lies outside."""
    reach = math.sqrt(box.length**2 + box.width**2) / 2 + margin
    top, bottom = max(int(box.y - reach), 0), min(int(box.y + reach) + 2, size)
    left, right = max(int(box.x - reach), 0), min(int(box.x + reach) + 2, size)
    if top >= bottom or left >= right:
        return None
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - box.y)
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - box.x)
    dx, dy = np.float32(box.dx), np.float32(box.dy)
    return Patch(slice(top, bottom), slice(left, right), dx * x + dy * y, dx * y - dy * x)


def cover_of(patch: Patch, box: Box) -> Field:
    """Share of each pixel of the patch that the box covers."""
    along = np.clip(np.float32(box.length / 2 + 0.5) - np.abs(patch.along), 0, 1)
    return (along * np.clip(np.float32(box.width / 2 + 0.5) - np.abs(patch.across), 0, 1)).astype(np.float32)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number of `low`..`high` in 1/1024 steps."""
    return low + (high - low) * int(rng.integers(0, 1025)) / 1024


def build_settlement(rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas, sun: tuple[float, float]) -> list[Box]:
    """Build along the roads; returns the car parks."""
    taken = canvas.label != FIELD
    parks: list[Box] = []
    roads = [line for line in layout.lines if line.kind != "track"]
    for line in roads:
        for side in (-1, 1):
            at = max(line.start, -0.75 * canvas.size) + uniform(rng, 5, 30)
            end = min(line.end, 0.75 * canvas.size)
            while at < end:
                at += _build_plot(rng, layout, look, canvas, sun, line, side, at, taken, parks)
    return parks


def _build_plot(
    rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas, sun: tuple[float, float], line: Line,
    side: int, at: float, taken: NDArray[np.bool_], parks: list[Box],
) -> float:  # fmt: skip
    """Perhaps build at one place beside a road; returns how far along the next one lies."""
    hall = uniform(rng, 0, 1) < layout.theme.large
    length = uniform(rng, 44, 84) if hall else uniform(rng, 19, 32)
    width = uniform(rng, 28, 46) if hall else uniform(rng, 15, 21)
    setback = uniform(rng, 7, 14) + (5 if hall else 0)
    step = length + uniform(rng, 8, 22)
    across = line.at + side * (line.half_width + setback + width / 2)
    u, v = (across, at + length / 2) if line.axis == "u" else (at + length / 2, across)
    box = _box(layout, line.axis, u, v, length, width, uniform(rng, -0.05, 0.05))
    chance, dice = _at(layout.town, box), uniform(rng, 0, 1)
    if chance is None or dice > max(chance, 0.03) or not _is_free(taken, box, 4.0):
        return step
    if hall and uniform(rng, 0, 1) < 0.7:
        _pave_car_park(rng, layout, look, canvas, line, side, at, length, setback, width, taken, parks)
    elif uniform(rng, 0, 1) < 0.7:
        _pave_drive(rng, layout, look, canvas, line, side, at, setback, taken)
    _raise_roof(rng, look, canvas, box, hall, sun)
    if not hall and uniform(rng, 0, 1) < 0.45:
        wing = Box(
            box.x - side * box.dy * 5 + box.dx * length * 0.22, box.y + side * box.dx * 5 + box.dy * length * 0.22,
            -box.dy, box.dx, width * 1.25, length * 0.42,
        )  # fmt: skip
        if _is_free(taken, wing, 2.0):
            _raise_roof(rng, look, canvas, wing, False, sun)
    _take(taken, box)
    return step


def _box(layout: Layout, axis: str, u: float, v: float, length: float, width: float, turn: float = 0.0) -> Box:
    x, y = layout.frame.to_pixel(u, v)
    dx, dy = layout.frame.direction(u, v, axis)
    dx, dy = dx - turn * dy, dy + turn * dx
    norm = math.sqrt(dx * dx + dy * dy)
    return Box(x, y, dx / norm, dy / norm, length, width)


def _at(values: Field, box: Box) -> float | None:
    row, col = int(box.y), int(box.x)
    return float(values[row, col]) if 0 <= row < values.shape[0] and 0 <= col < values.shape[1] else None


def _is_free(taken: NDArray[np.bool_], box: Box, margin: float) -> bool:
    patch = patch_of(box, taken.shape[0], margin + 1)
    if patch is None:
        return False
    inside = (np.abs(patch.along) < box.length / 2 + margin) & (np.abs(patch.across) < box.width / 2 + margin)
    return not bool((taken[patch.rows, patch.cols] & inside).any())


def _take(taken: NDArray[np.bool_], box: Box) -> None:
    patch = patch_of(box, taken.shape[0])
    if patch is not None:
        taken[patch.rows, patch.cols] |= cover_of(patch, box) > 0


def _raise_roof(rng: np.random.Generator, look: Look, canvas: Canvas, box: Box, hall: bool, sun: tuple[float, float]) -> None:
    kind = int(rng.integers(2, 4)) if hall else int(rng.integers(0, 4)) if rng.random() < 0.5 else int(rng.integers(0, 2))
    tint = uniform(rng, 0.84, 1.14)
    eaves, flat = uniform(rng, 8, 24) if hall else uniform(rng, 6, 10), hall or rng.random() < 0.12
    patch = patch_of(box, canvas.size)
    if patch is None:
        return
    window = (patch.rows, patch.cols)
    roof = cover_of(patch, box)
    inside = (np.abs(patch.along) <= box.length / 2) & (np.abs(patch.across) <= box.width / 2)
    texture = 1 + np.float32(0.03) * grain(rng, roof.shape)
    edge = np.minimum(box.length / 2 - np.abs(patch.along), box.width / 2 - np.abs(patch.across))
    if flat:
        texture = texture + np.float32(0.05) * wave((patch.along + np.float32(99)) * np.float32(1 / uniform(rng, 6, 15)))
        texture = texture * (1 + np.float32(0.16) * (edge < 1.6))  # parapet
        height, relief = np.float32(eaves) + 0 * roof, 1 + 0 * roof
    else:
        facing = np.where(patch.across > 0, np.float32(1), np.float32(-1))
        light = -box.dy * sun[0] + box.dx * sun[1]
        relief = 1 + np.float32(0.42 * light) * facing
        texture = texture + np.float32(0.04) * wave(patch.across * np.float32(0.3))
        texture = texture * (1 + np.float32(0.10) * (np.abs(patch.across) < 0.7)) * (1 - np.float32(0.12) * (edge < 0.8))
        height = np.float32(eaves) + np.float32(0.7) * (np.float32(box.width / 2) - np.abs(patch.across))
    for band in range(3):
        part = canvas.albedo[band][window]
        part += roof * (np.float32(look.roofs[kind][band] * tint) * texture - part)
    canvas.height[window] = np.where(inside, np.maximum(height, canvas.height[window]), canvas.height[window])
    canvas.relief[window] = np.where(inside, relief, canvas.relief[window])
    canvas.label[window] = np.where(inside, np.uint8(BUILDING), canvas.label[window])
    _add_roof_details(rng, canvas, box, hall)


def _add_roof_details(rng: np.random.Generator, canvas: Canvas, box: Box, hall: bool) -> None:
    """Chimneys, skylights, solar panels and machines."""
    for _ in range(int(rng.integers(2, 7)) if hall else int(rng.integers(0, 3))):
        a, b = uniform(rng, -0.38, 0.38) * box.length, uniform(rng, -0.34, 0.34) * box.width
        length, width = (uniform(rng, 3, 9), uniform(rng, 2, 6)) if hall else (uniform(rng, 2, 5), uniform(rng, 2, 3))
        tone = (0.20, 0.22, 0.27) if rng.random() < 0.55 else (0.74, 0.73, 0.71)
        part = Box(box.x + box.dx * a - box.dy * b, box.y + box.dy * a + box.dx * b, box.dx, box.dy, length, width)
        patch = patch_of(part, canvas.size)
        if patch is None:
            continue
        window = (patch.rows, patch.cols)
        cover = cover_of(patch, part) * (canvas.label[window] == BUILDING)
        for band in range(3):
            canvas.albedo[band][window] += np.float32(0.8) * cover * (np.float32(tone[band]) - canvas.albedo[band][window])


def _pave(rng: np.random.Generator, look: Look, canvas: Canvas, box: Box, taken: NDArray[np.bool_], tone: float) -> None:
    patch = patch_of(box, canvas.size)
    if patch is None:
        return
    window = (patch.rows, patch.cols)
    ground = canvas.label[window] == FIELD
    cover = cover_of(patch, box) * ground
    gain = np.float32(tone) * (1 + np.float32(0.035) * grain(rng, cover.shape))
    for band in range(3):
        canvas.albedo[band][window] += cover * (np.float32(look.asphalt[band]) * gain - canvas.albedo[band][window])
    canvas.label[window] = np.where(ground & (cover > 0.5), np.uint8(ROAD), canvas.label[window])
    taken[window] |= cover > 0


def _pave_drive(
    rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas, line: Line, side: int, at: float,
    setback: float, taken: NDArray[np.bool_],
) -> None:  # fmt: skip
    across, along = line.at + side * (line.half_width + setback / 2), at + uniform(rng, 4, 14)
    u, v = (across, along) if line.axis == "u" else (along, across)
    box = _box(layout, "v" if line.axis == "u" else "u", u, v, setback + 2, uniform(rng, 5, 8))
    _pave(rng, look, canvas, box, taken, uniform(rng, 0.95, 1.25))


def _pave_car_park(
    rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas, line: Line, side: int, at: float,
    length: float, setback: float, width: float, taken: NDArray[np.bool_], parks: list[Box],
) -> None:  # fmt: skip
    depth = 34.0
    across = line.at + side * (line.half_width + setback + width + depth / 2 + 1)
    u, v = (across, at + length / 2) if line.axis == "u" else (at + length / 2, across)
    box = _box(layout, line.axis, u, v, length, depth)
    if _at(layout.town, box) is None or not _is_free(taken, box, 1.0):
        return
    _pave(rng, look, canvas, box, taken, uniform(rng, 0.9, 1.2))
    across = line.at + side * (line.half_width + (setback + width) / 2)
    u, v = (across, at - 5) if line.axis == "u" else (at - 5, across)
    _pave(rng, look, canvas, _box(layout, "v" if line.axis == "u" else "u", u, v, setback + width + 4, 8), taken, 1.0)
    parks.append(box)
