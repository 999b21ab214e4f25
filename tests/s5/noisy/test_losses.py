"""Losses against numpy, gradients against differences, and nothing that becomes NaN."""

import math

import numpy as np
import pytest
import torch

from s5.losses import cross_entropy, dice_loss
from s5.noisy import (
    NoisyLossConfig,
    SampleSelectionConfig,
    SmoothingConfig,
    noisy_loss,
    selection_weights,
    smoothed_labels,
)
from s5.noisy.losses import NOISY_LOSSES, weighted_dice

IGNORE = 255


def case(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=dtype) * 3
    target = torch.randint(0, 4, (2, 5, 6), generator=generator)
    target[0, :2] = IGNORE
    return logits, target, torch.rand(2, 5, 6, generator=generator)


def by_hand(logits: torch.Tensor, target: torch.Tensor, config: NoisyLossConfig, weights: torch.Tensor) -> float:
    """Pixel after pixel in plain numpy."""
    total = count = 0.0
    for b, i, j in np.ndindex(*target.shape):
        y, w = int(target[b, i, j]), float(weights[b, i, j])
        if y == IGNORE:
            continue
        raw = logits[b, :, i, j].double().numpy()
        p = np.exp(raw - raw.max()) / np.exp(raw - raw.max()).sum()
        one = np.eye(4)[y]
        ce = -np.log(p[y])
        values = {
            "ce": ce,
            "gce": (1 - p[y] ** config.q) / config.q,
            "sce": config.alpha * ce
            + config.beta * -sum(p[k] * (0.0 if k == y else config.log_zero) for k in range(4)),
            "bootstrap_soft": -sum((config.keep * one + (1 - config.keep) * p) * np.log(p)),
            "bootstrap_hard": -sum((config.keep * one + (1 - config.keep) * np.eye(4)[p.argmax()]) * np.log(p)),
        }
        total, count = total + w * values[config.name], count + w
    return total / count


@pytest.mark.parametrize("name", ["ce", "gce", "sce", "bootstrap_soft", "bootstrap_hard"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_equal_those_by_hand(name: str, weighted: bool) -> None:
    config = NoisyLossConfig(name=name, q=0.6, alpha=0.7, beta=1.3, keep=0.75)
    for seed in range(3):
        logits, target, weights = case(seed)
        weights = weights if weighted else torch.ones_like(weights)
        found = noisy_loss(logits, target, config, weights_BHW=weights if weighted else None)
        assert float(found) == pytest.approx(by_hand(logits, target, config, weights), rel=1e-5)


def test_known_limits() -> None:
    logits, target, weights = case()
    # q -> 0 is the cross entropy, q = 1 the absolute error of the label's probability
    near_ce = noisy_loss(logits, target, NoisyLossConfig(name="gce", q=1e-4))
    assert float(near_ce) == pytest.approx(float(cross_entropy(logits, target)), rel=1e-2)
    p = logits.softmax(1).gather(1, target.masked_fill(target == IGNORE, 0)[:, None])[:, 0][target != IGNORE]
    assert float(noisy_loss(logits, target, NoisyLossConfig(name="gce", q=1))) == pytest.approx(float((1 - p).mean()))
    assert torch.equal(noisy_loss(logits, target, NoisyLossConfig(name="dice")), dice_loss(logits, target))
    even = weighted_dice(logits, target, torch.ones_like(weights))
    assert float(even) == pytest.approx(float(dice_loss(logits, target)), rel=1e-6)


def test_weighted_dice_by_hand() -> None:
    logits, target, weights = case(4)
    p, w = logits.double().softmax(1).numpy(), (weights * (target != IGNORE)).double().numpy()
    losses = []
    for k in range(4):
        truth = (target == k).numpy()
        losses.append(1 - (2 * (p[:, k] * truth * w).sum() + 1) / ((p[:, k] * w).sum() + (truth * w).sum() + 1))
    assert float(weighted_dice(logits, target, weights)) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("name", NOISY_LOSSES)
def test_gradients(name: str) -> None:
    config = NoisyLossConfig(name=name, keep=1.0)  # the bootstraps' own opinion has no gradient by design
    _, target, weights = case()
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64).requires_grad_()
    loss = noisy_loss(logits, target, config, weights_BHW=weights)
    (gradient,) = torch.autograd.grad(loss, logits)
    with torch.no_grad():
        for place in ((0, 1, 3, 2), (1, 0, 0, 0), (1, 3, 4, 5)):
            ends = []
            for sign in (1, -1):
                moved = logits.clone()
                moved[place] += sign * 1e-2
                ends.append(float(noisy_loss(moved, target, config, weights_BHW=weights)))
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=2e-4)
    assert gradient[0, :, :2].abs().max() == 0


@pytest.mark.parametrize("name", NOISY_LOSSES)
def test_nothing_to_learn_from_and_certainty_are_no_nan(name: str) -> None:
    config = NoisyLossConfig(name=name)
    for logits, target, weights in (
        (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), IGNORE), None),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4)),
        (torch.tensor([200.0, -200.0, 0.0])[None, :, None, None].expand(1, 3, 4, 4), torch.ones(1, 4, 4).long(), None),
    ):
        inputs = logits.clone().requires_grad_()
        loss = noisy_loss(inputs, target, config, weights_BHW=weights)
        loss.backward()
        assert bool(loss.isfinite()) and bool(inputs.grad.isfinite().all())


def test_smoothed_labels() -> None:
    _, target, _ = case(2)
    config = SmoothingConfig(prior=0.15, uniform=0.05, window=3)
    soft = smoothed_labels(target, config, classes=4, ignore_index=IGNORE)
    assert soft is not None
    for b, i, j in ((0, 2, 2), (0, 4, 5), (1, 0, 0), (1, 3, 3)):
        around = target[b, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        around = around[around != IGNORE]
        share = np.bincount(around.numpy(), minlength=4) / len(around)
        expected = 0.8 * np.eye(4)[int(target[b, i, j])] + 0.15 * share + 0.05 / 4
        assert soft[b, :, i, j].numpy() == pytest.approx(expected, abs=1e-6)
    assert smoothed_labels(target, SmoothingConfig(), classes=4, ignore_index=IGNORE) is None
    logits, _, _ = case(2)
    known = target != IGNORE
    expected_loss = -(soft * logits.log_softmax(1)).sum(1)[known].mean()
    assert float(noisy_loss(logits, target, soft_BKHW=soft)) == pytest.approx(float(expected_loss), rel=1e-6)


def test_selection_follows_cromss() -> None:
    logits, target, _ = case(3)
    share = 0.5
    weights = selection_weights(logits, target, share)
    p = logits.softmax(1)
    for k in range(4):
        own = sorted(float(p[b, k, i, j]) for b, i, j in (target == k).nonzero().tolist())[::-1]
        fully = math.ceil(share * len(own))
        expected = [min(c / own[fully - 1], 1) for c in own]
        found = sorted((float(w) for w in weights[target == k]), reverse=True)
        assert found == pytest.approx(expected, rel=1e-5) and found[:fully] == [1] * fully
    assert weights[target == IGNORE].abs().max() == 0
    assert selection_weights(logits, torch.full_like(target, IGNORE), share).abs().max() == 0


def test_the_ramp_of_cromss() -> None:
    """Epoch 0, 40 and 80 of 200 by the formula of the paper's code."""
    config = SampleSelectionConfig(enabled=True, keep=0.5, ramp=0.4)
    for epoch in (0, 40, 79):
        assert config.share_at(epoch / 200) == pytest.approx(1 - math.exp(-5 * (1 - epoch / 80) ** 2) * 0.5)
    assert config.share_at(0.4) == config.share_at(1.0) == 0.5
    assert config.share_at(0.0) > 0.99


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NoisyLossConfig(name="mae"), "loss.name: expected one of"),
        (lambda: NoisyLossConfig(q=0), "loss.q"),
        (lambda: NoisyLossConfig(log_zero=0), "loss.log_zero"),
        (lambda: NoisyLossConfig(keep=2), "loss.keep"),
        (lambda: NoisyLossConfig(alpha=-1), "alpha and beta"),
        (lambda: SmoothingConfig(prior=0.6, uniform=0.4), "sum to less than 1"),
        (lambda: SmoothingConfig(window=4), "smoothing.window: expected an odd"),
        (lambda: SampleSelectionConfig(keep=0), "selection.keep"),
        (lambda: SampleSelectionConfig(ramp=2), "selection.ramp"),
    ],
)
def test_bad_settings(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
