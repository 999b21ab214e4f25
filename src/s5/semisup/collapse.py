"""A watch over the pseudo-labels: a run that collapses is warned about while it runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

_WINDOW = 100
_LOST = 0.1
_NOTICEABLE = 0.02
_FEW_CONFIDENT = 0.02


class CollapseWatch:
    """Warns once per kind: hardly a pixel is confident, or a class has all but vanished from the pseudo-labels.

    A class vanishes when its share over the last 100 steps is under a tenth of that over the first 100.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._warned: set[str] = set()

    def look_at(self, rows: Sequence[dict[str, float]]) -> None:
        """Look at the history so far."""
        if len(rows) < _WINDOW:
            return
        last = rows[-_WINDOW:]
        confident = _mean(last, "confident_share")
        if confident < _FEW_CONFIDENT:
            self._warn(
                "confident",
                f"only {confident:.1%} of the unlabelled pixels are confident over the last {_WINDOW} steps: the "
                "unlabelled tiles hardly count; start from a better seed model or lower s4p.pseudo_labels.tau",
            )
        if len(rows) < 2 * _WINDOW:
            return
        for name in self._classes:
            before, now = _mean(rows[:_WINDOW], f"share_{name}"), _mean(last, f"share_{name}")
            if before > _NOTICEABLE and now < _LOST * before:
                self._warn(
                    name,
                    f"class {name!r} fell from {before:.1%} to {now:.1%} of the pseudo-labels: S4P is collapsing; "
                    "set s4p.pseudo_labels.threshold=per_class, lower s4p.lambda_u, or train the seed model longer",
                )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("S4P: %s", message)


def _mean(rows: Sequence[dict[str, float]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)
