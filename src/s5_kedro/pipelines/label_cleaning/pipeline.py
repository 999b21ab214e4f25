"""Tiles with noisy labels in, tiles with corrected labels out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.label_cleaning.nodes import clean_labels


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                clean_labels,
                inputs=[
                    "tile_manifest",
                    "noisy_manifest",
                    "band_statistics",
                    "label_space",
                    "params:model",
                    "params:noisy",
                    "params:label_cleaning",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["cleaned_manifest", "cleaning_report"],
                name="clean_labels",
            )
        ]
    )
