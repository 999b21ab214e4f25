"""Scoring in parts ends with the same files, whoever was killed when and however many took part."""

import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from s5.engine import ComputeConfig
from s5.engine.compute import share_of
from s5.selection import PartDone, ScoringConfig, score_in_parts, score_tiles, scoring_key
from s5.selection.on_ray import RayBackend
from s5.types import BandStatistics, LabelSpace

LABELS = LabelSpace(("field", "forest"))
STATISTICS = BandStatistics(("red", "nir"), (0.0, 0.0), (255.0, 255.0), (0.5, 0.4), (0.2, 0.3))
CONFIG = ScoringConfig(batch_size=3, tiles_per_part=5, device="cpu", precision="fp32")  # parts of 6


class Tiles:
    def __init__(self, num: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (num, 2, 8, 8)).astype(np.uint8)
        self.tile_ids = [f"scene:{i}" for i in range(num)]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int):
        return self.images[index], np.zeros((8, 8), np.uint8), np.ones((8, 8), bool)


class Net(nn.Module):
    """A linear head; killed after a number of passes where that is asked for."""

    def __init__(self, killed_after: int = 10**9) -> None:
        super().__init__()
        self.head = nn.Conv2d(2, 2, 1)
        self.left, self.passes = killed_after, 0
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(0)))
            self.head.bias.zero_()

    def forward_with_embedding(self, x: torch.Tensor):
        self.passes += 1
        if self.passes > self.left:
            raise KeyboardInterrupt
        return self.head(x), x.float().mean(dim=(2, 3))


def score(folder, model=None, num=40, **options):
    return score_in_parts(model or Net(), Tiles(num), STATISTICS, LABELS, CONFIG, folder, **options)


def assert_same(found, num=40):
    scores, embeddings = score_tiles(Net(), Tiles(num), STATISTICS, LABELS, CONFIG)
    pd.testing.assert_frame_equal(found[0], scores)
    np.testing.assert_array_equal(found[1], embeddings)
    assert found[1].dtype == np.float16
    assert isinstance(found[1], np.memmap)


@pytest.mark.parametrize("num", [1, 6, 40, 42])
def test_parts_together_are_the_whole(tmp_path, num):
    assert_same(score(tmp_path, num=num), num)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["embeddings.npy", *(f"part-{i:06d}.npz" for i in range(-(-num // 6)))]


def test_no_tiles(tmp_path):
    scores, embeddings = score(tmp_path, num=0)
    assert len(scores) == len(embeddings) == 0


def test_killed_anywhere_and_resumed_leaves_the_same_files(tmp_path):
    score(tmp_path / "whole")
    expected = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    rng = np.random.default_rng(1)
    for trial in range(6):
        folder, passes = tmp_path / f"killed{trial}", 0
        for _ in range(50):
            model = Net(killed_after=int(rng.integers(0, 9)))
            try:
                found = score(folder, model)
            except KeyboardInterrupt:
                passes += model.passes - 1
            else:
                passes += model.passes
                break
        assert_same(found)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == expected
    assert Net().passes == 0


def test_what_is_there_is_not_computed_again(tmp_path):
    score(tmp_path)
    model = Net(killed_after=0)
    assert_same(score(tmp_path, model))
    (tmp_path / "part-000003.npz").unlink()
    model = Net()
    assert_same(score(tmp_path, model))
    assert model.passes == 2


def test_many_hosts_divide_the_parts_and_the_last_puts_them_together(tmp_path):
    models = [Net() for _ in range(3)]
    for number, model in enumerate(models[:2]):
        with pytest.raises(PartDone, match=rf"part {number + 1}/3 is done"):
            score(tmp_path, model, share=(number, 3))
    assert_same(score(tmp_path, models[2], share=(2, 3)))
    assert [model.passes for model in models] == [6, 4, 4]  # 7 parts: 3 + 2 + 2, of 2 batches, the last of 2 as well


def test_two_jobs_on_one_folder_do_not_corrupt_it(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: score(tmp_path), range(3)):
            assert_same(found)
    assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_part_is_computed_again(tmp_path, damage):
    score(tmp_path)
    path = tmp_path / "part-000002.npz"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 255
    path.write_bytes({"cut": content[:-30], "flipped": content, "empty": b""}[damage])
    assert_same(score(tmp_path))


def test_parts_of_other_tiles_are_refused(tmp_path):
    score(tmp_path, num=12)
    other = Tiles(12)
    other.tile_ids = [f"other:{i}" for i in range(12)]
    with pytest.raises(ValueError, match="scores of other tiles"):
        score_in_parts(Net(), other, STATISTICS, LABELS, CONFIG, tmp_path)


def test_the_key_changes_with_what_scores_depend_on():
    keys = {
        scoring_key("data", "model", CONFIG, "fp32"),
        scoring_key("other", "model", CONFIG, "fp32"),
        scoring_key("data", "other", CONFIG, "fp32"),
        scoring_key("data", "model", CONFIG, "bf16"),
        scoring_key("data", "model", ScoringConfig(batch_size=6, tiles_per_part=5), "fp32"),
    }
    assert len(keys) == 5


def test_a_part_of_the_work_is_a_number_of_so_many():
    assert share_of(ComputeConfig(part="3/16").part) == (2, 16)
    assert share_of(ComputeConfig().part) == (0, 1)
    for part in ("0/4", "5/4", "3", "a/b", "3/"):
        with pytest.raises(ValueError, match=r"compute\.part"):
            ComputeConfig(part=part)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


@pytest.mark.slow  # Ray takes 20 s to start
@pytest.mark.filterwarnings("ignore")  # of Ray, about itself and about what it leaves open
def test_ray_writes_the_files_of_the_local_backend(tmp_path):
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its processes cannot import a test
    expected = score(tmp_path / "local")
    found = score(tmp_path / "ray", backend=RayBackend(scorers=2))
    assert not ray.is_initialized()
    pd.testing.assert_frame_equal(found[0], expected[0])
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)  # a cluster that is there already
    try:
        (tmp_path / "ray" / "part-000004.npz").unlink()
        score(tmp_path / "ray", backend=RayBackend(scorers=2))
        assert ray.is_initialized()
        assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    finally:
        ray.shutdown()


def test_a_backend_is_called_with_what_is_missing(tmp_path):
    called = []

    def backend(scorer, numbers):
        called.append(list(numbers))
        for number in reversed(numbers):
            pickle.loads(pickle.dumps(scorer))([number])

    assert_same(score(tmp_path / "a", backend=backend))
    score(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (tmp_path / "a" / "part-000005.npz").unlink()
    score(tmp_path / "a", backend=backend)
    score(tmp_path / "a", backend=backend)
    assert called == [list(range(7)), [5]]


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r"compute\.backend: 'ray' needs the extra s5\[ray\].*or use 'local'"):
        score(tmp_path, backend=RayBackend())
    with pytest.raises(ValueError, match=r"compute\.backend: expected 'local' or 'ray', got 'dask'"):
        ComputeConfig(backend="dask")


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from s5.selection import ScoringConfig, score_in_parts
from s5.types import BandStatistics, LabelSpace

class Tiles:
    images = np.random.default_rng(0).integers(0, 256, (640, 2, 8, 8)).astype(np.uint8)
    tile_ids = [f"scene:{i}" for i in range(640)]
    def __len__(self): return 640
    def read(self, index): return self.images[index], np.zeros((8, 8), np.uint8), np.ones((8, 8), bool)

class Net(nn.Module):
    def forward_with_embedding(self, x):
        time.sleep(0.004)
        return x.float(), x.float().mean(dim=(2, 3))

print("ready", flush=True)
statistics = BandStatistics(("red", "nir"), (0.0, 0.0), (255.0, 255.0), (0.5, 0.4), (0.2, 0.3))
config = ScoringConfig(batch_size=4, tiles_per_part=8, device="cpu", precision="fp32")
score_in_parts(Net(), Tiles(), statistics, LabelSpace(("field", "forest")), config, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_processes_killed_at_random_and_two_at_once_leave_the_same_files(tmp_path):
    def start(folder):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE)
        with process.stdout as said:
            assert said.readline() == b"ready\n"
        return process

    assert start(tmp_path / "whole").wait() == 0
    expected = contents(tmp_path / "whole")
    assert len(expected) == 81
    rng, kills, folder = np.random.default_rng(0), 0, tmp_path / "killed"
    while True:
        both = [start(folder), start(folder)]
        time.sleep(float(rng.uniform(0, 0.5)))
        both[int(rng.integers(2))].kill()
        kills += 1
        time.sleep(float(rng.uniform(0, 0.3)))
        if kills < 6:
            for process in both:
                process.kill()
        codes = [process.wait() for process in both]
        if 0 in codes:
            break
    assert contents(folder) == expected
    assert kills >= 1
