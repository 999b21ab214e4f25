"""The baseline: the same network on the labelled tiles alone, with as much training as everything it is compared to."""

from __future__ import annotations

import math
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data
from s5_kedro.tracking import MetricsLog


def train_supervised(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    model: dict[str, Any],
    supervised: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
    *budget: int,
) -> tuple[dict[str, Any], Any]:
    """Train the baseline; `budget` is steps and batch size of each compared stage. Returns pointer and history."""
    import pandas as pd

    from s5 import finetuning
    from s5.engine.compute import ComputeConfig
    from s5.finetuning import SupervisedConfig
    from s5.models import ModelConfig

    with MetricsLog("supervised") as log:
        result = finetuning.train_supervised(
            segmentation_data(tile_manifest, band_statistics, label_space, compute),
            configure(ModelConfig, model, "model"),
            configure(SupervisedConfig, with_fair_budget(supervised, budget), "supervised"),
            configure(ComputeConfig, compute, "compute"),
            name="supervised_model",
            project=project_root(),
            seed=seed,
            log=log,
        )
    return result.pointer, pd.DataFrame(result.history)


def with_fair_budget(supervised: dict[str, Any], budget: tuple[int, ...]) -> dict[str, Any]:
    """The baseline's parameters; `steps: null` becomes the fair budget.

    That is at least as many optimiser steps, and at least as many labelled images, as all compared stages together.

    Args:
        supervised: The parameter group.
        budget: Steps and labelled batch size of the seed model, of S4P and of fine-tuning.
    """
    if supervised.get("steps") not in (None, "null"):
        return supervised
    stages = list(zip(budget[0::2], budget[1::2], strict=True))
    labeled = sum(steps * batch for steps, batch in stages)
    return {**supervised, "steps": max(sum(budget[0::2]), math.ceil(labeled / supervised["batch_size"]))}
