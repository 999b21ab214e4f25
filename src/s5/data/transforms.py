"""Augmentation of whole batches on tensors, with parameters drawn for each image and masks moved along.

Raw bands are first scaled to about [0, 1] (`Normalizer.scale`), augmented there, and standardised last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from s5.seeds import Draws
from s5.types import BandStatistics


class Normalizer:
    """Raw band values to network inputs, and the two halves of the way: `scale` and `standardize`."""

    def __init__(self, statistics: BandStatistics, device: torch.device | str = "cpu") -> None:
        def column(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[None, :, None, None]

        self._low, self._range = column(statistics.low), column(statistics.high) - column(statistics.low)
        self._mean, self._std = column(statistics.mean), column(statistics.std)
        self._factor = 1 / (self._range * self._std)
        self._shift = -(self._low / self._range + self._mean) / self._std

    def scale(self, images: torch.Tensor) -> torch.Tensor:
        """Raw [B, C, H, W] to float32 around [0, 1]."""
        return (images.float() - self._low) / self._range

    def standardize(self, scaled: torch.Tensor) -> torch.Tensor:
        """Scaled [B, C, H, W] to zero mean and unit variance over the dataset."""
        return (scaled - self._mean) / self._std

    def ready(self, scaled: torch.Tensor) -> torch.Tensor:
        """Scaled [B, C, H, W] to what a network takes: standardised, channels last."""
        return self.standardize(scaled).contiguous(memory_format=torch.channels_last)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Raw [B, C, H, W] to what a network takes: `ready` of `scale`, in fewer steps."""
        # channels last only then: a factor for each band is applied three times as fast to whole planes
        images = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        images = images.mul_(self._factor).add_(self._shift)
        return images.clone(memory_format=torch.channels_last)


@dataclass(frozen=True)
class GeometryConfig:
    """The weak augmentation of S5 (scale, crop, rotation, flips).

    Args:
        crop: Side of the crop, in pixels.
        scale: Smallest and largest factor by which a tile is magnified.
        hflip, vflip: Probability of each flip.
        rotate90: Probability of a turn by 90, 180 or 270 degrees.
    """

    crop: int = 128
    scale: tuple[float, float] = (0.5, 2.0)
    hflip: float = 0.5
    vflip: float = 0.5
    rotate90: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        if not isinstance(self.crop, int) or self.crop < 1:
            raise ValueError(f"augmentation.crop: expected a positive number of pixels, got {self.crop!r}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augmentation.scale: expected [smallest, largest], both positive, got {self.scale!r}")
        for name in ("hflip", "vflip", "rotate90"):
            _check_probability(f"augmentation.{name}", getattr(self, name))


def augment_geometry(
    images: torch.Tensor,
    masks: torch.Tensor,
    valid: torch.Tensor,
    config: GeometryConfig,
    *,
    ignore_index: int,
    drawn: Draws,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale, crop, flip and turn each image of a batch, all in one resampling.

    Args:
        images: [B, C, H, W], raw or scaled: resampling commutes with scaling, and crops are cheaper to scale.
        masks: uint8 [B, H, W]; moved with nearest neighbour, `ignore_index` outside the tile.
        valid: bool [B, H, W]; False outside the tile.
        drawn: Of these images.

    Returns:
        Images float32 [B, C, crop, crop], masks int64 and valid bool [B, crop, crop].
    """
    return move_tiles(images, masks, valid, draw_grid(images, config, drawn), ignore_index=ignore_index)


def draw_grid(images: torch.Tensor, config: GeometryConfig, drawn: Draws) -> torch.Tensor:
    """Where each pixel of the crops lies in its tile of [B, C, H, W]: float32 [B, crop, crop, 2], (x, y) in [-1, 1]."""
    theta = _draw_affine(images.shape[0], images.shape[2], images.shape[3], config, drawn).to(images.device)
    return F.affine_grid(theta, [images.shape[0], 1, config.crop, config.crop], align_corners=False)


def move_tiles(
    images: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, grid: torch.Tensor, *, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The crops at a grid of `draw_grid`; arguments and returns as those of `augment_geometry`."""
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    # shifted so that grid_sample's zeros outside the tile mean "ignore" and "not valid"
    labels = torch.stack([masks.float() - ignore_index, valid.float()], dim=1)
    labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    inside = labels[:, 1] > 0.5
    moved_masks = (labels[:, 0] + ignore_index).round().long()
    return moved, torch.where(inside, moved_masks, ignore_index), inside


def move_maps(maps: torch.Tensor, grid: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Maps of tiles at a grid of `draw_grid`; outside the tile they are as at its edge.

    Maps as fine as the tile move as its mask does, with nearest neighbour: maps that equal the mask still do.
    Coarser ones are interpolated.

    Args:
        maps: uint8 [B, E, h, w] over the whole tile, 255 being 1.
        grid: [B, crop, crop, 2].
        tile: Height and width of the tile, in pixels.

    Returns:
        float32 [B, E, crop, crop] in [0, 1].
    """
    mode = "nearest" if tuple(maps.shape[2:]) == tuple(tile) else "bilinear"
    return F.grid_sample(maps.float(), grid, mode=mode, padding_mode="border", align_corners=False).div_(255)


def _draw_affine(batch: int, height: int, width: int, config: GeometryConfig, drawn: Draws) -> torch.Tensor:
    """[B, 2, 3] maps from the crop's [-1, 1] coordinates to the tile's."""
    draws = drawn.rand(batch, 8)
    scale = config.scale[0] + draws[:, 0] * (config.scale[1] - config.scale[0])
    share_y, share_x = config.crop / scale / height, config.crop / scale / width  # of the tile that the crop shows
    centre_y, centre_x = (2 * draws[:, 1] - 1) * (1 - share_y), (2 * draws[:, 2] - 1) * (1 - share_x)
    flip_x = torch.where(draws[:, 3] < config.hflip, -1.0, 1.0)
    flip_y = torch.where(draws[:, 4] < config.vflip, -1.0, 1.0)
    turns = torch.where(draws[:, 5] < config.rotate90, 1 + (draws[:, 6] * 3).long().clamp(max=2), 0)
    cos, sin = torch.tensor([1.0, 0.0, -1.0, 0.0])[turns], torch.tensor([0.0, 1.0, 0.0, -1.0])[turns]
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = share_x * cos * flip_x, -share_x * sin * flip_y, centre_x
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = share_y * sin * flip_x, share_y * cos * flip_y, centre_y
    return theta


@dataclass(frozen=True)
class PhotometryConfig:
    """The strong augmentation of S5 (papers: ColorJitter(.5, .5, .5, .25) p .8, grey p .2, blur p .5).

    Brightness, contrast and saturation are factors in [1 - x, 1 + x]; hue is a share of the colour circle.
    """

    jitter: float = 0.8
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    gray: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blur_sigma", tuple(self.blur_sigma))
        for name in ("jitter", "brightness", "contrast", "saturation", "gray", "blur"):
            _check_probability(f"strong.{name}", getattr(self, name))
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"strong.hue: expected a share of the colour circle in [0, 0.5], got {self.hue!r}")
        if len(self.blur_sigma) != 2 or not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"strong.blur_sigma: expected [smallest, largest] in pixels, got {self.blur_sigma!r}")


def augment_photometry(images: torch.Tensor, config: PhotometryConfig, drawn: Draws) -> torch.Tensor:
    """Colour jitter, grey and blur, each image with its own parameters.

    Brightness, contrast, saturation, hue (a rotation about the grey axis) and grey are linear in the bands, so they
    become one small matrix per image. Hue needs three bands and is left out for any other number.

    Args:
        images: Float [B, C, H, W] around [0, 1].
    """
    batch = len(images)
    matrix, offset = _draw_colour(images, config, drawn)
    images = torch.einsum("bij,bjhw->bihw", matrix, images) + offset[:, :, None, None]
    images = images.clamp(0.0, 1.0)
    draws = drawn.rand(batch, 2)
    sigma = config.blur_sigma[0] + draws[:, 0] * (config.blur_sigma[1] - config.blur_sigma[0])
    blurred = (draws[:, 1] < config.blur).nonzero()[:, 0]
    if len(blurred) == 0:
        return images
    where = blurred.to(images.device)
    return images.index_copy(0, where, gaussian_blur(images[where], sigma[blurred].to(images.device)))


def augment_some(images: torch.Tensor, config: PhotometryConfig, probability: float, drawn: Draws) -> torch.Tensor:
    """`augment_photometry` for each image with this probability; the others are left as they are."""
    if probability == 0:
        return images
    chosen = (drawn.rand(len(images), 1)[:, 0] < probability).to(images.device)
    return torch.where(chosen[:, None, None, None], augment_photometry(images, config, drawn), images)


def _draw_colour(images: torch.Tensor, config: PhotometryConfig, drawn: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """A [B, C, C] matrix and a [B, C] offset per image."""
    batch, bands = images.shape[:2]
    draws = drawn.rand(batch, 6)
    spans = torch.tensor([config.brightness, config.contrast, config.saturation])
    factors = 1 + (2 * draws[:, :3] - 1) * spans
    angle = (2 * draws[:, 3] - 1) * config.hue * 2 * math.pi
    on = draws[:, 4] < config.jitter
    factors = torch.where(on[:, None], factors, 1.0)
    angle = torch.where(on, angle, 0.0)
    saturation = torch.where(draws[:, 5] < config.gray, 0.0, factors[:, 2])
    grey = _grey_weights(bands)
    identity = torch.eye(bands)
    colour = saturation[:, None, None] * identity + (1 - saturation)[:, None, None] * grey.expand(bands, bands)
    if bands == 3:
        colour = colour @ _hue_rotation(angle)
    matrix = (colour * (factors[:, 0] * factors[:, 1])[:, None, None]).to(images.device)
    # contrast pulls towards the image's mean grey, as torchvision's adjust_contrast does
    mean_grey = images.mean(dim=(2, 3)) @ grey.to(images.device)
    offset = (1 - factors[:, 1]).to(images.device) * factors[:, 0].to(images.device) * mean_grey
    return matrix, offset[:, None].expand(batch, bands)


def _grey_weights(bands: int) -> torch.Tensor:
    """ITU-R 601 luma for three bands, the plain mean for any other number."""
    return torch.tensor([0.299, 0.587, 0.114]) if bands == 3 else torch.full((bands,), 1.0 / bands)


def _hue_rotation(angle: torch.Tensor) -> torch.Tensor:
    """[B, 3, 3] rotations by `angle` radians in the chroma plane of YIQ, which keep luma."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turn = torch.zeros(len(angle), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 2, 1], turn[:, 1, 2] = angle.sin(), -angle.sin()
    rotation: torch.Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return rotation


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image of [B, C, H, W] with its own sigma (pixels); the edge pixel is repeated outside.

    Written as two batched matrix products with a [H, H] and a [W, W] kernel per image, which is faster than a
    grouped convolution for tiles of some hundred pixels.
    """
    rows, columns = (_blur_matrix(size, sigma).to(images.dtype) for size in images.shape[2:])
    return torch.einsum("bij,bcjw,bvw->bciv", rows, images, columns)


def _blur_matrix(size: int, sigma: torch.Tensor) -> torch.Tensor:
    position = torch.arange(size, device=sigma.device)
    reach = min(size, 1 + math.ceil(4 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    source = (position[:, None] + offsets).clamp(0, size - 1)
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    index = source.expand(len(sigma), size, len(offsets))
    return matrix.scatter_add_(2, index, weights[:, None, :].expand_as(index).contiguous())


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a value in [0, 1], got {value!r}")
