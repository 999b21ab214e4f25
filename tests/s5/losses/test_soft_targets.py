"""Mean teacher's consistency cost against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.losses import DISTANCES, soft_target_loss


def by_numpy(logits: np.ndarray, target: np.ndarray, distance: str, valid: np.ndarray, weight: np.ndarray) -> float:
    exp = np.exp(logits - logits.max(1, keepdims=True))
    student = exp / exp.sum(1, keepdims=True)
    if distance == "mse":
        loss = ((student - target) ** 2).sum(1) / logits.shape[1]
    else:
        loss = (target * (np.log(target) - np.log(student))).sum(1)
    return float((loss * weight)[valid].sum() / valid.sum()) if valid.any() else 0.0


@given(seed=st.integers(0, 1000), distance=st.sampled_from(DISTANCES), valid_share=st.sampled_from([0.0, 0.5, 1.0]))
def test_equals_numpy(seed: int, distance: str, valid_share: float) -> None:
    rng = np.random.default_rng(seed)
    logits, target = (
        3 * rng.standard_normal((2, 4, 3, 5)),
        rng.dirichlet(np.ones(4) * 2, (2, 3, 5)).transpose(0, 3, 1, 2),
    )
    valid, weight = rng.random((2, 3, 5)) < valid_share, rng.random((2, 3, 5)) + 0.5
    found = soft_target_loss(
        torch.from_numpy(logits).float(),
        torch.from_numpy(target).float(),
        distance=distance,
        valid_BHW=torch.from_numpy(valid),
        weight_BHW=torch.from_numpy(weight),
    )
    assert found.item() == pytest.approx(by_numpy(logits, target, distance, valid, weight), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(("distance", "expected"), [("mse", 0.25), ("kl", np.log(2))])
def test_a_certain_teacher_and_an_even_student(distance: str, expected: float) -> None:
    # (1/2^2 + 1/2^2) / 2, and log 1 / (1/2); a probability of zero adds nothing
    certain = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 2, 2)
    assert soft_target_loss(torch.zeros(1, 2, 2, 2), certain, distance=distance).item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_agreement_costs_nothing(distance: str) -> None:
    logits = torch.randn(1, 3, 4, 4)
    assert soft_target_loss(logits, logits.softmax(1), distance=distance).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_nothing_valid_is_zero_with_a_zero_gradient_and_the_teacher_gets_none(distance: str) -> None:
    logits, teacher = torch.randn(1, 3, 2, 2, requires_grad=True), torch.randn(1, 3, 2, 2, requires_grad=True)
    valid = torch.zeros(1, 2, 2, dtype=torch.bool)
    loss = soft_target_loss(logits, teacher.softmax(1), distance=distance, valid_BHW=valid)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert teacher.grad is None


@pytest.mark.parametrize("distance", DISTANCES)
def test_float32_from_bf16(distance: str) -> None:
    logits, target = torch.randn(1, 3, 4, 4).bfloat16(), torch.randn(1, 3, 4, 4).softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = soft_target_loss(logits, target, distance=distance)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_target_loss(logits.float(), target, distance=distance))


def test_an_unknown_distance() -> None:
    with pytest.raises(ValueError, match=r"distance: expected one of \('mse', 'kl'\), got 'l1'"):
        soft_target_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), distance="l1")
