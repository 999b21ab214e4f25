"""Hard pixels against a loop over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.losses import OhemConfig, hard_pixels


def by_hand(logits: torch.Tensor, target: torch.Tensor, config: OhemConfig) -> list[bool]:
    """One pixel after the other, in float64."""
    chances: list[float | None] = []
    for scores, label in zip(
        logits.double().movedim(1, -1).flatten(0, 2).tolist(), target.flatten().tolist(), strict=True
    ):
        total = sum(math.exp(score) for score in scores)
        chances.append(None if label == 255 else math.exp(scores[label]) / total)
    ranked = sorted(chance for chance in chances if chance is not None)
    if not ranked:
        return [False] * len(chances)
    last = ranked[max(1, math.ceil(len(ranked) * config.min_kept)) - 1]
    return [chance is not None and (chance < config.threshold or chance <= last) for chance in chances]


@given(
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    min_kept=st.sampled_from([0.01, 0.25, 1.0]),
)
def test_equals_the_loop(seed: int, threshold: float, min_kept: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 4, 3, 5, generator=generator)
    target = torch.randint(0, 4, (2, 3, 5), generator=generator)
    target[torch.rand(2, 3, 5, generator=generator) < 0.3] = 255
    config = OhemConfig(threshold, min_kept)
    found = hard_pixels(logits, target.to(torch.uint8), config)
    assert found.flatten().tolist() == by_hand(logits, target, config)


def test_easy_pixels_leave_the_hardest_quarter() -> None:
    # p(truth) of two classes is sigmoid(difference): 0.99, 0.98, 0.97, 0.96, all over the threshold
    chances = torch.tensor([0.99, 0.98, 0.97, 0.96])
    logits = torch.stack([torch.logit(chances), torch.zeros(4)])[None, :, None]
    target = torch.zeros(1, 1, 4, dtype=torch.int64)
    assert hard_pixels(logits, target, OhemConfig(0.7, 0.25)).flatten().tolist() == [False, False, False, True]
    assert hard_pixels(logits, target, OhemConfig(0.975, 0.25)).flatten().tolist() == [False, False, True, True]


def test_no_pixel_counts_where_all_are_ignored() -> None:
    assert not hard_pixels(torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 255), OhemConfig()).any()


@pytest.mark.parametrize("values", [{"threshold": 0}, {"threshold": 1.1}, {"min_kept": 0}, {"min_kept": 2}])
def test_ranges(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"ohem\.(threshold|min_kept): expected a value in \(0, 1\], got"):
        OhemConfig(**values)
