"""Noisy label maps corrected by networks that have not learnt from them."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data, with_noisy
from s5_kedro.tracking import MetricsLog

MAPS = "data/07_model_output/cleaned_labels"


def clean_labels(
    tile_manifest: Any,
    noisy_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    model: dict[str, Any],
    noisy: dict[str, Any],
    label_cleaning: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[Any, dict[str, Any]]:
    """The noisy tiles with corrected labels, and what the correction did where the truth is known."""
    from s5.engine import run_key
    from s5.engine.compute import ComputeConfig
    from s5.models import ModelConfig
    from s5.noisy import CleaningConfig, NoisyConfig, cleaning

    config = configure(CleaningConfig, label_cleaning, "label_cleaning")
    tiles = with_noisy(tile_manifest, noisy_manifest, also=config.trust)
    data = segmentation_data(tiles, band_statistics, label_space, compute)
    folder = (
        project_root() / MAPS / run_key(data=data.fingerprint(), config=config, model=model, noisy=noisy, seed=seed)
    )
    with MetricsLog("label_cleaning") as log:
        cleaned = cleaning.clean_labels(
            data,
            configure(ModelConfig, model, "model"),
            configure(NoisyConfig, noisy, "noisy"),
            config,
            configure(ComputeConfig, compute, "compute"),
            folder=folder,
            project=project_root(),
            seed=seed,
            log=log,
        )
        report = cleaning.cleaning_report(
            cleaned, segmentation_data(tile_manifest, band_statistics, label_space, compute), folder=folder
        )
        log(cleaning.report_metrics(report), config.folds * noisy["steps"])
    made = ["mask", "noisy_mask", "confidence", "fold", "changed"]
    return noisy_manifest.assign(**{column: cleaned[column].to_numpy() for column in made}), report
