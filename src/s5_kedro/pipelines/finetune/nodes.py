"""Fine-tuning on the labelled tiles, from the S4P model or another."""

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
    """Train on from the S4P model, or from that of `finetune.init`; returns the model pointer and the history."""
    import pandas as pd

    from s5 import finetuning
    from s5.engine.compute import ComputeConfig
    from s5.models import ModelConfig
    from s5_kedro.pipelines.finetune.start import start_pointer

    init = finetune.get("init")
    settings = {key: value for key, value in finetune.items() if key != "init"}
    with MetricsLog("finetune") as log:
        result = finetuning.finetune(
            segmentation_data(tile_manifest, band_statistics, label_space, compute),
            configure(ModelConfig, model, "model"),
            configure(finetuning.FinetuneConfig, settings, "finetune"),
            configure(ComputeConfig, compute, "compute"),
            name="finetuned_model",
            project=project_root(),
            seed=seed,
            init=start_pointer(None if init == "null" else init, s4p_model),
            log=log,
        )
    return result.pointer, pd.DataFrame(result.history)
