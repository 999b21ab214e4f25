"""Arms of a study beside each other: every seed as a dot, means, and differences with their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s5.report.canvas import empty_figure, new_figure, plain, style_axes
from s5.report.palette import INK, MUTED, SPLITS

_DOT, _MEAN = SPLITS["selected"], INK


def plot_ablation(runs: pd.DataFrame, table: pd.DataFrame, *, reference: str, score: str = "miou") -> Figure:
    """Scores of each arm at the left, paired differences to the reference at the right.

    Args:
        runs: A row a run: arm, seed and the score.
        table: As `s5.metrics.paired.compare_arms` gives it.
        reference: The arm that differences are taken to.
        score: Which column of `runs`, in percent.
    """
    if runs.empty:
        return empty_figure("No arm was run")
    arms = table["arm"].tolist()
    figure = new_figure(11.0, 1.4 + 0.38 * len(arms))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.2, 1.0])
    places = {arm: place for place, arm in enumerate(arms)}
    for number, (_, mine) in enumerate(runs.groupby("seed", sort=True)):
        left.scatter(
            mine[score], mine["arm"].map(places) + 0.08 * ((number % 3) - 1), s=22, color=_DOT, alpha=0.7, zorder=3
        )
    left.scatter(table["mean"], list(places.values()), marker="|", s=260, color=_MEAN, linewidths=2.2, zorder=4)
    style_axes(left, "Every seed, and the mean", xlabel=f"{score} in percent")
    left.set_yticks(list(places.values()), [plain(arm) for arm in arms])
    left.invert_yaxis()
    _draw_differences(right, table, reference, runs["seed"].nunique())
    return figure


def _draw_differences(axes: Axes, table: pd.DataFrame, reference: str, seeds: int) -> None:
    name = f"minus_{reference}"
    if name in table:
        shown = table[table[name].notna()]
        middle = shown[name].to_numpy(dtype=np.float64)
        spread = [middle - shown[f"{name}_low"].to_numpy(), shown[f"{name}_high"].to_numpy() - middle]
        axes.errorbar(middle, shown.index.to_numpy(), xerr=np.clip(spread, 0, None), fmt="o", color=_MEAN, capsize=3)
    axes.axvline(0, color=MUTED, linewidth=1)
    style_axes(axes, f"Paired differences to {plain(reference)}", xlabel=f"points, 95 % bootstrap over {seeds} seeds")
