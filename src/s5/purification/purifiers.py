"""Rules that correct a teacher by evidence: the published one, and one that is calibrated on labelled tiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s5.purification.config import check_rule
from s5.purification.priors import PriorReader, open_priors
from s5.types import Purified, Purifier, Purify

_LOW, _WRONG, _DETECTED, _BOX = 0.7, 0.3, 0.1, 0.95  # SemiEarth's constants
_LEAST = 1e-6


@dataclass(frozen=True)
class SemiEarth:
    """SemiEarth's published rule (Wang et al., TGRS 2026; `model/semseg/vlm_pp.py`), for comparison.

    It cannot change a loss at the published tau of 0.95: no pixel that it touches ends over it.

    Args:
        priors: The index of the evidence (`s5.purification.priors.ground_tiles`).
    """

    priors: Path

    @property
    def key(self) -> str:
        return _hash(["semiearth", self.priors.parent.name, self.priors.name])

    def maps(self, tile_ids: Sequence[str]) -> PriorReader:
        return open_priors(self.priors, tile_ids)

    def rule(self, device: torch.device) -> Purify:  # noqa: ARG002 - it holds no tensor
        return semiearth


def semiearth(logits: Tensor, evidence: Tensor) -> Purified:
    """The published rule, step by step.

    Pixels of a confidence under 0.7 alone are touched. The evidence, scaled to at most 0.95, goes through a softmax
    over the classes, which leaves at most ``e^0.95 / (e^0.95 + K - 1)``; an image without any evidence is left alone.
    A teacher under 0.3 that says another class takes over class and value; else the confidence becomes a mean of its
    own and the evidence's value for its class.

    Returns:
        The teacher's probabilities as they were, since the rule speaks of classes and confidences alone, and these.
    """
    probabilities = logits.softmax(1)
    confidence, classes = probabilities.max(1)
    boxes = _BOX * evidence[:, :-1]
    answered = boxes.amax((1, 2, 3), keepdim=True) > 0
    shares = torch.where(answered, boxes.softmax(1), torch.zeros_like(boxes))
    value, found = shares.max(1)
    low, has = confidence < _LOW, value > _DETECTED
    replaced = low & has & (found != classes) & (confidence < _WRONG)
    mixed = low & has & ~replaced
    weight = confidence / _LOW
    own = shares.gather(1, classes[:, None])[:, 0]
    mean = weight * confidence + (1 - weight) * own
    confidence = torch.where(replaced, value, torch.where(mixed, mean, confidence))
    return Purified(probabilities, confidence, torch.where(replaced, found, classes))


@dataclass(frozen=True)
class Calibrated:
    """Evidence and teacher on one scale, by Bayes' rule, with trust in each of the evidence's answers.

    ``logits + strength * log(1 + sum_v q_v trust_v (P(v | k) / P(v) - 1))``, where ``q_v`` is how much the evidence
    says class v, with its own temperature, and ``P(v | k)`` how often it says so on labelled pixels of class k.
    "Unknown" has no share in the sum and an answer without trust has none either: they change nothing. Agreement raises
    the confidence, disagreement lowers it or changes the class. What comes out is on the teacher's own scale:
    `strength` holds the teacher's temperature.

    Args:
        priors: The index of the evidence.
        evidence_temperature: Over 1 makes the evidence less sure.
        strength: Factor of the evidence's log-likelihood, at least 0.
        excess: [v][k]: ``trust_v (P(v | k) / P(v) - 1)``.
    """

    priors: Path
    evidence_temperature: float
    strength: float
    excess: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.evidence_temperature > 0:
            raise ValueError(f"evidence_temperature: expected a positive factor, got {self.evidence_temperature!r}")
        if self.strength < 0:
            raise ValueError(f"strength: expected a factor of at least 0, got {self.strength!r}")
        if any(len(row) != len(self.excess) for row in self.excess):
            raise ValueError("excess: expected a row and a column for each class")

    @property
    def key(self) -> str:
        numbers = [self.evidence_temperature, self.strength, self.excess]
        return _hash(["calibrated", self.priors.parent.name, self.priors.name, numbers])

    def maps(self, tile_ids: Sequence[str]) -> PriorReader:
        return open_priors(self.priors, tile_ids)

    def rule(self, device: torch.device) -> Purify:
        excess = torch.tensor(self.excess, dtype=torch.float32, device=device)

        def purify(logits: Tensor, evidence: Tensor) -> Purified:
            said = answers(evidence, self.evidence_temperature)
            fused = logits + self.strength * log_likelihood(said, excess)
            probabilities = fused.softmax(1)
            return Purified(probabilities, *probabilities.max(1))

        return purify


def answers(evidence: Tensor, temperature: float) -> Tensor:
    """How much the evidence says each class: [B, K, ...] of evidence [B, K + 1, ...], summing to what is not unknown.

    Evidence of 0 for all classes is unknown too.
    """
    tempered = evidence[:, :-1] if temperature == 1 else evidence[:, :-1].clamp(min=0).pow(1 / temperature)
    return tempered * ((1 - evidence[:, -1:]) / tempered.sum(1, keepdim=True).clamp(min=_LEAST))


def log_likelihood(said: Tensor, excess: Tensor) -> Tensor:
    """The log-likelihood [B, K, ...] of the answers [B, V, ...] for each class, relative to their frequency."""
    return torch.einsum("bv...,vk->bk...", said, excess).add_(1).clamp_(min=_LEAST).log_()


def make_purifier(record: Mapping[str, Any], project: Path) -> Purifier:
    """The purifier that a `purifier` entry of the catalog describes.

    Args:
        record: As `s5.purification.calibration.fit_purifier` makes it.
        project: The folder that its paths are relative to.
    """
    check_rule(str(record["rule"]))
    priors = project / str(record["priors"])
    if record["rule"] == "semiearth":
        return SemiEarth(priors)
    return Calibrated(
        priors,
        evidence_temperature=float(record["evidence_temperature"]),
        strength=float(record["strength"]),
        excess=excess_of(record["reliability"], list(record["trust"].values())),
    )


def excess_of(reliability: Sequence[Sequence[float]], trust: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """``trust_v (P(v | k) / P(v) - 1)``, of ratios ``P(v | k) / P(v)`` and a trust in each answer."""
    return tuple(
        tuple(float(one) * (float(ratio) - 1) for ratio in row) for one, row in zip(trust, reliability, strict=True)
    )


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=list).encode()).hexdigest()[:16]
