"""FreeMatch and SoftMatch on confidences made by hand, against their equations."""

from __future__ import annotations

import math

import pytest
import torch

from s5.semisup.pseudo_labels import PseudoLabelConfig, PseudoLabeler
from s5.types import LabelSpace

RULES = [
    {"threshold": "fixed"},
    {"threshold": "share"},
    {"threshold": "per_class"},
    {"threshold": "freematch"},
    {"threshold": "softmatch"},
    {"threshold": "softmatch", "uniform_alignment": True},
]


def logits(*probabilities: tuple[float, ...]) -> torch.Tensor:
    """[1, K, 1, N]: the probabilities of each of N pixels."""
    return torch.tensor(probabilities).log().T[None, :, None]


def labeler(num_classes: int = 2, **values) -> PseudoLabeler:
    return PseudoLabeler(PseudoLabelConfig(**values), num_classes, device=torch.device("cpu"))


def weights(one: PseudoLabeler, *probabilities: tuple[float, ...], valid: list[bool] | None = None) -> list[float]:
    mask = torch.tensor([[valid if valid is not None else [True] * len(probabilities)]])
    return one.label(logits(*probabilities), mask).weights.flatten().tolist()


def test_freematch_first_step() -> None:
    one = labeler(3, threshold="freematch", momentum=0.9)
    pixels = [(0.8, 0.1, 0.1), (0.5, 0.3, 0.2), (0.1, 0.5, 0.4), (0.34, 0.33, 0.33)]
    # eq. 5: the mean confidence, eq. 6: the mean of each class; the last pixel is not valid
    tau = 0.9 / 3 + 0.1 * (0.8 + 0.5 + 0.5) / 3
    p = [0.9 / 3 + 0.1 * sum(pixel[k] for pixel in pixels[:3]) / 3 for k in range(3)]
    found = weights(one, *pixels, valid=[True, True, True, False])
    state = one.state_dict()
    assert state["confidence"].item() == pytest.approx(tau)
    assert state["class_probability"].tolist() == pytest.approx(p)
    thresholds = [tau * value / max(p) for value in p]  # eq. 7
    assert found == [float(max(pixel) >= thresholds[pixel.index(max(pixel))]) for pixel in pixels[:3]] + [0.0]


def test_freematch_lowers_the_bar_of_a_seldom_class() -> None:
    """Without memory: tau is the batch's mean confidence, and the seldom class is let in below it."""
    one = labeler(threshold="freematch", momentum=0.0)
    # mean confidence 0.816; means of the classes 0.7 and 0.3; thresholds 0.816 and 0.816 * 0.3 / 0.7 = 0.35
    pixels = [(0.9, 0.1), (0.9, 0.1), (0.79, 0.21), (0.21, 0.79), (0.7, 0.3)]
    assert [round(sum(p[k] for p in pixels) / 5, 3) for k in (0, 1)] == [0.7, 0.3]
    assert sum(max(p) for p in pixels) / 5 == pytest.approx(0.816)
    assert weights(one, *pixels) == [1, 1, 0, 1, 0]


def test_freematch_rises_with_the_teacher() -> None:
    one = labeler(threshold="freematch", momentum=0.5)
    assert weights(one, (0.9, 0.1)) == [1]
    for _ in range(20):
        weights(one, (0.99, 0.01))
    assert one.state_dict()["confidence"].item() == pytest.approx(0.99, abs=1e-4)
    assert weights(one, (0.9, 0.1)) == [0]


def test_softmatch_is_a_truncated_gaussian() -> None:
    one = labeler(threshold="softmatch", momentum=0.9)
    confidences = [0.95, 0.7, 0.6]
    mean = 0.9 / 2 + 0.1 * sum(confidences) / 3
    batch_variance = sum((c - sum(confidences) / 3) ** 2 for c in confidences) / 2
    variance = 0.9 * 1 + 0.1 * batch_variance
    # mean is 0.525: all lie over it. The pixel that is not valid changes nothing.
    found = weights(one, *[(c, 1 - c) for c in confidences], (0.5, 0.5), valid=[True, True, True, False])
    assert found == [1, 1, 1, 0]
    assert one.state_dict()["mean"].item() == pytest.approx(mean)
    assert one.state_dict()["variance"].item() == pytest.approx(variance)


def test_softmatch_weighs_what_lies_below_the_mean() -> None:
    one = labeler(threshold="softmatch", momentum=0.0)
    confidences = [0.9, 0.9, 0.6]
    mean, variance = 0.8, (0.1**2 + 0.1**2 + 0.2**2) / 2
    expected = [1, 1, math.exp(-((0.6 - mean) ** 2) / (2 * variance))]
    assert weights(one, *[(c, 1 - c) for c in confidences]) == pytest.approx(expected, rel=1e-5)


def test_softmatch_of_pixels_that_are_all_alike() -> None:
    """A variance of zero, and of a single pixel, divides nothing by zero."""
    one = labeler(threshold="softmatch", momentum=0.0)
    assert weights(one, (0.75, 0.25), (0.75, 0.25)) == [1, 1]
    assert weights(one, (0.75, 0.25)) == [1]
    assert one.state_dict()["variance"].item() == 0


def test_uniform_alignment_gives_the_seldom_class_more() -> None:
    pixels = [(0.9, 0.1), (0.8, 0.2), (0.4, 0.6)]
    # Class means 0.7 and 0.3. Aligned confidences: p_k / mean_k over the sum of both.
    ratios = [[p[k] / (0.7, 0.3)[k] for k in (0, 1)] for p in pixels]
    aligned = [max(r) / sum(r) for r in ratios]
    mean = sum(aligned) / 3
    variance = sum((c - mean) ** 2 for c in aligned) / 2
    expected = [1 if c >= mean else math.exp(-((c - mean) ** 2) / (2 * variance)) for c in aligned]
    one = labeler(threshold="softmatch", momentum=0.0, uniform_alignment=True)
    pseudo = one.label(logits(*pixels), torch.ones(1, 1, 3, dtype=torch.bool))
    assert pseudo.weights.flatten().tolist() == pytest.approx(expected, rel=1e-4)
    assert pseudo.classes.flatten().tolist() == [0, 0, 1]  # weights change, labels do not
    assert pseudo.confidence.flatten().tolist() == pytest.approx([0.9, 0.8, 0.6])
    plain = weights(labeler(threshold="softmatch", momentum=0.0), *pixels)
    assert expected[2] == 1 > plain[2]


@pytest.mark.parametrize("values", RULES)
def test_a_batch_without_a_valid_pixel_leaves_everything_as_it_was(values) -> None:
    one = labeler(3, **values)
    one.label(torch.randn(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool))
    before = {name: value.clone() for name, value in one.state_dict().items()}
    none = torch.zeros(2, 4, 4, dtype=torch.bool)
    pseudo = one.label(torch.randn(2, 3, 4, 4), none)
    assert (pseudo.weights == 0).all()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    metrics = one.metrics(pseudo, none, torch.full((2, 4, 4), 255), LabelSpace(("a", "b", "c")))
    assert all(value == 0 for name, value in metrics.items() if name != "pseudo_accuracy")


@pytest.mark.parametrize("values", RULES)
def test_state_goes_through_a_checkpoint(values) -> None:
    first, second = labeler(3, **values), labeler(3, **values)
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    first.label(torch.randn(2, 3, 4, 4), valid)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    batch = torch.randn(2, 3, 4, 4)
    assert torch.equal(first.label(batch, valid).weights, second.label(batch, valid).weights)


def test_metrics_count_by_weight() -> None:
    """DACS's share: half of the pixels are sure, so that every pixel counts half."""
    one, valid = labeler(tau=0.9, threshold="share"), torch.ones(1, 1, 4, dtype=torch.bool)
    pseudo = one.label(logits((0.95, 0.05), (0.05, 0.95), (0.6, 0.4), (0.7, 0.3)), valid)
    metrics = one.metrics(pseudo, valid, torch.tensor([[[0, 0, 0, 255]]]), LabelSpace(("a", "b")))
    found = {name: value.item() for name, value in metrics.items()}
    assert found == pytest.approx({"confident_share": 0.5, "pseudo_accuracy": 2 / 3, "share_a": 0.75, "share_b": 0.25})


def test_alignment_is_softmatch_s() -> None:
    with pytest.raises(ValueError, match="uniform_alignment: expected threshold 'softmatch'"):
        PseudoLabelConfig(uniform_alignment=True)
