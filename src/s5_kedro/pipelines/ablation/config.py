"""What is compared, and over how many seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STUDIES = ("selection", "noise")
SUPERVISED = "supervised"
RANDOM, SIMSIAM, CLEAN, AGAIN, CARD = "random", "simsiam", "clean", "clean_again", "card"


@dataclass(frozen=True)
class NoiseStudyConfig:
    """What the study `noise` pretrains on, and how deep it looks.

    Args:
        kinds: Noisy labels to pretrain on, joined by ``+``: a noise model and its rate as ``symmetric:0.4``, or
            ``coarse`` and its block in pixels as ``coarse:16`` (`s5.noisy.CorruptionConfig`); or ``card``, the masks of
            the card's split ``noisy`` as they are.
        split: The tiles to pretrain on; their masks are taken as clean, and corrupted.
        steps: Optimiser steps of each pretraining.
        batch_size: Tiles in a step of pretraining.
        lr: Peak learning rate of pretraining and of fine-tuning, for all starts alike.
        cuts: Depths within the encoder up to which weights are taken over, evenly spaced and ending with all of it; all
            but the head is one more.
        ridge: Penalty of the linear probes.
    """

    kinds: str = "symmetric:0.3+symmetric:0.6+shift:0.3+card"
    split: str = "unlabeled"
    steps: int = 400
    batch_size: int = 8
    lr: float = 5e-4
    cuts: int = 2
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "cuts"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"noise.{name}: expected a whole number of at least 1, got {value!r}")
        for name in ("lr", "ridge"):
            if not getattr(self, name) > 0:
                raise ValueError(f"noise.{name}: expected a positive number, got {getattr(self, name)!r}")
        names = self.names()
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"noise.kinds: expected different noises joined by +, got {self.kinds!r}")
        for name in names:
            if name != CARD:
                self.corruption(name)

    def names(self) -> list[str]:
        return [name.strip() for name in self.kinds.split("+")]

    def corruption(self, name: str) -> Any:
        """The noise model of a kind such as ``symmetric:0.4``.

        Raises:
            ValueError: there is no such noise model, or its rate is out of range.
        """
        from s5.noisy import CorruptionConfig

        kind, _, size = name.partition(":")
        try:
            return CorruptionConfig(kind, block=int(size)) if kind == "coarse" else CorruptionConfig(kind, float(size))
        except ValueError as error:
            raise ValueError(
                f"noise.kinds: {name!r} is no noise ({error}); expected a noise model and its rate as symmetric:0.4, "
                f"coarse and its block in pixels as coarse:16, or {CARD}"
            ) from error


@dataclass(frozen=True)
class AblationConfig:
    """The `ablation` parameter group.

    Args:
        study: ``"selection"``: what S4P gains from each way to select its pool; ``"noise"``: what each layer keeps of
            pretraining on noisy labels.
        arms: What is compared beside the supervised baseline, joined by ``+``, since the command line takes no lists: a
            strategy of `diversity_sampling`, or one with a quota such as ``s5:uniform``.
        seeds: Number of seeds: `seed`, `seed` + 1, ...
        reference: The arm that the others are drawn against in the picture.
        resamples: Of the bootstrap.
        noise: What the study `noise` pretrains on, and how deep it looks; `arms` and `reference` are of `selection`.
    """

    study: str = "selection"
    arms: str = "random+entropy+diversity+s5+s5_band"
    seeds: int = 3
    reference: str = "random"
    resamples: int = 10_000
    noise: NoiseStudyConfig = field(default_factory=NoiseStudyConfig)

    def __post_init__(self) -> None:
        if isinstance(self.noise, Mapping):
            object.__setattr__(self, "noise", NoiseStudyConfig(**self.noise))
        if self.study not in STUDIES:
            raise ValueError(f"ablation.study: expected one of {', '.join(STUDIES)}, got {self.study!r}")
        for name in ("seeds", "resamples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ablation.{name}: expected a whole number of at least 1, got {value!r}")
        names = self.names()
        if not all(names) or len(set(names)) < len(names) or SUPERVISED in names:
            raise ValueError(f"ablation.arms: expected different strategies joined by +, got {self.arms!r}")
        for name in names:
            self.sampling(name)
        if self.reference not in (SUPERVISED, *names):
            raise ValueError(
                f"ablation.reference: expected one of {', '.join((SUPERVISED, *names))}, got {self.reference!r}"
            )

    def names(self) -> list[str]:
        return [name.strip() for name in self.arms.split("+")]

    def sampling(self, name: str) -> dict[str, str]:
        """What an arm sets of `diversity_sampling`.

        Raises:
            ValueError: there is no such strategy or quota.
        """
        from s5.selection import SamplingConfig

        strategy, _, quota = name.partition(":")
        chosen = {"strategy": strategy} | ({"quota": quota} if quota else {})
        try:
            SamplingConfig(budget=1, **chosen)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"ablation.arms: {name!r} is no arm ({error})") from error
        return chosen
