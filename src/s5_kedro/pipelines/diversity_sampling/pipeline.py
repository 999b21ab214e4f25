"""Scores and embeddings in, pretraining pool out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.diversity_sampling.nodes import measure_quality, plot_selection, sample_diverse


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                measure_quality,
                inputs=["tile_manifest", "band_statistics", "label_space"],
                outputs="tile_quality",
                name="measure_quality",
            ),
            node(
                sample_diverse,
                inputs=[
                    "tile_scores",
                    "tile_embeddings",
                    "labeled_embeddings",
                    "tile_quality",
                    "params:diversity_sampling",
                    "params:quality",
                    "params:seed",
                ],
                outputs=["pretrain_pool", "selection_clusters", "selection_dropped"],
                name="sample_diverse",
            ),
            node(
                plot_selection,
                inputs=[
                    "tile_manifest",
                    "tile_scores",
                    "tile_embeddings",
                    "pretrain_pool",
                    "selection_clusters",
                    "selection_dropped",
                    "params:selection_report",
                ],
                outputs="selection_report",
                name="plot_selection",
            ),
        ]
    )
