"""The detector: its locations, its loss on good and bad boxes, its augmentation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from s5.detection import create_detector, quad_iou, to_corners, to_le90
from s5.detection.assignment import assign, detection_loss
from s5.detection.augmentation import BoxGeometryConfig, augment_boxes, make_mosaics
from s5.detection.codes import decode_locations, log_sides
from s5.detection.fcos import locations
from s5.detection.targets import Targets
from s5.seeds import Draws

TINY = {"width": 16, "depth": 4, "heads": 2}


STRIDES = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def places():
    """Centres and strides of the locations of an image of 64 x 64 px."""
    return locations([torch.zeros(1, 1, 64 // s, 64 // s) for s in STRIDES], STRIDES)


def targets(boxes, labels, locations, valid=True):
    boxes, labels = torch.tensor(boxes).reshape(1, -1, 5), torch.tensor(labels, dtype=torch.int64)[None]
    return Targets(boxes, labels, torch.ones_like(labels, dtype=torch.bool), torch.full((1, locations), valid))


@pytest.mark.parametrize(
    ("encoder", "options", "size"),
    [("resnet10t", {}, (64, 64)), ("resnet10t", {}, (50, 71)), ("s5_vit", {**TINY, "image_size": 64}, (40, 70))],
)
def test_every_location_gives_scores_and_a_box(encoder, options, size) -> None:
    network = create_detector(encoder, classes=3, channels=8, head_convs=1, encoder_options=options)
    found = network({"objects": torch.zeros(2, 3, *size)})["objects"]
    sides = [-(-side // network.encoder.multiple) * network.encoder.multiple for side in size]
    number = sum(-(-sides[0] // stride) * -(-sides[1] // stride) for stride in STRIDES)
    assert found["boxes"].shape == (2, number, 5)
    assert found["scores"].shape == (2, number, 3)
    centres, strides = locations([torch.zeros(1, 1, 8, 6)], (4,))
    assert centres[0].tolist() == [2.0, 2.0] and centres[-1].tolist() == [22.0, 30.0] and strides.tolist() == [4] * 48
    with pytest.raises(ValueError, match="did you mean 'objects'"):
        network({"object": torch.zeros(1, 3, 32, 32)})


def test_the_right_codes_have_no_error(places) -> None:
    centres, strides = places
    box = to_le90(torch.tensor([[30.0, 29.0, 24.0, 9.0, 0.7]]))
    given = targets(box.tolist(), [1], len(centres))
    wanted, box_of, weight, _ = assign(centres, strides, given, 2)
    assert wanted[0, :, 0].max() == 0
    assert wanted[0, :, 1].max() == 1
    assert box_of.max() == 0
    assert (strides[weight[0] > 0] == 4).all()
    double = torch.tensor([math.cos(2 * 0.7), math.sin(2 * 0.7)])
    offset = (box[:, :2] - centres) / strides[:, None]
    codes = torch.cat([offset, log_sides(box.expand(len(centres), 5), strides), double.expand(len(centres), 2)], 1)
    assert torch.allclose(to_le90(decode_locations(codes, centres, strides)), box.expand(len(centres), 5), atol=1e-4)
    logits = torch.logit(wanted, eps=1e-6)
    losses = detection_loss(logits, codes[None], centres, strides, given)
    assert losses["loss"] < 1e-3
    worse = detection_loss(logits, codes[None] + torch.tensor([0.2, 0, 0, 0, 0, 0]), centres, strides, given)
    assert worse["box_loss"] > 0.1


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        ([], []),
        ([[30.0, 30, 0, 0, 0]], [0]),
        ([[30.0, 30, 20, 1e-9, 0.3]], [0]),
        ([[math.nan] * 5, [30, 30, 20, 8, 0.2]], [0, 1]),
        ([[math.inf, 0, 1, 1, 0]], [1]),
        ([[30.0, 30, 20, 8, 0.2]], [-1]),
        ([[-500.0, 900, 20, 8, 0.2], [30, 30, 1e9, 1e9, 0]], [0, 1]),
        ([[30.0, 30, 20, 8, 0.2]] * 5, [0, 1, 0, 1, -1]),
    ],
)
@pytest.mark.parametrize("valid", [True, False])
def test_a_loss_is_finite_whatever_the_boxes(places, boxes, labels, valid) -> None:
    centres, strides = places
    logits = (torch.randn(1, len(centres), 2) * 50).requires_grad_()
    codes = (torch.randn(1, len(centres), 6) * 50).requires_grad_()
    loss = detection_loss(logits, codes, centres, strides, targets(boxes, labels, len(centres), valid))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all() and torch.isfinite(codes.grad).all()
    assert loss == 0 if not valid else loss >= 0


def test_what_is_to_be_ignored_teaches_nothing(places) -> None:
    centres, strides = places
    logits = torch.zeros(1, len(centres), 2, requires_grad=True)
    codes = torch.zeros(1, len(centres), 6)
    detection_loss(logits, codes, centres, strides, targets([[32.0, 32, 40, 20, 0.5]], [-1], len(centres)))[
        "loss"
    ].backward()
    corners = to_corners(torch.tensor([[32.0, 32, 40, 20, 0.5]]))[0].numpy()
    from shapely import Point, Polygon

    inside = [Polygon(corners).buffer(-0.01).contains(Point(p)) for p in centres.tolist()]
    touched = (logits.grad[0] != 0).any(1).tolist()
    assert not any(t for t, within in zip(touched, inside, strict=True) if within)
    assert sum(touched) > len(touched) / 2


@pytest.mark.parametrize("seed", range(6))
def test_boxes_move_with_the_pixels(seed) -> None:
    """A box painted white is found again, by its mean and its spread, where the augmented box says."""
    box = torch.tensor([[48.0, 44.0, 26.0, 10.0, 0.4]])
    yy, xx = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    along = (xx - 48) * math.cos(0.4) + (yy - 44) * math.sin(0.4)
    across = (yy - 44) * math.cos(0.4) - (xx - 48) * math.sin(0.4)
    image = ((along.abs() <= 13) & (across.abs() <= 5)).float()[None, None]
    config = BoxGeometryConfig(crop=128, on_object=1.0)
    drawn = Draws(torch.Generator().manual_seed(seed))
    moved, _, boxes, labels = augment_boxes(
        image, torch.ones(1, 96, 96, dtype=torch.bool), [box], [torch.tensor([0])], config, magnify=1.6, drawn=drawn
    )
    assert labels[0].tolist() in ([0], [-1])
    if labels[0].item() == -1:
        pytest.skip("cut by the crop")
    rows, cols = np.nonzero(moved[0, 0].numpy() > 0.5)
    points = np.stack([cols, rows], 1) + 0.5
    pixels = np.zeros((128, 128), bool)
    pixels[rows, cols] = True
    found = boxes[0][0].double()
    if (to_corners(found) < 0).any() or (to_corners(found) > 128).any():
        pytest.skip("reaches over the rim")
    cov = np.cov(points.T)
    angle = 0.5 * math.atan2(2 * cov[0, 1], cov[0, 0] - cov[1, 1])
    seen = torch.tensor([*points.mean(0), *np.sqrt(12 * np.sort(np.linalg.eigvalsh(cov))[::-1]), angle])[None]
    assert quad_iou(to_corners(seen.double()), to_corners(found[None])).item() > 0.93


def test_an_unturned_crop_is_a_shift() -> None:
    still = {"hflip": 0.0, "vflip": 0.0, "rotate90": 0.0, "rotate": 0.0, "scale": (1.0, 1.0), "on_object": 0.0}
    image = torch.rand(1, 1, 32, 32)
    boxes, labels = [torch.tensor([[16.0, 12, 8, 4, 0.1]])], [torch.tensor([1])]
    out, _, moved, kept = augment_boxes(
        image, torch.ones(1, 32, 32, dtype=torch.bool), boxes, labels, BoxGeometryConfig(crop=32, **still),
        magnify=1.0, drawn=Draws(torch.Generator().manual_seed(0)),
    )  # fmt: skip
    assert torch.allclose(out, image, atol=1e-5)
    assert torch.allclose(moved[0], boxes[0], atol=1e-4) and kept[0].tolist() == [1]


@pytest.mark.parametrize(("key", "value"), [("crop", 0), ("scale", (2.0, 1.0)), ("rotate", 1.5), ("on_object", -1)])
def test_augmentation_out_of_range_is_named(key, value) -> None:
    with pytest.raises(ValueError, match=rf"augmentation\.{key}"):
        BoxGeometryConfig(**{key: value})


def test_a_mosaic_holds_a_quarter_of_each_of_four() -> None:
    size = 40
    box = torch.tensor([[20.0, 20, 16, 8, 0.0], [5, 5, 4, 4, 0.0], [35, 35, 4, 4, 0.0], [100, 100, 4, 4, 0.0]])
    quarters = [
        (
            torch.full((2, 1, size, size), float(value)),
            torch.full((2, size, size), value != 3),
            [box, box],
            [torch.tensor([value, value, value, value])] * 2,
        )
        for value in range(4)
    ]
    images, valid, boxes, labels = make_mosaics(
        quarters, 1.0, BoxGeometryConfig(crop=size), Draws(torch.Generator().manual_seed(3))
    )
    assert len({tuple((images[place, 0, :, 0] == 0).tolist()) for place in range(2)}) == 2  # each has its own middle
    for place in range(2):
        values = images[place, 0]
        row, col = int((values[:, 0] == 0).sum()), int((values[0] == 0).sum())
        assert 10 <= row <= 30 and 10 <= col <= 30
        expected = torch.zeros(size, size)
        expected[:row, col:], expected[row:, :col], expected[row:, col:] = 1.0, 2.0, 3.0
        assert torch.equal(values, expected)
        assert torch.equal(valid[place], expected != 3)
        found = [tuple(b) for b in torch.cat([boxes[place][:, :1], labels[place][:, None]], 1).tolist()]
        assert (5.0, 0.0) in found and (35.0, 3.0) in found and 100.0 not in [x for x, _ in found]
        assert (5.0, 3.0) not in found and (35.0, 0.0) not in found
        # of the bar in the middle every quarter shows some, and at most one of them enough
        middle = [label for x, label in found if x == 20.0]
        assert 1 <= len(middle) <= 4 and sum(label >= 0 for label in middle) <= 1
    same = make_mosaics(quarters, 0.0, BoxGeometryConfig(crop=size), Draws(torch.Generator().manual_seed(3)))
    assert torch.equal(same[0], quarters[0][0]) and torch.equal(same[2][0], box)
