"""The ridge probe against scikit-learn's ridge on standardised features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from s5.noisy import RidgeProbe


@settings(max_examples=25, deadline=None)
@given(
    st.integers(10, 80), st.integers(1, 6), st.integers(2, 4), st.sampled_from([1e-4, 1e-2, 1.0]), st.integers(0, 999)
)
def test_scikit_learn_gives_the_same_scores(rows: int, width: int, classes: int, ridge: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width)) * rng.uniform(0.1, 10, width) + rng.uniform(-3, 3, width)
    y = rng.integers(0, classes, rows)
    probe = RidgeProbe(classes, ridge=ridge)
    for part in np.array_split(np.arange(rows), 3):
        probe.update(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    weights, bias = probe.solve()
    ours = x @ weights.double().numpy().T + bias.double().numpy()
    scaled = StandardScaler().fit_transform(x)
    theirs = Ridge(alpha=ridge * rows).fit(scaled, np.eye(classes)[y]).predict(scaled).reshape(rows, classes)
    assert ours == pytest.approx(theirs, abs=2e-5)


def test_a_constant_feature_gets_no_weight() -> None:
    x = torch.cat([torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), torch.full((50, 1), 7.1)], dim=1)
    probe = RidgeProbe(2)
    probe.update(x, (x[:, 0] > 0).long())
    weights, bias = probe.solve()
    assert torch.equal(weights[:, 2], torch.zeros(2))
    assert ((x @ weights.T + bias).argmax(1) == (x[:, 0] > 0)).float().mean() > 0.9


def test_no_pixel_and_no_penalty_are_refused() -> None:
    with pytest.raises(ValueError, match="no labelled pixel"):
        RidgeProbe(3).solve()
    with pytest.raises(ValueError, match="ridge: expected a positive number, got 0"):
        RidgeProbe(3, ridge=0)
