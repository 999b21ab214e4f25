"""S4P on an accelerator: the same draws, the same losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.models import create_model
from s5.semisup import S4PConfig
from s5.semisup.s4p import S4P
from s5.types import BandStatistics, LabelSpace

pytestmark = pytest.mark.gpu


class Noise:
    def __len__(self) -> int:
        return 8

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(index)
        mask = rng.integers(0, 3, (64, 64), dtype=np.uint8)
        return rng.integers(0, 255, (3, 64, 64), dtype=np.uint8), mask, np.ones((64, 64), bool)


def losses(device: str, precision: str) -> list[float]:
    compute = resolve_compute(ComputeConfig(device=device, precision=precision))
    torch.manual_seed(0)
    model = create_model("resnet10t", "light", classes=3, decoder_channels=16, dropout=0.0)
    model.to(compute.device).to(memory_format=torch.channels_last)
    statistics = BandStatistics(("r", "g", "b"), (0,) * 3, (255,) * 3, (0.5,) * 3, (0.3,) * 3)
    config = S4PConfig(steps=5, batch_size=4, unlabeled_batch_size=4, pseudo_labels={"tau": 0.4})
    labels, source = LabelSpace(("a", "b", "c")), Noise()
    method = S4P(model, source, source, Normalizer(statistics, compute.device), labels, config, compute, seed=0)
    return [float(method.step(step, method.read(step))["loss"]) for step in range(5)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.02), ("bf16", 0.1)])
def test_a_gpu_gives_the_losses_of_the_cpu(precision: str, tolerance: float) -> None:
    assert losses("cuda", precision) == pytest.approx(losses("cpu", "fp32"), abs=tolerance)


def test_the_cpu_half_of_the_comparison_works() -> None:
    first = losses("cpu", "fp32")
    assert all(np.isfinite(first))
    assert first == losses("cpu", "fp32")
