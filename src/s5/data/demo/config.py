"""What the demo world holds, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = ("field", "forest", "water", "road", "building")
"""Mask values 0..4. field: open land (crops, grass, bare soil, gardens, shores). forest: tree crowns, in woods, hedges
and gardens. water: lakes and rivers with the boats on them. road: paved or beaten ground (streets, tracks, drives, car
parks, bridges) with the vehicles on it. building: roofs."""

FIELD, FOREST, WATER, ROAD, BUILDING = range(5)
EPSG = 32632
REGIONS = ("alder", "brenna", "corvo", "dunmar", "elsk")


@dataclass(frozen=True)
class DemoConfig:
    """How the demo world is made; the defaults give about 450 unlabelled tiles of 128 px.

    Args:
        seed: the same seed gives the same arrays, byte for byte.
        regions: number of regions, 1..5; the labelled tiles come from the first and the third.
        unlabeled_scenes: unlabelled scenes in a region, before `tiles`.
        tiles: 1, or 4 for four times the unlabelled scenes.
        labeled_scenes, val_scenes, test_scenes: scenes in a region (labelled: in each of the labelled regions).
        scene_size: side of an unlabelled scene in pixels.
        labeled_size, val_size, test_size: side of the other scenes in pixels.
        gsd: metres a pixel.
        defects: whether broken files, duplicates and blank water stand among the unlabelled scenes.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    seed: int = 0
    regions: int = 5
    unlabeled_scenes: int = 5
    tiles: int = 1
    labeled_scenes: int = 2
    val_scenes: int = 2
    test_scenes: int = 2
    scene_size: int = 512
    labeled_size: int = 256
    val_size: int = 256
    test_size: int = 384
    gsd: float = 0.5
    defects: bool = True

    def __post_init__(self) -> None:
        _check_range("seed", self.seed, 0, 2**32 - 1)
        _check_range("regions", self.regions, 1, len(REGIONS))
        if self.tiles not in (1, 4):
            raise ValueError(f"demo: tiles must be 1 or 4 (times the unlabelled scenes), got {self.tiles!r}")
        for name in ("unlabeled_scenes", "labeled_scenes", "val_scenes", "test_scenes"):
            _check_range(name, getattr(self, name), 1, 1000)
        for name in ("scene_size", "labeled_size", "val_size", "test_size"):
            _check_range(name, getattr(self, name), 64, 2048)
        if not isinstance(self.gsd, (int, float)) or not 0 < self.gsd <= 10:
            raise ValueError(f"demo: gsd must lie in (0, 10] metres a pixel, got {self.gsd!r}")

    @property
    def labeled_regions(self) -> tuple[int, ...]:
        return (0,) if self.regions < 3 else (0, 2)


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"demo: {name} must be a whole number in {low}..{high}, got {value!r}")
