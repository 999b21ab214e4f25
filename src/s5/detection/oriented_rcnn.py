"""Oriented R-CNN in plain PyTorch: proposals by midpoint offsets, then a head on their aligned features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from s5.detection.boxes import outer_boxes
from s5.detection.codes import (
    MIDPOINT_CODES,
    PROPOSAL_CODES,
    decode_deltas,
    decode_midpoints,
    encode_deltas,
    encode_midpoints,
)
from s5.detection.fpn import FeaturePyramid
from s5.detection.iou import rotated_iou_matrix
from s5.detection.matching import match, sample
from s5.detection.roi_align import pool_boxes
from s5.detection.targets import Targets
from s5.losses import Pool, alone

# As S5's release configures it (papers: 1.5), after Xie et al., ICCV 2021.
_RATIOS = (0.5, 1.0, 2.0)  # height to width of the anchors
_RPN_IOU = {"positive": 0.7, "negative": 0.3, "rescue": 0.3}
_RPN_SAMPLES, _RPN_SHARE = 256, 0.5
_RPN_NMS = 0.8
_ROI_IOU = {"positive": 0.5, "negative": 0.5}
_ROI_SAMPLES, _ROI_SHARE = 512, 0.25
_ROI_SIZE = 7


class OrientedRPN(nn.Module):
    """A 3 x 3 convolution, and for every anchor whether an object is there and its midpoint offsets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(_RATIOS), 1)
        self.offsets = nn.Conv2d(channels, len(_RATIOS) * MIDPOINT_CODES, 1)
        for layer in (self.conv, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level logits [B, A] and codes [B, A, 6] in float32; A counts locations row by row, ratios first."""
        logits, codes = [], []
        for level in levels:
            hidden = F.relu(self.conv(level))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float())
            offsets = self.offsets(hidden).permute(0, 2, 3, 1).float()
            codes.append(offsets.reshape(len(level), -1, MIDPOINT_CODES))
        return logits, codes


class BoxHead(nn.Module):
    """Two fully connected layers on the 7 x 7 features of a proposal; scores with a background, one box for all."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * _ROI_SIZE**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.scores = nn.Linear(hidden, classes + 1)
        self.boxes = nn.Linear(hidden, PROPOSAL_CODES)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.boxes.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K + 1], the background last, and codes [N, 5], in float32."""
        hidden = F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))
        return self.scores(hidden).float(), self.boxes(hidden).float()


class OrientedRCNNHead(nn.Module):
    """Oriented R-CNN (Xie et al., ICCV 2021) behind a pyramid neck: FPN, oriented RPN, rotated RoI align, box head.

    Args:
        in_channels: Of the neck's four maps.
        strides: Of these maps.
        hidden: Width of the box head.
        anchor_scale: Side of an anchor in strides of its level.
        proposals: Kept of each level before, and of an image after, suppression.
    """

    def __init__(
        self,
        in_channels: list[int],
        strides: tuple[int, ...],
        *,
        classes: int,
        channels: int,
        hidden: int,
        anchor_scale: float,
        proposals: int,
    ) -> None:
        super().__init__()
        self.strides = (*strides, 2 * strides[-1])
        self.anchor_scale, self.proposals, self.classes = anchor_scale, proposals, classes
        self.fpn = FeaturePyramid(in_channels, channels)
        self.rpn = OrientedRPN(channels)
        self.box_head = BoxHead(channels, hidden, classes)

    def forward(
        self, maps: list[Tensor], shape: tuple[int, int], targets: Targets | None = None, pool: Pool = alone
    ) -> dict[str, Tensor]:
        """As `s5.detection.detector.Head` says; the losses are those of both stages."""
        levels = self.fpn(maps)
        levels.append(F.max_pool2d(levels[-1], 1, 2))
        logits, codes = self.rpn(levels)
        anchors = [
            level_anchors(level, stride, self.anchor_scale) for level, stride in zip(levels, self.strides, strict=True)
        ]
        with torch.autocast(logits[0].device.type, enabled=False):
            found = self._propose(logits, codes, anchors)
        if targets is None:
            return self._classify(levels, found, shape)
        with torch.autocast(logits[0].device.type, enabled=False):
            first = self._rpn_loss(torch.cat(logits, 1), torch.cat(codes, 1), torch.cat(anchors), targets, pool)
        second = self._box_loss(levels, found, targets, pool)
        losses = {**first, **second}
        return {"loss": torch.stack(list(losses.values())).sum(), **{n: value.detach() for n, value in losses.items()}}

    @torch.no_grad()
    def _propose(self, logits: list[Tensor], codes: list[Tensor], anchors: list[Tensor]) -> list[Tensor]:
        """Of each image the proposals [P, 5], the best first; doubles go by the IoU of their upright boxes."""
        proposals = []
        for image in range(len(logits[0])):
            boxes, scores, level_of = [], [], []
            for level, (own_logits, own_codes, own_anchors) in enumerate(zip(logits, codes, anchors, strict=True)):
                best, place = own_logits[image].topk(min(self.proposals, len(own_anchors)))
                boxes.append(decode_midpoints(own_anchors[place], own_codes[image, place]))
                scores.append(best)
                level_of.append(torch.full_like(place, level))
            all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
            kept = batched_nms(outer_boxes(all_boxes), all_scores, torch.cat(level_of), _RPN_NMS)
            proposals.append(all_boxes[kept[: self.proposals]])
        return proposals

    def _rpn_loss(
        self, logits: Tensor, codes: Tensor, anchors: Tensor, targets: Targets, pool: Pool
    ) -> dict[str, Tensor]:
        score_loss, box_loss = logits.new_zeros(()), logits.new_zeros(())
        number = 0
        for image in range(len(logits)):
            positives, negatives, wanted = self._anchor_targets(anchors, targets, image)
            chosen = torch.cat([positives, negatives])
            truth = torch.zeros(len(chosen), device=chosen.device)
            truth[: len(positives)] = 1
            number += len(chosen)
            score_loss = score_loss + F.binary_cross_entropy_with_logits(logits[image, chosen], truth, reduction="sum")
            error = F.smooth_l1_loss(codes[image, positives], wanted, beta=1 / 9, reduction="sum")
            box_loss = box_loss + error
        count = pool(logits.new_tensor(float(number))).clamp(min=1)
        return {"rpn_score_loss": pool(score_loss) / count, "rpn_box_loss": pool(box_loss) / count}

    @torch.no_grad()
    def _anchor_targets(self, anchors: Tensor, targets: Targets, image: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places of the sampled positive and negative anchors of an image, and the codes of the positives."""
        boxes, _, ignored = targets.of_image(image)
        height, width = targets.valid.shape[-2:]
        inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] <= anchors.new_tensor([width, height]))).all(1)
        column, row = ((anchors[:, i] + anchors[:, i + 2]).div(2).long() for i in (0, 1))
        inside &= targets.valid[image, row.clamp(0, height - 1), column.clamp(0, width - 1)]
        usable = inside.nonzero()[:, 0]
        own = anchors[usable]
        kind, of = match(box_iou(own, outer_boxes(boxes)), box_iou(own, outer_boxes(ignored)), **_RPN_IOU)
        positives, negatives = sample(kind, _RPN_SAMPLES, _RPN_SHARE, targets.generator_of(image))
        wanted = encode_midpoints(own[positives], boxes[of[positives]])
        return usable[positives], usable[negatives], wanted

    def _box_loss(self, levels: list[Tensor], found: list[Tensor], targets: Targets, pool: Pool) -> dict[str, Tensor]:
        pooled, labels, wanted = [], [], []
        for image, proposals in enumerate(found):
            chosen, own_labels, own_wanted = self._proposal_targets(proposals, targets, image)
            pooled.append(self._pool(levels, image, chosen))
            labels.append(own_labels)
            wanted.append(own_wanted)
        logits, codes = self.box_head(torch.cat(pooled))
        with torch.autocast(logits.device.type, enabled=False):
            truth = torch.cat(labels)
            count = pool(logits.new_tensor(float(len(truth)))).clamp(min=1)
            score_loss = F.cross_entropy(logits, truth, reduction="sum")
            box_loss = F.smooth_l1_loss(codes[truth < self.classes], torch.cat(wanted), reduction="sum")
            return {"score_loss": pool(score_loss) / count, "box_loss": pool(box_loss) / count}

    @torch.no_grad()
    def _proposal_targets(self, proposals: Tensor, targets: Targets, image: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled proposals [R, 5], the objects themselves among them, their labels [R], and codes of the positives."""
        boxes, labels, ignored = targets.of_image(image)
        proposals = torch.cat([boxes, proposals])
        iou, on_ignored = (rotated_iou_matrix(proposals, others) for others in (boxes, ignored))
        kind, of = match(iou, on_ignored, **_ROI_IOU)
        positives, negatives = sample(kind, _ROI_SAMPLES, _ROI_SHARE, targets.generator_of(image))
        background = torch.full((len(negatives),), self.classes, device=proposals.device)
        own_labels = torch.cat([labels[of[positives]], background])
        wanted = encode_deltas(proposals[positives], boxes[of[positives]])
        return torch.cat([proposals[positives], proposals[negatives]]), own_labels, wanted

    def _classify(self, levels: list[Tensor], found: list[Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
        boxes, scores = [], []
        most = max(len(proposals) for proposals in found)
        for image, proposals in enumerate(found):
            logits, codes = self.box_head(self._pool(levels, image, proposals))
            own = decode_deltas(proposals, codes)
            within = (own[:, 0] < shape[1]) & (own[:, 1] < shape[0]) & torch.isfinite(own).all(1)
            own_scores = logits.softmax(1)[:, :-1] * within[:, None]
            boxes.append(F.pad(own, (0, 0, 0, most - len(own)), value=1.0))
            scores.append(F.pad(own_scores, (0, 0, 0, most - len(own))))
        return {"boxes": torch.stack(boxes), "scores": torch.stack(scores)}

    def _pool(self, levels: list[Tensor], image: int, boxes: Tensor) -> Tensor:
        read = [level[image].float() for level in levels[:-1]]
        return pool_boxes(read, self.strides[:-1], boxes, size=_ROI_SIZE)


def level_anchors(level: Tensor, stride: int, scale: float) -> Tensor:
    """Anchors [A, 4] (x1, y1, x2, y2) of a feature map [B, C, H, W], in pixels, in the order of `OrientedRPN`."""
    height, width = level.shape[-2:]
    ratios = torch.tensor(_RATIOS, device=level.device).sqrt()
    half = torch.stack([1 / ratios, ratios], dim=1) * (scale * stride / 2)  # width, height
    y, x = torch.meshgrid(
        torch.arange(height, device=level.device, dtype=torch.float32) * stride,
        torch.arange(width, device=level.device, dtype=torch.float32) * stride,
        indexing="ij",
    )
    centre = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
    return torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4)
