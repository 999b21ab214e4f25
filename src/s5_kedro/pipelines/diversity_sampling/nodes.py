"""Which unlabelled tiles are pretrained on."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.records import segmentation_data


def measure_quality(tile_manifest: Any, band_statistics: dict[str, Any], label_space: dict[str, Any]) -> Any:
    """Nodata, saturation, sharpness, haze and perceptual hash of every unlabelled tile."""
    from s5 import selection

    data = segmentation_data(tile_manifest, band_statistics, label_space, {"cache_mb": 0})
    return selection.measure_quality(data.split("unlabeled"), data.statistics)


def sample_diverse(
    tile_scores: Any,
    tile_embeddings: Any,
    labeled_embeddings: Any,
    tile_quality: Any,
    diversity_sampling: dict[str, Any],
    quality: dict[str, Any],
    seed: int,
) -> tuple[Any, Any, Any]:
    """Take the budget from all clusters; returns pretrain_pool, selection_clusters and selection_dropped."""
    from s5 import selection

    config = configure(selection.SamplingConfig, diversity_sampling, "diversity_sampling", seed=seed)
    reasons = selection.quality_reasons(tile_quality, configure(selection.QualityConfig, quality, "quality"))
    chosen = selection.sample_diverse(tile_scores, tile_embeddings, labeled_embeddings, config, left_out=reasons)
    return chosen.pool, chosen.clusters, chosen.dropped


def plot_selection(
    tile_manifest: Any,
    tile_scores: Any,
    tile_embeddings: Any,
    pretrain_pool: Any,
    selection_clusters: Any,
    selection_dropped: Any,
    selection_report: dict[str, Any],
) -> Any:
    """Entropy histogram, quota and fill of each cluster, a map of embeddings, examples kept and dropped."""
    from s5 import report
    from s5.report.selection import SelectionReportConfig

    config = configure(SelectionReportConfig, selection_report, "selection_report")
    return report.plot_selection(
        tile_manifest, tile_scores, pretrain_pool, selection_clusters, selection_dropped, embeddings=tile_embeddings,
        embedding_map=config.embedding_map,
    )  # fmt: skip
