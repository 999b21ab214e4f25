"""Noise and filters of the demo world.

Only additions, multiplications, square roots and look-ups: these are exact in IEEE 754 whatever the processor or the
numpy version, while vectorised sines, exponentials and powers differ in the last bit. A golden hash needs that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def wave(phase: Field) -> Field:
    """A sine of `phase` cycles made of two parabolas, in [-1, 1]."""
    p = phase - np.floor(phase) - np.float32(0.5)
    arches: Field = p * (np.float32(16) * np.abs(p) - np.float32(8))
    return arches


def smoothstep(values: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, a cubic between."""
    t = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    step: Field = t * t * (np.float32(3) - np.float32(2) * t)
    return step


def _interpolated(lattice: Field, axis: int, size: int, period: float, offset: float) -> Field:
    """Quadratic B-spline interpolation of a lattice along one axis: smooth, without the diamonds of linear noise."""
    position = (np.arange(size, dtype=np.float32) + np.float32(offset)) * np.float32(1 / period) + np.float32(1)
    cell = np.floor(position).astype(np.int64)
    t = (position - cell).astype(np.float32)
    shape = [1, 1]
    shape[axis] = size
    left, right = (np.float32(0.5) * (1 - t) * (1 - t)).reshape(shape), (np.float32(0.5) * t * t).reshape(shape)
    sides = left * lattice.take(cell - 1, axis) + right * lattice.take(cell + 1, axis)
    return np.asarray(sides + (1 - left - right) * lattice.take(cell, axis), dtype=np.float32)


def value_noise(rng: np.random.Generator, size: int, period: float) -> Field:
    """Smooth noise in [-1, 1] over ``size x size`` pixels whose features are about `period` pixels wide."""
    cells = int(size / period) + 5
    lattice = rng.random((cells, cells), dtype=np.float32) * np.float32(2) - np.float32(1)
    offset = float(rng.integers(0, 1024)) / 1024 * period
    wide = _interpolated(lattice, 1, size, period, offset)  # the short way first: rows are then copied whole
    return _interpolated(wide, 0, size, period, offset)


def fractal_noise(rng: np.random.Generator, size: int, period: float, octaves: int, gain: float = 0.55) -> Field:
    """A sum of value noises, each half as wide as the one before."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for octave in range(octaves):
        total += np.float32(weight) * value_noise(rng, size, max(period / 2**octave, 1.5))
        weight *= gain
    return total


def grain(rng: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """White noise of mean 0 and standard deviation 1: the sum of three uniform bytes, so that it is exact."""
    raw = rng.integers(0, 256, size=(3, *shape), dtype=np.uint8)
    total = raw[0].astype(np.float32) + raw[1] + raw[2]
    white: Field = (total - np.float32(382.5)) * np.float32(1 / 128)
    return white


def blur(image: Field, passes: int) -> Field:
    """Binomial smoothing of the last two axes; each pass adds a variance of half a pixel squared."""
    for _ in range(passes):
        for axis in (-2, -1):
            pad = [(0, 0)] * image.ndim
            pad[axis] = (1, 1)
            padded = np.moveaxis(np.pad(image, pad, mode="edge"), axis, 0)
            smooth = (padded[:-2] + padded[2:]) * np.float32(0.25) + padded[1:-1] * np.float32(0.5)
            image = np.moveaxis(smooth, 0, axis)
    return np.ascontiguousarray(image, dtype=np.float32)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number of `low`..`high` in 1/1024 steps."""
    return low + (high - low) * int(rng.integers(0, 1025)) / 1024
