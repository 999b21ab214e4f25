"""Cross entropy against torch's own, and where torch's is NaN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.losses import cross_entropy


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    ignored=st.floats(0, 0.9),
)
def test_equals_torch_where_torch_is_finite(seed: int, weighted: bool, smoothing: float, ignored: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 4, 3, generator=generator)
    target = torch.randint(0, 5, (2, 4, 3), generator=generator)
    target[torch.rand(2, 4, 3, generator=generator) < ignored] = 255
    target[0, 0, 0] = 2
    weights = torch.rand(5, generator=generator) + 0.01 if weighted else None
    expected = F.cross_entropy(logits, target, weight=weights, ignore_index=255, label_smoothing=smoothing)
    found = cross_entropy(logits, target.to(torch.uint8), class_weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 2.0])])
def test_nothing_to_learn_is_zero_with_a_zero_gradient(weights: torch.Tensor | None) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(
        logits, torch.full((2, 4, 4), 255, dtype=torch.uint8), class_weights=weights, label_smoothing=0.1
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_uniform_logits_cost_log_k() -> None:
    loss = cross_entropy(torch.zeros(1, 7, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert loss.item() == pytest.approx(torch.tensor(7.0).log().item())


def test_float32_inside_autocast_and_from_bf16() -> None:
    logits = torch.randn(1, 4, 8, 8).bfloat16()
    target = torch.randint(0, 4, (1, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), target))
