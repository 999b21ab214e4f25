"""FixMatch's unlabelled loss against a loop over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.losses import confident_pixels, consistency_loss


def by_hand(logits, pseudo, confidence, threshold, valid, weight) -> float:  # type: ignore[no-untyped-def]
    total, count = 0.0, 0
    for b in range(pseudo.shape[0]):
        for y in range(pseudo.shape[1]):
            for x in range(pseudo.shape[2]):
                label = int(pseudo[b, y, x])
                if not valid[b, y, x] or label == 255:
                    continue
                count += 1
                tau = threshold[label] if isinstance(threshold, list) else threshold
                if float(confidence[b, y, x]) >= tau:
                    scores = [float(v) for v in logits[b, :, y, x]]
                    log_sum = math.log(sum(math.exp(s) for s in scores))
                    total += (log_sum - scores[label]) * float(weight[b, y, x])
    return total / count if count else 0.0


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), per_class=st.booleans(), weighted=st.booleans())
def test_equals_the_loop(seed: int, per_class: bool, weighted: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 3, 4, generator=g)
    pseudo = torch.randint(0, 3, (2, 3, 4), generator=g)
    pseudo[torch.rand(2, 3, 4, generator=g) < 0.1] = 255
    confidence, valid = torch.rand(2, 3, 4, generator=g), torch.rand(2, 3, 4, generator=g) < 0.7
    weight = torch.rand(2, 3, 4, generator=g) if weighted else None
    threshold = [0.25, 0.5, 0.75] if per_class else 0.5
    found = consistency_loss(
        logits,
        pseudo,
        confidence,
        threshold=torch.tensor(threshold) if per_class else 0.5,
        valid_BHW=valid,
        weight_BHW=weight,
    )
    ones = torch.ones(2, 3, 4)
    expected = by_hand(logits, pseudo, confidence, threshold, valid, ones if weight is None else weight)
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_denominator_counts_unsure_pixels() -> None:
    # One of four valid pixels is sure: log 2 / 4, where a mean over sure pixels would give log 2.
    confidence = torch.tensor([[[0.95, 0.94], [0.5, 0.1]]])
    loss = consistency_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2).long(), confidence, threshold=0.95)
    assert loss.item() == pytest.approx(math.log(2) / 4)


def test_invalid_pixels_leave_the_denominator() -> None:
    valid = torch.tensor([[[True, False], [True, False]]])
    loss = consistency_loss(
        torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2).long(), torch.ones(1, 2, 2), threshold=1.0, valid_BHW=valid
    )
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("weight", [None, torch.ones(1, 2, 2)])
def test_nothing_valid_is_zero_with_a_zero_gradient(weight: torch.Tensor | None) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = consistency_loss(
        logits,
        torch.zeros(1, 2, 2).long(),
        torch.ones(1, 2, 2),
        threshold=0.95,
        valid_BHW=torch.zeros(1, 2, 2, dtype=torch.bool),
        weight_BHW=weight,
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_float32_from_bf16() -> None:
    logits, pseudo = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = consistency_loss(logits.bfloat16(), pseudo, torch.ones(1, 4, 4), threshold=0.9)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, consistency_loss(logits.bfloat16().float(), pseudo, torch.ones(1, 4, 4), threshold=0.9)
    )


def test_confident_pixels() -> None:
    pseudo = torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8)
    confidence = torch.tensor([[[0.6, 0.6, 0.9, 1.0]]])
    assert confident_pixels(pseudo, confidence, torch.tensor([0.5, 0.8])).tolist() == [[[True, False, True, False]]]
    valid = torch.tensor([[[True, True, False, True]]])
    assert confident_pixels(pseudo, confidence, 0.6, valid_BHW=valid).tolist() == [[[True, True, False, False]]]
