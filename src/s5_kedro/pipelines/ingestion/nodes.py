"""From a dataset card to a manifest of tiles."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import find_card, project_root


def ingest_tiles(dataset: str, ingestion: dict[str, Any], seed: int) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """Read a card's files into tile_manifest, quarantine, band_statistics and label_space."""
    from s5.data.ingest import IngestionConfig, ingest

    config = configure(IngestionConfig, ingestion, "ingestion")
    work_dir = project_root() / "data/02_intermediate"
    ingested = ingest(find_card(dataset), config, seed=seed, work_dir=work_dir)
    space = {
        "name": ingested.card.name,
        **asdict(ingested.labels),
        "bands": list(ingested.card.bands),
        "sensors": {name: list(bands) for name, bands in ingested.card.sensors.items()},
        "tile_size": config.tile_size,
        "protocol": ingested.card.protocol.to_dict(),
    }
    return ingested.manifest, ingested.quarantine, ingested.statistics.to_dict(), space
