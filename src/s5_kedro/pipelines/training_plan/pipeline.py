"""Ingested tiles in, a plan of S4P on this machine out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.training_plan.nodes import plan_training


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                plan_training,
                inputs=[
                    "tile_manifest",
                    "band_statistics",
                    "label_space",
                    "params:model",
                    "params:s4p",
                    "params:compute",
                    "params:training_plan",
                    "params:diversity_sampling.budget",
                ],
                outputs="training_plan",
                name="plan_s4p",
            )
        ]
    )
