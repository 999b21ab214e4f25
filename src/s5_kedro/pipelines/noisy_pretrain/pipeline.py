"""Tiles with noisy labels in, pretrained model out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.noisy_pretrain.nodes import pretrain_noisy


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                pretrain_noisy,
                inputs=[
                    "tile_manifest",
                    "noisy_manifest",
                    "band_statistics",
                    "label_space",
                    "params:model",
                    "params:noisy",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["noisy_model", "noisy_history"],
                name="pretrain_noisy",
            )
        ]
    )
