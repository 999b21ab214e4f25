"""A checkpoint is whole or it is not taken."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from s5.engine import Checkpoints
from s5.files import sha256_of


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_one_is_taken_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (2, 4, 10):
        checkpoints.save(step, {"x": torch.tensor([step]), "rows": [{"a": 1.5}]})
    assert names(tmp_path) == ["step_10", "step_4"]
    assert names(tmp_path / "step_10") == ["manifest.json", "state.json", "tensors.safetensors"]
    step, state = Checkpoints(tmp_path).load_last()
    assert step == 10 and state["x"].item() == 10 and state["rows"] == [{"a": 1.5}]


def test_the_best_one_stays_beside_the_last_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 2), (6, 6), (7, 6)):
        checkpoints.save(step, {"x": torch.zeros(1)}, best=best)
        if step == 5:
            assert names(tmp_path) == ["step_2", "step_4", "step_5"]
    assert names(tmp_path) == ["step_6", "step_7"]


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    tied = torch.rand(3)
    state = {
        "numbers": [1, -2.5, 0.1 + 0.2, 1e-310, float("inf"), float("-inf"), 2**63, True, None, "ä"],
        "by_number": {0: {"exp": torch.rand(2)}, 7: {"step": torch.tensor(3.0)}},
        "group": {"betas": (0.9, 0.999), "$odd": {"$tensor": "no tensor"}},
        "kinds": [torch.tensor([v], dtype=d) for v, d in ((1, torch.int64), (1, torch.bool), (0.5, torch.bfloat16))],
        "tied": [tied, tied, tied[:2]],
        "a": {"b": torch.zeros(1)},
        "a/b": torch.ones(1),
        "empty": [torch.zeros(0, 4), {}, []],
    }
    Checkpoints(tmp_path).save(1, state)
    _, found = Checkpoints(tmp_path).load_last()
    assert repr(found) == repr(state)  # repr of a float is exact, and that of a tensor here too: few, short, made here
    assert torch.equal(found["tied"][0], tied)
    assert found["by_number"][7]["step"].shape == ()

    Checkpoints(tmp_path).save(2, {"nan": float("nan"), "tensor": torch.tensor([float("nan"), -0.0])})
    _, found = Checkpoints(tmp_path).load_last()
    assert found["nan"] != found["nan"]
    assert str(found["tensor"].tolist()) == "[nan, -0.0]"


def test_tensors_keep_their_layout(tmp_path: Path) -> None:
    """A fused optimiser walks through weights and moments side by side, in memory's order."""
    made = {
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one_pixel": torch.rand(4, 3, 1, 1).to(memory_format=torch.channels_last),
        "turned": torch.rand(3, 4).T,
        "gaps": torch.rand(4, 6)[:, ::2],
        "expanded": torch.rand(1, 3).expand(4, 3),
    }
    Checkpoints(tmp_path).save(1, made)
    _, found = Checkpoints(tmp_path).load_last()
    assert all(torch.equal(found[name], made[name]) for name in made)
    for name in ("channels_last", "one_pixel", "turned"):
        assert found[name].stride() == made[name].stride()


def test_an_optimizer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            net(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)).to(memory_format=torch.channels_last)
        return net, torch.optim.AdamW(net.parameters(), fused=True)

    net, optimizer = make()
    train(net, optimizer, range(3))
    Checkpoints(tmp_path).save(3, {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    train(net, optimizer, range(3, 6))

    again, optimizer_again = make()
    _, state = Checkpoints(tmp_path).load_last()
    again.load_state_dict(state["net"])
    optimizer_again.load_state_dict(state["optimizer"])
    train(again, optimizer_again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("value", [object(), {1, 2}, {(1, 2): 3}, Path("x")])
def test_a_state_that_is_no_data_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"state/method/x is a \w+; expected tensors, numbers"):
        Checkpoints(tmp_path).save(1, {"method": {"x": value}})
    assert names(tmp_path) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def reseal(path: Path) -> None:
    """Make the manifest fit what lies beside it."""
    manifest = {"step": 2, "files": {}}
    for name in ("tensors.safetensors", "state.json"):
        manifest["files"][name] = {"bytes": (path / name).stat().st_size, "sha256": sha256_of(path / name)}
    (path / "manifest.json").write_text(json.dumps(manifest))


def garbage(path: Path) -> None:
    (path / "state.json").write_text("{ no json")
    reseal(path)


def no_tensors(path: Path) -> None:
    (path / "tensors.safetensors").write_bytes(b"\xff" * 100)
    reseal(path)


def other_tensor(path: Path) -> None:
    (path / "state.json").write_text('{"x":{"$tensor":"state/y"}}')
    reseal(path)


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def renamed(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.with_name("step_1"), path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated_tensors": (lambda p: cut(p / "tensors.safetensors"), "tensors.safetensors has .* bytes, .* cut short"),
    "truncated_state": (lambda p: cut(p / "state.json"), "state.json has .* bytes, expected .* cut short"),
    "flipped_bit": (lambda p: flip(p / "tensors.safetensors"), "tensors.safetensors has another SHA-256 .* damaged"),
    "flipped_bit_of_state": (lambda p: flip(p / "state.json"), "state.json has another SHA-256"),
    "no_manifest": (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing: it was not written to its"),
    "unreadable_manifest": (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is not JSON"),
    "binary_manifest": (lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is not JSON"),
    "list_for_manifest": (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json holds a list"),
    "poor_manifest": (lambda p: (p / "manifest.json").write_text("{}"), "'step'"),
    "no_tensors": (lambda p: (p / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
    "empty_folder": (emptied, "manifest.json is missing"),
    "of_another_step": (renamed, "manifest.json is that of step 1"),
    "unreadable_state": (garbage, "state.json is not JSON"),
    "tensors_that_are_none": (no_tensors, "[Ii]nvalid|header"),
    "a_tensor_that_is_not_there": (other_tensor, "state/y"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_skipped_aloud(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    do, reason = DAMAGE[damage]
    for step in (1, 2):
        Checkpoints(tmp_path, keep=3).save(step, {"x": torch.arange(100), "rows": [0.5] * 20})
    do(tmp_path / "step_2")
    with caplog.at_level(logging.WARNING):
        step, state = Checkpoints(tmp_path).load_last()
    assert step == 1 and torch.equal(state["x"], torch.arange(100))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"Checkpoint {tmp_path / 'step_2'} is skipped: ")
    assert re.search(reason, record.getMessage())


def test_none_that_is_whole_is_a_start_from_0_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        Checkpoints(tmp_path).save(step, {"x": torch.arange(3)})
        cut(tmp_path / f"step_{step}" / "state.json")
    assert Checkpoints(tmp_path).load_last() is None
    assert [record.getMessage().split(":")[0].split("/")[-1] for record in caplog.records[:2]] == [
        "step_2 is skipped",
        "step_1 is skipped",
    ]
    assert "starting again from step 0" in caplog.records[2].getMessage()


def test_nothing_there_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Checkpoints(tmp_path / "nowhere").load_last() is None
    assert not caplog.records


def test_a_skipped_one_takes_no_place_of_a_whole_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        Checkpoints(tmp_path, keep=3).save(step, {"x": torch.zeros(1)})
    for step in (2, 3):
        cut(tmp_path / f"step_{step}" / "state.json")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.load_last()[0] == 1
    checkpoints.save(2, {"x": torch.ones(1)})  # in the place of a damaged one
    assert names(tmp_path) == ["step_1", "step_2"]
    assert Checkpoints(tmp_path).load_last()[1]["x"].item() == 1


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "checkpoints"
    Checkpoints(folder).save(2, {"x": torch.zeros(1)})
    for name in ("state.pt", "tensors.safetensors"):
        torch.save({"x": Evil()}, folder / "step_2" / name)
    reseal(folder / "step_2")
    assert Checkpoints(folder).load_last() is None
    assert not (tmp_path / "ran").exists()


def test_what_a_killed_process_left_is_not_taken_and_swept_away(tmp_path: Path) -> None:
    whole = Checkpoints(tmp_path / "a").save(7, {"x": torch.zeros(1)})
    folder = tmp_path / "b"
    shutil.copytree(whole, folder / ".step_7.tmp")  # all but the renaming
    (folder / ".step_3.tmp").mkdir()
    assert Checkpoints(folder).load_last() is None
    Checkpoints(folder).save(8, {"x": torch.zeros(1)})
    assert names(folder) == ["step_8"]


class PowerCut(BaseException):
    """Nothing runs after it."""


def test_a_power_cut_at_any_moment_leaves_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends before the n-th change of the disk, for every n; nothing of its own cleans up."""
    calls = 0

    def count(change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= last:
                raise PowerCut
            return change(*args, **kwargs)

        return counted

    for module, name in (
        (Path, "rename"),
        (Path, "mkdir"),
        (Path, "write_text"),
        (os, "fsync"),
        (os, "unlink"),
        (os, "rmdir"),
        (shutil, "rmtree"),
        (safetensors.torch, "save_file"),
    ):
        monkeypatch.setattr(module, name, count(getattr(module, name)))
    moments = 0
    for moment in range(1, 100):
        folder = tmp_path / str(moment)
        last = 1_000_000
        checkpoints = Checkpoints(folder, keep=1)
        checkpoints.save(1, {"x": torch.full((1000,), 1)})
        calls, last = 0, moment
        try:
            checkpoints.save(2, {"x": torch.full((1000,), 2)})
        except PowerCut:
            moments += 1
        else:
            break
        finally:
            last = 1_000_000
        step, state = Checkpoints(folder).load_last()
        assert step in (1, 2)
        assert state["x"].unique().tolist() == [step]
    assert moments > 10


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A disk that is full for whoever writes more: the kernel refuses, with half of the file written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_and_leaves_the_others(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, {"x": torch.zeros(10)})
    with no_file_larger_than(1 << 20), pytest.raises(OSError, match=r"tensors\.safetensors: .*too large"):
        Checkpoints(tmp_path).save(2, {"x": torch.zeros(1_000_000)})
    assert names(tmp_path) == ["step_1"]
    with no_file_larger_than(1 << 12), pytest.raises(OSError, match="too large"):
        Checkpoints(tmp_path).save(2, {"x": torch.zeros(1), "rows": [0.5] * 10_000})
    assert names(tmp_path) == ["step_1"]
    assert Checkpoints(tmp_path).load_last()[0] == 1
