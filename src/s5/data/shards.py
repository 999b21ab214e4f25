"""Tar shards of tiles in webdataset's layout, with an index that finds any tile without opening the tar.

A shard is an uncompressed tar whose members are ``<key>.<ext>``, ``<key>.mask.tif`` where there is a mask, and
``<key>.json``; the key is the tile id, percent-encoded where a tar or webdataset would not take it. ``index.parquet``
beside the shards is a list file for dataset cards (``unlabeled: {list: shards/index.parquet}``): its `image` and `mask`
are byte ranges of the shards, as `s5.members` names them, and everything that reads plain files reads them alike.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from s5.data.listing import Rejected, tidy
from s5.files import replacing, write_json
from s5.members import Member, file_behind, member_of
from s5.progress import progress
from s5.types import Window

if TYPE_CHECKING:
    import pandas as pd

INDEX = "index.parquet"
_COPIED = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2"})  # formats that need no second file
_COMPRESSIONS = ("deflate", "none")
_MAX_THREADS = 8
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardingConfig:
    """How tiles are packed.

    Args:
        split: Which split of the manifest is packed.
        tiles_per_shard: Tiles in a shard, at least 1; the last shard has what is left.
        compress: Of tiles that are cut out of larger images, ``"deflate"`` or ``"none"``; a tile that is a whole file
            is copied byte for byte.
        folder: Where the shards go; None lets the caller choose.
    """

    split: str = "unlabeled"
    tiles_per_shard: int = 1024
    compress: str = "deflate"
    folder: str | None = None

    def __post_init__(self) -> None:
        number = self.tiles_per_shard
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"sharding.tiles_per_shard: expected a whole number of at least 1, got {number!r}")
        if self.compress not in _COMPRESSIONS:
            raise ValueError(f"sharding.compress: expected one of {', '.join(_COMPRESSIONS)}, got {self.compress!r}")


@dataclass(frozen=True)
class Packed:
    """What a packing leaves.

    Args:
        folder: Where the shards and their index lie.
        index: A row a tile in the order of the manifest: ``tile_id``, ``image`` and ``mask`` (byte ranges; no mask is
            None), ``crc32`` of the image's bytes, ``shard``, ``offset``, ``size``, ``height``, ``width``, ``group``,
            ``crs``, ``valid_share``, and where it came from: ``source``, ``row``, ``col``.
        rejected: Tiles that could not be read.
    """

    folder: Path
    index: pd.DataFrame
    rejected: list[Rejected]


def pack_tiles(manifest: pd.DataFrame, folder: Path, config: ShardingConfig, *, bands: int) -> Packed:
    """Write the tiles of one split of a manifest into shards; a shard that is there already is kept.

    Which tile goes where is fixed by the manifest and `config`, so that a killed packing goes on where it was, and two
    of them on one folder write the same. Each shard is whole or absent.

    Args:
        manifest: As `s5.data.ingest` makes it.
        folder: Made where it does not exist.
        config: Which tiles, and how many a shard.
        bands: Number of bands of every image.

    Raises:
        ValueError: the split has no tile, a tile id stands twice, or no tile can be read.
        OSError: a shard could not be written, such as on a full disk.
    """
    rows = manifest[manifest["split"] == config.split]
    if rows.empty:
        raise ValueError(
            f"sharding.split: {config.split!r} has no tiles (found {manifest['split'].value_counts().to_dict()}); "
            "name a split of the dataset card"
        )
    repeated = rows["tile_id"][rows["tile_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"manifest: tile_id {repeated.iloc[0]!r} stands twice in {config.split!r}; ingest again")
    starts = range(0, len(rows), config.tiles_per_shard)
    parts: list[dict[str, Any]] = []
    for number, start in enumerate(progress(starts, "sharding", unit="shard")):
        tiles = [_Tile.of(row) for row in rows.iloc[start : start + config.tiles_per_shard].itertuples()]
        parts.append(_shard(folder / f"shard-{number:06d}.tar", tiles, config, bands))
    rejected = [Rejected(Path(r["path"]), config.split, r["kind"], r["reason"]) for p in parts for r in p["rejected"]]
    index = _index_of(parts)
    if len(index) + len(rejected) != len(rows):
        raise AssertionError(f"{len(index)} tiles packed and {len(rejected)} rejected of {len(rows)}")
    if index.empty:
        raise ValueError(f"sharding: none of {len(rows)} tiles could be read; the first: {rejected[0].reason}")
    with replacing(folder / INDEX) as temporary:
        index.to_parquet(temporary, index=False)
    _LOG.info("%d tiles in %d shards in %s, %d could not be read", len(index), len(starts), folder, len(rejected))
    return Packed(folder, _in_folder(index, folder), rejected)


def read_index(path: Path) -> pd.DataFrame:
    """The index of shards, with `image` and `mask` as absolute paths: what `s5.data.tiles.TileReader` takes.

    Args:
        path: ``index.parquet``, or the folder that holds it.

    Raises:
        FileNotFoundError: there is no index.
    """
    import pandas as pd  # s5.data stays light to import

    file = path / INDEX if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no index of shards; make it with kedro run --pipelines=sharding")
    table = _in_folder(pd.read_parquet(file), file.parent.absolute())
    # a tile of a shard is a whole image
    return table.assign(row=0, col=0)


def with_shards(manifest: pd.DataFrame, index: pd.DataFrame, split: str = "unlabeled") -> pd.DataFrame:
    """The manifest with the tiles of one split read from shards instead of from their own files.

    Args:
        manifest: As `s5.data.ingest` makes it.
        index: Of shards packed from this manifest, as `read_index` gives it.

    Raises:
        ValueError: a tile of the split is in no shard.
    """
    mine = (manifest["split"] == split).to_numpy()
    packed = index.set_index("tile_id")
    missing = manifest.loc[mine & ~manifest["tile_id"].isin(packed.index).to_numpy(), "tile_id"]
    if len(missing):
        raise ValueError(
            f"index: {len(missing)} of {mine.sum()} tiles of {split!r} are in no shard (first: {missing.iloc[0]!r}); "
            "pack them with kedro run --pipelines=sharding"
        )
    found = packed.loc[manifest.loc[mine, "tile_id"]]
    changed = manifest.copy()
    for column in ("image", "mask"):
        changed.loc[mine, column] = found[column].to_numpy(dtype=object)
    for column in ("row", "col"):
        changed.loc[mine, column] = 0
    return changed


def packing_key(manifest: pd.DataFrame, config: ShardingConfig) -> str:
    """A hash of what shards are made of: the tiles, the sizes and times of their files, and how they are packed."""
    rows = manifest[manifest["split"] == config.split]
    digest = hashlib.sha256(repr((config.split, config.tiles_per_shard, config.compress)).encode())
    for row in rows.itertuples():
        digest.update(_Tile.of(row).stamp().encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Tile:
    """A tile to be packed: a row of the manifest."""

    tile_id: str
    image: str
    mask: str | None
    window: Window
    split: str
    group: str
    crs: str
    valid_share: float

    @classmethod
    def of(cls, row: Any) -> _Tile:
        mask = row.mask if isinstance(row.mask, str) and row.mask else None
        window = Window(int(row.row), int(row.col), int(row.height), int(row.width))
        return cls(
            str(row.tile_id), str(row.image), mask, window, str(row.split), str(row.group), str(row.crs),
            float(row.valid_share),
        )  # fmt: skip

    def stamp(self) -> str:
        """Changes whenever the tile or a file of it does."""
        files = [file_behind(Path(name)) for name in (self.image, self.mask) if name is not None]
        states = [(f.stat().st_size, f.stat().st_mtime_ns) if f.is_file() else None for f in files]
        return repr((asdict(self), states))

    @property
    def key(self) -> str:
        """Without dots, which end webdataset's keys, and without what a tar takes for another folder."""
        return quote(self.tile_id, safe="/@_-,").replace(".", "%2E").lstrip("/")

    def about(self) -> dict[str, Any]:
        """What the index and the shard's JSON say of it."""
        window = self.window
        return {
            "tile_id": self.tile_id, "height": window.height, "width": window.width, "group": self.group,
            "crs": self.crs, "valid_share": self.valid_share, "source": self.image, "row": window.row,
            "col": window.col,
        }  # fmt: skip


def _shard(path: Path, tiles: Sequence[_Tile], config: ShardingConfig, bands: int) -> dict[str, Any]:
    """The record of one shard, packed now where it is not there yet."""
    note = path.with_suffix(".json")
    key = hashlib.sha256(repr((config.compress, bands, [tile.stamp() for tile in tiles])).encode()).hexdigest()
    found = _read_note(note)
    if found is not None and found["key"] == key and path.is_file() and path.stat().st_size == found["bytes"]:
        return found
    record: dict[str, Any] = {"key": key, "shard": path.name, "tiles": [], "rejected": []}
    # The note goes first: while the shard is being replaced, no note speaks of another one.
    note.unlink(missing_ok=True)
    with replacing(path) as temporary:
        # PAX and time 0: equal tiles are equal shards, and a name may have any length
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for tile, contents in _encoded(tiles, config, bands):
                if isinstance(contents, Rejected):
                    reason = {"path": str(contents.path), "kind": contents.kind, "reason": contents.reason}
                    record["rejected"].append(reason)
                else:
                    record["tiles"].append(_add(tar, tile, contents))
        record["bytes"] = temporary.stat().st_size
    write_json(note, record)
    return record


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if {"key", "bytes", "tiles", "rejected"} <= set(found) else None


def _encoded(
    tiles: Sequence[_Tile], config: ShardingConfig, bands: int
) -> Iterator[tuple[_Tile, dict[str, bytes] | Rejected]]:
    """Suffix -> bytes of each tile, or why it cannot be read; read on several threads, in order."""
    from s5.geo.raster import UnreadableRasterError

    def encode(tile: _Tile) -> dict[str, bytes] | Rejected:
        try:
            return _members(tile, config.compress, bands)
        except (UnreadableRasterError, OSError, ValueError) as error:
            reason = f"tile {tile.tile_id} cannot be packed: {error}"
            return Rejected(Path(tile.image), tile.split, "unreadable", reason)

    step = 4 * _MAX_THREADS  # so that no more tiles than these wait in memory
    with ThreadPoolExecutor(min(_MAX_THREADS, cpu_count() or 1)) as pool:
        for start in range(0, len(tiles), step):
            part = tiles[start : start + step]
            yield from zip(part, pool.map(encode, part), strict=True)


def _members(tile: _Tile, compress: str, bands: int) -> dict[str, bytes]:
    from s5.geo.encoding import encode_geotiff, has_companions, window_transform
    from s5.geo.raster import describe, read_window

    path = Path(tile.image)
    info = describe(path)
    whole = tile.window == Window(0, 0, info.height, info.width)
    image, valid = read_window(path, tile.window, bands=bands)  # also what is copied must be whole
    if image.shape[0] != bands:
        raise ValueError(f"{path}: has {image.shape[0]} bands, expected {bands}; ingest again")
    place = {"transform": window_transform(info.transform, tile.window), "crs": info.crs}
    member = member_of(path)
    suffix = ".tif" if member is not None else path.suffix.lower()
    if whole and member is None and suffix in _COPIED and not has_companions(path):
        found = {suffix: path.read_bytes()}
    else:
        found = {".tif": encode_geotiff(image, valid, compress=compress, **place)}  # type: ignore[arg-type]
    if tile.mask is not None:
        labels, _ = read_window(Path(tile.mask), tile.window)
        found[".mask.tif"] = encode_geotiff(labels[:1], compress=compress, **place)  # type: ignore[arg-type]
    return found


def _add(tar: tarfile.TarFile, tile: _Tile, contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Append the members of a tile; returns its row of the index, without the name of the shard."""
    row = tile.about() | {"mask_offset": -1, "mask_size": -1}
    for suffix, content in contents.items():
        offset = _append(tar, tile.key + suffix, content)
        if suffix == ".mask.tif":
            row |= {"mask_offset": offset, "mask_size": len(content)}
        else:
            row |= {"offset": offset, "size": len(content), "crc32": zlib.crc32(content)}
    _append(tar, tile.key + ".json", json.dumps(tile.about(), ensure_ascii=False).encode())
    return row


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Where the content begins in the tar."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _index_of(parts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The index with members named relative to the folder of the shards."""
    import pandas as pd

    rows = []
    for part in parts:
        for tile in part["tiles"]:
            row = {key: value for key, value in tile.items() if not key.startswith("mask_")}
            shard = Path(part["shard"])
            mask = Member(shard, tile["mask_offset"], tile["mask_size"]).path if tile["mask_size"] >= 0 else None
            image = Member(shard, tile["offset"], tile["size"]).path
            rows.append({"tile_id": row.pop("tile_id"), "image": str(image), "mask": mask and str(mask),
                         "shard": part["shard"], **row})  # fmt: skip
    table = pd.DataFrame(rows)
    if rows:
        table["mask"] = pd.Series([row["mask"] for row in rows], dtype=object)  # or None would become NaN
    return table


def _in_folder(index: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The index with absolute members."""

    def absolute(name: object) -> str | None:
        member = member_of(name) if isinstance(name, str) else None
        return None if member is None else str(replace(member, file=tidy(folder / member.file)).path)

    columns: dict[str, Any] = {column: [absolute(name) for name in index[column]] for column in ("image", "mask")}
    return index.assign(**columns)
