"""Vehicles on roads and car parks, boats on water, and their oriented boxes."""

from __future__ import annotations

import math

import numpy as np

from s5.data.demo.boxes import Box, cover_of, patch_of
from s5.data.demo.config import ROAD, WATER
from s5.data.demo.ground import Canvas
from s5.data.demo.layout import Layout
from s5.data.demo.looks import Colour
from s5.data.demo.noise import uniform

_PAINTS: tuple[Colour, ...] = (
    (0.88, 0.88, 0.87), (0.85, 0.85, 0.86), (0.66, 0.67, 0.69), (0.12, 0.12, 0.14), (0.30, 0.31, 0.33),
    (0.62, 0.12, 0.11), (0.14, 0.22, 0.46), (0.42, 0.38, 0.30),
)  # fmt: skip
_HULLS: tuple[Colour, ...] = ((0.90, 0.90, 0.88), (0.84, 0.86, 0.88), (0.55, 0.42, 0.30), (0.72, 0.30, 0.24))


def drive_vehicles(rng: np.random.Generator, layout: Layout, canvas: Canvas, parks: list[Box]) -> list[Box]:
    """Draw vehicles; returns their boxes, of those that lie inside the scene."""
    boxes: list[Box] = []
    half = 0.75 * canvas.size
    for line in layout.lines:
        if line.kind == "track":
            continue
        at = max(line.start, -half) + uniform(rng, 5, 60)
        while at < min(line.end, half):
            side = -1 if rng.random() < 0.5 else 1
            across = line.at + side * line.half_width * (0.45 if line.kind == "main" else 0.55)
            u, v = (across, at) if line.axis == "u" else (at, across)
            x, y = layout.frame.to_pixel(u, v)
            dx, dy = layout.frame.direction(u, v, line.axis)
            boxes += _draw_vehicle(rng, canvas, Box(x, y, side * dx, side * dy, *_vehicle_size(rng), "vehicle"))
            at += uniform(rng, 30, 190) if line.kind == "main" else uniform(rng, 50, 220)
    for park in parks:
        boxes += _fill_car_park(rng, canvas, park)
    return boxes


def _vehicle_size(rng: np.random.Generator) -> tuple[float, float]:
    if rng.random() < 0.12:
        return uniform(rng, 15, 24), uniform(rng, 4.8, 5.2)  # lorries and buses
    return uniform(rng, 8.2, 10.2), uniform(rng, 3.6, 4.1)


def _fill_car_park(rng: np.random.Generator, canvas: Canvas, park: Box) -> list[Box]:
    boxes: list[Box] = []
    for row in (-0.31, 0.31):
        for stall in range(int(park.length / 5.6) - 1):
            a, b = -park.length / 2 + 5.6 * (stall + 1), row * park.width
            x, y = park.x + park.dx * a - park.dy * b, park.y + park.dy * a + park.dx * b
            mark = Box(x - park.dx * 2.8, y - park.dy * 2.8, -park.dy, park.dx, 10, 0.7)
            _cover(canvas, mark, (0.80, 0.80, 0.78), 0.7)
            if rng.random() < 0.5:
                turn = -1 if rng.random() < 0.5 else 1
                size = uniform(rng, 8.2, 9.6), uniform(rng, 3.5, 4.0)
                boxes += _draw_vehicle(rng, canvas, Box(x, y, -park.dy * turn, park.dx * turn, *size, "vehicle"))
    return boxes


def _cover(canvas: Canvas, box: Box, colour: Colour, share: float = 1.0) -> None:
    patch = patch_of(box, canvas.size)
    if patch is None:
        return
    canvas.blend_window((patch.rows, patch.cols), colour, np.float32(share) * cover_of(patch, box))


def _stands_on(canvas: Canvas, box: Box, label: int) -> bool:
    for x, y in box.corners():
        col, row = math.floor(x), math.floor(y)
        if not (0 <= col < canvas.size and 0 <= row < canvas.size) or canvas.label[row, col] != label:
            return False
    return True


def _draw_vehicle(rng: np.random.Generator, canvas: Canvas, box: Box) -> list[Box]:
    paint = _PAINTS[int(rng.integers(0, len(_PAINTS)))]
    if not _stands_on(canvas, box, ROAD):
        return []
    patch = patch_of(box, canvas.size)
    assert patch is not None
    _cover(canvas, box, paint)
    for at, length in ((0.16, 0.16), (-0.34, 0.11)):  # wind screen and rear window
        x, y = box.x + box.dx * box.length * at, box.y + box.dy * box.length * at
        _cover(canvas, Box(x, y, box.dx, box.dy, box.length * length, box.width * 0.85), (0.10, 0.12, 0.15), 0.85)
    window = (patch.rows, patch.cols)
    canvas.height[window] = np.maximum(canvas.height[window], np.float32(3.2) * (cover_of(patch, box) > 0.5))
    return [box]


def float_boats(rng: np.random.Generator, layout: Layout, canvas: Canvas) -> list[Box]:
    """Draw boats on open water; returns their boxes."""
    boxes: list[Box] = []
    spots = np.argwhere((layout.shore > 9) & (canvas.label == WATER))
    if not len(spots):
        return boxes
    for _ in range(2 + len(spots) // 4000):
        row, col = spots[int(rng.integers(0, len(spots)))]
        length = uniform(rng, 13, 30)
        turn = uniform(rng, -0.6, 0.6)
        moving = rng.random() < 0.45
        flip = -1 if rng.random() < 0.5 else 1
        cos, sin = layout.frame.cos * flip, layout.frame.sin * flip
        dx, dy = cos - turn * sin, sin + turn * cos
        norm = math.sqrt(dx * dx + dy * dy)
        box = Box(
            float(col) + 0.5, float(row) + 0.5, dx / norm, dy / norm, length, length * uniform(rng, 0.26, 0.36), "boat"
        )
        apart = all((box.x - b.x) ** 2 + (box.y - b.y) ** 2 > (box.length + b.length) ** 2 / 2 for b in boxes)
        if apart and _stands_on(canvas, box, WATER):
            _draw_boat(rng, canvas, box, moving)
            boxes.append(box)
    return boxes


def _draw_boat(rng: np.random.Generator, canvas: Canvas, box: Box, moving: bool) -> None:
    patch = patch_of(box, canvas.size, 60 if moving else 2)
    assert patch is not None
    window = (patch.rows, patch.cols)
    water = canvas.label[window] == WATER
    along = patch.along * np.float32(2 / box.length)
    taper = 1 - np.clip(along, 0, 1) * np.clip(along, 0, 1)
    half = np.float32(box.width / 2) * taper
    hull = np.clip(half - np.abs(patch.across) + np.float32(0.5), 0, 1) * (np.abs(along) <= 1)
    if moving:
        behind = np.clip(-along - np.float32(0.8), 0, 6)
        spread = np.abs(np.abs(patch.across) - behind * np.float32(box.width * 0.28))
        foam = np.clip(np.float32(2.0) - spread, 0, 1) * np.clip(1 - behind * np.float32(1 / 5.5), 0, 1) * (behind > 0)
        canvas.blend_window(window, (0.8, 0.8, 0.8), np.float32(0.55) * foam * water)
    canvas.blend_window(window, _HULLS[int(rng.integers(0, len(_HULLS)))], hull * water)
    canvas.height[window] = np.maximum(canvas.height[window], np.float32(3) * ((hull > 0.5) & water))
    x, y = box.x - box.dx * box.length * 0.12, box.y - box.dy * box.length * 0.12
    _cover(canvas, Box(x, y, box.dx, box.dy, box.length * 0.34, box.width * 0.6), (0.36, 0.38, 0.42), 0.8)
