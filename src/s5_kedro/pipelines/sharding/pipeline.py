"""Tiles in, shards and their index out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.sharding.nodes import pack_shards


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                pack_shards,
                inputs=["tile_manifest", "label_space", "params:sharding"],
                outputs=["shard_index", "shard_quarantine"],
                name="pack_shards",
            )
        ]
    )
