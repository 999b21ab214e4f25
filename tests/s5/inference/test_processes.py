"""A scene mapped by several processes is the same scene, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch

from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.inference import BlendGrid, SceneConfig, SceneModel, map_scene
from s5.inference import processes as processes_module
from s5.inference.processes import StripJob, run_in_processes

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
SMALL = SceneConfig(window=200, overlap=16, margin=3, batch_size=3, entropy=True, polygons=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}


def test_two_processes_write_the_map_of_one(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    """Also where blocks of the scene are damaged, one in the part of each process."""
    image = write_scene(1100, 300, hole=False)
    with rasterio.open(image) as file:
        offsets = [int(file.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1)) for row in (0, 4)]
    content = bytearray(image.read_bytes())
    for offset in offsets:
        content[offset : offset + 2000] = bytes(2000)
    image.write_bytes(content)
    one = map_scene(image, tmp_path / "one", scene_model, SMALL, CPU)
    two = map_scene(image, tmp_path / "two", scene_model, SMALL, replace(CPU, devices=2))
    assert contents(two.folder) == contents(one.folder)
    assert two.damaged == one.damaged
    assert [block.row for block in two.damaged] == [0, 1024]
    assert two.notes == one.notes


@pytest.mark.slow  # two more processes that import everything
def test_a_process_that_fails_is_told_of_and_what_is_done_is_kept(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    nothing = replace(scene_model, network=torch.nn.Conv2d(3, 4, 1))
    torch.nn.init.constant_(nothing.network.bias, float("nan"))
    with pytest.raises(OSError, match=r"scene\.tif: process \d of 2 failed \(FloatingPointError: scene: the network"):
        map_scene(write_scene(400, 60), tmp_path / "out", nothing, SMALL, replace(CPU, devices=2))
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []


def test_shares_are_runs_of_neighbours_that_make_up_the_whole(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(500, 60)
    grid = BlendGrid(500, 60, 48, 16, 3)
    job = StripJob(image, tmp_path / "s", grid, scene_model.network, scene_model.statistics, 4, 1.0, SMALL)
    seen: list[str] = []
    for share in range(4):
        job.run(resolve_compute(CPU), (share, 4))
        new = sorted({path.name for path in (tmp_path / "s").glob("strip_*")} - set(seen))
        assert len(new) in (len(grid.strips) // 4, len(grid.strips) // 4 + 1)
        seen += new
    assert seen == [f"strip_{number:05d}.tif" for number in range(len(grid.strips))]


def test_nothing_is_started_where_nothing_is_to_be_done(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(processes_module, "spawn", refuse)
    image = write_scene(500, 60)
    job = StripJob(
        image, tmp_path / "s", BlendGrid(500, 60, 48, 16, 3), scene_model.network, scene_model.statistics, 4, 1.0, SMALL
    )
    job.run(resolve_compute(CPU))
    strips, _ = run_in_processes(job, replace(CPU, devices=2), resolve_compute(CPU))
    assert len(strips) == len(job.grid.strips)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    here = Compute(torch.device("cuda", 0), "bf16")
    with pytest.raises(ValueError, match=r"compute\.devices: 4 processes were asked for, this machine has 2 GPUs"):
        processes_module._check_gpus(ComputeConfig(devices=4), here)
    processes_module._check_gpus(ComputeConfig(devices=4, device="cuda:0"), here)  # all on one, as asked for
