"""A study: several ways to do one step, everything else the same, over seeds."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.ablation.config import SUPERVISED, AblationConfig
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data


def run_study(
    tile_manifest: Any, band_statistics: dict[str, Any], label_space: dict[str, Any], **parameters: Any
) -> Any:
    """Train and evaluate every arm at every seed; returns a row a run.

    Args:
        tile_manifest, band_statistics, label_space: The ingested dataset.
        parameters: The parameter groups by name.
    """
    import pandas as pd

    from s5_kedro.pipelines.ablation.selection import SelectionStudy

    config = configure(AblationConfig, parameters["ablation"], "ablation")
    data = segmentation_data(tile_manifest, band_statistics, label_space, parameters["compute"])
    study = SelectionStudy(data, parameters, project_root())
    seeds = range(parameters["seed"], parameters["seed"] + config.seeds)
    return pd.DataFrame([study.run(arm, seed) for seed in seeds for arm in (SUPERVISED, *config.names())])


def compare_arms(ablation_runs: Any, ablation: dict[str, Any], seed: int) -> Any:
    """Mean, spread and paired differences to the baseline and to the reference."""
    from s5.metrics import paired

    config = configure(AblationConfig, ablation, "ablation")
    references = dict.fromkeys((SUPERVISED, config.reference))
    return paired.compare_arms(ablation_runs, list(references), seed=seed, resamples=config.resamples)


def plot_ablation(ablation_runs: Any, ablation_table: Any, ablation: dict[str, Any]) -> Any:
    """Every seed of every arm, and the differences."""
    from s5.report import ablation as report

    config = configure(AblationConfig, ablation, "ablation")
    return report.plot_ablation(ablation_runs, ablation_table, reference=config.reference)
