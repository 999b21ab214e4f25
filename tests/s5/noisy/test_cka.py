"""Linear CKA against its kernel form, written out, and its invariances (Kornblith et al., 2019, Section 2 and 3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from s5.noisy import LinearCKA, linear_cka

SHAPES = st.tuples(st.integers(3, 40), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31 - 1))


def kernel_form(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the n x n kernels of all pairs of rows (eq. 2 and 3)."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(np.trace(k @ centre @ m @ centre)) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def arrays(rows: int, first: int, second: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, first)) * rng.uniform(0.1, 10, first) + rng.uniform(-5, 5, first)
    y = rng.normal(size=(rows, second)) + x @ rng.normal(size=(first, second)) * rng.uniform(0, 1)
    return x, y


def cka(x: np.ndarray, y: np.ndarray) -> float:
    found = linear_cka(torch.from_numpy(x), torch.from_numpy(y))
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_the_kernel_form_gives_the_same(shape: tuple[int, int, int, int]) -> None:
    x, y = arrays(*shape)
    assert cka(x, y) == pytest.approx(kernel_form(x, y), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.floats(-100, 100).filter(lambda v: abs(v) > 0.01), st.floats(-50, 50))
def test_rotations_factors_and_offsets_change_nothing(
    shape: tuple[int, int, int, int], factor: float, offset: float
) -> None:
    rows, first, second, seed = shape
    x, y = arrays(rows, max(first, 2), second, seed)
    turn = ortho_group.rvs(x.shape[1], random_state=seed)
    assert cka(factor * x @ turn + offset, y) == pytest.approx(cka(x, y), abs=1e-7)
    assert cka(x @ turn, x) == pytest.approx(1, abs=1e-9)
    assert cka(y, x) == pytest.approx(cka(x, y), abs=1e-12)


def test_other_linear_maps_do_change_it() -> None:
    x, _ = arrays(50, 4, 4, 0)
    assert cka(x @ np.diag([100, 1, 1, 1]), x) < 0.9  # invariant to rotations, and not to any invertible map


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(1, 7))
def test_batches_are_the_whole(shape: tuple[int, int, int, int], size: int) -> None:
    x, y = arrays(*shape)
    sums = LinearCKA()
    for start in range(0, len(x), size):
        sums.update(torch.from_numpy(x[start : start + size]), torch.from_numpy(y[start : start + size]))
    assert sums.value() == pytest.approx(cka(x, y), abs=1e-9)


def test_nothing_to_compare_is_none_and_independent_columns_are_near_zero() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(20_000, 3, generator=rng), torch.randn(20_000, 3, generator=rng)
    assert linear_cka(x, y) == pytest.approx(0, abs=1e-3)
    assert linear_cka(torch.full((5, 2), 0.3), x[:5]) is None
    assert LinearCKA().value() is None
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(4, 3\)"):
        linear_cka(x[:5], y[:4])
