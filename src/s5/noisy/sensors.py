"""Pretraining on two sensors of one place and the same noisy labels: CromSS's two branches (TGRS 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from s5.data.loader import Batch, SegmentationData, StepReader
from s5.data.transforms import Normalizer
from s5.engine import Compute, Learner, OneLearner
from s5.models import ModelConfig, SegmentationModel, create_model
from s5.models.segmentation import pad_to_multiple
from s5.noisy.config import NoisyConfig
from s5.noisy.cross_modal import cross_modal_consistency, cross_modal_label_weights, prediction_weights
from s5.noisy.tiles import NoisyTiles
from s5.seeds import seed_of


class TwoSensorNetwork(nn.Module):
    """Logits of two sensors, each from its own images alone, so that either one's network serves without the other.

    As released (CromSS, TGRS 2025): with ``"late"`` fusion each sensor has a whole network, with ``"mid"`` fusion an
    encoder of its own before one neck, decoder and head, which take the sensors' maps one after the other.

    Args:
        network: The network of the sensor that is kept.
        other: The same network with the other sensor's bands; of it "mid" takes the encoder alone.
    """

    def __init__(self, network: SegmentationModel, other: SegmentationModel, fusion: str) -> None:
        super().__init__()
        self.network = network
        self.other = other if fusion == "late" else None
        self.encoder = other.encoder if fusion == "mid" else None

    def forward(self, x_BCHW: Tensor, other_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K, H, W] of each sensor; the images are normalised, and of one size."""
        if self.encoder is None:
            assert self.other is not None
            return self.network(x_BCHW), self.other(other_BCHW)
        maps = self.encoder(pad_to_multiple(other_BCHW, self.encoder.multiple))
        return self.network(x_BCHW), self.network.decode(other_BCHW, maps)


class TwoSensorPretraining(OneLearner[TwoSensorNetwork]):
    """The losses of both sensors on weakly augmented tiles, and the consistency between them: a `s5.engine.Method`.

    Args:
        model: The network of the sensor that is kept, on its device.
        data: With the bands of both sensors.
        architecture: The network; the other sensor's is made of it.
    """

    def __init__(
        self,
        model: SegmentationModel,
        data: SegmentationData,
        architecture: ModelConfig,
        config: NoisyConfig,
        compute: Compute,
        *,
        seed: int,
        stream: str,
    ) -> None:
        if compute.is_sharded:
            raise ValueError("compute.sharding: two sensors are pretrained with ddp alone, got 'fsdp'; set it to ddp")
        self.config, self.compute = config, compute
        self._tiles = NoisyTiles(data.split("noisy"), data.labels, config, compute, seed=seed, stream=stream)
        self.read = StepReader((self._tiles.reading,))
        of_sensors = [data.of_sensor(name).statistics for name in config.kept_and_other()]
        self._normalizers = [Normalizer(statistics, compute.device) for statistics in of_sensors]
        self._bands = [
            torch.tensor([data.statistics.bands.index(band) for band in statistics.bands], device=compute.device)
            for statistics in of_sensors
        ]
        torch.manual_seed(seed_of(seed, f"{stream}/other_sensor", 0))
        other = create_model(**asdict(architecture), classes=model.num_classes, bands=len(of_sensors[1].bands))
        other.to(compute.device).to(memory_format=torch.channels_last)
        network = TwoSensorNetwork(model, other, config.fusion)
        self.learner = Learner(
            network, config.optimizer, steps=config.steps, ema_decay=config.ema_decay, warm=False, compute=compute
        )

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, Tensor]:
        return self.learner.learn(step, self._tiles.places.parts, lambda part: self._losses(step, batches[0], part))

    def _losses(self, step: int, batch: Batch, part: range) -> dict[str, Tensor]:
        selection, tiles = self.config.selection, self._tiles
        moved = tiles.moved(step, batch, part)
        images = [
            tiles.ready(moved.images.index_select(1, bands), normalizer, moved.drawn)
            for bands, normalizer in zip(self._bands, self._normalizers, strict=True)
        ]
        with self.compute.autocast():
            logits = self.learner.network.train()(*images)
        of_labels: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
        of_predictions, row = None, {}
        if selection.enabled:
            progress = step / self.config.steps
            share, ramp = selection.share_at(progress), selection.ramp_at(progress)
            weights = cross_modal_label_weights(logits, moved.masks, share, ignore_index=tiles.labels.ignore_index)
            of_labels, of_predictions = weights, prediction_weights(logits, ramp)
            means = [tiles.mean_weight(one, moved.masks) for one in weights]
            row["label_weight"] = torch.stack(means).mean()
        labelled = [tiles.loss(one, moved.masks, weight) for one, weight in zip(logits, of_labels, strict=True)]
        consistency = cross_modal_consistency(logits, moved.valid, of_predictions, pool=self.compute.group.pool)
        loss = labelled[0] + labelled[1] + self.config.consistency * consistency
        return {"loss": loss, "loss_consistency": consistency, **row}

    def evaluated(self) -> SegmentationModel:
        return self.learner.ema.average.network

    def images_per_step(self) -> int:
        return self.config.batch_size
