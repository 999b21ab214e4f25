"""S5's plain ViT: no class token, no final norm, position embeddings that follow the image (papers: 1.3, 1.4)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s5.models.moe import Mlp, MoEMlp
from s5.models.rvsa import RotatedWindowAttention

# The papers' sizes. RVSA: every so manieth block attends to the whole image, the others to windows of 7 x 7 tokens.
S5_ENCODERS: dict[str, dict[str, int]] = {
    "s5_vit_b": {"width": 768, "depth": 12, "heads": 12},
    "s5_vit_l": {"width": 1024, "depth": 24, "heads": 16},
    "s5_vit_h": {"width": 1280, "depth": 32, "heads": 16},
    "s5_vit_b_rvsa": {"width": 768, "depth": 12, "heads": 12, "window": 7, "global_every": 3},
    "s5_vit_l_rvsa": {"width": 1024, "depth": 24, "heads": 16, "window": 7, "global_every": 6},
}

_LAYER_NORM = partial(nn.LayerNorm, eps=1e-5)  # mmsegmentation's default, which the released weights were trained with


class Attention(nn.Module):
    """Multi-head self-attention over all tokens.

    Attributes:
        fused: use `scaled_dot_product_attention`; False writes the products out, for comparison.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused = True
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 (as windowed attention takes it)
        batch, tokens, width = x_BND.shape
        q, k, v = self.qkv(x_BND).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Block(nn.Module):
    """Pre-norm transformer block; the feed-forward layer is dense, or has an expert for each data set."""

    def __init__(self, width: int, attention: nn.Module, mlp: Mlp | MoEMlp, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = _LAYER_NORM(width), _LAYER_NORM(width)
        self.attn = attention
        self.mlp = mlp
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x_BND: Tensor, size: tuple[int, int], task: int | None) -> Tensor:
        x_BND = x_BND + self.drop_path(self.attn(self.norm1(x_BND), size))
        out: Tensor = x_BND + self.drop_path(self.mlp(self.norm2(x_BND), task))
        return out


class PlainViT(nn.Module):
    """The encoder of S5 (AAAI 2026) at any width and depth.

    Args:
        width: embedding width.
        depth: number of blocks.
        heads: attention heads; must divide `width`.
        bands: input bands.
        patch: side of a patch in px.
        image_size: side in px that the position embedding is made for; other sizes interpolate it.
        mlp_ratio: hidden width of the feed-forward layers over `width`.
        drop_path: stochastic depth rate of the last block, rising linearly from 0 at the first.
        window: side in tokens of RVSA's windows; 0 attends to the whole image everywhere.
        global_every: with a window, every so manieth block attends to the whole image.
        experts: number of data sets with an expert of their own in each feed-forward layer; 0 is a dense network.
        part_features: outputs of a feed-forward layer that belong to the expert (papers: 256).

    Shape: [B, bands, H, W] with H and W multiples of `patch` to maps [B, width, H / patch, W / patch].

    Raises:
        ValueError: heads do not divide the width, or a number is out of range.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        bands: int = 3,
        patch: int = 16,
        image_size: int = 512,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        window: int = 0,
        global_every: int = 3,
        experts: int = 0,
        part_features: int = 256,
    ) -> None:
        super().__init__()
        _check(width, depth, heads, patch, image_size)
        self.width, self.patch, self.grid = width, patch, max(1, image_size // patch)
        self.checkpointing = False
        self.patch_embed = PatchEmbed(None, patch, bands, width, flatten=False, strict_img_size=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width))
        hidden = round(width * mlp_ratio)

        def attention(block: int) -> nn.Module:
            whole_image = window == 0 or (block + 1) % global_every == 0
            return Attention(width, heads) if whole_image else RotatedWindowAttention(width, heads, window=window)

        def mlp() -> Mlp | MoEMlp:
            return MoEMlp(width, hidden, experts, part_features) if experts else Mlp(width, hidden)

        self.blocks = nn.ModuleList(
            Block(width, attention(i), mlp(), drop_path * i / max(1, depth - 1)) for i in range(depth)
        )
        self._initialise()

    def forward(self, x_BCHW: Tensor, taps: tuple[int, ...], task: int | None = None) -> list[Tensor]:
        """The outputs of the blocks at `taps` as maps; `task` is the position of the data set among the experts."""
        x_BDHW = self.patch_embed(x_BCHW)
        size = (x_BDHW.shape[-2], x_BDHW.shape[-1])
        x_BND = x_BDHW.flatten(2).transpose(1, 2) + self._positions(size)
        maps = []
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            if self.checkpointing and torch.is_grad_enabled():
                x_BND = checkpoint(block, x_BND, size, task, use_reentrant=False)
            else:
                x_BND = block(x_BND, size, task)
            if index in taps:
                maps.append(x_BND.transpose(1, 2).reshape(len(x_BND), self.width, *size))
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Forget activations inside blocks and compute them again in the backward pass (timm's name for it)."""
        self.checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 (timm's signature)
        """Depths of parameters, as timm's networks give them."""
        return {"stem": r"^pos_embed|^patch_embed", "blocks": [(r"^blocks\.(\d+)", None)]}

    def _positions(self, size: tuple[int, int]) -> Tensor:
        if size == (self.grid, self.grid):
            return self.pos_embed
        resampled: Tensor = resample_abs_pos_embed(
            self.pos_embed, list(size), [self.grid, self.grid], num_prefix_tokens=0
        )
        return resampled

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for name, module in self.named_modules():
            # What RVSA samples with starts where its own module puts it.
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None and name:
                    nn.init.zeros_(module.bias)


def _check(width: int, depth: int, heads: int, patch: int, image_size: int) -> None:
    for name, value in (
        ("width", width),
        ("depth", depth),
        ("heads", heads),
        ("patch", patch),
        ("image_size", image_size),
    ):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"s5_vit: {name} must be a whole number of at least 1, got {value!r}")
    if width % heads:
        raise ValueError(f"s5_vit: {heads} heads do not divide a width of {width}; choose a divisor")
