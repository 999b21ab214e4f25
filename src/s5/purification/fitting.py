"""A purifier made from labelled tiles, and the report on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s5.data.loader import SegmentationData
from s5.data.transforms import Normalizer
from s5.engine import Compute
from s5.models import SegmentationModel
from s5.purification.assessment import assess
from s5.purification.calibration import calibrate, purifier_record, sample_pixels
from s5.purification.config import FitConfig
from s5.purification.priors import NamedTiles, PriorReader
from s5.types import LabelSpace, Purify

if TYPE_CHECKING:
    import pandas as pd

Judged = tuple[NamedTiles, PriorReader]
"""Tiles, and the evidence of each of them."""


@dataclass(frozen=True)
class Stage:
    """A teacher in eval mode on its device, and how images get to it."""

    teacher: SegmentationModel
    normalizer: Normalizer
    labels: LabelSpace
    compute: Compute

    @classmethod
    def of(cls, model: SegmentationModel, data: SegmentationData, compute: Compute) -> Stage:
        teacher = model.to(compute.device).eval()
        return cls(teacher, Normalizer(data.statistics, compute.device), data.labels, compute)


def fit_purifier(
    rule: str, priors: str, stage: Stage, fitted: Judged, config: FitConfig, *, seed: int
) -> dict[str, Any]:
    """Estimate trust, and describe the purifier (`s5.purification.purifiers.make_purifier`).

    Args:
        rule: Of `s5.purification.config.RULES`.
        priors: Path of the index of the pool's evidence, relative to the project.
        fitted: Labelled tiles with evidence.
    """
    samples = sample_pixels(
        stage.teacher, *fitted, stage.labels, stage.normalizer, config, seed=seed, compute=stage.compute
    )
    found = calibrate(samples)
    where = {"split": config.split, "num_tiles": found.num_tiles, "num_pixels": found.num_pixels}
    return purifier_record(rule, priors, stage.labels, found, where)


def report(
    stage: Stage, judged: Judged, rule: Purify, purifier: Mapping[str, Any], priors: pd.DataFrame, *, tau: float
) -> dict[str, Any]:
    """`s5.purification.assessment.assess`, with what the evidence cost and how far it is trusted."""
    scores = assess(stage.teacher, *judged, rule, stage.labels, stage.normalizer, tau=tau, compute=stage.compute)
    asked = priors["seconds"]
    return {
        **scores,
        "tau": tau,
        "rule": purifier["rule"],
        "trust": purifier["trust"],
        "fitted_on": purifier["fitted_on"],
        "grounding": {"num_tiles": len(asked), "seconds_per_tile": float(asked.mean())},
    }


def headline(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report that are worth a curve over runs."""
    keys = ("accuracy", "macc", "boundary_accuracy", "confident_share", "confident_accuracy")
    numbers = {f"{key}_{when}": report[when][key] for when in ("before", "after") for key in keys}
    numbers |= {
        f"{when}.{name}": value for when in ("before", "after") for name, value in report[when]["per_class"].items()
    }
    numbers |= {f"share_{name}": value for name, value in report["shares"].items()}
    numbers["seconds_per_tile"] = report["grounding"]["seconds_per_tile"]
    return {name: value for name, value in numbers.items() if value is not None}


def has_truth(data: SegmentationData, split: str) -> bool:
    """Whether tiles of a split have masks."""
    masks = data.manifest.loc[data.manifest["split"] == split, "mask"]
    return any(isinstance(mask, str) and mask for mask in masks)
