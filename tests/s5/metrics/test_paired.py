import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s5.metrics.paired import bootstrap_interval, compare_arms


def test_an_interval_of_few_values_goes_through_all_resamples():
    values = [1.0, 2.0, 6.0]
    means = sorted(sum(draw) / 3 for draw in itertools.product(values, repeat=3))
    assert bootstrap_interval(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=2)


def test_an_interval_of_many_values_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3.0, 2.0, 200)
    low, high = bootstrap_interval(values, resamples=20_000)
    half = 1.96 * values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9))
def test_an_interval_lies_within_the_values(values):
    low, high = bootstrap_interval(values, resamples=200)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_arms_are_compared_seed_by_seed():
    scores = {"supervised": [50, 60, 70], "random": [51, 63, 69], "s5": [54, 64, 77]}
    runs = pd.DataFrame([{"arm": a, "seed": s, "miou": v} for a, of in scores.items() for s, v in enumerate(of)])
    table = compare_arms(runs.sample(frac=1, random_state=0), ["supervised", "random", "absent"]).set_index("arm")
    assert set(table.index) == set(scores)
    assert table.loc["s5", "mean"] == pytest.approx(65.0)
    assert table.loc["s5", "std"] == pytest.approx(np.std([54, 64, 77], ddof=1))
    assert table.loc["s5", "minus_supervised"] == pytest.approx(5.0)
    assert table.loc["s5", "minus_random"] == pytest.approx(4.0)
    assert table.loc["s5", ["minus_random_low", "minus_random_high"]].tolist() == list(bootstrap_interval([3, 1, 8]))
    assert table.loc["random", "minus_supervised_wins"] == 2
    assert np.isnan(table.loc["random", "minus_random"])
    assert "minus_absent" not in table


def test_seeds_that_only_one_arm_has_are_no_pairs():
    runs = pd.DataFrame({"arm": ["a", "a", "b"], "seed": [0, 1, 1], "miou": [1.0, 5.0, 7.0]})
    table = compare_arms(runs, ["a"]).set_index("arm")
    assert table.loc["b", "minus_a"] == 2.0
    assert table["seeds"].to_dict() == {"a": 2, "b": 1}


def test_what_cannot_be_compared_is_refused():
    runs = pd.DataFrame({"arm": ["a", "a"], "seed": [0, 0], "miou": [1.0, 2.0]})
    with pytest.raises(ValueError, match="'a' was run twice with seed 0"):
        compare_arms(runs, ["a"])
    with pytest.raises(ValueError, match="no difference"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=95)
