"""How a region looks from above: season, roofs, light, air and sensor."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[float, float, float]
Palette: TypeAlias = tuple[Colour, ...]


@dataclass(frozen=True)
class Look:
    """Colours are reflectances of red, green, blue in [0, 1]; the rest is in the units given below."""

    crops: Palette  # six kinds of parcel
    grass: Colour
    soil: Colour
    trees: Palette  # four kinds of crown
    water: Colour
    shallow: Colour
    asphalt: Colour
    track: Colour
    roofs: Palette  # four kinds of roof
    haze: float  # share of light scattered by the air
    haze_colour: Colour
    cast: Colour  # gain of each band
    contrast: float
    brightness: float
    saturation: float
    blur: float  # passes of a binomial filter
    noise: float  # standard deviation in grey levels
    sun: Colour  # unit-free direction to the sun: right, up the image, height
    shade: float  # light left in a shadow


SUMMER = Look(
    crops=(
        (0.36, 0.46, 0.20), (0.62, 0.55, 0.32), (0.27, 0.41, 0.17),
        (0.45, 0.36, 0.25), (0.42, 0.50, 0.26), (0.53, 0.50, 0.30),
    ),
    grass=(0.38, 0.47, 0.25),
    soil=(0.50, 0.41, 0.29),
    trees=((0.15, 0.27, 0.11), (0.20, 0.33, 0.14), (0.12, 0.23, 0.12), (0.26, 0.36, 0.16)),
    water=(0.10, 0.20, 0.25),
    shallow=(0.27, 0.34, 0.30),
    asphalt=(0.42, 0.42, 0.43),
    track=(0.62, 0.56, 0.45),
    roofs=((0.62, 0.33, 0.25), (0.54, 0.29, 0.22), (0.45, 0.40, 0.38), (0.70, 0.68, 0.65)),
    haze=0.05, haze_colour=(0.62, 0.68, 0.74), cast=(1.0, 1.0, 1.0), contrast=1.05, brightness=1.14, saturation=1.0,
    blur=1.0, noise=2.5, sun=(-0.55, -0.45, 0.80), shade=0.42,
)  # fmt: skip
SPRING = Look(
    crops=(
        (0.34, 0.52, 0.22), (0.76, 0.72, 0.22), (0.46, 0.37, 0.28),
        (0.54, 0.44, 0.34), (0.40, 0.55, 0.28), (0.30, 0.47, 0.20),
    ),
    grass=(0.38, 0.53, 0.27),
    soil=(0.53, 0.42, 0.32),
    trees=((0.27, 0.41, 0.16), (0.34, 0.46, 0.20), (0.16, 0.28, 0.15), (0.42, 0.44, 0.28)),
    water=(0.21, 0.28, 0.26),
    shallow=(0.36, 0.38, 0.32),
    asphalt=(0.48, 0.47, 0.47),
    track=(0.60, 0.53, 0.44),
    roofs=((0.42, 0.40, 0.42), (0.32, 0.32, 0.35), (0.57, 0.36, 0.29), (0.64, 0.62, 0.60)),
    haze=0.20, haze_colour=(0.60, 0.69, 0.80), cast=(0.95, 1.0, 1.08), contrast=0.88, brightness=1.12, saturation=0.85,
    blur=2.0, noise=4.0, sun=(0.60, -0.25, 0.90), shade=0.50,
)  # fmt: skip
DRY = Look(
    crops=(
        (0.66, 0.57, 0.40), (0.58, 0.46, 0.33), (0.46, 0.45, 0.27),
        (0.60, 0.42, 0.30), (0.70, 0.62, 0.45), (0.38, 0.42, 0.22),
    ),
    grass=(0.60, 0.53, 0.36),
    soil=(0.64, 0.47, 0.34),
    trees=((0.25, 0.29, 0.17), (0.31, 0.34, 0.21), (0.20, 0.25, 0.15), (0.37, 0.37, 0.25)),
    water=(0.13, 0.31, 0.34),
    shallow=(0.38, 0.47, 0.42),
    asphalt=(0.50, 0.48, 0.45),
    track=(0.74, 0.64, 0.50),
    roofs=((0.72, 0.48, 0.34), (0.80, 0.76, 0.69), (0.66, 0.42, 0.31), (0.86, 0.84, 0.80)),
    haze=0.03, haze_colour=(0.72, 0.70, 0.64), cast=(1.06, 1.0, 0.92), contrast=1.15, brightness=1.05, saturation=1.05,
    blur=1.0, noise=3.5, sun=(-0.15, 0.75, 0.95), shade=0.34,
)  # fmt: skip
AUTUMN = Look(
    crops=(
        (0.43, 0.34, 0.27), (0.34, 0.42, 0.22), (0.50, 0.42, 0.31),
        (0.38, 0.30, 0.24), (0.48, 0.47, 0.29), (0.55, 0.48, 0.33),
    ),
    grass=(0.40, 0.43, 0.25),
    soil=(0.44, 0.34, 0.27),
    trees=((0.45, 0.29, 0.13), (0.52, 0.40, 0.16), (0.19, 0.25, 0.13), (0.38, 0.22, 0.13)),
    water=(0.13, 0.17, 0.18),
    shallow=(0.28, 0.27, 0.22),
    asphalt=(0.36, 0.36, 0.38),
    track=(0.52, 0.44, 0.35),
    roofs=((0.55, 0.30, 0.24), (0.37, 0.30, 0.28), (0.45, 0.44, 0.45), (0.62, 0.60, 0.57)),
    haze=0.12, haze_colour=(0.70, 0.67, 0.62), cast=(1.08, 0.99, 0.90), contrast=0.95, brightness=1.0, saturation=0.92,
    blur=1.5, noise=5.5, sun=(-0.85, 0.20, 0.55), shade=0.40,
)  # fmt: skip
NORTH = Look(
    crops=(
        (0.30, 0.40, 0.26), (0.48, 0.46, 0.36), (0.36, 0.44, 0.30),
        (0.38, 0.34, 0.30), (0.42, 0.46, 0.34), (0.27, 0.36, 0.22),
    ),
    grass=(0.36, 0.42, 0.28),
    soil=(0.40, 0.36, 0.32),
    trees=((0.11, 0.19, 0.14), (0.14, 0.23, 0.16), (0.10, 0.17, 0.13), (0.24, 0.30, 0.19)),
    water=(0.07, 0.12, 0.19),
    shallow=(0.20, 0.25, 0.27),
    asphalt=(0.33, 0.34, 0.36),
    track=(0.48, 0.45, 0.41),
    roofs=((0.27, 0.27, 0.29), (0.48, 0.22, 0.20), (0.40, 0.40, 0.42), (0.56, 0.56, 0.57)),
    haze=0.13, haze_colour=(0.57, 0.63, 0.72), cast=(0.94, 1.0, 1.07), contrast=0.92, brightness=0.98, saturation=0.84,
    blur=2.5, noise=7.0, sun=(0.45, 0.70, 0.60), shade=0.46,
)  # fmt: skip

LOOKS = (SUMMER, SPRING, DRY, AUTUMN, NORTH)


def _mixed(a: float | tuple[object, ...], b: float | tuple[object, ...], share: float) -> object:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(_mixed(x, y, share) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]
    assert isinstance(a, float)
    assert isinstance(b, float)
    return a * (1 - share) + b * share


def mix_looks(a: Look, b: Look, share: float) -> Look:
    """The look `share` of the way from `a` to `b`."""
    return Look(**{f.name: _mixed(getattr(a, f.name), getattr(b, f.name), share) for f in fields(Look)})  # type: ignore[arg-type]


def scene_look(rng: np.random.Generator, region: int, reach: float) -> Look:
    """The look of one scene: its region's, moved up to `reach` of the way to another's, so that regions overlap."""
    other = (region + 1 + int(rng.integers(0, len(LOOKS) - 1))) % len(LOOKS)
    return mix_looks(LOOKS[region], LOOKS[other], reach * float(rng.integers(0, 1025)) / 1024)
