"""Label maps that are partly wrong: the card's own, made ones, or a land-cover raster."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import find_card, find_file, project_root
from s5_kedro.records import segmentation_data

MASKS = "data/05_model_input/noisy_masks"


def corrupt_labels(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    noisy_labels: dict[str, Any],
    dataset: str,
    compute: dict[str, Any],
    seed: int,
) -> tuple[Any, dict[str, Any]]:
    """The tiles with noisy labels, and how wrong they are where the truth is known."""
    from s5.data.card import load_card
    from s5.engine import run_key
    from s5.noisy import NoisyLabelsConfig, agreement, noisy_tiles

    config = configure(NoisyLabelsConfig, {**noisy_labels, "land_cover": _found(noisy_labels)}, "noisy_labels")
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    folder = project_root() / MASKS / run_key(config=config, dataset=dataset, seed=seed, data=data.fingerprint())
    source = load_card(find_card(dataset)).splits.get(config.split)
    legend = dict(source.coding.legend) if source is not None else None
    rows = noisy_tiles(tile_manifest, config, folder, seed=seed, labels=data.labels, legend=legend)
    measured = agreement(segmentation_data(rows, band_statistics, label_space, compute), data)
    return rows, {"source": config.source, "tiles": len(rows), "measured": measured}


def _found(noisy_labels: dict[str, Any]) -> str | None:
    """The land-cover raster; names that only GDAL understands stay as they are."""
    given = noisy_labels.get("land_cover")
    found = find_file(given) if given else None
    return str(found) if found is not None else given
