"""The windows that a detector learns from: which of them a step sees, and how these look after augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s5.data.loader import Batch, StepSampler, TileSource
from s5.data.transforms import Normalizer, augment_some
from s5.detection.augmentation import augment_boxes, make_mosaics
from s5.detection.boxes import from_corners
from s5.detection.config import DetectorConfig
from s5.detection.scenes import DetectionData, Scene, scene_windows
from s5.detection.splitting import crop_annotations
from s5.detection.targets import Targets
from s5.engine import BatchPlaces, Compute
from s5.seeds import Draws


@dataclass(frozen=True)
class _OwnWindows:
    """Which windows of a step a process reads: of each pool, as many as its sampler takes."""

    pools: tuple[tuple[list[int], StepSampler], ...]
    places: BatchPlaces

    def __call__(self, step: int) -> list[int]:
        return self.places.own_of([pool[i] for pool, sampler in self.pools for i in sampler.indices(step)])


class WindowSource:
    """One data set's windows: which of them a step sees, and how these look after augmentation."""

    def __init__(
        self, name: str, data: DetectionData, config: DetectorConfig, compute: Compute, *, seed: int, cache_mb: int
    ) -> None:
        self.name, self.config, self.compute = name, config, compute
        self.windows = TrainingWindows(data, config, cache_mb=cache_mb)
        self._normalizer = Normalizer(data.statistics, compute.device)
        with_objects = self.windows.with_objects()
        everything = list(range(len(self.windows)))
        drawn = round(config.object_share * config.batch_size) if with_objects else 0
        pools = tuple(
            (pool, StepSampler(len(pool), number, seed=seed, stream=self.stream(stream)))
            for stream, pool, number in (
                ("objects", with_objects, drawn),
                ("all", everything, config.batch_size - drawn),
            )
            if number > 0
        )
        others = (
            (
                (
                    everything,
                    StepSampler(len(everything), config.batch_size, seed=seed, stream=self.stream(f"mosaic{i}")),
                ),
            )
            for i in range(3 if config.mosaic else 0)
        )
        self._pools = (pools, *others)

    def stream(self, what: str) -> str:
        """The name of a stream of draws that is this data set's own."""
        return f"detector/{self.name}/{what}"

    def streams(self, places: BatchPlaces) -> list[tuple[TileSource, _OwnWindows]]:
        """What is read for a step: the windows, and with mosaics three times as many others."""
        return [(self.windows.reader, _OwnWindows(pools, places)) for pools in self._pools]

    def augmented(self, batches: list[Batch], drawn: Draws) -> tuple[Tensor, Targets]:
        """What the network takes, and the boxes in it."""
        quarters = [self._moved(batch, drawn) for batch in batches]
        images, valid, boxes, labels = quarters[0]
        if self.config.mosaic:
            images, valid, boxes, labels = make_mosaics(quarters, self.config.mosaic, self.config.augmentation, drawn)
        scaled = augment_some(self._normalizer.scale(images), self.config.strong, self.config.photometry, drawn)
        seeds = (drawn.rand(len(images), 1)[:, 0].double() * 2**31).long().tolist()
        return self._normalizer.ready(scaled), Targets.of(boxes, labels, valid, seeds)

    def _moved(self, batch: Batch, drawn: Draws) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        boxes, labels = zip(*(self.windows.objects(i) for i in batch.indices), strict=True)
        return augment_boxes(
            self.compute.to_device(batch.images),
            self.compute.to_device(batch.valid),
            boxes,
            labels,
            self.config.augmentation,
            magnify=self.config.magnify,
            drawn=drawn,
        )


class TrainingWindows:
    """The windows of all training scenes, and the objects in each."""

    def __init__(self, data: DetectionData, config: DetectorConfig, *, cache_mb: int) -> None:
        import pandas as pd  # light to import, as s5.data is

        from s5.data.tiles import TileReader

        rows: list[tuple[Any, ...]] = []
        self._objects: list[tuple[Tensor, Tensor]] = []
        for scene in data.training():
            for window in scene_windows(scene, size=config.window, overlap=config.overlap):
                name = f"{scene.image}:{window.row}_{window.col}"
                rows.append((name, scene.image, None, window.row, window.col, window.height, window.width))
                self._objects.append(_objects_in(scene, window, data.classes))
        columns = ["tile_id", "image", "mask", "row", "col", "height", "width"]
        self.reader = TileReader(
            pd.DataFrame(rows, columns=columns), bands=len(data.statistics.bands), size=config.window, cache_mb=cache_mb
        )

    def __len__(self) -> int:
        return len(self._objects)

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes float32 [M, 5] and labels [M] of a window; -1 is to be ignored."""
        return self._objects[index]

    def with_objects(self) -> list[int]:
        return [i for i, (_, labels) in enumerate(self._objects) if bool((labels >= 0).any())]


def _objects_in(scene: Scene, window: Any, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    found = crop_annotations(scene.annotations, window)
    places = {name: place for place, name in enumerate(classes)}
    labels = [-1 if difficult else places.get(n, -1) for n, difficult in zip(found.names, found.difficult, strict=True)]
    return from_corners(torch.from_numpy(found.corners)).float(), torch.tensor(labels, dtype=torch.int64)
