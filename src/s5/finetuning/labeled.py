"""The labelled tiles of one data set, as training sees them: the batch of a step, and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch

from s5.data.loader import Batch, StepSampler, TileSource, count_classes
from s5.data.transforms import Normalizer, augment_geometry, augment_some
from s5.engine import BatchPlaces, Compute, OwnTiles, TrainingConfig
from s5.losses import balanced_weights, labeled_loss
from s5.seeds import Draws, step_draws
from s5.types import LabelSpace


class LabeledTiles:
    """Batches of weakly augmented labelled tiles, each tile equally often, and the loss of a network on them.

    Args:
        stream: Names the draws; two data sets of one training need two names.

    Attributes:
        places: Which images of a batch this process computes, and in which parts.
        reading: The tiles, and which of them this process reads at a step: a part of a `s5.data.loader.StepReader`.
    """

    def __init__(
        self,
        source: TileSource,
        normalizer: Normalizer,
        labels: LabelSpace,
        config: TrainingConfig,
        compute: Compute,
        *,
        seed: int,
        stream: str,
    ) -> None:
        self.config, self.compute, self.labels = config, compute, labels
        self.seed, self.stream = seed, stream
        self.places = BatchPlaces.of(config.batch_size, compute, f"{stream}.batch_size")
        self._normalizer = normalizer
        sampler = StepSampler(len(source), config.batch_size, seed=seed, stream=f"{stream}/labeled")
        self.reading: tuple[TileSource, OwnTiles] = (source, OwnTiles(sampler, self.places))
        counts = count_classes(source, labels.num_classes)
        self._class_weights = balanced_weights(counts.tolist(), config.class_balance).to(compute.device)

    def loss(
        self, step: int, batch: Batch, part: range, network: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The loss of `network`, which maps images to logits, on the images of `batch` at the places of `part`."""
        drawn = step_draws(self.seed, f"{self.stream}/augment", step, (part, self.places.whole))
        images, masks = self._augment(self.places.part_of(batch, part), drawn)
        with self.compute.autocast():
            logits = network(images)
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
