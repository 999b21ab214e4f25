"""Tiles by what they look like to the network: a flat map of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from s5.report.canvas import style_axes
from s5.report.palette import SPLITS, spare_colours

_MOST_TILES = 20_000
_MOST_COLOURS = 12
_OTHER = "#C3CAD4"


def principal_plane(embeddings: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Rows, at length 1, on the two directions in which they differ most, and the share of their variance in each.

    Signs are fixed, so that the same rows give the same map: the largest loading of a direction is positive. Rows that
    are 0 or not finite are NaN.

    Args:
        embeddings: [N, D], any float type.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(np.where(np.isfinite(rows), rows, 0), axis=1)
    usable = np.isfinite(rows).all(axis=1) & (lengths > 0)
    found = np.full((len(rows), 2), np.nan)
    if usable.sum() < 2 or rows.shape[1] < 2:
        return found, (0.0, 0.0)
    points = rows[usable] / lengths[usable, None]
    points -= points.mean(axis=0)
    variances, directions = np.linalg.eigh(points.T @ points)
    plane = directions[:, [-1, -2]]
    plane *= np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    found[usable] = points @ plane
    total = max(float(variances.sum()), np.finfo(float).tiny)
    return found, (float(variances[-1]) / total, float(variances[-2]) / total)


def draw_embedding_map(
    axes: Sequence[Axes],
    tile_ids: Sequence[str],
    embeddings: npt.NDArray[np.floating],
    pool: pd.DataFrame,
    dropped: pd.DataFrame,
) -> None:
    """Two maps of the same tiles: by cluster, and by whether they were kept.

    At most 20,000 tiles are drawn, evenly spread over the table.

    Args:
        axes: Two of them.
        tile_ids: N ids, row by row those of `embeddings`.
        embeddings: [N, D]; may be a memory map.
        pool, dropped: The selection: tile_id and cluster.
    """
    places = np.unique(np.linspace(0, len(tile_ids) - 1, min(len(tile_ids), _MOST_TILES)).round().astype(int))
    points, shares = principal_plane(np.asarray(embeddings[places]))
    cluster_of = pd.concat([pool, dropped]).set_index("tile_id")["cluster"]
    names = pd.Index([str(tile_ids[place]) for place in places])
    clusters = cluster_of.reindex(names).fillna(-1).to_numpy(dtype=np.int64)
    kept = names.isin(pool["tile_id"])
    shown: list[int] = [int(c) for c in np.unique(clusters[clusters >= 0])[:_MOST_COLOURS]]
    groups = [("others", _OTHER, ~np.isin(clusters, shown))]
    groups += [(f"cluster {c}", k, clusters == c) for c, k in zip(shown, spare_colours(len(shown)), strict=True)]
    _scatter(axes[0], points, groups, "Embeddings by cluster", shares)
    both: list[tuple[str, str, Any]] = [("not kept", _OTHER, ~kept), ("kept", SPLITS["selected"], kept)]
    _scatter(axes[1], points, both, "Embeddings by what was kept", shares)


def _scatter(
    axes: Axes,
    points: npt.NDArray[np.float64],
    groups: Sequence[tuple[str, str, npt.NDArray[np.bool_]]],
    title: str,
    shares: tuple[float, float],
) -> None:
    size = float(np.clip(4000 / max(len(points), 1), 2, 18))
    for label, colour, mine in groups:
        if mine.any():
            axes.scatter(
                points[mine, 0],
                points[mine, 1],
                s=size,
                color=colour,
                label=label,
                linewidths=0,
                alpha=0.8,
                rasterized=True,
            )
    labels = [
        f"{name} principal direction ({share:.0%})" for name, share in zip(("first", "second"), shares, strict=True)
    ]
    style_axes(axes, title, xlabel=labels[0], ylabel=labels[1])
    axes.legend(fontsize=7.5, frameon=False, markerscale=1.5, loc="best", ncols=2 if len(groups) > 6 else 1)
