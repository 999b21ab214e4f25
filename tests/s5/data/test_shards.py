"""Tar shards: what was packed is what is read, wherever plain files are read."""

import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from s5.data.ingest import IngestionConfig, ingest
from s5.data.manifest import files_fingerprint
from s5.data.shards import INDEX, ShardingConfig, pack_tiles, packing_key, read_index, with_shards
from s5.data.tiles import TileReader
from s5.geo.encoding import encode_geotiff
from s5.geo.raster import UnreadableRasterError, describe, read_window
from s5.members import Member, file_behind, member_of
from s5.types import Window

INGESTION = IngestionConfig(tile_size=16, val_share=0.0, test_share=0.0)


@pytest.fixture
def ingested(world, work_dir):
    """Scenes, a masked scene, PNG and JPEG tiles, labels of some unlabelled ones, and a name with dots."""
    world.pair("labeled", "a", size=(16, 32), place=(0, 0))
    world.image("unlabeled/images/scene.tif", size=(40, 50), place=(100, 100))
    world.image("unlabeled/images/v1.2/holes.tif", size=(16, 16), nodata=7.0, values=_with_holes(world))
    world.image("unlabeled/images/photo.png", size=(16, 16))
    world.image("unlabeled/images/photo2.jpg", size=(16, 16))
    world.mask("unlabeled/masks/photo.png", size=(16, 16))
    card = world.card({
        "labeled": {"images": "labeled/images", "masks": "labeled/masks"},
        "unlabeled": {"images": "unlabeled/images", "masks": "unlabeled/masks"},
    })  # fmt: skip
    # an unlabelled image without a mask goes without
    return ingest(card, INGESTION, seed=0, work_dir=work_dir)


def _with_holes(world):
    values = world.rng.integers(8, 250, (3, 16, 16)).astype("uint8")
    values[:, :3, 5:9] = 7
    return values


def assert_same_tiles(one: TileReader, other: TileReader, places: range | None = None) -> None:
    for i in places or range(len(one)):
        for a, b in zip(one.read(i), other.read(i), strict=True):
            np.testing.assert_array_equal(a, b)


def pack(ingested, folder: Path, **options) -> pd.DataFrame:
    config = ShardingConfig(**({"tiles_per_shard": 4} | options))
    return pack_tiles(ingested.manifest, folder, config, bands=3).index


@pytest.mark.parametrize("compress", ["deflate", "none"])
def test_shards_and_plain_files_are_read_alike(ingested, tmp_path, compress):
    pack(ingested, tmp_path / "shards", compress=compress)
    index = read_index(tmp_path / "shards")
    plain = ingested.manifest[ingested.manifest["split"] == "unlabeled"]
    assert index["tile_id"].tolist() == plain["tile_id"].tolist()
    assert len(index) == 3 * 4 + 3
    ours, theirs = (TileReader(table, bands=3, size=16, cache_mb=0) for table in (index, plain))
    assert_same_tiles(ours, theirs)
    swapped = with_shards(ingested.manifest, index)
    assert_same_tiles(TileReader(swapped, bands=3, size=16), TileReader(ingested.manifest, bands=3, size=16))
    with ThreadPoolExecutor(4) as pool:  # out of order and from several threads
        order = np.random.default_rng(0).permutation(len(plain)).tolist()
        for i, (image, _, _) in zip(order, pool.map(lambda i: ours.read_many([i])[0], order), strict=True):
            np.testing.assert_array_equal(image, theirs.read(i)[0])


def test_a_shard_is_webdatasets_tar(ingested, tmp_path):
    index = pack(ingested, tmp_path)
    keys = {}
    for shard in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for entry in tar:
                folder, _, name = entry.name.rpartition("/")
                key, _, extension = name.partition(".")  # as webdataset cuts a name: at the first dot
                content = tar.extractfile(entry).read()
                keys.setdefault(unquote(f"{folder}/{key}".lstrip("/")), {})[extension] = content
    assert set(keys) == set(index["tile_id"])
    row = index.set_index("tile_id").loc["unlabeled/images/photo"]
    found = keys["unlabeled/images/photo"]
    assert set(found) == {"png", "mask.tif", "json"}
    assert found["png"] == Path(row["source"]).read_bytes()  # whole files are copied
    about = json.loads(found["json"])
    assert (about["tile_id"], about["height"], about["width"]) == ("unlabeled/images/photo", 16, 16)
    tile = index[index["tile_id"].str.contains("scene")].iloc[1]
    assert set(keys[tile["tile_id"]]) == {"tif", "json"}
    assert member_of(tile["image"]).read() == keys[tile["tile_id"]]["tif"]


def test_georeference_and_nodata_go_along(ingested, tmp_path):
    index = pack(ingested, tmp_path).set_index("source", drop=False)
    tiles = index[index["source"].str.endswith("scene.tif")]
    info = describe(Path(tiles["image"].iloc[5]))
    row, col = tiles["row"].iloc[5], tiles["col"].iloc[5]
    assert (row, col) == (16, 16)
    assert info.crs == "EPSG:32632"
    assert info.transform == (10.0, 0.0, 500_000.0 + 1160, 0.0, -10.0, 5_000_000.0 - 1160)
    holes = index[index["source"].str.endswith("holes.tif")]["image"].iloc[0]
    _, valid = read_window(Path(holes))
    assert (~valid).sum() == 12


def test_the_index_is_a_list_for_dataset_cards(ingested, world, work_dir, tmp_path):
    pack(ingested, world.folder / "shards")
    card = world.card({
        "labeled": {"images": "labeled/images", "masks": "labeled/masks"},
        "unlabeled": {"list": "shards/index.parquet"},
    })  # fmt: skip
    again = ingest(card, INGESTION, seed=0, work_dir=work_dir)
    assert len(again.quarantine) == 0
    for column in ("tile_id", "split", "group", "crs", "valid_share", "height", "width"):
        assert again.manifest[column].tolist() == ingested.manifest[column].tolist(), column
    both = [m.set_index("tile_id").geometry.to_wkt(rounding_precision=6) for m in (again.manifest, ingested.manifest)]
    assert both[0].equals(both[1])
    assert again.statistics == ingested.statistics
    readers = [TileReader(m, bands=3, size=16) for m in (again.manifest, ingested.manifest)]
    assert_same_tiles(*readers)


def test_damage_costs_its_own_tiles_which_quarantine_names(ingested, world, work_dir):
    folder = world.folder / "shards"
    index = pack(ingested, folder)
    shards = sorted(folder.glob("*.tar"))
    assert len(shards) == 4
    by_shard = {shard.name: index[index["shard"] == shard.name] for shard in shards}
    first, second, third = (by_shard[shard.name] for shard in shards[:3])
    with shards[0].open("r+b") as file:  # a byte of a tile is another
        file.seek(int(first["offset"].iloc[2]) + int(first["size"].iloc[2]) // 2)
        value = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 1]))
    os.truncate(shards[1], int(second["offset"].iloc[3]) + 10)  # the last tile is not whole
    shards[2].unlink()
    card = world.card({
        "labeled": {"images": "labeled/images", "masks": "labeled/masks"},
        "unlabeled": {"list": "shards/index.parquet"},
    })  # fmt: skip
    again = ingest(card, INGESTION, seed=0, work_dir=world.folder / "work")
    lost = {first["tile_id"].iloc[2], second["tile_id"].iloc[3], *third["tile_id"]}
    assert set(ingested.manifest["tile_id"]) - set(again.manifest["tile_id"]) == lost
    reasons = again.quarantine.set_index("path")
    assert reasons.loc[first["image"].iloc[2], "kind"] == "damaged"
    assert reasons.loc[second["image"].iloc[3], "kind"] == "truncated"
    assert (reasons.loc[third["image"], "kind"] == "missing").all()
    assert first["tile_id"].iloc[2] in reasons.loc[first["image"].iloc[2], "reason"]
    whole = TileReader(again.manifest, bands=3, size=16)
    for i in range(len(whole)):
        whole.read(i)
    with pytest.raises(UnreadableRasterError, match=shards[2].name):
        read_window(Path(third["image"].iloc[0]))


def test_a_tile_that_cannot_be_read_is_left_out_with_a_reason(ingested, tmp_path, world):
    bad = world.folder / "unlabeled/images/photo2.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    packed = pack_tiles(ingested.manifest, tmp_path, ShardingConfig(tiles_per_shard=4), bands=3)
    assert [r.path for r in packed.rejected] == [bad]
    assert "photo2" in packed.rejected[0].reason
    assert len(packed.index) == 14
    with pytest.raises(ValueError, match="1 of 15 tiles of 'unlabeled' are in no shard"):
        with_shards(ingested.manifest, packed.index)


def test_a_killed_packing_goes_on_and_ends_with_the_same_bytes(ingested, tmp_path, monkeypatch):
    pack(ingested, tmp_path / "whole")
    calls = []

    def stop_at_the_third(path, *rest, **options):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(path, *rest, **options)

    from s5.data import shards

    real = shards.write_json
    monkeypatch.setattr(shards, "write_json", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pack(ingested, tmp_path / "killed")
    assert not (tmp_path / "killed" / INDEX).exists()
    kept = [path.stat().st_mtime_ns for path in sorted((tmp_path / "killed").glob("*.tar"))[:2]]
    monkeypatch.setattr(shards, "write_json", real)
    pack(ingested, tmp_path / "killed")
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "killed").glob("*.tar"))[:2]] == kept
    files = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("whole", "killed")]
    assert files[0] == files[1]
    for name in files[0]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_changed_sources_are_packed_again(ingested, tmp_path, world):
    config = ShardingConfig(tiles_per_shard=4)
    before = packing_key(ingested.manifest, config)
    index = pack(ingested, tmp_path)
    world.image("unlabeled/images/photo.png", size=(16, 16))
    os.utime(world.folder / "unlabeled/images/photo.png", ns=(1, 1))
    assert packing_key(ingested.manifest, config) != before
    again = pack(ingested, tmp_path)
    changed = (index["crc32"] != again["crc32"]).to_numpy()
    assert again["tile_id"][changed].tolist() == ["unlabeled/images/photo"]


def test_two_packings_of_one_folder_leave_it_whole(ingested, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: pack(ingested, tmp_path), range(2)))
    pd.testing.assert_frame_equal(*both)
    plain = ingested.manifest[ingested.manifest["split"] == "unlabeled"]
    assert_same_tiles(
        TileReader(read_index(tmp_path), bands=3, size=16), TileReader(plain, bands=3, size=16), range(len(plain))
    )


def test_files_changed_in_place_have_another_fingerprint(ingested, world):
    before = files_fingerprint(ingested.manifest)
    assert files_fingerprint(ingested.manifest) == before
    os.utime(world.folder / "unlabeled/images/photo.png", ns=(1, 1))
    changed = files_fingerprint(ingested.manifest)
    (world.folder / "unlabeled/images/photo.png").unlink()
    assert len({before, changed, files_fingerprint(ingested.manifest)}) == 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 4])
def test_encoded_tiles_are_what_was_encoded(tmp_path, dtype, bands):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 250, (bands, 9, 14)).astype(dtype)
    valid = rng.random((9, 14)) < 0.8
    content = encode_geotiff(image, valid)
    (tmp_path / "blob").write_bytes(b"x" * 100 + content + b"y" * 7)
    path = Member(tmp_path / "blob", 100, len(content)).path
    found, found_valid = read_window(path, bands=bands)
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(found_valid, valid)
    found, _ = read_window(path, Window(2, 3, 4, 5), size=8)
    np.testing.assert_array_equal(found[:, :4, :5], image[:, 2:6, 3:8])
    with rasterio.open(io.BytesIO(content)) as source:
        assert source.count == bands


def test_members_have_names_like_files(tmp_path):
    (tmp_path / "a,b.tar").write_bytes(b"0123456789")
    member = Member(tmp_path / "a,b.tar", 3, 4)
    assert member_of(member.path) == member == member_of(str(member.path))
    assert member.read() == b"3456"
    assert file_behind(member.path) == tmp_path / "a,b.tar"
    assert member_of(tmp_path / "a.tif") is None
    assert file_behind(tmp_path / "a.tif") == tmp_path / "a.tif"


def test_what_stands_beside_a_file_goes_into_its_tile(world, tmp_path):
    (world.folder / "photo.png").parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(world.folder / "photo.png")
    (world.folder / "photo.pgw").write_text("2\n0\n0\n-2\n101\n199\n")
    row = {"tile_id": "photo", "split": "unlabeled", "image": str(world.folder / "photo.png"), "mask": None, "row": 0,
           "col": 0, "height": 8, "width": 8, "group": "", "crs": "", "valid_share": 1.0}  # fmt: skip
    packed = pack_tiles(pd.DataFrame([row]), tmp_path, ShardingConfig(), bands=3)
    assert describe(Path(packed.index["image"][0])).transform == (2.0, 0.0, 100.0, 0.0, -2.0, 200.0)


@pytest.mark.parametrize("options", [{"tiles_per_shard": 0}, {"tiles_per_shard": 1.5}, {"compress": "jpeg"}])
def test_settings_out_of_range_name_the_key(options):
    with pytest.raises(ValueError, match=rf"sharding\.{next(iter(options))}"):
        ShardingConfig(**options)


def test_a_split_without_tiles_is_refused(ingested, tmp_path):
    with pytest.raises(ValueError, match="'test' has no tiles"):
        pack(ingested, tmp_path, split="test")
    with pytest.raises(FileNotFoundError, match="no index of shards"):
        read_index(tmp_path)
