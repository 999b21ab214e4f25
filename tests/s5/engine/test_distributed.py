"""Two processes on gloo against one: the same losses, the same weights, and errors that come out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from s5.data.loader import SegmentationData
from s5.engine import BatchPlaces, Checkpoints, Compute, ComputeConfig, Group, Interrupted
from s5.engine.jobs import read_job, write_job
from s5.models import ModelConfig, SegmentationModel
from s5.seeds import step_draws
from s5.semisup import S4PConfig, pretrain_s4p

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
TWO = replace(CPU, devices=2)
CNN = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8, dropout=0.0)
VIT = ModelConfig(
    encoder="s5_vit",
    decoder="light",
    decoder_channels=8,
    dropout=0.0,
    image_size=32,
    encoder_options={"width": 24, "depth": 4, "heads": 2},
)


def arguments(data: SegmentationData, project: Path, steps: int, **config: Any) -> dict[str, Any]:
    return {
        "data": data,
        "pool_ids": [f"unlabeled_{i}" for i in range(6)],
        "model": CNN,
        "config": S4PConfig(
            **{
                "steps": steps,
                "batch_size": 4,
                "unlabeled_batch_size": 4,
                "init": None,
                "pseudo_labels": {"tau": 0.4, "threshold": "per_class"},
                "class_balance": 0.5,
                "optimizer": {"lr": 5e-4},
                "augmentation": {"crop": 32},
                "validate_every": 4,
                "checkpoint_every": 3,
                "log_every": 2,
                **config,
            }
        ),
        "compute": CPU,
        "name": "s4p_model",
        "project": project,
        "seed": 3,
    }


def weights(result: Any, project: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(project / result.pointer["path"])


def assert_same_curve(one: Any, other: Any, tolerance: float) -> None:
    for key in ("loss", "loss_unlabeled", "confident_share", "share_a"):
        values = [[row[key] for row in result.history if key in row] for result in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=tolerance), key


@pytest.mark.parametrize("steps", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_two_processes_with_half_the_batch_each_are_one_with_all(
    tiny_data: SegmentationData, tmp_path: Path, steps: int
) -> None:
    """Draws, losses, batch norms and thresholds are those of the whole batch: to 1e-4 over 50 steps.

    With other rates a pixel whose confidence is that of its threshold to seven digits may count in one and not in the
    other, which moves the loss by some 1e-4 at once.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    kwargs = arguments(tiny_data, tmp_path / "one", steps)
    one = pretrain_s4p(**kwargs)
    two = pretrain_s4p(
        **{**kwargs, "compute": TWO, "project": tmp_path / "two"}, log=lambda m, s: rows.append((s, dict(m)))
    )
    assert_same_curve(one, two, 1e-4)
    assert [step for step, _ in rows] == list(range(steps))
    assert "data_wait_share" in rows[-1][1] and rows[3][1]["val_miou"] == two.history[3]["val_miou"]
    assert one.pointer["labeled_seen"] == two.pointer["labeled_seen"]
    ours, theirs = weights(one, tmp_path / "one"), weights(two, tmp_path / "two")
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=2e-3, msg=name)
    assert not (tmp_path / "two/data/06_models/s4p_model/job").exists()
    assert not list((tmp_path / "two").rglob("checkpoints"))


def test_sharded_weights_train_alike_and_their_checkpoints_fit_one_process(
    tiny_data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 against one process; then one process goes on from what two sharded ones left."""
    kwargs = {**arguments(tiny_data, tmp_path / "one", 6, teacher="ema"), "model": VIT}
    one = pretrain_s4p(**kwargs)
    sharded = {**kwargs, "compute": replace(TWO, sharding="fsdp"), "project": tmp_path / "two"}
    two = pretrain_s4p(**sharded)
    assert_same_curve(one, two, 1e-4)
    assert weights(two, tmp_path / "two").keys() == weights(one, tmp_path / "one").keys()

    stop_after(sharded, tmp_path / "two", step=3)
    resumed = pretrain_s4p(**{**kwargs, "project": tmp_path / "two"})
    assert resumed.pointer["resumed_from"][0] >= 3
    assert_same_curve(one, resumed, 1e-4)


def stop_after(kwargs: dict[str, Any], project: Path, step: int) -> None:
    """Ask a training in two processes to stop, once it has a checkpoint of `step`."""

    def ask() -> None:
        folder = project / "data" / "06_models" / "s4p_model"
        while not any(Checkpoints(path).steps()[-1:] >= [step] for path in folder.glob("*/checkpoints")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Interrupted, match="s4p_model was stopped by SIGTERM; run again to go on"):
        pretrain_s4p(**{**kwargs, "config": replace(kwargs["config"])})
    assert {number: signal.getsignal(number) for number in before} == before


def ranks_of(parent: int) -> list[psutil.Process]:
    """The processes that train, of the one that started them."""
    found = [p for p in psutil.Process(parent).children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    return sorted(found, key=lambda p: p.pid)


def kill_one(project: Path, step: int, parent: int | None = None) -> threading.Thread:
    """Kill the second process of a training with SIGKILL, once there is a checkpoint of `step`."""

    def kill() -> None:
        folder = project / "data" / "06_models" / "s4p_model"
        while not any(Checkpoints(path).steps()[-1:] >= [step] for path in folder.glob("*/checkpoints")):
            time.sleep(0.01)
        ranks_of(parent or os.getpid())[-1].kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_killed_process_ends_the_run_or_starts_again_from_the_last_checkpoint(
    tiny_data: SegmentationData, tmp_path: Path
) -> None:
    """Resumed, the result is that of the run that nobody killed to 1e-6."""
    kwargs = {**arguments(tiny_data, tmp_path / "killed", 12), "compute": TWO}
    kill_one(tmp_path / "killed", 3)
    with pytest.raises(RuntimeError, match=r"s4p_model: the process of rank \d \(pid \d+\) ended by SIG(KILL|ABRT)"):
        pretrain_s4p(**kwargs)
    kill_one(tmp_path / "killed", 9)
    resumed = pretrain_s4p(**{**kwargs, "compute": replace(TWO, restarts=1)})
    whole = pretrain_s4p(**{**kwargs, "project": tmp_path / "whole"})
    assert [start >= at for start, at in zip(resumed.pointer["resumed_from"], (3, 9), strict=True)] == [True, True]
    assert_same_curve(resumed, whole, 1e-6)
    for name, value in weights(whole, tmp_path / "whole").items():
        torch.testing.assert_close(weights(resumed, tmp_path / "killed")[name], value, rtol=0, atol=1e-6, msg=name)


def test_an_error_in_a_process_comes_out_with_its_traceback(tiny_data: SegmentationData, tmp_path: Path) -> None:
    manifest = tiny_data.manifest.assign(image=tiny_data.manifest["image"].str.replace("unlabeled_1", "gone"))
    kwargs = {**arguments(replace(tiny_data, manifest=manifest), tmp_path, 4), "compute": TWO}
    with pytest.raises(RuntimeError, match=r"(?s)s4p_model: the process of rank.*Traceback.*gone\.tif"):
        pretrain_s4p(**kwargs)
    assert not (tmp_path / "data/06_models/s4p_model/job").exists()


TRAIN = """
import sys
from pathlib import Path
from s5.engine.jobs import read_job

if __name__ == "__main__":
    function, arguments = read_job(Path(sys.argv[1]))
    result = function(**arguments)
    print(result.history[-1]["loss"])
"""


def command(folder: Path, kwargs: dict[str, Any]) -> list[str]:
    """A training as a command of its own."""
    write_job(folder / "asked", pretrain_s4p, kwargs)
    (folder / "train.py").write_text(TRAIN)
    return [sys.executable, str(folder / "train.py"), str(folder / "asked")]


@pytest.mark.slow
def test_processes_die_with_the_one_that_started_them(tiny_data: SegmentationData, tmp_path: Path) -> None:
    kwargs = {**arguments(tiny_data, tmp_path, 500), "compute": TWO}
    parent = subprocess.Popen(command(tmp_path, kwargs))
    folder = tmp_path / "data" / "06_models" / "s4p_model"
    while not any(Checkpoints(path).steps() for path in folder.glob("*/checkpoints")):
        assert parent.poll() is None
        time.sleep(0.1)
    ranks = ranks_of(parent.pid)
    assert len(ranks) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


@pytest.mark.slow
def test_two_hosts_meet(tiny_data: SegmentationData, tmp_path: Path) -> None:
    """Two launchers of one process each stand for two hosts; the second joins as docs/training.md says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    compute = replace(CPU, hosts=2, rendezvous=endpoint)
    kwargs = {**arguments(tiny_data, tmp_path / "hosts", 8), "compute": compute}
    first = subprocess.Popen(command(tmp_path, kwargs), stdout=subprocess.PIPE, text=True)
    job = tmp_path / "hosts/data/06_models/s4p_model/job"
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *options, "--rdzv-id=s4p_model"]
    second = subprocess.Popen([*torchrun, "-m", "s5.engine.worker", str(job)])
    assert second.wait(120) == 0
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 0
    loss = pretrain_s4p(**arguments(tiny_data, tmp_path / "one", 8)).history[-1]["loss"]
    assert float(said) == pytest.approx(loss, abs=1e-4)


def test_a_job_is_the_call_again(tiny_data: SegmentationData, tmp_path: Path) -> None:
    kwargs = arguments(tiny_data, tmp_path, 8)
    write_job(tmp_path / "job", pretrain_s4p, kwargs)
    function, again = read_job(tmp_path / "job")
    assert function is pretrain_s4p
    assert again["config"] == kwargs["config"] and again["compute"] == CPU and again["project"] == tmp_path
    assert again["data"].fingerprint() == tiny_data.fingerprint()


def test_a_job_names_nothing_but_this_library(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"function": "os:system", "arguments": {}}')
    with pytest.raises(ValueError, match="'os:system' is not of this library"):
        read_job(tmp_path)
    with pytest.raises(TypeError, match="job: x is a set; expected plain values"):
        write_job(tmp_path, pretrain_s4p, {"x": {1}})


def test_a_batch_in_parts_is_the_batch(
    tiny_data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where batch norms stand still and no pixel is left out, gradients of two parts are those of the whole."""
    monkeypatch.setattr(SegmentationModel, "train", lambda self, mode=True: nn.Module.train(self, False))
    config = {"pseudo_labels": {"tau": 0.3}, "class_balance": 0.0, "augmentation": {"crop": 32, "scale": (1.0, 1.0)}}
    results = []
    for parts in (1, 2):
        kwargs = arguments(tiny_data, tmp_path / str(parts), 6, **config)
        results.append(pretrain_s4p(**{**kwargs, "compute": replace(CPU, accumulate=parts)}))
    assert_same_curve(*results, 1e-4)


@pytest.mark.parametrize(("compute", "batch"), [({"devices": 3}, 4), ({"accumulate": 4}, 6)])
def test_a_batch_that_cannot_be_shared_out(compute: dict[str, int], batch: int) -> None:
    config = ComputeConfig(**compute)
    group = Group(0, config.devices)
    resolved = Compute(torch.device("cpu"), "fp32", group, config.accumulate)
    with pytest.raises(ValueError, match=f"batch_size: a batch of {batch} cannot be shared out evenly.*a multiple of"):
        BatchPlaces.of(batch, resolved, "s4p.batch_size")


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_places_cover_the_batch_once(size: int, parts: int, each: int) -> None:
    whole = size * parts * each
    seen = []
    for rank in range(size):
        places = BatchPlaces.of(whole, Compute(torch.device("cpu"), "fp32", Group(rank, size), parts), "batch")
        assert [place for part in places.parts for place in part] == list(places.own)
        seen += list(places.own)
    assert seen == list(range(whole))


@given(st.integers(0, 20), st.integers(1, 3), st.integers(1, 4))
def test_draws_belong_to_places(seed: int, parts: int, each: int) -> None:
    whole = parts * each
    everything = step_draws(seed, "x", 0)
    pieces = [step_draws(seed, "x", 0, (range(p * each, (p + 1) * each), whole)) for p in range(parts)]
    for draw in ("rand", "coins"):
        drawn = [getattr(piece, draw)(each, 3) for piece in pieces]
        assert torch.equal(torch.cat(drawn), getattr(everything, draw)(whole, 3))
    assert torch.equal(torch.cat([piece.some(each, 0.5) for piece in pieces]), everything.some(whole, 0.5))
