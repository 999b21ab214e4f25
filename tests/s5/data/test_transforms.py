"""Augmentation against closed forms: what moves, moves together, and the identity changes nothing."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from s5.data.transforms import (
    GeometryConfig,
    Normalizer,
    PhotometryConfig,
    augment_geometry,
    augment_photometry,
    augment_some,
    gaussian_blur,
)
from s5.seeds import Draws, step_draws
from s5.types import BandStatistics


def tiles(batch: int = 4, size: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image that spells its mask: band values are the class over 10."""
    masks = torch.randint(0, 5, (batch, size // 8, size // 8), generator=torch.Generator().manual_seed(0))
    masks = masks.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    images = (masks.float() / 10)[:, None].expand(-1, 3, -1, -1).contiguous()
    return images, masks, torch.ones_like(masks, dtype=torch.bool)


def drawn(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def test_identity_geometry_changes_nothing() -> None:
    images, masks, valid = tiles()
    config = GeometryConfig(crop=32, scale=(1, 1), hflip=0, vflip=0, rotate90=0)
    out, out_masks, out_valid = augment_geometry(images, masks, valid, config, ignore_index=255, drawn=drawn())
    torch.testing.assert_close(out, images, atol=1e-5, rtol=0)
    assert torch.equal(out_masks, masks.long())
    assert out_valid.all()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hflip": 1.0, "vflip": 0.0, "rotate90": 0.0}, lambda m: {m.flip(-1)}),
        ({"hflip": 0.0, "vflip": 1.0, "rotate90": 0.0}, lambda m: {m.flip(-2)}),
        ({"hflip": 0.0, "vflip": 0.0, "rotate90": 1.0}, lambda m: {torch.rot90(m, k, (-2, -1)) for k in (1, 2, 3)}),
    ],
)
def test_flips_and_turns_are_exact(config, expected) -> None:
    images, masks, valid = tiles(batch=1)
    for seed in range(6):
        out, out_masks, _ = augment_geometry(
            images,
            masks,
            valid,
            GeometryConfig(crop=32, scale=(1, 1), **config),
            ignore_index=255,
            drawn=drawn(seed),
        )
        assert any(torch.equal(out_masks[0], e) for e in expected(masks[0].long()))
        torch.testing.assert_close(out[0, 0], out_masks[0] / 10, atol=1e-5, rtol=0)


def test_all_three_turns_are_drawn() -> None:
    images, masks, valid = tiles(batch=1)
    config = GeometryConfig(crop=32, scale=(1, 1), hflip=0, vflip=0, rotate90=1)
    seen = set()
    for seed in range(30):
        _, out, _ = augment_geometry(images, masks, valid, config, ignore_index=255, drawn=drawn(seed))
        seen |= {k for k in (1, 2, 3) if torch.equal(out[0], torch.rot90(masks[0].long(), k, (0, 1)))}
    assert seen == {1, 2, 3}


def test_mask_moves_with_image_under_any_augmentation() -> None:
    images, masks, valid = tiles(batch=16)
    config = GeometryConfig(crop=24, scale=(0.5, 2.0))
    out, out_masks, inside = augment_geometry(images, masks, valid, config, ignore_index=255, drawn=drawn(3))
    assert out.shape == (16, 3, 24, 24)
    assert ((out_masks == 255) == ~inside).all()
    # away from class boundaries the image must spell the mask
    flat = (out[:, 0] * 10 - out_masks).abs()[inside]
    assert (flat < 0.05).float().mean() > 0.7


def test_pixels_outside_a_small_tile_are_ignored() -> None:
    images, masks, valid = tiles(batch=8)
    config = GeometryConfig(crop=64, scale=(1, 1), rotate90=0, hflip=0, vflip=0)
    _, out_masks, inside = augment_geometry(images, masks, valid, config, ignore_index=9, drawn=drawn())
    assert (inside.sum((1, 2)) == 32 * 32).all()
    assert (out_masks[~inside] == 9).all()


def test_normalizer_closed_form() -> None:
    statistics = BandStatistics(("a", "b"), (0, 100), (255, 300), (0.5, 0.25), (0.1, 0.5))
    images = torch.tensor([[[[255.0]], [[200.0]]]])
    assert Normalizer(statistics)(images).flatten().tolist() == pytest.approx([5.0, 0.5])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalizer_leaves_raw_values_alone_and_gives_channels_last(dtype: torch.dtype) -> None:
    statistics = BandStatistics(("a", "b"), (0, 100), (255, 300), (0.5, 0.25), (0.1, 0.5))
    images = torch.randint(0, 255, (3, 2, 8, 6), generator=torch.Generator().manual_seed(0)).to(dtype)
    before, found = images.clone(), Normalizer(statistics)(images)
    assert torch.equal(images, before)
    assert found.is_contiguous(memory_format=torch.channels_last)
    raw = images.numpy().astype(np.float64)
    expected = np.stack([(raw[:, 0] / 255 - 0.5) / 0.1, ((raw[:, 1] - 100) / 200 - 0.25) / 0.5], axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_blur_equals_scipy() -> None:
    image = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.7, 1.9])
    blurred = gaussian_blur(image, sigma)
    for b in range(2):
        for c in range(3):
            oracle = gaussian_filter(image[b, c].numpy(), float(sigma[b]), mode="nearest", truncate=8 / sigma[b].item())
            np.testing.assert_allclose(blurred[b, c].numpy(), oracle, atol=1e-4)


def test_photometry_off_is_the_identity() -> None:
    image = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    off = PhotometryConfig(jitter=0, gray=0, blur=0)
    torch.testing.assert_close(augment_photometry(image, off, drawn()), image, atol=1e-6, rtol=0)
    assert augment_some(image, PhotometryConfig(), 0.0, drawn()) is image


def test_gray_makes_bands_equal_and_keeps_luma() -> None:
    image = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gray = augment_photometry(image, PhotometryConfig(jitter=0, gray=1, blur=0), drawn())
    luma = 0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2]
    for band in range(3):
        torch.testing.assert_close(gray[:, band], luma, atol=1e-5, rtol=0)


def test_hue_keeps_grey_pixels_and_luma() -> None:
    grey = torch.full((4, 3, 2, 2), 0.4)
    hue = PhotometryConfig(jitter=1, brightness=0, contrast=0, saturation=0, hue=0.5, gray=0, blur=0)
    torch.testing.assert_close(augment_photometry(grey, hue, drawn()), grey, atol=1e-3, rtol=0)


def test_brightness_is_a_factor_for_any_number_of_bands() -> None:
    image = torch.full((6, 5, 4, 4), 0.5)
    config = PhotometryConfig(jitter=1, brightness=0.5, contrast=0, saturation=0, hue=0, gray=0, blur=0)
    out = augment_photometry(image, config, drawn(1))
    factors = out[:, 0, 0, 0] / 0.5
    assert (factors >= 0.5).all() and (factors <= 1.5 + 1e-6).all() and factors.std() > 0
    assert torch.allclose(out, factors[:, None, None, None] * image, atol=1e-5)


def test_images_of_a_batch_get_their_own_parameters_and_a_seed_fixes_them() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1).contiguous()
    config = PhotometryConfig(jitter=1)
    first = augment_photometry(image, config, step_draws(7, "x", 3))
    again = augment_photometry(image, config, step_draws(7, "x", 3))
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: GeometryConfig(crop=0), "crop"),
        (lambda: GeometryConfig(scale=(2, 1)), "scale"),
        (lambda: GeometryConfig(hflip=1.5), "hflip"),
        (lambda: PhotometryConfig(blur=-0.1), "blur"),
        (lambda: PhotometryConfig(hue=0.7), "hue"),
        (lambda: PhotometryConfig(blur_sigma=(0, 1)), "blur_sigma"),
    ],
)
def test_out_of_range_is_named(make, word) -> None:
    with pytest.raises(ValueError, match=word):
        make()


def test_uniform_scale_reaches_both_ends() -> None:
    images, masks, valid = tiles(batch=64)
    config = GeometryConfig(crop=32, scale=(0.5, 0.5), hflip=0, vflip=0, rotate90=0)
    _, _, inside = augment_geometry(images, masks, valid, config, ignore_index=255, drawn=drawn())
    assert (inside.sum((1, 2)).float() - 16 * 16).abs().max() <= 2 * 16 + 1
    assert math.isclose(float(inside.float().mean()), 0.25, abs_tol=0.03)
