"""Dataset card in, tiles out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.ingestion.nodes import ingest_tiles


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                ingest_tiles,
                inputs=["params:dataset", "params:ingestion", "params:seed"],
                outputs=["tile_manifest", "quarantine", "band_statistics", "label_space"],
                name="ingest_tiles",
            )
        ]
    )
