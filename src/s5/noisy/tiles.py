"""The tiles with noisy labels, as training sees them: the batch of a step, and the loss of its labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from s5.data.loader import Batch, StepSampler, TileSource
from s5.data.transforms import Normalizer, augment_geometry, augment_some
from s5.engine import BatchPlaces, Compute, OwnTiles
from s5.noisy.config import NoisyConfig
from s5.noisy.losses import noisy_loss, smoothed_labels
from s5.seeds import Draws, step_draws
from s5.types import LabelSpace


@dataclass(frozen=True)
class Moved:
    """A part of a batch under the weak augmentation, and the draws that are left for colour.

    Shape: images raw float32 [B, C, H, W]; masks int64 and valid bool [B, H, W].
    """

    images: Tensor
    masks: Tensor
    valid: Tensor
    drawn: Draws


class NoisyTiles:
    """Batches of augmented tiles with noisy labels, each tile equally often, and the loss of logits on them.

    Attributes:
        places: Which images of a batch this process computes, and in which parts.
        reading: The tiles, and which of them this process reads at a step: a part of a `s5.data.loader.StepReader`.
    """

    def __init__(
        self, source: TileSource, labels: LabelSpace, config: NoisyConfig, compute: Compute, *, seed: int, stream: str
    ) -> None:
        self.config, self.compute, self.labels = config, compute, labels
        self.seed, self.stream = seed, stream
        self.places = BatchPlaces.of(config.batch_size, compute, f"{stream}.batch_size")
        sampler = StepSampler(len(source), config.batch_size, seed=seed, stream=f"{stream}/noisy")
        self.reading: tuple[TileSource, OwnTiles] = (source, OwnTiles(sampler, self.places))

    def moved(self, step: int, batch: Batch, part: range) -> Moved:
        """The images of this process's `batch` at the places of `part`, scaled, cropped, flipped and turned."""
        drawn = step_draws(self.seed, f"{self.stream}/augment", step, (part, self.places.whole))
        batch = self.places.part_of(batch, part)
        images, masks, valid = augment_geometry(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.masks),
            self.compute.to_device(batch.valid),
            self.config.augmentation,
            ignore_index=self.labels.ignore_index,
            drawn=drawn,
        )
        return Moved(images, masks, valid, drawn)

    def ready(self, images: Tensor, normalizer: Normalizer, drawn: Draws) -> Tensor:
        """What a network takes: raw images with some of their colours changed, standardised."""
        scaled = augment_some(normalizer.scale(images), self.config.strong, self.config.photometry, drawn)
        return normalizer.ready(scaled)

    def loss(self, logits_BKHW: Tensor, masks_BHW: Tensor, weights_BHW: Tensor | None) -> Tensor:
        """The loss of the labels, of which each counts by its weight."""
        ignore = self.labels.ignore_index
        soft = smoothed_labels(masks_BHW, self.config.smoothing, classes=self.labels.num_classes, ignore_index=ignore)
        return noisy_loss(
            logits_BKHW, masks_BHW, self.config.loss, ignore_index=ignore, weights_BHW=weights_BHW, soft_BKHW=soft,
            pool=self.compute.group.pool,
        )  # fmt: skip

    def mean_weight(self, weights_BHW: Tensor, masks_BHW: Tensor) -> Tensor:
        """Of the labelled pixels; 0 where there are none."""
        return weights_BHW.sum() / (masks_BHW != self.labels.ignore_index).sum().clamp_min(1)
