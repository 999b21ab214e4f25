"""SimSiam (Chen and He, CVPR 2021): the self-supervised start that noisy labels are compared with.

Written out here, since the libraries that have it bring more than they give: lightly needs pytorch-lightning and hydra.
A test compares the loss with lightly's where that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from s5.data.loader import Batch, SegmentationData, StepReader, StepSampler, TileSource
from s5.data.transforms import GeometryConfig, Normalizer, PhotometryConfig, augment_geometry, augment_photometry
from s5.engine import (
    BatchPlaces,
    Compute,
    ComputeConfig,
    Learner,
    LoopConfig,
    OneLearner,
    OptimizerConfig,
    OwnTiles,
    TrainResult,
    TuneConfig,
    launchable,
    train_network,
)
from s5.models import ModelConfig, SegmentationModel
from s5.seeds import step_draws
from s5.types import LogFn, log_nothing


@dataclass(frozen=True)
class SimSiamConfig:
    """Length, batches and heads of SimSiam.

    Args:
        steps: Optimiser steps.
        batch_size: Tiles per step; two views are made of each. At least 2: the heads normalise over the batch.
        width: Of the projector and of the representation that is compared (paper: 2048).
        bottleneck: Hidden width of the predictor (paper: a quarter of `width`).
        ema_decay: Decay of the averaged weights, which are the ones kept; in [0, 1).
        checkpoint_every, log_every: Steps.
        optimizer: AdamW and its schedule (the paper has SGD).
        augmentation: What makes the two views of a tile: scale, crop, flips, turns,
        strong: and colour.
    """

    steps: int = 300
    batch_size: int = 16
    width: int = 512
    bottleneck: int = 128
    ema_decay: float = 0.99
    checkpoint_every: int = 250
    log_every: int = 20
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: GeometryConfig = field(default_factory=GeometryConfig)
    strong: PhotometryConfig = field(default_factory=PhotometryConfig)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 2), ("width", 1), ("bottleneck", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected a value in [0, 1), got {self.ema_decay!r}")
        self.loop()

    def loop(self) -> LoopConfig:
        return LoopConfig(self.steps, 0, self.checkpoint_every, 1, self.log_every)


def simsiam_loss(predicted_BD: Tensor, projected_BD: Tensor) -> Tensor:
    """D(p, stopgrad(z)) of eq. 1 and 3: the mean over the batch of the negative cosine, in [-1, 1]."""
    return -F.cosine_similarity(predicted_BD.float(), projected_BD.detach().float(), dim=1).mean()


class SiameseNetwork(nn.Module):
    """An encoder with SimSiam's heads (Section 3): a projector of three layers and a predictor of two.

    Shape: two views [B, C, H, W] to the symmetrised loss of eq. 4, a scalar in [-1, 1].
    """

    def __init__(self, network: SegmentationModel, width: int, bottleneck: int) -> None:
        super().__init__()
        self.network = network
        self.projector = nn.Sequential(
            *_layer(network.encoder.channels[-1], width),
            *_layer(width, width),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.predictor = nn.Sequential(*_layer(width, bottleneck), nn.Linear(bottleneck, width))

    def forward(self, one_BCHW: Tensor, other_BCHW: Tensor) -> Tensor:
        projected = [self.projector(self.network.embed(view)) for view in (one_BCHW, other_BCHW)]
        predicted = [self.predictor(z) for z in projected]
        return (simsiam_loss(predicted[0], projected[1]) + simsiam_loss(predicted[1], projected[0])) / 2


def _layer(before: int, after: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)


class SimSiam(OneLearner[SiameseNetwork]):
    """Two views of each tile, drawn by its place in the batch: a `s5.engine.Method`.

    Its loss tells collapse as well: at -1 all tiles have one representation, or the task is solved.
    """

    def __init__(
        self,
        model: SegmentationModel,
        source: TileSource,
        normalizer: Normalizer,
        config: SimSiamConfig,
        compute: Compute,
        *,
        seed: int,
        stream: str,
    ) -> None:
        self.config, self.compute, self.seed, self.stream = config, compute, seed, stream
        self._normalizer = normalizer
        self._places = BatchPlaces.of(config.batch_size, compute, f"{stream}.batch_size")
        sampler = StepSampler(len(source), config.batch_size, seed=seed, stream=f"{stream}/tiles")
        self.read = StepReader(((source, OwnTiles(sampler, self._places)),))
        model.freeze("neck", "decoder", "head")
        network = SiameseNetwork(model, config.width, config.bottleneck).to(compute.device)
        self.learner = Learner(
            network, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=False, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        def measure(part: range) -> dict[str, Tensor]:
            batch = self._places.part_of(batches[0], part)
            views = [self._view(step, batch, part, number) for number in (1, 2)]
            with self.compute.autocast():
                return {"loss": self.learner.network.train()(*views)}

        return self.learner.learn(step, self._places.parts, measure)

    def _view(self, step: int, batch: Batch, places: range, number: int) -> Tensor:
        drawn = step_draws(self.seed, f"{self.stream}/view{number}", step, (places, self._places.whole))
        images, _, _ = augment_geometry(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.masks),
            self.compute.to_device(batch.valid),
            self.config.augmentation,
            ignore_index=255,
            drawn=drawn,
        )
        return self._normalizer.ready(augment_photometry(self._normalizer.scale(images), self.config.strong, drawn))

    def evaluated(self) -> SegmentationModel:
        return self.learner.ema.average.network

    def images_per_step(self) -> int:
        return self.config.batch_size


@launchable
def pretrain_simsiam(
    data: SegmentationData,
    model: ModelConfig,
    config: SimSiamConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    split: str = "unlabeled",
    log: LogFn = log_nothing,
) -> TrainResult:
    """Train the encoder of a network on the tiles of `split` without labels; decoder and head keep their random start.

    Args:
        name: The stage; weights go to ``<project>/data/06_models/<name>/<run key>/``.

    Raises:
        ValueError: there is no tile in the split.
        Interrupted: the process was asked to stop; run again to go on.
    """
    source = data.split(split)

    def method(network: SegmentationModel, resolved: Compute) -> SimSiam:
        normalizer = Normalizer(data.statistics, resolved.device)
        return SimSiam(network, source, normalizer, config, resolved, seed=seed, stream=name)

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
        settings={name: asdict(config), "split": split},
        tune=TuneConfig(),
        labeled_per_step=0,
        val_batch_size=config.batch_size,
        log=log,
    )
