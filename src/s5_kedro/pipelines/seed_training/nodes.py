"""The seed model: trained on the labelled tiles alone, it scores the unlabelled ones."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data
from s5_kedro.tracking import MetricsLog


def train_seed_model(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    model: dict[str, Any],
    seed_model: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Train on the labelled tiles; returns the model pointer and the history."""
    import pandas as pd

    from s5.engine.compute import ComputeConfig
    from s5.finetuning import SupervisedConfig, train_supervised
    from s5.models import ModelConfig

    with MetricsLog("seed_model") as log:
        result = train_supervised(
            segmentation_data(tile_manifest, band_statistics, label_space, compute),
            configure(ModelConfig, model, "model"),
            configure(SupervisedConfig, seed_model, "seed_model"),
            configure(ComputeConfig, compute, "compute"),
            name="seed_model",
            project=project_root(),
            seed=seed,
            log=log,
        )
    return result.pointer, pd.DataFrame(result.history)
