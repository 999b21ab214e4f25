"""Tiles by what they look like to the network: a flat map of their embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from s5.report.canvas import style_axes
from s5.report.palette import SPLITS, spare_colours

MapKind = Literal["auto", "pca", "umap"]

_MOST_TILES = 20_000
_LEAST_FOR_UMAP = 20
_MOST_COLOURS = 12
_OTHER = "#C3CAD4"


def principal_plane(embeddings: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Rows, at length 1, on the two directions in which they differ most, and the share of their variance in each.

    Signs are fixed, so that the same rows give the same map: the largest loading of a direction is positive. Rows that
    are 0 or not finite are NaN.

    Args:
        embeddings: [N, D], any float type.
    """
    usable, points = _directions(embeddings)
    found = np.full((len(usable), 2), np.nan)
    if len(points) < 2 or points.shape[1] < 2:
        return found, (0.0, 0.0)
    points -= points.mean(axis=0)
    variances, directions = np.linalg.eigh(points.T @ points)
    plane = directions[:, [-1, -2]]
    plane *= np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    found[usable] = points @ plane
    total = max(float(variances.sum()), np.finfo(float).tiny)
    return found, (float(variances[-1]) / total, float(variances[-2]) / total)


def neighbour_plane(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Rows on a plane that keeps each one's nearest neighbours by cosine near it (UMAP, McInnes et al. 2018).

    The same rows give the same map. Rows that are 0 or not finite are NaN. Needs the extra ``s5[umap]``.

    Args:
        embeddings: [N, D], any float type; at least 20 usable rows.

    Raises:
        ImportError: the extra is not installed.
    """
    umap = import_umap()
    usable, points = _directions(embeddings)
    found = np.full((len(usable), 2), np.nan)
    mapper = umap.UMAP(metric="cosine", init="pca", random_state=0, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba and scikit-learn, about themselves
        found[usable] = mapper.fit_transform(points.astype(np.float32))
    return found


def import_umap() -> Any:
    """UMAP.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        import umap
    except ImportError as error:
        raise ImportError(
            f"selection_report.embedding_map: 'umap' needs the extra s5[umap] ({error}); install it with: "
            "pip install 's5[umap]', or use 'pca'"
        ) from error
    return umap


def _directions(embeddings: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which rows have a direction, and those rows at length 1."""
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(np.where(np.isfinite(rows), rows, 0), axis=1)
    usable = np.isfinite(rows).all(axis=1) & (lengths > 0)
    return usable, rows[usable] / lengths[usable, None]


def draw_embedding_map(
    axes: Sequence[Axes],
    tile_ids: Sequence[str],
    embeddings: npt.NDArray[np.floating],
    pool: pd.DataFrame,
    dropped: pd.DataFrame,
    kind: MapKind = "pca",
) -> None:
    """Two maps of the same tiles: by cluster, and by whether they were kept.

    At most 20,000 tiles are drawn, evenly spread over the table.

    Args:
        axes: Two of them.
        tile_ids: N ids, row by row those of `embeddings`.
        embeddings: [N, D]; may be a memory map.
        pool, dropped: The selection: tile_id and cluster.
        kind: ``"pca"``, ``"umap"``, or ``"auto"`` for UMAP where it is installed; few tiles are always mapped by PCA.
    """
    places = np.unique(np.linspace(0, len(tile_ids) - 1, min(len(tile_ids), _MOST_TILES)).round().astype(int))
    points, labels = _plane(np.asarray(embeddings[places]), kind)
    cluster_of = pd.concat([pool, dropped]).set_index("tile_id")["cluster"]
    names = pd.Index([str(tile_ids[place]) for place in places])
    clusters = cluster_of.reindex(names).fillna(-1).to_numpy(dtype=np.int64)
    kept = names.isin(pool["tile_id"])
    shown: list[int] = [int(c) for c in np.unique(clusters[clusters >= 0])[:_MOST_COLOURS]]
    groups = [("others", _OTHER, ~np.isin(clusters, shown))]
    groups += [(f"cluster {c}", k, clusters == c) for c, k in zip(shown, spare_colours(len(shown)), strict=True)]
    _scatter(axes[0], points, groups, "Embeddings by cluster", labels)
    both: list[tuple[str, str, Any]] = [("not kept", _OTHER, ~kept), ("kept", SPLITS["selected"], kept)]
    _scatter(axes[1], points, both, "Embeddings by what was kept", labels)


def _plane(embeddings: npt.NDArray[np.floating], kind: MapKind) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Points and what the two axes are called."""
    wanted = kind == "umap" or (kind == "auto" and find_spec("umap") is not None)
    if wanted and len(_directions(embeddings)[1]) >= _LEAST_FOR_UMAP:
        return neighbour_plane(embeddings), ["UMAP, first axis", "UMAP, second axis"]
    points, shares = principal_plane(embeddings)
    names = zip(("first", "second"), shares, strict=True)
    return points, [f"{name} principal direction ({share:.0%})" for name, share in names]


def _scatter(
    axes: Axes,
    points: npt.NDArray[np.float64],
    groups: Sequence[tuple[str, str, npt.NDArray[np.bool_]]],
    title: str,
    labels: Sequence[str],
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
    style_axes(axes, title, xlabel=labels[0], ylabel=labels[1])
    axes.legend(fontsize=7.5, frameon=False, markerscale=1.5, loc="best", ncols=2 if len(groups) > 6 else 1)
