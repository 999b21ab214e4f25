"""Groups, schedule and average against closed forms."""

import itertools
import math

import pytest
import torch
from torch import nn

from s5.engine import EMA, OptimizerConfig, build_optimizer, set_learning_rate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def test_norms_and_biases_are_not_decayed_and_the_head_has_its_own_rate() -> None:
    net = Net()
    optimizer = build_optimizer(net, OptimizerConfig(lr=1e-3, head_lr_scale=10, weight_decay=0.1))
    found = {id(p): (g["weight_decay"], g["peak_lr"]) for g in optimizer.param_groups for p in g["params"]}
    assert found[id(net.encoder[0].weight)] == (0.1, 1e-3)
    assert found[id(net.encoder[0].bias)] == (0.0, 1e-3)
    assert found[id(net.encoder[1].weight)] == (0.0, 1e-3)
    assert found[id(net.head.weight)] == (0.1, pytest.approx(1e-2))
    assert found[id(net.head.bias)] == (0.0, pytest.approx(1e-2))
    assert len(found) == len(list(net.parameters()))


def test_cosine_with_warmup() -> None:
    net, config = Net(), OptimizerConfig(lr=2.0, warmup=0.1)
    optimizer = build_optimizer(net, config)
    rates = [set_learning_rate(optimizer, config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    for step in (10, 37, 99):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 10) / 90))


def test_ema_closed_form_and_counters() -> None:
    net = nn.BatchNorm2d(2)
    ema = EMA(net, 0.9, warm=True)
    start = net.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            net.weight += 1
            net.num_batches_tracked += 1
        ema.update(net, step)
    expected = start.clone()
    for step in range(5):
        expected = 0.9 * expected + 0.1 * (start + step + 1)
    torch.testing.assert_close(ema.average.weight, expected)
    assert ema.average.num_batches_tracked == 5
    assert not ema.average.training and not ema.average.weight.requires_grad


def test_a_cold_ema_starts_as_the_plain_mean() -> None:
    net = nn.Linear(1, 1, bias=False)
    ema = EMA(net, 0.999)
    values = [3.0, 5.0, 10.0]
    for step, value in enumerate(values):
        nn.init.constant_(net.weight, value)
        ema.update(net, step)
    assert ema.average.weight.item() == pytest.approx(sum(values) / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"lr": 0}, "lr"),
        ({"warmup": 1}, "warmup"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"head_lr_scale": 0}, "head_lr_scale"),
    ],
)
def test_ranges(values, word) -> None:
    with pytest.raises(ValueError, match=word):
        OptimizerConfig(**values)
