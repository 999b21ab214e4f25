"""A network over all tiles of a split, counted into one confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from s5.data.loader import Batch, TileSource
from s5.data.protocol import PRESETS, EvaluationProtocol
from s5.data.transforms import Normalizer
from s5.engine.compute import Compute
from s5.engine.prediction import map_tiles
from s5.engine.views import predict_classes
from s5.metrics import BoundaryCounts, ConfusionMatrix, boundary_scores, segmentation_scores
from s5.types import BandStatistics, LabelSpace


def predict_batches(
    model: nn.Module,
    source: TileSource,
    statistics: BandStatistics,
    *,
    batch_size: int,
    compute: Compute,
    protocol: EvaluationProtocol = PRESETS["whole"],
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Yield every batch of `source` with its predicted classes, int64 [B, H, W] on the device."""
    normalize = Normalizer(statistics, compute.device)

    def predict(batch: Batch) -> torch.Tensor:
        images, valid = normalize(compute.to_device(batch.images)), compute.to_device(batch.valid)
        return predict_classes(model, images, valid, protocol)

    return map_tiles(predict, source, batch_size=batch_size, compute=compute)


def evaluate_model(
    model: nn.Module,
    source: TileSource,
    statistics: BandStatistics,
    labels: LabelSpace,
    *,
    batch_size: int,
    compute: Compute,
    protocol: EvaluationProtocol = PRESETS["whole"],
    boundary: BoundaryCounts | None = None,
) -> ConfusionMatrix:
    """Confusion matrix of `model` over all valid, labelled pixels of `source`.

    Several processes share the tiles out, each tile being counted once, and all get the matrix of all tiles. The model
    is put into eval mode and left as it was found.

    Args:
        model: Normalised images to logits.
        source: Tiles with masks.
        statistics: How raw bands are normalised.
        labels: The classes.
        batch_size: Tiles in a forward pass.
        compute: Where it runs.
        protocol: What of a tile the network sees at once.
        boundary: Counts the boundaries too, where it is given.
    """
    was_training = model.training
    model.eval()
    matrix = ConfusionMatrix(labels.num_classes, labels.ignore_index)
    group = compute.group
    if len(source) > group.rank:
        own = _Share(source, range(group.rank, len(source), group.size))
        batches = predict_batches(model, own, statistics, batch_size=batch_size, compute=compute, protocol=protocol)
        for batch, predicted in batches:
            masks = compute.to_device(batch.masks)
            matrix.update(predicted, masks)
            if boundary is not None:
                boundary.update(predicted, masks)
    if compute.is_sharded:
        _keep_step(model, source, statistics, batch_size=batch_size, compute=compute, protocol=protocol)
    matrix.matrix = group.pool(matrix.matrix.to(compute.device)).to(matrix.matrix.device)
    if boundary is not None:
        boundary.counts = group.pool(boundary.counts.to(compute.device)).to(boundary.counts.device)
    model.train(was_training)
    return matrix


def measure_model(
    model: nn.Module,
    source: TileSource,
    statistics: BandStatistics,
    labels: LabelSpace,
    *,
    batch_size: int,
    compute: Compute,
    protocol: EvaluationProtocol,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """All that a protocol asks for, the arguments being those of `evaluate_model`.

    Returns:
        The confusion matrix, int64 [K, K], and the scores in percent: `segmentation_scores`, and `boundary_scores`
        where the protocol has a boundary.
    """
    width, left_out = protocol.boundary, protocol.leave_out
    boundary = None if width is None else BoundaryCounts(labels.num_classes, width, labels.ignore_index)
    matrix = evaluate_model(
        model, source, statistics, labels, batch_size=batch_size, compute=compute, protocol=protocol, boundary=boundary
    ).matrix
    outlines = {} if boundary is None else boundary_scores(boundary.counts, labels.classes, left_out)
    return matrix, {**segmentation_scores(matrix, labels.classes, left_out), **outlines}


@dataclass(frozen=True)
class _Share:
    """Some of the tiles of a source."""

    source: TileSource
    places: range

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.source.read(self.places[index])

    def read_many(self, indices: Sequence[int]) -> list[Any]:
        places = [self.places[index] for index in indices]
        read_many = getattr(self.source, "read_many", None)
        return [self.source.read(place) for place in places] if read_many is None else list(read_many(places))


def _keep_step(
    model: nn.Module,
    source: TileSource,
    statistics: BandStatistics,
    *,
    batch_size: int,
    compute: Compute,
    protocol: EvaluationProtocol,
) -> None:
    """Sharded weights are gathered by all processes in every pass: one that has a batch less must pass as well."""
    size, rank = compute.group.size, compute.group.rank
    most, own = (math.ceil(len(range(place, len(source), size)) / batch_size) for place in (0, rank))
    first = _Share(source, range(most - own))
    for _ in predict_batches(model, first, statistics, batch_size=1, compute=compute, protocol=protocol):
        pass
