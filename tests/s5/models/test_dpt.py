"""The DPT decoder and its neck, against sums written out by hand and a straight-line reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s5.models import count_parameters, create_model
from s5.models.dpt import DPTDecoder, FusionBlock, ReassemblePyramid, ResidualConvUnit
from s5.models.neck import LevelPyramid


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch norm statistics, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn / max(value[0].numel(), 1) ** 0.5)
    return module


def maps_of(widths: list[int], sides: list[tuple[int, int]], batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, width, *side, generator=generator, dtype=torch.float64)
        for width, side in zip(widths, sides, strict=True)
    ]


def enlarging(n: int, size: int) -> Tensor:
    """The matrix [size, n] of linear interpolation with corners aligned: output i lies at i (n - 1) / (size - 1)."""
    positions = torch.arange(size, dtype=torch.float64) * (n - 1) / (size - 1)
    return (1 - (positions[:, None] - torch.arange(n, dtype=torch.float64)).abs()).clamp(min=0)


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    return enlarging(x.shape[-2], size[0]) @ x @ enlarging(x.shape[-1], size[1]).T


def normalise(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    scale, shift, mean, var = (
        weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def unit(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """DPT's ResidualConvUnit_custom with bn=True: relu, conv1, bn1, relu, conv2, bn2, and the sum."""
    out = F.conv2d(x.clamp(min=0), weights[f"{name}.residual.1.0.weight"], padding=1)
    out = normalise(out, weights, f"{name}.residual.1.1").clamp(min=0)
    out = F.conv2d(out, weights[f"{name}.residual.2.weight"], padding=1)
    return x + normalise(out, weights, f"{name}.residual.3")


def fusion(path: Tensor, level: Tensor | None, size: tuple[int, int], weights: dict[str, Tensor], name: str) -> Tensor:
    """DPT's FeatureFusionBlock_custom, in its order: the sum, the second unit, enlarging, the 1 x 1 convolution."""
    if level is not None:
        path = path + unit(level, weights, f"{name}level_unit")
    path = enlarge(unit(path, weights, f"{name}path_unit"), size)
    return (
        torch.einsum("oi,bihw->bohw", weights[f"{name}project.weight"][:, :, 0, 0], path)
        + (weights[f"{name}project.bias"][:, None, None])
    )


@pytest.mark.parametrize(
    ("tokens", "sides"),
    [
        ((4, 6), [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ((5, 3), [(20, 12), (10, 6), (5, 3), (3, 2)]),
        ((1, 1), [(4, 4), (2, 2), (1, 1), (1, 1)]),
    ],
)
def test_the_neck_scales_by_4_2_1_and_a_half(tokens: tuple[int, int], sides: list[tuple[int, int]]) -> None:
    neck = ReassemblePyramid(16)
    assert neck.channels == [2, 4, 8, 16]
    levels = neck([torch.randn(2, 16, *tokens) for _ in range(4)])
    assert [tuple(level.shape) for level in levels] == [(2, c, *s) for c, s in zip(neck.channels, sides, strict=True)]


def test_the_necks_channels() -> None:
    assert ReassemblePyramid(768).channels == [96, 192, 384, 768]  # the paper's ViT-B
    assert ReassemblePyramid(6).channels == [1, 1, 3, 6]
    assert ReassemblePyramid(64, [3, 4, 5, 6]).channels == [3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"channels: expected four positive widths, fine to coarse, got \[3, 4\]"):
        ReassemblePyramid(64, [3, 4])


def test_each_level_is_one_tap_and_a_token_fills_its_own_pixels() -> None:
    neck = ReassemblePyramid(8)
    maps = [torch.zeros(1, 8, 3, 4) for _ in range(4)]
    empty = [level.detach().clone() for level in neck(maps)]
    # Row 1, column 2 of 3 x 4 tokens; the strided 3 x 3 windows that see it are centred on rows 0 and 2, column 2.
    filled = [(range(4, 8), range(8, 12)), (range(2, 4), range(4, 6)), ([1], [2]), ([0, 1], [1])]
    for i, (rows, columns) in enumerate(filled):
        maps[i][..., 1, 2] = 1.0
        changed = [(a != b).any(dim=1)[0] for a, b in zip(neck(maps), empty, strict=True)]
        expected = [torch.zeros_like(level) for level in changed]
        expected[i][min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = True
        assert all(torch.equal(a, b) for a, b in zip(changed, expected, strict=True)), i
        maps[i].zero_()


def test_the_neck_has_the_parameters_of_the_papers_layers() -> None:
    # Four projections with bias, then 4 x 4, 2 x 2 and 3 x 3 kernels with bias, for ViT-B.
    projections = 768 * (96 + 192 + 384 + 768) + (96 + 192 + 384 + 768)
    resamplings = (96 * 96 * 16 + 96) + (192 * 192 * 4 + 192) + (768 * 768 * 9 + 768)
    assert count_parameters(ReassemblePyramid(768)) == projections + resamplings


@pytest.mark.parametrize(("widths", "channels"), [([96, 192, 384, 768], 256), ([8, 8, 16, 16], 3)])
def test_the_decoder_has_the_parameters_of_the_papers_layers(widths: list[int], channels: int) -> None:
    laterals = sum(9 * width * channels for width in widths)
    # Two units a block, but one in the coarsest, whose other unit DPT's code never calls. A unit has two convolutions
    # without bias, and scale and shift of batch norm.
    units = 7 * 2 * (9 * channels * channels + 2 * channels)
    projects = 4 * (channels * channels + channels)
    smooth = 9 * channels * channels + 2 * channels
    assert count_parameters(DPTDecoder(widths, channels)) == laterals + units + projects + smooth


def test_corners_are_aligned() -> None:
    block = FusionBlock(1)
    for part in (block.level_unit, block.path_unit):
        nn.init.zeros_(part.residual[-1].weight)  # the units pass their input on
    nn.init.ones_(block.project.weight)
    nn.init.zeros_(block.project.bias)
    out = block(torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[0.0, 1.0]]]]), (2, 4))
    # 0 to 3 in steps of 1; with half-pixel centres it would be 0, 0.75, 2.25, 3.
    torch.testing.assert_close(out, torch.tensor([[[[0.0, 1.0, 2.0, 3.0]] * 2]]).reshape(1, 1, 2, 4))


def test_a_residual_unit_leaves_its_input_as_it_is() -> None:
    # MiDaS, which DPT's code grew out of, rectifies in place, and so adds the rectified input.
    x = torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]])
    residual_unit = ResidualConvUnit(1)
    nn.init.zeros_(residual_unit.residual[-1].weight)
    torch.testing.assert_close(residual_unit(x), torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]]), rtol=0, atol=0)
    assert x.flatten().tolist() == [-1.0, 2.0, 3.0, -4.0]


@pytest.mark.parametrize("has_level", [True, False])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_a_fusion_block_is_dpts(has_level: bool, size: tuple[int, int]) -> None:
    block = randomise(FusionBlock(3, has_level=has_level))
    path, level = maps_of([3, 3], [(4, 3), (4, 3)], batch=2)
    with torch.no_grad():
        out = block(path, level if has_level else None, size)
    expected = fusion(path, level if has_level else None, size, block.state_dict(), "")
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("coarsest", [(2, 3), (3, 2)])
def test_the_decoder_is_dpts(coarsest: tuple[int, int]) -> None:
    # The second coarsest has an odd number of rows, as 16-px patches may give.
    height, width = 2 * coarsest[0] - 1, 2 * coarsest[1]
    sides = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width), coarsest]
    maps = maps_of([2, 3, 4, 5], sides)
    decoder = randomise(DPTDecoder([2, 3, 4, 5], 3))
    with torch.no_grad():
        out = decoder(maps)
    weights = decoder.state_dict()
    levels = [F.conv2d(m, weights[f"laterals.{i}.weight"], padding=1) for i, m in enumerate(maps)]
    path = fusion(levels[3], None, sides[2], weights, "fusions.3.")
    path = fusion(path, levels[2], sides[1], weights, "fusions.2.")
    path = fusion(path, levels[1], sides[0], weights, "fusions.1.")
    path = fusion(path, levels[0], (8 * height, 8 * width), weights, "fusions.0.")
    path = normalise(F.conv2d(path, weights["smooth.0.weight"], padding=1), weights, "smooth.1").clamp(min=0)
    assert out.shape == (1, 3, 8 * height, 8 * width)
    torch.testing.assert_close(out, path)


@pytest.mark.parametrize("sides", [[(8, 8), (4, 4), (2, 2), (1, 1)], [(1, 1)] * 4])
def test_a_batch_of_one_trains_on_maps_of_one_pixel(sides: list[tuple[int, int]]) -> None:
    decoder = DPTDecoder([2, 3, 4, 5], 4).train()
    out = decoder([m.float() for m in maps_of([2, 3, 4, 5], sides)])
    out.square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in decoder.parameters())
    # The coarsest block normalises one value a channel: its statistics stay.
    statistics = decoder.fusions[3].path_unit.residual[3]
    assert torch.equal(statistics.running_mean, torch.zeros(4))
    assert torch.equal(statistics.running_var, torch.ones(4))


def test_plain_encoders_get_the_papers_neck_and_hierarchical_ones_their_own_maps() -> None:
    with torch.device("meta"):
        plain = create_model("vit_base_patch16_224", "dpt", classes=2, decoder_channels=8)
        levels = create_model("resnet10t", "dpt", classes=2, decoder_channels=8)
    assert isinstance(plain.neck, ReassemblePyramid)
    assert plain.neck.channels == [96, 192, 384, 768]
    assert isinstance(levels.neck, LevelPyramid)
    assert levels.neck.channels == [64, 128, 256, 512]
    assert plain.decoder(plain.features(torch.empty(1, 3, 48, 64, device="meta"))).shape == (1, 8, 24, 32)
