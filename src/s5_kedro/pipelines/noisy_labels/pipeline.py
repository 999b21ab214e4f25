"""Tiles in, tiles with noisy labels out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.noisy_labels.nodes import corrupt_labels


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                corrupt_labels,
                inputs=[
                    "tile_manifest",
                    "band_statistics",
                    "label_space",
                    "params:noisy_labels",
                    "params:dataset",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["noisy_manifest", "noise_report"],
                name="corrupt_labels",
            )
        ]
    )
