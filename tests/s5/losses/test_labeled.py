"""The labelled loss by name is what its parts are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from s5.losses import LABELED_LOSSES, OhemConfig, cross_entropy, dice_loss, labeled_loss

LOGITS = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ce_is_the_cross_entropy_to_the_last_bit(weights: torch.Tensor | None) -> None:
    assert torch.equal(
        labeled_loss(LOGITS, TARGET, class_weights=weights), cross_entropy(LOGITS, TARGET, class_weights=weights)
    )


def test_ce_dice_is_the_sum() -> None:
    found = labeled_loss(LOGITS, TARGET, name="ce_dice", class_weights=WEIGHTS)
    expected = F.cross_entropy(LOGITS, TARGET.long(), weight=WEIGHTS) + dice_loss(LOGITS, TARGET)
    torch.testing.assert_close(found, expected)


def test_ohem_is_the_weighted_mean_over_hard_pixels() -> None:
    truth = LOGITS.softmax(1).gather(1, TARGET.long()[:, None])[:, 0]
    loss, weight, hard = -truth.log(), WEIGHTS[TARGET.long()], truth < 0.2
    assert 0 < int(hard.sum()) < hard.numel()
    found = labeled_loss(LOGITS, TARGET, name="ohem", ohem=OhemConfig(0.2, 0.025), class_weights=WEIGHTS)
    torch.testing.assert_close(found, (loss * weight)[hard].sum() / weight[hard].sum())


@pytest.mark.parametrize("name", LABELED_LOSSES)
def test_nothing_to_learn_is_zero_with_a_zero_gradient(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = labeled_loss(
        logits, torch.full((2, 4, 5), 7, dtype=torch.uint8), name=name, ignore_index=7, class_weights=WEIGHTS
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", LABELED_LOSSES)
def test_ignored_pixels_do_not_count(name: str) -> None:
    target = torch.cat([TARGET, torch.full((2, 4, 2), 255, dtype=torch.uint8)], 2)
    logits = torch.cat([LOGITS, torch.randn(2, 3, 4, 2)], 3)
    torch.testing.assert_close(labeled_loss(logits, target, name=name), labeled_loss(LOGITS, TARGET, name=name))


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"labeled_loss: expected one of \('ce', 'ohem', 'ce_dice'\), got 'dice'"):
        labeled_loss(LOGITS, TARGET, name="dice")
