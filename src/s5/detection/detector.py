"""A one-stage, anchor-free detector of rotated boxes on the project's encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s5.models import Encoder, create_encoder
from s5.models.layers import resize
from s5.models.neck import PYRAMID_STRIDES, LevelPyramid, PlainPyramid
from s5.models.segmentation import check_bands, pad_to_multiple

_CODES = 6  # offset of the centre (2), log of long and short side (2), cosine and sine of twice the angle (2)
_BASE = 4.0  # sides are measured in so many strides
_MOST_LOG = 5.0
_PRIOR = 0.01  # score of every location at the start, so that the many empty ones do not drown the rest (RetinaNet)


class RotatedFCOS(nn.Module):
    """FCOS (Tian et al., ICCV 2019) for rotated boxes: each location of a feature pyramid says what lies on it.

    A location gives a score for each class and one box: the offset of its centre, the logarithms of its sides, and the
    cosine and sine of twice its angle, which, unlike the angle, have no jump where a box has turned half around. There
    is no centre-ness branch: the score itself is taught to fall towards the rim (`s5.detection.assignment`).

    Attributes:
        architecture: JSON-able keywords with which `create_detector` builds the same network again.
    """

    def __init__(
        self, encoder: Encoder, *, classes: int, channels: int, head_convs: int, architecture: dict[str, Any]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck: PlainPyramid | LevelPyramid = (
            PlainPyramid(encoder.channels[-1]) if encoder.is_plain else LevelPyramid(encoder.channels, encoder.strides)
        )
        self.fpn = FeaturePyramid(self.neck.channels, channels)
        self.score_tower, self.box_tower = _tower(channels, head_convs), _tower(channels, head_convs)
        self.scores = nn.Conv2d(channels, classes, 3, padding=1)
        self.boxes = nn.Conv2d(channels, _CODES, 3, padding=1)
        self.level_scale = nn.Parameter(torch.ones(len(PYRAMID_STRIDES)))
        for layer in (self.scores, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.scores.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        self.architecture = architecture

    @property
    def num_classes(self) -> int:
        return int(self.architecture["classes"])

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, L, K] and box codes [B, L, 6] in float32 at the locations of `locations`."""
        check_bands(x_BCHW, int(self.architecture["bands"]))
        levels = self.fpn(self.neck(self.encoder(pad_to_multiple(x_BCHW, self.encoder.multiple))))
        logits, codes = [], []
        for level, scale in zip(levels, self.level_scale, strict=True):
            logits.append(self.scores(self.score_tower(level)).flatten(2))
            codes.append((self.boxes(self.box_tower(level)) * scale).flatten(2))
        return torch.cat(logits, 2).transpose(1, 2).float(), torch.cat(codes, 2).transpose(1, 2).float()

    def locations(self, height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Centres [L, 2] (x, y) in pixels and strides [L] of the locations that an input of this size has."""
        multiple = self.encoder.multiple
        height, width = -(-height // multiple) * multiple, -(-width // multiple) * multiple
        centres, strides = [], []
        for stride in self.strides:
            y, x = torch.meshgrid(
                (torch.arange(-(-height // stride), device=device) + 0.5) * stride,
                (torch.arange(-(-width // stride), device=device) + 0.5) * stride,
                indexing="ij",
            )
            centres.append(torch.stack([x.flatten(), y.flatten()], dim=1))
            strides.append(torch.full((x.numel(),), float(stride), device=device))
        return torch.cat(centres), torch.cat(strides)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the input for one location of each level."""
        patch = self.encoder.strides[-1]
        return (patch // 4, patch // 2, patch, 2 * patch) if self.encoder.is_plain else PYRAMID_STRIDES


class FeaturePyramid(nn.Module):
    """1 x 1 laterals summed top-down and smoothed by a 3 x 3 convolution (FPN, Lin et al., CVPR 2017)."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=True)]
        for finer in range(len(levels) - 2, -1, -1):
            levels[finer] = levels[finer] + resize(levels[finer + 1], levels[finer].shape[-2:])
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]


def _tower(channels: int, convs: int) -> nn.Sequential:
    """Group norm, since the statistics of the levels, which share the tower, differ."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        groups = max(g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0)
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(groups, channels), nn.ReLU()]
    return nn.Sequential(*layers)


def decode_boxes(codes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes [..., L, 5] of codes [..., L, 6] at locations [L, 2]; not yet le90."""
    unit = strides[:, None]
    centre = centres + codes[..., :2] * unit
    sides = codes[..., 2:4].clamp(-_MOST_LOG, _MOST_LOG).exp() * unit * _BASE
    angle = torch.atan2(codes[..., 5], codes[..., 4]) / 2
    return torch.cat([centre, sides, angle[..., None]], dim=-1)


def log_sides(boxes: Tensor, strides: Tensor) -> Tensor:
    """The part of the codes that gives the sides of boxes [..., 5]: [..., 2]."""
    return (boxes[..., 2:4] / (strides[..., None] * _BASE)).log()


def create_detector(
    encoder: str = "resnet18",
    *,
    classes: int,
    bands: int = 3,
    channels: int = 64,
    head_convs: int = 2,
    drop_path: float = 0.0,
    encoder_weights: str | Path | None = None,
    image_size: int | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    checkpointing: bool = False,
) -> RotatedFCOS:
    """Build a detector on one of S5's or timm's encoders.

    Args:
        encoder: As for `s5.models.create_model`.
        classes: Number of classes, at least 1.
        bands: Input bands.
        channels: Width of pyramid and towers.
        head_convs: Convolutions in each tower.
        drop_path, encoder_weights, image_size, encoder_options, checkpointing: As for `s5.models.create_model`.

    Raises:
        ValueError: a value out of range, or an encoder that there is not.
    """
    for name, count in (("classes", classes), ("bands", bands), ("channels", channels), ("head_convs", head_convs)):
        if count < 1:
            raise ValueError(f"detector: {name} must be at least 1, got {count}")
    body = create_encoder(
        encoder, bands=bands, drop_path=drop_path, image_size=image_size, weights=encoder_weights,
        options=encoder_options, checkpointing=checkpointing,
    )  # fmt: skip
    architecture = {
        "encoder": encoder,
        "classes": classes,
        "bands": bands,
        "channels": channels,
        "head_convs": head_convs,
        "drop_path": drop_path,
        "image_size": image_size,
        "encoder_options": dict(encoder_options or {}),
    }
    return RotatedFCOS(body, classes=classes, channels=channels, head_convs=head_convs, architecture=architecture)
