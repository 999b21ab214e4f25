"""The published rule changes no loss; the calibrated one does, and does what it promises, pixel by pixel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.data.transforms import GeometryConfig, draw_grid, move_maps, move_tiles
from s5.losses import consistency_loss
from s5.purification.purifiers import Calibrated, SemiEarth, answers, make_purifier, semiearth
from s5.seeds import Draws
from s5.types import Purified

INDEX = Path("priors/key/index.parquet")
CPU = torch.device("cpu")


def drawn_pixels(classes: int, seed: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits from unsure to very sure, and evidence of boxes, soft maps, nothing and one whole image of nothing."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.rand(4, 1, size, size, generator=g) * 12
    logits = spread * torch.randn(4, classes, size, size, generator=g)
    evidence = torch.rand(4, classes + 1, size, size, generator=g)
    evidence[1] = (evidence[1] > 0.8).float()
    evidence[2] *= 0.1
    evidence[3] = 0
    return logits, evidence


def loss_and_gradient(purified: Purified, tau: float) -> tuple[float, torch.Tensor]:
    """FixMatch's loss of some student, with its gradient."""
    g = torch.Generator().manual_seed(99)
    student = torch.randn(purified.probabilities.shape, generator=g).requires_grad_()
    loss = consistency_loss(student, purified.classes, purified.confidence, threshold=tau)
    loss.backward()
    assert student.grad is not None
    return loss.item(), student.grad


def plain(logits: torch.Tensor) -> Purified:
    probabilities = logits.softmax(1)
    return Purified(probabilities, *probabilities.max(1))


@pytest.mark.parametrize("classes", range(2, 21))
def test_the_published_rule_leaves_loss_and_gradient_unchanged(classes: int) -> None:
    for seed in range(3):
        logits, evidence = drawn_pixels(classes, seed)
        before, after = plain(logits), semiearth(logits, evidence)
        assert not torch.equal(before.confidence, after.confidence)  # it does touch pixels
        (loss, gradient), (loss_after, gradient_after) = (loss_and_gradient(one, 0.95) for one in (before, after))
        assert loss > 0
        assert loss_after == loss and torch.equal(gradient_after, gradient)


def test_the_published_rule_equals_the_loop_of_its_code() -> None:
    logits, evidence = drawn_pixels(4, 7, size=6)
    found = semiearth(logits, evidence)
    probabilities = logits.softmax(1)
    for b in range(4):
        boxes = 0.95 * evidence[b, :-1]
        shares = boxes.softmax(0) if boxes.max() > 0 else boxes
        for y in range(6):
            for x in range(6):
                conf, label = float(probabilities[b, :, y, x].max()), int(probabilities[b, :, y, x].argmax())
                value, said = float(shares[:, y, x].max()), int(shares[:, y, x].argmax())
                low, has = conf < 0.7, value > 0.1
                if low and has and said != label and conf < 0.3:
                    conf, label = value, said
                elif low and has:
                    weight = conf / 0.7
                    conf = weight * conf + (1 - weight) * float(shares[label, y, x])
                assert int(found.classes[b, y, x]) == label
                assert float(found.confidence[b, y, x]) == pytest.approx(conf, abs=1e-6)


def calibrated(classes: int = 3, *, trust: Any = 1.0, strength: float = 1.0, right: float = 0.9) -> Calibrated:
    """Evidence that is right in `right` of the pixels, all classes being as frequent."""
    wrong = (1 - right) / (classes - 1)
    ratio = [[(right if v == k else wrong) * classes for k in range(classes)] for v in range(classes)]
    trusts = [trust] * classes if isinstance(trust, float) else trust
    excess = tuple(tuple(t * (r - 1) for r in row) for t, row in zip(trusts, ratio, strict=True))
    return Calibrated(INDEX, evidence_temperature=1.0, strength=strength, excess=excess)


def one_pixel(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)[None, :, None, None]


def purified(logits: list[float], evidence: list[float], **options: Any) -> tuple[float, int]:
    found = calibrated(**options).rule(CPU)(one_pixel(logits), one_pixel(evidence))
    return float(found.confidence), int(found.classes)


def test_the_calibrated_rule_is_bayes_rule() -> None:
    prior = torch.tensor([0.5, 0.3, 0.2])
    posterior = prior * torch.tensor([0.9, 0.05, 0.05])
    confidence, label = purified(prior.log().tolist(), [1, 0, 0, 0])
    assert label == 0
    assert confidence == pytest.approx(float(posterior.max() / posterior.sum()), rel=1e-5)


def test_agreement_raises_over_tau_disagreement_lowers_and_can_replace() -> None:
    doubtful, sure = [math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.96), math.log(0.03), math.log(0.01)]
    confidence, label = purified(doubtful, [1, 0, 0, 0])
    assert (label, confidence > 0.95) == (0, True)
    confidence, label = purified(sure, [0, 0, 1, 0])
    assert (label, confidence < 0.95) == (0, True)
    confidence, label = purified(doubtful, [0, 1, 0, 0])
    assert (label, confidence > 0.7) == (1, True)


@given(seed=st.integers(0, 50), classes=st.integers(2, 20), strength=st.floats(0.1, 4))
def test_unknown_and_untrusted_answers_change_nothing(seed: int, classes: int, strength: float) -> None:
    logits, evidence = drawn_pixels(classes, seed, size=4)
    before = plain(logits)
    unknown = torch.zeros_like(evidence)
    unknown[:2, -1] = 1  # said so, or said nothing at all
    for rule, seen in (
        (calibrated(classes, strength=strength), unknown),
        (calibrated(classes, strength=strength, trust=0.0), evidence),
    ):
        after = rule.rule(CPU)(logits, seen)
        assert torch.equal(after.probabilities, before.probabilities)
        assert torch.equal(after.classes, before.classes)


def test_a_class_without_trust_is_left_alone_and_the_others_are_not() -> None:
    logits = [math.log(0.7), math.log(0.2), math.log(0.1)]
    options = {"trust": [0.0, 1.0, 1.0]}
    assert purified(logits, [1, 0, 0, 0], **options)[0] == pytest.approx(0.7, rel=1e-6)
    assert purified(logits, [0, 1, 0, 0], **options)[1] == 1


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_the_calibrated_rule_changes_loss_and_gradient(classes: int) -> None:
    logits, evidence = drawn_pixels(classes, 0)
    after = calibrated(classes).rule(CPU)(logits, evidence)
    (loss, gradient), (loss_after, gradient_after) = (loss_and_gradient(p, 0.95) for p in (plain(logits), after))
    assert loss_after != loss and not torch.equal(gradient_after, gradient)


def test_answers_sum_to_what_is_known() -> None:
    evidence = torch.rand(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    for temperature in (0.5, 1.0, 3.0):
        said = answers(evidence, temperature)
        torch.testing.assert_close(said.sum(1), 1 - evidence[:, -1])
        assert torch.equal(said.argmax(1), evidence[:, :-1].argmax(1))


@given(
    seed=st.integers(0, 1000),
    crop=st.integers(8, 40),
    scale=st.floats(0.4, 2.5),
    hflip=st.sampled_from([0.0, 0.5, 1.0]),
    rotate=st.sampled_from([0.0, 1.0]),
)
def test_evidence_that_is_the_truth_stays_the_truth_in_any_augmentation(
    seed: int, crop: int, scale: float, hflip: float, rotate: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 4, (3, 24, 24), generator=g, dtype=torch.uint8)  # each pixel its own class: no mercy
    valid = torch.rand(3, 24, 24, generator=g) < 0.9
    maps = torch.nn.functional.one_hot(masks.long(), 5).permute(0, 3, 1, 2).to(torch.uint8) * 255
    config = GeometryConfig(crop=crop, scale=(scale, scale * 1.5), hflip=hflip, vflip=0.5, rotate90=rotate)
    images = torch.zeros(3, 3, 24, 24)
    grid = draw_grid(images, config, Draws(g))
    _, truth, inside = move_tiles(images, masks, valid, grid, ignore_index=255)
    evidence = move_maps(maps, grid, (24, 24))
    assert torch.equal(evidence.argmax(1)[inside], truth[inside])
    assert set(evidence.unique().tolist()) <= {0.0, 1.0}


def test_coarse_evidence_moves_with_the_tile_too() -> None:
    """Four quarters of a tile, known at 2 x 2 maps: inside the quarters they say what the truth says."""
    masks = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).kron(torch.ones(16, 16, dtype=torch.uint8))[None]
    maps = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [2, 3]]]), 5).permute(0, 3, 1, 2).to(torch.uint8) * 255
    images = torch.zeros(1, 3, 32, 32)
    for seed in range(20):
        config = GeometryConfig(crop=24, scale=(0.75, 2.0))
        grid = draw_grid(images, config, Draws(torch.Generator().manual_seed(seed)))
        _, truth, inside = move_tiles(images, masks, torch.ones_like(masks, dtype=torch.bool), grid, ignore_index=255)
        evidence = move_maps(maps, grid, (32, 32))
        sure = inside & (evidence.amax(1) > 0.5)
        assert sure.any() and torch.equal(evidence.argmax(1)[sure], truth[sure])


def test_a_record_becomes_its_purifier(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "priors": "a/index.parquet",
        "evidence_temperature": 2.0,
        "strength": 1.5,
        "reliability": [[1.8, 0.2], [0.4, 1.6]],
        "trust": {"a": 0.5, "b": 0.0},
    }
    found = make_purifier({"rule": "calibrated", **record}, tmp_path)
    expected = Calibrated(tmp_path / "a/index.parquet", 2.0, 1.5, ((0.4, -0.4), (-0.0, 0.0)))
    assert isinstance(found, Calibrated)
    assert (found.priors, found.strength) == (expected.priors, expected.strength)
    torch.testing.assert_close(torch.tensor(found.excess), torch.tensor(expected.excess))
    assert make_purifier({"rule": "semiearth", **record}, tmp_path) == SemiEarth(tmp_path / "a/index.parquet")
    assert found.key != make_purifier({"rule": "calibrated", **record, "strength": 1.0}, tmp_path).key
    with pytest.raises(ValueError, match=r"rule: expected one of .*, got 'vote'"):
        make_purifier({"rule": "vote", **record}, tmp_path)
