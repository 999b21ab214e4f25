"""Oriented R-CNN: its codes, its aligned features, its targets, its size, and that it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch
from torchvision.ops import roi_align

from s5.detection import (
    create_detector,
    create_multi_detector,
    rotated_iou_matrix,
    rotated_roi_align,
    to_corners,
    to_le90,
)
from s5.detection.boxes import outer_boxes
from s5.detection.codes import decode_deltas, decode_midpoints, encode_deltas, encode_midpoints
from s5.detection.matching import IGNORED, NEGATIVE, POSITIVE, match, sample
from s5.detection.oriented_rcnn import level_anchors
from s5.detection.roi_align import pool_boxes
from s5.detection.targets import Targets

TINY_VIT = {"width": 32, "depth": 4, "heads": 2}


def boxes_at_random(number: int, seed: int = 0) -> torch.Tensor:
    draws = torch.rand(number, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = torch.tensor([20.0, 20, 8, 4, -2]), torch.tensor([100.0, 100, 60, 30, 2])
    return to_le90(low + draws * (high - low))


def assert_same_boxes(first: torch.Tensor, second: torch.Tensor) -> None:
    """By shapely: the area that two boxes do not share is nothing."""
    for one, other in zip(to_corners(first).numpy(), to_corners(second).numpy(), strict=True):
        a, b = shapely.Polygon(one), shapely.Polygon(other)
        assert a.symmetric_difference(b).area < 2e-3 * a.area


def test_midpoint_offsets_come_back() -> None:
    boxes = boxes_at_random(200)
    anchors = outer_boxes(boxes_at_random(200, seed=1))
    assert_same_boxes(decode_midpoints(anchors, encode_midpoints(anchors, boxes)), boxes)


def test_midpoint_offsets_of_boxes_worked_out_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    upright = torch.tensor([[10.0, 6, 16, 8, 0]])
    # outer box 2..18 x 2..10: centre (10, 6) against (8, 8); the upper right corner is both vertices
    assert encode_midpoints(anchor, upright)[0].tolist() == pytest.approx([2 / 16, -2 / 16, 0, math.log(0.5), 1, 1])
    diamond = torch.tensor([[8.0, 8, 10, 10, math.pi / 4]])
    side = math.log(10 * math.sqrt(2) / 16)
    assert encode_midpoints(anchor, diamond)[0].tolist() == pytest.approx([0, 0, side, side, 0, 0], abs=1e-6)
    # a parallelogram of diagonals 16 and 8: the short one grows, and a square of the long one is left
    found = decode_midpoints(torch.tensor([[0.0, 0, 16, 8]]), torch.zeros(1, 6))
    assert found[0, :4].tolist() == pytest.approx([8, 4, 16 / math.sqrt(2), 16 / math.sqrt(2)])


def test_proposal_codes_come_back_by_the_smaller_turn() -> None:
    boxes, proposals = boxes_at_random(300), boxes_at_random(300, seed=2)
    codes = encode_deltas(proposals, boxes)
    assert (codes[:, 4].abs() * 0.1 <= math.pi / 4 + 1e-9).all()
    assert_same_boxes(decode_deltas(proposals, codes), boxes)
    moved = torch.tensor([[0.0, 0, 20, 10, math.pi / 2 - 1e-9]])
    wanted = torch.tensor([[0.0, 4, 20, 10, -math.pi / 2]])  # four pixels further along its long side
    assert encode_deltas(moved, wanted)[0].tolist() == pytest.approx([2, 0, 0, 0, 0], abs=1e-5)


@pytest.mark.parametrize("codes", [0.0, 50.0, -50.0, math.inf, math.nan])
def test_codes_of_any_size_give_boxes_that_do_not_stop_the_training(codes) -> None:
    values = torch.full((1, 6), codes)
    box = decode_midpoints(torch.tensor([[0.0, 0, 16, 16]]), values)
    assert box.shape == (1, 5)
    if math.isfinite(codes):
        assert torch.isfinite(box).all() and (box[:, 2:4] >= 0).all()
        assert torch.isfinite(decode_deltas(box, values[:, :5])).all()


@pytest.mark.parametrize(("stride", "box"), [(4, (37.0, 22, 30, 14)), (8, (3, 60, 40, 25)), (4, (62, 63, 33, 9))])
def test_an_upright_box_is_aligned_as_torchvision_does(stride, box) -> None:
    features = torch.randn(3, 16, 18, generator=torch.Generator().manual_seed(0))
    x, y, w, h = box
    rect = torch.tensor([[0.0, x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
    expected = roi_align(features[None], rect, 7, 1 / stride, sampling_ratio=2, aligned=True)
    found = rotated_roi_align(features, torch.tensor([[x, y, w, h, 0.0]]), stride)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_turned_box_reads_what_lies_under_it() -> None:
    """On a plane of features, the mean of a bin is the plane's value at the bin's centre: a closed form."""
    yy, xx = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    plane = (3 * xx - 2 * yy)[None] * 4  # in pixels of the image, at stride 4
    box = torch.tensor([[60.0, 66, 42, 21, 0.6]])
    found = rotated_roi_align(plane, box, 4)[0, 0]
    steps = (torch.arange(7) + 0.5) / 7 - 0.5
    along, across = steps[None] * 42, steps[:, None] * 21
    x = 60 + along * math.cos(0.6) - across * math.sin(0.6)
    y = 66 + along * math.sin(0.6) + across * math.cos(0.6)
    assert torch.allclose(found, 3 * x - 2 * y, atol=1e-3)


def test_boxes_are_read_from_the_level_of_their_area() -> None:
    levels = [torch.full((2, 64 // 2**i, 64 // 2**i), float(i)) for i in range(4)]
    boxes = torch.tensor([[128.0, 128, s, s, 0.3] for s in (4, 110, 113, 223, 225, 447, 449, 2000)])
    inner = pool_boxes(levels, (4, 8, 16, 32), boxes)[:, 0, 3, 3]
    assert inner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert pool_boxes(levels, (4, 8, 16, 32), boxes[:0]).shape == (0, 2, 7, 7)


def test_the_gradient_of_aligned_features_reaches_them() -> None:
    features = torch.zeros(1, 8, 8, requires_grad=True)
    rotated_roi_align(features, torch.tensor([[16.0, 16, 12, 6, 0.4]]), 4).sum().backward()
    assert features.grad is not None
    assert features.grad.sum() == pytest.approx(49, rel=1e-5)  # each bin's weights sum to one


def test_the_matrix_of_ious_is_that_of_shapely() -> None:
    first, second = boxes_at_random(30), boxes_at_random(20, seed=3)
    polygons = [[shapely.Polygon(c) for c in to_corners(boxes).numpy()] for boxes in (first, second)]
    expected = [[a.intersection(b).area / a.union(b).area for b in polygons[1]] for a in polygons[0]]
    assert np.allclose(rotated_iou_matrix(first, second).numpy(), expected, atol=1e-9)


def test_candidates_are_matched_as_worked_out_by_hand() -> None:
    iou = torch.tensor([[0.8, 0.1], [0.5, 0.2], [0.1, 0.35], [0.0, 0.1], [0.2, 0.0]])
    on_ignored = torch.tensor([[0.9], [0.0], [0.0], [0.0], [0.4]])
    kind, of = match(iou, on_ignored, positive=0.7, negative=0.3, rescue=0.3)
    assert kind.tolist() == [POSITIVE, IGNORED, POSITIVE, NEGATIVE, IGNORED]
    assert of[[0, 2]].tolist() == [0, 1]
    kind, _ = match(iou, on_ignored[:, :0], positive=0.7, negative=0.3)
    assert kind.tolist() == [POSITIVE, IGNORED, IGNORED, NEGATIVE, NEGATIVE]
    kind, _ = match(iou[:, :0], on_ignored, positive=0.5, negative=0.5)
    assert kind.tolist() == [IGNORED, NEGATIVE, NEGATIVE, NEGATIVE, NEGATIVE]


def test_samples_keep_to_their_share_and_come_again() -> None:
    kind = torch.tensor([POSITIVE] * 50 + [NEGATIVE] * 500 + [IGNORED] * 50)

    def drawn(seed):
        return sample(kind, 64, 0.25, torch.Generator().manual_seed(seed))

    positives, negatives = drawn(0)
    assert (len(positives), len(negatives)) == (16, 48)
    assert (kind[positives] == POSITIVE).all() and (kind[negatives] == NEGATIVE).all()
    assert torch.equal(drawn(0)[1], negatives) and not torch.equal(drawn(1)[1], negatives)
    few, rest = sample(kind[45:], 64, 0.25, torch.Generator())
    assert (len(few), len(rest)) == (5, 59)


def test_anchors_are_where_the_convolution_counts_them() -> None:
    anchors = level_anchors(torch.zeros(1, 1, 2, 3), 8, 4.0).reshape(2, 3, 3, 4)
    centre, size = (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:] - anchors[..., :2]
    assert centre[1, 2, 0].tolist() == pytest.approx([16, 8])
    assert torch.allclose(size.prod(-1), torch.tensor(32.0**2))
    assert (size[..., 1] / size[..., 0])[0, 0].tolist() == pytest.approx([0.5, 1, 2])


@pytest.mark.parametrize(("encoder", "millions"), [("s5_vit_b", 111.2), ("s5_vit_l", 334.6), ("s5_vit_h", 669.8)])
def test_the_papers_parameters_of_one_data_set(encoder, millions) -> None:
    with torch.device("meta"):
        model = create_detector(encoder, classes=20, head="oriented_rcnn", channels=256, image_size=512)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(("encoder", "millions"), [("s5_vit_b", 138.3), ("s5_vit_l", 377.8), ("s5_vit_h", 730.0)])
def test_the_papers_parameters_of_two_data_sets(encoder, millions) -> None:
    with torch.device("meta"):
        model = create_multi_detector(
            encoder, datasets={"dior_r": 20, "dota_v2": 18}, head="oriented_rcnn", channels=256, image_size=512
        )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def small(channels: int = 16, hidden: int = 32) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_detector(
        "resnet10t", classes=2, head="oriented_rcnn", channels=channels, hidden=hidden, proposals=100, anchor_scale=4.0
    )


BARS = torch.tensor([[30.0, 26, 24, 10, 0.5], [66, 60, 28, 12, -0.9], [28, 70, 26, 11, 1.3]])


def painted() -> tuple[torch.Tensor, Targets]:
    """Two images with bars of two brightnesses."""
    yy, xx = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    labels = torch.tensor([[0, 1, 0], [1, 0, 1]])
    images = torch.zeros(2, 3, 96, 96)
    for image, own in enumerate(labels):
        for (x, y, w, h, angle), label in zip(BARS.tolist(), own.tolist(), strict=True):
            along = (xx - x) * math.cos(angle) + (yy - y) * math.sin(angle)
            across = (yy - y) * math.cos(angle) - (xx - x) * math.sin(angle)
            images[image, :, (along.abs() <= w / 2) & (across.abs() <= h / 2)] = 2.0 - 4.0 * label
    valid = torch.ones(2, 96, 96, dtype=torch.bool)
    return images, Targets.of([BARS, BARS], list(labels), valid, seeds=[1, 2])


def test_losses_are_there_and_reach_every_weight() -> None:
    model, (images, targets) = small(), painted()
    losses = model.train()({"objects": images}, {"objects": targets})["objects"]
    assert set(losses) == {"loss", "rpn_score_loss", "rpn_box_loss", "score_loss", "box_loss"}
    assert losses["loss"].item() == pytest.approx(sum(v.item() for n, v in losses.items() if n != "loss"), rel=1e-5)
    losses["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    again = small().train()({"objects": images}, {"objects": targets})["objects"]
    assert again["loss"].item() == losses["loss"].item()


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        (torch.zeros(0, 5), []),
        (torch.tensor([[30.0, 30, 0, 0, 0]]), [0]),
        (torch.tensor([[math.nan] * 5, [30, 30, 20, 8, 0.2]]), [0, 1]),
        (torch.tensor([[math.inf, 0, 1, 1, 0]]), [1]),
        (torch.tensor([[30.0, 30, 30, 20, 0.2]]), [-1]),
        (torch.tensor([[-500.0, 900, 20, 8, 0.2], [30, 30, 1e6, 1e6, 0]]), [0, 1]),
        (torch.tensor([[30.0, 30, 20, 8, 0.2]] * 5), [0, 1, 0, 1, -1]),
    ],
)
@pytest.mark.parametrize("seen", [True, False])
def test_a_loss_is_finite_whatever_the_boxes(boxes, labels, seen) -> None:
    model = small().train()
    valid = torch.full((1, 64, 64), seen)
    targets = Targets.of([boxes], [torch.tensor(labels, dtype=torch.int64)], valid)
    loss = model({"objects": torch.randn(1, 3, 64, 64)}, {"objects": targets})["objects"]["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_what_is_found_has_scores_and_boxes_for_each_image() -> None:
    model = small().eval()
    with torch.inference_mode():
        found = model({"objects": torch.randn(2, 3, 70, 50)})["objects"]
    assert found["boxes"].shape[2] == 5 and found["scores"].shape[2] == 2
    assert found["boxes"].shape[:2] == found["scores"].shape[:2] and found["boxes"].shape[1] <= 100
    assert torch.isfinite(found["boxes"]).all()
    assert ((found["scores"] >= 0) & (found["scores"] <= 1)).all()


@pytest.mark.slow
def test_two_images_are_learnt_by_heart() -> None:
    from s5.detection import rotated_nms

    model, (images, targets) = small(32, 64), painted()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        loss = model.train()({"objects": images}, {"objects": targets})["objects"]["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.inference_mode():
        found = model.eval()({"objects": images})["objects"]
    for image in range(2):
        scores, labels = found["scores"][image].max(1)
        kept = rotated_nms(found["boxes"][image], scores, 0.1, labels)
        kept = kept[:3]  # the best first
        iou = rotated_iou_matrix(found["boxes"][image][kept], BARS)
        assert (scores[kept] > 0.5).all() and (iou.amax(0) > 0.6).all()
        assert labels[kept[iou.argmax(0)]].tolist() == targets.labels[image].tolist()


def test_experts_start_as_the_dense_encoder_and_part_as_copies_of_it() -> None:
    options = {"channels": 8, "encoder_options": {**TINY_VIT, "image_size": 64}}
    torch.manual_seed(0)
    dense = create_detector("s5_vit", classes=2, **options)
    joint = create_multi_detector("s5_vit", datasets={"a": 2, "b": 3}, part_features=8, **options).eval()
    joint.start_encoder_from(dense.encoder)
    x = torch.randn(1, 3, 64, 64)
    expected = dense.encoder(x)
    for position in (0, 1):
        for one, other in zip(joint.encoder(x, position), expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    with torch.no_grad():
        for parameter in joint.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    for name in ("a", "b"):
        alone, whole = joint.for_dataset(name)({name: x})[name], joint({name: x})[name]
        assert torch.allclose(alone["scores"], whole["scores"], atol=1e-5)
        assert torch.allclose(alone["boxes"], whole["boxes"], atol=1e-3)
    with pytest.raises(ValueError, match="part_features: only S5's encoders"):
        create_multi_detector("resnet10t", datasets={"a": 2, "b": 3})
    with pytest.raises(ValueError, match="head: expected one of rotated_fcos, oriented_rcnn, got 'yolo'"):
        create_detector("resnet10t", classes=2, head="yolo")
