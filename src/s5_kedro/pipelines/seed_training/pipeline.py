"""Labelled tiles in, seed model out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.seed_training.nodes import train_seed_model


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                train_seed_model,
                inputs=[
                    "tile_manifest",
                    "band_statistics",
                    "label_space",
                    "params:model",
                    "params:seed_model",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["seed_model", "seed_history"],
                name="train_seed_model",
            )
        ]
    )
