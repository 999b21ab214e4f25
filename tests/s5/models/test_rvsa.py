"""Rotated window attention against loops over windows, heads and positions, and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from s5.models.rvsa import RotatedWindowAttention


def make_attention(width: int, heads: int, window: int, *, seed: int = 0, std: float = 0.3) -> RotatedWindowAttention:
    """All parameters random, in float64."""
    torch.manual_seed(seed)
    attention = RotatedWindowAttention(width, heads, window=window).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=std)
    return attention


def zero(*modules: nn.Module | nn.Parameter) -> None:
    for module in modules:
        for parameter in [module] if isinstance(module, nn.Parameter) else module.parameters():
            nn.init.zeros_(parameter)


def zero_predictors(attention: RotatedWindowAttention) -> None:
    zero(attention.sampling_offsets, attention.sampling_scales, attention.sampling_angles)


def zero_biases(attention: RotatedWindowAttention) -> None:
    zero(attention.rel_pos_h, attention.rel_pos_w, attention.relative_position_bias_table)


def bilinear(map_EHW: Tensor, x: float, y: float) -> Tensor:
    """The map at pixel (x, y), from four pixels; those outside of it are zero."""
    value = torch.zeros_like(map_EHW[:, 0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < map_EHW.shape[1] and 0 <= column < map_EHW.shape[2]:
                value = value + (1 - abs(x - column)) * (1 - abs(y - row)) * map_EHW[:, row, column]
    return value


def predict(predictor: nn.Sequential, window_DPP: Tensor) -> list[float]:
    mean = window_DPP.sum(dim=(1, 2)) / window_DPP[0].numel()
    activated = torch.where(mean > 0, mean, 0.01 * mean)
    conv = predictor[2]
    return (conv.weight[:, :, 0, 0] @ activated + conv.bias).tolist()


def loop_attention(attention: RotatedWindowAttention, x_ND: Tensor, size: tuple[int, int]) -> Tensor:
    """The paper's equations for one image, one key of one query of one head at a time, in pixels of the padded map."""
    (h, w), window, heads = size, attention.window, attention.heads
    width = x_ND.shape[1]
    dim = width // heads
    padded_h, padded_w = math.ceil(h / window) * window, math.ceil(w / window) * window
    top, left = (padded_h - h) // 2, (padded_w - w) // 2
    tokens_DHW = torch.zeros(width, padded_h, padded_w, dtype=x_ND.dtype)
    qkv_CHW = torch.zeros(3 * width, padded_h, padded_w, dtype=x_ND.dtype)
    for row in range(h):
        for column in range(w):
            token = x_ND[row * w + column]
            tokens_DHW[:, top + row, left + column] = token
            qkv_CHW[:, top + row, left + column] = attention.qkv.weight @ token + attention.qkv.bias
    out_DHW = torch.zeros_like(tokens_DHW)
    middle = (window - 1) / 2
    for first_row in range(0, padded_h, window):
        for first_column in range(0, padded_w, window):
            tokens = tokens_DHW[:, first_row : first_row + window, first_column : first_column + window]
            offsets = predict(attention.sampling_offsets, tokens)
            scales = predict(attention.sampling_scales, tokens)
            angles = predict(attention.sampling_angles, tokens)
            for head in range(heads):
                q_EHW, k_EHW, v_EHW = (
                    qkv_CHW[part * width + head * dim : part * width + (head + 1) * dim] for part in range(3)
                )
                cos, sin = math.cos(angles[head]), math.sin(angles[head])
                # From coordinates, -1 to 1, to pixels; x is divided by windows in the height, as released.
                shift_x = offsets[2 * head] / max(h // window, 1) * (padded_w - 1) / 2
                shift_y = offsets[2 * head + 1] / max(w // window, 1) * (padded_h - 1) / 2
                aspect = (padded_w - 1) / max(padded_h - 1, 1)
                keys, values = {}, {}
                for i in range(window):
                    for j in range(window):
                        dx = (j - middle) * (1 + scales[2 * head])
                        dy = (i - middle) * (1 + scales[2 * head + 1])
                        px = first_column + middle + dx * cos - dy * sin * aspect + shift_x
                        py = first_row + middle + dy * cos + dx * sin / aspect + shift_y
                        keys[i, j], values[i, j] = bilinear(k_EHW, px, py), bilinear(v_EHW, px, py)
                for a in range(window):
                    for b in range(window):
                        q = q_EHW[:, first_row + a, first_column + b]
                        logits = []
                        for (i, j), key in keys.items():
                            down, right = a - i + window - 1, b - j + window - 1
                            logit = (q @ key) / math.sqrt(dim)
                            logit = logit + q @ attention.rel_pos_h[down] + q @ attention.rel_pos_w[right]
                            entry = down * (2 * window - 1) + right
                            logits.append(logit + attention.relative_position_bias_table[entry, head])
                        weights = torch.stack(logits).softmax(0)
                        mixed = sum(weight * value for weight, value in zip(weights, values.values(), strict=True))
                        out_DHW[head * dim : (head + 1) * dim, first_row + a, first_column + b] = mixed
    rows = [out_DHW[:, top + row, left + column] for row in range(h) for column in range(w)]
    return torch.stack(rows) @ attention.proj.weight.T + attention.proj.bias


def plain_window_attention(attention: RotatedWindowAttention, x_ND: Tensor, size: tuple[int, int]) -> Tensor:
    """Full attention among the tokens of each window of a grid of whole windows, token by token."""
    window, heads, width = attention.window, attention.heads, x_ND.shape[1]
    out_ND = torch.zeros_like(x_ND)
    places = [(row, column) for row in range(size[0]) for column in range(size[1])]
    for n, (row, column) in enumerate(places):
        together = [
            m for m, (r, c) in enumerate(places) if r // window == row // window and c // window == column // window
        ]
        q_AE = (attention.qkv(x_ND[n])[:width]).view(heads, -1)
        k_MAE = torch.stack([attention.qkv(x_ND[m])[width : 2 * width].view(heads, -1) for m in together])
        v_MAE = torch.stack([attention.qkv(x_ND[m])[2 * width :].view(heads, -1) for m in together])
        for head in range(heads):
            weights = (k_MAE[:, head] @ q_AE[head] / math.sqrt(width // heads)).softmax(0)
            out_ND[n, head * (width // heads) : (head + 1) * (width // heads)] = weights @ v_MAE[:, head]
    return out_ND @ attention.proj.weight.T + attention.proj.bias


@pytest.mark.parametrize(("size", "window"), [((3, 3), 3), ((4, 6), 2), ((6, 3), 3)])
@torch.no_grad()
def test_without_predictions_and_biases_it_is_plain_window_attention(size: tuple[int, int], window: int) -> None:
    attention = make_attention(8, 2, window)
    zero_predictors(attention)
    zero_biases(attention)
    x_BND = torch.randn(2, size[0] * size[1], 8, dtype=torch.float64)
    expected = torch.stack([plain_window_attention(attention, x_ND, size) for x_ND in x_BND])
    torch.testing.assert_close(attention(x_BND, size), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((3, 3), 3),
        ((4, 6), 2),
        ((6, 3), 3),
        ((5, 4), 3),
        ((4, 7), 3),
        ((2, 2), 3),
        ((1, 5), 2),
        ((1, 1), 2),
        ((3, 2), 1),
    ],
)
@torch.no_grad()
def test_it_is_the_loop_over_windows_heads_and_keys(size: tuple[int, int], window: int) -> None:
    attention = make_attention(6, 3, window, std=0.5)
    x_BND = torch.randn(2, size[0] * size[1], 6, dtype=torch.float64)
    expected = torch.stack([loop_attention(attention, x_ND, size) for x_ND in x_BND])
    torch.testing.assert_close(attention(x_BND, size), expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_released_window_of_7_is_the_loop_too() -> None:
    attention = make_attention(4, 2, 7)
    x_BND = torch.randn(1, 8 * 5, 4, dtype=torch.float64)
    torch.testing.assert_close(
        attention(x_BND, (8, 5))[0], loop_attention(attention, x_BND[0], (8, 5)), rtol=0, atol=1e-9
    )


def attention_with_moved_keys(
    attention: RotatedWindowAttention, x_ND: Tensor, move: torch.Tensor, decomposed: bool
) -> Tensor:
    """One window whose keys and values at position p are those of the token `move[p]`, with decomposed positions."""
    window, width = attention.window, x_ND.shape[1]
    q, k, v = (x_ND @ attention.qkv.weight.T + attention.qkv.bias).split(width, dim=1)
    logits = q @ k[move].T / math.sqrt(width)
    if decomposed:
        for n in range(window**2):
            for m in range(window**2):
                down, right = n // window - m // window + window - 1, n % window - m % window + window - 1
                logits[n, m] += q[n] @ (attention.rel_pos_h[down] + attention.rel_pos_w[right])
    return logits.softmax(1) @ v[move] @ attention.proj.weight.T + attention.proj.bias


@pytest.mark.parametrize("turns", [-1, 1, 2, 4])
@torch.no_grad()
def test_quarter_turns_permute_the_keys(turns: int) -> None:
    # x right and y down: (x, y) is read at (-y, x), so row i, column j reads row j, column last - i.
    attention = make_attention(5, 1, 3)
    zero_predictors(attention)
    zero(attention.relative_position_bias_table)
    attention.sampling_angles[2].bias.fill_(turns * math.pi / 2)
    x_BND = torch.randn(1, 9, 5, dtype=torch.float64)
    move = torch.rot90(torch.arange(9).view(3, 3), turns).flatten()
    if turns == 1:
        assert move.tolist() == [2, 5, 8, 1, 4, 7, 0, 3, 6]
    expected = attention_with_moved_keys(attention, x_BND[0], move, decomposed=True)
    torch.testing.assert_close(attention(x_BND, (3, 3))[0], expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_without_biases_a_quarter_turn_changes_nothing() -> None:
    # The same keys and values in another order: a softmax's sum does not see it.
    attention = make_attention(6, 2, 3)
    zero_predictors(attention)
    zero_biases(attention)
    x_BND = torch.randn(2, 9, 6, dtype=torch.float64)
    before = attention(x_BND, (3, 3))
    attention.sampling_angles[2].bias.fill_(math.pi / 2)
    torch.testing.assert_close(attention(x_BND, (3, 3)), before, rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_window_scaled_to_nothing_attends_to_its_centre_alone() -> None:
    attention = make_attention(6, 2, 3)
    zero_predictors(attention)
    attention.sampling_scales[2].bias.fill_(-1)
    x_BND = torch.randn(1, 9, 6, dtype=torch.float64)
    centre = attention.proj(attention.qkv(x_BND[:, 4])[:, 12:])
    torch.testing.assert_close(attention(x_BND, (3, 3)), centre.expand(9, 6)[None], rtol=0, atol=1e-9)


@torch.no_grad()
def test_an_offset_of_one_window_reads_the_neighbour() -> None:
    # 2 x 2 windows of 2 on a map of 4: windows are 2 tokens apart, coordinates 2 * 2 / 3, halved by the division by 2.
    attention = make_attention(4, 1, 2)
    zero_predictors(attention)
    attention.sampling_scales[2].bias.fill_(-1)
    attention.sampling_offsets[2].bias.copy_(torch.tensor([2 * 2 * 2 / 3, 0.0], dtype=torch.float64))
    x_BND = torch.randn(1, 16, 4, dtype=torch.float64)
    out = attention(x_BND, (4, 4)).view(4, 4, 4)
    right = attention.qkv(x_BND)[0, :, 8:].view(4, 4, 4)[0:2, 2:4].mean(dim=(0, 1))
    torch.testing.assert_close(out[0, 0], attention.proj(right), rtol=0, atol=1e-9)
    # The windows on the right read outside of the map: zeros.
    torch.testing.assert_close(out[0, 3], attention.proj.bias, rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_window_of_one_token_passes_values_through() -> None:
    attention = make_attention(6, 2, 1)
    zero(attention.sampling_offsets)
    for size in [(3, 4), (1, 4), (1, 1)]:
        x_BND = torch.randn(2, size[0] * size[1], 6, dtype=torch.float64)
        expected = attention.proj(attention.qkv(x_BND)[..., 12:])
        torch.testing.assert_close(attention(x_BND, size), expected, rtol=0, atol=1e-9)


def test_it_starts_as_plain_window_attention_with_a_table() -> None:
    torch.manual_seed(0)
    attention = RotatedWindowAttention(8, 2, window=3)
    for predictor in (attention.sampling_offsets, attention.sampling_scales, attention.sampling_angles):
        assert not any(parameter.any() for parameter in predictor.parameters())
    assert not attention.rel_pos_h.any() and not attention.rel_pos_w.any()
    assert 0 < attention.relative_position_bias_table.abs().mean() < 0.04


def test_names_and_shapes_are_those_of_the_released_vit_b() -> None:
    with torch.device("meta"):
        state = RotatedWindowAttention(768, 12).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "qkv.weight": (2304, 768),
        "qkv.bias": (2304,),
        "proj.weight": (768, 768),
        "proj.bias": (768,),
        "rel_pos_h": (13, 64),
        "rel_pos_w": (13, 64),
        "relative_position_bias_table": (169, 12),
        "relative_position_index": (49, 49),
        "sampling_offsets.2.weight": (24, 768, 1, 1),
        "sampling_offsets.2.bias": (24,),
        "sampling_scales.2.weight": (24, 768, 1, 1),
        "sampling_scales.2.bias": (24,),
        "sampling_angles.2.weight": (12, 768, 1, 1),
        "sampling_angles.2.bias": (12,),
    }


def test_the_index_of_the_table_is_that_of_swin() -> None:
    # Row 0 is the first token: keys to its right and below lie at smaller and smaller entries.
    index = RotatedWindowAttention(4, 1, window=2).relative_position_index
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


@pytest.mark.parametrize("random", [True, False], ids=["random", "initial"])
def test_gradients_reach_every_parameter(random: bool) -> None:
    torch.manual_seed(0)
    attention = make_attention(8, 2, 3) if random else RotatedWindowAttention(8, 2, window=3).double()
    x_BND = torch.randn(2, 7 * 5, 8, dtype=torch.float64, requires_grad=True)
    attention(x_BND, (7, 5)).square().sum().backward()
    assert x_BND.grad is not None and x_BND.grad.isfinite().all()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gradients_are_the_finite_differences() -> None:
    attention = make_attention(4, 2, 2, seed=1)
    x_BND = torch.randn(1, 3 * 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: attention(x, (3, 4)), (x_BND, *attention.parameters()))


@torch.no_grad()
def test_bfloat16_is_close_to_float32() -> None:
    attention = make_attention(32, 4, 7, std=0.1).float()
    x_BND = torch.randn(2, 16 * 20, 32)
    expected = attention(x_BND, (16, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attention(x_BND, (16, 20))
    pure = attention.bfloat16()(x_BND.bfloat16(), (16, 20))
    for out in (mixed, pure):
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.05 * expected.std().item())


def test_autocast_trains() -> None:
    attention = make_attention(8, 2, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = attention(torch.randn(1, 20, 8), (4, 5)).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in attention.parameters())


@torch.no_grad()
def test_tokens_of_a_channels_last_map_give_the_same() -> None:
    attention = make_attention(8, 2, 3)
    map_BDHW = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    rows = map_BDHW.flatten(2).transpose(1, 2)
    last = map_BDHW.contiguous(memory_format=torch.channels_last).flatten(2).transpose(1, 2)
    assert rows.stride() != last.stride()
    torch.testing.assert_close(attention(last, (4, 5)), attention(rows.contiguous(), (4, 5)))
    torch.testing.assert_close(attention(rows, (4, 5)), attention(rows.contiguous(), (4, 5)))


@pytest.mark.parametrize("size", [(7, 7), (5, 9)])
@torch.no_grad()
def test_the_exported_program_gives_the_same(size: tuple[int, int]) -> None:
    attention = make_attention(8, 2, 7).float().eval()
    x_BND = torch.randn(2, size[0] * size[1], 8)
    program = torch.export.export(attention, (x_BND, size))
    torch.testing.assert_close(program.module()(x_BND, size), attention(x_BND, size))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (6, 8), (1, 15)])
def test_grids_below_a_window_are_finite_and_trainable(size: tuple[int, int]) -> None:
    attention = make_attention(8, 2, 7).float()
    x_BND = torch.randn(2, size[0] * size[1], 8, requires_grad=True)
    out = attention(x_BND, size)
    out.square().sum().backward()
    assert out.shape == x_BND.shape and out.isfinite().all()
    assert x_BND.grad is not None and x_BND.grad.isfinite().all()


@pytest.mark.parametrize(("width", "heads"), [(10, 3), (8, 0), (0, 2)])
def test_a_width_that_the_heads_do_not_divide_is_refused(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"width {width} cannot be split over {heads} heads; choose a width"):
        RotatedWindowAttention(width, heads)


@pytest.mark.parametrize("window", [0, -7])
def test_a_window_below_one_token_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"window is {window} tokens, expected 1 or more"):
        RotatedWindowAttention(8, 2, window=window)


@pytest.mark.parametrize(("tokens", "size"), [(13, (3, 4)), (0, (0, 4)), (12, (-3, -4))])
def test_tokens_that_do_not_fill_the_grid_are_refused(tokens: int, size: tuple[int, int]) -> None:
    message = rf"got {tokens} tokens for a grid of {size[0]} x {size[1]}, expected {size[0] * size[1]}; give the grid"
    with pytest.raises(ValueError, match=message):
        RotatedWindowAttention(8, 2)(torch.randn(1, tokens, 8), size)
