"""What each layer of a network keeps of its pretraining, by depth."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s5.report.canvas import empty_figure, new_figure, plain, style_axes
from s5.report.palette import INK, MUTED, spare_colours

_KNOWN = {"random": "#A16207", "clean": INK, "clean_again": "#9CA3AF"}
_STYLES = {"tuned": "-", "frozen": "--"}


def plot_layers(layers: pd.DataFrame, runs: pd.DataFrame, *, score: str = "miou") -> Figure:
    """Likeness to the clean twin and probes by layer, and what fine-tuning makes of weights taken over up to a depth.

    Args:
        layers: A row a layer: arm, seed, depth, layer, cka in [0, 1] and probe_miou in percent.
        runs: A row a fine-tuned network: arm, seed, taken, mode (tuned or frozen), noise_rate and the score.
        score: Which column of `runs`, in percent.
    """
    if layers.empty:
        return empty_figure("No layer was looked at")
    arms = list(dict.fromkeys(layers["arm"]))
    spare = iter(spare_colours(len(arms)))
    colours = {arm: _KNOWN.get(arm) or next(spare) for arm in arms}
    figure = new_figure(15.0, 5.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.15, 1.15, 1.0])
    names = layers.drop_duplicates("depth").sort_values("depth")["layer"].tolist()
    _draw_depths(left, layers, "cka", colours, names)
    style_axes(left, "Likeness to the network pretrained on clean labels", ylabel="linear CKA")
    left.set_ylim(top=1.02)
    _draw_depths(middle, layers, "probe_miou", colours, names)
    style_axes(middle, "What a linear probe reads from each layer", ylabel=f"{score} in percent")
    _draw_transfer(right, runs, score, colours)
    seeds = layers["seed"].nunique()
    style_axes(right, "Fine-tuned, with weights taken over up to there", ylabel=f"{score} in percent")
    handles = [left.plot([], [], color=colours[arm], marker="o", ms=4)[0] for arm in arms]
    handles += [right.plot([], [], color=MUTED, linestyle=style)[0] for style in (*_STYLES.values(), ":")]
    text = [plain(_with_rate(arm, runs)) for arm in arms] + ["trained on", "kept frozen", "labelled tiles alone"]
    figure.legend(
        handles, text, loc="outside lower center", ncols=5, fontsize=8.5, frameon=False,
        title=f"Start of the network; mean of {seeds} seed{'s' if seeds > 1 else ''}, a dot each", title_fontsize=8.5,
    )  # fmt: skip
    return figure


def _draw_depths(axes: Axes, layers: pd.DataFrame, column: str, colours: dict[str, str], names: Sequence[str]) -> None:
    for arm, mine in layers.dropna(subset=[column]).groupby("arm", sort=False):
        mean = mine.groupby("depth")[column].mean()
        axes.plot(mean.index, mean.to_numpy(), color=colours[str(arm)], linewidth=1.8)
        axes.scatter(mine["depth"], mine[column], s=11, color=colours[str(arm)], alpha=0.7, zorder=3)
    axes.set_xticks(range(len(names)), [plain(name) for name in names], rotation=60, ha="right")
    decoder = next((place for place, name in enumerate(names) if name.startswith("decoder")), None)
    if decoder is not None:
        axes.axvline(decoder - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 3)))


def _draw_transfer(axes: Axes, runs: pd.DataFrame, score: str, colours: dict[str, str]) -> None:
    transferred = runs[runs["taken"] != "nothing"]
    places = {name: place for place, name in enumerate(dict.fromkeys(transferred["taken"]))}
    for (arm, mode), mine in transferred.groupby(["arm", "mode"], sort=False):
        mean = mine.groupby(mine["taken"].map(places))[score].mean()
        colour = colours.get(str(arm), MUTED)
        axes.plot(mean.index, mean.to_numpy(), _STYLES[str(mode)], color=colour, linewidth=1.8)
        axes.scatter(mine["taken"].map(places), mine[score], s=11, color=colour, alpha=0.6, zorder=3)
    for arm, mine in runs[runs["taken"] == "nothing"].groupby("arm", sort=False):
        level = mine[score].mean()
        axes.axhline(level, color=MUTED, linewidth=1.2, linestyle=":")
        steps = int(mine["steps"].iloc[0])
        axes.text(-0.2, level, f"{plain(str(arm))}, {steps} steps", fontsize=7.5, color=MUTED, va="bottom")
    axes.set_xticks(list(places.values()), [plain(name) for name in places], rotation=60, ha="right")
    axes.set_xlim(-0.25, len(places) - 0.75)


def _with_rate(arm: str, runs: pd.DataFrame) -> str:
    """A start with the share of its labels that are wrong, as measured."""
    rates = runs.loc[runs["arm"] == arm, "noise_rate"].dropna()
    return arm if rates.empty or not rates.any() else f"{arm} ({100 * rates.mean():.0f} % wrong)"
