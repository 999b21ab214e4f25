"""What purification is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from s5.purification.embedded import EmbeddedConfig
from s5.purification.grounding import GroundingConfig

RULES = ("calibrated", "semiearth")
REFINEMENTS = ("none", "sam")


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
class MaskConfig:
    """Class-agnostic masks of a tile, and how they vote on its evidence.

    Args:
        model: SAM or SAM 2, folder or hub id.
        points_per_side: The tile is asked at so many points in a row, and as many rows.
        min_score: A mask is taken whose IoU the model thinks to be so high; SAM's own generator has 0.88 too.
        min_stability: And whose area at a logit of 1 is such a share of that at a logit of -1; SAM's own is 0.95.
        vote: Share of a region's evidence that speaks for one class, over 0.5, from which it takes this class.
        reach: How far from another region, in pixels.
    """

    model: str = ""
    points_per_side: int = 16
    min_score: float = 0.88
    min_stability: float = 0.95
    vote: float = 0.75
    reach: int = 8

    def __post_init__(self) -> None:
        for name in ("points_per_side", "reach"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"masks.{name}: expected a whole number of at least 1, got {value!r}")
        for name in ("min_score", "min_stability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masks.{name}: expected a share in [0, 1], got {getattr(self, name)!r}")
        if not 0.5 < self.vote <= 1:
            raise ValueError(f"masks.vote: expected a share over 0.5 and up to 1, got {self.vote!r}")


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
        refine: ``"none"``, or ``"sam"``: the evidence is given the boundaries of class-agnostic masks before it is
            stored.
        masks: Those masks, and how they vote.
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
    refine: str = "none"
    masks: MaskConfig = field(default_factory=MaskConfig)
    embedded: EmbeddedConfig = field(default_factory=EmbeddedConfig)
    priors: PriorConfig = field(default_factory=PriorConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if not isinstance(self.gallery_tiles, int) or self.gallery_tiles < 0:
            raise ValueError(f"gallery_tiles: expected a whole number of at least 0, got {self.gallery_tiles!r}")
        if self.refine not in REFINEMENTS:
            raise ValueError(f"refine: expected one of {REFINEMENTS}, got {self.refine!r}")
        if self.refine == "sam" and not self.masks.model:
            raise ValueError("masks.model: refine is 'sam'; give the folder or hub id of a SAM or SAM 2")

    @property
    def trains_embedded(self) -> bool:
        return self.enabled and self.network is None and self.grounder.name == "embedded"


def check_rule(rule: str) -> None:
    """Raises ValueError for a rule that there is not."""
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {RULES}, got {rule!r}")
