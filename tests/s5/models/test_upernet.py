"""The UPerNet and light decoders and the pyramid neck, against closed forms and the papers' parameter counts."""

from __future__ import annotations

import pytest
import torch

from s5.models import count_parameters, create_model
from s5.models.layers import BatchNorm2d, resize
from s5.models.light import LightDecoder
from s5.models.neck import LevelPyramid, PlainPyramid
from s5.models.upernet import UPerNetDecoder


def upernet_parameters(widths: list[int], channels: int, pools: int = 4) -> int:
    """mmsegmentation's UPerHead, layer by layer: convolutions without bias, two numbers a channel for batch norm."""

    def block(inputs: int, kernel: int) -> int:
        return inputs * channels * kernel**2 + 2 * channels

    pooled = pools * block(widths[-1], 1) + block(widths[-1] + pools * channels, 3)
    pyramid = sum(block(width, 1) + block(channels, 3) for width in widths[:-1])
    return pooled + pyramid + block(len(widths) * channels, 3)


@pytest.mark.parametrize(("widths", "channels"), [([64, 128, 256, 512], 64), ([768] * 4, 256), ([8, 8, 16, 16], 3)])
def test_upernet_has_the_layers_of_uperhead(widths: list[int], channels: int) -> None:
    assert count_parameters(UPerNetDecoder(widths, channels)) == upernet_parameters(widths, channels)


@pytest.mark.parametrize(
    ("encoder", "millions"), [("vit_base_patch16_224", 103.2), ("vit_large_patch16_224", 327.4)], ids=["ViT-B", "ViT-L"]
)
def test_parameter_counts_are_the_papers(encoder: str, millions: float) -> None:
    # S5 (AAAI 2026), Table 1: one data set, channels 256, 512 px. On the meta device nothing is allocated.
    with torch.device("meta"):
        model = create_model(encoder, "upernet", classes=16, decoder_channels=256, image_size=512)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.05)


def test_s5_taps_and_evenly_spaced_ones() -> None:
    with torch.device("meta"):
        taps = [
            create_model(name, classes=2).encoder.taps
            for name in ("vit_base_patch16_224", "vit_large_patch16_224", "vit_tiny_patch16_224")
        ]
    assert taps == [(3, 5, 7, 11), (7, 11, 15, 23), (2, 5, 8, 11)]


def test_a_constant_map_stays_constant_in_the_pooled_branches() -> None:
    decoder = UPerNetDecoder([4, 4, 4, 4], 4).eval()
    deepest = torch.full((1, 4, 7, 5), 2.0)
    for pool in decoder.pools:
        out = resize(pool(deepest), (7, 5))
        torch.testing.assert_close(out, out[..., :1, :1].expand_as(out))


def test_pooling_averages_the_map() -> None:
    decoder = UPerNetDecoder([4, 4, 4, 6], 4)
    deepest = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(decoder.pools[0][0](deepest)[..., 0, 0], deepest.mean(dim=(2, 3)))


def test_the_light_decoder_sums_top_down() -> None:
    decoder = LightDecoder([2, 2, 2, 2], 2)
    for lateral in decoder.laterals:
        torch.nn.init.zeros_(lateral.weight)
        torch.nn.init.ones_(lateral.bias)
    seen = []
    decoder.smooth.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    decoder([torch.randn(1, 2, 64 // s, 64 // s) for s in (4, 8, 16, 32)])
    torch.testing.assert_close(seen[0], torch.full((1, 2, 16, 16), 4.0))


def test_the_plain_pyramid_scales_by_4_2_1_and_a_half() -> None:
    neck = PlainPyramid(6)
    maps = [torch.randn(1, 6, 4, 5) for _ in range(4)]
    out = neck(maps)
    assert [tuple(m.shape[-2:]) for m in out] == [(16, 20), (8, 10), (4, 5), (2, 3)]
    assert out[2] is maps[2]
    # The odd last column is pooled by itself, not lost.
    torch.testing.assert_close(out[3][..., 2], torch.stack([maps[3][..., r : r + 2, 4].amax(-1) for r in (0, 2)], -1))


def test_missing_levels_come_from_the_nearest_map() -> None:
    neck = LevelPyramid([3, 5], [8, 32])
    fine, deep = torch.randn(1, 3, 8, 8), torch.randn(1, 5, 2, 2)
    out = neck([fine, deep])
    assert neck.channels == [3, 3, 3, 5]
    assert [tuple(m.shape[-2:]) for m in out] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert out[1] is fine
    assert out[3] is deep


def test_batch_norm_is_torchs_except_for_a_single_value() -> None:
    ours, theirs = BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for shape in [(2, 3, 1, 1), (1, 3, 2, 1)]:
        x = torch.randn(*shape)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=0)
    single = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(ours(single), theirs.eval()(single), rtol=0, atol=0)
