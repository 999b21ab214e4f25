"""One pass of a trained network over many tiles: entropy, confidence, class shares and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
import torch

from s5.data.loader import Batch, TileSource
from s5.data.transforms import Normalizer
from s5.engine import Compute, ComputeConfig, map_tiles, resolve_compute
from s5.progress import progress
from s5.selection.entropy import EntropyClasses, check_entropy_classes, tile_statistics
from s5.types import BandStatistics, LabelSpace

if TYPE_CHECKING:
    from s5.models import SegmentationModel

_LARGEST_HALF = 65504.0
_NO_EMBEDDING = np.empty((0, 0), np.float16)
Forward = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class ScoringConfig:
    """How tiles are scored.

    Args:
        batch_size: Tiles in one forward pass; batches are cut by index, so that scores do not depend on workers.
        classes: Which classes the entropy is taken over, see `s5.selection.entropy.pixel_entropy`.
        tiles_per_part: Tiles in a file of `s5.selection.parts`; rounded up to whole batches.
        device, precision, threads: As in `s5.engine.compute.ComputeConfig`.
    """

    batch_size: int = 16
    classes: EntropyClasses = "all"
    tiles_per_part: int = 4096
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "tiles_per_part"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"entropy_scoring.{name}: expected a whole number of at least 1, got {value!r}")
        # background 0 of 3 classes answers every known choice: only an unknown one is refused here
        check_entropy_classes(self.classes, 3, 0)
        self.compute()

    def compute(self) -> ComputeConfig:
        return ComputeConfig(device=self.device, precision=self.precision, threads=self.threads)


class NamedTiles(TileSource, Protocol):
    """Tiles with an id each: `s5.data.tiles.TileReader`, or anything like it."""

    @property
    def tile_ids(self) -> Sequence[str]: ...


def score_tiles(
    model: SegmentationModel,
    reader: NamedTiles,
    statistics: BandStatistics,
    labels: LabelSpace,
    config: ScoringConfig,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Score and embed every tile, logits and embedding from one encoder pass; S5, equation 1.

    Args:
        model: A trained network; left in the mode in which it came.
        reader: The tiles, N of them.

    Returns:
        A table with a row a tile in the reader's order: ``tile_id``, ``entropy``, ``confidence`` and ``valid_share``
        (of the padded tile) float32 in [0, 1], ``share_<class>`` float32; NaN where a tile has no valid pixel. And
        its embeddings, float16 [N, D], not normalised.

    Raises:
        ValueError: the entropy needs a background that `labels` does not name, or the network has other classes.
    """
    blocks = run_network(model, reader, statistics, config, score_forward(model, labels, config), "scoring")
    scores, embeddings = _gather(blocks, len(reader)) or (
        np.empty((0, len(score_columns(labels))), np.float32), _NO_EMBEDDING,
    )  # fmt: skip
    return score_table(reader.tile_ids, scores, labels), embeddings


def score_columns(labels: LabelSpace) -> list[str]:
    """What is said of a tile, beside its id."""
    return ["entropy", "confidence", "valid_share", *(f"share_{name}" for name in labels.classes)]


def score_table(tile_ids: Sequence[str], scores: np.ndarray, labels: LabelSpace) -> pd.DataFrame:
    table = pd.DataFrame(scores, columns=pd.Index(score_columns(labels)))
    table.insert(0, "tile_id", list(tile_ids))
    return table


def score_forward(model: SegmentationModel, labels: LabelSpace, config: ScoringConfig) -> Forward:
    """What is computed of a batch: scores float32 [B, columns] and embeddings float16 [B, D].

    Raises:
        ValueError: the entropy needs a background that `labels` does not name.
    """
    check_entropy_classes(config.classes, labels.num_classes, labels.background_index)

    def forward(images: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, embedding = model.forward_with_embedding(images)
        if logits.shape[1] != labels.num_classes:
            raise ValueError(
                f"the network has {logits.shape[1]} classes but the dataset has {labels.num_classes} "
                f"({list(labels.classes)}); score with a model trained on this dataset"
            )
        tiles = tile_statistics(logits, valid, classes=config.classes, background_index=labels.background_index)
        scores = torch.stack([tiles.entropy, tiles.confidence, tiles.valid_share], dim=1)
        return torch.cat([scores, tiles.shares], dim=1), _to_half(embedding)

    return forward


def embed_tiles(
    model: SegmentationModel, reader: NamedTiles, statistics: BandStatistics, config: ScoringConfig
) -> np.ndarray:
    """Embed every tile: the mean over pixels of the deepest encoder map.

    Returns:
        float16 [N, D] in the reader's order, not normalised.
    """

    def forward(images: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor]:
        return (_to_half(model.embed(images)),)

    blocks = run_network(model, reader, statistics, config, forward, "embedding")
    return (_gather(blocks, len(reader)) or [_NO_EMBEDDING])[0]


def run_network(
    model: SegmentationModel,
    reader: TileSource,
    statistics: BandStatistics,
    config: ScoringConfig,
    forward: Forward,
    name: str,
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield each batch's indices and what `forward` says of its images and valid pixels."""
    compute = resolve_compute(config.compute())
    normalize = Normalizer(statistics, compute.device)

    def work(batch: Batch) -> tuple[torch.Tensor, ...]:
        return forward(normalize(compute.to_device(batch.images)), compute.to_device(batch.valid))

    waiting: tuple[list[int], tuple[torch.Tensor, ...]] | None = None
    num_batches = -(-len(reader) // config.batch_size)
    with _evaluating(model, compute):
        batches = map_tiles(work, reader, batch_size=config.batch_size, compute=compute)
        for batch, outputs in progress(batches, name, total=num_batches):
            # fetched one batch late, so that a GPU has the next one to work on meanwhile
            if waiting is not None:
                yield waiting[0], [output.cpu().numpy() for output in waiting[1]]
            waiting = batch.indices, outputs
        if waiting is not None:
            yield waiting[0], [output.cpu().numpy() for output in waiting[1]]


@contextmanager
def _evaluating(model: SegmentationModel, compute: Compute) -> Iterator[None]:
    """The network on its device in eval mode, channels last; the mode is put back at the end."""
    was_training = model.training
    model.to(device=compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _gather(blocks: Iterator[tuple[list[int], list[np.ndarray]]], num_tiles: int) -> list[np.ndarray]:
    """The blocks of each array joined by index; no array where there was no tile."""
    arrays: list[np.ndarray] = []
    for indices, values in blocks:
        if not arrays:
            arrays = [np.empty((num_tiles, *value.shape[1:]), value.dtype) for value in values]
        for array, value in zip(arrays, values, strict=True):
            array[indices] = value
    return arrays


def _to_half(embedding: torch.Tensor) -> torch.Tensor:
    """As float16; a row too large for it is scaled down, which leaves its direction, all that a cosine sees."""
    largest = embedding.float().abs().amax(dim=1, keepdim=True).clamp_(min=_LARGEST_HALF)
    return (embedding.float() * (_LARGEST_HALF / largest)).half()
