"""The one comparison a report is about: what the unlabelled tiles bought, and on what evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

CANDIDATES = ("s4p", "finetuned")


@dataclass(frozen=True)
class Verdict:
    """The model that `val` prefers among those that used unlabelled tiles, against the supervised one, in percent."""

    model: str
    supervised: float
    chosen: float
    chosen_on: str

    @property
    def difference(self) -> float:
        return self.chosen - self.supervised


def judge(scored: Mapping[str, Mapping[str, Any]], histories: Mapping[str, pd.DataFrame]) -> Verdict | None:
    """Choose between s4p and finetuned on `val`, never on the split that is reported.

    Args:
        scored: Model name to its scores on the reported split.
        histories: Model name to its history; the best val_miou decides where both have one.

    Returns:
        None where there is no supervised model or nothing to compare it with.
    """
    supervised = _miou(scored, "supervised")
    present = [name for name in CANDIDATES if _miou(scored, name) is not None]
    if supervised is None or not present:
        return None
    on_val = {name: best for name in present if (best := best_on_val(histories.get(name))) is not None}
    if len(present) == len(on_val) > 1:
        model, reason = max(present, key=lambda name: on_val[name]), "the better of s4p and finetuned on val"
    else:
        model, reason = present[-1], "the last step of the chain"
    return Verdict(model, supervised, float(scored[model]["miou"]), reason)


def best_on_val(history: pd.DataFrame | None) -> float | None:
    """The best validation mIoU of a history; None where it was never measured."""
    if history is None or "val_miou" not in history or not history["val_miou"].notna().any():
        return None
    return float(history["val_miou"].max())


def _miou(scored: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    value = scored.get(name, {}).get("miou")
    return None if value is None else float(value)
