"""Class weights against hand-worked cases."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.losses import balanced_weights


def test_ends_of_the_scale() -> None:
    assert balanced_weights([30, 10], 0.0).tolist() == [1.0, 1.0]
    torch.testing.assert_close(balanced_weights([30, 10], 1.0), torch.tensor([2 / 3, 2.0]))


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=9), st.floats(0, 1))
def test_the_mean_weight_of_a_pixel_is_one_and_rarer_is_heavier(counts: list[int], exponent: float) -> None:
    weights = balanced_weights(counts, exponent).double()
    pixels = torch.tensor(counts, dtype=torch.float64)
    assert float((weights * pixels).sum() / pixels.sum()) == pytest.approx(1, rel=1e-4)
    order = pixels.argsort()
    assert (weights[order].diff() <= 1e-6).all()


def test_a_class_that_is_never_seen_is_as_heavy_as_the_rarest() -> None:
    weights = balanced_weights([90, 10, 0], 0.5)
    assert weights[2] == weights[1]
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(("counts", "exponent"), [([0, 0], 0.5), ([1, 1], 1.5), ([1, 1], -0.1)])
def test_refusals(counts: list[int], exponent: float) -> None:
    with pytest.raises(ValueError, match="class_balance"):
        balanced_weights(counts, exponent)
