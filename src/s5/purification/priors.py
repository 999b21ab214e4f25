"""Evidence of tiles, asked for once and kept on disk: compressed maps in a folder that can be copied."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from s5.data.loader import TileSource, read_ahead, read_batch
from s5.files import replacing, write_json
from s5.members import Member
from s5.progress import progress
from s5.purification.config import PriorConfig
from s5.purification.grounding import Grounder
from s5.types import BandStatistics

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
KEY = "grounder.json"
_VISIBLE = (("red", "r"), ("green", "g"), ("blue", "b"))


class NamedTiles(TileSource, Protocol):
    """Tiles with ids, such as a `s5.data.tiles.TileReader`."""

    tile_ids: list[str]


@dataclass(frozen=True)
class GroundedTiles:
    """What a grounding leaves.

    Args:
        folder: Where the parts lie.
        index: A row a tile, in the order of the tiles: `tile_id`, `part` (file name), `offset` and `size` in bytes,
            `channels`, `height`, `width` of its maps, `pixels` (CRC-32 of the tile) and `seconds` that it took.
        file: The index as a file of the folder, of a name that says which tiles it is about.
        asked: Tiles of which the grounder was asked just now.
    """

    folder: Path
    index: pd.DataFrame
    file: Path
    asked: int


def grounder_key(grounder: Grounder, classes: Sequence[str]) -> str:
    """A hash of all that evidence depends on beside the tile: the grounder's key and the classes in their order."""
    text = json.dumps([dict(grounder.key), list(classes)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ground_tiles(
    tiles: NamedTiles,
    grounder: Grounder,
    statistics: BandStatistics,
    root: Path,
    config: PriorConfig,
    *,
    classes: Sequence[str],
) -> GroundedTiles:
    """Ask `grounder` about each tile that it was not asked about before, and keep what it says.

    A prior belongs to the grounder's key, the tile's id and the tile's pixels, so that nothing is asked twice, and a
    tile that has changed is asked about anew. Parts are whole or absent; a killed run goes on with the first part that
    is missing.

    Args:
        tiles: Read once each, to know their pixels.
        statistics: How raw values become the 8-bit RGB that a grounder sees.
        root: Priors go to ``<root>/<key>/``, a folder that can be copied.
        classes: In the order of the grounder's channels.

    Raises:
        ValueError: the grounder's answer does not have a channel for each class and one for "unknown".
        OSError: a part could not be written.
    """
    folder = root / grounder_key(grounder, classes)
    write_json(folder / KEY, {"grounder": dict(grounder.key), "classes": list(classes)})
    known = _known(folder)
    keys: list[_Key] = []
    asked = 0
    for part in progress(range(0, len(tiles), config.tiles_per_part), "ground_tiles", unit="part"):
        rows = range(part, min(part + config.tiles_per_part, len(tiles)))
        keys += (own := [_key(tiles, row) for row in rows])
        missing = [row for row, key in zip(rows, own, strict=True) if key not in known]
        if missing:
            known |= _ground_part(tiles, missing, grounder, statistics, folder, config, len(classes))
        asked += len(missing)
    index = _index([known[key] for key in keys])
    file = folder / f"index-{_hash(index[['tile_id', 'pixels']].to_csv(index=False))}.parquet"
    if not file.is_file():
        with replacing(file) as temporary:
            index.to_parquet(temporary, index=False)
    logger.info("ground_tiles: asked about %d of %d tiles, the others were there", asked, len(tiles))
    return GroundedTiles(folder, index, file, asked)


@dataclass(frozen=True)
class PriorReader:
    """Reads stored evidence tile by tile; a `s5.types.TileMaps`, and small enough to be sent to other processes."""

    members: tuple[Member, ...]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.members)

    def read_maps(self, index: int) -> NDArray[np.uint8]:
        """Evidence of a tile, uint8 [K + 1, h, w], 255 being 1.

        Raises:
            ValueError: the file is damaged, or not the one that the index is about.
        """
        member = self.members[index]
        try:
            content = zlib.decompress(member.read())
            return np.frombuffer(content, np.uint8).reshape(self.shape)
        except (zlib.error, ValueError, OSError) as error:
            raise ValueError(
                f"{member.file}: the evidence at byte {member.offset} cannot be read ({error}); remove the file and "
                "its .json, and run the pipeline purification again"
            ) from error


def open_priors(file: Path, tile_ids: Sequence[str]) -> PriorReader:
    """The evidence of these tiles, in this order.

    Args:
        file: An index that `ground_tiles` wrote; the parts lie beside it.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: a tile has no prior, or their maps differ in size.
    """
    import pandas as pd

    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: there are no priors; make them with kedro run --pipelines=purification, or copy the folder from "
            "the machine that made them"
        )
    table = pd.read_parquet(file).set_index("tile_id")
    missing = [tile for tile in tile_ids if tile not in table.index]
    if missing:
        raise ValueError(
            f"{file}: {len(missing)} of {len(tile_ids)} tiles have no prior (first: {missing[0]!r}); they were made "
            "for another pool: run the pipeline purification again"
        )
    rows = table.loc[list(tile_ids)]
    shapes = sorted(set(zip(rows["channels"], rows["height"], rows["width"], strict=True)))
    if len(shapes) != 1:
        raise ValueError(f"{file}: maps of several sizes ({shapes}); ask a grounder that answers in one")
    members = tuple(
        Member(file.parent / part, int(offset), int(size))
        for part, offset, size in zip(rows["part"], rows["offset"], rows["size"], strict=True)
    )
    channels, height, width = (int(value) for value in shapes[0])
    return PriorReader(members, (channels, height, width))


def visible_images(images: torch.Tensor, statistics: BandStatistics) -> torch.Tensor:
    """Raw bands [B, C, H, W] as the uint8 RGB [B, 3, H, W] that grounders see.

    Red, green and blue are found by name, else the first three bands are taken; 8-bit bands stay as they are, others
    are stretched from `low` to `high`.
    """
    names = [name.lower() for name in statistics.bands]
    found = [next((names.index(name) for name in visible if name in names), None) for visible in _VISIBLE]
    bands = [band for band in found if band is not None]
    if len(bands) < 3:
        bands = [min(band, len(names) - 1) for band in range(3)]
    chosen = images[:, bands]
    if chosen.dtype == torch.uint8:
        return chosen
    low, high = (
        torch.tensor([limits[b] for b in bands])[:, None, None] for limits in (statistics.low, statistics.high)
    )
    return ((chosen.float() - low) / (high - low) * 255).nan_to_num(0).clamp(0, 255).round().to(torch.uint8)


def quantized(evidence: torch.Tensor) -> NDArray[np.uint8]:
    """Evidence in [0, 1] as uint8; 0 and 1 stay exact."""
    return evidence.clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()


_Key = tuple[str, int]  # tile id, and CRC-32 of the tile's pixels


def _ground_part(
    tiles: NamedTiles,
    rows: Sequence[int],
    grounder: Grounder,
    statistics: BandStatistics,
    folder: Path,
    config: PriorConfig,
    num_classes: int,
) -> dict[_Key, dict[str, Any]]:
    """Ask about the tiles at `rows`, and write a part; returns what it holds."""
    contents, notes = [], []
    offset = 0
    starts = range(0, len(rows), config.batch_size)
    for batch in read_ahead(lambda s: read_batch(tiles, rows[s : s + config.batch_size]), starts, depth=1):
        began = time.perf_counter()
        evidence = _asked(grounder, visible_images(batch.images, statistics), num_classes)
        seconds = (time.perf_counter() - began) / len(batch.indices)
        for row, image, maps in zip(batch.indices, batch.images.numpy(), evidence, strict=True):
            content = zlib.compress(maps.tobytes(), 6)
            shape = dict(zip(("channels", "height", "width"), maps.shape, strict=True))
            place = {"offset": offset, "size": len(content), **shape}
            note = {"tile_id": tiles.tile_ids[row], **place, "pixels": _crc(image), "seconds": round(seconds, 5)}
            offset += len(content)
            contents.append(content)
            notes.append(note)
    name = f"part-{_hash(json.dumps([[note['tile_id'], note['pixels']] for note in notes]))}"
    with replacing(folder / f"{name}.bin") as temporary:
        temporary.write_bytes(b"".join(contents))
    write_json(folder / f"{name}.json", {"bytes": offset, "tiles": notes})  # last: what has no note is not there
    return _noted(name, notes)


def _asked(grounder: Grounder, images: torch.Tensor, num_classes: int) -> NDArray[np.uint8]:
    with torch.inference_mode():
        evidence = grounder.ground(images)
    if evidence.ndim != 4 or evidence.shape[:2] != (len(images), num_classes + 1):
        raise ValueError(
            f"grounder: expected evidence [{len(images)}, {num_classes + 1}, h, w] (a channel a class and one for "
            f"unknown), got {tuple(evidence.shape)}"
        )
    return quantized(evidence)


def _key(tiles: NamedTiles, row: int) -> _Key:
    # as read_batch gives them, so that a key is the same before and after
    return tiles.tile_ids[row], _crc(read_batch(tiles, [row]).images.numpy()[0])


def _crc(image: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


def _known(folder: Path) -> dict[_Key, dict[str, Any]]:
    """What the whole parts of a folder hold."""
    known: dict[_Key, dict[str, Any]] = {}
    for note in sorted(folder.glob("part-*.json")):
        part = note.with_suffix(".bin")
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            whole = part.stat().st_size == found["bytes"]
        except (OSError, ValueError, KeyError):
            continue
        if whole:
            known.update(_noted(note.stem, found["tiles"]))
    return known


def _noted(name: str, notes: Sequence[Mapping[str, Any]]) -> dict[_Key, dict[str, Any]]:
    return {(str(note["tile_id"]), int(note["pixels"])): {**note, "part": f"{name}.bin"} for note in notes}


def no_priors() -> pd.DataFrame:
    """The index of no tiles, with the columns of those of the catalog."""
    return _index([]).assign(split="", index="")


def _index(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = ["tile_id", "part", "offset", "size", "channels", "height", "width", "pixels", "seconds"]
    return pd.DataFrame(list(rows), columns=columns)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
