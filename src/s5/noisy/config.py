"""What pretraining on noisy labels is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from s5.engine import StageConfig
from s5.noisy.losses import NoisyLossConfig, SampleSelectionConfig, SmoothingConfig

FUSIONS = ("none", "mid", "late")


@dataclass(frozen=True)
class NoisyConfig(StageConfig):
    """Supervised training whose loss bears wrong labels.

    Args:
        loss: The loss.
        smoothing: Labels that leave room for doubt.
        selection: Weights of pixels by how far the network believes their label.
        fusion: ``"none"``: one network of all bands. ``"mid"`` and ``"late"``: CromSS's two branches, a sensor each,
            with one decoder for both or a network each (`s5.noisy.sensors.TwoSensorNetwork`).
        sensors: The two sensors, names of the dataset card's `sensors` joined by ``+``, since the command line takes
            no lists; None without fusion.
        keep_sensor: Whose network is validated and kept; None is the first one's.
        consistency: Weight of the consistency between the sensors, at least 0; CromSS has 1.
    """

    loss: NoisyLossConfig = field(default_factory=NoisyLossConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    selection: SampleSelectionConfig = field(default_factory=SampleSelectionConfig)
    fusion: str = "none"
    sensors: str | None = None
    keep_sensor: str | None = None
    consistency: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.name in ("dice", "gce") and (self.smoothing.prior or self.smoothing.uniform):
            raise ValueError(
                f"smoothing: {self.loss.name} takes one class a pixel; set smoothing.prior and uniform to 0, or take ce"
            )
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, got {self.fusion!r}")
        if not 0 <= self.consistency < math.inf:
            raise ValueError(f"consistency: expected a weight of at least 0, got {self.consistency!r}")
        if self.has_sensors:
            self._check_sensors()
        elif self.sensors is not None or self.keep_sensor is not None:
            raise ValueError(
                f"sensors: {self.sensors or self.keep_sensor!r} is given and fusion is none; set fusion to mid or "
                "late, or sensors and keep_sensor to null"
            )

    @property
    def has_sensors(self) -> bool:
        return self.fusion != "none"

    def kept_and_other(self) -> tuple[str, str]:
        """The sensor whose network is kept, and the other one."""
        names = self._names()
        return (names[1], names[0]) if self.keep_sensor == names[1] else (names[0], names[1])

    def _names(self) -> list[str]:
        return [name.strip() for name in (self.sensors or "").split("+")]

    def _check_sensors(self) -> None:
        names = self._names()
        if len(names) != 2 or not all(names):
            raise ValueError(
                f"sensors: fusion={self.fusion} takes two of the dataset card's sensors, such as sentinel2+sentinel1, "
                f"got {self.sensors!r}"
            )
        if names[0] == names[1]:
            raise ValueError(f"sensors: expected two different sensors, got {names[0]!r} twice")
        if self.keep_sensor not in (None, *names):
            raise ValueError(f"keep_sensor: expected {names[0]!r} or {names[1]!r}, got {self.keep_sensor!r}")
        if self.tune.what != "all":
            raise ValueError(f"tune.what: two sensors are pretrained whole, got {self.tune.what!r}; set it to all")
        if self.optimizer.layer_decay != 1:
            raise ValueError(
                f"optimizer.layer_decay: two encoders' layers learn alike, got {self.optimizer.layer_decay!r}; "
                "set it to 1"
            )
