"""CromSS's terms between two sensors, pixel after pixel in plain Python, and nothing that becomes NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.noisy import (
    cross_modal_consistency,
    cross_modal_label_weights,
    entangled,
    prediction_confidence,
    prediction_weights,
    selection_weights,
    weights_of_labels,
)

IGNORE = 255
K = 4


def case(seed: int = 0) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Logits of two sensors, labels with some that are ignored, and valid pixels, of which some have no label."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(2, K, 5, 6, generator=generator) * 3 for _ in range(2))
    target = torch.randint(0, K, (2, 5, 6), generator=generator)
    target[0, :2] = IGNORE
    valid = torch.ones(2, 5, 6, dtype=torch.bool)
    valid[0, 0] = False
    return (one, other), target, valid


def softmax(logits: torch.Tensor) -> np.ndarray:
    raw = logits.detach().double().numpy()
    p = np.exp(raw - raw.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def by_hand(logits, valid, weights) -> float:
    p = [softmax(sensor) for sensor in logits]
    total = 0.0
    for learner, teacher in ((0, 1), (1, 0)):
        above = below = 0.0
        for b, i, j in np.ndindex(*valid.shape):
            if valid[b, i, j]:
                w = 1.0 if weights is None else float(weights[teacher][b, i, j])
                above += w * -sum(p[teacher][b, k, i, j] * math.log(p[learner][b, k, i, j]) for k in range(K))
                below += w
        total += above / below
    return total


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_confidence_that_the_other_sensor_does_not_share_is_halved(one: float, other: float) -> None:
    found = entangled((torch.tensor([one]), torch.tensor([other])))
    assert [float(c) for c in found] == pytest.approx([one * (1 + other) / 2, other * (1 + one) / 2], abs=1e-6)


def test_confidence_of_predictions_is_one_less_entropy() -> None:
    logits = case()[0][0]
    p = softmax(logits)
    expected = 1 + (p * np.log(p)).sum(1) / math.log(K)
    assert prediction_confidence(logits).numpy() == pytest.approx(expected, abs=1e-5)
    certain = torch.tensor([300.0, -300.0, 0.0])[None, :, None, None]
    assert prediction_confidence(certain).item() == 1
    assert prediction_confidence(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_labels_are_weighed_class_by_class_by_both_sensors(share: float) -> None:
    logits, target, _ = case(3)
    found = cross_modal_label_weights(logits, target, share)
    p = [softmax(sensor) for sensor in logits]
    for sensor, other in ((0, 1), (1, 0)):
        for k in range(K):
            places = [tuple(place) for place in (target == k).nonzero().tolist()]
            of = {
                (b, i, j): p[sensor][b, k, i, j] * (1 + p[other][b, k, i, j]) / 2 for b, i, j in places
            }  # (c_m + c_1 c_2) / 2
            least = sorted(of.values(), reverse=True)[math.ceil(share * len(of)) - 1]
            for place, c in of.items():
                assert float(found[sensor][place]) == pytest.approx(min(c / least, 1), rel=1e-5)
        assert found[sensor][target == IGNORE].abs().max() == 0
        assert not found[sensor].requires_grad


def test_a_sensor_that_agrees_with_itself_is_weighed_by_c_plus_its_square() -> None:
    """c (1 + c) / 2 rises with c: the same pixels count fully as with one sensor."""
    (logits, _), target, _ = case(1)
    alone = selection_weights(logits, target, 0.5)
    both = cross_modal_label_weights((logits, logits), target, 0.5)
    assert torch.equal(both[0], both[1])
    assert torch.equal(both[0] == 1, alone == 1)


def test_predictions_are_weighed_more_and_more_by_their_confidence() -> None:
    logits, _, _ = case(2)
    c = [prediction_confidence(sensor) for sensor in logits]
    for ramp in (0.0, 0.3, 1.0):
        one, other = prediction_weights(logits, ramp)
        torch.testing.assert_close(one, 1 - ramp + ramp * c[0] * (1 + c[1]) / 2)
        torch.testing.assert_close(other, 1 - ramp + ramp * c[1] * (1 + c[0]) / 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_consistency_by_hand(weighted: bool) -> None:
    for seed in range(3):
        logits, _, valid = case(seed)
        weights = prediction_weights(logits, 0.6) if weighted else None
        found = cross_modal_consistency(logits, valid, weights)
        assert float(found) == pytest.approx(by_hand(logits, valid, weights), rel=1e-5)
        if weights is not None:
            assert float(cross_modal_consistency(logits[::-1], valid, weights[::-1])) == pytest.approx(float(found))


def test_each_sensor_learns_from_the_other_and_not_back_through_it() -> None:
    """The gradient of sum(w CE(p_m, sg p_n)) / sum(w) is w (p_m - p_n) / sum(w)."""
    logits, _, valid = case(4)
    inputs = tuple(sensor.clone().requires_grad_() for sensor in logits)
    weights = prediction_weights(logits, 1.0)
    cross_modal_consistency(inputs, valid, weights).backward()
    for learner, teacher in ((0, 1), (1, 0)):
        w = weights[teacher] * valid
        expected = (logits[learner].softmax(1) - logits[teacher].softmax(1)) * (w / w.sum())[:, None]
        torch.testing.assert_close(inputs[learner].grad, expected, rtol=1e-4, atol=1e-7)


def test_equal_sensors_leave_their_entropy_and_no_gradient() -> None:
    (logits, _), _, valid = case(5)
    inputs = (logits.clone().requires_grad_(), logits.clone())
    loss = cross_modal_consistency(inputs, valid)
    loss.backward()
    p = softmax(logits)
    entropy = -(p * np.log(p)).sum(1)[valid.numpy()].mean()
    assert loss.item() == pytest.approx(2 * entropy, rel=1e-5)
    assert inputs[0].grad.abs().max() < 1e-7


def test_halves_of_a_batch_that_are_pooled_are_the_whole() -> None:
    logits, _, valid = case(6)
    weights = prediction_weights(logits, 0.5)
    halves = [slice(0, 1), slice(1, 2)]
    sums: list[torch.Tensor] = []
    for half in halves:
        own = tuple(sensor[half] for sensor in logits)
        cross_modal_consistency(own, valid[half], tuple(w[half] for w in weights), pool=lambda x: sums.append(x) or x)
    total = sum((sums[i] + sums[i + 2])[0] / (sums[i] + sums[i + 2])[1] for i in (0, 1))
    assert float(total) == pytest.approx(float(cross_modal_consistency(logits, valid, weights)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_to_learn_from_and_certainty_are_no_nan(dtype: torch.dtype) -> None:
    certain = torch.tensor([300.0, -300.0, 0.0], dtype=dtype)[None, :, None, None].expand(1, 3, 4, 4)
    against = certain.flip(1)
    target = torch.full((1, 4, 4), 2)
    target[0, 0] = IGNORE
    nothing, everything = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)
    for valid in (nothing, everything):
        for labels in (target, torch.full_like(target, IGNORE)):
            inputs = (certain.clone().requires_grad_(), against.clone().requires_grad_())
            of_labels = cross_modal_label_weights(inputs, labels, 0.5)
            of_predictions = prediction_weights(inputs, 1.0)
            loss = cross_modal_consistency(inputs, valid, of_predictions)
            loss.backward()
            for values in (*of_labels, *of_predictions, loss, *(one.grad for one in inputs)):
                assert bool(values.isfinite().all())
            assert (loss.item() == 0) == (valid is nothing)
    # No pixel of the class is believed at all: it counts as before, and is not forgotten.
    assert cross_modal_label_weights((certain, certain), target, 0.5)[0][target == 2].min() == 1


def test_a_class_without_any_confidence_counts_fully() -> None:
    target = torch.tensor([[[0, 0, 1, IGNORE]]])
    weights = weights_of_labels(torch.tensor([[[0.0, 0.0, 0.3, 0.9]]]), target, 0.5, classes=2)
    assert weights.tolist() == [[[1, 1, 1, 0]]]
