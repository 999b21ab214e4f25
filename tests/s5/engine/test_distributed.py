"""Two processes on gloo against one: the same losses, the same weights, and errors that come out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from s5.data.loader import SegmentationData
from s5.engine import Checkpoints, ComputeConfig, Interrupted

from s5.models import ModelConfig
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
                "optimizer": {"lr": 1e-3},
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
    """Draws, losses, batch norms and thresholds are those of the whole batch (the issue's bar: 1e-4 over 50 steps)."""
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
