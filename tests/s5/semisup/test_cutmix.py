"""CutMix against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s5.seeds import Draws
from s5.semisup.cutmix import CutMixConfig, draw_boxes, partners_of, paste


def drawn(seed: int) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.integers(4, 40), st.integers(4, 40))
def test_each_image_has_one_box_of_the_asked_size(seed: int, height: int, width: int) -> None:
    boxes = draw_boxes(8, height, width, CutMixConfig(probability=1.0), drawn(seed))
    for box in boxes:
        rows, columns = box.any(1).nonzero()[:, 0], box.any(0).nonzero()[:, 0]
        h, w = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
        assert int(box.sum()) == h * w  # one full rectangle
        assert h * w <= 0.4 * height * width + height + width  # rounding of each side


def test_sizes_and_places_cover_their_range() -> None:
    boxes = draw_boxes(2000, 64, 64, CutMixConfig(probability=1.0), drawn(0))
    share = boxes.float().mean((1, 2))
    assert 0.015 < float(share.min()) < 0.04 and 0.35 < float(share.max()) <= 0.42
    assert float(share.mean()) == pytest.approx(0.21, abs=0.01)
    cover = boxes.float().mean(0)
    assert float(cover.min()) > 0
    assert float((cover - cover.flip(0)).abs().max()) < 0.06  # no side is preferred


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 800, 1200), (1.0, 2000, 2000)])
def test_share_of_images_that_are_mixed(probability: float, low: int, high: int) -> None:
    boxes = draw_boxes(2000, 16, 16, CutMixConfig(probability=probability), drawn(1))
    assert low <= int(boxes.any(2).any(1).sum()) <= high


@given(st.integers(2, 9))
def test_a_partner_is_another_image_and_each_is_used_once(batch: int) -> None:
    partners = partners_of(batch)
    assert sorted(partners.tolist()) == list(range(batch))
    assert all(p != i for i, p in enumerate(partners.tolist()))


def test_pairs_stay_together_in_parts_of_a_batch() -> None:
    whole = partners_of(12)
    for part in (2, 4, 6):
        for first in range(0, 12, part):
            assert torch.equal(partners_of(part) + first, whole[first : first + part])


def test_a_batch_of_one_has_only_itself() -> None:
    assert partners_of(1).tolist() == [0]


def test_paste_equals_a_loop_for_images_and_labels() -> None:
    images, labels = torch.rand(3, 2, 5, 6), torch.randint(0, 9, (3, 5, 6))
    boxes, partners = torch.rand(3, 5, 6) < 0.4, torch.tensor([1, 2, 0])
    mixed, mixed_labels = paste(images, boxes, partners), paste(labels, boxes, partners)
    for b in range(3):
        for y in range(5):
            for x in range(6):
                source = int(partners[b]) if boxes[b, y, x] else b
                assert torch.equal(mixed[b, :, y, x], images[source, :, y, x])
                assert mixed_labels[b, y, x] == labels[source, y, x]


@pytest.mark.parametrize("values", [{"probability": 2}, {"area": (0.5, 0.1)}, {"aspect": (0, 1)}])
def test_ranges(values) -> None:
    with pytest.raises(ValueError, match=r"cutmix\."):
        CutMixConfig(**values)
