"""Training on the labelled tiles alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from s5.data.loader import Batch, SegmentationData, StepReader, StepSampler, TileSource, count_classes
from s5.data.transforms import Normalizer, augment_geometry, augment_some
from s5.engine import (
    BatchPlaces,
    Compute,
    ComputeConfig,
    Learner,
    OwnTiles,
    TrainingConfig,
    TrainResult,
    launchable,
    train_network,
)
from s5.finetuning.transfer import TransferConfig, transfer_weights
from s5.losses import balanced_weights, labeled_loss
from s5.models import ModelConfig, SegmentationModel
from s5.seeds import Draws, step_draws
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


class Supervised:
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
        self.config, self.compute, self.labels = config, compute, labels
        self.seed, self.stream = seed, stream
        self._normalizer = normalizer
        self._places = BatchPlaces.of(config.batch_size, compute, f"{stream}.batch_size")
        sampler = StepSampler(len(source), config.batch_size, seed=seed, stream=f"{stream}/labeled")
        self.read = StepReader(((source, OwnTiles(sampler, self._places)),))
        counts = count_classes(source, labels.num_classes)
        self._class_weights = balanced_weights(counts.tolist(), config.class_balance).to(compute.device)
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=warm, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        parts, losses = self._places.parts, []
        for part in parts:
            with self.learner.part(last=part is parts[-1]):
                loss = self._loss(step, self._places.part_of(batches[0], part), part)
                self.learner.backward(loss / len(parts))
            losses.append(loss.detach())
        return {"loss": torch.stack(losses).mean(), "lr": self.learner.update(step)}

    def _loss(self, step: int, batch: Batch, places: range) -> torch.Tensor:
        drawn = step_draws(self.seed, f"{self.stream}/augment", step, (places, self._places.whole))
        images, masks = self._augment(batch, drawn)
        with self.compute.autocast():
            logits = self.learner.network.train()(images)
        return labeled_loss(
            logits,
            masks,
            name=self.config.labeled_loss,
            ohem=self.config.ohem,
            ignore_index=self.labels.ignore_index,
            class_weights=self._class_weights,
            pool=self.compute.group.pool,
        )

    def _augment(self, batch: Batch, drawn: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks, _ = augment_geometry(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.masks),
            self.compute.to_device(batch.valid),
            self.config.augmentation,
            ignore_index=self.labels.ignore_index,
            drawn=drawn,
        )
        images = augment_some(self._normalizer.scale(images), self.config.strong, self.config.photometry, drawn)
        return self._normalizer.ready(images), masks

    def evaluated(self) -> SegmentationModel:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Nothing can collapse here."""

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)


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
