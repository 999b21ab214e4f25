"""Signs that a run went wrong: collapse of the pseudo-labels, an unfair comparison, training cut short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

_FEW_CONFIDENT = 0.02
_SHARE = "share_"


def collapse_warnings(history: pd.DataFrame, classes: tuple[str, ...] | list[str] = ()) -> list[str]:
    """What in an S4P history speaks for collapse, in words; empty when nothing does.

    Three signs are looked for: hardly any confident pixel at the end, pseudo-labels that became clearly worse than they
    once were, and one class that took over the pseudo-labels or died out of them.

    Args:
        history: Columns step and, where measured, confident_share, pseudo_accuracy and share_<class>, in [0, 1].
        classes: Names to look for; all share_ columns by default.
    """
    ordered = history.sort_values("step") if "step" in history else history
    return [*_confidence_signs(ordered), *_accuracy_signs(ordered), *_class_signs(ordered, classes)]


def fairness_warnings(evaluation: Mapping[str, Any]) -> list[str]:
    """Where the supervised model had fewer steps or labelled images than a model that it is compared with."""
    models = evaluation.get("models", {})
    supervised = models.get("supervised")
    if supervised is None:
        return []
    signs = []
    for name, scores in models.items():
        for key, what in (("steps", "optimiser steps"), ("labeled_seen", "labelled images")):
            own, other = supervised.get(key), scores.get(key)
            if own is not None and other is not None and own < other:
                signs.append(f"supervised had {own:,} {what}, {name} had {other:,}: the comparison favours {name}")
    return signs


def _ends(values: pd.Series) -> tuple[float, float, float]:
    """Mean of the first tenth, largest running mean, and mean of the last tenth of the measured values."""
    measured = values.dropna().to_numpy(dtype=np.float64)
    if not len(measured):
        return np.nan, np.nan, np.nan
    width = max(1, len(measured) // 10)
    running = np.convolve(measured, np.full(width, 1 / width), mode="valid")
    return float(measured[:width].mean()), float(running.max()), float(measured[-width:].mean())


def _confidence_signs(history: pd.DataFrame) -> list[str]:
    if "confident_share" not in history:
        return []
    _, best, last = _ends(history["confident_share"])
    if last < _FEW_CONFIDENT:
        return [f"only {last:.1%} of the pixels are confident at the end: unlabelled images teach next to nothing"]
    if last < 0.25 * best:
        return [f"the confident share fell from {best:.0%} to {last:.0%}: the teacher lost its certainty"]
    return []


def _accuracy_signs(history: pd.DataFrame) -> list[str]:
    if "pseudo_accuracy" not in history:
        return []
    _, best, last = _ends(history["pseudo_accuracy"])
    if best - last > 0.10:
        return [f"pseudo-label accuracy fell from {best:.0%} to {last:.0%}: the model teaches itself its own mistakes"]
    return []


def _class_signs(history: pd.DataFrame, classes: tuple[str, ...] | list[str]) -> list[str]:
    columns = [f"{_SHARE}{name}" for name in classes] or [str(c) for c in history if str(c).startswith(_SHARE)]
    signs = []
    for column in (c for c in columns if c in history):
        name = column.removeprefix(_SHARE)
        first, best, last = _ends(history[column])
        if last > 0.97 and first < 0.9:
            signs.append(f"{name} took over the pseudo-labels: {last:.0%} of the confident pixels at the end")
        elif best > 0.02 and last < 0.1 * best:
            signs.append(
                f"{name} died out of the pseudo-labels: {best:.1%} of the confident pixels once, {last:.1%} now"
            )
    return signs
