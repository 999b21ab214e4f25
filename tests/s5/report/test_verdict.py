from __future__ import annotations

import pandas as pd

from s5.report import judge


def _scored(**mious: float | None) -> dict[str, dict[str, float | None]]:
    return {name: {"miou": value} for name, value in mious.items()}


def _history(best: float) -> pd.DataFrame:
    return pd.DataFrame({"step": [1, 2], "val_miou": [best, best - 5]})


def test_val_decides_even_where_test_says_otherwise() -> None:
    verdict = judge(
        _scored(supervised=50.0, s4p=60.0, finetuned=55.0), {"s4p": _history(40.0), "finetuned": _history(41.0)}
    )
    assert verdict is not None
    assert verdict.model == "finetuned"
    assert verdict.difference == 5.0


def test_without_val_the_end_of_the_chain_counts() -> None:
    verdict = judge(_scored(supervised=50.0, s4p=60.0, finetuned=55.0), {"s4p": _history(40.0)})
    assert verdict is not None
    assert verdict.model == "finetuned"
    assert "last step" in verdict.chosen_on


def test_nothing_to_compare() -> None:
    assert judge(_scored(supervised=50.0), {}) is None
    assert judge(_scored(s4p=50.0), {}) is None
    assert judge(_scored(supervised=None, s4p=50.0), {}) is None
