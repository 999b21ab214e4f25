"""What purification is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from s5.purification.embedded import EmbeddedConfig
from s5.purification.grounding import GroundingConfig

RULES = ("calibrated", "semiearth")


@dataclass(frozen=True)
class PriorConfig:
    """How evidence is gathered.

    Args:
        batch_size: Tiles that a grounder is asked about at once.
        tiles_per_part: Tiles of a file; what a killed run loses is less than that.
    """

    batch_size: int = 8
    tiles_per_part: int = 64

    def __post_init__(self) -> None:
        for name in ("batch_size", "tiles_per_part"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class FitConfig:
    """How trust in the evidence is estimated.

    Args:
        split: Labelled tiles to estimate it on. Not ``"labeled"`` where the teacher was trained on these: it knows them
            by heart, and evidence would seem to add nothing.
        pixels_per_tile: Labelled pixels drawn of each tile.
    """

    split: str = "val"
    pixels_per_tile: int = 2048

    def __post_init__(self) -> None:
        if self.split not in ("labeled", "val"):
            raise ValueError(f"fit.split: expected 'val' or 'labeled', got {self.split!r}; test tiles are for tests")
        if not isinstance(self.pixels_per_tile, int) or self.pixels_per_tile < 1:
            raise ValueError(
                f"fit.pixels_per_tile: expected a whole number of at least 1, got {self.pixels_per_tile!r}"
            )


@dataclass(frozen=True)
class PurificationConfig:
    """Whether and how pseudo-labels are purified.

    Args:
        enabled: Whether S4P is handed a purifier; without, nothing is asked and S4P is as it ever was.
        rule: ``"calibrated"``, or ``"semiearth"``, the published rule, which changes no loss.
        network: A model pointer or weights of this project, trained on other tiles, that gives the evidence in place of
            `grounder`.
        grounder: Which vision-language model gives it; a folder of weights is relative to the project.
        embedded: How the small model is trained that ``grounder.name="embedded"`` asks.
        gallery_tiles: Tiles in the gallery.
        priors: How evidence is gathered.
        fit: How trust in it is estimated.
    """

    enabled: bool = False
    rule: str = "calibrated"
    network: str | None = None
    gallery_tiles: int = 4
    grounder: GroundingConfig = field(default_factory=lambda: GroundingConfig(model="data/06_models/embedded"))
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    priors: PriorConfig = field(default_factory=PriorConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if not isinstance(self.gallery_tiles, int) or self.gallery_tiles < 0:
            raise ValueError(f"gallery_tiles: expected a whole number of at least 0, got {self.gallery_tiles!r}")

    @property
    def trains_embedded(self) -> bool:
        return self.enabled and self.network is None and self.grounder.name == "embedded"


def check_rule(rule: str) -> None:
    """Raises ValueError for a rule that there is not."""
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {RULES}, got {rule!r}")
