"""Tiles of one split, packed into tar shards."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root


def pack_shards(tile_manifest: Any, label_space: dict[str, Any], sharding: dict[str, Any]) -> tuple[Any, Any]:
    """Pack a split of the manifest; returns shard_index and shard_quarantine."""
    from s5.data import shards
    from s5.data.manifest import quarantine_table

    config = configure(shards.ShardingConfig, sharding, "sharding")
    key = shards.packing_key(tile_manifest, config)
    folder = project_root() / (config.folder or f"data/03_primary/shards/{key}")
    packed = shards.pack_tiles(tile_manifest, folder, config, bands=len(label_space["bands"]))
    return packed.index, quarantine_table(packed.rejected)
