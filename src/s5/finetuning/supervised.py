"""Training on the labelled tiles alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from s5.data.loader import Batch, SegmentationData, StepReader, TileSource
from s5.data.transforms import Normalizer
from s5.engine import (
    Compute,
    ComputeConfig,
    Learner,
    OneLearner,
    TrainingConfig,
    TrainResult,
    launchable,
    train_network,
)
from s5.finetuning.labeled import LabeledTiles
from s5.finetuning.transfer import TransferConfig, transfer_weights
from s5.models import ModelConfig, SegmentationModel
from s5.types import LabelSpace, LogFn, log_nothing


@dataclass(frozen=True)
class SupervisedConfig(TrainingConfig):
    """Supervised training: nothing beside what every stage is told."""


@dataclass(frozen=True)
class FinetuneConfig(SupervisedConfig):
    """Supervised training from trained weights.

    Args:
        transfer: What is taken over from them.
    """

    transfer: TransferConfig = field(default_factory=TransferConfig)


class Supervised(OneLearner[SegmentationModel]):
    """The labelled loss on weakly augmented labelled tiles: a `s5.engine.Method`."""

    def __init__(
        self,
        model: SegmentationModel,
        source: TileSource,
        normalizer: Normalizer,
        labels: LabelSpace,
        config: SupervisedConfig,
        compute: Compute,
        *,
        seed: int,
        stream: str = "supervised",
        warm: bool = False,
    ) -> None:
        self.config = config
        self._tiles = LabeledTiles(source, normalizer, labels, config, compute, seed=seed, stream=stream)
        self.read = StepReader((self._tiles.reading,))
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=warm, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        network = self.learner.network.train()

        def measure(part: range) -> dict[str, torch.Tensor]:
            return {"loss": self._tiles.loss(step, batches[0], part, network)}

        return self.learner.learn(step, self._tiles.places.parts, measure)

    def evaluated(self) -> SegmentationModel:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size


@launchable
def train_supervised(
    data: SegmentationData,
    model: ModelConfig,
    config: SupervisedConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Mapping[str, Any] | None = None,
    log: LogFn = log_nothing,
) -> TrainResult:
    """Train a network on the labelled tiles; the weights kept are the best on ``val``, or the last without one.

    Args:
        name: The stage, such as ``"seed_model"``; weights go to ``<project>/data/06_models/<name>/<run key>/``.
        init: Pointer to weights to start from; its steps and labelled images count as seen.

    Raises:
        ValueError: there are no labelled tiles, or `init` is of another network.
        Interrupted: the process was asked to stop; run again to go on.
    """
    return _train(data, model, config, compute, name=name, project=project, seed=seed, init=init, log=log)


@launchable
def finetune(
    data: SegmentationData,
    model: ModelConfig,
    config: FinetuneConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Mapping[str, Any],
    log: LogFn = log_nothing,
) -> TrainResult:
    """`train_supervised` from the weights of `init`, of which ``config.transfer`` says what is taken over.

    They may be of a network with another decoder, or for other classes, where these are retrained.

    Raises:
        ValueError: what is to be taken over does not fit; the message says what does.
    """

    def adopt(network: SegmentationModel, weights: Path) -> None:
        transfer_weights(network, weights, config.transfer, classes=data.labels.classes)

    return _train(
        data, model, config, compute, name=name, project=project, seed=seed, init=init, adopt=adopt,
        warm=config.transfer.takes_all, log=log,
    )  # fmt: skip


def _train(
    data: SegmentationData,
    model: ModelConfig,
    config: SupervisedConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Mapping[str, Any] | None,
    log: LogFn,
    adopt: Callable[[SegmentationModel, Path], None] | None = None,
    warm: bool = True,
) -> TrainResult:
    source = data.split("labeled")

    def method(network: SegmentationModel, resolved: Compute) -> Supervised:
        normalizer = Normalizer(data.statistics, resolved.device)
        return Supervised(
            network, source, normalizer, data.labels, config, resolved, seed=seed, stream=name,
            warm=warm and init is not None,
        )  # fmt: skip

    return train_network(
        method,
        data,
        model,
        config.loop(),
        compute,
        name=name,
        project=project,
        seed=seed,
        init=init,
        adopt=adopt,
        settings={name: asdict(config)},
        tune=config.tune,
        labeled_per_step=config.batch_size,
        val_batch_size=config.val_batch_size,
        log=log,
    )
