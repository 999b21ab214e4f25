"""Scoring of any number of tiles in parts, by one process after another or by many hosts at once."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from s5.data.loader import TileSource
from s5.files import replacing
from s5.selection.entropy import check_entropy_classes
from s5.selection.scoring import (
    NamedTiles,
    ScoringConfig,
    run_network,
    score_columns,
    score_forward,
    score_table,
    score_tiles,
)
from s5.types import BandStatistics, LabelSpace

if TYPE_CHECKING:
    from s5.data.tiles import Tile
    from s5.models import SegmentationModel

EMBEDDINGS = "embeddings.npy"
logger = logging.getLogger(__name__)


class PartDone(Exception):
    """This process has done its share, but others have not done theirs yet; the last one puts all together."""


def score_in_parts(
    model: SegmentationModel,
    reader: NamedTiles,
    statistics: BandStatistics,
    labels: LabelSpace,
    config: ScoringConfig,
    folder: Path,
    *,
    share: tuple[int, int] = (0, 1),
    backend: Backend | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """`s5.selection.score_tiles`, with what is done kept on disk.

    Part i holds the tiles from i * n on, n being `config.tiles_per_part` in whole batches, so that a tile's scores
    depend neither on the number of processes nor on who was killed when. A part is whole or absent; one that is there
    is not computed again.

    Args:
        folder: Of the parts; one for each model, data and setting, such as by `scoring_key`. Several processes may
            share it.
        share: (k, n): this process does the parts k, k + n, k + 2 n, ...
        backend: Who calls the scorer with the numbers of the missing parts, such as `s5.selection.on_ray.RayBackend`;
            None for this process. The files are the same.

    Returns:
        The table and the embeddings of `score_tiles`, the latter as a memory map of a file in `folder`.

    Raises:
        PartDone: this process is through, but parts of others are missing.
        ValueError: the parts do not fit the tiles: they are of another data set or model.
    """
    if len(reader) == 0:
        return score_tiles(model, reader, statistics, labels, config)
    scorer = PartScorer(model, reader, statistics, labels, config, folder)
    parts = scorer.parts
    mine = [number for number in range(len(parts)) if number % share[1] == share[0]]
    missing = [number for number in mine if not parts.holds(number)]
    if len(missing) < len(mine):
        logger.info("scoring: %d of %d parts are there already", len(mine) - len(missing), len(mine))
    if missing:
        (backend or PartScorer.__call__)(scorer, missing)
    absent = [number for number in range(len(parts)) if not parts.holds(number)]
    if absent:
        raise PartDone(
            f"part {share[0] + 1}/{share[1]} is done; {len(absent)} of {len(parts)} files of scores are still missing "
            f"(first: {parts.path(absent[0]).name}): the last part to end, or a run without compute.part, puts all "
            "together"
        )
    return parts.merge(labels)


class PartScorer:
    """Scores parts and writes their files: what every backend calls, here or on another machine.

    Args:
        As for `score_in_parts`.

    Raises:
        ValueError: the entropy needs a background that `labels` does not name.
    """

    def __init__(
        self,
        model: SegmentationModel,
        reader: NamedTiles,
        statistics: BandStatistics,
        labels: LabelSpace,
        config: ScoringConfig,
        folder: Path,
    ) -> None:
        self.model, self.reader, self.statistics, self.labels, self.config = model, reader, statistics, labels, config
        self.parts = _Parts(folder, reader.tile_ids, score_columns(labels), _part_size(config))
        check_entropy_classes(config.classes, labels.num_classes, labels.background_index)

    def __call__(self, numbers: Sequence[int]) -> None:
        """Score the parts of these numbers, in one stream of batches."""
        rows = np.concatenate([self.parts.rows(number) for number in numbers])
        forward = score_forward(self.model, self.labels, self.config)
        blocks = run_network(self.model, _Rows(self.reader, rows), self.statistics, self.config, forward, "scoring")
        for number in numbers:
            scores, embeddings = _take(blocks, len(self.parts.rows(number)))
            self.parts.write(number, scores, embeddings)


Backend = Callable[[PartScorer, Sequence[int]], None]
"""Calls a scorer with the numbers of all parts that are wanted, in any order and anywhere."""


def scoring_key(fingerprint: str, model_sha256: str, config: ScoringConfig, precision: str) -> str:
    """A hash of all that scores depend on.

    Args:
        fingerprint: Of the data: `s5.data.loader.SegmentationData.fingerprint` and
            `s5.data.manifest.files_fingerprint`.
        model_sha256: Of the model's weights.
        config: Batch boundaries and classes of the entropy.
        precision: As resolved on this machine.
    """
    parts = (fingerprint, model_sha256, config.batch_size, config.classes, _part_size(config), precision)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _part_size(config: ScoringConfig) -> int:
    return -(-config.tiles_per_part // config.batch_size) * config.batch_size


def _take(blocks: Iterator[tuple[list[int], list[np.ndarray]]], count: int) -> list[np.ndarray]:
    """The next `count` rows of each array. Parts are whole batches, so that none is cut."""
    found: list[list[np.ndarray]] = []
    while sum(len(values[0]) for values in found) < count:
        found.append(next(blocks)[1])
    return [np.concatenate(values) for values in zip(*found, strict=True)]


class _Rows(TileSource):
    """Some tiles of a reader."""

    def __init__(self, reader: TileSource, rows: np.ndarray) -> None:
        self._reader, self._rows = reader, rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._reader.read(int(self._rows[index]))

    def read_many(self, indices: Sequence[int]) -> list[Tile]:
        rows = [int(self._rows[index]) for index in indices]
        read_many = getattr(self._reader, "read_many", None)
        return [self._reader.read(row) for row in rows] if read_many is None else list(read_many(rows))


class _Parts:
    """The files of a scoring: ``part-000000.npz`` with `scores`, `embeddings` and a hash of the tile ids."""

    def __init__(self, folder: Path, tile_ids: Sequence[str], columns: list[str], size: int) -> None:
        self.folder, self.tile_ids, self.columns, self.size = folder, tile_ids, columns, size

    def __len__(self) -> int:
        return -(-len(self.tile_ids) // self.size)

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"

    def rows(self, number: int) -> np.ndarray:
        return np.arange(number * self.size, min((number + 1) * self.size, len(self.tile_ids)))

    def holds(self, number: int) -> bool:
        """Whether a part is there and whole.

        Raises:
            ValueError: it is of other tiles.
        """
        try:
            scores, embeddings, tiles = self._load(number)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return False
        rows = self.rows(number)
        if tiles != self._hash(number) or scores.shape != (len(rows), len(self.columns)):
            raise ValueError(f"{self.path(number)}: holds the scores of other tiles; remove the folder to score anew")
        return len(embeddings) == len(rows)

    def write(self, number: int, scores: np.ndarray, embeddings: np.ndarray) -> None:
        with replacing(self.path(number)) as temporary:
            np.savez(temporary, scores=scores, embeddings=embeddings, tiles=np.array(self._hash(number)))

    def merge(self, labels: LabelSpace) -> tuple[pd.DataFrame, np.ndarray]:
        """All parts as one table and one memory-mapped array, row by row those of the tiles."""
        scores = np.empty((len(self.tile_ids), len(self.columns)), np.float32)
        width = self._load(0)[1].shape[1]
        path = self.folder / EMBEDDINGS
        done = 0
        with replacing(path) as temporary:
            shape = (len(self.tile_ids), width)
            merged = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            for number in range(len(self)):
                rows = self.rows(number)
                scores[rows], merged[rows], _ = self._load(number)
                done += len(rows)
            merged.flush()
        if done != len(self.tile_ids):
            raise AssertionError(f"{done} tiles in {len(self)} parts, expected {len(self.tile_ids)}")
        return score_table(self.tile_ids, scores, labels), np.load(path, mmap_mode="r")

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray, str]:
        # opened here, since numpy leaves a file open that is no zip; a zip checks its own CRCs
        with self.path(number).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return stored["scores"], stored["embeddings"], str(stored["tiles"])

    def _hash(self, number: int) -> str:
        rows = self.rows(number)
        return hashlib.sha256("\n".join(self.tile_ids[rows[0] : rows[-1] + 1]).encode()).hexdigest()
