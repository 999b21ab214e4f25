"""Records that cross rooms. Nothing here imports more than the standard library and numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LogFn = Callable[[Mapping[str, float], int], None]
"""Called by the library as ``log(metrics, step)``; the Kedro side passes one that writes to MLflow."""


def log_nothing(metrics: Mapping[str, float], step: int) -> None:
    """The default `LogFn`."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels in an image: first row and column, height and width, all in pixels."""

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0:
            raise ValueError(f"Window: height and width must be positive, got {self.height} x {self.width}")
        if self.row < 0 or self.col < 0:
            raise ValueError(f"Window: row and col must not be negative, got row {self.row}, col {self.col}")


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset: the position of a name is its mask value.

    Raises:
        ValueError: fewer than two classes, a name given twice, or an `ignore_index` that is also a class.
    """

    classes: tuple[str, ...]
    ignore_index: int = 255
    background: str | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(
                f"classes: a segmentation needs at least 2 classes, got {len(self.classes)} ({list(self.classes)}); "
                "list every class of the masks under 'classes'"
            )
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: a name stands twice in {list(self.classes)}; give each class its own name")
        if not 0 <= self.ignore_index <= 255:
            raise ValueError(f"ignore_index: expected a mask value in 0..255, got {self.ignore_index}")
        if self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index: {self.ignore_index} is also the value of class {self.classes[self.ignore_index]!r}; "
                f"choose one from {len(self.classes)}..255"
            )
        if self.background is not None and self.background not in self.classes:
            raise ValueError(f"background: {self.background!r} is not one of the classes {list(self.classes)}")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def background_index(self) -> int | None:
        return None if self.background is None else self.classes.index(self.background)


@dataclass(frozen=True)
class BandStatistics:
    """How raw band values become network inputs: ``((raw - low) / (high - low) - mean) / std``, band by band.

    `low` and `high` are in raw units (0 and 255 for 8-bit images); `mean` and `std` are of the scaled values.
    """

    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("low", "high", "mean", "std"):
            values = getattr(self, name)
            if len(values) != len(self.bands):
                raise ValueError(f"BandStatistics.{name}: {len(values)} values for {len(self.bands)} bands")
        if any(h <= lo for lo, h in zip(self.low, self.high, strict=True)):
            raise ValueError(f"BandStatistics: high must lie over low in every band, got {self.low} and {self.high}")
        if any(not s > 0 for s in self.std):
            raise ValueError(f"BandStatistics: std must be positive in every band, got {self.std}")

    def only(self, bands: Sequence[str]) -> BandStatistics:
        """Those of these bands, in this order."""
        places = [self.bands.index(band) for band in bands]
        values = (tuple(of[place] for place in places) for of in (self.low, self.high, self.mean, self.std))
        return BandStatistics(tuple(bands), *values)

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BandStatistics:
        return cls(
            bands=tuple(str(b) for b in values["bands"]),
            low=tuple(float(v) for v in values["low"]),
            high=tuple(float(v) for v in values["high"]),
            mean=tuple(float(v) for v in values["mean"]),
            std=tuple(float(v) for v in values["std"]),
        )


class TileMaps(Protocol):
    """Maps of tiles, by the tiles' positions; they move with the tile like a mask."""

    def read_maps(self, index: int) -> NDArray[np.uint8]:
        """uint8 [E, h, w], 255 being 1, over the whole tile; h and w may be smaller than the tile's."""
        ...


class Purified(NamedTuple):
    """A teacher's prediction after purification.

    Shape: probabilities float32 [B, K, H, W]; confidence float32 and classes int64 [B, H, W].
    """

    probabilities: Tensor
    confidence: Tensor
    classes: Tensor


Purify = Callable[["Tensor", "Tensor"], Purified]
"""Called with a teacher's logits float32 [B, K, H, W] and evidence float32 [B, E, H, W] in [0, 1], without gradient."""


class Purifier(Protocol):
    """Corrects a teacher by what is known of the tiles from elsewhere, such as a vision-language model's evidence.

    One that is to reach other processes is a frozen dataclass of this library with plain fields and paths.
    """

    @property
    def key(self) -> str:
        """A hash of all that its answers depend on."""
        ...

    def maps(self, tile_ids: Sequence[str]) -> TileMaps:
        """The evidence of these tiles, in this order; it can be pickled."""
        ...

    def rule(self, device: torch.device) -> Purify:
        """The correction, with what it needs on `device`."""
        ...
