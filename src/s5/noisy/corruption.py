"""Noise models: clean label maps made wrong at a known rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]

KINDS = ("symmetric", "shift")


@dataclass(frozen=True)
class CorruptionConfig:
    """One noise model at one rate.

    Args:
        kind: ``"symmetric"``: each pixel gets any other class, pixels and classes drawn independently. ``"shift"``: the
            map is moved as a whole in a direction that is drawn, as by an error of its georeference.
        rate: Share of the labelled pixels that hold another class afterwards, in [0, 1).
    """

    kind: str = "symmetric"
    rate: float = 0.3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate: expected a share in [0, 1), got {self.rate!r}")


def corrupt(
    mask_HW: Labels, config: CorruptionConfig, rng: np.random.Generator, *, classes: int, ignore_index: int
) -> Labels:
    """A label map made wrong; pixels without a label stay without one."""
    known = mask_HW != ignore_index
    noisy = _symmetric(mask_HW, config.rate, rng, classes) if config.kind == "symmetric" else mask_HW
    if config.kind == "shift":
        noisy = _shifted(mask_HW, config.rate, rng, known)
    result: Labels = np.where(known, noisy, ignore_index).astype(np.uint8)
    return result


def _symmetric(mask: Labels, rate: float, rng: np.random.Generator, classes: int) -> Labels:
    other = (mask.astype(np.int64) + rng.integers(1, classes, mask.shape)) % classes
    noisy: Labels = np.where(rng.random(mask.shape) < rate, other, mask).astype(np.uint8)
    return noisy


def _shifted(mask: Labels, rate: float, rng: np.random.Generator, known: NDArray[np.bool_]) -> Labels:
    """The map moved as far as it takes to be wrong at the rate, or to where it is nearest to that."""
    angle = rng.random() * 2 * np.pi
    best, miss = mask, rate
    for distance in range(1, max(mask.shape)):
        rows = np.clip(np.arange(mask.shape[0]) - round(distance * np.sin(angle)), 0, mask.shape[0] - 1)
        columns = np.clip(np.arange(mask.shape[1]) - round(distance * np.cos(angle)), 0, mask.shape[1] - 1)
        moved = np.where(known[np.ix_(rows, columns)], mask[np.ix_(rows, columns)], mask)
        wrong = float((moved != mask)[known].mean()) if known.any() else 0.0
        if abs(wrong - rate) < miss:
            best, miss = moved, abs(wrong - rate)
        if wrong >= rate:
            break
    return best
