from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from s5.report import collapse_warnings, fairness_warnings

STEPS = np.arange(100)


def _history(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"step": STEPS, **columns})


def test_a_healthy_run_has_no_signs() -> None:
    history = _history(
        confident_share=np.linspace(0.2, 0.9, 100), pseudo_accuracy=0.9, share_water=0.4, share_field=0.6
    )
    assert collapse_warnings(history) == []
    assert collapse_warnings(pd.DataFrame({"step": STEPS, "loss": 1.0})) == []


@pytest.mark.parametrize(
    ("columns", "sign"),
    [
        ({"confident_share": 0.001}, "only 0.1% of the pixels are confident"),
        ({"confident_share": np.linspace(0.9, 0.05, 100)}, "confident share fell from"),
        ({"pseudo_accuracy": np.linspace(0.9, 0.6, 100)}, "accuracy fell from 89% to 61%"),
        ({"share_road": 0.985}, ""),  # the data may be like that: it took over nothing
        ({"share_road": np.concatenate([np.full(50, 0.3), np.full(50, 1.0)])}, "road took over"),
        ({"share_road": np.linspace(0.3, 0.0, 100)}, "road died out"),
    ],
)
def test_signs(columns: dict[str, object], sign: str) -> None:
    signs = collapse_warnings(_history(**columns))
    assert any(sign in s for s in signs) if sign else signs == []


def test_the_order_of_rows_does_not_matter() -> None:
    history = _history(pseudo_accuracy=np.linspace(0.9, 0.6, 100))
    assert collapse_warnings(history) == collapse_warnings(history.iloc[::-1])


def test_fairness() -> None:
    models = {"supervised": {"steps": 10, "labeled_seen": 80}, "s4p": {"steps": 12, "labeled_seen": 80}, "mine": {}}
    signs = fairness_warnings({"models": models})
    assert signs == ["supervised had 10 optimiser steps, s4p had 12: the comparison favours s4p"]
    assert fairness_warnings({"models": {"s4p": {"steps": 1}}}) == []
