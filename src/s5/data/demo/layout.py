"""Where things lie in a scene: parcels, settlement, water, roads and woods, as maps over the pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s5.data.demo.noise import Field, fractal_noise, value_noise, wave

IntMap = NDArray[np.int32]


@dataclass(frozen=True)
class Theme:
    """What kind of place a scene is."""

    name: str
    water: str  # "river", "lake", "stream" or "none"
    settlement: float  # share of the plots along roads that are built on
    large: float  # share of the buildings that are halls or blocks
    woods: float  # share of the land under trees


THEMES = {
    theme.name: theme
    for theme in (
        Theme("village", "stream", 0.85, 0.15, 0.16),
        Theme("farmland", "none", 0.30, 0.30, 0.10),
        Theme("lakeside", "lake", 0.55, 0.15, 0.30),
        Theme("riverside", "river", 0.75, 0.25, 0.20),
        Theme("woodland", "stream", 0.25, 0.10, 0.62),
        Theme("town", "river", 0.95, 0.45, 0.08),
    )
}


@dataclass(frozen=True)
class Line:
    """A road: the coordinate `axis` ("u" or "v") of the scene's frame is `at`, the other runs from `start` to `end`."""

    axis: str
    at: float
    start: float
    end: float
    half_width: float
    kind: str  # "main", "street" or "track"


@dataclass(frozen=True)
class Frame:
    """Bent coordinates along which parcels and roads are straight: pixel to (u, v) and back."""

    size: int
    cos: float
    sin: float
    bend_u: Field
    bend_v: Field
    u: Field
    v: Field

    def to_pixel(self, u: float, v: float) -> tuple[float, float]:
        """Column and row of a point given in the frame, by fixed-point iteration."""
        half, x, y = self.size / 2, 0.0, 0.0
        bend_u = bend_v = 0.0
        for _ in range(5):
            du, dv = u - bend_u, v - bend_v
            x, y = half + self.cos * du - self.sin * dv, half + self.sin * du + self.cos * dv
            col, row = (min(max(int(k), 0), self.size - 1) for k in (x, y))
            bend_u, bend_v = float(self.bend_u[row, col]), float(self.bend_v[row, col])
        return x, y

    def direction(self, u: float, v: float, axis: str) -> tuple[float, float]:
        """Unit vector in pixels along which `axis` stays the same."""
        step = (0.0, 6.0) if axis == "u" else (6.0, 0.0)
        x0, y0 = self.to_pixel(u - step[0], v - step[1])
        x1, y1 = self.to_pixel(u + step[0], v + step[1])
        length = math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
        return ((x1 - x0) / length, (y1 - y0) / length) if length > 1 else (self.cos, self.sin)


@dataclass(frozen=True)
class Layout:
    """All maps are ``[size, size]``; distances are in pixels."""

    frame: Frame
    theme: Theme
    parcel: IntMap
    margin: Field  # distance to the parcel's edge
    along_u: NDArray[np.bool_]  # whether the rows of the parcel run along u
    shore: Field  # distance to the shore, positive in the water
    lines: tuple[Line, ...]
    town: Field  # share of plots built on
    woods: Field  # above 0 in woods


def make_layout(rng: np.random.Generator, size: int, theme: Theme) -> Layout:
    """Lay a scene out."""
    frame = _make_frame(rng, size)
    cuts_u, parcel, margin, cuts_v, along_u = _cut_parcels(rng, frame)
    main_at = float(cuts_u[np.argmin(np.abs(cuts_u))])
    shore = _lay_water(rng, frame, theme.water, main_at)
    lines = _lay_roads(rng, size, cuts_u, cuts_v, theme)
    main = lines[0]
    blob = fractal_noise(rng, size, 180, 2)
    reach = np.float32(70 + 130 * theme.settlement)
    near = 1 - np.abs(frame.u - np.float32(main.at)) / reach + np.float32(0.35) * blob
    town = np.clip(near * np.float32(2), 0, 1) * np.float32(theme.settlement)
    woods = fractal_noise(rng, size, 210, 3) - np.float32(0.9) * town
    threshold = np.partition(woods.ravel(), int((1 - theme.woods) * (woods.size - 1)))[
        int((1 - theme.woods) * (woods.size - 1))
    ]
    return Layout(frame, theme, parcel, margin, along_u, shore, lines, town, woods - threshold)


def _make_frame(rng: np.random.Generator, size: int) -> Frame:
    angle = math.radians(float(rng.integers(0, 180)))
    cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)
    bend_u = np.float32(16) * value_noise(rng, size, 230) + np.float32(2) * value_noise(rng, size, 60)
    bend_v = np.float32(16) * value_noise(rng, size, 230) + np.float32(2) * value_noise(rng, size, 60)
    x = np.arange(size, dtype=np.float32)[None, :] - np.float32(size / 2)
    y = np.arange(size, dtype=np.float32)[:, None] - np.float32(size / 2)
    u = np.float32(cos) * x + np.float32(sin) * y + bend_u
    v = np.float32(cos) * y - np.float32(sin) * x + bend_v
    return Frame(size, cos, sin, bend_u, bend_v, u, v)


def _cuts(rng: np.random.Generator, reach: float, low: int, high: int) -> Field:
    """Increasing coordinates from before -`reach` to beyond `reach`, `low`..`high` pixels apart."""
    cuts = [-reach - float(rng.integers(0, low))]
    while cuts[-1] < reach:
        cuts.append(cuts[-1] + float(rng.integers(low, high)))
    return np.array(cuts, np.float32)


def _cut_parcels(rng: np.random.Generator, frame: Frame) -> tuple[Field, IntMap, Field, list[Field], NDArray[np.bool_]]:
    """Strips of land between cuts in u, each divided by its own cuts in v."""
    reach = 0.75 * frame.size + 20
    cuts_u = _cuts(rng, reach, 75, 165)
    strip = np.clip(np.searchsorted(cuts_u, frame.u, side="right") - 1, 0, len(cuts_u) - 2)
    margin = np.minimum(frame.u - cuts_u[strip], cuts_u[strip + 1] - frame.u)
    parcel = np.zeros(frame.u.shape, np.int32)
    all_cuts = []
    first = 0
    for index in range(len(cuts_u) - 1):
        cuts = _cuts(rng, reach, 90, 230)
        all_cuts.append(cuts)
        inside = strip == index
        v = frame.v[inside]
        plot = np.clip(np.searchsorted(cuts, v, side="right") - 1, 0, len(cuts) - 2)
        parcel[inside] = first + plot
        margin[inside] = np.minimum(margin[inside], np.minimum(v - cuts[plot], cuts[plot + 1] - v))
        first += len(cuts)
    rows_along_u = rng.random(first) < 0.3
    return cuts_u, parcel, margin.astype(np.float32), all_cuts, rows_along_u[parcel]


def _lay_water(rng: np.random.Generator, frame: Frame, kind: str, main_at: float) -> Field:
    size = frame.size
    ripple = np.float32(7) * value_noise(rng, size, 48) + np.float32(2.5) * value_noise(rng, size, 14)
    if kind == "none":
        return np.full((size, size), -1e3, np.float32)
    if kind == "lake":
        # beside the main road, on the side where more of the scene lies
        radius = min(0.30 * size, 140) * (0.8 + 0.4 * int(rng.integers(0, 1025)) / 1024)
        u = main_at + (-1 if main_at > 0 else 1) * (1.15 * radius + 22)
        v = float(rng.integers(-size // 5, size // 5 + 1))
        shape = np.float32(0.75 * radius) * value_noise(rng, size, 120) + np.float32(0.4 * radius) * value_noise(
            rng, size, 60
        )
        away = np.sqrt((frame.u - np.float32(u)) ** 2 + np.float32(0.6) * (frame.v - np.float32(v)) ** 2)
        road = np.abs(frame.u - np.float32(main_at)) - np.float32(14) + ripple
        return np.asarray(np.minimum(np.float32(radius) - away + shape + ripple, road), dtype=np.float32)
    # across the parcels' v, so that it meets the main road once
    bow = np.float32(26) * wave(frame.u * np.float32(1 / 410) + np.float32(float(rng.integers(0, 1024)) / 1024))
    offset = float(rng.integers(-size // 5, size // 5 + 1))
    half_width = float(rng.integers(26, 46)) if kind == "river" else float(rng.integers(8, 13))
    slack = np.float32(1 if kind == "river" else 0.3)
    bank = np.float32(half_width) - np.abs(frame.v - np.float32(offset) + bow)
    return np.asarray(bank + slack * ripple, dtype=np.float32)


def _lay_roads(
    rng: np.random.Generator, size: int, cuts_u: Field, cuts_v: list[Field], theme: Theme
) -> tuple[Line, ...]:
    """A main road on the cut nearest to the middle, streets off it in settlements, tracks on other cuts."""
    order = np.argsort(np.abs(cuts_u), kind="stable")
    main_at = float(cuts_u[order[0]])
    lines = [Line("u", main_at, -2.0 * size, 2.0 * size, float(rng.integers(6, 10)), "main")]
    reach = 70 + 130 * theme.settlement
    if theme.settlement > 0.4:
        at = -0.75 * size + float(rng.integers(0, 90))
        while at < 0.75 * size:
            left, right = (float(rng.integers(40, 100)) / 100 * reach for _ in range(2))
            lines.append(Line("v", at, main_at - left, main_at + right, float(rng.integers(4, 7)), "street"))
            at += float(rng.integers(95, 165))
    for index in order[1:]:
        if rng.random() < 0.5:
            lines.append(
                Line("u", float(cuts_u[index]), -2.0 * size, 2.0 * size, float(rng.integers(20, 34)) / 10, "track")
            )
    for index, cuts in enumerate(cuts_v):
        for at in cuts[1:-1]:
            if rng.random() < 0.16:
                start, end = float(cuts_u[index]), float(cuts_u[index + 1])
                lines.append(Line("v", float(at), start, end, float(rng.integers(20, 30)) / 10, "track"))
    return tuple(lines)
