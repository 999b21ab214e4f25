"""Layers seen from outside: their number, shapes and outputs by hand, likeness of a network to itself, probes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from s5.data.loader import SegmentationData
from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.models import SegmentationModel, create_model
from s5.noisy import compare_layers, layer_outputs, linear_cka, probe_layers
from s5.noisy.layers import _as_map

CPU = resolve_compute(ComputeConfig(device="cpu", precision="fp32"))
VIT: dict[str, Any] = {"image_size": 64, "encoder_options": {"width": 24, "depth": 4, "heads": 3}}
TIMM_VIT: dict[str, Any] = {"image_size": 64, "encoder_options": {"depth": 4, "embed_dim": 24, "num_heads": 3}}
# encoder -> channels and stride of each layer from the stem on, by its paper
LAYERS: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {
    "resnet18": ({}, [(64, 2)] + [(64 * 2**s, 4 * 2**s) for s in range(4) for _ in range(2)]),
    "s5_vit": (VIT, [(24, 16)] * 5),
    "vit_tiny_patch16_224": (TIMM_VIT, [(24, 16)] * 5),
    "swin_tiny_patch4_window7_224": (
        {"encoder_options": {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2)}},
        [(12, 4)] + [(12 * 2**s, 4 * 2**s) for s in range(4) for _ in range(2)],
    ),
    "convnext_atto": (
        {"encoder_options": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}},
        [(8, 4)] + [(8 * (s + 1), 4 * 2**s) for s in range(4)],
    ),
}


def network(encoder: str, decoder: str = "light", seed: int = 0, **options: Any) -> SegmentationModel:
    torch.manual_seed(seed)
    return create_model(encoder, decoder, classes=3, decoder_channels=8, **options).eval()


@pytest.mark.parametrize("encoder", LAYERS)
@pytest.mark.parametrize("decoder", ["upernet", "dpt", "light"])
def test_every_layer_gives_its_map(encoder: str, decoder: str) -> None:
    options, expected = LAYERS[encoder]
    model = network(encoder, decoder, **options)
    with layer_outputs(model) as outputs, torch.no_grad():
        logits = model(torch.randn(1, 3, 64, 128))
    last = len(expected) - 1
    assert sorted(outputs) == list(range(last + 6))
    for depth, (channels, stride) in enumerate(expected):
        assert outputs[depth].shape == (1, channels, 64 // stride, 128 // stride), depth
    # the head makes the logits of what the last block gave
    again = torch.nn.functional.interpolate(
        model.head(outputs[last + 5]), (64, 128), mode="bilinear", align_corners=True
    )
    assert torch.allclose(again, logits, atol=1e-5)
    sides = [outputs[last + block].shape[-1] for block in range(1, 6)]
    assert sides == sorted(sides)  # coarse to fine
    assert not any(module._forward_hooks for module in model.modules())


def test_the_last_encoder_layer_is_what_the_encoder_gives() -> None:
    for encoder in ("resnet18", "s5_vit"):
        model = network(encoder, **LAYERS[encoder][0])
        images = torch.randn(2, 3, 64, 64)
        with layer_outputs(model) as outputs, torch.no_grad():
            model(images)
            deepest = model.encoder(images)[-1]
        assert torch.equal(outputs[len(LAYERS[encoder][1]) - 1], deepest)


def test_class_tokens_are_left_out_and_channels_put_first() -> None:
    tokens = torch.randn(1, 1 + 4 * 8, 5)
    grid = _as_map(tokens, 64, 128)
    assert grid is not None and grid.shape == (1, 5, 4, 8)
    assert torch.equal(grid[0, :, 0, 0], tokens[0, 1]) and torch.equal(grid[0, :, 3, 7], tokens[0, -1])
    last = torch.randn(1, 4, 8, 5)
    assert torch.equal(_as_map(last, 64, 128), last.permute(0, 3, 1, 2))  # type: ignore[arg-type]
    assert _as_map(torch.randn(1, 5), 64, 64) is None


def test_likeness_to_itself_and_to_another(tiny_data: SegmentationData) -> None:
    model, twin = network("resnet10t"), network("resnet10t", seed=1)
    source = tiny_data.split("val")
    same = compare_layers(model, model, source, tiny_data.statistics, batch_size=2, compute=CPU)
    assert list(same) == ["stem", *(f"layer {i}" for i in range(1, 5)), *(f"decoder {i}" for i in range(1, 6))]
    assert list(same.values()) == pytest.approx([1.0] * 10)
    found = compare_layers(model, twin, source, tiny_data.statistics, batch_size=2, compute=CPU)
    images = torch.from_numpy(np.stack([source.read(i)[0] for i in range(len(source))]))
    with torch.no_grad():
        x, y = (m.encoder(Normalizer(tiny_data.statistics)(images))[-1].permute(0, 2, 3, 1) for m in (model, twin))
    assert found["layer 4"] == pytest.approx(linear_cka(x.flatten(0, 2), y.flatten(0, 2)), abs=1e-6)
    assert 0 <= found["layer 1"] < 0.999  # type: ignore[operator]


def test_a_probe_reads_colours_from_the_first_layer(tiny_data: SegmentationData) -> None:
    """Colour tells the class of the tiny data: the stem knows it, and what a probe scores is what its logits give."""
    model = network("resnet10t")
    found = probe_layers(
        model, tiny_data.split("labeled"), tiny_data.split("test"), tiny_data.statistics, tiny_data.labels,
        batch_size=2, compute=CPU,
    )  # fmt: skip
    assert found["stem"] > 80  # type: ignore[operator]
    assert list(found) == ["stem", *(f"layer {i}" for i in range(1, 5)), *(f"decoder {i}" for i in range(1, 6))]
    again = probe_layers(
        model, tiny_data.split("labeled"), tiny_data.split("test"), tiny_data.statistics, tiny_data.labels,
        batch_size=3, compute=CPU,
    )  # fmt: skip
    assert again == pytest.approx(found, abs=0.1)
