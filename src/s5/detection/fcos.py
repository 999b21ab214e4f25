"""A one-stage, anchor-free head for rotated boxes, light enough to be trained on a CPU."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from s5.detection.assignment import detection_loss
from s5.detection.codes import LOCATION_CODES, decode_locations
from s5.detection.fpn import FeaturePyramid
from s5.detection.targets import Targets
from s5.losses import Pool, alone

_PRIOR = 0.01  # score of every location at the start, so that the many empty ones do not drown the rest (RetinaNet)


class RotatedFCOSHead(nn.Module):
    """FCOS (Tian et al., ICCV 2019) for rotated boxes: each location of a feature pyramid says what lies on it.

    A location gives a score for each class and one box: the offset of its centre, the logarithms of its sides, and the
    cosine and sine of twice its angle, which, unlike the angle, have no jump where a box has turned half around. There
    is no centre-ness branch: the score itself is taught to fall towards the rim (`s5.detection.assignment`).
    """

    def __init__(
        self, in_channels: list[int], strides: tuple[int, ...], *, classes: int, channels: int, head_convs: int
    ) -> None:
        super().__init__()
        self.strides = strides
        self.fpn = FeaturePyramid(in_channels, channels)
        self.score_tower, self.box_tower = _tower(channels, head_convs), _tower(channels, head_convs)
        self.scores = nn.Conv2d(channels, classes, 3, padding=1)
        self.boxes = nn.Conv2d(channels, LOCATION_CODES, 3, padding=1)
        self.level_scale = nn.Parameter(torch.ones(len(strides)))
        for layer in (self.scores, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.scores.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]

    def forward(
        self, maps: list[Tensor], shape: tuple[int, int], targets: Targets | None = None, pool: Pool = alone
    ) -> dict[str, Tensor]:
        """As `s5.detection.detector.Head` says; the losses are ``score_loss`` and ``box_loss``."""
        levels = self.fpn(maps)
        logits, codes = self._predict(levels)
        centres, strides = locations(levels, self.strides)
        with torch.autocast(logits.device.type, enabled=False):
            if targets is None:
                within = (centres[:, 0] < shape[1]) & (centres[:, 1] < shape[0])  # what is padded holds nothing
                return {
                    "boxes": decode_locations(codes, centres, strides),
                    "scores": logits.sigmoid() * within[:, None],
                }
            column, row = (centres[:, i].long().clamp(max=targets.valid.shape[-1 - i] - 1) for i in (0, 1))
            seen = replace(targets, valid=targets.valid[:, row, column])
            return detection_loss(logits, codes, centres, strides, seen, pool)

    def _predict(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, L, K] and box codes [B, L, 6] in float32."""
        logits, codes = [], []
        for level, scale in zip(levels, self.level_scale, strict=True):
            logits.append(self.scores(self.score_tower(level)).flatten(2))
            codes.append((self.boxes(self.box_tower(level)) * scale).flatten(2))
        return torch.cat(logits, 2).transpose(1, 2).float(), torch.cat(codes, 2).transpose(1, 2).float()


def locations(levels: list[Tensor], level_strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Centres [L, 2] (x, y) in pixels and strides [L] of the locations of feature maps [B, C, H, W]."""
    centres, strides = [], []
    for level, stride in zip(levels, level_strides, strict=True):
        height, width = level.shape[-2:]
        y, x = torch.meshgrid(
            (torch.arange(height, device=level.device) + 0.5) * stride,
            (torch.arange(width, device=level.device) + 0.5) * stride,
            indexing="ij",
        )
        centres.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        strides.append(torch.full((x.numel(),), float(stride), device=level.device))
    return torch.cat(centres), torch.cat(strides)


def _tower(channels: int, convs: int) -> nn.Sequential:
    """Group norm, since the statistics of the levels, which share the tower, differ."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        groups = max(g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0)
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(groups, channels), nn.ReLU()]
    return nn.Sequential(*layers)
