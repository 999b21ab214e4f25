"""Pretraining on label maps that are partly wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from s5.data.loader import Batch, SegmentationData, StepReader, StepSampler, TileSource
from s5.data.transforms import Normalizer, augment_geometry, augment_some
from s5.engine import (
    BatchPlaces,
    Compute,
    ComputeConfig,
    Learner,
    OwnTiles,
    StageConfig,
    TrainResult,
    launchable,
    train_network,
)
from s5.models import ModelConfig, SegmentationModel
from s5.noisy.losses import (
    NoisyLossConfig,
    SampleSelectionConfig,
    SmoothingConfig,
    noisy_loss,
    selection_weights,
    smoothed_labels,
)
from s5.seeds import step_draws
from s5.types import LabelSpace, LogFn, log_nothing


@dataclass(frozen=True)
class NoisyConfig(StageConfig):
    """Supervised training whose loss bears wrong labels.

    Args:
        loss: The loss.
        smoothing: Labels that leave room for doubt.
        selection: Weights of pixels by how far the network believes their label.
    """

    loss: NoisyLossConfig = field(default_factory=NoisyLossConfig)
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    selection: SampleSelectionConfig = field(default_factory=SampleSelectionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.name in ("dice", "gce") and (self.smoothing.prior or self.smoothing.uniform):
            raise ValueError(
                f"smoothing: {self.loss.name} takes one class a pixel; set smoothing.prior and uniform to 0, or take ce"
            )


class NoisyPretraining:
    """The loss on weakly augmented tiles with noisy labels: a `s5.engine.Method`."""

    def __init__(
        self,
        model: SegmentationModel,
        source: TileSource,
        normalizer: Normalizer,
        labels: LabelSpace,
        config: NoisyConfig,
        compute: Compute,
        *,
        seed: int,
        stream: str,
    ) -> None:
        self.config, self.compute, self.labels = config, compute, labels
        self.seed, self.stream = seed, stream
        self._normalizer = normalizer
        self._places = BatchPlaces.of(config.batch_size, compute, f"{stream}.batch_size")
        sampler = StepSampler(len(source), config.batch_size, seed=seed, stream=f"{stream}/noisy")
        self.read = StepReader(((source, OwnTiles(sampler, self._places)),))
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=False, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        parts, losses, believed = self._places.parts, [], []
        for part in parts:
            with self.learner.part(last=part is parts[-1]):
                loss, weight = self._loss(step, self._places.part_of(batches[0], part), part)
                self.learner.backward(loss / len(parts))
            losses.append(loss.detach())
            believed.append(weight)
        row = {"loss": torch.stack(losses).mean(), "lr": self.learner.update(step)}
        if self.config.selection.enabled:
            row["label_weight"] = torch.stack(believed).mean()
        return row

    def _loss(self, step: int, batch: Batch, places: range) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the mean weight of the labelled pixels."""
        config, ignore = self.config, self.labels.ignore_index
        drawn = step_draws(self.seed, f"{self.stream}/augment", step, (places, self._places.whole))
        images, masks, _ = augment_geometry(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.masks),
            self.compute.to_device(batch.valid),
            config.augmentation,
            ignore_index=ignore,
            drawn=drawn,
        )
        images = augment_some(self._normalizer.scale(images), config.strong, config.photometry, drawn)
        with self.compute.autocast():
            logits = self.learner.network.train()(self._normalizer.ready(images))
        weights, mean = None, masks.new_ones((), dtype=torch.float32)
        if config.selection.enabled:
            share = config.selection.share_at(step / config.steps)
            weights = selection_weights(logits, masks, share, ignore_index=ignore)
            mean = weights.sum() / (masks != ignore).sum().clamp_min(1)
        soft = smoothed_labels(masks, config.smoothing, classes=self.labels.num_classes, ignore_index=ignore)
        loss = noisy_loss(
            logits, masks, config.loss, ignore_index=ignore, weights_BHW=weights, soft_BKHW=soft,
            pool=self.compute.group.pool,
        )  # fmt: skip
        return loss, mean

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
def pretrain_noisy(
    data: SegmentationData,
    model: ModelConfig,
    config: NoisyConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    log: LogFn = log_nothing,
) -> TrainResult:
    """Train a network on the tiles of the split ``noisy``; the weights kept are the best on ``val``, else the last.

    Its pointer counts no labelled image: noisy labels are free.

    Args:
        name: The stage, such as ``"noisy_model"``.

    Raises:
        ValueError: there are no tiles with noisy labels.
        Interrupted: the process was asked to stop; run again to go on.
    """
    source = data.split("noisy")

    def method(network: SegmentationModel, resolved: Compute) -> NoisyPretraining:
        normalizer = Normalizer(data.statistics, resolved.device)
        return NoisyPretraining(network, source, normalizer, data.labels, config, resolved, seed=seed, stream=name)

    return train_network(
        method,
        data,
        model,
        config.loop(),
        compute,
        name=name,
        project=project,
        seed=seed,
        init=None,
        settings={name: asdict(config)},
        tune=config.tune,
        labeled_per_step=0,
        val_batch_size=config.val_batch_size,
        log=log,
    )
