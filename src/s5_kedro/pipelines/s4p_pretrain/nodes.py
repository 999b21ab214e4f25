"""S4P: semi-supervised pretraining on the labelled tiles and the selected pool."""

from __future__ import annotations

from typing import Any

from s5_kedro.given import given_model
from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data
from s5_kedro.tracking import MetricsLog


def pretrain_s4p(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    pretrain_pool: Any,
    seed_model: dict[str, Any],
    purifier: dict[str, Any],
    model: dict[str, Any],
    s4p: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Pretrain; returns the model pointer and the history."""
    import pandas as pd

    from s5 import semisup
    from s5.engine.compute import ComputeConfig
    from s5.models import ModelConfig
    from s5.purification import make_purifier

    config = configure(semisup.S4PConfig, s4p, "s4p")
    with MetricsLog("s4p") as log:
        result = semisup.pretrain_s4p(
            segmentation_data(tile_manifest, band_statistics, label_space, compute),
            list(pretrain_pool["tile_id"]),
            configure(ModelConfig, model, "model"),
            config,
            configure(ComputeConfig, compute, "compute"),
            name="s4p_model",
            project=project_root(),
            seed=seed,
            init=initial_weights(config.init, seed_model),
            log=log,
            purifier=make_purifier(purifier, project_root()) if purifier["enabled"] else None,
        )
    return result.pointer, pd.DataFrame(result.history)


def initial_weights(init: str | None, seed_model: dict[str, Any] | None) -> dict[str, Any] | None:
    """The pointer that S4P starts from: the seed model's, that of given weights, or None for a random start.

    Raises:
        FileNotFoundError: `init` names no file, or the seed model is not there yet.
        ValueError: the file is neither a pointer nor weights.
    """
    if init is None:
        return None
    if init == "seed_model":
        if seed_model is None:
            raise FileNotFoundError("seed_model: there is none yet; make it with kedro run --pipelines=seed_training")
        return seed_model
    from s5.models import make_pointer

    found = given_model("s4p.init", init)
    weights = found.pop("weights")
    return found or make_pointer(weights, root=project_root(), step=0, config={})
