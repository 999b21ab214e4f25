"""A dry run of S4P: the largest batch that fits, and what the recipe then takes."""

from __future__ import annotations

import logging
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.records import segmentation_data

logger = logging.getLogger(__name__)


def plan_training(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    model: dict[str, Any],
    s4p: dict[str, Any],
    compute: dict[str, Any],
    training_plan: dict[str, Any],
    budget: int,
) -> dict[str, Any]:
    """Try batches of growing size; returns the plan, and prints it."""
    from s5.engine import ComputeConfig
    from s5.engine.planning import PlanConfig, plan_text
    from s5.models import ModelConfig
    from s5.semisup import S4PConfig, plan_s4p

    plan = plan_s4p(
        segmentation_data(tile_manifest, band_statistics, label_space, compute),
        configure(ModelConfig, model, "model"),
        configure(S4PConfig, s4p, "s4p"),
        configure(ComputeConfig, compute, "compute"),
        configure(PlanConfig, training_plan, "training_plan"),
        budget=budget,
    )
    logger.info("Plan of S4P\n%s", plan_text(plan))
    return plan
