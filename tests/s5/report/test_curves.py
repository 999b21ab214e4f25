from __future__ import annotations

import numpy as np
import pandas as pd

from s5.report import ReportInputs, plot_curves
from s5.report.canvas import encode


def _titles(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]


def test_all_models_and_all_panels(run_inputs: ReportInputs) -> None:
    figure = plot_curves(run_inputs.histories)
    titles = _titles(figure)
    assert titles[0] == "Loss"
    assert "Pseudo-labels" in titles
    assert "Learning rate" in titles
    assert any("s4p" in title for title in titles)
    assert {line.get_label() for line in figure.axes[0].get_lines()} >= {"seed_model", "supervised", "s4p", "finetuned"}
    assert encode(figure)[1]


def test_shares_are_drawn_in_percent() -> None:
    history = pd.DataFrame({"step": [1, 2, 3], "confident_share": [0.1, 0.5, 0.75], "pseudo_accuracy": [np.nan] * 3})
    figure = plot_curves({"s4p": history})
    assert _titles(figure) == ["Pseudo-labels"]
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), [10, 50, 75])


def test_the_best_validation_is_marked_and_gaps_are_skipped() -> None:
    history = pd.DataFrame({"step": [1, 2, 3, 4], "val_miou": [10.0, np.nan, 40.0, 30.0]})
    lines = plot_curves({"supervised": history}).axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_xdata(), [1, 3, 4])
    assert (lines[1].get_xdata()[0], lines[1].get_ydata()[0]) == (3, 40.0)


def test_nothing_to_draw_says_so() -> None:
    for histories in ({}, {"s4p": pd.DataFrame({"step": [], "loss": []})}):
        assert "No training history" in plot_curves(histories).texts[0].get_text()


def test_names_with_dollars_are_no_formula() -> None:
    history = pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5], "share_$x^$": [1.0, 1.0]})
    assert encode(plot_curves({"_$a_{$": history}))[1]
