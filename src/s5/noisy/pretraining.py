"""Pretraining on label maps that are partly wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from s5.data.loader import Batch, SegmentationData, StepReader, TileSource
from s5.data.transforms import Normalizer
from s5.engine import Compute, ComputeConfig, Learner, OneLearner, TrainResult, launchable, train_network
from s5.models import ModelConfig, SegmentationModel
from s5.noisy.config import NoisyConfig
from s5.noisy.losses import selection_weights
from s5.noisy.sensors import TwoSensorPretraining
from s5.noisy.tiles import NoisyTiles
from s5.types import LabelSpace, LogFn, log_nothing


class NoisyPretraining(OneLearner[SegmentationModel]):
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
        self.config, self.compute = config, compute
        self._normalizer = normalizer
        self._tiles = NoisyTiles(source, labels, config, compute, seed=seed, stream=stream)
        self.read = StepReader((self._tiles.reading,))
        self.learner = Learner(
            model, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=False, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        return self.learner.learn(step, self._tiles.places.parts, lambda part: self._losses(step, batches[0], part))

    def _losses(self, step: int, batch: Batch, part: range) -> dict[str, Tensor]:
        selection, moved = self.config.selection, self._tiles.moved(step, batch, part)
        images = self._tiles.ready(moved.images, self._normalizer, moved.drawn)
        with self.compute.autocast():
            logits = self.learner.network.train()(images)
        weights, row = None, {}
        if selection.enabled:
            share = selection.share_at(step / self.config.steps)
            weights = selection_weights(logits, moved.masks, share, ignore_index=self._tiles.labels.ignore_index)
            row["label_weight"] = self._tiles.mean_weight(weights, moved.masks)
        return {"loss": self._tiles.loss(logits, moved.masks, weights), **row}

    def evaluated(self) -> SegmentationModel:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size


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

    With fusion the network that is validated and kept is that of one sensor, for its bands alone (`kept_data`). The
    pointer counts no labelled image: noisy labels are free.

    Args:
        name: The stage, such as ``"noisy_model"``.

    Raises:
        ValueError: there are no tiles with noisy labels, or the data has no such sensor.
        Interrupted: the process was asked to stop; run again to go on.
    """

    def method(network: SegmentationModel, resolved: Compute) -> NoisyPretraining | TwoSensorPretraining:
        if config.has_sensors:
            return TwoSensorPretraining(network, data, model, config, resolved, seed=seed, stream=name)
        normalizer = Normalizer(data.statistics, resolved.device)
        source = data.split("noisy")
        return NoisyPretraining(network, source, normalizer, data.labels, config, resolved, seed=seed, stream=name)

    data.split("noisy")  # before a network is built
    names = config.kept_and_other() if config.has_sensors else ()
    sensors = {sensor: data.of_sensor(sensor).statistics.to_dict() for sensor in names}
    return train_network(
        method,
        kept_data(data, config),
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
        inputs={"sensors": sensors} if sensors else None,
        log=log,
    )


def kept_data(data: SegmentationData, config: NoisyConfig) -> SegmentationData:
    """The tiles as the network that is kept takes them: with the bands of its sensor, or all without fusion."""
    return data.of_sensor(config.kept_and_other()[0]) if config.has_sensors else data
