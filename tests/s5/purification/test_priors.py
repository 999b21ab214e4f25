"""Each tile is asked about exactly once, whatever is killed, copied or added."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from s5.data.loader import TilesWithMaps, read_batch
from s5.purification.config import FitConfig, PriorConfig
from s5.purification.priors import GroundedTiles, ground_tiles, open_priors, visible_images
from s5.types import BandStatistics

CLASSES = ("a", "b", "c")
STATISTICS = BandStatistics(("red", "green", "blue"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
CONFIG = PriorConfig(batch_size=2, tiles_per_part=4)


class Tiles:
    def __init__(self, ids: list[int], seed: int = 0) -> None:
        self.tile_ids, self.seed = [f"tile_{i}" for i in ids], seed
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.random.default_rng([self.seed, self._ids[index]]).integers(0, 256, (3, 8, 8)).astype(np.uint8)
        return image, np.zeros((8, 8), np.uint8), np.ones((8, 8), bool)


class Counting:
    """Evidence that spells the image; every image that it is asked about is counted."""

    def __init__(self, version: str = "1", *, killed_after: int = 10**9, channels: int = 4) -> None:
        self.key = {"model": "counting", "version": version}
        self.asked: list[int] = []
        self.killed_after, self.channels = killed_after, channels

    def ground(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if len(self.asked) >= self.killed_after:
            raise KeyboardInterrupt
        assert images_BCHW.dtype == torch.uint8
        self.asked += [int(image.long().sum()) for image in images_BCHW]
        return expected(images_BCHW)[:, : self.channels]


def expected(images: torch.Tensor) -> torch.Tensor:
    return torch.cat([images[:, :, ::2, ::2].float() / 255, torch.zeros(len(images), 1, 4, 4)], 1)


def ground(folder: Path, tiles: Tiles, grounder: Counting) -> GroundedTiles:
    return ground_tiles(tiles, grounder, STATISTICS, folder, CONFIG, classes=CLASSES)


def test_each_image_is_asked_about_once_and_its_evidence_comes_back(tmp_path: Path) -> None:
    tiles, grounder = Tiles(list(range(10))), Counting()
    found = ground(tmp_path, tiles, grounder)
    assert len(grounder.asked) == len(set(grounder.asked)) == found.asked == 10
    again = ground(tmp_path, tiles, grounder)
    assert (again.asked, len(grounder.asked)) == (0, 10)
    assert again.file == found.file
    priors = pickle.loads(pickle.dumps(open_priors(found.file, tiles.tile_ids[::-1])))
    for place, index in enumerate(reversed(range(10))):
        maps = expected(torch.from_numpy(tiles.read(index)[0])[None])[0]
        assert np.array_equal(priors.read_maps(place), (maps * 255).round().to(torch.uint8).numpy())


def test_a_batch_carries_the_maps_of_its_tiles(tmp_path: Path) -> None:
    tiles = Tiles([3, 1, 2])
    priors = open_priors(ground(tmp_path, tiles, Counting()).file, tiles.tile_ids)
    batch = read_batch(TilesWithMaps(tiles, priors), [2, 0])
    assert batch.maps is not None
    assert torch.equal(batch.maps, (expected(batch.images) * 255).round().to(torch.uint8))
    assert torch.equal(batch.part(1, 2).maps, batch.maps[1:2])  # type: ignore[arg-type]
    assert read_batch(tiles, [0]).maps is None


def test_a_killed_run_goes_on_and_parts_that_are_whole_are_not_asked_again(tmp_path: Path) -> None:
    tiles, dying = Tiles(list(range(10))), Counting(killed_after=6)
    with pytest.raises(KeyboardInterrupt):
        ground(tmp_path, tiles, dying)
    assert len(dying.asked) == 6  # one part of 4 is whole, and 2 of the next are lost with it
    rest = Counting()
    found = ground(tmp_path, tiles, rest)
    assert found.asked == len(rest.asked) == 6
    assert not set(dying.asked[:4]) & set(rest.asked)
    whole = ground(tmp_path / "whole", tiles, Counting())
    columns = [column for column in whole.index if column != "seconds"]
    assert whole.index[columns].equals(found.index[columns])


def test_more_tiles_other_pixels_and_other_models_are_asked_and_nothing_else(tmp_path: Path) -> None:
    grounder = Counting()
    ground(tmp_path, Tiles([0, 1, 2]), grounder)
    assert ground(tmp_path, Tiles([2, 7, 0]), grounder).asked == 1
    other = ground(tmp_path, Tiles([0], seed=5), grounder)  # the same id, another image
    assert other.asked == 1
    assert open_priors(other.file, ["tile_0"]).read_maps(0).sum() != 0
    newer = ground(tmp_path, Tiles([0, 1, 2]), Counting("2"))
    assert newer.asked == 3 and newer.folder != other.folder


def test_a_part_that_is_cut_short_is_asked_again(tmp_path: Path) -> None:
    tiles = Tiles(list(range(6)))
    part = next(iter(sorted(ground(tmp_path, tiles, Counting()).folder.glob("*.bin"))))
    part.write_bytes(part.read_bytes()[:-3])
    assert 0 < ground(tmp_path, tiles, Counting()).asked < 6


def test_priors_made_elsewhere_are_a_folder_to_copy(tmp_path: Path) -> None:
    tiles = Tiles(list(range(5)))
    there = ground(tmp_path / "there", tiles, Counting())
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    asked = Counting()
    here = ground(tmp_path / "here", tiles, asked)
    assert asked.asked == [] and here.file.name == there.file.name
    assert np.array_equal(
        open_priors(here.file, ["tile_4"]).read_maps(0), open_priors(there.file, ["tile_4"]).read_maps(0)
    )
    with pytest.raises(ValueError, match=r"1 of 2 tiles have no prior \(first: 'tile_9'\)"):
        open_priors(here.file, ["tile_0", "tile_9"])
    with pytest.raises(FileNotFoundError, match=r"there are no priors; make them with kedro run --pipelines=purif"):
        open_priors(tmp_path / "nowhere.parquet", ["tile_0"])


def test_damage_and_wrong_answers_are_named(tmp_path: Path) -> None:
    tiles = Tiles([0, 1])
    found = ground(tmp_path, tiles, Counting())
    part = next(iter(found.folder.glob("*.bin")))
    part.write_bytes(b"\0" * part.stat().st_size)
    with pytest.raises(ValueError, match=r"part-.*\.bin: the evidence at byte 0 cannot be read"):
        open_priors(found.file, ["tile_0"]).read_maps(0)
    with pytest.raises(ValueError, match=r"expected evidence \[2, 4, h, w\] .* got \(2, 3, 4, 4\)"):
        ground(tmp_path / "other", tiles, Counting(channels=3))


def test_bands_of_any_type_become_rgb() -> None:
    statistics = BandStatistics(
        ("nir", "blue", "green", "red"), (0.0,) * 4, (1.0, 2.0, 4.0, 8.0), (0.5,) * 4, (1.0,) * 4
    )
    images = torch.tensor([0.5, 1.0, 1.0, 8.0])[None, :, None, None]
    assert visible_images(images, statistics).flatten().tolist() == [255, 64, 128]
    eight = torch.arange(4, dtype=torch.uint8)[None, :, None, None]
    assert visible_images(eight, statistics).flatten().tolist() == [3, 2, 1]
    one = BandStatistics(("pan",), (0.0,), (255.0,), (0.5,), (1.0,))
    assert visible_images(eight[:, :1] + 9, one).flatten().tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PriorConfig(batch_size=0), r"batch_size: expected a whole number of at least 1, got 0"),
        (lambda: PriorConfig(tiles_per_part=0), r"tiles_per_part: .* got 0"),
        (lambda: FitConfig(split="test"), r"fit\.split: expected 'val' or 'labeled', got 'test'"),
        (lambda: FitConfig(pixels_per_tile=0), r"fit\.pixels_per_tile: .* got 0"),
    ],
)
def test_ranges(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
