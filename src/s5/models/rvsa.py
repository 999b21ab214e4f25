"""Rotated varied-size window attention, the attention of most blocks of the RVSA vision transformers.

Shape suffixes in this room: B batch, N tokens, D embedding width, H and W sides of the grid padded to whole windows,
A attention heads, V windows of the padded grid, P positions in a window, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RotatedWindowAttention(nn.Module):
    """Self-attention in windows whose keys are read from a shifted, scaled and rotated window, one per head.

    Wang et al., "Advancing Plain Vision Transformer Towards Remote Sensing Foundation Model" (TGRS 2022). A head reads
    the key of position p of a window with centre c at c + R(angle) ((1 + scale) (p - c)) + offset, where offset, scale
    and angle are predicted from the mean of the window's tokens; queries stay in place. Parameters and buffers have the
    names and shapes of the released ViT + RVSA networks (also those of MTP), which add two position biases to the
    logits: decomposed relative positions (Li et al., MViTv2, 2022) and the table of Swin (Liu et al., 2021).

    Args:
        width: embedding width D, a multiple of `heads`.
        heads: number of attention heads.
        window: side of a window in tokens, 1 or more; 7 in the released networks.

    Shape: tokens [B, N, D] of a grid of (h, w), N = h * w, row by row, to the same. Any h and w of 1 or more.

    Raises:
        ValueError: a width that is no multiple of the heads, a window below 1, tokens that do not fill the grid.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, *, window: int = 7) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(
                f"RotatedWindowAttention: width {width} cannot be split over {heads} heads; choose a width that is a "
                "multiple of the heads, both 1 or more"
            )
        if window < 1:
            raise ValueError(f"RotatedWindowAttention: window is {window} tokens, expected 1 or more (released: 7)")
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        distance = _distances(window)
        row_PP = distance.repeat_interleave(window, 0).repeat_interleave(window, 1)
        self.register_buffer("relative_position_index", row_PP * (2 * window - 1) + distance.repeat(window, window))
        self.sampling_offsets = _window_predictor(width, 2 * heads, window)
        self.sampling_scales = _window_predictor(width, 2 * heads, window)
        self.sampling_angles = _window_predictor(width, heads, window)
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x_BND: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend within the windows of a grid of `size` (height, width) tokens."""
        height, width = size
        batch, tokens, dim = x_BND.shape
        if min(size) < 1 or tokens != height * width:
            raise ValueError(
                f"RotatedWindowAttention: got {tokens} tokens for a grid of {height} x {width}, expected "
                f"{height * width}; give the grid's (height, width) and leave class and register tokens out"
            )
        (top, bottom), (left, right) = (_margins(side, self.window) for side in size)
        padding = (0, 0, left, right, top, bottom)
        x_BHWD = F.pad(x_BND.reshape(batch, height, width, dim), padding)
        # Padding follows the projection: a padded token is a zero key and value, without the bias, and not masked out.
        qkv_BHWD = F.pad(self.qkv(x_BND).reshape(batch, height, width, 3 * dim), padding)
        qkv_BAEHW = qkv_BHWD.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 4, 5, 1, 2)
        grid_BAHW2 = self._sampling_grid(x_BHWD.permute(0, 3, 1, 2), size)
        k_BAEHW, v_BAEHW = self._sample(qkv_BAEHW[1:], grid_BAHW2)
        q_VAPE, k_VAPE, v_VAPE = (self._to_windows(m) for m in (qkv_BAEHW[0], k_BAEHW, v_BAEHW))
        out_VAPE = F.scaled_dot_product_attention(q_VAPE, k_VAPE, v_VAPE, attn_mask=self._position_bias(q_VAPE))
        out_BHWD = self._from_windows(out_VAPE, x_BHWD.shape)
        out_BND = out_BHWD[:, top : top + height, left : left + width].reshape(batch, tokens, dim)
        projected: Tensor = self.proj(out_BND)
        return projected

    def _sampling_grid(self, x_BDHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Where each head reads the key of each position: (x, y), -1 to 1 from the first to the last token."""
        rows, columns = (side // self.window for side in x_BDHW.shape[-2:])
        # Not below float32: in bf16 a coordinate would be off by up to 1/16 of a token on a grid of 64.
        dtype = torch.promote_types(x_BDHW.dtype, torch.float32)
        shape = (-1, self.heads, 2, rows, 1, columns, 1)
        offset_x, offset_y = self.sampling_offsets(x_BDHW).to(dtype).view(shape).unbind(2)
        scale_x, scale_y = (1 + self.sampling_scales(x_BDHW).to(dtype)).view(shape).unbind(2)
        angle = self.sampling_angles(x_BDHW).to(dtype).view(-1, self.heads, rows, 1, columns, 1)
        centre_y, local_y = _window_coordinates(rows, self.window, angle)
        centre_x, local_x = _window_coordinates(columns, self.window, angle)
        y = local_y.view(-1, 1, 1) * scale_y
        x = local_x * scale_x
        cos, sin = angle.cos(), angle.sin()
        # As released: x is divided by the windows in the height and y by those in the width, both of the unpadded grid
        # (zero for a grid below a window, which would make the coordinates infinite); and the rotation is one of these
        # coordinates, hence a shear where height and width differ.
        windows_y, windows_x = (max(1, side // self.window) for side in size)
        grid_x = centre_x.view(-1, 1) + x * cos - y * sin + offset_x / windows_y
        grid_y = centre_y.view(-1, 1, 1, 1) + y * cos + x * sin + offset_y / windows_x
        return torch.stack((grid_x, grid_y), dim=-1).reshape(-1, self.heads, *x_BDHW.shape[-2:], 2)

    def _sample(self, kv_BAEHW: Tensor, grid_BAHW2: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, [2, B, A, E, H, W], at the points of the grid; bilinear, zero outside of it."""
        pairs = kv_BAEHW.permute(1, 2, 0, 3, 4, 5)
        # One call for both; in the grid's type, since grid_sample takes no two types and bf16 would lose the weights.
        maps = pairs.flatten(2, 3).flatten(0, 1).to(grid_BAHW2.dtype)
        sampled: Tensor = F.grid_sample(maps, grid_BAHW2.flatten(0, 1), align_corners=True)
        k_BAEHW, v_BAEHW = sampled.to(kv_BAEHW.dtype).reshape(pairs.shape).unbind(2)
        return k_BAEHW, v_BAEHW

    def _position_bias(self, q_VAPE: Tensor) -> Tensor:
        """What is added to the logits of each query, [V, A, P, P]; as released, from queries that are not scaled."""
        distance = _distances(self.window, q_VAPE.device)
        q = q_VAPE.unflatten(2, (self.window, self.window))
        bias_h = torch.einsum("vayxe,yke->vayxk", q, self.rel_pos_h[distance])
        bias_w = torch.einsum("vayxe,xke->vayxk", q, self.rel_pos_w[distance])
        decomposed = (bias_h.unsqueeze(-1) + bias_w.unsqueeze(-2)).flatten(4, 5).flatten(2, 3)
        table = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        return (decomposed + table).to(q_VAPE.dtype)

    def _to_windows(self, map_BAEHW: Tensor) -> Tensor:
        split = map_BAEHW.unflatten(4, (-1, self.window)).unflatten(3, (-1, self.window))
        x_VAPE: Tensor = split.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5).flatten(0, 2)
        return x_VAPE

    def _from_windows(self, x_VAPE: Tensor, shape_BHWD: torch.Size) -> Tensor:
        batch, height, width, _ = shape_BHWD
        rows, columns = height // self.window, width // self.window
        windows = x_VAPE.view(batch, rows, columns, self.heads, self.window, self.window, -1)
        return windows.permute(0, 1, 4, 2, 5, 3, 6).reshape(shape_BHWD)


def _window_predictor(width: int, outputs: int, window: int) -> nn.Sequential:
    """From a padded map to `outputs` numbers a window, zero at first.

    The released code means to start from zero but never calls that method; we do, for all three predictors, so that
    weights of a plain transformer start as plain window attention. Files overwrite it.
    """
    conv = nn.Conv2d(width, outputs, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(nn.AvgPool2d(window, window), nn.LeakyReLU(), conv)


def _margins(side: int, window: int) -> tuple[int, int]:
    """Tokens to add before and after `side` of them to make whole windows; the odd one goes after."""
    total = -side % window
    return total // 2, total - total // 2


def _window_coordinates(windows: int, window: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the windows along an axis, and a window's positions about its centre, where the axis is -1 to 1."""
    # A single token has no extent: all coordinates name it.
    step = 2 / max(windows * window - 1, 1)
    local = torch.arange(window, dtype=like.dtype, device=like.device) - (window - 1) / 2
    centre = torch.arange(windows, dtype=like.dtype, device=like.device) * window + (window - 1) / 2
    return centre * step - 1, local * step


def _distances(window: int, device: torch.device | None = None) -> Tensor:
    """Rows from a key to a query, from 0 for the query `window` - 1 before, as an index: [window, window]."""
    position = torch.arange(window, device=device)
    return position[:, None] - position[None, :] + window - 1
