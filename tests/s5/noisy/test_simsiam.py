"""SimSiam's loss, gradients and training from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s5.data.loader import SegmentationData
from s5.data.transforms import GeometryConfig
from s5.engine import ComputeConfig, start_model
from s5.models import ModelConfig, create_model, load_model, open_pointer
from s5.noisy import SimSiamConfig, pretrain_simsiam
from s5.noisy.simsiam import SiameseNetwork, simsiam_loss

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=8)


def config(**values: object) -> SimSiamConfig:
    few = {"steps": 4, "batch_size": 4, "width": 16, "bottleneck": 8, "augmentation": GeometryConfig(32, (0.8, 1.2))}
    return SimSiamConfig(**{**few, **values})  # type: ignore[arg-type]


def test_the_loss_is_the_negative_cosine_and_stops_gradients() -> None:
    p, z = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    loss = simsiam_loss(p, z)
    by_hand = -sum(float(a @ b / (a.norm() * b.norm())) for a, b in zip(p.detach(), z.detach(), strict=True)) / 6
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)
    loss.backward()
    assert z.grad is None and p.grad is not None


def test_both_views_count_alike() -> None:
    torch.manual_seed(0)
    network = SiameseNetwork(create_model("resnet10t", "light", classes=3, decoder_channels=8), 16, 8).train()
    one, other = torch.randn(2, 4, 3, 32, 32)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    first = network(one, other)
    network.load_state_dict(state)  # running statistics as they were
    assert network(other, one).item() == pytest.approx(first.item(), abs=1e-5)
    assert -1 <= first.item() <= 1


def test_the_encoder_learns_and_the_rest_stays(tiny_data: SegmentationData, tmp_path: Path) -> None:
    result = pretrain_simsiam(tiny_data, MODEL, config(), CPU, name="simsiam", project=tmp_path, seed=0)
    again = pretrain_simsiam(tiny_data, MODEL, config(), CPU, name="simsiam", project=tmp_path / "again", seed=0)
    assert len(result.history) == 4 and all(-1 <= row["loss"] <= 1 for row in result.history)
    trained, _ = load_model(open_pointer(result.pointer, tmp_path))
    fresh = start_model(MODEL, tiny_data, seed=0, project=tmp_path).state_dict()
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, fresh[name])}
    assert moved and all(name.startswith("encoder.") for name in moved)
    assert {n for n in fresh if n.startswith("encoder.") and n.endswith("weight")} <= moved
    assert result.pointer["labeled_seen"] == 0
    assert again.pointer["sha256"] == result.pointer["sha256"]


@pytest.mark.parametrize(
    "values", [{"batch_size": 1}, {"width": 0}, {"bottleneck": 1.5}, {"ema_decay": 1.0}, {"steps": 0}]
)
def test_settings_out_of_range_name_the_key(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        config(**values)
