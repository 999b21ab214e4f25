"""Tiles in, arms of a study compared over seeds out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.ablation.nodes import compare_arms, plot_ablation, run_study

_GROUPS = (
    "ablation",
    "model",
    "seed_model",
    "supervised",
    "entropy_scoring",
    "quality",
    "diversity_sampling",
    "s4p",
    "finetune",
    "evaluation",
    "compute",
    "seed",
)


def create_pipeline() -> Pipeline:
    tables = ("tile_manifest", "band_statistics", "label_space")
    return Pipeline(
        [
            node(
                run_study,
                inputs={name: name for name in tables} | {group: f"params:{group}" for group in _GROUPS},
                outputs=["ablation_runs", "ablation_layers"],
                name="run_study",
            ),
            node(
                compare_arms,
                inputs=["ablation_runs", "params:ablation", "params:seed"],
                outputs="ablation_table",
                name="compare_arms",
            ),
            node(
                plot_ablation,
                inputs=["ablation_runs", "ablation_table", "ablation_layers", "params:ablation"],
                outputs="ablation_report",
                name="plot_ablation",
            ),
        ]
    )
