"""Experts: a network for several data sets that starts as the dense one, and is dense again for each of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s5.models import SegmentationModel, create_model, create_multi_model, from_dense
from s5.models.moe import MoEMlp

SIZES = {"width": 24, "depth": 4, "heads": 3}


def dense_model(classes: int = 3) -> SegmentationModel:
    torch.manual_seed(3)
    model = create_model("s5_vit", classes=classes, decoder_channels=8, image_size=64, encoder_options=SIZES).eval()
    for parameter in model.parameters():  # off the zeros that a fresh network has in many places
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def image(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 50, 64, generator=torch.Generator().manual_seed(1), dtype=dtype)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("part_features", [0, 1, 8, 23])
def test_every_data_set_starts_as_the_dense_network(dtype: torch.dtype, bound: float, part_features: int) -> None:
    dense = dense_model().to(dtype)
    multi = from_dense(dense, {"town": 3, "fields": 3}, part_features=part_features)
    expected = dense(image(dtype))
    for task in ("town", "fields"):
        assert float((multi(image(dtype), task) - expected).abs().max()) <= bound * float(expected.abs().max())
        again = multi.for_task(task).to(dtype)
        assert float((again(image(dtype)) - expected).abs().max()) <= bound * float(expected.abs().max())


@torch.no_grad()
def test_other_class_counts_share_everything_but_the_head() -> None:
    dense = dense_model()
    multi = from_dense(dense, {"town": 3, "legend_of_five": 5}, part_features=8)
    assert multi(image(torch.float32), "legend_of_five").shape == (2, 5, 50, 64)
    for ours, theirs in zip(
        multi.features(image(torch.float32), "legend_of_five"), dense.features(image(torch.float32)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_data_set_trains_its_own_expert_decoder_and_head_alone() -> None:
    multi = from_dense(dense_model(), {"town": 3, "fields": 3}, part_features=8).train()
    multi(image(torch.float32), "fields").square().mean().backward()
    learns = {name for name, p in multi.named_parameters() if p.grad is not None}
    others = {n for n, _ in multi.named_parameters()} - learns
    assert others == {
        n for n, _ in multi.named_parameters() if n.startswith(("decoders.town", "heads.town")) or ".experts.0." in n
    }


@torch.no_grad()
def test_a_layer_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = MoEMlp(6, 10, experts=2, part_features=2).double()
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    hidden = x @ layer.fc1.weight.T + layer.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    for task in (0, 1):
        for i in range(4):
            torch.testing.assert_close(layer(x, task)[..., i], hidden @ layer.fc2.weight[i] + layer.fc2.bias[i])
        for i in range(2):
            expert = layer.experts[task]
            torch.testing.assert_close(layer(x, task)[..., 4 + i], hidden @ expert.weight[i] + expert.bias[i])


def test_bad_requests_say_what_to_do() -> None:
    multi = create_multi_model(
        "s5_vit", datasets={"town": 2}, part_features=8, decoder_channels=8, image_size=32, encoder_options=SIZES
    )
    with pytest.raises(ValueError, match=r"one of the data sets \['town'\], got 'twon'; did you mean 'town'"):
        multi(torch.zeros(1, 3, 32, 32), "twon")
    options = {"encoder_options": SIZES, "decoder_channels": 8, "image_size": 32}
    for datasets, message in [
        ({}, "at least one name"),
        ({"a.b": 2}, "must not be empty or hold a dot"),
        ({"a": 1}, "needs at least 2 classes, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            create_multi_model("s5_vit", datasets=datasets, part_features=8, **options)
    with pytest.raises(ValueError, match=r"part_features must lie in 1\.\.23, below the width 24, got 24"):
        create_multi_model("s5_vit", datasets={"a": 2}, part_features=24, **options)
    with pytest.raises(ValueError, match=r"only S5's encoders .* have experts, got encoder 'resnet10t'"):
        create_multi_model("resnet10t", datasets={"a": 2}, part_features=8)
    shared = create_multi_model("resnet10t", datasets={"a": 2, "b": 3}, part_features=0, decoder_channels=4).eval()
    assert shared(torch.zeros(1, 3, 32, 32), "b").shape == (1, 3, 32, 32)
