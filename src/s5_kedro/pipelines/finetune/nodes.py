"""Fine-tuning of the S4P encoder and decoder on the labelled tiles."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data
from s5_kedro.tracking import MetricsLog


def finetune_model(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    s4p_model: dict[str, Any],
    model: dict[str, Any],
    finetune: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Train on from the S4P model; returns the model pointer and the history."""
    import pandas as pd

    from s5.engine.compute import ComputeConfig
    from s5.finetuning import SupervisedConfig, train_supervised
    from s5.models import ModelConfig

    if s4p_model is None:
        raise FileNotFoundError("s4p_model: there is none yet; make it with kedro run --pipelines=s4p_pretrain")
    with MetricsLog("finetune") as log:
        result = train_supervised(
            segmentation_data(tile_manifest, band_statistics, label_space, compute),
            configure(ModelConfig, model, "model"),
            configure(SupervisedConfig, finetune, "finetune"),
            configure(ComputeConfig, compute, "compute"),
            name="finetuned_model",
            project=project_root(),
            seed=seed,
            init=s4p_model,
            log=log,
        )
    return result.pointer, pd.DataFrame(result.history)
