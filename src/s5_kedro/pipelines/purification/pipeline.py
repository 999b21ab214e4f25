"""Pool and seed model in; stored evidence, a purifier and what it does to pseudo-labels out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.purification.nodes import assess_purifier, fit_purifier, ground_tiles, train_embedded

_DATA = ["tile_manifest", "band_statistics", "label_space"]
_COMMON = ["params:purification", "params:compute"]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                train_embedded,
                inputs=["params:purification", "params:seed"],
                outputs="embedded_model",
                name="train_embedded",
            ),
            node(
                ground_tiles,
                inputs=["params:dataset", *_DATA, "pretrain_pool", "embedded_model", *_COMMON],
                outputs="tile_priors",
                name="ground_tiles",
            ),
            node(
                fit_purifier,
                inputs=[*_DATA, "tile_priors", "seed_model", *_COMMON, "params:seed"],
                outputs="purifier",
                name="fit_purifier",
            ),
            node(
                assess_purifier,
                inputs=[*_DATA, "tile_priors", "purifier", "seed_model", *_COMMON, "params:s4p.pseudo_labels.tau"],
                outputs=["purification_report", "purification_gallery"],
                name="purification_report",
            ),
        ]
    )
