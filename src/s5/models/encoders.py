"""Encoders: any timm network, convolutional or transformer, as a module that returns feature maps.

Shape suffixes in this room: B batch, C bands or channels, H height, W width, K classes, D embedding width.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from s5.models.vit import S5_ENCODERS, PlainViT
from s5.models.weights import load_encoder_weights

# S5's own networks tap these blocks (papers: ViT-B, -L, -H); keyed by depth and width, so that smaller
# networks of the same depth keep evenly spaced taps.
_S5_TAPS = {
    (12, 768): (3, 5, 7, 11),
    (24, 1024): (7, 11, 15, 23),
    (32, 1280): (15, 23, 27, 31),
}

# Narrower networks of timm's, for training on CPUs: the name of the network, and what is different.
SLIM_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18_slim": ("resnet18", {"channels": (64, 96, 128, 192)}),
}

_WRONG_SIZE = ("must match the size", "is invalid for input of size")


class Encoder(nn.Module):
    """What every encoder offers: feature maps, shallow to deep, and the facts a decoder needs about them.

    Attributes:
        name: timm name.
        channels: channels of each map that `forward` returns.
        strides: pixels of the input for one pixel of each map.
        multiple: height and width of the input must be multiples of this.
    """

    def __init__(self, name: str, body: nn.Module, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.channels = channels
        self.strides = strides
        self.multiple = max(strides)

    @property
    def is_plain(self) -> bool:
        """All maps have one stride, as in a plain ViT."""
        return len(set(self.strides)) == 1

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        try:
            return self._maps(x_BCHW)
        except (AssertionError, RuntimeError) as error:
            # timm's fixed-size networks (mixers, BEiT, relative positions) fail somewhere on another size.
            if isinstance(error, AssertionError) or any(sign in str(error) for sign in _WRONG_SIZE):
                height, width = x_BCHW.shape[-2:]
                raise ValueError(
                    f"encoder {self.name!r} does not take an input of {height} x {width} px ({error}); give the tile "
                    "size as image_size if all tiles have one size, or choose an encoder that takes any size"
                ) from error
            raise

    def _maps(self, x_BCHW: Tensor) -> list[Tensor]:
        raise NotImplementedError


class HierarchicalEncoder(Encoder):
    """A network whose maps get coarser with depth; maps finer than stride 4 are left out."""

    def __init__(self, name: str, body: nn.Module) -> None:
        info: Any = body.feature_info
        strides = [int(s) for s in info.reduction()]
        channels = [int(c) for c in info.channels()]
        # One map a stride, the deepest; stride 2 costs a decoder most of its time and says little.
        chosen = {stride: i for i, stride in enumerate(strides) if stride >= 4} or {strides[-1]: len(strides) - 1}
        self.taps = [chosen[stride] for stride in sorted(chosen)]
        super().__init__(name, body, [channels[i] for i in self.taps], [strides[i] for i in self.taps])
        self._channels_last_maps = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")

    def _maps(self, x_BCHW: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(x_BCHW)
        maps = [maps[i] for i in self.taps]
        if self._channels_last_maps:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return maps


class PlainEncoder(Encoder):
    """A single-stride transformer tapped after four of its blocks, without its final norm (as S5 does).

    Position embeddings are interpolated to the input's size.
    """

    def __init__(self, name: str, body: nn.Module, stride: int, width: int) -> None:
        blocks: Any = body.blocks
        self.taps = tap_blocks(len(blocks), width)
        super().__init__(name, body, [width] * len(self.taps), [stride] * len(self.taps))

    def _maps(self, x_BCHW: Tensor) -> list[Tensor]:
        body: Any = self.body
        maps: list[Tensor] = body.forward_intermediates(
            x_BCHW, indices=list(self.taps), norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return maps


class S5Encoder(Encoder):
    """S5's own plain ViT, tapped after four of its blocks; with experts, `task` says whose."""

    body: PlainViT

    def __init__(self, name: str, body: PlainViT, taps: Sequence[int]) -> None:
        depth = len(body.blocks)
        if len(taps) != 4 or not all(isinstance(tap, int) and 0 <= tap < depth for tap in taps):
            raise ValueError(f"encoder {name!r}: taps must be four blocks in 0..{depth - 1}, got {list(taps)}")
        if sorted(set(taps)) != list(taps):
            raise ValueError(f"encoder {name!r}: taps must rise from the first to the last, got {list(taps)}")
        super().__init__(name, body, [body.width] * 4, [body.patch] * 4)
        self.taps = tuple(taps)

    def forward(self, x_BCHW: Tensor, task: int | None = None) -> list[Tensor]:
        maps: list[Tensor] = self.body(x_BCHW, self.taps, task)
        return maps


def tap_blocks(depth: int, width: int) -> tuple[int, int, int, int]:
    """The four blocks whose outputs feed the pyramid: S5's for its ViT-B, -L and -H, else evenly spaced to the last.

    Args:
        depth: number of blocks.
        width: embedding width.
    """
    even = tuple(max((depth * quarter + 3) // 4 - 1, 0) for quarter in (1, 2, 3, 4))
    taps = _S5_TAPS.get((depth, width), even)
    return taps[0], taps[1], taps[2], taps[3]


def create_encoder(
    name: str,
    *,
    bands: int = 3,
    drop_path: float = 0.0,
    image_size: int | None = None,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    checkpointing: bool = False,
) -> Encoder:
    """Build one of S5's networks, or one of timm's, as an encoder. Nothing is downloaded unless `weights` is a hub id.

    Args:
        name: "s5_vit_b", "s5_vit_l", "s5_vit_h" (AAAI 2026), "s5_vit_b_rvsa", "s5_vit_l_rvsa", "s5_vit" with its sizes
            in `options`, "resnet18_slim" (a quarter of the weights of resnet18), or a timm model name, e.g. "resnet18",
            "swin_base_patch4_window7_224".
        bands: input bands.
        drop_path: stochastic depth rate in [0, 1).
        image_size: side in px for which position embeddings are made; None takes the network's own (S5: 512).
        weights: what `s5.models.load_weights` reads, or None for a random start.
        options: further arguments: of `PlainViT` (and `taps`, four blocks) for S5's networks, of `timm.create_model`
            for timm's.
        checkpointing: forget activations and compute them again in the backward pass: slower, in less memory.

    Raises:
        ValueError: an unknown name, a network without feature maps, an option that it does not have.
        FileNotFoundError: `weights` names no file.
    """
    encoder = (
        _create_s5(name, bands, drop_path, image_size, dict(options or {}))
        if name == "s5_vit" or name in S5_ENCODERS
        else _create_timm(name, bands, drop_path, image_size, dict(options or {}))
    )
    if checkpointing:
        _checkpoint(encoder)
    if weights is not None:
        load_encoder_weights(encoder, weights)
    return encoder


def _create_s5(name: str, bands: int, drop_path: float, image_size: int | None, options: dict[str, Any]) -> Encoder:
    sizes = {**S5_ENCODERS.get(name, {}), **options}
    taps = sizes.pop("taps", None)
    missing = [key for key in ("width", "depth", "heads") if key not in sizes]
    if missing:
        raise ValueError(f"encoder 's5_vit': encoder_options lack {missing}; give width, depth and heads")
    if image_size is not None:
        sizes["image_size"] = image_size
    try:
        body = PlainViT(bands=bands, drop_path=drop_path, **sizes)
    except TypeError as error:
        raise ValueError(f"encoder {name!r}: {error}; s5.models.vit.PlainViT lists the options") from error
    return S5Encoder(name, body, tap_blocks(sizes["depth"], sizes["width"]) if taps is None else taps)


def _create_timm(name: str, bands: int, drop_path: float, image_size: int | None, options: dict[str, Any]) -> Encoder:
    of_timm, narrower = SLIM_ENCODERS.get(name, (name, {}))
    if not timm.is_model(of_timm):
        raise ValueError(f"encoder: neither S5 nor timm has a network {name!r}{_did_you_mean(name)}")
    body = _build(of_timm, bands, drop_path, image_size, {**narrower, **options})
    info: Any = body.feature_info
    strides, channels = info.reduction(), info.channels()
    inner: Any = getattr(body, "model", None)
    if len(set(strides)) == 1 and hasattr(inner, "blocks") and hasattr(inner, "forward_intermediates"):
        return PlainEncoder(name, inner, int(strides[-1]), int(channels[-1]))
    return HierarchicalEncoder(name, body)


def _checkpoint(encoder: Encoder) -> None:
    switch: Any = getattr(encoder.body, "set_grad_checkpointing", None)
    try:
        switch(enable=True)
    except (TypeError, AssertionError, AttributeError) as error:
        raise ValueError(f"checkpointing: encoder {encoder.name!r} has none; set checkpointing to false") from error


def _build(name: str, bands: int, drop_path: float, image_size: int | None, given: Mapping[str, Any]) -> nn.Module:
    # Any input size: what ViTs call it, and what Swins do (timm 1.0.20's Swin takes the first and ignores it).
    options: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False}
    if image_size is not None:
        options["img_size"] = image_size
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    while True:
        try:
            body: nn.Module = timm.create_model(
                name, pretrained=False, features_only=True, in_chans=bands, **{**options, **given}
            )
            return body
        except TypeError as error:
            # Which options a network has is known only by asking: convolutional ones have no image size.
            refused = [option for option in options if f"'{option}'" in str(error) and "unexpected" in str(error)]
            if not refused:
                raise ValueError(f"encoder {name!r}: {error}; take it out of encoder_options") from error
            if refused[0] == "drop_path_rate":
                raise ValueError(
                    f"drop_path: encoder {name!r} has none, got {drop_path}; set drop_path to 0"
                ) from error
            del options[refused[0]]
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise ValueError(
                f"encoder: {name!r} cannot return feature maps with bands={bands}, image_size={image_size} ({error}); "
                "choose another network (timm.list_models() names them)"
            ) from error


def _did_you_mean(name: str) -> str:
    near = difflib.get_close_matches(name, [*S5_ENCODERS, *SLIM_ENCODERS, *timm.list_models()], n=3, cutoff=0.6)
    if not near:
        return "; timm.list_models() names what there is"
    return "; did you mean " + " or ".join(repr(n) for n in near) + "?"


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers do not count."""
    return sum(p.numel() for p in module.parameters())


def pooled(map_BDHW: Tensor) -> Tensor:
    """The mean of a feature map over its pixels, [B, D] in float32."""
    return map_BDHW.to(torch.float32).mean(dim=(-2, -1))
