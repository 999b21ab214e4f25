"""Speed by a clock that the test turns, and traces that can be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig
from s5.engine.gauge import Gauge, peak_memory_mb
from s5.finetuning import SupervisedConfig, train_supervised
from s5.models import ModelConfig

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
CNN = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)
CONFIG = SupervisedConfig(steps=16, batch_size=2, augmentation={"crop": 32}, validate_every=0, log_every=4)


def test_a_gauge_by_a_clock_of_ones_own() -> None:
    now = [100.0]
    gauge = Gauge(16, clock=lambda: now[0])

    def items():
        for wait in (0.5, 1.5, 1.0):
            now[0] += wait
            yield wait

    for _ in gauge.waiting(items()):
        now[0] += 2.0  # the step
    now[0] += 7.0  # a validation
    gauge.elsewhere(7.0)
    numbers = gauge.read()
    assert numbers["steps_per_s"] == pytest.approx(3 / 9)
    assert numbers["images_per_s"] == pytest.approx(3 * 16 / 9)
    assert numbers["data_wait_share"] == pytest.approx(3 / 9)
    now[0] += 4.0
    again = gauge.read()
    assert again["steps_per_s"] == again["data_wait_share"] == 0


def test_memory_is_that_of_this_process() -> None:
    assert 50 < peak_memory_mb() < 50_000


def train(data: SegmentationData, project: Path, compute: ComputeConfig, rows: list[dict[str, float]]) -> Path:
    def log(metrics, step):
        rows.append(dict(metrics))

    result = train_supervised(data, CNN, CONFIG, compute, name="net", project=project, seed=0, log=log)
    assert all(set(row) <= {"step", "loss", "lr", "val_miou"} for row in result.history)  # the same on any machine
    return project / Path(result.pointer["path"]).parent


def test_speed_goes_to_the_log_and_a_trace_to_the_folder_of_the_run(
    tiny_data: SegmentationData, tmp_path: Path
) -> None:
    rows: list[dict[str, float]] = []
    folder = train(tiny_data, tmp_path, replace(CPU, profile_steps=3), rows)
    measured = [row for row in rows if "data_wait_share" in row]
    assert len(rows) == 16 and len(measured) == 4
    assert all(0 <= row["data_wait_share"] <= 1 and row["images_per_s"] > 0 for row in measured)
    (trace,) = folder.glob("traces/*.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::conv2d" in names
    assert sum(str(name).startswith("ProfilerStep") for name in names) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_the_same(tiny_data: SegmentationData, tmp_path: Path, precision: str) -> None:
    """fp16 with its scaler: the first losses are those of fp32 to its precision, and the scale is in the checkpoint."""
    losses = []
    for name in ("fp32", precision):
        rows: list[dict[str, float]] = []
        train(tiny_data, tmp_path / name, replace(CPU, precision=name), rows)
        losses.append(torch.tensor([row["loss"] for row in rows]))
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.02)
