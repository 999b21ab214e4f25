"""How far evidence can be trusted, estimated on labelled tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s5.data.loader import TileSource, TilesWithMaps
from s5.data.transforms import Normalizer
from s5.engine import Compute, map_tiles
from s5.purification.config import FitConfig
from s5.purification.priors import NamedTiles, PriorReader
from s5.purification.purifiers import answers
from s5.seeds import numpy_generator
from s5.types import LabelSpace

_SMALL_TILES = 1 / 16  # tiles' worth of pixels without evidence that every class is thought to have beside its own
_FOLDS = 5
_MOST = 4.0  # times that evidence may count as often as Bayes' rule says
_PRICE = 1e-3  # of trust and of temperatures: what is of no use stays at none
_EPSILON = 1e-4
_SURE = 2.0  # standard errors; trust itself was chosen on these tiles


@dataclass(frozen=True)
class Samples:
    """Labelled pixels, with what teacher and evidence say there.

    Shape: logits [N, K], evidence [N, K + 1], both float64; truth, tile int64 [N].
    """

    logits: Tensor
    evidence: Tensor
    truth: Tensor
    tile: Tensor


@dataclass(frozen=True)
class Calibration:
    """Temperatures, reliability and trust (`s5.purification.purifiers.Calibrated`).

    Args:
        teacher_temperature: Over 1 where the teacher is too sure of itself.
        evidence_temperature: Likewise of the evidence.
        strength: Factor of the evidence's log-likelihood on the teacher's scale.
        reliability: [v][k]: ``P(v | k) / P(v)``.
        trust: Of each answer, in [0, 1].
        gain: Nats by which held-out pixels are better explained with the evidence, mean over the tiles.
        error: Its standard error.
        num_tiles, num_pixels: What it was estimated on.
    """

    teacher_temperature: float
    evidence_temperature: float
    strength: float
    reliability: tuple[tuple[float, ...], ...]
    trust: tuple[float, ...]
    gain: float
    error: float
    num_tiles: int
    num_pixels: int

    def to_record(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "trust": dict(zip(classes, self.trust, strict=True)), "classes": list(classes)}


def sample_pixels(
    teacher: Callable[[Tensor], Tensor],
    tiles: NamedTiles,
    priors: PriorReader,
    labels: LabelSpace,
    normalizer: Normalizer,
    config: FitConfig,
    *,
    seed: int,
    compute: Compute,
    batch_size: int = 8,
) -> Samples:
    """Draw labelled pixels of each tile, with what the teacher and the evidence say there.

    Args:
        teacher: A network in eval mode, from normalised images to logits.
        tiles: With masks.
        priors: Of the same tiles.

    Raises:
        ValueError: no tile has a labelled pixel.
    """

    def look(batch: Any) -> tuple[Tensor, Tensor]:
        logits = teacher(normalizer(compute.to_device(batch.images))).float().cpu()
        return logits, whole_maps(batch.maps, (batch.images.shape[2], batch.images.shape[3]))

    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    source: TileSource = TilesWithMaps(tiles, priors)
    for batch, (logits, evidence) in map_tiles(look, source, batch_size=batch_size, compute=compute):
        for place, index in enumerate(batch.indices):
            truth = batch.masks[place].flatten().long()
            known = (truth != labels.ignore_index).nonzero()[:, 0].numpy()
            rng = numpy_generator(seed, "purifier", index)
            drawn = torch.from_numpy(rng.permutation(known)[: config.pixels_per_tile])
            pixels = (one[place].flatten(1)[:, drawn].T.double() for one in (logits, evidence))
            found.append((*pixels, truth[drawn], torch.full_like(drawn, index)))  # type: ignore[arg-type]
    samples = Samples(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    if len(samples.truth) == 0:
        raise ValueError(f"fit.split: {config.split!r} has no labelled pixel to estimate trust on; check its masks")
    return samples


def whole_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Stored evidence [B, E, h, w] at a tile's size, float32 in [0, 1]."""
    maps = maps.float() / 255
    return maps if tuple(maps.shape[2:]) == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def calibrate(samples: Samples) -> Calibration:
    """Estimate temperatures, reliability and trust.

    The temperatures minimise the cross entropy of teacher and evidence, each alone (Guo et al., ICML 2017). The
    reliability of the evidence is counted in the pixels, in units of tiles, since pixels of a tile err together. Trust
    and strength minimise the cross entropy of the two together, where each tile is judged by a reliability that was
    counted on the others: an answer that helps on those it was counted on, and nowhere else, gets none. Where all of it
    gains less than two standard errors over the tiles, nothing of the evidence is trusted.
    """
    num_classes = samples.logits.shape[1]
    tile_ids, tile = samples.tile.unique(return_inverse=True)
    teacher_temperature = _temperature(lambda t: _cross_entropy(samples.logits / t, samples.truth, tile))
    evidence_temperature = _temperature(lambda t: _evidence_entropy(answers(samples.evidence, t), samples.truth, tile))
    said = answers(samples.evidence, evidence_temperature)
    folds = tile % min(_FOLDS, len(tile_ids))
    held_out = torch.empty_like(said[:, :, None].expand(-1, -1, num_classes))
    for fold in folds.unique():
        others = folds != fold if len(tile_ids) > 1 else folds == fold
        ratio = reliability(said[others], samples.truth[others], tile[others])
        held_out[folds == fold] = said[folds == fold][:, :, None] * (ratio - 1)
    scaled = samples.logits / teacher_temperature
    trust, factor = _trust(scaled, held_out, samples.truth, tile)
    before = _by_tile(F.cross_entropy(scaled, samples.truth, reduction="none"), tile)
    fused = scaled + factor * _fused(held_out, trust)
    gains = before - _by_tile(F.cross_entropy(fused, samples.truth, reduction="none"), tile)
    gain = float(gains.mean())
    error = float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    if gain <= _SURE * error:
        trust, factor = torch.zeros_like(trust), 0.0
    whole = reliability(said, samples.truth, tile)
    return Calibration(
        teacher_temperature=teacher_temperature,
        evidence_temperature=evidence_temperature,
        strength=factor * teacher_temperature,
        reliability=tuple(tuple(row) for row in whole.tolist()),
        trust=tuple(trust.tolist()),
        gain=gain,
        error=error if math.isfinite(error) else gain,
        num_tiles=len(tile_ids),
        num_pixels=len(samples.truth),
    )


def reliability(said: Tensor, truth: Tensor, tile: Tensor) -> Tensor:
    """``P(v | k) / P(v)`` [K, K] of answers [N, K] on pixels of a known class; 1 where nothing is known of it.

    Each tile weighs as one, and every class is thought to have been seen in a sixteenth of a tile more, where the
    answers were as everywhere.
    """
    num_classes = said.shape[1]
    weight = 1 / torch.bincount(tile).clamp(min=1)[tile]  # of a pixel, so that a tile sums to 1
    of_class = F.one_hot(truth, num_classes).to(said) * weight[:, None]
    tiles_K = of_class.sum(0)
    mean_V = (said * weight[:, None]).sum(0) / tiles_K.sum()
    given_VK = (said.T @ of_class + _SMALL_TILES * mean_V[:, None]) / (tiles_K + _SMALL_TILES)
    return torch.where(mean_V[:, None] > _EPSILON, given_VK / mean_V[:, None].clamp(min=_EPSILON), 1.0)


def _trust(scaled: Tensor, held_out: Tensor, truth: Tensor, tile: Tensor) -> tuple[Tensor, float]:
    """Trust in each answer, in [0, 1], and how often all of it counts."""
    from scipy.optimize import minimize

    num_classes = scaled.shape[1]

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(values).requires_grad_()
        fused = scaled + at[-1] * _fused(held_out, at[:-1])
        total = _cross_entropy(fused, truth, tile) + _PRICE * at[:-1].mean()
        total.backward()
        assert at.grad is not None
        return float(total.detach()), at.grad.numpy()

    start = np.full(num_classes + 1, 0.5)
    start[-1] = 1.0
    bounds = [(0.0, 1.0)] * num_classes + [(0.0, _MOST)]
    best = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
    return torch.from_numpy(best[:-1].copy()), float(best[-1])


def _fused(held_out: Tensor, trust: Tensor) -> Tensor:
    """`s5.purification.purifiers.log_likelihood`, each pixel with a reliability of its own."""
    return (1 + torch.einsum("nvk,v->nk", held_out, trust)).clamp(min=1e-6).log()


def _temperature(cost: Callable[[float], Tensor]) -> float:
    """The one of the least cost, and 1 where none is better."""
    from scipy.optimize import minimize_scalar

    def priced(log_t: float) -> float:
        return float(cost(math.exp(log_t))) + _PRICE * log_t**2

    bounds = (math.log(0.1), math.log(20))
    found = minimize_scalar(priced, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return float(math.exp(found.x))


def _evidence_entropy(said: Tensor, truth: Tensor, tile: Tensor) -> Tensor:
    """Cross entropy of the answers, by how much of them is not unknown."""
    known = said.sum(1)
    own = said.gather(1, truth[:, None])[:, 0] / known.clamp(min=_EPSILON)
    weight = known / torch.bincount(tile).clamp(min=1)[tile]
    return -(weight * (own + _EPSILON).log()).sum() / weight.sum().clamp(min=_EPSILON)


def _cross_entropy(logits: Tensor, truth: Tensor, tile: Tensor) -> Tensor:
    """Mean over the tiles of that of their pixels."""
    return _by_tile(F.cross_entropy(logits, truth, reduction="none"), tile).mean()


def _by_tile(values: Tensor, tile: Tensor) -> Tensor:
    count = torch.bincount(tile)
    return torch.zeros(len(count), dtype=values.dtype).index_add(0, tile, values) / count


def purifier_record(
    rule: str, priors: str, labels: LabelSpace, calibration: Calibration, fitted: Mapping[str, Any]
) -> dict[str, Any]:
    """What the catalog keeps of a purifier: `s5.purification.purifiers.make_purifier` reads it.

    Args:
        priors: Path of the index, relative to the project.
        fitted: What it was estimated on.
    """
    return {
        "enabled": True,
        "rule": rule,
        "priors": priors,
        **calibration.to_record(labels.classes),
        "fitted_on": dict(fitted),
    }
