"""Seed model and tiles in, scores and embeddings out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.entropy_scoring.nodes import embed_tiles, score_entropy

_INPUTS = [
    "tile_manifest",
    "band_statistics",
    "label_space",
    "seed_model",
    "params:entropy_scoring",
    "params:compute",
]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(score_entropy, inputs=_INPUTS, outputs=["tile_scores", "tile_embeddings"], name="score_entropy"),
            node(embed_tiles, inputs=_INPUTS, outputs="labeled_embeddings", name="embed_tiles"),
        ]
    )
