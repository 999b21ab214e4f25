"""How the training went."""

from __future__ import annotations

import pandas as pd

from s5.report.curves import plot_curves
from s5.report.health import collapse_warnings
from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, table
from s5.report.palette import model_color
from s5.report.sections.parts import figure, section, swatch, warning
from s5.report.verdict import best_on_val


def training(inputs: ReportInputs) -> Html | None:
    """Curves of all models, their best validation score, and signs of collapse."""
    histories = {name: frame for name, frame in inputs.histories.items() if len(frame)}
    if not histories:
        return None
    signs = [f"{name}: {sign}" for name, frame in histories.items() for sign in collapse_warnings(frame)]
    caption = (
        "Faint: as logged; bold: running median. Confident pixels are those whose pseudo-label passes the threshold; "
        "the accuracy of pseudo-labels is known only where unlabelled tiles have masks, which training never sees."
    )
    return section(
        "training",
        "Training",
        warning("Signs that the pseudo-labels fail", signs),
        figure(plot_curves(histories), "Training curves", caption),
        table(
            ["model", "last step", "best mIoU on val, %", "at step", "last loss", "weights"], _rows(inputs, histories)
        ),
        _health(histories, signs),
    )


def _rows(inputs: ReportInputs, histories: dict[str, pd.DataFrame]) -> list[list[str | Html]]:
    rows: list[list[str | Html]] = []
    for name, frame in histories.items():
        best = best_on_val(frame)
        at = "–" if best is None else f"{int(frame['step'].to_numpy()[int(frame['val_miou'].argmax())]):,}"
        loss = frame["loss"].dropna() if "loss" in frame else pd.Series(dtype=float)
        sha = (inputs.models.get(name) or {}).get("sha256")
        rows.append(
            [
                swatch(model_color(name), name),
                f"{int(frame['step'].max()):,}",
                "–" if best is None else f"{best:.1f}",
                at,
                f"{loss.iloc[-1]:.3f}" if len(loss) else "–",
                element("code", str(sha)[:12]) if sha else "–",
            ]
        )
    return rows


def _health(histories: dict[str, pd.DataFrame], signs: list[str]) -> Html | None:
    """That nothing was found is worth a sentence only where something was looked for."""
    if signs or not any("confident_share" in frame for frame in histories.values()):
        return None
    text = "No sign of collapse: pixels stayed confident and no class took over the pseudo-labels or died out of them."
    return element("p", text, class_="lead")
