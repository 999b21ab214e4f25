"""Pretraining on noisy labels."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data, with_noisy
from s5_kedro.tracking import MetricsLog


def pretrain_noisy(
    tile_manifest: Any,
    noisy_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    model: dict[str, Any],
    noisy: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Train on the noisy tiles; returns the model pointer and the history."""
    import pandas as pd

    from s5 import noisy as library
    from s5.engine.compute import ComputeConfig
    from s5.models import ModelConfig

    with MetricsLog("noisy") as log:
        result = library.pretrain_noisy(
            segmentation_data(with_noisy(tile_manifest, noisy_manifest), band_statistics, label_space, compute),
            configure(ModelConfig, model, "model"),
            configure(library.NoisyConfig, noisy, "noisy"),
            configure(ComputeConfig, compute, "compute"),
            name="noisy_model",
            project=project_root(),
            seed=seed,
            log=log,
        )
    return result.pointer, pd.DataFrame(result.history)
