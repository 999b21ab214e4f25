"""How a scene is mapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TTA = Literal["none", "flips", "dihedral"]
PolygonFormat = Literal["gpkg", "parquet"]


@dataclass(frozen=True)
class SceneConfig:
    """Windows, what of the result is kept, and how polygons are made of it.

    Args:
        window: Side of the windows that the network sees, in pixels of its own ground sampling distance.
        overlap: Least overlap of neighbouring windows, in the same pixels.
        margin: Pixels at a window's inner sides that do not count at all, since the network saw nothing beyond them;
            None is a quarter of the overlap. From there a window's weight grows over the rest of the overlap.
        batch_size: Windows in a forward pass; batches are cut by index, so that a resumed run gives the same map.
        read_threads: Threads that read windows ahead of a GPU.
        tta: Also predict each window mirrored (``flips``: 4 views) and turned (``dihedral``: 8), and take the mean.
        gsd: Ground sampling distance that the model was trained at, in metres; windows of a scene with another one
            are resampled for the network and its probabilities back. None takes scenes as they are.
        probabilities: Also write the probability of each class.
        entropy: Also write the entropy of each pixel, in [0, 1].
        polygons: Also write polygons.
        polygon_format: ``"gpkg"`` (GeoPackage) or ``"parquet"`` (GeoParquet).
        min_area: Minimum mapping unit of the polygons, in m2 (pixels where there is no CRS); smaller areas go to their
            largest neighbour. 0 keeps all.
        simplify: Side in pixels of the corners that are cut off polygons; 0 follows the pixels' edges.

    Raises:
        ValueError: a value out of range.
    """

    window: int = 512
    overlap: int = 128
    margin: int | None = None
    batch_size: int = 4
    read_threads: int = 4
    tta: TTA = "none"
    gsd: float | None = None
    probabilities: bool = False
    entropy: bool = False
    polygons: bool = True
    polygon_format: PolygonFormat = "gpkg"
    min_area: float = 0.0
    simplify: float = 1.5

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("overlap", 0), ("batch_size", 1), ("read_threads", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        if self.overlap > self.window // 2:
            raise ValueError(
                f"overlap: expected at most half of the window of {self.window} pixels, got {self.overlap}; "
                "take a smaller overlap or a larger window"
            )
        if self.margin is not None and not 0 <= 2 * self.margin <= self.overlap:
            raise ValueError(
                f"margin: expected 0 to half of the overlap of {self.overlap} pixels, got {self.margin}; "
                "every pixel must count in one window at least"
            )
        if self.tta not in ("none", "flips", "dihedral"):
            raise ValueError(f"tta: expected none, flips or dihedral, got {self.tta!r}")
        if self.polygon_format not in ("gpkg", "parquet"):
            raise ValueError(f"polygon_format: expected gpkg or parquet, got {self.polygon_format!r}")
        if self.gsd is not None and not self.gsd > 0:
            raise ValueError(f"gsd: expected a positive number of metres, got {self.gsd!r}")
        for name in ("min_area", "simplify"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")

    @property
    def trimmed(self) -> int:
        """`margin`, or what it is by default."""
        return self.overlap // 4 if self.margin is None else self.margin
