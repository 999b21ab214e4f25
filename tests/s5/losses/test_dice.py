"""Soft Dice against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from s5.losses import dice_loss


def test_certain_and_right_is_zero_and_wrong_is_one() -> None:
    target = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    right = torch.nn.functional.one_hot(target.long() % 254, 2).movedim(-1, 1).float() * 200
    assert dice_loss(right, target, smooth=0).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, target, smooth=0).item() == pytest.approx(1, abs=1e-6)


def test_uniform_probabilities_by_hand() -> None:
    # 4 pixels, 3 of class 0, 1 of class 1, p = 1/2: class 0: 2*1.5/(2+3) = 0.6; class 1: 2*0.5/(2+1) = 1/3.
    target = torch.tensor([[[0, 0], [0, 1]]])
    assert dice_loss(torch.zeros(1, 2, 2, 2), target, smooth=0).item() == pytest.approx(1 - (0.6 + 1 / 3) / 2)
    # With one pixel of smoothing: (3+1)/(5+1) and (1+1)/(3+1).
    assert dice_loss(torch.zeros(1, 2, 2, 2), target).item() == pytest.approx(1 - (4 / 6 + 2 / 4) / 2)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_nothing_to_learn_is_zero_with_a_zero_gradient(smooth: float) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = dice_loss(logits, torch.full((1, 2, 2), 255, dtype=torch.uint8), smooth=smooth)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_and_absent_classes_do_not_count() -> None:
    logits = torch.randn(1, 3, 2, 3)
    target = torch.tensor([[[0, 1, 255], [1, 0, 255]]])
    torch.testing.assert_close(dice_loss(logits, target), dice_loss(logits[..., :2], target[..., :2]))
    with pytest.raises(ValueError, match="smooth: expected at least 0, got -1"):
        dice_loss(logits, target, smooth=-1)
