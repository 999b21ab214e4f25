"""Labelled tiles and pretraining pool in, pretrained model out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.s4p_pretrain.nodes import pretrain_s4p


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                pretrain_s4p,
                inputs=[
                    "tile_manifest",
                    "band_statistics",
                    "label_space",
                    "pretrain_pool",
                    "seed_model",
                    "purifier",
                    "params:model",
                    "params:s4p",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["s4p_model", "s4p_history"],
                name="pretrain_s4p",
            )
        ]
    )
