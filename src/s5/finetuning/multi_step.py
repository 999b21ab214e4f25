"""What a step on several data sets does: a batch of each, their losses summed (S5, MoE-MDF; papers: 1.4, 1.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from s5.data.loader import Batch, StepReader, read_batch
from s5.engine import Compute, Learner, OneLearner, TrainingConfig
from s5.finetuning.labeled import LabeledTiles
from s5.models import MultiDatasetModel


@dataclass(frozen=True)
class DatasetTerm:
    """What one data set counts in a training.

    Args:
        weight: Factor on its loss in the sum of all, over 0.
        start: The step at which it joins; before, it is not computed at all.
    """

    weight: float = 1.0
    start: int = 0

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight: expected a factor over 0, got {self.weight!r}; leave the data set out instead")
        if not isinstance(self.start, int) or isinstance(self.start, bool) or self.start < 0:
            raise ValueError(f"start: expected a step of at least 0, got {self.start!r}")


@dataclass(frozen=True)
class MultiConfig(TrainingConfig):
    """Training on several data sets; `batch_size` is that of each of them.

    Args:
        part_features: Outputs of each feed-forward layer that belong to a data set's expert (the papers' 256); 0 shares
            the whole encoder.
        learns: ``"all"``, or ``"added"``: of a network that is started from, only the parts of data sets that it did
            not have.
    """

    part_features: int = 256
    learns: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.part_features, int) or isinstance(self.part_features, bool) or self.part_features < 0:
            raise ValueError(f"part_features: expected a whole number of at least 0, got {self.part_features!r}")
        if self.learns not in ("all", "added"):
            raise ValueError(f"learns: expected all or added, got {self.learns!r}")
        if self.tune.what != "all":
            raise ValueError(f"tune.what: several data sets train everything, got {self.tune.what!r}; see learns")


@dataclass(frozen=True)
class JoiningReader(StepReader):
    """A `StepReader` whose parts are read from a step of their own on.

    Args:
        starts: The first step of each part.
    """

    starts: tuple[int, ...]

    def __call__(self, step: int) -> tuple[Batch, ...]:
        there = zip(self.parts, self.starts, strict=True)
        return tuple(read_batch(source, indices(step)) for (source, indices), start in there if start <= step)


class MultiDatasetTraining(OneLearner[MultiDatasetModel]):
    """A batch of each data set per step, their losses summed with weights: a `s5.engine.Method`.

    A data set's expert, decoder and head get gradients from its own batches alone. Where it has none in a step, they
    have no gradient, and neither AdamW, its decay, nor the average moves them.

    Args:
        tiles: The labelled tiles of the data sets that are trained.
        terms: What each of them counts.
    """

    def __init__(
        self,
        model: MultiDatasetModel,
        tiles: Mapping[str, LabeledTiles],
        terms: Mapping[str, DatasetTerm],
        config: MultiConfig,
        compute: Compute,
        *,
        warm: bool,
    ) -> None:
        self.config, self._tiles, self._terms = config, dict(tiles), terms
        self.read = JoiningReader(
            tuple(one.reading for one in self._tiles.values()), tuple(terms[name].start for name in self._tiles)
        )
        self.learner = Learner(
            model,
            config.optimizer,
            steps=config.steps,
            ema_decay=config.ema_decay,
            warm=warm,
            compute=compute,
            in_parts=True,
        )

    def taking_part(self, step: int) -> list[str]:
        """The data sets that have begun at `step`."""
        return [name for name in self._tiles if self._terms[name].start <= step]

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        names, metrics = self.taking_part(step), {}
        network = self.learner.network.train()
        for name, batch in zip(names, batches, strict=True):
            tiles, losses = self._tiles[name], []
            for part in tiles.places.parts:
                with self.learner.part(last=name == names[-1] and part is tiles.places.parts[-1]):
                    loss = tiles.loss(step, batch, part, partial(network, task=name))
                    self.learner.backward(loss * (self._terms[name].weight / len(tiles.places.parts)))
                losses.append(loss.detach())
            metrics[f"loss_{name}"] = torch.stack(losses).mean()
        total = torch.stack([self._terms[name].weight * metrics[f"loss_{name}"] for name in names]).sum()
        return {"loss": total, **metrics, "lr": self.learner.update(step)}

    def evaluated(self) -> MultiDatasetModel:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size * len(self._tiles)
