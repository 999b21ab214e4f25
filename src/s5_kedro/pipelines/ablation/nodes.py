"""A study: several ways to do one step, everything else the same, over seeds."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.ablation.config import SUPERVISED, AblationConfig
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data


def run_study(
    tile_manifest: Any, band_statistics: dict[str, Any], label_space: dict[str, Any], **parameters: Any
) -> tuple[Any, Any]:
    """Train and evaluate every arm at every seed; returns a row a run, and a row a layer where layers are studied.

    Args:
        tile_manifest, band_statistics, label_space: The ingested dataset.
        parameters: The parameter groups by name.
    """
    from s5_kedro.pipelines.ablation.noise import NoiseStudy
    from s5_kedro.pipelines.ablation.selection import SelectionStudy

    config = configure(AblationConfig, parameters["ablation"], "ablation")
    data = segmentation_data(tile_manifest, band_statistics, label_space, parameters["compute"])
    study = {"selection": SelectionStudy, "noise": NoiseStudy}[config.study](data, parameters, project_root())
    return study.tables(range(parameters["seed"], parameters["seed"] + config.seeds))


def compare_arms(ablation_runs: Any, ablation: dict[str, Any], seed: int) -> Any:
    """Mean, spread and paired differences to the baseline and to the reference."""
    from s5.metrics import paired
    from s5_kedro.pipelines.ablation.noise import compare_starts

    config = configure(AblationConfig, ablation, "ablation")
    if config.study == "noise":
        return compare_starts(ablation_runs, seed=seed, resamples=config.resamples)
    references = dict.fromkeys((SUPERVISED, config.reference))
    return paired.compare_arms(ablation_runs, list(references), seed=seed, resamples=config.resamples)


def plot_ablation(ablation_runs: Any, ablation_table: Any, ablation_layers: Any, ablation: dict[str, Any]) -> Any:
    """Every seed of every arm and the differences; of the study `noise`, what each layer keeps."""
    from s5.report import ablation as report
    from s5.report.layers import plot_layers

    config = configure(AblationConfig, ablation, "ablation")
    if config.study == "noise":
        return plot_layers(ablation_layers, ablation_runs)
    return report.plot_ablation(ablation_runs, ablation_table, reference=config.reference)
