"""What every training stage is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from s5.data.transforms import GeometryConfig, PhotometryConfig
from s5.engine.loop import LoopConfig
from s5.engine.optimizer import OptimizerConfig
from s5.engine.tuning import TuneConfig
from s5.losses import LABELED_LOSSES, OhemConfig


@dataclass(frozen=True)
class StageConfig:
    """Length, batches, optimiser and augmentation of a stage. Nested groups may be given as mappings.

    Args:
        steps: Optimiser steps.
        batch_size: Labelled tiles per step.
        ema_decay: Decay of the averaged weights, which are the ones validated and kept; in [0, 1).
        photometry: Probability that a labelled tile also gets the strong colour augmentation.
        validate_every, checkpoint_every, log_every: Steps; 0 never validates, or writes checkpoints only when stopped.
        keep: Checkpoints kept, beside that of the best validation.
        val_batch_size: Tiles per forward pass of validation.
        tune: What of the network is trained.
        optimizer: AdamW and its schedule.
        augmentation: The weak augmentation.
        strong: The strong colour augmentation.
    """

    steps: int = 1500
    batch_size: int = 8
    ema_decay: float = 0.99
    photometry: float = 0.5
    validate_every: int = 250
    checkpoint_every: int = 250
    keep: int = 2
    log_every: int = 20
    val_batch_size: int = 8
    tune: TuneConfig = field(default_factory=TuneConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: GeometryConfig = field(default_factory=GeometryConfig)
    strong: PhotometryConfig = field(default_factory=PhotometryConfig)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Mapping):
                object.__setattr__(self, one.name, hints[one.name](**value))
        self.check_whole("batch_size", "val_batch_size")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected a value in [0, 1), got {self.ema_decay!r}")
        self.check_share("photometry")
        self.loop()

    def loop(self) -> LoopConfig:
        return LoopConfig(self.steps, self.validate_every, self.checkpoint_every, self.keep, self.log_every)

    def check_whole(self, *names: str) -> None:
        """Raises ValueError where one of these fields is no whole number of at least 1."""
        for name in names:
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")

    def check_share(self, *names: str) -> None:
        """Raises ValueError where one of these fields does not lie in [0, 1]."""
        for name in names:
            value: Any = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], got {value!r}")


@dataclass(frozen=True)
class TrainingConfig(StageConfig):
    """A stage with labels that are right.

    Args:
        class_balance: Exponent of the class weights of the losses: 0 weighs all pixels alike, 1 all classes alike.
        labeled_loss: Loss on labelled pixels (`s5.losses.labeled_loss`): ``"ce"``, ``"ohem"`` or ``"ce_dice"``.
        ohem: Which labelled pixels are hard, for the loss ``"ohem"``.
    """

    class_balance: float = 0.0
    labeled_loss: str = "ce"
    ohem: OhemConfig = field(default_factory=OhemConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("class_balance")
        if self.labeled_loss not in LABELED_LOSSES:
            raise ValueError(f"labeled_loss: expected one of {LABELED_LOSSES}, got {self.labeled_loss!r}")
