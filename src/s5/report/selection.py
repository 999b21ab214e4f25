"""What was selected and why: entropies, quotas, and examples kept and dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from s5.report.canvas import empty_figure, new_figure, plain, show_picture, style_axes
from s5.report.embedding_map import MapKind, draw_embedding_map
from s5.report.palette import INK, MUTED, SPLITS
from s5.report.reasons import kind_of
from s5.report.thumbnails import read_thumbnails
from s5.types import BandStatistics

_KEPT, _OTHER, _DROPPED = SPLITS["selected"], "#C3CAD4", "#C8352B"
_MOST_BARS = 24


@dataclass(frozen=True)
class SelectionReportConfig:
    """How the selection report is drawn.

    Args:
        embedding_map: ``"pca"``, ``"umap"`` (needs the extra ``s5[umap]``), or ``"auto"`` for UMAP where it is
            installed.
    """

    embedding_map: MapKind = "auto"

    def __post_init__(self) -> None:
        if self.embedding_map not in ("auto", "pca", "umap"):
            raise ValueError(f"embedding_map: expected auto, pca or umap, got {self.embedding_map!r}")


@dataclass(frozen=True)
class _Example:
    tile_id: str
    text: str
    kept: bool


def plot_selection(
    manifest: pd.DataFrame,
    scores: pd.DataFrame,
    pool: pd.DataFrame,
    clusters: pd.DataFrame,
    dropped: pd.DataFrame,
    *,
    embeddings: NDArray[np.floating] | None = None,
    embedding_map: MapKind = "pca",
    statistics: BandStatistics | Mapping[str, Any] | None = None,
    example_clusters: int = 4,
    examples: int = 4,
) -> Figure:
    """The selection report: entropies with the kept part, quota and fill of each cluster, a map, and pictures of tiles.

    Args:
        manifest: A row a tile, to find the pictures by.
        scores: tile_id and entropy in [0, 1] of every unlabelled tile.
        pool: The selected tiles: tile_id, cluster, entropy, entropy_rank, reason.
        clusters: cluster, quota, filled, labeled, candidates, duplicates.
        dropped: The other tiles: tile_id, cluster, entropy, reason.
        embeddings: [N, D], row by row those of `scores`, for a map of the tiles; may be a memory map.
        embedding_map: How they are mapped, see `SelectionReportConfig`.
        statistics: Of the bands, for the pictures.
        example_clusters: How many clusters get a row of pictures; those with the largest quota.
        examples: Pictures of each kind (kept, dropped) in a row.
    """
    if scores.empty:
        return empty_figure("No unlabelled tile was scored")
    shown = _pick_examples(pool, clusters, dropped, example_clusters, examples)
    pictures = read_thumbnails(manifest, [e.tile_id for row in shown.values() for e in row], statistics=statistics)
    bars = min(len(clusters), _MOST_BARS)
    mapped = embeddings is not None and len(embeddings) > 1
    heights = [max(3.0, 0.9 + 0.21 * bars), *([4.2] if mapped else []), *([0.4 + 1.72 * len(shown)] if shown else [])]
    figure = new_figure(12.0, sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    left, right = parts[0].subplots(1, 2, width_ratios=[1.0, 1.15])
    _draw_entropies(left, scores, pool)
    _draw_clusters(right, clusters)
    if embeddings is not None and mapped:
        maps = parts[1].subplots(1, 2, sharex=True, sharey=True)
        draw_embedding_map(maps, scores["tile_id"].tolist(), embeddings, pool, dropped, embedding_map)
    if shown:
        _draw_examples(parts[-1], shown, pictures, examples)
    return figure


def _draw_entropies(axes: Axes, scores: pd.DataFrame, pool: pd.DataFrame) -> None:
    entropies = scores["entropy"].to_numpy(dtype=np.float64)
    entropies = entropies[np.isfinite(entropies)]
    kept = scores.loc[scores["tile_id"].isin(pool["tile_id"]), "entropy"].to_numpy(dtype=np.float64)
    top = max(float(entropies.max(initial=0.0)), 1e-3)
    low = float(entropies.min(initial=top))
    bins = np.linspace(low if low > top / 2 else 0.0, max(top, low + 1e-3), 41)
    axes.hist(entropies, bins=bins.tolist(), color=_OTHER, label=f"all scored tiles ({len(entropies):,})")
    axes.hist(kept, bins=bins.tolist(), color=_KEPT, label=f"kept ({len(kept):,})")
    if len(kept):
        axes.axvline(float(kept.max()), color=_KEPT, linewidth=1, linestyle="--")
    style_axes(axes, "Entropy of the tiles", xlabel="mean pixel entropy (0 certain, 1 no idea)", ylabel="tiles")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8.5, frameon=False)


def _draw_clusters(axes: Axes, clusters: pd.DataFrame) -> None:
    """A bar a cluster: what was filled, a mark at the quota, and in words what there was to choose from."""
    largest = clusters.sort_values(["quota", "cluster"], ascending=[False, True]).head(_MOST_BARS)
    places = np.arange(len(largest))
    filled = largest["filled"].to_numpy(dtype=np.float64)
    quotas = largest["quota"].to_numpy(dtype=np.float64)
    axes.barh(places, filled, color=_KEPT, height=0.7)
    axes.vlines(quotas, places - 0.45, places + 0.45, color=INK, linewidth=2)
    end = max(float(filled.max(initial=0)), float(quotas.max(initial=0)), 1.0)
    for place, row in zip(places.tolist(), largest.to_dict("records"), strict=True):
        said = f"{int(row['filled'])} of {int(row['candidates'])} candidates"
        if row.get("duplicates"):
            said += f", {int(row['duplicates'])} near duplicates"
        axes.text(max(row["filled"], row["quota"]) + end * 0.015, place, said, va="center", fontsize=7.5, color=MUTED)
    axes.set_yticks(places, [f"{c}" for c in largest["cluster"]])
    axes.invert_yaxis()
    axes.set_xlim(0, end * 1.42)
    left_out = len(clusters) - len(largest)
    more = f" (the {_MOST_BARS} largest, {left_out} not shown)" if left_out else ""
    title = f"Quota and fill of each cluster{more}"
    style_axes(axes, title, xlabel="tiles", ylabel="cluster")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="y")
    handles: list[Any] = [
        Patch(color=_KEPT, label="filled"),
        axes.plot([], [], color=INK, linewidth=2, linestyle="", marker="|", markersize=9, markeredgewidth=2)[0],
    ]
    axes.legend(handles, ["filled", "quota"], fontsize=8.5, frameon=False, loc="lower right")


def _pick_examples(
    pool: pd.DataFrame, clusters: pd.DataFrame, dropped: pd.DataFrame, num_clusters: int, count: int
) -> dict[int, list[_Example]]:
    """For the clusters with the largest quota: tiles over the whole range of entropies, and every reason."""
    largest = clusters.sort_values(["quota", "cluster"], ascending=[False, True])["cluster"].head(num_clusters)
    chosen = {}
    for cluster in largest:
        kept = _spread(pool[pool["cluster"] == cluster].sort_values("entropy"), count)
        lost = _by_reason(dropped[dropped["cluster"] == cluster], count)
        rows = [_example(row, kept=True) for row in kept] + [_example(row, kept=False) for row in lost]
        if rows:
            chosen[int(cluster)] = rows
    return chosen


def _example(row: Mapping[str, Any], *, kept: bool) -> _Example:
    reason = "" if kept else f"\n{_short(kind_of(str(row.get('reason', ''))))}"
    return _Example(str(row["tile_id"]), f"H {float(row['entropy']):.2f}{reason}", kept)


def _spread(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    places = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    return [{str(k): v for k, v in row.items()} for row in table.iloc[places].to_dict("records")]


def _by_reason(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """Rows of all reasons in turn, so that a rare reason is seen too."""
    if table.empty:
        return []
    ordered = table.assign(_kind=table["reason"].map(kind_of)).sort_values(["_kind", "entropy", "tile_id"])
    turn = ordered.groupby("_kind").cumcount()
    picked = ordered.assign(_turn=turn).sort_values(["_turn", "_kind"]).head(count)
    return [{str(k): v for k, v in row.items()} for row in picked.to_dict("records")]


def _draw_examples(
    part: SubFigure, shown: Mapping[int, Sequence[_Example]], pictures: Mapping[str, NDArray[np.uint8]], count: int
) -> None:
    grid = part.subplots(len(shown), 2 * count, squeeze=False)
    part.suptitle(
        "Examples: kept (green, from certain to less certain) and dropped (red, with the reason)",
        x=0.01,
        ha="left",
        fontsize=10.5,
        fontweight="bold",
        color=INK,
    )
    for row, (cluster, rows) in zip(grid, shown.items(), strict=True):
        kept, lost = [e for e in rows if e.kept], [e for e in rows if not e.kept]
        for axes, example in zip(row, _padded(kept, count) + _padded(lost, count), strict=True):
            _draw_example(axes, example, pictures)
        row[0].set_ylabel(f"cluster {cluster}", fontsize=9, color=MUTED)


def _padded(rows: list[_Example], count: int) -> list[_Example | None]:
    return [*rows, *([None] * (count - len(rows)))]


def _draw_example(axes: Axes, example: _Example | None, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    if example is None:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return
    blank = np.full((8, 8, 3), 235, dtype=np.uint8)
    show_picture(axes, pictures.get(example.tile_id, blank), edge=_KEPT if example.kept else _DROPPED)
    axes.set_xlabel(example.text, fontsize=7.5, color=MUTED, labelpad=3)


def _short(reason: str) -> str:
    """A reason on two lines as wide as a picture."""
    return plain("\n".join(wrap(reason, width=20, max_lines=2, placeholder=" …")))
