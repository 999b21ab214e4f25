"""Houses, halls, drives and car parks along the roads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.boxes import Box, cover_of, patch_of
from s5.data.demo.config import BUILDING, FIELD, ROAD
from s5.data.demo.ground import Canvas
from s5.data.demo.layout import Layout, Line
from s5.data.demo.looks import Look
from s5.data.demo.noise import grain, uniform, wave


def build_settlement(
    rng: np.random.Generator, layout: Layout, look: Look, canvas: Canvas, sun: tuple[float, float]
) -> list[Box]:
    """Build along the roads; returns the car parks.

    Args:
        rng: Source of everything random.
        layout: Where the roads are.
        look: Colours of roofs and paving.
        canvas: What is painted on.
        sun: Unit vector (column, row) towards the sun.
    """
    builder = _Builder(rng, layout, look, canvas, sun, canvas.label != FIELD, [])
    half = 0.75 * canvas.size
    for line in layout.lines:
        if line.kind == "track":
            continue
        for side in (-1, 1):
            at = max(line.start, -half) + uniform(rng, 5, 30)
            while at < min(line.end, half):
                at += builder.build_plot(line, side, at)
    return builder.parks


@dataclass(frozen=True)
class _Plot:
    """A place beside a road: `side` of the line, from `at` along it; sizes in pixels."""

    line: Line
    side: int
    at: float
    length: float
    width: float
    setback: float

    def spot(self, across: float, along: float) -> tuple[float, float]:
        """Frame coordinates of a point `across` pixels from the road's edge and at `along`."""
        u = self.line.at + self.side * (self.line.half_width + across)
        return (u, along) if self.line.axis == "u" else (along, u)


@dataclass(frozen=True)
class _Builder:
    rng: np.random.Generator
    layout: Layout
    look: Look
    canvas: Canvas
    sun: tuple[float, float]
    taken: NDArray[np.bool_]
    parks: list[Box]

    def build_plot(self, line: Line, side: int, at: float) -> float:
        """Perhaps build at one place beside a road; returns how far along the next one lies."""
        rng = self.rng
        hall = uniform(rng, 0, 1) < self.layout.theme.large
        length = uniform(rng, 44, 84) if hall else uniform(rng, 19, 32)
        width = uniform(rng, 28, 46) if hall else uniform(rng, 15, 21)
        plot = _Plot(line, side, at, length, width, uniform(rng, 7, 14) + (5 if hall else 0))
        step = length + uniform(rng, 6, 15)
        box = self._box(
            plot, plot.setback + width / 2, at + length / 2, (length, width), turn=uniform(rng, -0.05, 0.05)
        )
        chance, dice = self._town_at(box), uniform(rng, 0, 1)
        if chance is None or dice > max(chance, 0.03) or not self._is_free(box, 4.0):
            return step
        if hall and uniform(rng, 0, 1) < 0.7:
            self._pave_car_park(plot)
        elif uniform(rng, 0, 1) < 0.7:
            spot = plot.spot(plot.setback / 2, at + uniform(rng, 4, 14))
            self._pave_across(plot, spot, plot.setback + 2, uniform(rng, 5, 8), uniform(rng, 0.95, 1.25))
        self._raise_roof(box, hall)
        if not hall and uniform(rng, 0, 1) < 0.45:
            a, b = length * 0.22, side * 5
            wing = Box(
                box.x + box.dx * a - box.dy * b,
                box.y + box.dy * a + box.dx * b,
                -box.dy,
                box.dx,
                width * 1.25,
                length * 0.42,
            )
            if self._is_free(wing, 2.0):
                self._raise_roof(wing, False)
        self._take(box)
        return step

    def _box(self, plot: _Plot, across: float, along: float, size: tuple[float, float], turn: float = 0.0) -> Box:
        """A box of length and width `size` that runs along the road, turned a little."""
        u, v = plot.spot(across, along)
        x, y = self.layout.frame.to_pixel(u, v)
        dx, dy = self.layout.frame.direction(u, v, plot.line.axis)
        dx, dy = dx - turn * dy, dy + turn * dx
        norm = math.sqrt(dx * dx + dy * dy)
        return Box(x, y, dx / norm, dy / norm, *size)

    def _town_at(self, box: Box) -> float | None:
        row, col, size = int(box.y), int(box.x), self.canvas.size
        return float(self.layout.town[row, col]) if 0 <= row < size and 0 <= col < size else None

    def _is_free(self, box: Box, margin: float) -> bool:
        patch = patch_of(box, self.canvas.size, margin + 1)
        if patch is None:
            return False
        inside = (np.abs(patch.along) < box.length / 2 + margin) & (np.abs(patch.across) < box.width / 2 + margin)
        return not bool((self.taken[patch.rows, patch.cols] & inside).any())

    def _take(self, box: Box) -> None:
        patch = patch_of(box, self.canvas.size)
        if patch is not None:
            self.taken[patch.rows, patch.cols] |= cover_of(patch, box) > 0

    def _raise_roof(self, box: Box, hall: bool) -> None:
        rng, canvas, patch = self.rng, self.canvas, patch_of(box, self.canvas.size)
        if hall:
            kind = int(rng.integers(2, 4))
        else:
            kind = int(rng.integers(0, 4)) if rng.random() < 0.5 else int(rng.integers(0, 2))
        tint = uniform(rng, 0.84, 1.14)
        eaves = uniform(rng, 8, 24) if hall else uniform(rng, 6, 10)
        flat = hall or rng.random() < 0.12
        if patch is None:
            return
        inside = (np.abs(patch.along) <= box.length / 2) & (np.abs(patch.across) <= box.width / 2)
        edge = np.minimum(box.length / 2 - np.abs(patch.along), box.width / 2 - np.abs(patch.across))
        texture = 1 + np.float32(0.03) * grain(rng, inside.shape)
        if flat:
            seams = wave((patch.along + np.float32(99)) * np.float32(1 / uniform(rng, 6, 15)))
            texture = (texture + np.float32(0.05) * seams) * (1 + np.float32(0.16) * (edge < 1.6))  # parapet
            height, relief = np.full_like(texture, eaves), np.ones_like(texture)
        else:
            texture = texture + np.float32(0.04) * wave(patch.across * np.float32(0.3))
            texture = (
                texture * (1 + np.float32(0.10) * (np.abs(patch.across) < 0.7)) * (1 - np.float32(0.12) * (edge < 0.8))
            )
            height = np.float32(eaves) + np.float32(0.7) * (np.float32(box.width / 2) - np.abs(patch.across))
            facing = np.where(patch.across > 0, np.float32(1), np.float32(-1))
            relief = 1 + np.float32(0.42 * (box.dx * self.sun[1] - box.dy * self.sun[0])) * facing
        window, colour = (patch.rows, patch.cols), self.look.roofs[kind]
        canvas.blend_window(
            window, (colour[0] * tint, colour[1] * tint, colour[2] * tint), cover_of(patch, box), texture
        )
        canvas.height[window] = np.where(inside, np.maximum(height, canvas.height[window]), canvas.height[window])
        canvas.relief[window] = np.where(inside, relief, canvas.relief[window])
        canvas.label[window] = np.where(inside, np.uint8(BUILDING), canvas.label[window])
        self._add_roof_details(box, hall)

    def _add_roof_details(self, box: Box, hall: bool) -> None:
        """Chimneys, skylights, solar panels and machines."""
        rng = self.rng
        for _ in range(int(rng.integers(2, 7)) if hall else int(rng.integers(0, 3))):
            a, b = uniform(rng, -0.38, 0.38) * box.length, uniform(rng, -0.34, 0.34) * box.width
            length, width = (
                (uniform(rng, 3, 9), uniform(rng, 2, 6)) if hall else (uniform(rng, 2, 5), uniform(rng, 2, 3))
            )
            tone = (0.20, 0.22, 0.27) if rng.random() < 0.55 else (0.74, 0.73, 0.71)
            part = Box(box.x + box.dx * a - box.dy * b, box.y + box.dy * a + box.dx * b, box.dx, box.dy, length, width)
            patch = patch_of(part, self.canvas.size)
            if patch is not None:
                window = (patch.rows, patch.cols)
                on_roof = cover_of(patch, part) * (self.canvas.label[window] == BUILDING)
                self.canvas.blend_window(window, tone, np.float32(0.8) * on_roof)

    def _pave(self, box: Box, tone: float) -> None:
        patch = patch_of(box, self.canvas.size)
        if patch is None:
            return
        window = (patch.rows, patch.cols)
        ground = self.canvas.label[window] == FIELD
        cover = cover_of(patch, box) * ground
        gain = np.float32(tone) * (1 + np.float32(0.035) * grain(self.rng, cover.shape))
        self.canvas.blend_window(window, self.look.asphalt, cover, gain)
        self.canvas.label[window] = np.where(ground & (cover > 0.5), np.uint8(ROAD), self.canvas.label[window])
        self.taken[window] |= cover > 0

    def _pave_across(self, plot: _Plot, spot: tuple[float, float], length: float, width: float, tone: float) -> None:
        """A drive from the road at a right angle."""
        frame = self.layout.frame
        direction = frame.direction(*spot, "v" if plot.line.axis == "u" else "u")
        self._pave(Box(*frame.to_pixel(*spot), *direction, length, width), tone)

    def _pave_car_park(self, plot: _Plot) -> None:
        """A car park behind a hall, with a drive to it."""
        depth, behind = 34.0, plot.setback + plot.width
        box = self._box(plot, behind + depth / 2 + 1, plot.at + plot.length / 2, (plot.length, depth))
        if self._town_at(box) is None or not self._is_free(box, 1.0):
            return
        self._pave(box, uniform(self.rng, 0.9, 1.2))
        self._pave_across(plot, plot.spot(behind / 2, plot.at - 5), behind + 4, 8.0, 1.0)
        self.parks.append(box)
