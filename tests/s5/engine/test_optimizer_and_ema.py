"""Groups, schedule and average against closed forms."""

import itertools
import math

import pytest
import torch
from torch import nn

from s5.engine import EMA, Compute, Learner, OptimizerConfig, build_optimizer, set_learning_rate
from s5.engine.optimizer import is_decayed
from s5.models import create_encoder, create_model

CPU = Compute(torch.device("cpu"), "fp32")


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


def test_rates_fall_by_layer_towards_the_input() -> None:
    model = create_model("resnet18", "light", classes=3)  # eight blocks
    config = OptimizerConfig(lr=1e-3, head_lr_scale=10, layer_decay=0.5, weight_decay=0.1)
    optimizer = build_optimizer(model, config)
    rates = {id(p): g["peak_lr"] for g in optimizer.param_groups for p in g["params"]}
    body = model.encoder.body
    assert rates[id(body.layer4[1].conv2.weight)] == pytest.approx(1e-3 * 0.5)
    assert rates[id(body.layer4[0].downsample[0].weight)] == pytest.approx(1e-3 * 0.5**2)
    assert rates[id(body.layer1[0].bn1.bias)] == pytest.approx(1e-3 * 0.5**8)
    assert rates[id(body.conv1.weight)] == pytest.approx(1e-3 * 0.5**9)
    for part in (model.neck, model.decoder, model.head):
        assert all(rates[id(p)] == pytest.approx(1e-2) for p in part.parameters())
    assert len(optimizer.param_groups) == (8 + 1 + 1) * 2
    assert len(rates) == len(list(model.parameters()))
    assert set_learning_rate(optimizer, config, 0, 1) == config.lr / 1.02  # what is logged is the rate without layers


def test_equal_rates_share_a_group() -> None:
    model = create_model("resnet18", "light", classes=3)
    assert len(build_optimizer(model, OptimizerConfig()).param_groups) == 2
    assert len(build_optimizer(model, OptimizerConfig(weight_decay=0)).param_groups) == 1


@pytest.mark.parametrize(
    ("encoder", "options", "kept"),
    [
        ("vit_small_patch14_reg4_dinov2", {}, {"cls_token", "reg_token", "pos_embed", "norm1.weight", "ls1.gamma"}),
        ("swin_tiny_patch4_window7_224", {}, {"attn.relative_position_bias_table", "norm2.weight"}),
        ("swinv2_tiny_window8_256", {}, {"attn.logit_scale", "attn.cpb_mlp.0.weight", "attn.cpb_mlp.2.weight"}),
        ("convnext_atto", {}, {"gamma", "norm.weight", "downsample.0.weight"}),
        ("fastvit_t8", {}, {"layer_scale.gamma"}),  # with three dimensions
        ("levit_128s", {}, {"attn.attention_biases"}),
        (
            "s5_vit_b_rvsa",
            {"depth": 4, "global_every": 2},
            {"pos_embed", "attn.rel_pos_h", "attn.rel_pos_w", "attn.relative_position_bias_table", "norm1.weight"},
        ),
    ],
)
def test_what_is_no_matrix_is_not_decayed(encoder: str, options: dict[str, int], kept: set[str]) -> None:
    with torch.device("meta"):
        network = create_encoder(encoder, options=options)
    decayed = {name for name, p in network.named_parameters() if is_decayed(name, p)}
    rest = {name for name, _ in network.named_parameters()} - decayed
    for ending in kept:
        assert any(name.endswith(f".{ending}") for name in rest), ending
        # a block's downsampling is a norm (0) and a convolution (1)
        assert not any(name.endswith(f".{ending}") for name in decayed), ending
    assert all(name.endswith(".weight") for name in decayed)
    matrices = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and "cpb_mlp" not in name
    }
    assert decayed == matrices


def test_cosine_with_warmup() -> None:
    net, config = Net(), OptimizerConfig(lr=2.0, warmup=0.1)
    optimizer = build_optimizer(net, config)
    rates = [set_learning_rate(optimizer, config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    for step in (10, 37, 99):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 10) / 90))


def test_encoders_inside_a_larger_network_have_the_rate_of_encoders() -> None:
    net = nn.ModuleDict({"network": Net(), "encoder": nn.Conv2d(3, 4, 1)})
    optimizer = build_optimizer(net, OptimizerConfig(lr=1e-3, head_lr_scale=10))
    rates = {id(p): g["peak_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(net["network"].encoder[0].weight)] == rates[id(net["encoder"].weight)] == 1e-3
    assert rates[id(net["network"].head.weight)] == pytest.approx(1e-2)


def test_a_batch_in_parts_is_learnt_as_a_whole() -> None:
    """Means of the losses and of their gradients, so that one step of AdamW ends at the same weights."""
    inputs, found, rows = torch.arange(12.0).reshape(6, 2) / 10, [], []
    for parts in ([range(6)], [range(2), range(2, 4), range(4, 6)]):
        torch.manual_seed(0)
        net = nn.Linear(2, 1)
        learner = Learner(net, OptimizerConfig(lr=0.1), steps=4, ema_decay=0.9, warm=True, compute=CPU)
        row = learner.learn(
            0,
            parts,
            lambda part, net=net: {"loss": net(inputs[list(part)]).square().mean(), "first": inputs[part[0], 0]},
        )
        found.append(net.weight.detach().clone())
        rows.append({name: float(value) for name, value in row.items()})
    torch.testing.assert_close(found[0], found[1])
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"]) and rows[0]["lr"] == rows[1]["lr"] == pytest.approx(
        0.1 / 1.08
    )
    assert (rows[0]["first"], rows[1]["first"]) == pytest.approx((0, (0 + 0.4 + 0.8) / 3))


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
        ({"layer_decay": 0}, r"optimizer.layer_decay: expected a factor in \(0, 1\], got 0"),
        ({"layer_decay": 1.5}, r"optimizer.layer_decay: expected a factor in \(0, 1\], got 1.5"),
    ],
)
def test_ranges(values, word) -> None:
    with pytest.raises(ValueError, match=word):
        OptimizerConfig(**values)
