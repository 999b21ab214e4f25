"""Pseudo-labels before and after purification, beside the truth and the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from s5.report.canvas import empty_figure
from s5.report.gallery import GalleryRow, choose_tiles, plot_gallery

if TYPE_CHECKING:
    from s5.purification.fitting import Judged, Stage
    from s5.types import Purify

_COLUMNS = ("teacher", "evidence", "purified", "teacher, over tau", "purified, over tau")


def plot_nothing() -> Figure:
    """In place of the gallery, where nothing was purified."""
    return empty_figure("Purification is off (purification.enabled=false)")


def plot_purification(stage: Stage, judged: Judged, rule: Purify, *, tau: float, num_tiles: int) -> Figure:
    """A row a tile: image, truth, teacher, evidence, purified, and what counts of teacher and purified.

    Grey is what is unknown: no truth, no answer of the evidence, a confidence under tau; it counts as wrong.

    Args:
        stage: The teacher.
        judged: Tiles with evidence.
        rule: The purifier's.
        tau: Confidence from which a pixel counts.
        num_tiles: Rows; tiles are chosen by their truth alone.
    """
    import torch

    from s5.data.loader import TilesWithMaps, read_batch
    from s5.purification.assessment import answered_classes
    from s5.purification.calibration import whole_maps

    tiles, priors = judged
    chosen = choose_tiles(tiles, stage.labels, num_tiles)
    if not chosen:
        return empty_figure("No tile to show")
    batch = read_batch(TilesWithMaps(tiles, priors), chosen)
    size, ignore = tuple(batch.images.shape[2:]), stage.labels.ignore_index
    maps: Any = batch.maps
    with torch.inference_mode(), stage.compute.autocast():
        logits = stage.teacher(stage.normalizer(stage.compute.to_device(batch.images))).float()
    after = rule(logits, whole_maps(maps, size).to(logits.device))  # type: ignore[arg-type]
    confidence, classes = logits.softmax(1).max(1)
    columns = (
        classes,
        answered_classes(maps, size, ignore),  # type: ignore[arg-type]
        after.classes,
        torch.where(confidence >= tau, classes, ignore),
        torch.where(after.confidence >= tau, after.classes, ignore),
    )
    shown = [one.cpu().numpy().astype(np.uint8) for one in columns]
    rows = [
        GalleryRow(
            tile_id=tiles.tile_ids[index],
            image=batch.images[place].numpy(),
            truth=batch.masks[place].numpy(),
            predictions={name: one[place] for name, one in zip(_COLUMNS, shown, strict=True)},
            valid=batch.valid[place].numpy(),
        )
        for place, index in enumerate(chosen)
    ]
    return plot_gallery(rows, stage.labels, _COLUMNS)
