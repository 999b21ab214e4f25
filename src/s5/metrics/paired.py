"""Arms of a study compared seed by seed: means, and paired differences with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

_EXACT = 20_000  # resamples that are gone through one by one where there are no more than these


def bootstrap_interval(
    differences: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences, resampled with replacement; Efron 1979.

    With up to six values all resamples are gone through, so that nothing is drawn. An interval of few values is coarse:
    that of three lies between the smallest and the largest of them, and says no more than that.

    Args:
        differences: One a pair, at least one; NaN where a pair is not known makes the interval NaN.
        confidence: Of the interval, in (0, 1).
        resamples: Drawn where there are more values.
        seed: Of the draws.

    Raises:
        ValueError: no value, or a confidence out of range.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        raise ValueError("bootstrap_interval: there is no difference to resample")
    if not 0 < confidence < 1:
        raise ValueError(f"bootstrap_interval: expected a confidence in (0, 1), got {confidence!r}")
    number = len(values)
    if number**number <= _EXACT * 5:
        places = np.array(list(product(range(number), repeat=number)), dtype=np.int64)
    else:
        places = np.random.default_rng(seed).integers(0, number, (resamples, number))
    low, high = np.quantile(values[places].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def compare_arms(
    runs: pd.DataFrame, references: Sequence[str], *, score: str = "miou", seed: int = 0, resamples: int = 10_000
) -> pd.DataFrame:
    """A row an arm: its mean and spread over seeds, and how it differs from each reference at the same seed.

    Args:
        runs: A row a run: ``arm``, ``seed`` and the score.
        references: Arms that the others are compared with; those that were not run are left out.
        score: Column to compare.

    Returns:
        ``arm``, ``seeds``, ``mean``, ``std`` (of n - 1, NaN for one seed), and for each reference ``minus_<reference>``
        with ``..._low``, ``..._high`` (95 % interval) and ``..._wins`` (seeds at which the arm scores higher).

    Raises:
        ValueError: an arm was run twice with one seed.
    """
    import pandas as pd  # s5.metrics stays light to import

    if runs.duplicated(["arm", "seed"]).any():
        twice = runs[runs.duplicated(["arm", "seed"])].iloc[0]
        raise ValueError(f"arm {twice['arm']!r} was run twice with seed {twice['seed']}; give each run its own seed")
    scores = runs.pivot_table(index="arm", columns="seed", values=score, sort=False)
    rows = []
    for arm, values in scores.iterrows():
        known = values.dropna()
        row = {"arm": arm, "seeds": len(known), "mean": known.mean(), "std": known.std(ddof=1)}
        for reference in references:
            if reference not in scores.index:
                continue
            paired = values.to_numpy(dtype=np.float64) - scores.loc[reference].to_numpy(dtype=np.float64)
            differences = paired[np.isfinite(paired)]
            name, alone = f"minus_{reference}", arm == reference or differences.size == 0
            interval = (
                bootstrap_interval(differences, seed=seed, resamples=resamples) if not alone else (np.nan, np.nan)
            )
            row |= {
                name: np.nan if alone else differences.mean(),
                f"{name}_low": interval[0],
                f"{name}_high": interval[1],
                f"{name}_wins": 0 if alone else int((differences > 0).sum()),
            }
        rows.append(row)
    return pd.DataFrame(rows)
