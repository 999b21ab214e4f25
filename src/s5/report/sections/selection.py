"""Which unlabelled tiles were taken, and why the others were not."""

from __future__ import annotations

import pandas as pd

from s5.report.canvas import Picture
from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, table
from s5.report.reasons import kind_of
from s5.report.sections.parts import counted, figure, folded, section
from s5.report.selection import plot_selection


def selection(inputs: ReportInputs) -> Html | None:
    """Entropies, quotas, reasons and examples."""
    image = _picture(inputs)
    if inputs.pool is None and image is None:
        return None
    caption = (
        "Entropy is the mean over a tile's valid pixels, scaled to [0, 1]. Tiles are taken from certain to uncertain "
        "until each cluster's quota is full; near duplicates of a tile already taken are left out."
    )
    return section(
        "selection",
        "Selection",
        _sentence(inputs),
        None if image is None else figure(image, "Entropy histogram, quotas and examples", caption),
        _reasons(inputs),
        _clusters(inputs.clusters),
    )


def _picture(inputs: ReportInputs) -> Picture | None:
    if "selection_report" in inputs.figures:
        return inputs.figures["selection_report"]
    manifest, scores, pool = inputs.manifest, inputs.scores, inputs.pool
    clusters, dropped = inputs.clusters, inputs.dropped
    if manifest is None or scores is None or pool is None or clusters is None or dropped is None:
        return None
    return plot_selection(manifest, scores, pool, clusters, dropped, statistics=inputs.statistics)


def _sentence(inputs: ReportInputs) -> Html | None:
    if inputs.pool is None:
        return None
    kept, lost = len(inputs.pool), 0 if inputs.dropped is None else len(inputs.dropped)
    total = kept + lost if inputs.scores is None else len(inputs.scores)
    text = f"{kept:,} of {counted(total, 'unlabelled tile')} were selected"
    if total:
        text += f" ({kept / total:.0%})"
    if inputs.clusters is not None:
        text += f", spread over {counted(len(inputs.clusters), 'cluster')} of the labelled tiles"
    return element("p", text + ".", class_="lead")


def _reasons(inputs: ReportInputs) -> Html | None:
    rows = []
    for kind, frame in (("kept", inputs.pool), ("dropped", inputs.dropped)):
        if frame is None or "reason" not in frame or frame.empty:
            continue
        for reason, part in frame.groupby(frame["reason"].map(kind_of), sort=True):
            low, high = part["entropy"].min(), part["entropy"].max()
            rows.append([kind, str(reason), f"{len(part):,}", f"{low:.3f} … {high:.3f}"])
    if not rows:
        return None
    return element("div", element("h3", "Reasons"), table(["", "reason", "tiles", "entropy"], rows))


def _clusters(clusters: pd.DataFrame | None) -> Html | None:
    if clusters is None or clusters.empty:
        return None
    columns = [c for c in ("cluster", "labeled", "candidates", "duplicates", "quota", "filled") if c in clusters]
    titles = {"labeled": "labelled tiles", "duplicates": "near duplicates", "filled": "taken"}
    rows = [[f"{int(row[c]):,}" for c in columns] for row in clusters[columns].to_dict("records")]
    return folded("Clusters in numbers", table([titles.get(c, c) for c in columns], rows))
