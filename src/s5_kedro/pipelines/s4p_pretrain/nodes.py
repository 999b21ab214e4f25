"""S4P: semi-supervised pretraining on the labelled tiles and the selected pool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import find_file, newest_model, project_root
from s5_kedro.records import segmentation_data
from s5_kedro.tracking import MetricsLog


def pretrain_s4p(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    pretrain_pool: Any,
    seed_model: dict[str, Any],
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
        )
    return result.pointer, pd.DataFrame(result.history)


def initial_weights(init: str | None, seed_model: dict[str, Any] | None) -> dict[str, Any] | None:
    """The pointer that S4P starts from: the seed model's, that of given weights, or None for a random start.

    Raises:
        FileNotFoundError: `init` names no file, or the seed model is not there yet.
    """
    if init is None:
        return None
    if init == "seed_model":
        if seed_model is None:
            raise FileNotFoundError("seed_model: there is none yet; make it with kedro run --pipelines=seed_training")
        return seed_model
    found = weights_file(init)
    if found.suffix == ".json":
        return json.loads(found.read_text(encoding="utf-8"))
    from s5.models import make_pointer

    return make_pointer(found, root=project_root(), step=0, config={})


def weights_file(init: str) -> Path:
    """The file that `s4p.init` names.

    Raises:
        FileNotFoundError: there is none.
    """
    found = newest_model(init) or find_file(init)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"s4p.init: there is no file {init}; expected 'seed_model', null, another trained model such as "
            "'noisy_model', or a model pointer (.json) or weights (.safetensors) in the project folder"
        )
    return found
