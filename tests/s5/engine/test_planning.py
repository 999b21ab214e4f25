"""Plans against sums on paper, and a dry run of a tiny network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.engine import ComputeConfig, resolve_compute
from s5.engine.planning import PlanConfig, Trial, make_plan, plan_text, try_batches
from s5.models import ModelConfig
from s5.semisup import S4PConfig, plan_s4p

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
TRIALS = [Trial(1, 0.5, 400), Trial(2, 0.6, 500), Trial(4, 0.8, 700), Trial(8, None, None)]


def plan(trials: list[Trial] = TRIALS, batch: int = 12) -> dict[str, Any]:
    return make_plan(trials, batch_size=batch, images_per_step=2 * batch, steps=900, pools={"pool": (600, batch)})


@pytest.mark.parametrize(("batch", "parts", "seconds"), [(12, 3, 2.4), (4, 1, 0.8), (7, 7, 3.5), (6, 2, 2 * 0.6)])
def test_a_plan_is_the_sum_on_paper(batch: int, parts: int, seconds: float) -> None:
    found = plan(batch=batch)
    assert (found["largest_batch"], found["accumulate"]) == (4, parts)
    assert found["hours"] == pytest.approx(900 * seconds / 3600)
    assert found["images_per_s"] == pytest.approx(2 * batch / seconds)
    assert found["epochs"] == {"pool": pytest.approx(900 * batch / 600)}


def test_the_plan_in_words() -> None:
    text = plan_text(plan())
    assert "does not fit" in text and "fits with compute.accumulate=3" in text and "18.0 over pool" in text


def test_nothing_fits() -> None:
    with pytest.raises(ValueError, match=r"not even a batch of one fits into memory; take model\.checkpointing=true"):
        plan([Trial(1, None, None)])


class Step:
    """A method that takes a MiB an image, and no more than `most` images."""

    def __init__(self, size: int, most: int) -> None:
        self.size, self.most = size, most

    def read(self, step: int) -> tuple[()]:
        return ()

    def step(self, step: int, batches: Any) -> dict[str, torch.Tensor]:
        if self.size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}


def test_batches_grow_until_one_does_not_fit() -> None:
    trials = try_batches(lambda size: Step(size, 5), resolve_compute(CPU), PlanConfig(largest=64))
    assert [(t.batch_size, t.seconds is None) for t in trials] == [(1, False), (2, False), (4, False), (8, True)]


def test_a_batch_that_the_memory_will_not_hold_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s5.engine.planning._free_mb", lambda: 1000.0)
    monkeypatch.setattr("s5.engine.planning._peak_mb", lambda compute: 200.0 + 100.0 * made[-1])
    made: list[int] = []

    def make(size: int) -> Step:
        made.append(size)
        return Step(size, 1000)

    trials = try_batches(make, resolve_compute(CPU), PlanConfig(largest=64))
    assert made == [1, 2, 4]  # 8 would take 1000 MiB, and 900 may be taken
    assert trials[-1] == Trial(8, None, None)


def test_s4p_is_planned(tiny_data: SegmentationData) -> None:
    model = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)
    config = S4PConfig(steps=30, batch_size=2, unlabeled_batch_size=4, augmentation={"crop": 32})
    found = plan_s4p(tiny_data, model, config, CPU, PlanConfig(largest=2, steps=1), budget=100)
    assert [trial["batch_size"] for trial in found["trials"]] == [1, 2]
    assert found["accumulate"] == 1 and found["hours"] > 0
    assert found["epochs"] == {"labelled tiles": 30 * 2 / 4, "the pool": 30 * 4 / 6}


@pytest.mark.parametrize("values", [{"largest": 0}, {"steps": 1.5}])
def test_ranges(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"training_plan\..*expected a whole number"):
        PlanConfig(**values)
