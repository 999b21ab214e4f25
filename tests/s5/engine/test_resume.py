"""A training process that is killed, again and again, ends as the one that never was: bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s5.data.loader import SegmentationData
from s5.engine import Checkpoints, ComputeConfig
from s5.models import ModelConfig
from s5.semisup import S4PConfig, pretrain_s4p

MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)
CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)


def arguments(data: SegmentationData, steps: int, **config: Any) -> dict[str, Any]:
    """S4P with all that could remember: dropout, a moving threshold, an average, moments, validation, a strong view."""
    return {
        "data": data,
        "pool_ids": [f"unlabeled_{i}" for i in range(6)],
        "model": replace(MODEL, dropout=0.2),
        "config": S4PConfig(
            steps=steps,
            batch_size=2,
            unlabeled_batch_size=2,
            init=None,
            pseudo_labels={"tau": 0.4, "threshold": "per_class"},
            optimizer={"lr": 3e-3},
            augmentation={"crop": 32},
            validate_every=7,
            checkpoint_every=2,
            log_every=3,
            **config,
        ),
        "compute": CPU,
        "name": "s4p_model",
        "seed": 3,
    }


def newest(folder: Path) -> int:
    """The last step with a checkpoint; 0 without."""
    return max((step for path in folder.glob("*/checkpoints") for step in Checkpoints(path).steps()), default=0)


def is_writing(folder: Path) -> bool:
    return any(folder.glob("*/checkpoints/.step_*.tmp"))


def wait_for(what: Callable[[], bool], process: Any) -> None:
    while not what():
        assert process.is_alive(), f"it ended before it could be killed (exit code {process.exitcode})"
        time.sleep(0.0005)


def train_and_kill(kwargs: dict[str, Any], project: Path, *, kills: int, draw: random.Random) -> list[int]:
    """Start the training and kill it, `kills` times; returns the checkpoints that it must have gone on from."""
    # Forked from a process that has imported everything and trained nothing, so that a start takes no seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["s5.semisup", "s5.geo.raster", "s5.data.tiles"])
    folder = project / "data" / "06_models" / "s4p_model"
    last, starts = kwargs["config"].steps - 8, []  # far enough from the end for the slowest killer
    for kill in range(kills):
        process = context.Process(target=pretrain_s4p, kwargs={**kwargs, "project": project})
        process.start()
        # Somewhere in the next part of the way: at a step, or as soon as a checkpoint is being written after it.
        step = draw.randint(1 + last * kill // kills, last * (kill + 1) // kills)
        wait_for(lambda step=step: newest(folder) >= step - 1, process)
        if kill % 2:
            wait_for(lambda: is_writing(folder), process)
        else:
            time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for checkpoints in folder.glob("*/checkpoints"):  # none yet where it was killed before the first one
            found = Checkpoints(checkpoints).load_last()
            starts += [found[0]] if found else []
    return starts


@pytest.mark.parametrize(
    ("kills", "steps"), [(3, 18), pytest.param(10, 80, marks=pytest.mark.slow)], ids=["three_kills", "ten_kills"]
)
def test_killed_and_resumed_is_bit_identical(
    tiny_data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, steps: int
) -> None:
    kwargs = arguments(tiny_data, steps)
    starts = train_and_kill(kwargs, tmp_path / "killed", kills=kills, draw=random.Random(kills))
    assert starts

    monkeypatch.setattr("s5.engine.training.shutil.rmtree", lambda *_, **__: None)  # the last checkpoints stay to see
    resumed = pretrain_s4p(**kwargs, project=tmp_path / "killed")
    whole = pretrain_s4p(**kwargs, project=tmp_path / "whole")
    assert resumed.pointer["resumed_from"] == starts
    assert whole.pointer["resumed_from"] == []
    assert resumed.pointer["sha256"] == whole.pointer["sha256"]  # the averaged weights of the best validation
    assert repr(resumed.history) == repr(whole.history)  # NaN is not equal to itself
    assert [row["step"] for row in resumed.history] == list(range(steps))
    differ(resumed.pointer, whole.pointer, only={"resumed_from"})

    # Network, average, moments of the optimiser, thresholds and best weights as they were near the end, byte for byte.
    ends = [next(iter((tmp_path / run).glob("data/06_models/*/*/checkpoints"))) for run in ("killed", "whole")]
    last = max(Checkpoints(ends[1]).steps())
    assert Checkpoints(ends[0]).steps()[-2:] == Checkpoints(ends[1]).steps()[-2:]
    tensors = [(end / f"step_{last}" / "tensors.safetensors").read_bytes() for end in ends]
    assert tensors[0] == tensors[1]
    rest = [json.loads((end / f"step_{last}" / "state.json").read_text()) for end in ends]
    assert rest[0]["fit"].pop("resumed_from") == starts and rest[1]["fit"].pop("resumed_from") == []
    assert rest[0] == rest[1]


def differ(one: dict[str, Any], other: dict[str, Any], *, only: set[str]) -> None:
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == only


def test_who_reads_changes_nothing(tiny_data: SegmentationData, tmp_path: Path) -> None:
    kwargs = arguments(tiny_data, 8)
    one, *others = [
        pretrain_s4p(**{**kwargs, "compute": replace(CPU, **readers)}, project=tmp_path / str(readers))
        for readers in ({"read_threads": 1}, {"read_threads": 3}, {"read_processes": 2})
    ]
    for other in others:
        assert other.pointer == one.pointer
        assert repr(other.history) == repr(one.history)


def test_a_run_begun_elsewhere_keeps_its_precision_and_how_often_it_is_saved_may_change(
    tiny_data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s5.semisup.s4p import S4P

    def begun(precision: str) -> None:
        fast = {"bf16": True, "fp32": False}[precision]
        monkeypatch.setattr("s5.engine.compute.has_fast_bf16", lambda device: fast)

    def stops(self: S4P, number: int, batches: Any) -> Any:
        if number == 5:
            raise RuntimeError("killed")
        return step(self, number, batches)

    auto = {**arguments(tiny_data, 8), "compute": replace(CPU, precision="auto"), "project": tmp_path}
    begun("bf16")
    step = S4P.step
    monkeypatch.setattr(S4P, "step", stops)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain_s4p(**auto)
    monkeypatch.setattr(S4P, "step", step)
    begun("fp32")
    changed = {**auto, "config": replace(auto["config"], checkpoint_every=3, keep=1)}
    resumed = pretrain_s4p(**changed)
    assert resumed.pointer["resumed_from"] == [4]
    assert resumed.pointer["config"]["precision"] == "bf16"
    fresh = pretrain_s4p(**auto)
    assert fresh.pointer["resumed_from"] == []
    assert fresh.pointer["config"]["precision"] == "fp32"
    assert fresh.pointer["path"] != resumed.pointer["path"]
