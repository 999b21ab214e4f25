"""Pseudo-labels and the watch over them, against hand-worked cases."""

import logging

import pytest
import torch

from s5.semisup.collapse import CollapseWatch
from s5.semisup.pseudo_labels import PseudoLabelConfig, PseudoLabeler
from s5.types import LabelSpace

LABELS = LabelSpace(("a", "b"))


def logits(*confidences: tuple[float, int]) -> torch.Tensor:
    """[1, 2, 1, N]: each pixel has its class at that confidence."""
    p = torch.tensor(
        [[c if k == 0 else 1 - c for c, k in confidences], [c if k == 1 else 1 - c for c, k in confidences]]
    )
    return p.log()[None, :, None, :]


def labeler(**values) -> PseudoLabeler:
    return PseudoLabeler(PseudoLabelConfig(**values), 2, device=torch.device("cpu"))


def test_tau_and_valid_decide() -> None:
    valid = torch.tensor([[[True, True, True, False]]])
    pseudo = labeler(tau=0.9).label(logits((0.95, 0), (0.85, 1), (0.91, 1), (0.99, 0)), valid)
    assert pseudo.classes.flatten().tolist() == [0, 1, 1, 0]
    assert pseudo.confidence.flatten().tolist() == pytest.approx([0.95, 0.85, 0.91, 0.99])
    assert pseudo.weights.flatten().tolist() == [1, 0, 1, 0]


def test_tau_of_one_trusts_only_certainty() -> None:
    certain = torch.tensor([[[[200.0, 0.1]], [[-200.0, 0.0]]]])
    assert labeler(tau=1.0).label(certain, torch.ones(1, 1, 2, dtype=torch.bool)).weights.flatten().tolist() == [
        True,
        False,
    ]


def test_per_class_thresholds_follow_the_mean_confidence_of_each_class() -> None:
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    one = labeler(tau=0.9, threshold="per_class", momentum=0.0)
    pseudo = one.label(logits((1.0, 0), (0.8, 1), (0.6, 1)), valid)
    # class means are 1.0 and 0.7: thresholds 0.9 and 0.9 * 0.7 = 0.63
    assert pseudo.weights.flatten().tolist() == [1, 1, 0]


def test_share_weighs_every_valid_pixel_of_an_image_alike() -> None:
    two = torch.cat([logits((0.95, 0), (0.95, 1), (0.6, 1), (0.99, 0)), logits(*[(0.5, 0)] * 4)])
    valid = torch.tensor([[[True, True, True, False]], [[True] * 4]])
    weights = labeler(tau=0.9, threshold="share").label(two, valid).weights
    torch.testing.assert_close(weights[0, 0], torch.tensor([2 / 3, 2 / 3, 2 / 3, 0]))
    assert (weights[1] == 0).all()


def test_a_class_that_is_not_predicted_keeps_its_threshold() -> None:
    one = labeler(threshold="per_class", momentum=0.5)
    before = one.state_dict()["class_confidence"].clone()
    one.label(logits((0.9, 0)), torch.ones(1, 1, 1, dtype=torch.bool))
    after = one.state_dict()["class_confidence"]
    assert after[0] == pytest.approx(0.5 * before[0] + 0.45) and after[1] == before[1]


def test_metrics_are_counts() -> None:
    valid = torch.tensor([[[True, True, True, True, False]]])
    one = labeler(tau=0.9)
    pseudo = one.label(logits((0.95, 0), (0.95, 1), (0.95, 1), (0.5, 0), (0.99, 0)), valid)
    truth = torch.tensor([[[0, 0, 255, 0, 0]]])
    metrics = {k: float(v) for k, v in one.metrics(pseudo, valid, truth, LABELS).items()}
    assert metrics["confident_share"] == pytest.approx(3 / 4)
    assert metrics["pseudo_accuracy"] == pytest.approx(1 / 2)
    assert metrics["share_a"] == pytest.approx(1 / 3) and metrics["share_b"] == pytest.approx(2 / 3)


def test_accuracy_is_nan_where_truth_is_unknown() -> None:
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    one = labeler(tau=0.9)
    pseudo = one.label(logits((0.95, 0)), valid)
    assert one.metrics(pseudo, valid, torch.full((1, 1, 1), 255), LABELS)["pseudo_accuracy"].isnan()


@pytest.mark.parametrize("tau", [0, -0.1, 1.01])
def test_tau_outside_its_range(tau: float) -> None:
    with pytest.raises(ValueError, match=r"tau: expected a confidence in \(0, 1\]"):
        PseudoLabelConfig(tau=tau)


def rows(count: int, share_a: float, confident: float = 0.5) -> list[dict[str, float]]:
    return [{"confident_share": confident, "share_a": share_a, "share_b": 1 - share_a}] * count


def test_a_vanishing_class_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = CollapseWatch(["a", "b"])
    with caplog.at_level(logging.WARNING):
        watch.look_at(rows(100, 0.3) + rows(50, 0.0))
        assert not caplog.records
        watch.look_at(rows(100, 0.3) + rows(150, 0.0))
        watch.look_at(rows(100, 0.3) + rows(200, 0.0))
    assert len(caplog.records) == 1
    assert "class 'a' fell from 30.0% to 0.0%" in caplog.text and "collapsing" in caplog.text


def test_hardly_any_confident_pixel_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CollapseWatch(["a", "b"]).look_at(rows(100, 0.5, confident=0.001))
    assert "only 0.1% of the unlabelled pixels" in caplog.text


def test_a_healthy_run_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CollapseWatch(["a", "b"]).look_at(rows(300, 0.3))
    assert not caplog.records
